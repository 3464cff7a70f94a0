"""Perspective from three points: the poses of a camera that sees three known points along three known rays.

Grunert's quartic gives starting values in closed form, in real arithmetic, on any device; Newton's method on the law of
cosines then takes the three depths to full precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_NEWTON_STEPS = 10


class P3PSolutions(NamedTuple):
    """Up to four poses; those that do not exist are the identity.

    Args:
        R: rotations, camera frame = R Y + t, shape (4, 3, 3).
        t: translations, shape (4, 3).
        valid: which of them are solutions, shape (4,); solutions come first.
    """

    R: Float[Array, "4 3 3"]
    t: Float[Array, "4 3"]
    valid: Bool[Array, " 4"]


def p3p(rays: Float[Array, "3 3"], points: Float[Array, "3 3"]) -> P3PSolutions:
    """Find all poses that put three points on three rays in front of the camera.

    Works in the precision of its arguments; single precision is enough only for wide angles of view. There are no
    solutions if the points lie on a line or an entry is not finite. Traceable.

    Args:
        rays: directions from the camera to the points, one a row, of any length, such as `(x, y, 1)` in normalised
            image coordinates, shape (3, 3).
        points: the points in the object's frame, one a row, shape (3, 3).

    Returns:
        The distinct solutions, at most four.

    Source: Grunert (1841), in Haralick, Lee, Ottenberg & Noelle (1994), Review and analysis of solutions of the three
    point perspective pose estimation problem, eq. 9-11.

    >>> points = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> found = p3p(points + jnp.array([0.0, 0, 2]), points)
    >>> bool((abs(found.t - jnp.array([0.0, 0, 2])).max(1) < 1e-3).any())
    True
    """
    f = rays / jnp.linalg.norm(rays, axis=1, keepdims=True)
    # Side i is opposite point i; 2 (1 - cos) of the angle at the camera is the squared chord, without cancellation.
    sides = jnp.sum((jnp.roll(points, -1, 0) - jnp.roll(points, -2, 0)) ** 2, 1)
    chords = jnp.sum((jnp.roll(f, -1, 0) - jnp.roll(f, -2, 0)) ** 2, 1)
    depths = _polish(_depth_candidates(sides, chords), sides, chords)
    valid = _distinct(depths, _solves(depths, sides, chords)) & _is_triangle(points, sides)
    order = jnp.argsort(~valid, stable=True)[:4]
    depths, valid = depths[order], valid[order]
    seen = jnp.where(valid[:, None, None], depths[:, :, None] * f, points)
    R = _frame(seen) @ jnp.swapaxes(_frame(points), -1, -2)
    t = jnp.mean(seen, 1) - R @ jnp.mean(points, 0)
    # rays or points that are not finite
    valid = valid & jnp.isfinite(R).all((1, 2)) & jnp.isfinite(t).all(1)
    R = jnp.where(valid[:, None, None], R, jnp.eye(3, dtype=R.dtype))
    return P3PSolutions(R, jnp.where(valid[:, None], t, 0.0), valid)


def _depth_candidates(sides: Float[Array, " 3"], chords: Float[Array, " 3"]) -> Float[Array, "8 3"]:
    """Depths (s1, u s1, v s1) for each root v of Grunert's quartic and each u that fits the first equation."""
    a, b, c = sides
    ca, cb, cg = 1 - chords / 2
    a, c = a / b, c / b
    q = a - c
    # coefficients of v^4, ..., 1
    quartic = jnp.stack(
        [
            (q - 1) ** 2 - 4 * c * ca**2,
            4 * (q * (1 - q) * cb - (1 - a - c) * ca * cg + 2 * c * ca**2 * cb),
            2 * (q**2 - 1 + 2 * q**2 * cb**2 + 2 * (1 - c) * ca**2 - 4 * (a + c) * ca * cb * cg + 2 * (1 - a) * cg**2),
            4 * (-q * (1 + q) * cb + 2 * a * cg**2 * cb - (1 - a - c) * ca * cg),
            (1 + q) ** 2 - 4 * a * cg**2,
        ]
    )
    v = _quartic_roots(quartic)
    between = (1 - v) ** 2 + v * chords[1]
    # u^2 - 2 u v ca + v^2 = a (1 + v^2 - 2 v cb). Both u, as Grunert's formula for u is 0/0 in symmetric views.
    radicand = a * between - v**2 * chords[0] * (1 - chords[0] / 4)
    root = jnp.sqrt(jnp.maximum(radicand, 0))
    u = jnp.concatenate([v * ca + root, v * ca - root])
    v, s = jnp.tile(v, 2), jnp.tile(jnp.sqrt(b / between), 2)
    return jnp.stack([s, u * s, v * s], 1)


