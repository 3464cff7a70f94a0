"""Draws from pose sets: all inside, of the law they claim, from every part; averages and local maxima as stated."""

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from uqsparse.bounds.pose_ascent import farthest_pose, find_pose, pose_objective
from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_sampling import _triples, average_pose, ransag, sample_poses
from uqsparse.data.pose_problems import pose_problem

SHIFT = np.array([0.1, -0.05, 0.2])


def of(problem, points3d=None):
    points3d = problem.points3d if points3d is None else points3d
    return PoseConstraints.of(problem.centres, points3d, problem.intrinsics, information=problem.information)


def key(i):
    return jax.random.key(i)


@pytest.fixture(scope="module")
def problem():
    return pose_problem(0)


@pytest.fixture(scope="module")
def constraints(problem):
    """The object's frame has another origin than its keypoints' mean."""
    return of(problem, problem.points3d + SHIFT)


@pytest.fixture(scope="module")
def hits(constraints):
    return ransag(key(0), constraints)


@pytest.fixture(scope="module")
def samples(constraints, hits):
    return sample_poses(key(1), constraints, 1500, starts=hits)


def test_ransag_finds_poses_of_the_set_and_near_misses(constraints, hits):
    assert len(hits.R) > 20
    assert hits.n_trials == 5000
    assert 5000 < hits.n_poses <= 20_000
    assert constraints.contains(hits.R, hits.t).all()
    near = constraints.worst_ratio(hits.near_R, hits.near_t)
    assert (near > 1).all()
    assert (np.diff(near) >= 0).all()
    assert near[0] < 1.1


def test_points_of_triples_come_from_their_regions_in_the_sources_law():
    """With three keypoints every pose is a hit, and its pixels tell which points were drawn.

    The distance from the centre, in radii, is uniform (not the square): Kolmogorov-Smirnov at 1e-5 for each region.
    """
    small = pose_problem(5, n_keypoints=3, semi_axes=((8.0, 20.0), (1.5, 4.0)))
    found = ransag(key(2), of(small), 3000)
    assert found.n_poses == len(found.R) + len(found.near_R)
    seen = (small.points3d @ found.R.swapaxes(1, 2) + found.t[:, None]) @ small.intrinsics.T
    apart = seen[..., :2] / seen[..., 2:] - small.centres
    distances = np.sqrt(np.einsum("mki,kij,mkj->mk", apart, small.information, apart))
    # the poses of one triple share its points
    for column in distances.T:
        assert stats.kstest(np.unique(column.round(7)), stats.uniform.cdf).pvalue > 1e-5


def test_triples_are_different_and_equally_likely():
    """Chi-squared of the 60 ordered triples of five; false-alarm rate 1e-5."""
    with jax.enable_x64(True):
        triples = np.asarray(_triples(jax.random.uniform(key(3), (3, 60_000)), 5))
        edges = np.asarray(_triples(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), 5))
    codes, counts = np.unique(triples @ [25, 5, 1], return_counts=True)
    assert len(codes) == 60
    assert all(len(set(row)) == 3 for row in triples[:1000].tolist())
    assert stats.chisquare(counts).pvalue > 1e-5
    assert edges.tolist() == [[0, 1, 2], [4, 3, 2]]


def test_draws_are_inside_many_and_not_stuck(constraints, samples):
    assert samples.R.shape == (1500, 3, 3)
    assert constraints.contains(samples.R, samples.t).all()
    assert samples.chains.failures.sum() == 0
    assert (samples.chains.spread > 0).all()
    assert samples.n_starts > 20
    assert 0.5 < samples.chains.rejections.mean() / 10 < 6


