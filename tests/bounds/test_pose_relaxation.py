"""Certified pose bounds: the blocks against Kronecker products, the bounds against poses of the set.

Poses come from SciPy's rotations and a random walk written here. A pose beyond a bound is a hard failure: no tolerance.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from uqsparse.bounds.pose_box import farthest_translation
from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_levels import LEVELS, pose_level
from uqsparse.bounds.pose_regions import enclosing_ball, enclosing_ellipsoid, minimum_volume_ellipsoid
from uqsparse.bounds.pose_relaxation import cascade, certified_bound, pose_problem
from uqsparse.solvers.conic import triangle

# A case in which q2 is tight for both objectives.
SEED = 0
CAMERA = np.array([[572.0, 0, 325], [0, 572.0, 242], [0, 0, 1]])


def _case(seed, K=8, radii=(3, 12), offset=0.0, unit=1.0):
    """An object of 8 cm radius at 1 m, discs around its keypoints that hold them, and the true pose."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(K, 3))
    points *= (0.08 * rng.uniform(0.5, 1, K) / np.linalg.norm(points, axis=1))[:, None]
    R = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    t = np.array([rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.1), 1.0])
    seen = (points @ R.T + t) @ CAMERA.T
    radius = rng.uniform(*radii, K)
    angle = rng.uniform(0, 2 * np.pi, K)
    away = (radius * np.sqrt(rng.uniform(0, 1, K)))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shift = offset * np.array([0.3, -0.2, 0.1])
    cones = PoseConstraints.of(seen[:, :2] / seen[:, 2:] + away, (points + shift) * unit, CAMERA, radii=radius)
    return cones, R, (t - R @ shift) * unit


def _walk(cones, R, t, seed=0, n=150):
    """Hit-and-run in the pose set from a pose of it; every pose kept is in the set."""
    rng = np.random.default_rng(seed)
    offset, size = np.asarray(cones.offset), float(np.linalg.norm(np.asarray(cones.points), axis=1).max())
    kept = []
    for _ in range(n):
        turn, move = rng.normal(size=3) * 0.1, rng.normal(size=3) * size * [0.1, 0.1, 1.0]
        top = rng.uniform(0, 4)
        bottom = top - 4
        for _ in range(30):
            a = rng.uniform(bottom, top)
            other = Rotation.from_rotvec(a * turn).as_matrix() @ R
            moved = t + R @ offset + a * move - other @ offset
            if cones.contains(other, moved):
                R, t = other, moved
                break
            bottom, top = (a, top) if a < 0 else (bottom, a)
        kept.append((R, t))
    return np.array([one for one, _ in kept]), np.array([one for _, one in kept])


def _average(turns, moves):
    return Rotation.from_matrix(turns).mean().as_matrix(), moves.mean(axis=0)


def _errors(turns, moves, R, t):
    return ((turns - R) ** 2).sum(axis=(1, 2)), ((moves - t) ** 2).sum(axis=1)


@pytest.fixture(scope="module")
def case():
    cones, R, t = _case(SEED, offset=0.5)
    turns, moves = _walk(cones, R, t, n=200)
    return cones, turns, moves, *_average(turns, moves)


def test_sizes_are_those_of_the_derivation():
    moments = {"order1": 70, "q2": 149, "q2p": 149, "r2": 513, "o2": 741}
    rows = {"q2": 1582, "q2p": 2842, "r2": 2625, "o2": 4012}
    for level in LEVELS:
        structure = pose_level(level)
        assert structure.n_columns - 1 == moments[level]
        keypoints = np.random.default_rng(0).normal(size=(8, 3, 13))
        if level in rows:
            assert sum(cone.n_rows for cone in structure.cones(keypoints, 0.5)) == rows[level]


