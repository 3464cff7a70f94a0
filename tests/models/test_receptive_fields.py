"""Gabor fits: planted fields come back, SciPy finds nothing better, and strange fields are told apart."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from uqsparse.models.sparse_coding.receptive_fields import fit_gabors, gabor_fields

SIDE = 10


def formula(p, side=SIDE):
    """A Gabor pixel by pixel: x, y, sigma_x, sigma_y, orientation, frequency, phase, amplitude."""
    x, y, sigma_x, sigma_y, theta, f, phase, amplitude = p
    image = np.empty((side, side))
    for row in range(side):
        for column in range(side):
            turned = np.exp(-1j * theta) * ((column - x) + 1j * (row - y))
            u, v = turned.real, turned.imag
            envelope = np.exp(-(u**2) / (2 * sigma_x**2) - v**2 / (2 * sigma_y**2))
            image[row, column] = amplitude * envelope * np.cos(2 * np.pi * f * u + phase)
    return image.ravel()


@pytest.fixture(scope="module")
def planted():
    """40 Gabors whose stripes are seen: parameters (40, 8) and fields."""
    rng = np.random.default_rng(2)
    f = rng.uniform(0.1, 0.3, 40)
    parameters = np.stack(
        [
            *rng.uniform(2.5, 6.5, (2, 40)),
            rng.uniform(0.3, 0.6, 40) / f,
            rng.uniform(0.4, 0.8, 40) / f,
            rng.uniform(0, np.pi, 40),
            f,
            rng.uniform(-np.pi, np.pi, 40),
            rng.uniform(0.1, 5.0, 40),
        ],
        axis=1,
    )
    return parameters, np.stack([formula(p) for p in parameters], axis=1)


def angle_between(a, b, period):
    return abs((np.asarray(a) - b + period / 2) % period - period / 2)


def test_fields_are_the_formula(planted):
    p, fields = planted
    found = gabor_fields(p[:, :2], *p[:, 2:].T, side=SIDE)
    np.testing.assert_allclose(found, fields, atol=1e-12)


def test_planted_gabors_come_back(planted):
    p, fields = planted
    fits = fit_gabors(fields, SIDE)
    assert fits.converged.all()
    assert not fits.at_bound.any()
    np.testing.assert_allclose(fits.centre, p[:, :2], atol=1e-3)
    np.testing.assert_allclose(fits.sigma_x, p[:, 2], rtol=1e-3)
    np.testing.assert_allclose(fits.sigma_y, p[:, 3], rtol=1e-3)
    np.testing.assert_allclose(fits.frequency, p[:, 5], rtol=1e-3)
    np.testing.assert_allclose(fits.amplitude, p[:, 7], rtol=1e-3)
    assert angle_between(fits.orientation, p[:, 4], np.pi).max() < 1e-3
    # Seen from the other side (orientation near 0 or pi) the phase has the other sign.
    opposite = abs(fits.orientation - p[:, 4]) > 1
    assert angle_between(fits.phase, np.where(opposite, -p[:, 6], p[:, 6]), 2 * np.pi).max() < 2e-3
    np.testing.assert_allclose(fits.n_x, p[:, 2] * p[:, 5], rtol=1e-3)
    np.testing.assert_allclose(fits.n_y, p[:, 3] * p[:, 5], rtol=1e-3)
    assert (fits.kind == "oriented").all()
    assert fits.share("oriented") == 1
    np.testing.assert_allclose(fits.fields, fields, atol=1e-4)


def test_noise_moves_them_little_and_never_above_the_truth(planted):
    """Least squares is at least as good as the truth; errors as the noise: 20% of the field's own deviation."""
    p, fields = planted
    noisy = fields + 0.2 * fields.std(axis=0) * np.random.default_rng(3).standard_normal(fields.shape)
    fits = fit_gabors(noisy, SIDE)
    total = ((noisy - noisy.mean(axis=0)) ** 2).sum(axis=0)
    assert (fits.r_squared >= 1 - ((noisy - fields) ** 2).sum(axis=0) / total).all()
    # The reported share is that of the reported field.
    np.testing.assert_allclose(fits.r_squared, 1 - ((noisy - fits.fields) ** 2).sum(axis=0) / total, atol=1e-9)
    assert np.median(angle_between(fits.orientation, p[:, 4], np.pi)) < 0.02
    assert np.median(abs(fits.frequency / p[:, 5] - 1)) < 0.03
    assert angle_between(fits.orientation, p[:, 4], np.pi).max() < 0.2


def residual(p, field):
    x, y, log_x, log_y, theta, f, even, odd = p
    phase, amplitude = np.arctan2(-odd, even), np.hypot(even, odd)
    found = gabor_fields([[x, y]], np.exp(log_x), np.exp(log_y), theta, f, phase, amplitude, side=SIDE)
    return found[:, 0] - field