def _quartic_roots(coefficients: Float[Array, " 5"]) -> Float[Array, " 4"]:
    """The real roots of a quartic, and the real parts of those that are not real.

    Source: Descartes (1637): two quadratic factors, from the largest root of the resolvent cubic.
    """
    # The roots' inverses if the leading coefficient is the smaller one: a root may be at infinity.
    is_flipped = jnp.abs(coefficients[0]) < jnp.abs(coefficients[4])
    coefficients = jnp.where(is_flipped, coefficients[::-1], coefficients)
    b, c, d, e = coefficients[1:] / coefficients[0]
    # y^4 + p y^2 + r y + w with y = x + b / 4
    p = c - 3 * b**2 / 8
    r = d - b * c / 2 + b**3 / 8
    w = e - b * d / 4 + b**2 * c / 16 - 3 * b**4 / 256
    z = jnp.maximum(_largest_cubic_root(2 * p, p**2 - 4 * w, -(r**2)), 0)
    linear = jnp.sqrt(z)
    # (y^2 + linear y + low) (y^2 - linear y + high), low high = w; r / linear is lost where z is nearly 0
    total = p + z
    apart = jnp.where(r < 0, -1.0, 1.0) * jnp.sqrt(jnp.maximum(total**2 - 4 * w, 0))
    low, high = (total - apart) / 2, (total + apart) / 2
    first = jnp.sqrt(jnp.maximum(z / 4 - low, 0))
    second = jnp.sqrt(jnp.maximum(z / 4 - high, 0))
    y = jnp.stack([-linear / 2 + first, -linear / 2 - first, linear / 2 + second, linear / 2 - second])
    x = y - b / 4
    for _ in range(2):
        value = (((x + b) * x + c) * x + d) * x + e
        slope = ((4 * x + 3 * b) * x + 2 * c) * x + d
        step = value / jnp.where(slope == 0, 1.0, slope)
        # near a double root, or from a real part, a step may lead anywhere
        x = jnp.where(jnp.abs(step) < 0.1 * (jnp.abs(x) + 1e-3), x - step, x)
    return jnp.where(is_flipped, 1 / jnp.where(x == 0, jnp.finfo(x.dtype).eps, x), x)


def _largest_cubic_root(b: Float[Array, ""], c: Float[Array, ""], d: Float[Array, ""]) -> Float[Array, ""]:
    """The largest real root of `z^3 + b z^2 + c z + d`, by Vieta's formulas and two steps of Newton."""
    p = (b**2 - 3 * c) / 9
    q = (2 * b**3 - 9 * b * c + 27 * d) / 54
    is_triple = p**3 > q**2
    # three real roots
    root = jnp.sqrt(jnp.where(is_triple, p, 1.0))
    cosine = jnp.clip(-q / root**3, -1.0, 1.0)
    trigonometric = 2 * root * jnp.cos(jnp.arccos(jnp.where(is_triple, cosine, 0.0)) / 3)
    # one real root
    under = jnp.cbrt(jnp.abs(q) + jnp.sqrt(jnp.maximum(q**2 - p**3, 0)))
    cardano = -jnp.sign(q) * (under + p / jnp.where(under == 0, 1.0, under))
    z = jnp.where(is_triple, trigonometric, cardano) - b / 3
    for _ in range(2):
        value, slope = ((z + b) * z + c) * z + d, (3 * z + 2 * b) * z + c
        # to the right of the largest root the slope is positive and Newton falls towards it
        z = jnp.where(slope > 0, z - value / jnp.where(slope > 0, slope, 1.0), z)
    return z


def _residuals(depths, sides, chords):
    """`(s_j - s_k)^2 + s_j s_k chord_i - side_i`: the law of cosines, one equation a side, without cancellation."""
    j, k = jnp.roll(depths, -1, -1), jnp.roll(depths, -2, -1)
    return (j - k) ** 2 + j * k * chords - sides


