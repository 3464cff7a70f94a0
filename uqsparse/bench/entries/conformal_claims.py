"""Conformal prediction: thresholds against exact arithmetic and a peer, and coverage over many repetitions."""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from uqsparse import bench
from uqsparse.bench.plots import picture
from uqsparse.bounds import ConformalBayes, MondrianConformal, SplitConformal, conformal_quantile
from uqsparse.bounds.scores import APS, AbsoluteResidual, QuantileResidual

SYSTEM = "Conformal prediction"
ALPHA, N, N_NEW = 0.1, 50, 200
N_CLASSES = 6


@bench.claim("split conformal thresholds are exact order statistics, as MAPIE's are", system=SYSTEM)
def thresholds(context: bench.Context) -> bench.Measured:
    """Every (n, alpha) at which a finite threshold exists and MAPIE gives one."""
    try:
        from mapie.regression import SplitConformalRegressor
    except ImportError as error:
        raise bench.NotMeasured(f"MAPIE is missing: {error}") from None
    from sklearn.dummy import DummyRegressor

    rng = np.random.default_rng(context.seed)
    model = DummyRegressor(strategy="constant", constant=0.0).fit([[0.0]], [0.0])
    pairs = differ = differ_from_peer = 0
    for n in range(5, 401, 7 if context.quick else 1):
        y = rng.normal(size=n)
        for alpha in (0.01, 0.05, 0.1, 0.2, 0.3):
            rank = math.ceil((n + 1) * (1 - Fraction(str(alpha))))
            if n * alpha < 1 or rank > n:  # the peer refuses fewer than 1 / alpha scores
                continue
            ours = conformal_quantile(abs(y), alpha)
            peer = SplitConformalRegressor(model, confidence_level=1 - alpha, prefit=True)
            _, intervals = peer.conformalize(np.zeros((n, 1)), y).predict_interval(np.zeros((1, 1)))
            pairs += 1
            differ += bool(ours != sorted(abs(y))[rank - 1])
            differ_from_peer += bool(ours != intervals[0, 1, 0])
    detail = (
        f"{pairs} pairs of n (5 to 400) and alpha; {differ} differ from exact arithmetic, {differ_from_peer} from MAPIE"
    )
    return bench.Measured(differ + differ_from_peer, "==", 0, "rational arithmetic and MAPIE, bit for bit", detail)


