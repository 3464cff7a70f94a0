"""Rotations in space: exponential and logarithm of SO(3), quaternions, projection, angles, alignment.

All functions take any number of leading axes, work under `jit` and `vmap`, and have finite derivatives where they are
defined, at the identity and at the projection of a rotation too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this squared angle (or squared tangent), power series; their last term kept is then below 1e-19.
_SMALL = 1e-3


def cross_matrix(w: Float[Array, "*m 3"]) -> Float[Array, "*m 3 3"]:
    """The matrix `[w]_x` with `[w]_x y = w x y`.

    >>> cross_matrix(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [0.0, -3.0, 2.0]
    """
    x, y, z = w[..., 0], w[..., 1], w[..., 2]
    o = jnp.zeros_like(x)
    return jnp.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*w.shape[:-1], 3, 3)


def rotation_exp(w: Float[Array, "*m 3"]) -> Float[Array, "*m 3 3"]:
    """Turn by `|w|` radians about the axis `w`.

    Args:
        w: rotation vectors in radians, shape (..., 3), of any length.

    Returns:
        Rotation matrices, shape (..., 3, 3).

    Source: Rodrigues (1840); Murray, Li & Sastry (1994), A mathematical introduction to robotic manipulation, eq. 2.14.

    >>> rotation_exp(jnp.array([0.0, 0.0, jnp.pi / 2])).round(3)[1, 0].item()
    1.0
    """
    square = jnp.sum(w**2, -1)[..., None, None]
    is_small = square < _SMALL
    angle = jnp.sqrt(jnp.where(is_small, 1.0, square))
    half = jnp.sin(angle / 2) / angle
    sine = jnp.where(is_small, 1 - square / 6 + square**2 / 120 - square**3 / 5040, jnp.sin(angle) / angle)
    cosine = jnp.where(is_small, 1 / 2 - square / 24 + square**2 / 720 - square**3 / 40320, 2 * half**2)
    W = cross_matrix(w)
    outer = w[..., :, None] * w[..., None, :]
    identity = jnp.eye(3, dtype=W.dtype)
    return identity + sine * W + cosine * (outer - square * identity)


def rotation_log(R: Float[Array, "*m 3 3"]) -> Float[Array, "*m 3"]:
    """The rotation vector of a rotation matrix, of length at most pi: the inverse of `rotation_exp`.

    Full precision at all angles, near 0 and near pi too; at pi either sign of the axis may come out.

    Args:
        R: rotation matrices, shape (..., 3, 3).

    Returns:
        Rotation vectors in radians, shape (..., 3).

    Source: Sola, Deray & Atchuthan (2018), A micro Lie theory for state estimation in robotics, appendix A.

    >>> rotation_log(rotation_exp(jnp.array([0.5, -1.0, 2.0]))).round(3).tolist()
    [0.5, -1.0, 2.0]
    """
    q = quaternion_from_matrix(R)
    scalar, vector = q[..., :1], q[..., 1:]
    square = jnp.sum(vector**2, -1, keepdims=True)
    is_small = square < _SMALL
    norm = jnp.sqrt(jnp.where(is_small, 1.0, square))
    # atan2 needs no derivative at (0, 0); the series in tan^2 has a scalar part near 1
    tangent = square / jnp.where(is_small, scalar, 1.0) ** 2
    series = 1 - tangent * (1 / 3 - tangent * (1 / 5 - tangent * (1 / 7 - tangent * (1 / 9 - tangent / 11))))
    factor = jnp.where(is_small, 2 * series / jnp.where(is_small, scalar, 1.0), 2 * jnp.arctan2(norm, scalar) / norm)
    return factor * vector


def quaternion_from_matrix(R: Float[Array, "*m 3 3"]) -> Float[Array, "*m 4"]:
    """The unit quaternion `(q0, qx, qy, qz)` of a rotation matrix, with `q0 >= 0`.

    The matrix `4 q q^T` is linear in R; its row of largest diagonal entry is normalised. No square root of a small
    number is taken, so precision and derivatives hold at all angles.

    Args:
        R: rotation matrices, shape (..., 3, 3).

    Returns:
        Quaternions, scalar part first, shape (..., 4).

    Source: Shepperd (1978), Quaternion from rotation matrix; Bar-Itzhack (2000), New method for extracting the
    quaternion from a rotation matrix.

    >>> quaternion_from_matrix(jnp.diag(jnp.array([1.0, -1.0, -1.0]))).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    a, b, c = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    x = R[..., 2, 1] - R[..., 1, 2]
    y = R[..., 0, 2] - R[..., 2, 0]
    z = R[..., 1, 0] - R[..., 0, 1]
    xy = R[..., 0, 1] + R[..., 1, 0]
    xz = R[..., 0, 2] + R[..., 2, 0]
    yz = R[..., 1, 2] + R[..., 2, 1]
    rows = jnp.stack(
        [
            jnp.stack([1 + a + b + c, x, y, z], -1),
            jnp.stack([x, 1 + a - b - c, xy, xz], -1),
            jnp.stack([y, xy, 1 - a + b - c, yz], -1),
            jnp.stack([z, xz, yz, 1 - a - b + c], -1),
        ],
        -2,
    )
    largest = jnp.argmax(jnp.diagonal(rows, axis1=-2, axis2=-1), -1)
    row = jnp.take_along_axis(rows, largest[..., None, None], -2)[..., 0, :]
    q = row / jnp.linalg.norm(row, axis=-1, keepdims=True)
    return jnp.where(q[..., :1] < 0, -q, q)


def matrix_from_quaternion(q: Float[Array, "*m 4"]) -> Float[Array, "*m 3 3"]:
    """The rotation matrix of a quaternion `(q0, qx, qy, qz)`, which is normalised first.

    Four independent standard normals in place of `q` give a rotation of uniform (Haar) law.

    Args:
        q: quaternions other than zero, scalar part first, shape (..., 4).

    Returns:
        Rotation matrices, shape (..., 3, 3).

    Source: Hamilton (1844); Shoemake (1985), Animating rotation with quaternion curves.

    >>> jnp.diagonal(matrix_from_quaternion(jnp.array([0.0, 0.0, 2.0, 0.0]))).tolist()
    [-1.0, 1.0, -1.0]
    """
    q = q / jnp.linalg.norm(q, axis=-1, keepdims=True)
    scalar, vector = q[..., 0, None, None], q[..., 1:]
    outer = vector[..., :, None] * vector[..., None, :]
    identity = jnp.eye(3, dtype=q.dtype)
    square = jnp.sum(vector**2, -1)[..., None, None]
    return (1 - 2 * square) * identity + 2 * outer + 2 * scalar * cross_matrix(vector)


def uniform_rotation(uniforms: Float[Array, "*m 3"]) -> Float[Array, "*m 3 3"]:
    """A rotation of uniform (Haar) law from three uniform numbers, random or of low discrepancy.

    Args:
        uniforms: numbers in [0, 1], shape (..., 3).

    Returns:
        Rotation matrices, shape (..., 3, 3).

    Source: Shoemake (1992), Uniform random rotations, Graphics Gems III.

    >>> uniform_rotation(jnp.array([0.0, 0.0, 0.0])).shape
    (3, 3)
    """
    first, second = jnp.sqrt(1 - uniforms[..., 0]), jnp.sqrt(uniforms[..., 0])
    a, b = 2 * jnp.pi * uniforms[..., 1], 2 * jnp.pi * uniforms[..., 2]
    q = jnp.stack([second * jnp.cos(b), first * jnp.sin(a), first * jnp.cos(a), second * jnp.sin(b)], -1)
    return matrix_from_quaternion(q)


def rotation_angle(R: Float[Array, "*m 3 3"], Q: Float[Array, "*m 3 3"]) -> Float[Array, "*m"]:
    """The angle in radians, between 0 and pi, by which two rotations differ.

    Precise at small angles, where the arc cosine of the trace loses half of the digits, and near pi.

    Args:
        R: rotation matrices, shape (..., 3, 3).
        Q: rotation matrices, shape (..., 3, 3); the two broadcast.

    Source: Huynh (2009), Metrics for 3D rotations: comparison and analysis, section 3.6.

    >>> float(rotation_angle(jnp.eye(3), rotation_exp(jnp.array([0.0, 0.0, 1e-4])))).__round__(9)
    0.0001
    """
    q = quaternion_from_matrix(jnp.swapaxes(R, -1, -2) @ Q)
    square = jnp.sum(q[..., 1:] ** 2, -1)
    is_zero = square == 0
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
    return 2 * jnp.arctan2(norm, q[..., 0])


@jax.custom_jvp
def nearest_rotation(M: Float[Array, "*m 3 3"]) -> Float[Array, "*m 3 3"]:
    """The rotation R nearest to a matrix, which maximises `trace(R^T M)`: `U diag(1, 1, det(U V^T)) V^T`.

    It is unique unless the two smallest singular values, the last with the sign of the determinant, add up to zero.
    The derivative there is set to 0 in the direction that is undetermined.

    Args:
        M: matrices, shape (..., 3, 3).

    Returns:
        Rotation matrices, shape (..., 3, 3).

    Source: Kabsch (1978), A discussion of the solution for the best rotation to relate two sets of vectors; Umeyama
    (1991), Least-squares estimation of transformation parameters between two point patterns.

    >>> jnp.diagonal(nearest_rotation(jnp.diag(jnp.array([3.0, 2.0, -0.1])))).round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    U, _, V = _proper_svd(M)
    return U @ V


def _proper_svd(M):
    """`U diag(s) V` with U and V rotations or both reflections; the last entry of s has the determinant's sign."""
    U, s, V = jnp.linalg.svd(M)
    sign = jnp.sign(jnp.linalg.det(U @ V))
    signs = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], -1)
    return U * signs[..., None, :], s * signs, V


