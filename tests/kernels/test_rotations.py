"""Rotations against SciPy's `Rotation`, with power series and finite differences where SciPy has nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from uqsparse.kernels.rotations import (
    align,
    cross_matrix,
    matrix_from_quaternion,
    nearest_rotation,
    quaternion_from_matrix,
    rotation_angle,
    rotation_exp,
    rotation_log,
    uniform_rotation,
)

ANGLES = [0.0, 1e-300, 1e-12, 1e-8, 1e-4, 0.031, 0.032, 0.5, 2.0, 3.0, np.pi - 1e-4, np.pi - 1e-9, np.pi]


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def vectors(angle, n=20, seed=0):
    axes = np.random.default_rng(seed).normal(size=(n, 3))
    return angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)


@pytest.mark.parametrize("angle", [*ANGLES, 4.0, 10.0])
def test_exp_is_that_of_scipy_and_of_the_matrix_exponential(angle):
    w = vectors(angle)
    R = np.asarray(rotation_exp(jnp.asarray(w)))
    np.testing.assert_allclose(R, Rotation.from_rotvec(w).as_matrix(), atol=4e-15)
    np.testing.assert_allclose(R[0], expm(np.asarray(cross_matrix(jnp.asarray(w[0])))), atol=1e-14)
    np.testing.assert_allclose(R @ R.swapaxes(1, 2), np.broadcast_to(np.eye(3), R.shape), atol=2e-15)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_inverts_exp_at_all_angles(angle):
    w = vectors(angle)
    back = np.asarray(rotation_log(jnp.asarray(Rotation.from_rotvec(w).as_matrix())))
    if angle > np.pi - 1e-12:  # either sign of the axis
        back = back * np.sign((back * w).sum(1, keepdims=True))
    np.testing.assert_allclose(back, w, rtol=1e-12, atol=1e-15)


def test_small_angles_keep_their_relative_precision():
    w = jnp.array([3e-9, -4e-9, 0.0])
    np.testing.assert_allclose(rotation_log(rotation_exp(w)), w, rtol=1e-12, atol=1e-22)
    assert float(rotation_angle(jnp.eye(3), rotation_exp(w))) == pytest.approx(5e-9, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_quaternions_are_those_of_scipy(seed):
    rotation = Rotation.random(50, random_state=seed)
    q = np.asarray(quaternion_from_matrix(jnp.asarray(rotation.as_matrix())))
    expected = rotation.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    np.testing.assert_allclose(q, expected, atol=1e-14)
    np.testing.assert_allclose(matrix_from_quaternion(jnp.asarray(-3 * q)), rotation.as_matrix(), atol=2e-15)


def test_half_turns_have_quaternions_without_loss():
    R = Rotation.from_rotvec(vectors(np.pi, 200)).as_matrix()
    q = quaternion_from_matrix(jnp.asarray(R))
    np.testing.assert_allclose(matrix_from_quaternion(q), R, atol=4e-15)
    assert (np.asarray(q)[:, 0] >= 0).all()


@given(st.integers(0, 2**32 - 1))
def test_angles_are_those_of_scipy_and_do_not_depend_on_order_or_frame(seed):
    a, b, c = (Rotation.random(20, random_state=(seed + i) % 2**32) for i in range(3))
    R, Q, S = (jnp.asarray(x.as_matrix()) for x in (a, b, c))
    angle = np.asarray(rotation_angle(R, Q))
    np.testing.assert_allclose(angle, (a.inv() * b).magnitude(), rtol=1e-9)
    np.testing.assert_allclose(rotation_angle(S @ Q, S @ R), angle, rtol=1e-9)
    # what the chordal distance is in terms of the angle
    np.testing.assert_allclose(((R - Q) ** 2).sum((1, 2)), 8 * np.sin(angle / 2) ** 2, rtol=1e-9)


def test_nearest_rotation_beats_others_and_is_a_rotation_for_reflections_too():
    rng = np.random.default_rng(1)
    M = rng.normal(size=(300, 3, 3))
    R = np.asarray(nearest_rotation(jnp.asarray(M)))
    assert (np.linalg.det(M) < 0).any()
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    best = np.einsum("nij,nij->n", R, M)
    others = Rotation.random(2000, random_state=2).as_matrix()
    assert (np.einsum("mij,nij->nm", others, M).max(1) <= best + 1e-12).all()
    nearby = np.asarray(rotation_exp(jnp.asarray(vectors(1e-3, 300)))) @ R
    assert (np.einsum("nij,nij->n", nearby, M) <= best + 1e-12).all()


def test_alignment_with_weights_is_that_of_scipy():
    rng = np.random.default_rng(2)
    for seed in range(5):
        x, y, w = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.uniform(0.1, 2, size=7)
        R, t = align(jnp.asarray(x), jnp.asarray(y), jnp.asarray(w))
        mx, my = (w @ x) / w.sum(), (w @ y) / w.sum()
        expected, _ = Rotation.align_vectors(y - my, x - mx, weights=w)
        np.testing.assert_allclose(R, expected.as_matrix(), atol=1e-9, err_msg=str(seed))
        np.testing.assert_allclose(t, my - expected.as_matrix() @ mx, atol=1e-9)


def test_alignment_of_three_points_recovers_the_motion():
    """Three points have moments of rank 2: the determinant's sign decides between the motion and its reflection."""
    rng = np.random.default_rng(3)
    for seed in range(50):
        x, R, t = rng.normal(size=(3, 3)), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)
        found_R, found_t = align(jnp.asarray(x), jnp.asarray(x @ R.T + t))
        np.testing.assert_allclose(found_R, R, atol=1e-9)
        np.testing.assert_allclose(found_t, t, atol=1e-9)


