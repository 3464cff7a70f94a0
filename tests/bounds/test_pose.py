"""Pose uncertainty sets as a user meets them: from regions to bounds, balls, ellipsoids and proofs of emptiness."""

import functools

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from uqsparse.bounds import Detections, KeypointConformal, PoseUncertaintySet, pose_relaxation
from uqsparse.data.pose_problems import pose_problem

rng = np.random.default_rng(0)


@functools.cache
def example():
    problem = pose_problem(21)
    poses = PoseUncertaintySet.of(problem.centres, problem.points3d, problem.intrinsics, radii=problem.radii)
    return problem, poses, poses.sample(jax.random.key(0), 256)


def angle(R, Q):
    return Rotation.from_matrix(R @ Q.T).magnitude()


def test_the_true_pose_and_all_samples_lie_in_the_set():
    problem, poses, samples = example()
    assert poses.contains(problem.R, problem.t)
    assert len(samples.R) == 256
    assert poses.contains(samples.R, samples.t).all()
    hits = poses.ransag(jax.random.key(1))
    assert len(hits.R)
    assert poses.contains(hits.R, hits.t).all()


@pytest.mark.parametrize("level", ["q2", "cascade"])
def test_no_pose_of_the_set_is_beyond_a_bound_and_some_pose_reaches_its_lower_value(level):
    problem, poses, samples = example()
    average = poses.average(samples)
    options = {} if level == "q2" else {"levels": ("q2", "r2")}
    turn = poses.bound(average.R, average.t, level, "rotation", samples=samples, **options)
    shift = poses.bound(average.R, average.t, level, "translation", samples=samples, **options)
    R, t = np.concatenate([samples.R, problem.R[None]]), np.concatenate([samples.t, problem.t[None]])
    assert angle(R, average.R).max() <= turn.size
    assert np.linalg.norm(t - average.t, axis=1).max() <= shift.size
    for found, reached in ((turn, angle(R, average.R).max()), (shift, np.linalg.norm(t - average.t, axis=1).max())):
        assert found.empty is None
        assert found.lower <= found.bound
        assert found.correction == found.bound - found.solver_value
        assert reached <= found.size < 3 * reached
        assert 0 <= found.gap < 0.5
    assert turn.angle_degrees == pytest.approx(np.degrees(turn.size))
    assert len(repr(turn)) < 1000


def test_a_solver_stopped_early_still_gives_a_bound():
    _, poses, samples = example()
    average = poses.average(samples)
    early = poses.bound(average.R, average.t, "q2", "translation", samples=samples, max_iterations=3)
    late = poses.bound(average.R, average.t, "q2", "translation", samples=samples)
    assert early.bound >= late.bound * (1 - 1e-9)
    assert np.linalg.norm(samples.t - average.t, axis=1).max() <= early.size


def test_a_loose_translation_bound_gets_a_small_box_of_rotations_that_holds_the_set():
    """Seed 1: the dual leaves moments of rotations in the residual, which only a bound of the rotation makes small."""
    problem = pose_problem(1)
    poses = PoseUncertaintySet.of(problem.centres, problem.points3d, problem.intrinsics, radii=problem.radii)
    samples = poses.sample(jax.random.key(1), 256)
    average = poses.average(samples)
    R = np.concatenate([samples.R, problem.R[None]])
    reached = np.sin(angle(R, average.R) / 2).max()
    coarse = pose_relaxation.pose_problem(poses.constraints, average.R, average.t, (samples.R, samples.t)).box
    found = poses.bound(average.R, average.t, "q2", "translation", samples=samples)
    assert reached <= found.box.sine < 0.8 * coarse.sine
    assert found.correction < 5e-3 * found.bound


def test_balls_and_ellipsoids_hold_the_samples():
    _, poses, samples = example()
    ball = poses.enclosing_ball(samples)
    assert np.linalg.norm(samples.t - ball.centre, axis=1).max() <= ball.radius
    turn = poses.enclosing_ball(samples, "rotation")
    assert angle(samples.R, turn.centre).max() <= turn.radius
    ellipsoid = poses.enclosing_ellipsoid(samples, level="q2")
    away = samples.t - ellipsoid.centre
    assert np.einsum("ni,ij,nj->n", away, ellipsoid.shape, away).max() <= 1
    assert 0 < ellipsoid.volume < 4 / 3 * np.pi * ball.radius**3 * 1.5


def test_an_empty_set_comes_back_as_empty_with_its_proof():
    problem, _, _ = example()
    centres = problem.centres.copy()
    centres[0] += 300
    poses = PoseUncertaintySet.of(centres, problem.points3d, problem.intrinsics, radii=problem.radii)
    assert poses.emptiness().value < 0
    bound = poses.bound(problem.R, problem.t)
    assert bound.empty is not None
    assert bound.size == 0
    samples = poses.sample(jax.random.key(0), 4)
    assert len(samples.R) == 0
    with pytest.raises(ValueError, match="at least one pose"):
        poses.average(samples)


def test_regions_carry_their_guarantee_to_the_pose():
    problem, _, _ = example()
    seen = (problem.points3d @ problem.R.T + problem.t) @ problem.intrinsics.T
    pixels = seen[:, :2] / seen[:, 2:]
    true = pixels + 100 * rng.normal(size=(40, 1, 2))
    detections = Detections.of(true + 2 * rng.normal(size=true.shape))
    calibrated = KeypointConformal("ball", 0.1).calibrate(detections, true)
    new = Detections.of(np.stack([pixels, pixels + 1.0]))
    poses = PoseUncertaintySet.from_regions(calibrated.predict(new), problem.points3d, problem.intrinsics, index=1)
    assert poses.guarantee.level == 0.9
    assert poses.contains(problem.R, problem.t)
    R = Rotation.from_rotvec(0.1 * rng.normal(size=(500, 3))).as_matrix() @ problem.R
    t = problem.t + 0.01 * rng.normal(size=(500, 3))
    places = (np.einsum("nij,kj->nki", R, problem.points3d) + t[:, None]) @ problem.intrinsics.T
    radius = 1 / np.sqrt(calibrated.predict(new).information[1, 0, 0, 0])
    inside = (np.linalg.norm(places[..., :2] / places[..., 2:] - (pixels + 1.0), axis=-1) <= radius).all(1)
    assert (poses.contains(R, t) == inside).all()
    assert 0 < inside.sum() < 500


def test_regions_that_are_the_whole_plane_are_refused():
    problem, _, _ = example()
    detections = Detections.of(np.zeros((5, 8, 2)))
    with pytest.warns(UserWarning, match="too few"):
        calibrated = KeypointConformal("ball", 0.1).calibrate(detections, np.ones((5, 8, 2)))
    with pytest.raises(ValueError, match="whole plane"):
        PoseUncertaintySet.from_regions(calibrated.predict(detections), problem.points3d, problem.intrinsics)


def test_bad_input_is_refused_with_the_argument_named():
    _, poses, samples = example()
    with pytest.raises(ValueError, match="level"):
        poses.bound(samples.R[0], samples.t[0], "q3")
    with pytest.raises(ValueError, match="objective"):
        poses.bound(samples.R[0], samples.t[0], "q2", "scale", samples=samples)
    with pytest.raises(ValueError, match="R must"):
        poses.bound(2 * np.eye(3), samples.t[0], "q2")
    with pytest.raises(ValueError, match="n must be"):
        poses.sample(jax.random.key(0), 0)
