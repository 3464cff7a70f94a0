"""Local search on a pose set: poses far from a given one, and a first pose where sampling found none.

A pose far from a centre bounds the worst-case error from below. Sequential quadratic programming in the coordinates
(rotation vector, translation) about a pose of the set; the answer is always a pose that the membership test accepts:
a last iterate that is a rounding error outside is pulled back.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.kernels.arguments import require_count

Objective = Literal["rotation", "translation"] | float

# Charts in which one ascent is carried on: the second starts at the end of the first.
_CHARTS = 3


class LocalMaximum(NamedTuple):
    """A pose of the set far from a centre: the worst-case error over the set is at least its own.

    Args:
        value: the objective at the pose, `|R - Rbar|_F^2`, `|t - tbar|^2` or their mixture.
        R: the pose's rotation, shape (3, 3).
        t: the pose's translation, shape (3,).
        sampled: the largest objective among the poses given, which the ascent started from.
        n_starts: how many ascents were made.
    """

    value: float
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    sampled: float
    n_starts: int


def pose_objective(
    objective: Objective,
    R_centre: Float[np.ndarray, "3 3"],
    t_centre: Float[np.ndarray, " 3"],
    R: Float[np.ndarray, "*m 3 3"],
    t: Float[np.ndarray, "*m 3"],
) -> Float[np.ndarray, "*m"]:
    """Squared distance of poses from a centre: `w |R - Rbar|_F^2 + (1 - w) |t - tbar|^2`.

    Args:
        objective: "rotation" (w = 1), "translation" (w = 0), or the weight w in [0, 1].
        R_centre: rotation Rbar, shape (3, 3).
        t_centre: translation tbar, shape (3,).
        R: rotations, shape (..., 3, 3).
        t: translations, shape (..., 3).

    Raises:
        ValueError: if the objective is none of these.

    >>> float(pose_objective("rotation", np.eye(3), np.zeros(3), np.diag([1.0, -1.0, -1.0]), np.zeros(3)))
    8.0
    """
    turn, shift = objective_weights(objective)
    return turn * ((R - R_centre) ** 2).sum((-1, -2)) + shift * ((t - t_centre) ** 2).sum(-1)


def farthest_pose(
    constraints: PoseConstraints,
    R_centre: Float[np.ndarray, "3 3"],
    t_centre: Float[np.ndarray, " 3"],
    R: Float[np.ndarray, "m 3 3"],
    t: Float[np.ndarray, "m 3"],
    *,
    objective: Objective = "rotation",
    n_starts: int = 6,
) -> LocalMaximum:
    """Climb from the farthest of some poses of the set to local maxima of the distance from a centre.

    Args:
        constraints: the pose set.
        R_centre: rotation of the centre, shape (3, 3); the centre need not be in the set.
        t_centre: translation of the centre, shape (3,).
        R: rotations of poses in the set, shape (m, 3, 3); those outside are not used.
        t: their translations, shape (m, 3).
        objective: "rotation", "translation", or the weight of the rotation in a mixture, in [0, 1].
        n_starts: how many of them to climb from: the farthest one, then ones far from it and from each other.

    Returns:
        The best pose found. It is in the set, so its value is a lower bound on the worst case.

    Raises:
        ValueError: if none of the poses is in the set or an argument is out of range.

    Source: Nocedal & Wright (2006), Numerical optimization, chapter 18; Kraft (1988), A software package for sequential
    quadratic programming.
    """
    require_count("n_starts", n_starts, 1)
    weights = objective_weights(objective)
    inside = constraints.contains(R, t)
    if not np.any(inside):
        raise ValueError(f"R and t must hold at least one pose of the set, got {len(R)} poses, none of them in it")
    R, t = R[inside], t[inside]
    values = pose_objective(objective, R_centre, t_centre, R, t)
    steps = _steps(R, t)
    best = int(values.argmax())
    sampled = float(values[best])
    found = (sampled, R[best], t[best])
    chosen = _far_apart(values, steps, n_starts)
    unit = steps.std(0) if len(R) > 12 else np.zeros(6)
    depth = np.linalg.norm(t[best] + R[best] @ constraints.offset)
    # the sizes of steps that SLSQP will see as 1
    unit = np.maximum(unit, 1e-6 * np.append(np.ones(3), np.full(3, depth)))
    for start in chosen:
        pose, reached = [R[start], t[start]], values[start]
        for _ in range(_CHARTS):
            chart = _Chart(constraints, pose[0], pose[1], unit)
            value, *pose = chart.ascend(R_centre, t_centre, weights, objective)
            gain = value - reached
            reached = value
            if value > found[0]:
                found = (value, pose[0], pose[1])
            if gain <= 1e-9 * value:
                break
    return LocalMaximum(*found, sampled, len(chosen))


def find_pose(
    constraints: PoseConstraints, R: Float[np.ndarray, "m 3 3"], t: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]] | None:
    """Search for a pose of the set from poses near it, by raising the least of `1 - |v_k|^2 / p_k^2`.

    Args:
        constraints: the pose set.
        R: rotations to start from, the most promising first, shape (m, 3, 3); all keypoints in front of the camera.
        t: their translations, shape (m, 3).

    Returns:
        R and t of a pose that `contains` accepts, or None if no start led to one, which proves nothing.
    """
    for R0, t0 in zip(R, t, strict=True):
        unit = np.append(np.full(3, 0.1), np.full(3, 0.1 * np.linalg.norm(t0 + R0 @ constraints.offset)))
        pose = _Chart(constraints, R0, t0, unit).deepest()
        if constraints.contains(*pose):
            return pose
    return None


class _Chart:
    """Coordinates x (6,) about a pose: `R = exp(w) R0`, `t' = t0' + s` in the centred frame, (w, s) = unit x."""

    def __init__(self, constraints: PoseConstraints, R: np.ndarray, t: np.ndarray, unit: np.ndarray):
        self.constraints, self.unit = constraints, unit
        self.R, self.t = R, t + R @ constraints.offset
        self.seen: tuple[bytes, Any] = (b"", None)

    def pose(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pose in the user's frame."""
        step = self.unit * x
        R = Rotation.from_rotvec(step[:3]).as_matrix() @ self.R
        return R, self.t + step[3:] - R @ self.constraints.offset

    def margins(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`1 - |v_k|^2 / p_k^2` and its derivative, (K,) and (K, 6)."""
        if self.seen[0] != x.tobytes():
            self.seen = (x.tobytes(), self._margins(x))
        return self.seen[1]

    def _margins(self, x):
        c, step = self.constraints, self.unit * x
        turned = c.points @ (Rotation.from_rotvec(step[:3]).as_matrix() @ self.R).T
        at = turned + (self.t + step[3:])
        depth = at[:, 2]
        v = (c.factors @ (at[:, :2] - c.centres * depth[:, None])[..., None])[..., 0] / depth[:, None]
        # derivative of the place of keypoint k: -[R Y_k]_x J(w) and the identity
        places = np.concatenate(
            [-_cross(turned) @ _left_jacobian(step[:3]), np.broadcast_to(np.eye(3), (len(at), 3, 3))], axis=2
        )
        deviations = c.factors @ (places[:, :2] - c.centres[:, :, None] * places[:, 2:])
        # v / p has the derivative (dv - (v / p) dp) / p
        slopes = (deviations - v[:, :, None] * places[:, 2:]) / depth[:, None, None]
        return 1 - (v**2).sum(1), -2 * (v[:, None, :] @ slopes)[:, 0] * self.unit

    def ascend(self, R_centre, t_centre, weights, objective) -> tuple[float, np.ndarray, np.ndarray]:
        """The pose of a local maximum of the objective, pulled back into the set, and its value."""
        offset = self.constraints.offset
        start = pose_objective(objective, R_centre, t_centre, *self.pose(np.zeros(6)))
        size = max(float(start), np.finfo(float).tiny)

        def loss(x):
            R, t = self.pose(x)
            M, apart = R @ R_centre.T, t - t_centre
            turn = np.array([M[2, 1] - M[1, 2], M[0, 2] - M[2, 0], M[1, 0] - M[0, 1]])
            slope = weights[0] * turn - weights[1] * np.cross(R @ offset, apart)
            slope = 2 * np.append(_left_jacobian(self.unit[:3] * x[:3]).T @ slope, weights[1] * apart)
            value = float(pose_objective(objective, R_centre, t_centre, R, t))
            return -value / size, -slope * self.unit / size

        x = self._slsqp(loss, np.zeros(6), lambda x: self.margins(x)[0], lambda x: self.margins(x)[1])
        pose = self._pulled_back(x)
        return float(pose_objective(objective, R_centre, t_centre, *pose)), *pose

    def deepest(self) -> tuple[np.ndarray, np.ndarray]:
        """The pose with the largest least margin near by; not necessarily in the set."""
        least = self.margins(np.zeros(6))[0].min()
        size = max(abs(least), 1.0)
        x = self._slsqp(
            lambda y: (-y[6], np.append(np.zeros(6), -1.0)),
            np.append(np.zeros(6), least / size),
            lambda y: self.margins(y[:6])[0] / size - y[6],
            lambda y: np.column_stack([self.margins(y[:6])[1] / size, -np.ones(len(self.constraints.points))]),
        )
        return self.pose(x[:6])

    def _slsqp(self, loss: Callable, start: np.ndarray, margins: Callable, slopes: Callable) -> np.ndarray:
        # a keypoint may pass through the camera on the way: such iterates are no candidates, and nothing to warn about
        with np.errstate(all="ignore"):
            found = minimize(
                loss,
                start,
                jac=True,
                method="SLSQP",
                constraints={"type": "ineq", "fun": margins, "jac": slopes},
                options={"maxiter": 100, "ftol": 1e-12},
            ).x
        return found if np.isfinite(found).all() else start

    def _pulled_back(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pose at x, or the first in the set on the way back to the start, the distance doubling."""
        for share in (0.0, *2.0 ** -np.arange(50, 0, -1)):
            pose = self.pose((1 - share) * x)
            if np.isfinite(pose[1]).all() and self.constraints.contains(*pose):
                return pose
        return self.pose(np.zeros(6))


def objective_weights(objective: Objective) -> tuple[float, float]:
    """Weights of the squared rotation and translation errors."""
    if isinstance(objective, str):
        if objective not in ("rotation", "translation"):
            raise ValueError(f"objective must be 'rotation', 'translation' or a weight in [0, 1], got {objective!r}")
        return (1.0, 0.0) if objective == "rotation" else (0.0, 1.0)
    if isinstance(objective, bool) or not 0 <= objective <= 1:
        raise ValueError(f"objective must be 'rotation', 'translation' or a weight in [0, 1], got {objective!r}")
    return float(objective), 1.0 - float(objective)


def _steps(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Rotation vectors and translations of poses relative to the first, (m, 6)."""
    return np.concatenate([Rotation.from_matrix(R @ R[0].T).as_rotvec(), t - t[0]], axis=1)


def _far_apart(values: np.ndarray, steps: np.ndarray, n: int) -> list[int]:
    """The pose of largest value, then, of the best fifth, the one farthest from those chosen, again and again."""
    pool = np.argsort(-values, kind="stable")[: max(n, len(values) // 5)]
    spread = steps.std(0)
    places = steps[pool] / np.where(spread > 0, spread, 1.0)
    chosen, gaps = [0], np.full(len(pool), np.inf)
    while len(chosen) < min(n, len(pool)):
        gaps = np.minimum(gaps, ((places - places[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(gaps.argmax()))
    return [int(pool[i]) for i in chosen]


def _cross(w: np.ndarray) -> np.ndarray:
    """`[w]_x`, (..., 3, 3)."""
    x, y, z = np.moveaxis(w, -1, 0)
    o = np.zeros_like(x)
    return np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*w.shape[:-1], 3, 3)


def _left_jacobian(w: np.ndarray) -> np.ndarray:
    """J with `exp(w + d) = exp(J d) exp(w)` to first order.

    Source: Chirikjian (2012), Stochastic models, information theory, and Lie groups, volume 2, eq. 10.86.
    """
    angle, W = float(np.linalg.norm(w)), _cross(w)
    if angle < 1e-4:
        return np.eye(3) + W / 2 + W @ W / 6
    return np.eye(3) + (1 - np.cos(angle)) / angle**2 * W + (angle - np.sin(angle)) / angle**3 * (W @ W)
