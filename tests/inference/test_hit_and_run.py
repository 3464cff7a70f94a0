"""Hit-and-run against uniform laws that are known: disc, ring, triangle, ellipse, a cap of SO(3).

False-alarm rate of each Kolmogorov-Smirnov test: 1e-5, by the last states of independent chains; keys are fixed.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from uqsparse.inference.diagnostics import convergence
from uqsparse.inference.hit_and_run import hit_and_run
from uqsparse.kernels.rotations import rotation_exp, rotation_log

N = 20_000
LEVEL = 1e-5


def key(i):
    return jax.random.key(i)


@functools.lru_cache
def in_ring(inner):
    """One function for each ring, so that it is compiled once."""
    return lambda x: (x @ x <= 1) & (x @ x >= inner)


def in_ring_draws(inner, n, seed=0):
    rng = np.random.default_rng(seed)
    radius, angle = np.sqrt(rng.uniform(inner, 1, n)), rng.uniform(0, 2 * np.pi, n)
    return jnp.asarray(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)


@pytest.mark.parametrize("inner", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_uniform_law_stays_as_it_is(inner, scale):
    """Chains that start from exact draws are exact draws after every step, whatever the bracket's length."""
    found = hit_and_run(
        key(0), in_ring(inner), in_ring_draws(inner, N), n_samples=1, n_warmup=0, thinning=4, scale=scale
    )
    np.testing.assert_allclose(found.directions, scale * np.eye(2))
    x = np.asarray(found.samples)[:, -1]
    assert stats.kstest((x**2).sum(1), stats.uniform(inner, 1 - inner).cdf).pvalue > LEVEL
    assert stats.kstest(np.arctan2(x[:, 1], x[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > LEVEL


def test_chains_from_a_corner_of_a_triangle_spread_evenly():
    """Barycentric coordinates of a uniform point are Beta(1, 2)."""
    corners = np.array([[0.0, 0], [5, 0], [1, 0.5]])
    inverse = np.linalg.inv(np.vstack([corners.T, np.ones(3)]))

    def inside(x):
        return (jnp.asarray(inverse, x.dtype) @ jnp.append(x, 1.0) >= 0).all()

    start = jnp.broadcast_to(jnp.asarray(corners.T @ [0.98, 0.01, 0.01], jnp.float32), (5000, 2))
    found = hit_and_run(key(1), inside, start, n_samples=1, n_warmup=60, thinning=40)
    x = np.asarray(found.samples)[:, -1]
    for weights in (np.c_[x, np.ones(len(x))] @ inverse.T).T:
        assert stats.kstest(weights, stats.beta(1, 2).cdf).pvalue > LEVEL


def test_the_invariant_law_on_rotations_within_an_angle():
    """The density of the angle is proportional to 1 - cos, and the axis is uniform."""
    limit = 2.5

    def inside(R):
        return jnp.trace(R) >= 1 + 2 * jnp.cos(limit)

    def retract(R, step):
        return rotation_exp(step) @ R

    def difference(R, reference):
        return rotation_log(R @ reference.T)

    start = jnp.broadcast_to(rotation_exp(jnp.array([2.4, 0.0, 0.0])), (6000, 3, 3))
    found = hit_and_run(
        key(2), inside, start, n_samples=1, n_warmup=40, thinning=40, retract=retract, difference=difference
    )
    w = Rotation.from_matrix(np.asarray(found.samples)[:, -1]).as_rotvec()
    angles = np.linalg.norm(w, axis=1)
    assert stats.kstest(angles, lambda a: (a - np.sin(a)) / (limit - np.sin(limit))).pvalue > LEVEL
    for column in (w / angles[:, None]).T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > LEVEL
    # the volume of rotation vectors instead would show: density a^2
    assert stats.kstest(angles, lambda a: (a / limit) ** 3).pvalue < LEVEL


def test_directions_adapt_to_a_thin_ellipse():
    axes = jnp.array([100.0, 0.1])
    turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])

    def inside(x):
        return jnp.sum((turn.T @ x / axes) ** 2) <= 1

    found = hit_and_run(key(3), inside, jnp.zeros((64, 2)), n_samples=200, n_warmup=400)
    covariance = np.asarray(turn.T @ found.directions @ found.directions.T @ turn)
    assert 100 < np.sqrt(covariance[0, 0] / covariance[1, 1]) < 10_000
    assert abs(covariance[0, 1]) < 0.5 * np.sqrt(covariance[0, 0] * covariance[1, 1])
    along = np.asarray(found.samples @ turn[:, 0])
    assert convergence(found.to_arviz({"along": along})).scalars[0].r_hat < 1.05
    # mean 0 and variance 50^2 of the long coordinate, within five standard errors of 64 chains of some 100 draws
    assert abs(along.mean()) < 5 * 50 / np.sqrt(1000)
    assert along.std() == pytest.approx(50, rel=0.1)


def test_states_may_be_pytrees_and_keep_their_precision():
    with jax.enable_x64(True):
        start = {"a": np.zeros((3, 2)), "b": np.zeros(3)}
        found = hit_and_run(
            key(4),
            lambda s: (jnp.abs(s["a"]).max() <= 1) & (jnp.abs(s["b"]) <= 1),
            start,
            n_samples=50,
            retract=lambda s, d: {"a": s["a"] + d[:2], "b": s["b"] + d[2]},
            difference=lambda s, r: jnp.append(s["a"] - r["a"], s["b"] - r["b"]),
        )
        assert found.samples["a"].shape == (3, 50, 2)
        assert found.samples["b"].dtype == found.directions.dtype == jnp.float64
        assert found.rejections.shape == (3, 50)
        assert set(found.to_arviz().posterior.data_vars) == {"x0", "x1"}


class Box(eqx.Module):
    half: jax.Array

    def __call__(self, x):
        TRACED.append(1)
        return (jnp.abs(x) <= self.half).all()


TRACED = []


def test_a_module_of_other_numbers_needs_no_new_program():
    for size in (1.0, 3.0):
        found = hit_and_run(key(5), Box(jnp.full(2, size)), jnp.zeros((4, 2)), n_samples=20)
        assert size / 2 < float(jnp.abs(found.samples).max()) <= size
        TRACED.append(0)
    first = TRACED.index(0)
    assert sum(TRACED[first:]) == 0


def test_a_stuck_chain_says_so_and_stays():
    start = jnp.array([[0.25, 0.25], [0.0, 0.0]])
    found = hit_and_run(
        key(6),
        lambda x: (x == 0.25).all() | (x @ x < 0.01),
        start,
        n_samples=30,
        n_warmup=10,
        max_shrinks=8,
        scale=0.05,
    )
    assert found.failures[0] > 30
    assert found.spread[0] == 0
    assert (found.samples[0] == 0.25).all()
    assert found.failures[1] == 0
    assert found.spread[1] > 0


def test_it_runs_inside_jit_and_gives_the_same_draws():
    def run(key):
        return hit_and_run(key, in_ring(0.0), jnp.zeros((4, 2)), n_samples=10, n_warmup=8).samples

    np.testing.assert_allclose(jax.jit(run)(key(7)), run(key(7)), atol=1e-6)
    assert not np.array_equal(run(key(7)), run(key(8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_warmup": -1}, "n_warmup"),
        ({"thinning": 0}, "thinning"),
        ({"max_shrinks": 0}, "max_shrinks"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale": [1.0, 2.0, 3.0]}, r"scale must be positive, one number or of shape \(2,\)"),
        ({"scale": float("nan")}, "scale must be positive"),
        ({"start": jnp.array(1.0)}, "leading axis of chains"),
        ({"start": jnp.zeros((0, 2))}, "at least one chain"),
        ({"start": jnp.array([[0.0, 0.0], [2.0, 0.0]])}, "1 of 2 chains outside: 1"),
        ({"start": jnp.array([[jnp.nan, 0.0]])}, "1 of 1 chains outside: 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"start": jnp.zeros((2, 2)), "n_samples": 5} | change
    with pytest.raises(ValueError, match=message):
        hit_and_run(key(9), in_ring(0.0), arguments.pop("start"), **arguments)