def test_uniform_rotations_have_the_haar_law():
    """Kolmogorov-Smirnov of the angle (density (1 - cos) / pi) and of one entry (uniform); false-alarm rate 4e-5."""
    rng = np.random.default_rng(4)
    uniform = uniform_rotation(jnp.asarray(rng.uniform(size=(20_000, 3))))
    normal = matrix_from_quaternion(jnp.asarray(rng.normal(size=(20_000, 4))))
    for R in (uniform, normal):
        angles = np.asarray(rotation_angle(R, jnp.eye(3)))
        assert stats.kstest(angles, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-5
        assert stats.kstest(np.asarray(R[:, 0, 1]), stats.uniform(-1, 2).cdf).pvalue > 1e-5


NOISE = np.random.default_rng(6).normal(size=(3, 3))
# functions of a step d from the rotation exp(w), and how many entries d has
SMOOTH = {
    "exp": (lambda d, w: rotation_exp(w + d), 3),
    "log": (lambda d, w: rotation_log(rotation_exp(d) @ rotation_exp(w)), 3),
    "quaternion": (lambda d, w: quaternion_from_matrix(rotation_exp(d) @ rotation_exp(w)), 3),
    "nearest": (lambda d, w: nearest_rotation(rotation_exp(w) + d[0] * NOISE), 1),
    "align": (lambda d, w: align(NOISE, NOISE @ rotation_exp(w).T + d[0] * NOISE.T)[0], 1),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_finite_and_those_of_finite_differences(name):
    function, size = SMOOTH[name]
    value, slopes, h = jax.jit(jax.vmap(function, in_axes=(0, None))), jax.jit(jax.jacrev(function)), 1e-5
    for angle in (0.0, 1e-9, 0.03, 1.0, np.pi - 1e-3):
        w = vectors(angle, 1, seed=5)[0]
        steps = h * np.eye(size)
        differences = np.moveaxis(np.asarray(value(steps, w) - value(-steps, w)) / (2 * h), 0, -1)
        np.testing.assert_allclose(slopes(np.zeros(size), w), differences, atol=2e-6)


def test_the_slope_of_the_angle_is_finite_at_its_kink():
    R = rotation_exp(jnp.array([0.3, -0.2, 0.9]))
    assert np.isfinite(jax.grad(lambda d: rotation_angle(rotation_exp(d) @ R, R))(jnp.zeros(3))).all()


def test_functions_batch_under_vmap_and_jit():
    w = jnp.asarray(vectors(1.0, 6))
    one_by_one = jnp.stack([rotation_exp(x) for x in w])
    np.testing.assert_allclose(jax.jit(jax.vmap(rotation_exp))(w), one_by_one, atol=1e-15)
    np.testing.assert_allclose(rotation_exp(w.reshape(2, 3, 3)).reshape(6, 3, 3), one_by_one, atol=1e-15)
    np.testing.assert_allclose(jax.vmap(nearest_rotation)(one_by_one), one_by_one, atol=1e-14)
