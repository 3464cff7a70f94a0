"""Membership of a pose set, three ways: cones, the source's quadratic inequalities, and projection into the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.data.pose_problems import pose_problem

ELLIPSES = ((8.0, 20.0), (1.5, 4.0))


def of(problem, points3d=None):
    points3d = problem.points3d if points3d is None else points3d
    return PoseConstraints.of(problem.centres, points3d, problem.intrinsics, information=problem.information)


def by_projection(problem, R, t):
    """All keypoints in front of the camera and their pixels in their regions, as one says it."""
    seen = problem.points3d @ R.swapaxes(1, 2) + t[:, None]
    pixels = seen @ problem.intrinsics.T
    apart = pixels[..., :2] / pixels[..., 2:] - problem.centres
    return ((seen[..., 2] > 0) & (np.einsum("mki,kij,mkj->mk", apart, problem.information, apart) <= 1)).all(1)


def by_pixel_quadratics(problem, R, t):
    """The source's A_k and b_k, in pixels, written out from its definition."""
    P, inside = problem.intrinsics, np.ones(len(R), bool)
    s = np.concatenate([R.transpose(0, 2, 1).reshape(-1, 9), t], 1)
    for Y, mu, Lam in zip(problem.points3d, problem.centres, problem.information, strict=True):
        u1, u2, u3 = np.hstack([np.kron(Y[None], P), P])
        W = np.stack([u1 - mu[0] * u3, u2 - mu[1] * u3], 1)
        A = W @ Lam @ W.T - np.outer(u3, u3)
        inside &= (np.einsum("mi,ij,mj->m", s, A, s) <= 0) & (s @ u3 > 0)
    return inside


