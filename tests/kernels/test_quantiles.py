"""Weighted quantiles against NumPy's inverse of the empirical distribution function."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels import weighted_quantile

JITTED = jax.jit(weighted_quantile)
PROBABILITIES = np.array([0.03, 0.31, 0.5, 0.77, 0.999])

values = st.lists(st.integers(-5, 5), min_size=7, max_size=7)
weights = st.lists(st.integers(0, 4), min_size=7, max_size=7).filter(any)


@given(values=values, weights=weights)
def test_it_is_numpys_quantile_of_repeated_values(values, weights):
    repeated = np.repeat(values, weights)
    with jax.enable_x64(True):
        found = JITTED(jnp.asarray(values, float), jnp.asarray(weights, float), jnp.asarray(PROBABILITIES))
    expected = np.quantile(repeated, PROBABILITIES, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)


def test_weights_need_no_common_scale():
    values, weights = jnp.array([3.0, 1.0, 2.0]), jnp.array([0.2, 0.5, 0.3])
    for scale in (1e-30, 1.0, 1e30):
        assert weighted_quantile(values, scale * weights, jnp.array([0.6, 0.9])).tolist() == [2.0, 3.0]
