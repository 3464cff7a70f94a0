"""Channel capacities against closed forms and a general optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import rel_entr, softmax

from uqsparse.kernels.blahut_arimoto import blahut_arimoto


def mutual_information(weights, channel):
    """In bits."""
    return float(weights @ rel_entr(channel, weights @ channel).sum(1)) / np.log(2)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def test_closed_forms():
    flip = 0.1
    symmetric = jnp.array([[1 - flip, flip], [flip, 1 - flip]])
    found = blahut_arimoto(symmetric)
    entropy = -(flip * np.log2(flip) + (1 - flip) * np.log2(1 - flip))
    assert float(found.lower) == pytest.approx(1 - entropy, abs=1e-9)
    # the Z channel of half noise has capacity log2(5/4)
    found = blahut_arimoto(jnp.array([[1.0, 0.0], [0.5, 0.5]]), tolerance=1e-9)
    assert float(found.lower) == pytest.approx(np.log2(1.25), abs=1e-8)
    assert bool(found.converged)
    # erasures
    found = blahut_arimoto(jnp.array([[0.7, 0.0, 0.3], [0.0, 0.7, 0.3]]))
    assert float(found.upper) == pytest.approx(0.7, abs=1e-6)


def test_agrees_with_a_general_optimiser():
    rng = np.random.default_rng(1)
    channel = rng.dirichlet(np.full(3, 0.5), size=4)
    best = min(
        (minimize(lambda a: -mutual_information(softmax(a), channel), rng.normal(size=4)) for _ in range(3)),
        key=lambda one: one.fun,
    )
    found = blahut_arimoto(jnp.asarray(channel), tolerance=1e-8, max_iter=20000)
    assert float(found.lower) <= float(found.upper)
    # its weights never reach 0, so the optimiser stays a little below
    assert -best.fun - 1e-9 <= float(found.upper)
    assert float(found.lower) == pytest.approx(-best.fun, abs=1e-5)
    assert mutual_information(np.asarray(found.weights), channel) == pytest.approx(float(found.lower), abs=1e-7)


def test_rows_that_are_not_allowed_change_nothing():
    channel = np.array([[0.9, 0.1], [0.2, 0.8], [0.0, 1.0]])
    found = blahut_arimoto(jnp.asarray(channel), jnp.array([True, True, False]))
    alone = blahut_arimoto(jnp.asarray(channel[:2]))
    assert float(found.lower) == pytest.approx(float(alone.lower), abs=1e-12)
    assert float(found.weights[2]) == 0
    none = blahut_arimoto(jnp.asarray(channel), jnp.zeros(3, bool))
    assert (float(none.lower), float(none.upper)) == (0, 0)


def test_bounds_hold_when_stopped_early():
    channel = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(3), size=5))
    exact = blahut_arimoto(channel, tolerance=1e-9, max_iter=20000)
    early = blahut_arimoto(channel, max_iter=1)
    assert float(early.lower) <= float(exact.lower) + 1e-12
    assert float(early.upper) >= float(exact.upper) - 1e-12
    assert not bool(early.converged)
    assert int(early.n_iter) == 1