@pytest.mark.parametrize("level", LEVELS)
def test_blocks_at_a_pose_are_kronecker_products(level):
    """At a point the moments are monomials, and every block is G (x) b b^T with G computed from the pose itself."""
    cones, R, t = _case(3, K=4, offset=0.4)
    problem = pose_problem(cones, R, t, _walk(cones, R, t, n=40))
    frame, structure = problem.frame, pose_level(level)
    rng = np.random.default_rng(5)
    q = rng.normal(size=4)
    q /= np.linalg.norm(q)
    w = rng.normal(size=3)
    turned = Rotation.from_quat([*q[1:], q[0]]).as_matrix() @ frame.rotation
    translation = frame.translation + frame.axes @ w - turned @ np.asarray(cones.offset)
    # depth p and deviations v of the keypoints, from the pose
    seen = (np.asarray(cones.points) + np.asarray(cones.offset)) @ turned.T + translation
    p = seen[:, 2] / frame.depth
    v = np.einsum("kab,kb->ka", cones.factors, seen[:, :2] / frame.depth - cones.centres * p[:, None])
    arrows = np.array([[[a, *b], [b[0], a, 0], [b[1], 0, a]] for a, b in zip(p, v, strict=True)])
    point = np.r_[q[0], q[1:] / frame.rho, w]
    moments = np.prod(point**structure.exponents, axis=1)
    even, odd = np.r_[1.0, w], point[:4]
    scalars = p**2 - (v**2).sum(axis=1)
    wanted = []
    for k in range(4):
        if level in ("q2", "q2p"):
            wanted += [scalars[k, None, None]]
        if level == "r2":
            wanted += [scalars[k] * np.outer(even, even), scalars[k] * np.outer(odd, odd)]
        if level in ("q2", "q2p", "r2"):
            wanted += [np.kron(arrows[k], np.outer(even, even)), np.kron(arrows[k], np.outer(odd, odd))]
    if level == "q2p":
        wanted += [np.kron(arrows[i], arrows[j]) for i in range(4) for j in range(i + 1, 4)]
    if level == "order1":
        wanted += [scalars[k, None, None] for k in range(4)] + [p[k, None, None] for k in range(4)]
    found = []
    for cone in structure.cones(frame.keypoints(cones), frame.rho):
        matrix = np.zeros((cone.side, cone.side))
        matrix[triangle(cone.side)] = cone.maps @ moments
        found.append(matrix + np.triu(matrix, 1).T)
    # each wanted block is there, up to the order of the basis: compare sorted entries and eigenvalues
    for block in wanted:
        assert any(
            one.shape == block.shape
            and np.allclose(np.sort(one.ravel()), np.sort(block.ravel()), atol=1e-9 * abs(block).max())
            and np.allclose(np.linalg.eigvalsh(one), np.linalg.eigvalsh(block), atol=1e-8 * abs(block).max())
            for one in found
        )
    # moment blocks are of rank one
    blocks = 1 if level in ("order1", "o2") else 2
    for one in found[:blocks]:
        values = np.linalg.eigvalsh(one)
        assert abs(values[:-1]).max() < 1e-9 * values[-1]
    # the objectives are the errors themselves
    square = np.zeros((13, 13))
    square[0, [1, 4, 6]] = 8.0
    assert structure.quadratic(square, frame.rho) @ moments == pytest.approx(((turned - R) ** 2).sum())
    moved = frame.displacement(np.asarray(cones.offset))
    assert structure.linear(moved, frame.rho) @ moments == pytest.approx(translation - t)
    assert structure.quadratic(moved.T @ moved, frame.rho) @ moments == pytest.approx(((translation - t) ** 2).sum())
    # and no moment is beyond its bound
    assert (abs(moments[1:]) <= structure.largest_moments(np.linalg.norm(q[1:]), frame.rho, abs(w))).all()


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    iterations=st.integers(1, 25),
    level=st.sampled_from(["order1", "q2"]),
    solver=st.sampled_from(["clarabel", "scs"]),
    offset=st.sampled_from([0.0, 0.5]),
)
def test_no_pose_is_ever_beyond_a_bound(seed, iterations, level, solver, offset):
    """The true pose and a walk from it, centre away from the truth, solver stopped anywhere, with scales or without."""
    cones, R, t = _case(seed, K=4 + seed % 5, radii=(0.5, 25), offset=offset)
    assert cones.contains(R, t)
    turns, moves = _walk(cones, R, t, seed, n=60)
    rng = np.random.default_rng(seed)
    centre = turns[rng.integers(60)] @ Rotation.from_rotvec(rng.normal(size=3) * 0.05).as_matrix(), moves.mean(axis=0)
    samples = (turns, moves) if seed % 2 else None
    turned, moved = _errors(turns, moves, *centre)
    limit = iterations * (20 if solver == "scs" else 1)
    problem = pose_problem(cones, *centre, samples)
    for objective, errors in (("rotation", turned), ("translation", moved), (0.5, (turned + moved) / 2)):
        found = certified_bound(problem, level=level, objective=objective, max_iterations=limit, solver=solver)
        assert found.empty is None
        assert errors.max() <= found.bound
        # what is proved of the box holds too
        w = np.linalg.solve(problem.frame.axes, (moves + turns @ cones.offset - problem.frame.translation).T)
        assert (abs(w).max(axis=1) <= found.box.widths).all()
        assert np.sqrt(turned.max() / 8) <= found.box.sine


