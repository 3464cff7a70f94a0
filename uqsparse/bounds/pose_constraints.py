"""The poses under which every keypoint of a rigid object falls into its image region and in front of the camera.

In normalised image coordinates a keypoint's region, a disc or an ellipse, is the ball `|F (y - mu)| <= 1` with
`F = Lam^{1/2}`. A pose (R, t) puts keypoint Y into it, and in front of the camera, exactly if

    p = (R Y + t)_3 > 0   and   v = F ((R Y + t)_{1:2} - mu p)   satisfy   |v| <= p.

That is a second-order cone, linear in (R, t): the set of poses is a convex cone intersected with SO(3).

Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
geometric uncertainty propagation, CVPR, section 4.
"""

from typing import Any, NamedTuple, Self

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace

# How far a matrix may be from a rotation (single precision included) before it is refused.
_ROTATION_TOLERANCE = 1e-5
# Points whose second principal spread is this small next to the first lie on a line for all that pixels can tell.
_COLLINEAR = 1e-6


class QuadraticForm(NamedTuple):
    """The pose set as the source states it: `s^T A_k s <= 0` and `b_k^T s > 0` on `s = [vec R; t]`, vec by columns.

    Args:
        quadratics: the A_k, symmetric, shape (K, 12, 12).
        linears: the b_k, shape (K, 12); `b_k^T s` is the depth of keypoint k.
    """

    quadratics: Float[np.ndarray, "K 12 12"]
    linears: Float[np.ndarray, "K 12"]

    def contains(self, R: Float[ArrayLike, "*m 3 3"], t: Float[ArrayLike, "*m 3"]) -> Bool[np.ndarray, "*m"]:
        """Tell which poses are in the set.

        Args:
            R: rotations, shape (..., 3, 3).
            t: translations, shape (..., 3).
        """
        R, t = _poses(R, t)
        columns = R.swapaxes(-1, -2).reshape(*R.shape[:-2], 9)
        s = np.concatenate([columns, np.broadcast_to(t, (*R.shape[:-2], 3))], axis=-1)
        values = np.einsum("...i,kij,...j->...k", s, self.quadratics, s)
        return ((values <= 0) & (s @ self.linears.T > 0)).all(-1)


