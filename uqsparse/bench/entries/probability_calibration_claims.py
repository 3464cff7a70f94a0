"""Calibrated probabilities: metrics against closed forms, bands against exact coverage, recalibrators against truth."""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binom

from uqsparse import bench
from uqsparse.bench.plots import picture
from uqsparse.bounds.binomial_limits import clopper_pearson
from uqsparse.bounds.calibration import (
    Beta,
    Isotonic,
    Platt,
    Temperature,
    auc,
    brier,
    brier_decomposition,
    expected_calibration_error,
    isotonic_band,
    ks_error,
    maximum_calibration_error,
    mse_to_truth,
    reliability_curve,
)
from uqsparse.bounds.calibration.binning import Binning

SYSTEM = "Calibrated probabilities"


def _distorted(
    rng: np.random.Generator, n: int, slope: float, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True probabilities, outcomes, and predictions whose log-odds are slope * logit(p) + shift."""
    p = rng.beta(2.0, 2.0, n)
    return p, rng.random(n) < p, expit(slope * logit(p) + shift)


@bench.claim("ECE, MCE, KS, AUC and Brier of twelve points are their closed forms", system=SYSTEM)
def twelve_points(context: bench.Context) -> bench.Measured:
    """Worked out by hand, in bins of both kinds."""
    q = np.array([0.05, 0.10, 0.15, 0.30, 0.35, 0.40, 0.55, 0.60, 0.65, 0.80, 0.85, 0.90])
    y = np.array([0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0])
    found = {
        1 / 8: expected_calibration_error(q, y, 4).value,
        7 / 30: maximum_calibration_error(q, y, 4).value,
        11 / 60: expected_calibration_error(q, y, 5, "width").value,
        3 / 8: maximum_calibration_error(q, y, 5, "width").value,
        1 / 10: ks_error(q, y),
        2 / 3: auc(q, y),
        2.965 / 12: brier(q, y),
    }
    worst = max(abs(value - exact) for exact, value in found.items())
    detail = "ECE 1/8 and MCE 7/30 in 4 bins of equal mass, 11/60 and 3/8 in 5 of equal width; KS 1/10, AUC 2/3"
    return bench.Measured(worst, "<=", 1e-14, "fractions by hand", detail)


@bench.claim("curves are scikit-learn's, and the Brier score is the sum of Murphy's terms", system=SYSTEM)
def curves_and_terms(context: bench.Context) -> bench.Measured:
    """Where definitions agree: a number of rows that the bins divide, and no ties."""
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(context.seed)
    worst_curve = worst_sum = 0.0
    sets = 40 if context.quick else 400
    for _ in range(sets):
        _, y, q = _distorted(rng, 300, rng.uniform(0.3, 3), rng.normal())
        kinds: tuple[tuple[Binning, str], ...] = (("mass", "quantile"), ("width", "uniform"))
        for binning, strategy in kinds:
            curve = reliability_curve(q, y, 15, binning)
            share, mean = calibration_curve(y, q, n_bins=15, strategy=strategy)
            gaps = np.abs(curve.predicted - mean).max(), np.abs(curve.observed - share).max()
            worst_curve = max(worst_curve, *gaps)
            terms = brier_decomposition(q, y, 15, binning)
            worst_sum = max(worst_sum, abs(terms.total() - brier(q, y)))
    detail = f"{sets} sets of 300 rows, 15 bins of both kinds; curves {worst_curve:.1g}, sums {worst_sum:.1g}"
    return bench.Measured(max(worst_curve, worst_sum), "<=", 1e-12, "calibration_curve; the score itself", detail)


@bench.claim("the Brier score is the distance to the truth plus the noise of outcomes", system=SYSTEM)
def brier_identity(context: bench.Context) -> bench.Measured:
    """Given q and p, with the exact standard error."""
    p, y, q = _distorted(np.random.default_rng(context.seed), 100_000, 1.8, 0.5)
    error = np.sqrt(np.sum(p * (1 - p) * (1 - 2 * q) ** 2)) / len(p)
    gap = brier(q, y) - mse_to_truth(q, p) - np.mean(p * (1 - p))
    detail = (
        f"100 000 rows: Brier {brier(q, y):.4f}, distance {mse_to_truth(q, p):.4f}, noise {np.mean(p * (1 - p)):.4f}"
    )
    return bench.Measured(abs(gap) / error, "<=", 4, "the identity in expectation, in standard errors", detail)


def _count_law(p: np.ndarray) -> np.ndarray:
    """The law of the number of events of independent rows, by convolution."""
    law = np.ones(1)
    for one in p:
        law = np.convolve(law, [1 - one, one])
    return law


@bench.claim("the 95% limits of a bin cover its mean probability at least 95% of the time", system=SYSTEM)
def exact_coverage(context: bench.Context) -> bench.Measured:
    """By enumeration, not by simulation: equal probabilities on a grid, and unequal ones at random."""
    rng = np.random.default_rng(context.seed)
    least = {"equal": 1.0, "unequal": 1.0}
    sizes = (1, 2, 5, 10, 20, 50) if context.quick else range(1, 101)
    per_size = 40 if context.quick else 300
    for n in sizes:
        hits = np.arange(n + 1)
        low, high = clopper_pearson(hits, np.full(n + 1, n), 0.025)
        grid = np.linspace(0.001, 0.999, 500)
        covered = (low[:, None] <= grid) & (grid <= high[:, None])
        least["equal"] = min(least["equal"], (binom.pmf(hits[:, None], n, grid) * covered).sum(axis=0).min())
        for _ in range(per_size):
            a, b = np.exp(rng.normal(0, 1.5, size=2))
            p = rng.beta(a, b, n)
            covered = (low <= p.mean()) & (p.mean() <= high)
            least["unequal"] = min(least["unequal"], _count_law(p) @ covered)
    detail = f"{len(sizes)} sizes of bins up to {max(sizes)}; least coverage, equal {least['equal']:.4f}, " + (
        f"unequal {least['unequal']:.4f}"
    )
    return bench.Measured(min(least.values()), ">=", 0.95, "enumerated laws of the number of events", detail)


@bench.claim("95% bands of a whole reliability curve miss anywhere at most 5% of the time", system=SYSTEM)
def simultaneous_coverage(context: bench.Context) -> bench.Measured:
    """Predictions that are off, whose true curve is known, and calibrated ones, against the diagonal."""
    from uqsparse.bounds.calibration.calibration_plots import reliability_diagram

    rng = np.random.default_rng(context.seed)
    repeats, n = (150 if context.quick else 2000), 1000
    misses = {"15 bins": 0, "without bins": 0, "calibrated, 15 bins": 0, "calibrated, without bins": 0}
    found = {"15 bins": 0, "without bins": 0}
    for _ in range(repeats):
        p, y, q = _distorted(rng, n, 1.6, 0.4)
        curve, band = reliability_curve(q, y), isotonic_band(q, y)
        means = np.array([p[rows].mean() for rows in np.array_split(np.argsort(q), 15)])
        misses["15 bins"] += bool(((means < curve.simultaneous.low) | (means > curve.simultaneous.high)).any())
        low, high = band.at(q)
        misses["without bins"] += bool(((p < low) | (p > high)).any())
        found["15 bins"] += curve.rejects_calibration
        found["without bins"] += band.rejects_calibration
        calibrated = rng.random(n) < q
        misses["calibrated, 15 bins"] += reliability_curve(q, calibrated).rejects_calibration
        misses["calibrated, without bins"] += isotonic_band(q, calibrated).rejects_calibration
    listed = ", ".join(f"{name} {100 * count / repeats:.2f}%" for name, count in misses.items())
    power = ", ".join(f"{name} {100 * count / repeats:.1f}%" for name, count in found.items())
    detail = f"{repeats} repetitions of {n} rows; misses: {listed}; the distortion is found by: {power}"
    p, y, q = _distorted(rng, 3000, 1.6, 0.4)
    fitted, new = slice(0, 1000), slice(1000, None)
    drawn = {
        "log-odds 1.6 logit(p) + 0.4": q[new],
        "after temperature": Temperature().fit(q[fitted], y[fitted])(q[new]),
        "after Platt": Platt().fit(q[fitted], y[fitted])(q[new]),
    }
    caption = "Reliability of distorted predictions before and after two recalibrators, 2000 new rows"
    diagram = picture(reliability_diagram(drawn, y[new]), caption)
    chance = float(binom.sf(max(misses.values()) - 1, repeats, 0.05))
    against = "the chance of so many misses at a rate of 5%; below 1e-4 the band is refuted"
    return bench.Measured(chance, ">=", 1e-4, against, detail, (diagram,))


@bench.claim("Platt scaling recovers a distortion of log-odds within its standard errors", system=SYSTEM)
def platt_recovers(context: bench.Context) -> bench.Measured:
    """Slopes and intercepts of many fits, in standard errors that the fit reports."""
    rng = np.random.default_rng(context.seed)
    z = []
    distortions = ((1.7, 0.6), (0.5, -0.4), (3.0, 0.0), (1.0, 0.0))
    repeats = 15 if context.quick else 250
    for slope, shift in distortions:
        for _ in range(repeats):
            _, y, q = _distorted(rng, 2000, slope, shift)
            fit = Platt().fit(q, y)
            off = np.array([fit.slope_ - 1 / slope, fit.intercept_ + shift / slope])
            z.extend(off / np.sqrt(np.diag(fit.covariance_)))
    share = float(np.mean(np.abs(z) <= 3))
    detail = f"{len(z) // 2} fits to 2000 rows, 4 distortions; largest {np.abs(z).max():.2f} standard errors"
    return bench.Measured(share, ">=", 0.98, "share within 3 standard errors; 0.997 is nominal", detail)


@bench.claim("the isotonic map is the pool of adjacent violators", system=SYSTEM)
def isotonic_is_pava(context: bench.Context) -> bench.Measured:
    """The formula of largest least means over all runs, and that the map never falls in between."""
    rng = np.random.default_rng(context.seed)
    worst = 0.0
    sets = 10 if context.quick else 100
    for _ in range(sets):
        _, y, q = _distorted(rng, 60, 1.6, 0.4)
        order = np.argsort(q)
        sums = np.append(0, np.cumsum(y[order]))
        right, left = np.meshgrid(np.arange(60), np.arange(60))
        means = np.where(left <= right, (sums[right + 1] - sums[left]) / np.maximum(right - left + 1, 1), np.inf)
        # Least mean of a run from i that reaches k or further, then the largest over i <= k.
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        exact = np.array([least[: k + 1, k].max() for k in range(60)])
        isotonic = Isotonic().fit(q, y)
        worst = max(worst, np.abs(isotonic(q[order]) - exact).max())
        worst = max(worst, -np.diff(isotonic(np.linspace(0, 1, 501))).min())
    return bench.Measured(worst, "<=", 1e-12, "brute force over all runs", f"{sets} sets of 60 rows")


@bench.claim("beta calibration contains the identity", system=SYSTEM)
def beta_identity(context: bench.Context) -> bench.Measured:
    """At slopes 1 and intercept 0 it returns its input; so no fit can have a larger log loss than the input."""
    rng = np.random.default_rng(context.seed)
    worst = -np.inf
    for _ in range(10):
        _, y, q = _distorted(rng, 500, 1.0, 0.0)
        beta = Beta().fit(q, y)
        chance = np.stack([np.where(y, one, 1 - one) for one in (beta(q), q)])
        worst = max(worst, float(np.diff(np.log(chance).mean(axis=1))[0]))
        beta.slopes_, beta.intercept_ = np.ones(2), 0.0
        worst = max(worst, np.abs(beta(q) - q).max())
    detail = "10 sets of 500 calibrated rows; the largest of |map - q| and of the loss gained over the input"
    return bench.Measured(worst, "<=", 1e-12, "the input", detail)


@bench.claim("a shift of log-odds is undone by Platt and beta, not by temperature", system=SYSTEM)
def shift(context: bench.Context) -> bench.Measured:
    """Held-out rows for the fit, new rows for the distance to the truth."""
    rng = np.random.default_rng(context.seed)
    repeats = 5 if context.quick else 100
    distance: dict[str, float] = dict.fromkeys(("none", "temperature", "Platt", "beta", "isotonic"), 0.0)
    for _ in range(repeats):
        p, y, q = _distorted(rng, 3000, 1.2, 0.8)
        fitted, new = slice(0, 1000), slice(1000, None)
        maps = {"temperature": Temperature(), "Platt": Platt(), "beta": Beta(), "isotonic": Isotonic()}
        distance["none"] += mse_to_truth(q[new], p[new]) / repeats
        for name, one in maps.items():
            distance[name] += mse_to_truth(one.fit(q[fitted], y[fitted])(q[new]), p[new]) / repeats
    ratio = max(distance["Platt"], distance["beta"]) / distance["temperature"]
    listed = ", ".join(f"{name} {100 * value:.3f}" for name, value in distance.items())
    detail = f"log-odds 1.2 logit(p) + 0.8, {repeats} repetitions, 1000 rows to fit; 100 MSE to the truth: {listed}"
    return bench.Measured(ratio, "<=", 0.2, "distance to the truth after temperature scaling", detail)
