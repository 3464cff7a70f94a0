"""Bayesian optimisation: expected improvement against SciPy, and searches whose every step can be checked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from uqsparse.models.neural_processes.bayesian_optimisation import (
    log_expected_improvement,
    minimise,
    minimise_known,
    surrogate,
)
from uqsparse.models.neural_processes.cnp import CNP

SMALL = {"width": 8, "encoder_depth": 1, "decoder_depth": 2}
GRID = np.linspace(-2, 2, 30)[:, None].astype(np.float32)


def test_log_improvement_is_accurate_far_below_underflow():
    """phi(z) + z Phi(z) = phi(z) (1 + z R(z)), R the Mills ratio from SciPy's erfcx in double precision."""
    z = np.array([-200.0, -40.0, -12.0, -8.001, -7.999, -6.0, -2.0, 0.0, 1.0, 6.0, 30.0])
    mills = np.sqrt(np.pi / 2) * special.erfcx(-np.minimum(z, 5) / np.sqrt(2))
    below = stats.norm.logpdf(z) + np.log1p(np.minimum(z, 5) * mills)
    exact = np.where(z > 5, np.log(np.maximum(z, 5) * stats.norm.cdf(np.maximum(z, 5)) + stats.norm.pdf(z)), below)
    np.testing.assert_allclose(log_expected_improvement(-z, 1.0, 0.0), exact, rtol=2e-4, atol=2e-5)


def test_improvement_is_the_integral_it_is_named_after():
    mean, scale, best = 0.3, 0.7, -0.2
    exact = integrate.quad(lambda y: (best - y) * stats.norm.pdf(y, mean, scale), -10, best)[0]
    assert float(log_expected_improvement(mean, scale, best)) == pytest.approx(np.log(exact), abs=1e-5)
    # Scaling everything by 10 multiplies the improvement by 10.
    scaled = float(log_expected_improvement(10 * mean, 10 * scale, 10 * best))
    assert scaled == pytest.approx(np.log(10 * exact), abs=1e-5)


def gaussian_process(x, y, mask, candidates, key):
    """Mean and deviation of a Gaussian process of length 0.4, as one component; plain linear algebra."""
    covariance = lambda a, b: jnp.exp(-0.5 * ((a - b.T) / 0.4) ** 2)  # noqa: E731
    known = covariance(x, x) * jnp.outer(mask, mask) + jnp.diag(jnp.where(mask, 1e-4, 1.0))
    cross = covariance(candidates, x) * mask
    weights = jnp.linalg.solve(known, cross.T)
    mean = weights.T @ jnp.where(mask, y[:, 0], 0.0)
    return mean[None], jnp.sqrt(jnp.maximum(1 - (cross * weights.T).sum(1), 1e-6))[None]


def objective(x):
    return float(np.sin(3 * x[0]) + 0.3 * x[0])


def test_every_step_takes_the_largest_improvement_and_nothing_twice():
    found = minimise(jax.random.key(0), gaussian_process, objective, GRID, 9, n_start=2)
    assert found.x.shape == (11, 1)
    assert len(set(found.rows)) == 11
    np.testing.assert_array_equal(found.x, GRID[found.rows])
    np.testing.assert_allclose(found.y, [objective(x) for x in found.x], rtol=1e-6)
    np.testing.assert_array_equal(found.lowest, np.minimum.accumulate(found.y))
    for step in range(9):
        seen = 2 + step
        x, y = found.x[:seen].astype(float), found.y[:seen]
        # The same Gaussian process in double precision, without masks.
        K = np.exp(-0.5 * ((x - x.T) / 0.4) ** 2) + 1e-4 * np.eye(seen)
        k = np.exp(-0.5 * ((GRID - x.T) / 0.4) ** 2)
        mean, variance = k @ np.linalg.solve(K, y), 1 - (k * np.linalg.solve(K, k.T).T).sum(1)
        sd = np.sqrt(np.maximum(variance, 1e-6))
        z = (y.min() - mean) / sd
        gain = sd * (stats.norm.pdf(z) + z * stats.norm.cdf(z))
        gain[found.rows[:seen]] = -1
        assert gain[found.rows[seen]] >= gain.max() * 0.98 - 1e-6
        if gain.max() > 1e-3:
            assert found.log_improvement[step] == pytest.approx(np.log(gain[found.rows[seen]]), abs=0.05)
    assert found.best_y == pytest.approx(min(objective(x) for x in GRID), abs=1e-6)
    assert objective(found.best_x) == pytest.approx(found.best_y)