class PoseConstraints(eqx.Module):
    """One cone per keypoint. Make it with `PoseConstraints.of`, which checks its arguments.

    Lengths are in the unit of the keypoints' coordinates. The keypoints are centred: a pose (R, t) in the user's frame
    is `(R, t + R offset)` in theirs. The methods take poses in the user's frame.

    Args:
        points: centred keypoints Y_k in the object's frame, shape (K, 3).
        offset: mean of the keypoints, which was subtracted, shape (3,).
        centres: centres mu_k of the regions in normalised image coordinates, shape (K, 2).
        factors: symmetric square roots F_k of the regions' information matrices in those coordinates, shape (K, 2, 2).
    """

    points: Float[AnyArray, "K 3"]
    offset: Float[AnyArray, " 3"]
    centres: Float[AnyArray, "K 2"]
    factors: Float[AnyArray, "K 2 2"]

    @classmethod
    def of(
        cls,
        centres: Float[ArrayLike, "K 2"],
        points3d: Float[ArrayLike, "K 3"],
        intrinsics: Float[ArrayLike, "3 3"],
        *,
        information: Float[ArrayLike, "K 2 2"] | None = None,
        radii: Float[ArrayLike, " K"] | None = None,
        seen: Bool[ArrayLike, " K"] | None = None,
    ) -> Self:
        """Turn regions in pixels into cones. Give either `information` or `radii`.

        Args:
            centres: centres of the regions, in pixels, shape (K, 2) as (x, y).
            points3d: the keypoints in the object's frame, shape (K, 3), in any one unit of length.
            intrinsics: the camera's matrix, shape (3, 3), invertible, with last row (0, 0, 1).
            information: matrices Lam_k of the ellipses `(y - mu)^T Lam (y - mu) <= 1`, in 1/pixel^2, shape (K, 2, 2),
                symmetric and positive definite.
            radii: radii of discs, in pixels, positive, shape (K,) or one number for all.
            seen: which keypoints were detected, shape (K,); the others are left out, and their entries elsewhere may
                be anything. A calibration must have left them out in the same way, or its coverage is void.

        Raises:
            ValueError: if shapes do not fit; an entry is NaN or infinite; fewer than 3 keypoints are seen or they lie
                on a line; a radius is not positive; an information matrix is not symmetric and positive definite; or
                the intrinsics are singular or their last row is not (0, 0, 1).

        Source: Yang & Pavone (2023), section 4, in normalised coordinates.

        >>> points = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> cones = PoseConstraints.of(points[:, :2] * 100, points, np.diag([400.0, 400.0, 1.0]), radii=3.0)
        >>> cones.contains(np.eye(3), np.array([[0, 0, 4.0], [0, 0, 5.0]])).tolist()
        [True, False]
        """
        points3d = _matrix("points3d", points3d, (None, 3))
        K = len(points3d)
        seen = np.ones(K, bool) if seen is None else np.asarray(seen)
        if seen.dtype != bool or seen.shape != (K,):
            raise ValueError(f"seen must be a boolean mask of shape ({K},), got {seen.dtype} of shape {seen.shape}")
        centres = _matrix("centres", centres, (K, 2))[seen]
        points3d = points3d[seen]
        _require_finite("centres", centres)
        _require_finite("points3d", points3d)
        offset, points = _centred(points3d)
        calibration = _calibration(intrinsics)
        squares = _information(information, radii, seen)
        zoom = calibration[:2, :2]
        values, vectors = np.linalg.eigh(zoom.T @ squares @ zoom)
        return cls(
            points=points,
            offset=offset,
            centres=np.linalg.solve(zoom, (centres - calibration[:2, 2]).T).T,
            factors=(vectors * np.sqrt(values)[:, None]) @ vectors.swapaxes(-1, -2),
        )

    @property
    def n_keypoints(self) -> int:
        """How many keypoints constrain the pose."""
        return self.points.shape[0]

    def slacks(self, R: Float[AnyArray, "*m 3 3"], t: Float[AnyArray, "*m 3"]) -> Float[AnyArray, "*m K"]:
        """`p_k - |v_k|` of every keypoint: how far inside (positive) or outside its cone it lies, as a length.

        Serves NumPy and JAX arrays; traceable. `R` is not checked.

        Args:
            R: rotations, shape (..., 3, 3).
            t: translations in the user's frame, shape (..., 3).
        """
        depths, deviations = self._cones(R, t)
        xp = array_namespace(deviations)
        squares = (deviations**2).sum(-1)
        is_zero = squares == 0
        # sqrt has no derivative at 0, where a keypoint sits in the middle of its region
        return depths - xp.where(is_zero, 0.0, xp.sqrt(xp.where(is_zero, 1.0, squares)))

    def contains(self, R: Float[AnyArray, "*m 3 3"], t: Float[AnyArray, "*m 3"]) -> Bool[AnyArray, "*m"]:
        """Tell which poses put every keypoint into its region and in front of the camera.

        Serves NumPy and JAX arrays; traceable.

        Args:
            R: rotations, shape (..., 3, 3).
            t: translations in the user's frame, shape (..., 3).

        Raises:
            ValueError: if NumPy arrays do not fit, hold NaN, or some R is not a rotation. JAX arrays are not checked.
        """
        if array_namespace(self, R, t) is np:
            R, t = _poses(R, t)
        depths, deviations = self._cones(R, t)
        # squares, as the source has them; at depth 0 both sides vanish
        return ((depths > 0) & ((deviations**2).sum(-1) <= depths**2)).all(-1)

    def worst_ratio(self, R: Float[AnyArray, "*m 3 3"], t: Float[AnyArray, "*m 3"]) -> Float[AnyArray, "*m"]:
        """The largest `|v_k| / p_k` of any keypoint: at most 1 in the set, infinite with one behind the camera.

        The set of regions blown up by this factor is the smallest that holds all projections. Serves NumPy and JAX
        arrays; traceable. `R` is not checked.

        Args:
            R: rotations, shape (..., 3, 3).
            t: translations in the user's frame, shape (..., 3).
        """
        depths, deviations = self._cones(R, t)
        xp = array_namespace(depths)
        is_in_front = depths > 0
        squares = (deviations**2).sum(-1) / xp.where(is_in_front, depths, 1.0) ** 2
        return xp.sqrt(xp.where(is_in_front, squares, xp.inf).max(-1))

    def paper_form(self) -> QuadraticForm:
        """The same set as quadratic inequalities on `[vec R; t]`, t in the user's frame.

        Source: Yang & Pavone (2023), proposition on the pose uncertainty set; spec symbols A_k and b_k.
        """
        points = np.asarray(self.points) + np.asarray(self.offset)
        identity = np.broadcast_to(np.eye(3), (len(points), 3, 3))
        # row i of U_k maps s to coordinate i of keypoint k in the camera's frame: U_k = [Y_k^T (x) I, I]
        turned = (points[:, None, :, None] * np.eye(3)[None, :, None, :]).reshape(-1, 3, 9)
        U = np.concatenate([turned, identity], axis=2)
        deviations = np.asarray(self.factors) @ (U[:, :2] - np.asarray(self.centres)[:, :, None] * U[:, 2:])
        return QuadraticForm(deviations.swapaxes(1, 2) @ deviations - U[:, 2, :, None] * U[:, 2, None, :], U[:, 2])

    def _cones(self, R, t):
        """Depths p (..., K) and deviations v (..., K, 2)."""
        xp = array_namespace(self, R, t)
        R, t = xp.asarray(R), xp.asarray(t)
        centred = t + R @ self.offset
        # rows Y_k, so that row k of the product is R Y_k
        seen = self.points @ R.swapaxes(-1, -2) + centred[..., None, :]
        depths = seen[..., 2]
        offsets = seen[..., :2] - self.centres * depths[..., None]
        return depths, (self.factors @ offsets[..., None])[..., 0]