def test_draws_of_a_set_that_is_a_known_shape_follow_its_law():
    """Tiny regions: the set is nearly the image of a product of discs under the inverse of the linearised projection.

    With three keypoints the map from pose to six pixel coordinates is locally one to one, so the uniform law on poses
    becomes the uniform law on the three discs, up to the map's curvature, here 1e-4: squared radii uniform. Thinned to
    one draw a chain; Kolmogorov-Smirnov at 1e-5.
    """
    points = 0.2 * np.array([[1.0, 0, 0], [-0.5, 0.8, 0.1], [-0.4, -0.9, 0.3]])
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    R, t = Rotation.from_rotvec([0.7, -0.4, 0.3]).as_matrix(), np.array([0.02, 0.03, 0.8])
    pixels = (points @ R.T + t) @ camera.T
    small = PoseConstraints.of(pixels[:, :2] / pixels[:, 2:], points, camera, radii=0.02)
    start = ransag(key(4), small, 3000)
    near = abs(start.R - R).max((1, 2)) < 0.1  # the other solutions of the three points are sets of their own
    start = start._replace(R=start.R[near][:1], t=start.t[near][:1])
    draws = sample_poses(key(5), small, 1500, starts=start, n_chains=1500, n_warmup=120, thinning=40)
    seen = (points @ draws.R.swapaxes(1, 2) + draws.t[:, None]) @ camera.T
    apart = (seen[..., :2] / seen[..., 2:] - pixels[:, :2] / pixels[:, 2:]) / 0.02
    for column in (apart**2).sum(-1).T:
        assert stats.kstest(column, stats.uniform.cdf).pvalue > 1e-5
    assert abs(np.corrcoef((apart**2).sum(-1).T) - np.eye(3)).max() < 5 / np.sqrt(1500)


def test_chains_visit_both_parts_of_a_set_in_two_parts():
    """A plane seen from afar through thin regions can tilt either way; every chain stays in its part."""
    for seed in range(20):
        two = pose_problem(seed, semi_axes=((1.0, 2.0),), is_planar=True, object_radius=0.05)
        hits = ransag(key(6), of(two))
        apart = np.linalg.norm(Rotation.from_matrix(hits.R @ two.R.T).as_rotvec(), axis=1) if len(hits.R) else [0.0]
        if max(apart) > 0.5:
            break
    draws = sample_poses(key(7), of(two), 1500, starts=hits)
    angles = np.linalg.norm(Rotation.from_matrix(draws.R @ two.R.T).as_rotvec(), axis=1)
    assert of(two).contains(draws.R, draws.t).all()
    assert (angles < 0.3).mean() > 0.02
    assert (angles > 0.5).mean() > 0.02


def test_an_average_may_lie_outside_and_says_so(constraints, samples):
    mean = average_pose(constraints, samples.R, samples.t)
    assert mean.is_inside == bool(constraints.contains(mean.R, mean.t))
    assert mean.is_inside == (mean.slack >= 0)
    np.testing.assert_allclose(mean.R, Rotation.from_matrix(samples.R).mean().as_matrix(), atol=1e-9)
    opposite = np.stack([samples.R[0], Rotation.from_rotvec([0, 0, 2.0]).as_matrix() @ samples.R[0]])
    outside = average_pose(constraints, opposite, samples.t[[0, 0]])
    assert not outside.is_inside
    assert outside.slack < 0
    with pytest.raises(ValueError, match="at least one pose"):
        average_pose(constraints, samples.R[:0], samples.t[:0])


def test_averages_do_not_depend_on_the_origin_of_the_objects_frame(problem, constraints, samples):
    mean = average_pose(constraints, samples.R, samples.t)
    moved = average_pose(of(problem), samples.R, samples.t + samples.R @ SHIFT)
    np.testing.assert_allclose(moved.R, mean.R, atol=1e-12)
    np.testing.assert_allclose(moved.t, mean.t + mean.R @ SHIFT, atol=1e-12)


