"""Resampling against exact counts and brute force over the uniforms."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels import (
    conditional_effective_sample_size,
    effective_sample_size,
    multinomial,
    residual,
    stratified,
    systematic,
)

SCHEMES = [multinomial, stratified, systematic, residual]
M, N = 5, 7  # one shape for all properties, so that each scheme compiles once
JITTED = {scheme: jax.jit(scheme, static_argnums=2) for scheme in SCHEMES}

integer_weights = st.lists(st.integers(0, 9), min_size=M, max_size=M).filter(any)
# The end points on purpose, and the largest number below one.
unit = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, float(np.nextafter(1, 0))]))


def resample(scheme, weights, uniforms):
    """Ancestors in double precision; systematic takes the first uniform only."""
    with jax.enable_x64(True):
        u = uniforms[0] if scheme is systematic else uniforms
        return np.asarray(JITTED[scheme](jnp.asarray(weights, float), jnp.asarray(u, float), N))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=integer_weights, uniforms=st.lists(unit, min_size=N, max_size=N))
def test_no_particle_of_zero_weight_is_picked(scheme, weights, uniforms):
    ancestors = resample(scheme, weights, uniforms)
    assert ancestors.shape == (N,)
    assert np.all((ancestors >= 0) & (ancestors < M))
    assert np.all(np.asarray(weights)[ancestors] > 0)


@pytest.mark.parametrize("scheme", [systematic, residual, stratified])
@given(weights=integer_weights, uniforms=st.lists(unit, min_size=N, max_size=N))
def test_counts_stay_within_their_guarantee(scheme, weights, uniforms):
    counts = np.bincount(resample(scheme, weights, uniforms), minlength=M)
    expected = [Fraction(N * w, sum(weights)) for w in weights]
    for count, mean in zip(counts, expected, strict=True):
        if scheme is systematic:
            assert mean - 1 <= count <= mean + 1  # not strict: i + u may round up to i + 1
        elif scheme is residual:
            assert count >= mean // 1
        else:
            assert mean - 2 <= count <= mean + 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mean_counts_are_exact(scheme):
    """Average over all cells of the uniforms: midpoints of a grid whose lines contain every breakpoint."""
    weights = np.array([0, 3, 1, 0, 8])
    cells = 24 * N  # breakpoints are multiples of 1/12, of 1/24 for the left-overs, and strata of 1/N
    midpoints = (np.arange(cells) + 0.5) / cells
    expected = N * weights / 12
    if scheme is systematic:
        counts = sum(np.bincount(resample(scheme, weights, [u]), minlength=M) for u in midpoints) / cells
    else:
        # Positions are independent, so it is enough to average each over its own cells with the others anywhere.
        runs = [resample(scheme, weights, np.full(N, u)) for u in midpoints]
        counts = sum(np.bincount(run, minlength=M) for run in runs) / cells
    np.testing.assert_allclose(counts, expected, rtol=1e-12)


def test_multinomial_inverts_the_distribution_function():
    weights = np.random.default_rng(0).random(M)
    uniforms = np.random.default_rng(1).random(N)
    expected = [next(i for i, c in enumerate(np.cumsum(weights) / weights.sum()) if c > u) for u in uniforms]
    np.testing.assert_array_equal(resample(multinomial, weights, uniforms), expected)


def test_many_particles_in_single_precision_stay_in_range():
    """The cumulative sum of 2e5 float32 weights does not end at one; positions near one must not run off."""
    n = 200_000
    weights = jnp.ones(n, jnp.float32).at[-3:].set(0)
    ancestors = systematic(weights, jnp.float32(0.9999999), n)
    assert int(ancestors.max()) == n - 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrong_number_of_uniforms_is_refused(scheme):
    with pytest.raises(ValueError, match="uniforms has shape"):
        scheme(jnp.ones(3), jnp.zeros(2), 3)


@given(weights=integer_weights, scale=st.floats(1e-300, 1e300))
def test_effective_sample_size_is_exact_and_scale_free(weights, scale):
    exact = Fraction(sum(weights)) ** 2 / sum(Fraction(w) ** 2 for w in weights)
    with jax.enable_x64(True):
        value = float(effective_sample_size(jnp.asarray(weights, float) * scale))
    assert value == pytest.approx(float(exact), rel=1e-12)


def test_effective_sample_size_of_nothing_is_zero():
    assert float(effective_sample_size(jnp.zeros(3))) == 0


@given(
    weights=integer_weights,
    increments=st.lists(st.integers(0, 5), min_size=M, max_size=M),
    shift=st.floats(-500, 500),
)
def test_conditional_effective_sample_size_is_exact(weights, increments, shift):
    first = sum(w * g for w, g in zip(weights, increments, strict=True))
    second = sum(w * g * g for w, g in zip(weights, increments, strict=True))
    exact = Fraction(M * first**2, sum(weights) * second) if second else Fraction(0)
    with jax.enable_x64(True):
        log_increments = jnp.log(jnp.asarray(increments, float)) + shift
        value = float(conditional_effective_sample_size(jnp.asarray(weights, float), log_increments))
    assert value == pytest.approx(float(exact), rel=1e-10)
