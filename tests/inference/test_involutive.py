"""Kernels from involutions: the law they should keep, drawn exactly, must not drift; and models against closed forms.

Drift tests: draws z from the target, one step, and the mean of f(z') - f(z) over 40 000 pairs within 5.5 standard
errors for each of k statistics; false-alarm rate k * 4e-8 a test.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from uqsparse.inference.involutive import (
    Jump,
    JumpAuxiliary,
    JumpState,
    Model,
    involutive,
    random_walk,
    reversible_jump,
)
from uqsparse.inference.jacobians import jacobian, log_abs_det
from uqsparse.inference.populations import Density

N = 40_000


def drift(kernel, x, statistics):
    """z-scores of the mean change of each statistic in one step from draws x of the target."""
    keys = jax.random.split(jax.random.key(17), N)
    new, info = jax.jit(jax.vmap(kernel))(keys, x)
    changes = np.asarray(jax.vmap(statistics)(new) - jax.vmap(statistics)(x), float)
    error = changes.std(axis=0, ddof=1) / np.sqrt(N)
    return np.abs(changes.mean(axis=0) / np.where(error > 0, error, 1.0)).max(), info


# A correlated Gaussian in two dimensions, and its leapfrog.
SPREAD = np.array([[1.0, 0.0], [0.8, 0.6]])
PRECISION = np.linalg.inv(SPREAD @ SPREAD.T)


def gaussian(x):
    return -0.5 * x @ PRECISION @ x


def leapfrog_flip(x, v, size=0.5, n=3):
    for _ in range(n):
        v = v - 0.5 * size * PRECISION @ x
        x = x + size * v
        v = v - 0.5 * size * PRECISION @ x
    return x, -v


def gaussian_statistics(x):
    return jnp.stack([jnp.tanh(x[0]), jnp.abs(x[1]), gaussian(x), jnp.cos(x[0] * x[1])])


@pytest.mark.parametrize("name", ["random walk", "leapfrog and flip"])
def test_walks_and_leapfrog_keep_a_gaussian(name):
    f = {"random walk": lambda x, v: (x + v, -v), "leapfrog and flip": leapfrog_flip}[name]
    kernel = involutive(f, gaussian, lambda x: dist.Normal(jnp.zeros(2), 1.0))
    x = jax.random.normal(jax.random.key(0), (N, 2)) @ SPREAD.T
    z, info = drift(kernel, x, gaussian_statistics)
    assert z < 5.5
    assert 0.2 < float(info.accepted.mean()) < 0.999
    np.testing.assert_allclose(info.log_det, 0.0, atol=1e-5)


def log_gamma(x):
    return jnp.where(x > 0, 2 * jnp.log(jnp.abs(x)) - x, -jnp.inf)


def scale_walk(**options):
    return involutive(lambda x, v: (x * jnp.exp(v), -v), log_gamma, lambda x: dist.Normal(0.0, 1.0), **options)


def test_a_walk_in_scale_needs_its_jacobian():
    """With the automatic one a gamma law stays; without it, or with its sign wrong, the test sees the drift."""
    x = jax.random.gamma(jax.random.key(0), 3.0, (N,))

    def statistics(x):
        return jnp.stack([jnp.tanh(x - 3), jnp.log1p(x)])

    assert drift(scale_walk(), x, statistics)[0] < 5.5
    assert drift(scale_walk(log_det=lambda x, v: v), x, statistics)[0] < 5.5  # by hand, the same
    assert drift(scale_walk(log_det=lambda x, v: jnp.zeros(())), x, statistics)[0] > 8
    assert drift(scale_walk(log_det=lambda x, v: -v), x, statistics)[0] > 8


def test_auxiliary_densities_that_depend_on_x_count():
    """A proposal whose spread depends on x; the planted bug takes q(v | x) for q(v' | x')."""
    x = jax.random.normal(jax.random.key(0), (N,))

    def spread(x):
        return dist.Normal(0.0, 0.3 + jnp.abs(x))

    def forgetful(x):
        return Density(spread(x).sample, lambda v: jnp.zeros(()))

    def statistics(x):
        return jnp.stack([jnp.tanh(x), jnp.abs(x), x**2])

    def kernel(auxiliary):
        return involutive(lambda x, v: (x + v, -v), lambda x: -0.5 * x**2, auxiliary)

    assert drift(kernel(spread), x, statistics)[0] < 5.5
    assert drift(kernel(forgetful), x, statistics)[0] > 8


def test_pytrees_with_labels():
    """A state with a sign as label, flipped by an auxiliary coin: labels are held fixed in the Jacobian."""

    def f(x, v):
        flipped = jnp.where(v["coin"], -x["sign"], x["sign"])
        return {"sign": flipped, "size": x["size"] * jnp.exp(v["step"])}, {"coin": v["coin"], "step": -v["step"]}

    def log_target(x):
        return log_gamma(x["size"]) + jnp.where(x["sign"] > 0, jnp.log(0.8), jnp.log(0.2))

    def auxiliary(x):
        return {"coin": dist.Bernoulli(0.5), "step": dist.Normal(0.0, 0.5)}

    signs = jnp.where(jax.random.bernoulli(jax.random.key(1), 0.8, (N,)), 1, -1)
    x = {"sign": signs, "size": jax.random.gamma(jax.random.key(0), 3.0, (N,))}

    def statistics(x):
        return jnp.stack([x["sign"] * 1.0, jnp.tanh(x["size"] - 3), x["sign"] * jnp.tanh(x["size"])])

    z, info = drift(involutive(f, log_target, auxiliary), x, statistics)
    assert z < 5.5
    assert info.proposal["sign"].dtype == signs.dtype


def test_nan_is_reported_and_density_zero_is_left():
    def log_target(x):
        return jnp.where(x > 2, jnp.nan, jnp.where(x > 0, -x, -jnp.inf))

    kernel = jax.jit(involutive(lambda x, v: (x + v, -v), log_target, lambda x: dist.Uniform(-4.0, 4.0)))
    keys = jax.random.split(jax.random.key(0), 2000)
    x, info = jax.vmap(kernel, (0, None))(keys, jnp.asarray(1.0))
    assert bool(jnp.all(info.has_nan == (info.proposal > 2)))
    assert bool(jnp.all((x > 0) & (x <= 2)))
    assert not bool(jnp.any(jnp.isnan(info.acceptance)))
    x, info = jax.vmap(kernel, (0, None))(keys, jnp.asarray(-1.0))
    good = (info.proposal > 0) & (info.proposal <= 2)
    assert bool(jnp.all(info.accepted == good))


def test_jacobian_of_a_nonlinear_map_against_numpy():
    def f(x, v):
        return {"a": jnp.sin(x["a"]) * v, "k": x["k"]}, v + x["a"] ** 2 * x["k"]

    x, v = {"a": jnp.array([0.3, 1.2]), "k": jnp.array(3)}, jnp.array([0.7, -0.4])
    a, v = np.array([0.3, 1.2]), np.array([0.7, -0.4])
    expected = np.block([[np.diag(np.cos(a) * v), np.diag(np.sin(a))], [np.diag(2 * a * 3), np.eye(2)]])
    found, log_det = jax.jit(lambda x, v: (jacobian(f, x, v), log_abs_det(f, x, v)))(x, jnp.asarray(v))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(log_det, np.log(abs(np.linalg.det(expected))), rtol=1e-5)


def test_padding_does_not_count():
    """One mean becomes two: with the padding overwritten by zeros, the Jacobian of what counts is that of (a, u)."""

    def f(x, v):
        one, (a, b) = x["k"] == 0, x["mean"]
        mean = jnp.where(one, jnp.stack([a + v, a - v]), jnp.stack([(a + b) / 2, 0.0]))
        return {"k": 1 - x["k"], "mean": mean}, jnp.where(one, 0.0, (a - b) / 2)

    def active(x, v):
        return {"k": True, "mean": jnp.arange(2) <= x["k"]}, x["k"] == 0

    @jax.jit
    def log_dets(x, v):
        return log_abs_det(f, x, v, active), log_abs_det(f, *f(x, v), active), log_abs_det(f, x, v)

    found = log_dets({"k": jnp.array(0), "mean": jnp.array([0.4, 0.0])}, jnp.array(0.2))
    np.testing.assert_allclose(found, [np.log(2), -np.log(2), -np.inf], rtol=1e-6)


# One mean or two: y has 4 observations of variance 1, every mean a standard normal prior. Everything is conjugate.
Y = np.array([0.3, 1.2, -0.4, 0.9])
PRIOR = np.array([0.7, 0.3])


def one_mean(x):
    return dist.Normal(0, 1).log_prob(x[0]) + dist.Normal(x[0], 1).log_prob(Y).sum() + np.log(PRIOR[0])


def two_means(x):
    return (
        dist.Normal(0, 1).log_prob(x).sum() + dist.Normal(x[jnp.arange(4) // 2], 1).log_prob(Y).sum() + np.log(PRIOR[1])
    )


MODELS = [Model(1, one_mean), Model(2, two_means)]
SPLIT = Jump(
    0,
    1,
    auxiliary=lambda x: dist.Normal(0.0, 0.7),
    forward=lambda x, u: jnp.stack([x[0] + u, x[0] - u]),
    inverse=lambda x: (jnp.mean(x, keepdims=True), (x[0] - x[1]) / 2),
    probability=0.6,
    reverse_probability=0.3,
)


@functools.cache
def exact():
    """Posterior probability of two means, and exact draws from the posterior over both models."""
    blocks = np.kron(np.eye(2), np.ones((2, 2)))
    evidence = np.array([multivariate_normal(np.zeros(4), np.eye(4) + c).pdf(Y) for c in (np.ones((4, 4)), blocks)])
    probability = (PRIOR * evidence)[1] / (PRIOR @ evidence)
    rng = np.random.default_rng(0)
    model = (rng.random(N) < probability).astype(np.int32)
    first = Y.sum() / 5 + rng.normal(size=N) / np.sqrt(5)
    halves = np.array([Y[:2].sum(), Y[2:].sum()]) / 3 + rng.normal(size=(N, 2)) / np.sqrt(3)
    position = np.where(model[:, None] == 0, np.stack([first, np.zeros(N)], axis=1), halves)
    return probability, JumpState(jnp.asarray(model), jnp.asarray(position, jnp.float32))


def model_statistics(state):
    two = state.model * 1.0
    a, b = state.position
    return jnp.stack([two, jnp.tanh(a), two * jnp.tanh(a - b), two * jnp.tanh(a + b), (1 - two) * jnp.abs(a)])


def test_reversible_jump_keeps_the_posterior_over_models():
    kernel = reversible_jump(MODELS, [SPLIT, random_walk(0, 1, 0.5, 0.4), random_walk(1, 2, 0.5, 0.4)])
    z, info = drift(kernel, exact()[1], model_statistics)
    assert z < 5.5
    jumps = np.asarray(info.auxiliary.move == 0)
    np.testing.assert_allclose(np.abs(info.log_det[jumps]), np.log(2), rtol=1e-5)
    np.testing.assert_allclose(info.log_det[~jumps], 0.0, atol=1e-6)
    # The chance that is left over in model 1 is to stay: 0.3, within 6 standard errors.
    two = np.asarray(exact()[1].model == 1)
    stays = np.asarray(info.auxiliary.move == 3)
    assert not stays[~two].any()
    assert abs(stays[two].mean() - 0.3) < 6 * np.sqrt(0.21 / two.sum())
    one = np.asarray(info.proposal.model == 0)
    assert np.all(np.asarray(info.proposal.position)[one, 1] == 0)  # padding stays zero


@pytest.mark.parametrize("bug", ["no Jacobian", "Jacobian inverted", "move probabilities ignored", "q(u) dropped"])
def test_planted_bugs_drift(bug):
    kernel = reversible_jump(MODELS, [SPLIT])
    if bug == "no Jacobian":
        kernel = dataclasses.replace(kernel, log_det=lambda x, v: jnp.zeros(()))
    elif bug == "Jacobian inverted":
        kernel = dataclasses.replace(kernel, log_det=lambda x, v, right=kernel.log_det: -right(x, v))
    else:
        right = kernel.auxiliary

        def wrong(x):
            def log_prob(v):
                chance = jnp.log(jnp.where(x.model == 0, 0.6, 0.3))
                return right(x).log_prob(v) - chance if bug == "move probabilities ignored" else chance

            return Density(right(x).sample, log_prob)

        kernel = dataclasses.replace(kernel, auxiliary=wrong)
    assert drift(kernel, exact()[1], model_statistics)[0] > 8


def test_share_of_time_in_a_model_is_its_probability():
    """64 chains of 1500 steps from their exact law; the mean share within 5.5 standard errors over chains (4e-8)."""
    kernel = reversible_jump(MODELS, [SPLIT, random_walk(0, 1, 0.5, 0.4), random_walk(1, 2, 0.5, 0.4)])
    probability, states = exact()

    def run(key, state):
        def step(state, key):
            state, _ = kernel(key, state)
            return state, state.model

        return jnp.mean(jax.lax.scan(step, state, jax.random.split(key, 1500))[1] * 1.0)

    start = jax.tree.map(lambda leaf: leaf[:64], states)
    shares = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(5), 64), start))
    error = shares.std(ddof=1) / 8
    assert error < 0.01
    assert abs(shares.mean() - probability) < 5.5 * error


def test_an_affine_jump_needs_no_inverse():
    kernels = [reversible_jump(MODELS, [one]) for one in (SPLIT, dataclasses.replace(SPLIT, inverse=None))]
    merge = (
        JumpState(jnp.array(1), jnp.array([0.3, -0.8])),
        JumpAuxiliary(jnp.array(0), jnp.zeros(1), jnp.zeros(0, int)),
    )
    found = [jax.jit(lambda x, v, kernel=kernel: (kernel.f(x, v), kernel.log_det(x, v)))(*merge) for kernel in kernels]
    given, solved = (jax.tree.leaves(one) for one in found)
    for a, b in zip(given, solved, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    curved = dataclasses.replace(SPLIT, inverse=None, forward=lambda x, u: jnp.stack([x[0], u**3]))
    with pytest.raises(ValueError, match="not affine"):
        reversible_jump(MODELS, [curved])


# Birth at a random place and death of a random entry: labels in u and in u'. Entries are independent, but not alike.
WEIGHTS = np.array([0.35, 0.65])


def pair(x):
    return dist.Normal(0, 1).log_prob(x[0]) + dist.Normal(1, 0.5).log_prob(x[1]) + np.log(WEIGHTS[1])


BIRTH = Jump(
    0,
    1,
    auxiliary=lambda x: {"at": dist.Categorical(jnp.array([0.3, 0.7])), "value": dist.Normal(0.5, 1.0)},
    forward=lambda x, u: (
        jnp.where(u["at"] == 0, jnp.stack([u["value"], x[0]]), jnp.stack([x[0], u["value"]])),
        u["at"],
    ),
    inverse=lambda x, at: (x[1 - at][None], {"at": at, "value": x[at]}),
    reverse_auxiliary=lambda x: dist.Bernoulli(0.2),
    probability=0.5,
)


def test_labels_in_both_directions():
    models = [Model(1, lambda x: dist.Normal(2, 1).log_prob(x[0]) + np.log(WEIGHTS[0])), Model(2, pair)]
    kernel = reversible_jump(models, [BIRTH])
    rng = np.random.default_rng(1)
    model = (rng.random(N) < WEIGHTS[1]).astype(np.int32)
    alone = np.stack([2 + rng.normal(size=N), np.zeros(N)], axis=1)
    both = np.stack([rng.normal(size=N), 1 + 0.5 * rng.normal(size=N)], axis=1)
    x = JumpState(jnp.asarray(model), jnp.asarray(np.where(model[:, None] == 0, alone, both), jnp.float32))
    assert drift(kernel, x, model_statistics)[0] < 5.5


@functools.cache
def linear_jump(dim, n_new):
    """A compiled look at a jump by a matrix: log determinants there and back, and where one lands in the end."""
    models = [Model(dim, lambda x: -0.5 * jnp.sum(x**2)), Model(dim + n_new, lambda x: -0.5 * jnp.sum(x**2))]

    @jax.jit
    def look(matrix, position, u):
        def back(x):
            point = jnp.linalg.solve(matrix, x)
            return point[:dim], point[dim:]

        def law(x):
            return dist.Normal(jnp.zeros(n_new), 1.0)

        kernel = reversible_jump(models, [Jump(0, 1, law, lambda x, u: matrix @ jnp.concatenate([x, u]), back)])
        z = kernel.start(0, position), JumpAuxiliary(jnp.array(0), u, jnp.zeros(0, jnp.int32))
        image = kernel.f(*z)
        return kernel.log_det(*z), kernel.log_det(*image), kernel.f(*image)

    return look


@given(st.integers(0, 10_000), st.sampled_from([(0, 1), (2, 1)]))
def test_the_jacobian_of_a_linear_jump_is_its_determinant(seed, sizes):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(sum(sizes), sum(sizes))) + 3 * np.eye(sum(sizes))
    position, u = rng.normal(size=sizes[0]), rng.normal(size=sizes[1])
    with jax.enable_x64(True):
        ahead, back, (state, v) = linear_jump(*sizes)(matrix, position, u)
    expected = np.log(abs(np.linalg.det(matrix)))
    assert float(ahead) == pytest.approx(expected, abs=1e-8)
    assert float(back) == pytest.approx(-expected, abs=1e-8)
    np.testing.assert_allclose(state.position[: sizes[0]], position, atol=1e-8)
    np.testing.assert_allclose(v.reals, u, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"auxiliary": lambda x: dist.Normal(jnp.zeros(2), 1.0)},
            "must match, but 1 parameters and 2 reals",
        ),
        ({"auxiliary": None}, "dimensions must match"),
        ({"source": 2}, r"jumps\[0\].source must be an index below 2"),
        ({"probability": 0.0}, "probability must lie in"),
        ({"target": 0}, "own way back"),
        ({"forward": lambda x, u: x}, "forward must return 2 parameters"),
        ({"inverse": lambda x: (x, x)}, "inverse must return 1 parameters and 1 reals"),
    ],
    ids=["u too large", "no u", "index", "probability", "within", "forward", "inverse"],
)
def test_bad_jumps_are_named(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        reversible_jump(MODELS, [dataclasses.replace(SPLIT, **change)])


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"leave model 0 sum to 1\.1"):
        reversible_jump(MODELS, [SPLIT, random_walk(0, 1)])
    with pytest.raises(ValueError, match="at least one"):
        reversible_jump(MODELS, [])
    kernel = reversible_jump(MODELS, [SPLIT])
    with pytest.raises(ValueError, match="position must have shape"):
        kernel.start(1, [0.0])
    with pytest.raises(ValueError, match="model must be an index"):
        kernel.start(2, [0.0])
    with pytest.raises(TypeError, match="f must be a function"):
        involutive(3, gaussian, lambda x: dist.Normal(0.0, 1.0))  # pyright: ignore[reportArgumentType]
    shorter = involutive(lambda x, v: (x[:1], v), gaussian, lambda x: dist.Normal(jnp.zeros(2), 1.0))
    with pytest.raises(ValueError, match="f must return x' with the shapes"):
        shorter(jax.random.key(0), jnp.zeros(2))