def test_scipy_finds_nothing_better(planted):
    """From our fit nothing gains; from 6 random starts nothing is better, for Gabors in strong noise."""
    rng = np.random.default_rng(4)
    fields = planted[1][:, :4]
    fields = fields + 0.5 * fields.std(axis=0) * rng.standard_normal(fields.shape)
    fits = fit_gabors(fields, SIDE)
    low = [-0.5, -0.5, np.log(0.5), np.log(0.5), -np.inf, 0.05 / SIDE, -np.inf, -np.inf]
    high = [SIDE - 0.5, SIDE - 0.5, np.log(SIDE), np.log(SIDE), np.inf, 0.5, np.inf, np.inf]
    for j, field in enumerate(fields.T):
        total = ((field - field.mean()) ** 2).sum()
        even, odd = fits.amplitude[j] * np.cos(fits.phase[j]), -fits.amplitude[j] * np.sin(fits.phase[j])
        widths = np.log([fits.sigma_x[j], fits.sigma_y[j]])
        starts = [np.r_[fits.centre[j], widths, fits.orientation[j], fits.frequency[j], even, odd]]
        for _ in range(6):
            shape = [*rng.uniform(2, 7, 2), *np.log(rng.uniform(1, 3, 2)), rng.uniform(0, np.pi), rng.uniform(0.1, 0.3)]
            starts.append(np.r_[shape, field.std() * rng.normal(size=2)])
        starts = [np.clip(start, low, high) for start in starts]
        runs = [
            least_squares(residual, start, bounds=(low, high), args=(field,), max_nfev=60, x_scale="jac")
            for start in starts
        ]
        shares = [1 - 2 * run.cost / total for run in runs]
        assert shares[0] <= fits.r_squared[j] + 1e-5
        assert max(shares) <= fits.r_squared[j] + 1e-3


@settings(max_examples=6)
@given(st.integers(0, 39), st.sampled_from([1e-200, 1.0, 1e150]))
def test_turning_scaling_and_flipping_a_field_do_the_same_to_its_fit(planted, j, factor):
    field = planted[1][:, j]
    image = field.reshape(SIDE, SIDE)
    family = np.stack([field, -factor * field, np.rot90(image).ravel(), image[:, ::-1].ravel()], axis=1)
    fits = fit_gabors(family, SIDE)
    np.testing.assert_allclose(fits.r_squared, 1, atol=1e-5)
    np.testing.assert_allclose(fits.frequency, fits.frequency[0], rtol=1e-3)
    np.testing.assert_allclose(fits.amplitude[1:] / [factor, 1, 1], fits.amplitude[0], rtol=1e-3)
    turned = [fits.orientation[0], fits.orientation[0] + np.pi / 2, np.pi - fits.orientation[0]]
    assert angle_between(fits.orientation[1:], turned, np.pi).max() < 1e-3
    assert ((fits.orientation >= 0) & (fits.orientation < np.pi)).all()


def test_blobs_noise_and_flat_fields_are_told_apart(planted):
    rng = np.random.default_rng(5)
    blob = formula([4.0, 5.0, 1.5, 1.2, 0.3, 0.0, 0.0, 1.0])
    noise = rng.standard_normal((SIDE**2, 3))
    fields = np.c_[blob, planted[1][:, 0], noise, np.zeros(SIDE**2), np.full(SIDE**2, 0.3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", "fit_gabors: . of 7 fits have not settled")
        fits = fit_gabors(fields, SIDE)
    assert fits.kind.tolist() == ["blob", "oriented", *["unstructured"] * 5]
    assert fits.r_squared[0] == pytest.approx(1, abs=1e-4)
    assert fits.r_squared[-2:].tolist() == [0, 0]
    assert fits.amplitude[-2] == 0
    assert all(np.isfinite(np.asarray(one)).all() for name, one in fits._asdict().items() if name != "kind")


def test_a_column_is_fitted_as_if_it_were_alone(planted):
    fields = planted[1][:, :6]
    together, alone = fit_gabors(fields, SIDE), fit_gabors(fields[:, 4:5], SIDE)
    assert together.sigma_y[4] == alone.sigma_y[0]
    assert together.n_agreeing[4] == alone.n_agreeing[0] >= 1


def test_not_settling_is_said(planted):
    with pytest.warns(RuntimeWarning, match=r"of 40 fits have not settled after 1 iterations"):
        fits = fit_gabors(planted[1], SIDE, max_iter=1)
    assert not fits.converged.any()
    assert fits.n_iter == 1


@pytest.mark.parametrize(
    ("dictionary", "side", "said"),
    [
        (np.ones((99, 2)), 10, r"dictionary must have shape \(side\^2, M\) = \(100, M\), M >= 1, got \(99, 2\)"),
        (np.ones((100, 0)), 10, "M >= 1"),
        (np.ones(100), 10, "dictionary must have shape"),
        (np.full((100, 1), np.nan), 10, "dictionary must be finite, got 100 values"),
        (np.full((100, 1), "a"), 10, "dictionary must hold real numbers"),
        (np.ones((100, 1)) * 1j, 10, "dictionary must hold real numbers"),
        (np.ones((9, 1)), 3, "side must be an integer of at least 4, got 3"),
        (np.ones((100, 1)), 10.0, "side must be an integer of at least 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(dictionary, side, said):
    with pytest.raises(ValueError, match=said):
        fit_gabors(dictionary, side)


def test_iterations_are_counted_from_one():
    with pytest.raises(ValueError, match="max_iter must be an integer of at least 1, got 0"):
        fit_gabors(np.ones((100, 1)), 10, max_iter=0)