@pytest.mark.parametrize("objective", ["rotation", "translation", 0.3])
def test_local_maxima_are_inside_beyond_all_draws_and_cannot_be_improved_nearby(constraints, samples, objective):
    mean = average_pose(constraints, samples.R, samples.t)
    best = farthest_pose(constraints, mean.R, mean.t, samples.R, samples.t, objective=objective)
    values = pose_objective(objective, mean.R, mean.t, samples.R, samples.t)
    assert best.sampled == pytest.approx(values.max())
    assert best.value >= best.sampled
    assert best.value > 1.02 * np.quantile(values, 0.99)
    assert constraints.contains(best.R, best.t)
    assert best.value == pytest.approx(float(pose_objective(objective, mean.R, mean.t, best.R, best.t)))
    # poses of the set on the way to the draws, and beside it, are no better
    rng = np.random.default_rng(0)
    turns = Rotation.from_matrix(samples.R @ best.R.T).as_rotvec()
    shifts = samples.t + samples.R @ SHIFT - best.t - best.R @ SHIFT
    step = np.concatenate([turns, shifts], 1)
    step = 10 ** rng.uniform(-5, -0.5, size=(1500, 1)) * (step + 0.3 * step.std(0) * rng.normal(size=(1500, 6)))
    R = Rotation.from_rotvec(step[:, :3]).as_matrix() @ best.R
    t = best.t + best.R @ SHIFT + step[:, 3:] - R @ SHIFT
    near = constraints.contains(R, t)
    assert near.sum() > 100
    assert pose_objective(objective, mean.R, mean.t, R[near], t[near]).max() <= best.value * (1 + 1e-7)


def test_slopes_of_margins_and_objective_are_those_of_finite_differences(constraints, samples):
    from uqsparse.bounds.pose_ascent import _Chart

    rng = np.random.default_rng(1)
    chart = _Chart(constraints, samples.R[0], samples.t[0], np.array([0.3, 0.2, 0.1, 0.05, 0.02, 0.3]))
    for size in (1e-6, 1.0, 4.0):
        x = size * rng.normal(size=6)
        numeric = np.stack([(chart.margins(x + h)[0] - chart.margins(x - h)[0]) / 2e-6 for h in 1e-6 * np.eye(6)], -1)
        slopes = chart.margins(x)[1]
        np.testing.assert_allclose(slopes, numeric, atol=1e-6 * abs(slopes).max())


def test_where_ransag_finds_nothing_a_local_search_starts_the_chains():
    """A few trials leave RANSAG without a hit, though the set holds the true pose."""
    hard = pose_problem(1)
    nothing = ransag(key(8), of(hard), 500)
    assert len(nothing.R) == 0
    found = find_pose(of(hard), nothing.near_R, nothing.near_t)
    assert found is not None
    assert of(hard).contains(*found)
    draws = sample_poses(key(9), of(hard), 1500, starts=nothing)
    assert draws.n_starts == 1
    assert of(hard).contains(draws.R, draws.t).all()


def test_an_empty_set_gives_no_draws():
    problem = pose_problem(2)
    swapped = problem._replace(centres=problem.centres[::-1], information=problem.information * 100)
    draws = sample_poses(key(10), of(swapped), 64, n_trials=500)
    assert draws.R.shape == (0, 3, 3)
    assert draws.t.shape == (0, 3)
    assert draws.chains is None


def test_bad_arguments_are_refused(constraints, samples):
    for change, name in (({"n": 0}, "n must"), ({"n_chains": 0}, "n_chains"), ({"n_trials": 0}, "n_trials")):
        with pytest.raises(ValueError, match=name):
            sample_poses(key(0), constraints, **({"n": 5} | change))
    R, t = samples.R, samples.t
    with pytest.raises(ValueError, match="objective must be"):
        farthest_pose(constraints, R[0], t[0], R, t, objective="both")
    with pytest.raises(ValueError, match="objective must be"):
        farthest_pose(constraints, R[0], t[0], R, t, objective=1.5)
    with pytest.raises(ValueError, match="none of them in it"):
        farthest_pose(constraints, R[0], t[0], R[:3], t[:3] + 5.0)
    with pytest.raises(ValueError, match="n_starts"):
        farthest_pose(constraints, R[0], t[0], R, t, n_starts=0)
