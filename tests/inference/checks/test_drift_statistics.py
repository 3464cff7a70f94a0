"""Statistics for the drift test: their names, their bounds, and that scales come from the pilot sample alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.drift_statistics import fit_test_functions


def fit(theta, y, statistics=None, log_likelihood=None):
    with jax.enable_x64(True):
        return fit_test_functions(statistics, log_likelihood, theta, y)


def pilot(n_y=2, location=0.0, scale=1.0):
    rng = np.random.default_rng(0)
    return {"a": location + scale * rng.normal(size=1000), "k": rng.integers(0, 2, 1000)}, rng.normal(size=(1000, n_y))


def test_defaults_are_numbers_squares_and_products():
    tests, names = fit(*pilot())
    assert names == (
        "theta['a']",
        "theta['k']",
        "theta['a'] squared",
        "theta['k'] squared",
        "theta['a'] times y[0]",
        "theta['a'] times y[1]",
        "theta['k'] times y[0]",
        "theta['k'] times y[1]",
    )
    with jax.enable_x64(True):
        values = np.array(tests({"a": jnp.float64(0.3), "k": jnp.int32(1)}, jnp.array([0.5, -1.0])))
    assert values.shape == (8,)
    assert (np.abs(values) <= 0.5).all()
    # A number between its outer deciles is between -tanh(1) / 2 and tanh(1) / 2, and a coin is at one of them.
    assert 0 < values[0] < 0.5 * math.tanh(1)
    assert values[1] == pytest.approx(0.5 * math.tanh(1))
    assert values[4] * values[5] < 0


def test_values_however_large_stay_within_their_bounds():
    tests, _ = fit(*pilot())
    with jax.enable_x64(True):
        for size in (1e6, 1e100):
            values = np.array(tests({"a": jnp.asarray(-size), "k": jnp.asarray(1)}, jnp.full(2, size)))
            assert (np.abs(values) <= 0.5).all()


def test_units_do_not_matter():
    """Squares are of standardised numbers, so that a spread far from zero is seen as well."""
    with jax.enable_x64(True):
        results = []
        for location, scale in ((0.0, 1.0), (1e4, 0.01)):
            theta, y = pilot(location=location, scale=scale)
            tests, _ = fit(theta, y)
            results.append(np.array(tests({"a": jnp.asarray(location + 1.3 * scale), "k": jnp.asarray(0)}, y[0])))
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_long_data_are_summed_up():
    theta, y = pilot(n_y=50)
    tests, names = fit(theta, y)
    assert len(names) == 4 + 2 * 8
    assert "theta['a'] times the sum of y" in names
    with jax.enable_x64(True):
        one = {"a": jnp.asarray(1.0), "k": jnp.asarray(1)}
        changed = np.array(tests(one, y[0])) != np.array(tests(one, y[0] + np.eye(50)[7]))
    # Every number in y is in every one of the sums.
    np.testing.assert_array_equal(changed, [False] * 4 + [True] * 16)


def test_what_is_missing_in_the_data_is_passed_over():
    theta, y = pilot()
    y[::3, 1] = np.nan
    tests, _ = fit(theta, y)
    with jax.enable_x64(True):
        assert np.isfinite(np.array(tests({"a": jnp.asarray(1.0), "k": jnp.asarray(1)}, y[0]))).all()


def test_functions_of_the_user_are_named():
    def spread(theta, y):
        return {"low": y.min(), "high": y.max()}

    theta, y = pilot()
    _, names = fit(theta, y, [spread, lambda theta, y: theta["a"]], lambda theta, y: theta["a"])
    assert names == ("spread['high']", "spread['low']", "statistic 1", "log likelihood")
    _, names = fit(theta, y, {"a": lambda theta, y: theta["a"]})
    assert names == ("a",)


def test_a_number_that_never_varies_does_no_harm():
    theta, y = pilot()
    tests, _ = fit({**theta, "k": np.zeros(1000)}, y)
    with jax.enable_x64(True):
        assert np.isfinite(np.array(tests({"a": jnp.asarray(1.0), "k": jnp.asarray(0.0)}, y[0]))).all()