def poses_around(problem, n, seed):
    """Poses near the truth and far from it."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-4, 0.3, size=(n, 1))
    R = Rotation.from_rotvec(size * rng.normal(size=(n, 3))).as_matrix() @ problem.R
    return R, problem.t + 0.3 * size * rng.normal(size=(n, 3))


@pytest.mark.parametrize("semi_axes", [((3.0, 12.0),), ELLIPSES])
def test_three_ways_of_membership_agree_on_ten_thousand_poses(semi_axes):
    agreed = 0
    for seed in range(5):
        problem = pose_problem(seed, semi_axes=semi_axes)
        R, t = poses_around(problem, 2000, seed)
        constraints = of(problem)
        inside = constraints.contains(R, t)
        np.testing.assert_array_equal(inside, constraints.paper_form().contains(R, t))
        np.testing.assert_array_equal(inside, by_projection(problem, R, t))
        np.testing.assert_array_equal(inside, by_pixel_quadratics(problem, R, t))
        np.testing.assert_array_equal(inside, (constraints.slacks(R, t) >= 0).all(1))
        np.testing.assert_array_equal(inside, constraints.worst_ratio(R, t) <= 1)
        agreed += inside.sum()
    assert 1000 < agreed < 9000


def test_mirror_images_behind_the_camera_project_into_the_regions_and_are_outside():
    """Points of a plane have a pose behind the camera with the same pixels: `(-R diag(1, 1, -1), -t)`."""
    problem = pose_problem(8, is_planar=True)
    R, t = poses_around(problem, 500, 8)
    constraints = of(problem)
    inside = constraints.contains(R, t)
    assert 100 < inside.sum() < 450
    mirrored = -R @ np.diag([1.0, 1.0, -1.0]), -t
    seen = problem.points3d @ mirrored[0].swapaxes(1, 2) + mirrored[1][:, None]
    pixels, front = seen @ problem.intrinsics.T, problem.points3d @ R.swapaxes(1, 2) + t[:, None]
    np.testing.assert_allclose(seen, -front, atol=1e-12)
    apart = (pixels[..., :2] / pixels[..., 2:] - problem.centres)[inside]
    assert (np.einsum("mki,kij,mkj->mk", apart, problem.information, apart) <= 1 + 1e-9).all()
    assert not constraints.contains(*mirrored).any()
    assert not constraints.paper_form().contains(*mirrored).any()
    assert (constraints.worst_ratio(*mirrored)[inside] == np.inf).all()
    assert (constraints.slacks(*mirrored)[inside] < 0).all()


@given(st.integers(0, 10_000))
def test_the_true_pose_is_inside_exactly_if_all_regions_hold_their_keypoints(seed):
    problem = pose_problem(seed, n_keypoints=3 + seed % 8, semi_axes=ELLIPSES if seed % 2 else ((3.0, 12.0),))
    assert of(problem).contains(problem.R, problem.t)
    axes = np.linalg.eigvalsh(problem.information[0]) ** -0.5
    moved = problem._replace(centres=problem.centres + np.eye(len(problem.centres))[:1].T * 2.01 * axes[0])
    assert not of(moved).contains(problem.R, problem.t)


def test_the_frame_and_the_unit_of_the_object_do_not_matter():
    problem = pose_problem(3)
    R, t = poses_around(problem, 1000, 3)
    shift = np.array([0.4, -0.2, 3.0])
    moved = of(problem, problem.points3d + shift)
    inside = of(problem).contains(R, t)
    np.testing.assert_array_equal(moved.contains(R, t - R @ shift), inside)
    np.testing.assert_array_equal(moved.paper_form().contains(R, t - R @ shift), inside)
    np.testing.assert_allclose(moved.points.mean(0), 0, atol=1e-15)
    np.testing.assert_allclose(
        of(problem, 1000 * problem.points3d).slacks(R, 1000 * t), 1000 * of(problem).slacks(R, t)
    )


def test_discs_are_ellipses_and_skewed_cameras_are_served():
    problem = pose_problem(4)
    radii = PoseConstraints.of(problem.centres, problem.points3d, problem.intrinsics, radii=problem.radii)
    np.testing.assert_allclose(radii.factors, of(problem).factors, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(radii.factors, radii.factors.swapaxes(1, 2))
    skewed = np.array([[500.0, 7.0, 300.0], [3.0, 480.0, 200.0], [0.0, 0.0, 1.0]])
    pixels = (problem.points3d @ problem.R.T + problem.t) @ skewed.T
    truth = pixels[:, :2] / pixels[:, 2:]
    other = problem._replace(intrinsics=skewed, centres=truth + 0.5)
    R, t = poses_around(other, 2000, 4)
    inside = of(other).contains(R, t)
    np.testing.assert_array_equal(inside, by_projection(other, R, t))
    assert 100 < inside.sum() < 1900


def test_undetected_keypoints_are_left_out():
    problem = pose_problem(5)
    seen = np.arange(8) != 2
    rest = problem._replace(
        **{name: getattr(problem, name)[seen] for name in ("points3d", "centres", "information", "radii")}
    )
    spoiled = problem.centres.copy()
    spoiled[2] = np.nan
    got = PoseConstraints.of(spoiled, problem.points3d, problem.intrinsics, information=problem.information, seen=seen)
    assert got.n_keypoints == 7
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(of(rest)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_jax_arrays_under_jit_and_vmap_give_the_same_answers_and_finite_slopes():
    problem = pose_problem(6)
    constraints = of(problem)
    R, t = poses_around(problem, 200, 6)
    with jax.enable_x64(True):
        traced = jax.tree.map(jnp.asarray, constraints)
        inside = jax.jit(jax.vmap(traced.contains))(jnp.asarray(R), jnp.asarray(t))
        np.testing.assert_array_equal(inside, constraints.contains(R, t))
        np.testing.assert_allclose(traced.slacks(R, t), constraints.slacks(R, t), atol=1e-12)
        # a keypoint in the middle of its region, where the norm has no slope
        pixels = (problem.points3d @ problem.R.T + problem.t) @ problem.intrinsics.T
        centred = of(problem._replace(centres=pixels[:, :2] / pixels[:, 2:]))
        slope = jax.jacfwd(lambda t: jax.tree.map(jnp.asarray, centred).slacks(jnp.asarray(problem.R), t))(problem.t)
    assert np.isfinite(slope).all()
    assert isinstance(constraints.contains(R, t), np.ndarray)


def arguments(**changes):
    problem = pose_problem(7)
    given = {
        "centres": problem.centres,
        "points3d": problem.points3d,
        "intrinsics": problem.intrinsics,
        "radii": problem.radii,
    }
    return given | changes


def spoiled(name, index, value):
    array = np.array(arguments()[name], dtype=float)
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoiled("centres", (0, 1), np.nan), r"centres must be finite, got nan at \(0, 1\)"),
        (spoiled("points3d", (0, 1), np.inf), "points3d must be finite"),
        (spoiled("intrinsics", (0, 0), np.nan), "intrinsics must be finite"),
        (spoiled("radii", 3, np.nan), "radii must be finite"),
        (spoiled("radii", 3, np.inf), "radii must be finite"),
        (spoiled("radii", 3, 0.0), "radii must be positive, got 0.0"),
        (spoiled("radii", 3, -2.0), "radii must be positive, got -2.0"),
        ({"radii": -1.0}, "radii must be positive"),
        (spoiled("intrinsics", 0, 0.0), "intrinsics must be invertible"),
        ({"intrinsics": np.diag([500.0, 500.0, 2.0])}, "last row"),
        ({"intrinsics": np.eye(2)}, r"intrinsics must have shape \(3, 3\), got \(2, 2\)"),
        ({"points3d": np.outer(np.arange(8), [1.0, 2.0, 3.0])}, "must not lie on a line"),
        ({"points3d": np.ones((8, 3))}, "must not lie on a line"),
        ({"points3d": np.ones((8, 2))}, r"points3d must have shape \(K, 3\), got \(8, 2\)"),
        ({"centres": np.ones((7, 2))}, r"centres must have shape \(8, 2\), got \(7, 2\)"),
        ({"centres": "here"}, "centres must be an array of numbers, got str"),
        ({"seen": np.arange(8) < 2}, "at least 3 keypoints that are seen, got 2"),
        ({"seen": np.ones(8)}, "seen must be a boolean mask"),
        ({"radii": None}, "either information or radii, got neither"),
        ({"information": np.eye(2)}, "either information or radii, got both"),
        ({"radii": None, "information": np.zeros((8, 2, 2))}, "information must be positive definite"),
        ({"radii": None, "information": np.tile(np.diag([1.0, -1.0]), (8, 1, 1))}, "must be positive definite"),
        ({"radii": None, "information": np.tile([[1.0, 0.5], [0.0, 1.0]], (8, 1, 1))}, "must be symmetric"),
        ({"radii": None, "information": np.full((8, 2, 2), np.nan)}, "information must be finite"),
    ],
)
def test_bad_regions_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        PoseConstraints.of(**arguments(**change))


def test_two_keypoints_are_too_few():
    few = {name: arguments()[name][:2] for name in ("centres", "points3d", "radii")}
    with pytest.raises(ValueError, match="at least 3 keypoints that are seen, got 2"):
        PoseConstraints.of(**arguments(**few))


@pytest.mark.parametrize(
    ("R", "t", "message"),
    [
        (np.diag([1.0, 1.0, -1.0]), np.zeros(3), "rotations"),
        (2 * np.eye(3), np.zeros(3), "rotations"),
        (np.eye(3), np.full(3, np.nan), "t must be finite"),
        (np.full((3, 3), np.nan), np.zeros(3), "R must be finite"),
        (np.eye(2), np.zeros(3), "shapes"),
        (np.eye(3), np.zeros(2), "shapes"),
    ],
)
def test_what_is_no_pose_is_refused(R, t, message):
    constraints = PoseConstraints.of(**arguments())
    for question in (constraints, constraints.paper_form()):
        with pytest.raises(ValueError, match=message):
            question.contains(R, t)
