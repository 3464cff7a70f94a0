"""Losses on logits against their formulas on probabilities, in double precision."""

import functools

import jax
import numpy as np
import pytest
from scipy.special import expit

from uqsparse.bounds.calibration.losses import (
    cross_entropy,
    entropy_regularised,
    focal_loss,
    maximum_mean_calibration_error,
    mmce_loss,
)

LOGITS = np.array([-2.3, -0.4, 0.2, 1.1, 3.0, 0.9])
LABELS = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
SOFT = np.array([0.1, 0.8, 0.3, 1.0, 0.6, 0.0])
F = expit(LOGITS)
LOSSES = {
    "cross entropy": cross_entropy,
    "focal": functools.partial(focal_loss, gamma=1.7),
    "entropy": functools.partial(entropy_regularised, beta=0.3),
    "MMCE": functools.partial(mmce_loss, beta=0.7),
}


@functools.cache
def compiled(name):
    """Value and slope: one program a loss serves all tests."""
    return jax.jit(jax.value_and_grad(LOSSES[name]))


def value(name, logits, targets):
    return float(compiled(name)(logits, targets)[0])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def by_hand(t):
    return -(t * np.log(F) + (1 - t) * np.log(1 - F))


@pytest.mark.parametrize("t", [LABELS, SOFT])
def test_cross_entropy(t):
    assert value("cross entropy", LOGITS, t) == pytest.approx(by_hand(t).mean(), rel=1e-12)


def test_focal_loss_of_labels():
    f_y = np.where(LABELS == 1, F, 1 - F)
    assert value("focal", LOGITS, LABELS) == pytest.approx((-((1 - f_y) ** 1.7) * np.log(f_y)).mean(), rel=1e-12)


def test_focal_loss_of_a_target_between_mixes_the_labels():
    none, all_, between = (value("focal", LOGITS, np.full(6, t)) for t in (0.0, 1.0, 0.3))
    assert between == pytest.approx(0.7 * none + 0.3 * all_)


def test_entropy_regularised():
    entropy = -(F * np.log(F) + (1 - F) * np.log(1 - F))
    assert value("entropy", LOGITS, SOFT) == pytest.approx((by_hand(SOFT) - 0.3 * entropy).mean(), rel=1e-12)


def test_maximum_mean_calibration_error():
    """A double loop over the pairs."""
    r = np.maximum(F, 1 - F)
    c = (F > 0.5) == (LABELS == 1)
    total = sum(
        (c[i] - r[i]) * (c[j] - r[j]) * np.exp(-abs(r[i] - r[j]) / 0.4) for i in range(len(r)) for j in range(len(r))
    )
    error = np.sqrt(total) / len(r)
    assert value("MMCE", LOGITS, LABELS) == pytest.approx(by_hand(LABELS).mean() + 0.7 * error, rel=1e-12)
    assert float(jax.jit(maximum_mean_calibration_error)(LOGITS, LABELS)) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("loss", [focal_loss, entropy_regularised, mmce_loss])
def test_limits_are_the_cross_entropy(loss):
    found = jax.jit(functools.partial(loss, **{"gamma" if loss is focal_loss else "beta": 0.0}))(LOGITS, SOFT)
    assert float(found) == pytest.approx(by_hand(SOFT).mean(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name):
    slope = np.asarray(compiled(name)(LOGITS, SOFT)[1])
    for i, direction in enumerate(np.eye(len(LOGITS))):
        change = value(name, LOGITS + 1e-6 * direction, SOFT) - value(name, LOGITS - 1e-6 * direction, SOFT)
        assert slope[i] == pytest.approx(change / 2e-6, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_and_perfect_predictions_stay_finite(name):
    """A wrong prediction of certainty costs its logit; right ones have no slope that is not a number."""
    logits, right = np.array([-800.0, 800.0] * 3), np.array([0.0, 1.0] * 3)
    loss, slope = compiled(name)(logits, right)
    assert float(loss) == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(slope).all()
    loss, slope = compiled(name)(logits, np.array([0.0, 0.0] * 3))
    assert 400 <= float(loss) < 401
    assert np.isfinite(slope).all()


def test_cross_entropy_of_soft_targets_is_least_at_the_targets():
    soft = np.linspace(0.1, 0.9, 6)
    np.testing.assert_allclose(compiled("cross entropy")(np.log(soft / (1 - soft)), soft)[1], 0, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: focal_loss(LOGITS, LABELS, -1.0), "gamma must be at least 0, got -1.0"),
        (lambda: focal_loss(LOGITS, LABELS, np.nan), "gamma must be at least 0, got nan"),
        (lambda: entropy_regularised(LOGITS, LABELS, -0.1), "beta must be at least 0"),
        (lambda: mmce_loss(LOGITS, LABELS, -0.1), "beta must be at least 0"),
        (lambda: mmce_loss(LOGITS, LABELS, 1.0, 0.0), "width must be positive, got 0.0"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()