def test_known_functions_give_the_search_of_the_host():
    values = np.array([[objective(x) for x in GRID], [-objective(x) for x in GRID]])
    lowest = minimise_known(jax.random.key(5), gaussian_process, GRID, values, 6)
    assert lowest.shape == (2, 7)
    keys = jax.random.split(jax.random.key(5), 2)
    for i in range(2):
        table = dict(zip(GRID[:, 0].tolist(), values[i], strict=True))
        one = minimise(keys[i], gaussian_process, lambda x, table=table: table[float(x[0])], GRID, 6)
        np.testing.assert_allclose(lowest[i], one.lowest, rtol=1e-5)


def test_a_mixture_improves_by_the_mean_of_its_components():
    """Two components that differ: the choice is that of the mean improvement, not of the mean prediction."""

    def two(x, y, mask, candidates, key):
        one = jnp.where(candidates[:, 0] == GRID[3, 0], -5.0, 0.0)  # one of two believes in a deep hole
        return jnp.stack([one, jnp.full_like(one, 6.0)]), jnp.full((2, len(candidates)), 0.01)

    found = minimise(jax.random.key(0), two, lambda x: 1.0, GRID, 1)
    assert found.rows[0] == 3 or found.rows[1] == 3
    assert found.rows[0] == 3 or found.log_improvement[0] == pytest.approx(np.log(6.0 / 2), abs=1e-4)


def test_a_neural_process_can_be_searched_with():
    model = CNP(1, 1, **SMALL, key=jax.random.key(0))
    predict = surrogate(model, 3)
    found = minimise(jax.random.key(0), predict, objective, GRID, 2)
    assert np.isfinite(found.log_improvement).all()
    assert len(found.y) == 3
    assert np.isfinite(minimise_known(jax.random.key(0), predict, GRID, np.zeros((1, 30)), 2)).all()
    mean, scale = eqx.filter_jit(predict)(GRID[:3], np.zeros((3, 1)), np.zeros(3, bool), GRID, jax.random.key(0))
    assert mean.shape == scale.shape
    assert mean.shape[1] == 30
    assert np.isfinite(mean).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"candidates": np.zeros(5)}, "candidates must have shape"),
        ({"candidates": np.full((5, 1), np.nan)}, "candidates must be finite"),
        ({"candidates": np.zeros((2, 1))}, "candidates must be at least"),
        ({"n_steps": 0}, "n_steps"),
        ({"n_start": 0}, "n_start"),
        ({"objective": lambda x: float("nan")}, "objective must return a finite number"),
    ],
)
def test_bad_searches_are_refused(changed, message):
    given = {"objective": objective, "candidates": GRID, "n_steps": 2} | changed
    with pytest.raises(ValueError, match=message):
        minimise(jax.random.key(0), gaussian_process, **given)


def test_bad_known_values_are_refused():
    bad = (np.zeros(30), "shape"), (np.zeros((1, 29)), "shape"), (np.full((1, 30), np.inf), "finite")
    for values, message in bad:
        with pytest.raises(ValueError, match=message):
            minimise_known(jax.random.key(0), gaussian_process, GRID, values, 2)
    with pytest.raises(ValueError, match="n_samples"):
        surrogate(CNP(1, 1, **SMALL, key=jax.random.key(0)), 0)
    with pytest.raises(ValueError, match="one output"):
        surrogate(CNP(1, 2, **SMALL, key=jax.random.key(0)))