@nearest_rotation.defjvp
def _nearest_rotation_jvp(primals, tangents):
    (M,), (dM,) = primals, tangents
    U, s, V = _proper_svd(M)
    # R = U V, and R^T dR is the skew matrix X with (s_i + s_j) X_ij = (N - N^T)_ij in the basis V, N = U^T dM V^T
    N = jnp.swapaxes(U, -1, -2) @ dM @ jnp.swapaxes(V, -1, -2)
    sums = s[..., :, None] + s[..., None, :]
    is_zero = jnp.abs(sums) <= jnp.finfo(s.dtype).tiny
    X = jnp.where(is_zero, 0.0, (N - jnp.swapaxes(N, -1, -2)) / jnp.where(is_zero, 1.0, sums))
    return U @ V, U @ X @ V


def align(
    source: Float[Array, "*m n 3"], target: Float[Array, "*m n 3"], weights: Float[Array, "*m n"] | None = None
) -> tuple[Float[Array, "*m 3 3"], Float[Array, "*m 3"]]:
    """The rigid motion that takes points to others in least squares: minimises `sum_i w_i |R x_i + t - y_i|^2`.

    Three points, or points in a plane, are enough: of the two matrices that fit them, the rotation comes out.

    Args:
        source: points x_i, shape (..., n, 3), n at least 3 and not on a line.
        target: points y_i, shape (..., n, 3).
        weights: nonnegative weights, shape (..., n), at least 3 of them positive; equal if left out.

    Returns:
        R, shape (..., 3, 3), and t, shape (..., 3).

    Source: Kabsch (1978); Umeyama (1991), eq. 39-43, without scale.

    >>> x = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    >>> align(x, x + 2.0)[1].round(5).tolist()
    [2.0, 2.0, 2.0]
    """
    w = jnp.ones(source.shape[:-1], source.dtype) if weights is None else weights
    w = (w / jnp.sum(w, -1, keepdims=True))[..., None]
    centre, goal = jnp.sum(w * source, -2), jnp.sum(w * target, -2)
    moments = jnp.swapaxes(w * (target - goal[..., None, :]), -1, -2) @ (source - centre[..., None, :])
    R = nearest_rotation(moments)
    return R, goal - (R @ centre[..., None])[..., 0]