def _curved_heavy_tails(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A sine whose noise has three degrees of freedom and grows along x."""
    x = rng.uniform(-2, 2, size=n)
    return x, np.sin(2 * x) + (0.2 + 0.3 * (x + 2)) * rng.standard_t(3, size=n)


def _line(x: np.ndarray) -> np.ndarray:
    """A poor point prediction, as misspecified models give."""
    return 0.3 * x


def _quantiles(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicted quantiles that are too close, and closer where they should be wider."""
    return _line(x) - 1.0 + 0.2 * x, _line(x) + 1.0 - 0.2 * x


def _overconfident_classes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are sharper than the truth."""
    logits = 1.5 * rng.normal(size=(n, N_CLASSES))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    sharp = np.exp(2 * logits)
    return sharp / sharp.sum(1, keepdims=True), labels


def _coverages(repeats: int, seed: int, cover: Callable[[np.random.Generator], Any]) -> np.ndarray:
    """Share of fresh observations covered, in each repetition."""
    rng = np.random.default_rng(seed)
    return np.array([cover(rng) for _ in range(repeats)])


def _split(rng: np.random.Generator) -> float:
    (x, y), (new, new_y) = _curved_heavy_tails(rng, N), _curved_heavy_tails(rng, N_NEW)
    return SplitConformal(AbsoluteResidual(), ALPHA).calibrate(_line(x), y).predict(_line(new)).contains(new_y).mean()


def _quantile_regression(rng: np.random.Generator) -> float:
    (x, y), (new, new_y) = _curved_heavy_tails(rng, N), _curved_heavy_tails(rng, N_NEW)
    calibrated = SplitConformal(QuantileResidual(), ALPHA).calibrate(_quantiles(x), y)
    return calibrated.predict(_quantiles(new)).contains(new_y).mean()


def _label_sets(rng: np.random.Generator) -> float:
    import jax

    (p, y), (new, new_y) = _overconfident_classes(rng, N), _overconfident_classes(rng, N_NEW)
    score = APS(key=jax.random.key(0))
    return SplitConformal(score, ALPHA).calibrate(p, y).predict(new).contains(new_y).mean()


def laplace_around_a_line(slope: Any, x: Any, y: Any) -> Any:
    """A wrong model of the sine: log f(y | x, slope) up to a constant."""
    return -abs(y - slope * x)


def _conformal_bayes(rng: np.random.Generator) -> float:
    """Draws of the slope from a grid, and p-values of new observations by their weights."""
    (x, y), (new, new_y) = _curved_heavy_tails(rng, N), _curved_heavy_tails(rng, 20)
    slopes = np.linspace(-3, 3, 400)
    log_posterior = laplace_around_a_line(slopes[:, None], x, y).sum(1) - slopes**2 / 2
    masses = np.exp(log_posterior - log_posterior.max())
    draws = rng.choice(slopes, size=400, p=masses / masses.sum())
    return (ConformalBayes(laplace_around_a_line, draws).calibrate(x, y).pvalue(new, new_y) > ALPHA).mean()


def _groups(rng: np.random.Generator) -> np.ndarray:
    """Coverage in two groups, left and right, with 25 calibration observations each."""
    x, y = _curved_heavy_tails(rng, 8 * N)
    keep = np.concatenate([np.flatnonzero(x < 0)[: N // 2], np.flatnonzero(x >= 0)[: N // 2]])
    x, y = x[keep], y[keep]
    calibrated = MondrianConformal(AbsoluteResidual(), ALPHA).calibrate(_line(x), y, x >= 0)
    new, new_y = _curved_heavy_tails(rng, N_NEW)
    covered = calibrated.predict(_line(new), new >= 0).contains(new_y)
    return np.array([covered[new < 0].mean(), covered[new >= 0].mean()])


@bench.claim("split, quantile, label-set and Bayesian conformal sets cover between 0.89 and 0.92", system=SYSTEM)
def marginal_coverage(context: bench.Context) -> bench.Measured:
    """Heteroscedastic noise with heavy tails, wrong models, 50 calibration observations, alpha 0.1."""
    repeats = 300 if context.quick else 2000
    found = {
        "split": _coverages(repeats, context.seed, _split),
        "quantile regression": _coverages(repeats, context.seed, _quantile_regression),
        "APS, randomised": _coverages(repeats, context.seed, _label_sets),
        "conformal Bayes": _coverages(repeats, context.seed, _conformal_bayes),
    }
    means = {name: values.mean() for name, values in found.items()}
    spread = max(values.std() / math.sqrt(repeats) for values in found.values())
    listed = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    detail = f"{repeats} repetitions of n = {N}, standard errors at most {spread:.4f}; {listed}"
    worst = max(abs(mean - 0.905) for mean in means.values())
    return bench.Measured(worst, "<=", 0.015, "distance to the middle of [0.89, 0.92]; 46/51 = 0.902 is exact", detail)


@bench.claim("Mondrian prediction covers each group of 25 between 0.91 and 0.935", system=SYSTEM)
def group_coverage(context: bench.Context) -> bench.Measured:
    """The same data, cut into a quiet left and a noisy right half."""
    repeats = 400 if context.quick else 2000
    found = _coverages(repeats, context.seed, _groups)
    left, right = found.mean(0)
    spread = found.std(0).max() / math.sqrt(repeats)
    detail = f"{repeats} repetitions, standard errors {spread:.4f}; {left:.4f} and {right:.4f}"
    worst = max(abs(left - 0.9225), abs(right - 0.9225))
    return bench.Measured(
        worst, "<=", 0.0125, "distance to the middle of [0.91, 0.935]; 24/26 = 0.923 is exact", detail
    )


@functools.cache
def _thresholds_under_student(repeats: int, seed: int) -> np.ndarray:
    def threshold(rng: np.random.Generator) -> float:
        y = rng.standard_t(3, size=N)
        return float(SplitConformal(AbsoluteResidual(), ALPHA).calibrate(np.zeros(N), y).threshold)

    return _coverages(repeats, seed, threshold)


@bench.claim("coverage given the calibration set follows Beta(46, 5)", system=SYSTEM)
def conditional_coverage(context: bench.Context) -> bench.Measured:
    """Exact coverage of each calibrated threshold under the true law, against the law that theory states."""
    repeats = 2000
    coverage = 1 - 2 * stats.t(3).sf(_thresholds_under_student(repeats, context.seed))
    law: Any = stats.beta(46, 5)
    figure = Figure(figsize=(6.4, 2.6), dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.hist(coverage, bins=40, density=True, color="#bbbbbb")
    grid = np.linspace(0.65, 1, 200)
    axes.plot(grid, law.pdf(grid), label="Beta(46, 5)")
    axes.axvline(1 - ALPHA, color="#808080", linestyle="--", linewidth=1)
    axes.set(xlabel="coverage of one calibrated threshold", yticks=[])
    axes.legend(frameon=False)
    caption = (
        f"Coverage of {repeats} thresholds, each from {N} observations: the guarantee of 90% (dashed) is an average, "
        "and one calibration set may do worse"
    )
    pvalue = float(stats.kstest(coverage, law.cdf).pvalue)
    detail = f"{repeats} calibration sets of n = {N}; coverage from {coverage.min():.2f} to {coverage.max():.2f}"
    return bench.Measured(
        pvalue, ">", 0.001, "Kolmogorov-Smirnov p-value, bound 0.001", detail, (picture(figure, caption),)
    )
