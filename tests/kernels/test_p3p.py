"""P3P against poselib, against the pose that made the rays, and by its own reprojection error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from uqsparse.kernels.p3p import p3p, reprojection_error


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def problems(n, size, distance, seed=0):
    """Triangles of about `size` at `distance`, all in front of the camera."""
    rng = np.random.default_rng(seed)
    points = size * rng.normal(size=(2 * n, 3, 3))
    R = Rotation.random(2 * n, random_state=seed).as_matrix()
    t = distance * np.stack([*rng.uniform(-0.3, 0.3, size=(2, 2 * n)), rng.uniform(1, 2, size=2 * n)], 1)
    seen = points @ R.swapaxes(1, 2) + t[:, None]
    kept = np.flatnonzero((seen[..., 2] > 0.05 * distance).all(1))[:n]
    return points[kept], R[kept], t[kept], seen[kept] / seen[kept][..., 2:]


many = jax.jit(jax.vmap(p3p))
one = jax.jit(p3p)
many_errors = jax.jit(jax.vmap(jax.vmap(reprojection_error, in_axes=(0, 0, None, None))))


def errors(found, R, t):
    """Of the nearest solution, in R and in t."""
    far = np.where(np.asarray(found.valid), 0, np.inf)
    turn = abs(np.asarray(found.R) - R[:, None]).max((2, 3))
    best = (turn + far).argmin(1)
    rows = np.arange(len(R))
    return (turn + far)[rows, best], abs(np.asarray(found.t) - t[:, None]).max(2)[rows, best]


@pytest.mark.parametrize(("size", "distance"), [(1.0, 2.0), (0.08, 1.0), (80.0, 1000.0), (0.02, 1.0)])
def test_the_true_pose_is_found_to_nine_digits(size, distance):
    points, R, t, rays = problems(600, size, distance)
    found = many(rays, points)
    turn, shift = errors(found, R, t)
    assert turn.max() < 1e-9
    assert shift.max() < 1e-9 * distance
    error = many_errors(found.R, found.t, rays, points)
    assert np.asarray(error)[np.asarray(found.valid)].max() < 1e-10


@pytest.mark.parametrize(("size", "distance"), [(1.0, 2.0), (0.08, 1.0)])
def test_solutions_are_those_of_poselib_in_number_and_place(size, distance):
    poselib = pytest.importorskip("poselib", reason="needs the extra dev")
    points, _, _, rays = problems(600, size, distance, seed=1)
    rays = rays / np.linalg.norm(rays, axis=2, keepdims=True)
    found = many(rays, points)
    valid, R, t = map(np.asarray, (found.valid, found.R, found.t))
    counts = np.zeros(5, int)
    for i in range(len(points)):
        peer = poselib.p3p(list(rays[i]), list(points[i]))
        peer = [p for p in peer if ((points[i] @ p.R.T + p.t) * rays[i]).sum(1).min() > 0]
        assert valid[i].sum() == len(peer)
        counts[len(peer)] += 1
        for pose in peer:
            gap = abs(R[i] - pose.R).max((1, 2)) + abs(t[i] - pose.t).max(1) / distance
            assert gap[valid[i]].min() < 1e-4  # poselib's own precision
    assert counts[2] > 300
    assert counts[4] > 0


def test_symmetric_views_in_which_the_quartic_has_double_roots_lose_no_solution():
    """An equilateral triangle seen head on: Grunert's formula for u is 0 / 0 there; the fold gives four poses."""
    corners = 2 * np.pi * np.arange(3) / 3
    points = np.stack([np.cos(corners), np.sin(corners), np.zeros(3)], 1)
    for tilt in (0.0, 1e-9, 1e-6):
        R = Rotation.from_rotvec([tilt, 0, 0]).as_matrix()
        t = np.array([0.0, 0, 1.5])
        found = one(jnp.asarray(points @ R.T + t), jnp.asarray(points))
        assert int(found.valid.sum()) == 4
        error = reprojection_error(found.R, found.t, jnp.asarray(points @ R.T + t), jnp.asarray(points))
        assert error.max() < 1e-7
        turn, _ = errors(jax.tree.map(lambda x: x[None], found), R[None], t[None])
        assert turn[0] < 1e-6


def test_solutions_are_distinct_come_first_and_the_rest_is_the_identity():
    points, _, _, rays = problems(600, 1.0, 2.0, seed=2)
    found = many(rays, points)
    valid, R, t = map(np.asarray, (found.valid, found.R, found.t))
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()
    assert np.isfinite(R).all()
    assert np.isfinite(t).all()
    assert (R[~valid] == np.eye(3)).all()
    assert (t[~valid] == 0).all()
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-10)
    np.testing.assert_allclose(R @ R.swapaxes(2, 3), np.broadcast_to(np.eye(3), R.shape), atol=1e-10)
    for i in range(4):
        for j in range(i):
            assert (abs(R[:, i] - R[:, j]).max((1, 2)) + abs(t[:, i] - t[:, j]).max(1))[valid[:, i]].min() > 1e-9


def test_impossible_or_degenerate_triples_have_no_solution():
    triangle = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    line = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    rays = triangle + jnp.array([0.1, 0.2, 3.0])
    for r, points in [
        (rays, line),
        (rays, jnp.zeros((3, 3))),
        (rays.at[0, 0].set(jnp.nan), triangle),
    ]:
        found = one(r, points)
        assert not found.valid.any()
        assert np.array_equal(found.R, np.broadcast_to(np.eye(3), (4, 3, 3)))
    # two points on one ray, one behind the other, are no trouble
    same = rays.at[1].set(2 * rays[0])
    found = one(same, triangle)
    assert found.valid.any()
    assert reprojection_error(found.R, found.t, same, triangle)[found.valid].max() < 1e-10
    # a pose behind the camera has no finite error
    assert reprojection_error(jnp.eye(3), jnp.array([0.0, 0, -5]), rays, triangle) == jnp.inf


def test_the_length_of_the_rays_and_the_order_of_the_points_do_not_matter():
    points, R, t, rays = problems(600, 1.0, 2.0, seed=3)
    for order in ([1, 2, 0], [2, 1, 0]):
        found = many(7 * rays[:, order], points[:, order])
        turn, shift = errors(found, R, t)
        assert turn.max() < 1e-9
        assert shift.max() < 1e-9
        assert (np.asarray(found.valid).sum(1) == np.asarray(many(rays, points).valid).sum(1)).all()