def _polish(depths: Float[Array, "n 3"], sides: Float[Array, " 3"], chords: Float[Array, " 3"]) -> Float[Array, "n 3"]:
    """Newton's method on the three depths, its 3x3 systems solved by Cramer's rule."""
    m1, m2, m3 = chords

    def improve(_, depths):
        f1, f2, f3 = _residuals(depths, sides, chords).T
        s1, s2, s3 = depths.T
        # rows (0, p, q), (r, 0, w), (x, y, 0)
        p, q = 2 * (s2 - s3) + s3 * m1, 2 * (s3 - s2) + s2 * m1
        r, w = 2 * (s1 - s3) + s3 * m2, 2 * (s3 - s1) + s1 * m2
        x, y = 2 * (s1 - s2) + s2 * m3, 2 * (s2 - s1) + s1 * m3
        determinant = p * w * x + q * r * y
        adjugate = jnp.stack(
            [
                -w * y * f1 + q * y * f2 + p * w * f3,
                w * x * f1 - q * x * f2 + q * r * f3,
                r * y * f1 + p * x * f2 - p * r * f3,
            ],
            1,
        )
        new = depths - adjugate / jnp.where(determinant == 0, jnp.inf, determinant)[:, None]
        # from a start that is no solution the step may be wild
        return jnp.where(jnp.isfinite(new).all(1, keepdims=True), new, depths)

    # a loop, not unrolled: a tenth of the compiling
    return jax.lax.fori_loop(0, _NEWTON_STEPS, improve, depths)


def _solves(depths, sides, chords) -> Bool[Array, " n"]:
    """Whether all depths are positive and the equations hold to rounding."""
    tolerance = 1e4 * jnp.finfo(depths.dtype).eps * jnp.max(sides)
    return (depths > 0).all(1) & (jnp.abs(_residuals(depths, sides, chords)) <= tolerance).all(1)


def _distinct(depths: Float[Array, "n 3"], valid: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """Keep the first of the solutions that agree to the square root of the precision."""
    n = depths.shape[0]
    gap = jnp.max(jnp.abs(depths[:, None] - depths[None]), -1)
    close = gap <= 4 * jnp.sqrt(jnp.finfo(depths.dtype).eps) * jnp.max(depths, 1)
    earlier = jnp.tril(jnp.ones((n, n), bool), -1)
    return valid & ~(close & earlier & valid[None]).any(1)


def _is_triangle(points: Float[Array, "3 3"], sides: Float[Array, " 3"]) -> Bool[Array, ""]:
    """Whether the points span a plane beyond rounding; otherwise nothing fixes the turn about their line."""
    area = jnp.linalg.norm(jnp.cross(points[1] - points[0], points[2] - points[0]))
    return area > 100 * jnp.finfo(points.dtype).eps * jnp.max(sides)


def _frame(triangle: Float[Array, "*m 3 3"]) -> Float[Array, "*m 3 3"]:
    """The rotation whose columns are the first side's direction, its normal in the plane, and the plane's normal."""
    first = triangle[..., 1, :] - triangle[..., 0, :]
    first = first / jnp.linalg.norm(first, axis=-1, keepdims=True)
    normal = jnp.cross(first, triangle[..., 2, :] - triangle[..., 0, :])
    normal = normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)
    return jnp.stack([first, jnp.cross(normal, first), normal], -1)


def reprojection_error(
    R: Float[Array, "*m 3 3"], t: Float[Array, "*m 3"], rays: Float[Array, "n 3"], points: Float[Array, "n 3"]
) -> Float[Array, "*m"]:
    """Largest sine of the angle between a ray and the point that should lie on it; infinite behind the camera.

    Args:
        R: rotations, shape (..., 3, 3).
        t: translations, shape (..., 3).
        rays: directions, one a row, shape (n, 3).
        points: points in the object's frame, shape (n, 3).
    """
    seen = points @ jnp.swapaxes(R, -1, -2) + t[..., None, :]
    f = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
    aside = jnp.linalg.norm(jnp.cross(seen, f), axis=-1)
    along = jnp.sum(seen * f, -1)
    return jnp.max(jnp.where(along > 0, aside / jnp.linalg.norm(seen, axis=-1), jnp.inf), -1)