def test_bounds_are_tight_where_the_relaxation_is(case):
    """The candidate lies in the set and reaches the bound: nothing looser could be, nothing tighter true."""
    cones, turns, moves, R, t = case
    for objective in ("rotation", "translation"):
        found = certified_bound(cones, R, t, "q2", objective, samples=(turns, moves))
        assert found.candidate is not None
        assert found.gap is not None
        assert -1e-9 <= found.gap < 1e-3
        assert found.bound == pytest.approx(found.solver_value + found.correction)
        assert abs(found.correction) < 1e-4 * found.bound
        turned, moved = _errors(*(one[None] for one in found.candidate), R, t)
        assert found.lower == pytest.approx(float((turned if objective == "rotation" else moved)[0]))
        loose = certified_bound(cones, R, t, "order1", objective, samples=(turns, moves))
        assert loose.size > 2 * found.size
        coarse = certified_bound(cones, R, t, "q2", objective)
        assert coarse.size == pytest.approx(found.size, rel=1e-3)
    assert found.size == pytest.approx(np.sqrt(found.bound))
    assert found.angle_degrees is None


@pytest.mark.slow
def test_levels_and_splits_order_their_bounds():
    cones, R, t = _case(7)
    samples = _walk(cones, R, t)
    problem = pose_problem(cones, *_average(*samples), samples)
    q2 = certified_bound(problem, level="q2", objective="translation")
    split = certified_bound(problem, level="q2", objective="translation", split=True)
    pairs = certified_bound(problem, level="q2p", objective="translation")
    r2 = certified_bound(problem, level="r2", objective="translation")
    error = _errors(*samples, *_average(*samples))[1].max()
    assert error <= min(r2.bound, split.bound, pairs.bound)
    assert r2.bound <= q2.bound * (1 + 1e-4)
    assert pairs.bound <= q2.bound * (1 + 1e-3)
    assert split.bound <= q2.bound * (1 + 1e-3)


@pytest.mark.slow
def test_order_two_stopped_early_proves_a_bound_too():
    """That its bound is the lowest when the solver ends is a claim of the benchmark: a solve takes half a minute."""
    cones, R, t = _case(1, K=5)
    samples = _walk(cones, R, t)
    centre = _average(*samples)
    problem = pose_problem(cones, *centre, samples)
    found = certified_bound(problem, level="o2", objective="rotation", max_iterations=6)
    assert _errors(*samples, *centre)[0].max() <= found.bound
    assert found.level == "o2"


def test_bounds_do_not_depend_on_the_unit_or_on_the_frame(case):
    cones, _, _ = _case(SEED, offset=0.5, unit=1000.0)
    _, turns, moves, centre, middle = case
    for objective, factor in (("rotation", 1.0), ("translation", 1000.0)):
        metres = certified_bound(case[0], centre, middle, "q2", objective, samples=(turns, moves))
        mm = certified_bound(cones, centre, middle * 1000, "q2", objective, samples=(turns, moves * 1000))
        assert mm.size == pytest.approx(factor * metres.size, rel=1e-3)


def test_the_users_origin_enters_the_translation_objective(case):
    """With the keypoints far from their origin, t swings with R: a bound that forgot it would be beaten."""
    cones, R, t = _case(1, offset=20.0)
    turns, moves = _walk(cones, R, t)
    centre, middle = _average(turns, moves)
    far = certified_bound(cones, centre, middle, "q2", "translation", samples=(turns, moves))
    near_cones, _, _ = _case(1)
    near = certified_bound(
        near_cones, centre, middle + centre @ np.asarray(cones.offset), "q2", "translation", samples=None
    )
    assert _errors(turns, moves, centre, middle)[1].max() <= far.bound
    assert _errors(turns, moves, centre, middle)[1].max() > near.bound


def test_a_cascade_stops_at_the_gap(case):
    cones, turns, moves, R, t = case
    found = cascade(cones, R, t, "rotation", samples=(turns, moves))
    assert found.level == "q2"
    assert found.gap < 0.01
    cones, R, t = _case(7)
    turns, moves = _walk(cones, R, t)
    up = cascade(
        cones, *_average(turns, moves), "translation", samples=(turns, moves), lower=1e-6, levels=("order1", "q2")
    )
    assert up.level == "q2"
    assert _errors(turns, moves, *_average(turns, moves))[1].max() <= up.bound


@pytest.mark.parametrize("away", [0.1, 2.0])
def test_an_empty_set_is_proved_empty(away):
    cones, R, t = _case(2)
    centres = np.array(cones.centres)
    centres[0] += away
    apart = dataclasses.replace(cones, centres=centres)
    found = certified_bound(apart, R, t, "q2", "rotation")
    assert found.empty is not None
    assert found.empty.value < 0
    assert found.bound == -np.inf
    assert found.size == 0
    assert found.candidate is None
    assert enclosing_ball(apart, R, t, "translation").empty is not None
    assert cascade(apart, R, t, "translation").empty is not None


