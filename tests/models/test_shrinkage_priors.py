"""Shrinkage priors have the densities and the sparsity that their papers give them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy import stats

from uqsparse.models.shrinkage_priors import horseshoe_global_scale, laplace, regularised_horseshoe


def _trace(values, *args, **kwargs):
    model = handlers.substitute(handlers.seed(regularised_horseshoe, 0), values)
    return handlers.trace(model).get_trace(*args, **kwargs)


def test_laplace_is_the_lasso_penalty():
    n, penalty, b = 400, 0.01, jnp.array([[0.3, -0.1], [0.0, 0.2]])
    model = handlers.substitute(handlers.seed(laplace, 0), {"b": b})
    site = handlers.trace(model).get_trace("b", (2, 2), 1 / (n * penalty))["b"]
    found = float(site["fn"].log_prob(b))
    assert found == pytest.approx(stats.laplace(scale=1 / (n * penalty)).logpdf(np.asarray(b)).sum(), rel=1e-5)
    assert found == pytest.approx(4 * math.log(n * penalty / 2) - n * penalty * 0.6, rel=1e-5)


def test_horseshoe_coefficients_follow_their_formula():
    values = {
        "b_z": jnp.array([1.5, -0.5, 1.0]),
        "b_global": jnp.array(0.2),
        "b_local": jnp.array([0.7, 30.0, 1e20]),
        "b_slab": jnp.array(1.44),
    }
    trace = _trace(values, "b", (3,), global_scale=0.1, slab_scale=1.5, slab_df=5.0)
    tau, local, c2 = 0.2, np.array([0.7, 30.0, 1e20]), 1.44
    shrunk = np.sqrt(c2 * local**2 / (c2 + tau**2 * local**2))  # equation 2.8
    np.testing.assert_allclose(trace["b"]["value"], np.array([1.5, -0.5, 1.0]) * tau * shrunk, rtol=1e-5)
    expected = {
        "b_z": stats.norm().logpdf([1.5, -0.5, 1.0]).sum(),
        "b_global": stats.halfcauchy(scale=0.1).logpdf(0.2),
        "b_slab": stats.invgamma(2.5, scale=2.5 * 1.5**2).logpdf(1.44),
    }
    for name, value in expected.items():
        assert float(trace[name]["fn"].log_prob(trace[name]["value"])) == pytest.approx(value, rel=1e-5)
    assert "b_slab" not in _trace(values, "b", (3,), global_scale=0.1, slab_df=math.inf)


def test_global_scale_gives_the_number_of_coefficients_that_was_asked_for():
    n_coefs, n_nonzero, n, noise = 40, 6.0, 100, 2.0
    tau = horseshoe_global_scale(n_coefs, n_nonzero, n, noise)
    draw = jax.jit(jax.vmap(lambda key: _local(key, n_coefs)))
    local = np.asarray(draw(jax.random.split(jax.random.key(0), 5000)), dtype=np.float64)
    # Share of each coefficient that the data, not the prior, decide: 1 - kappa, equation 2.4 of the paper.
    precision = n * tau**2 * local**2 / noise**2
    matter = (precision / (1 + precision)).sum(axis=1)
    error = matter.std() / math.sqrt(len(matter))
    assert error < 0.05
    assert abs(matter.mean() - n_nonzero) < 4.9 * error  # false alarms: 1e-6


def _local(key, n_coefs):
    trace = handlers.trace(handlers.seed(regularised_horseshoe, key)).get_trace("b", (n_coefs,), global_scale=0.1)
    return trace["b_local"]["value"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 10), "at least 1"),
        ((10, 0, 10), "strictly between 0 and n_coefs = 10"),
        ((10, 10, 10), "strictly between 0 and n_coefs = 10"),
        ((10, 3, 10, -1.0), "noise_scale must be positive"),
    ],
)
def test_bad_sparsity_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        horseshoe_global_scale(*arguments)


@pytest.mark.parametrize("argument", ["global_scale", "slab_scale", "slab_df"])
def test_scales_must_be_positive(argument):
    with pytest.raises(ValueError, match=f"{argument} must be positive, got 0"):
        regularised_horseshoe("b", (2,), **{"global_scale": 1.0, argument: 0.0})
