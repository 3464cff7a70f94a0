"""Conditional SMC: its Markov kernel on two states and two times, exactly; and against a Gaussian on longer series."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from uqsparse.inference import Density, StateSpaceModel, conditional_smc
from uqsparse.inference.conditional_smc import choose_path, conditional_step
from uqsparse.inference.filter_settings import check_filter
from uqsparse.inference.filter_steps import Row, start_population

F = Fraction
FIRST = [F(1, 4), F(3, 4)]
MOVES = [[F(1, 2), F(1, 2)], [F(1, 4), F(3, 4)]]
EMITS = [[F(1, 4), F(3, 4)], [F(3, 4), F(1, 4)]]  # column y
Y = (0, 1)
PATHS = list(itertools.product((0, 1), repeat=2))


def floats(table):
    return jnp.asarray(np.array(table, float))


def two_states():
    return StateSpaceModel(
        initial=lambda p, u: dist.Categorical(floats(FIRST)),
        transition=lambda p, x, u: dist.Categorical(floats(MOVES)[x]),
        observation=lambda p, x, u: dist.Categorical(floats(EMITS)[x]),
    )


def midpoints(cells):
    """Midpoints of a grid of [0, 1), each of the same probability, if all breakpoints are multiples of 1/cells."""
    return (np.arange(cells) + 0.5) / cells


@pytest.mark.parametrize("ancestor_sampling", [True, False])
def test_the_kernel_leaves_the_smoothing_distribution_invariant_exactly(ancestor_sampling):
    """All randomness of two particles enumerated: pi K = pi to rounding. The production steps are run, fed with
    explicit uniforms; every probability in play is a multiple of one over the number of cells."""
    # W f(pinned) is in {1/4, 3/4} x {1/2, 1/2, 1/4, 3/4}: shares with denominators 2, 4, 3, 5, 7, 10.
    shares = {
        F(a * x, a * x + b * z).denominator
        for a in (EMITS[0][0], EMITS[1][0])
        for b in (EMITS[0][0], EMITS[1][0])
        for i, j in itertools.product((0, 1), repeat=2)
        for x in (MOVES[0][i], MOVES[1][i])
        for z in (MOVES[0][i], MOVES[1][i])
    }
    cells = int(np.lcm.reduce([int(s) for s in shares])) if ancestor_sampling else 1
    settings = check_filter(2, "multinomial", 1)
    model = two_states()

    def run(pinned, start, parent, free, move, end):
        def both(u):
            return [jnp.stack([jnp.zeros(()), u])]  # the source of the pinned particle is not used

        rows = [Row(jnp.asarray(y), None, None) for y in Y]
        first, origin = start_population(model, None, rows[0], settings, both(start), pinned[0])
        last, step = conditional_step(
            model, None, first, pinned[1], rows[1], settings, ancestor_sampling, jnp.stack([parent, free]), both(move)
        )
        states = jnp.stack([first.states, last.states])
        return choose_path(last.weights, states, jnp.stack([origin.ancestors, step.ancestors]), end[None])[0]

    with jax.enable_x64(True):
        grid = np.meshgrid(*(midpoints(n) for n in (4, cells, 4, 4, 4)), indexing="ij")
        randomness = [jnp.asarray(u.ravel()) for u in grid]
        every = jax.jit(jax.vmap(run, (None, 0, 0, 0, 0, 0)))
        kernel = np.zeros((4, 4))
        for i, path in enumerate(PATHS):
            ends = np.asarray(every(jnp.asarray(path), *randomness))
            kernel[i] = [(ends == other).all(1).mean() for other in PATHS]
    joint = np.array([float(FIRST[a] * EMITS[a][Y[0]] * MOVES[a][b] * EMITS[b][Y[1]]) for a, b in PATHS])
    posterior = joint / joint.sum()
    np.testing.assert_allclose(posterior @ kernel, posterior, atol=1e-12)
    assert np.all(kernel > 0)  # every path can be reached


PHI, NOISE, T = 0.9, 0.5, 10


@functools.cache  # one object: what is compiled for it is used again
def autoregression():
    return StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(PHI * x, 1.0),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )


def smoothing_law(y):
    response = np.array([[PHI ** (i - j) if i >= j else 0.0 for j in range(T)] for i in range(T)])
    states = response @ response.T
    seen = ~np.isnan(y)
    gain = states[:, seen] @ np.linalg.inv(states[np.ix_(seen, seen)] + NOISE**2 * np.eye(seen.sum()))
    return gain @ y[seen], states - gain @ states[seen]


@pytest.mark.parametrize("ancestor_sampling", [True, False])
def test_exact_draws_stay_exact_draws(ancestor_sampling):
    """Paths drawn from the smoothing distribution, one step each with 5 particles: means, variances and neighbouring
    covariances of 8000 within 5 standard errors (30 numbers; false-alarm rate 2e-5)."""
    y = np.random.default_rng(0).normal(size=T) * 1.5
    y[4] = np.nan
    mean, covariance = smoothing_law(y)
    paths = np.random.default_rng(1).multivariate_normal(mean, covariance, size=8000)

    def step(key, path):
        options = {"n_particles": 5, "ancestor_sampling": ancestor_sampling, "missing": "skip"}
        return conditional_smc(key, autoregression(), path, y, **options)

    result = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), 8000), jnp.asarray(paths))
    new = np.asarray(result.path) - mean
    sds = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(new.mean(0)) < 5 * sds / np.sqrt(8000))
    assert np.all(np.abs((new**2).mean(0) / sds**2 - 1) < 5 * np.sqrt(2 / 8000))
    pairs = (new[:, 1:] * new[:, :-1]).mean(0) - np.diag(covariance, 1)
    assert np.all(np.abs(pairs) < 5 * 1.5 * (sds[1:] * sds[:-1]) / np.sqrt(8000))
    kept = ~np.asarray(result.renewed)
    np.testing.assert_allclose(np.asarray(result.path)[kept], paths[kept], rtol=1e-5)


def test_ancestor_sampling_renews_early_times():
    y = np.random.default_rng(0).normal(size=200)

    def renewed(ancestor_sampling):
        path = jnp.zeros(200)
        counts = np.zeros(200)
        for i in range(20):
            result = conditional_smc(
                jax.random.key(i), autoregression(), path, y, n_particles=10, ancestor_sampling=ancestor_sampling
            )
            path, counts = result.path, counts + np.asarray(result.renewed)
        return counts[:50].mean() / 20

    assert renewed(True) > 0.5
    assert renewed(False) < 0.2


def test_bad_arguments_are_named():
    y = np.zeros(T)
    with pytest.raises(ValueError, match="reference has a leaf of shape"):
        conditional_smc(jax.random.key(0), autoregression(), jnp.zeros(T - 1), y)
    with pytest.raises(ValueError, match="n_particles"):
        conditional_smc(jax.random.key(0), autoregression(), jnp.zeros(T), y, n_particles=1)
    sampler_only = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: Density(lambda key: x + jax.random.normal(key)),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )
    with pytest.raises(ValueError, match="no log_prob"):
        conditional_smc(jax.random.key(0), sampler_only, jnp.zeros(T), y)
    conditional_smc(jax.random.key(0), sampler_only, jnp.zeros(T), y, ancestor_sampling=False)
    counts = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 0.1),
        observation=lambda p, x, u: dist.Poisson(jnp.exp(x)),
    )
    with pytest.raises(ValueError, match="all weights are zero at t = 1"):
        conditional_smc(jax.random.key(0), counts, jnp.zeros(2), np.array([1, -1]))