def test_a_set_that_reaches_to_infinity_gets_the_trivial_bound():
    """All discs hold one common direction: the object may be a point at any distance."""
    points = np.random.default_rng(0).normal(size=(5, 3))
    cones = PoseConstraints.of(np.full((5, 2), 300.0), points, CAMERA, radii=50.0)
    assert farthest_translation(cones) == np.inf
    rotation = certified_bound(cones, np.eye(3), [0, 0, 50.0], "q2", "rotation")
    assert (rotation.size, rotation.bound, rotation.level) == (np.pi, 8.0, "none")
    translation = certified_bound(cones, np.eye(3), [0, 0, 50.0], "q2", "translation")
    assert translation.size == np.inf
    assert cascade(cones, np.eye(3), [0, 0, 50.0]).size == np.pi


@pytest.mark.parametrize("seed", range(6))
def test_the_analytic_distance_holds_for_all_poses(seed):
    cones, R, t = _case(seed, K=3 + seed, radii=(0.5, 15))
    turns, moves = _walk(cones, R, t, n=80)
    distances = np.linalg.norm(moves + turns @ np.asarray(cones.offset), axis=1)
    assert distances.max() <= farthest_translation(cones)


def test_the_analytic_distance_carries_depth_from_one_keypoint_to_the_next():
    """Two keypoints near the camera fix the depth of themselves only; one in the middle of the object lies deeper."""
    points = np.array([[-0.1, 0, 0.3], [0.1, 0, 0.3], [0, 0, 0.9], [0, 0, 0.5]])
    seen = points @ CAMERA.T
    cones = PoseConstraints.of(seen[:, :2] / seen[:, 2:], points, CAMERA, radii=0.01)
    assert cones.contains(np.eye(3), np.zeros(3))
    assert 0.5 <= farthest_translation(cones) < 1.0


def test_balls_hold_the_set_and_are_no_larger_than_around_the_average(case):
    cones, turns, moves, R, t = case
    rotation = enclosing_ball(cones, R, t, "rotation", level="q2", samples=(turns, moves))
    translation = enclosing_ball(cones, R, t, "translation", level="q2", samples=(turns, moves))
    turned, moved = _errors(turns, moves, rotation.centre, translation.centre)
    assert turned.max() <= rotation.bound
    assert moved.max() <= translation.bound
    assert np.linalg.det(rotation.centre) == pytest.approx(1)
    assert rotation.radius == pytest.approx(2 * np.arcsin(np.sqrt(rotation.bound / 8)))
    around = certified_bound(cones, R, t, "q2", "translation", samples=(turns, moves))
    assert translation.radius <= around.size * (1 + 1e-3)
    stopped = enclosing_ball(cones, R, t, "translation", level="q2", samples=(turns, moves), max_iterations=6)
    assert ((moves - stopped.centre) ** 2).sum(axis=1).max() <= stopped.bound


def test_ellipsoids_hold_the_set(case):
    cones, turns, moves, R, t = case
    found = enclosing_ellipsoid(cones, R, t, (turns, moves), level="q2")
    away = moves - found.centre
    assert np.einsum("ni,ij,nj->n", away, found.shape, away).max() <= 1
    ball = enclosing_ellipsoid(cones, R, t, (turns, moves), shape=np.eye(3), level="q2")
    around = certified_bound(cones, R, t, "q2", "translation", samples=(turns, moves))
    assert ball.volume == pytest.approx(4 / 3 * np.pi * around.size**3, rel=1e-3)


def test_least_ellipsoids_and_balls_of_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(100, 3)) @ np.diag([1.0, 2.0, 0.1])
    centre, shape = minimum_volume_ellipsoid(points)
    inside = np.einsum("ni,ij,nj->n", points - centre, shape, points - centre)
    assert inside.max() <= 1 + 1e-9
    # affine images have the image ellipsoid
    moved, image = minimum_volume_ellipsoid(points @ np.diag([3.0, 1.0, 1.0]) + 5)
    assert moved == pytest.approx(centre * [3, 1, 1] + 5, abs=1e-3)
    assert np.linalg.det(image) == pytest.approx(np.linalg.det(shape) / 9, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "r3"}, "level must be one of"),
        ({"objective": "pose"}, "objective must be"),
        ({"objective": 1.5}, "weight in \\[0, 1\\]"),
        ({"R": np.diag([1.0, 1, -1])}, "R must be a rotation"),
        ({"R": np.eye(2)}, "shapes \\(3, 3\\) and \\(3,\\)"),
        ({"t": [0, 0, np.nan]}, "finite"),
        ({"t": None}, "must be given"),
        ({"shape": np.eye(2)}, "shape must be"),
        ({"samples": (np.ones((9, 3)), np.ones((9, 3)))}, "samples must have shapes"),
        ({"tolerance": -1.0}, "positive"),
    ],
)
def test_bad_input_is_named(change, message):
    cones, R, t = _case(0, K=4)
    with pytest.raises(ValueError, match=message):
        certified_bound(cones, **({"R": R, "t": t, "level": "order1"} | change))
