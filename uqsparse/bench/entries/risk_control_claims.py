"""Conformal risk control keeps the expected loss below its level, and not far below it."""

import functools
import warnings
from typing import NamedTuple

import numpy as np

from uqsparse import bench
from uqsparse.bounds.risk_control import conformal_risk_control, false_negative_rate

SYSTEM = "Conformal prediction"
ALPHA, N, N_TEST, REPEATS = 0.1, 50, 100, 1000


class _Risk(NamedTuple):
    mean: float
    standard_error: float
    labels: float


def _multi_label(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Six labels that share a common factor, and a classifier that is too sure of itself."""
    common = rng.standard_normal((n, 1))
    logit = 1.2 * common + rng.standard_normal((n, 6)) - 0.5
    truth = rng.uniform(size=(n, 6)) < 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-3.0 * (logit + 0.5 * rng.standard_normal((n, 6))))), truth


def _missed_mass(scores: np.ndarray, truth: np.ndarray):
    """A loss that is continuous in lambda: how far the true labels are from being in the set, on average."""
    shortfall = np.where(truth, 1 - scores, -np.inf)
    n_true = np.maximum(truth.sum(1), 1)
    return lambda threshold: np.clip(3 * (shortfall - threshold), 0.0, 1.0).sum(1) / n_true


@functools.cache
def _false_negatives(seed: int) -> _Risk:
    return _repeat(seed, false_negative_rate)


@functools.cache
def _continuous(seed: int) -> _Risk:
    return _repeat(seed, _missed_mass)


def _repeat(seed: int, loss) -> _Risk:
    rng = np.random.default_rng(seed)
    risks, labels = np.empty(REPEATS), np.empty(REPEATS)
    for i in range(REPEATS):
        scores, truth = _multi_label(rng, N + N_TEST)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no threshold is infinite here
            found = conformal_risk_control(loss(scores[:N], truth[:N]), (0.0, 1.0), ALPHA)
        risks[i] = loss(scores[N:], truth[N:])(found.threshold).mean()
        labels[i] = found.predict(scores[N:]).size().mean()
    return _Risk(risks.mean(), risks.std(ddof=1) / np.sqrt(REPEATS), labels.mean())


def _detail(risk: _Risk, loss: str) -> str:
    return (
        f"{loss}; {REPEATS} repeats with n = {N} and {N_TEST} test points, 6 labels, standard error "
        f"{risk.standard_error:.5f}; sets hold {risk.labels:.2f} labels"
    )


def _at_most(risk: _Risk, loss: str) -> bench.Measured:
    bound = ALPHA + 3 * risk.standard_error
    return bench.Measured(risk.mean, "<=", bound, f"alpha = {ALPHA:g}, plus 3 standard errors", _detail(risk, loss))


def _at_least(risk: _Risk, loss: str) -> bench.Measured:
    bound = ALPHA - 2 / (N + 1) - 3 * risk.standard_error
    comparator = f"alpha - 2 B / (n + 1), alpha = {ALPHA:g}, less 3 standard errors"
    return bench.Measured(risk.mean, ">=", bound, comparator, _detail(risk, loss))


@bench.claim("risk control: the mean false negative rate stays below its level", system=SYSTEM, quick=False)
def false_negatives_below(context: bench.Context) -> bench.Measured:
    return _at_most(_false_negatives(0), "share of true labels missed")


@bench.claim("risk control: the mean false negative rate is not far below its level", system=SYSTEM, quick=False)
def false_negatives_near(context: bench.Context) -> bench.Measured:
    return _at_least(_false_negatives(0), "share of true labels missed, whose jumps have continuous laws")


@bench.claim("risk control: a mean loss continuous in lambda stays below its level", system=SYSTEM, quick=False)
def continuous_below(context: bench.Context) -> bench.Measured:
    return _at_most(_continuous(0), "clipped distance of true labels from the set")


@bench.claim("risk control: a mean loss continuous in lambda is not far below its level", system=SYSTEM, quick=False)
def continuous_near(context: bench.Context) -> bench.Measured:
    return _at_least(_continuous(0), "clipped distance of true labels from the set")