def _matrix(name: str, value: Any, shape: tuple[int | None, ...]) -> Float[np.ndarray, "..."]:
    """The value as doubles, or a refusal if its shape is another."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {type(value).__name__}") from error
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wants = ", ".join("K" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wants}), got {array.shape}")
    return array


def _require_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[where]} at {where}")


def _centred(points3d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and centred keypoints, if they fix a pose."""
    if len(points3d) < 3:
        raise ValueError(f"points3d must have at least 3 keypoints that are seen, got {len(points3d)}")
    offset = points3d.mean(0)
    points = points3d - offset
    spread = np.linalg.svd(points, compute_uv=False)
    if spread[1] <= _COLLINEAR * spread[0]:
        raise ValueError(
            "points3d must not lie on a line, got keypoints whose principal spreads are "
            f"{', '.join(f'{value:.3g}' for value in spread)}"
        )
    return offset, points


def _calibration(intrinsics: Any) -> np.ndarray:
    calibration = _matrix("intrinsics", intrinsics, (3, 3))
    _require_finite("intrinsics", calibration)
    if not np.array_equal(calibration[2], [0, 0, 1]):
        raise ValueError(f"intrinsics must have the last row (0, 0, 1), got {calibration[2].tolist()}")
    spread = np.linalg.svd(calibration[:2, :2], compute_uv=False)
    if spread[1] <= 1e-9 * spread[0]:
        raise ValueError(f"intrinsics must be invertible, got {calibration.tolist()}")
    return calibration


def _information(information: Any, radii: Any, seen: np.ndarray) -> np.ndarray:
    """Information matrices in pixels of the keypoints that are seen, shape (K, 2, 2)."""
    if (information is None) == (radii is None):
        raise ValueError("give either information or radii, got " + ("neither" if radii is None else "both"))
    K = len(seen)
    if radii is not None:
        radii = np.broadcast_to(radii, (K,)) if np.ndim(radii) == 0 else radii
        radii = _matrix("radii", radii, (K,))[seen]
        _require_finite("radii", radii)
        if (radii <= 0).any():
            raise ValueError(f"radii must be positive, got {radii.min()}")
        return np.eye(2) / radii[:, None, None] ** 2
    matrices = _matrix("information", information, (K, 2, 2))[seen]
    _require_finite("information", matrices)
    skew = abs(matrices[:, 0, 1] - matrices[:, 1, 0])
    if (skew > 1e-6 * abs(matrices).max((1, 2))).any():
        raise ValueError(f"information must be symmetric, got {matrices[int(skew.argmax())].tolist()}")
    matrices = (matrices + matrices.swapaxes(1, 2)) / 2
    values = np.linalg.eigvalsh(matrices)
    bad = np.flatnonzero(values[:, 0] <= 1e-12 * abs(values[:, 1]))
    if len(bad):
        raise ValueError(f"information must be positive definite, got {matrices[bad[0]].tolist()}")
    return matrices


def _poses(R: Any, t: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations in double precision, or a refusal."""
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if R.shape[-2:] != (3, 3) or t.shape[-1:] != (3,):
        raise ValueError(f"R and t must have shapes (..., 3, 3) and (..., 3), got {R.shape} and {t.shape}")
    _require_finite("R", R)
    _require_finite("t", t)
    error = abs(R @ R.swapaxes(-1, -2) - np.eye(3)).max(initial=0)
    if error > _ROTATION_TOLERANCE or (np.linalg.det(R) < 0).any():
        raise ValueError(f"R must hold rotations, got a matrix with |R R^T - I| up to {error:.2g} or a reflection")
    return R, t
