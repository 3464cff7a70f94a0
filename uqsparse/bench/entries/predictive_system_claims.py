"""Conformal predictive systems on the diabetes data: calibrated, sharper where the predictive was wrong, and fast."""

import functools
import importlib
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats
from sklearn.linear_model import BayesianRidge

from uqsparse import bench, data
from uqsparse.bounds.predictive_systems import PredictiveSystem

SYSTEM = "Conformal prediction"
ALPHA = 0.1
N_FIT, N_CALIBRATION = 192, 150
# How many times too narrow the predictive distribution is made that the system is asked to mend.
TOO_NARROW = 3.0


def _normal_crps(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


class _Splits(NamedTuple):
    covered: np.ndarray
    crps: np.ndarray
    narrow_crps: np.ndarray
    honest_crps: np.ndarray


class _Split(NamedTuple):
    """Bayesian ridge regression of one split: predictions and targets in calibration, and in testing."""

    predictions: tuple[np.ndarray, np.ndarray]
    y: np.ndarray
    new_predictions: tuple[np.ndarray, np.ndarray]
    y_new: np.ndarray


def _split(rng: np.random.Generator, n_calibration: int) -> _Split:
    table = data.diabetes()
    rows = rng.permutation(len(table.y))
    fit, calibration, test = np.split(rows, [N_FIT, N_FIT + n_calibration])
    model = BayesianRidge().fit(table.X[fit], table.y[fit])
    mean, sd = model.predict(table.X[calibration], return_std=True)
    new_mean, new_sd = model.predict(table.X[test], return_std=True)
    return _Split((mean, sd), table.y[calibration], (new_mean, new_sd), table.y[test])


@functools.cache
def _splits(n_splits: int, seed: int) -> _Splits:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_splits):
        (mean, sd), y, (new_mean, new_sd), y_new = _split(rng, N_CALIBRATION)
        narrow = new_sd / TOO_NARROW
        new = PredictiveSystem.calibrate((mean, sd / TOO_NARROW), y).predict((new_mean, narrow))
        covered = new.interval(ALPHA).contains(y_new).mean()
        scores = (new.crps(y_new), _normal_crps(y_new, new_mean, narrow), _normal_crps(y_new, new_mean, new_sd))
        found.append((covered, *(one.mean() for one in scores)))
    return _Splits(*np.array(found).T)


@bench.claim("predictive systems: p-value of uniform transforms on diabetes", system=SYSTEM, quick=True)
def transforms_uniform(context: bench.Context) -> bench.Measured:
    """Each patient is ranked among those before: transforms made that way are independent and exactly uniform."""
    (mean, sd), y, _, _ = _split(np.random.default_rng(context.seed), len(data.diabetes().y) - N_FIT - 1)
    sd = sd / TOO_NARROW
    pit = []
    for i, key in enumerate(jax.random.split(jax.random.key(context.seed), len(y) - 1), start=1):
        new = PredictiveSystem.calibrate((mean[:i], sd[:i]), y[:i]).predict((mean[i : i + 1], sd[i : i + 1]))
        pit.append(new.pit(key, y[i : i + 1])[0])
    pvalue = stats.kstest(pit, "uniform").pvalue
    narrow = stats.kstest(stats.norm.cdf((y - mean) / sd), "uniform").pvalue
    detail = (
        f"Kolmogorov-Smirnov, {len(pit)} patients, each after calibration on those before it; the predictive itself, "
        f"three times too narrow, has p = {narrow:.2g}"
    )
    return bench.Measured(pvalue, ">", 1e-3, "false-alarm rate 0.001", detail)


@bench.claim("predictive systems: coverage of 90 % intervals on diabetes", system=SYSTEM, quick=True)
def intervals_cover(context: bench.Context) -> bench.Measured:
    covered = _splits(50 if context.quick else 500, 0).covered
    error = covered.std(ddof=1) / np.sqrt(len(covered))
    detail = (
        f"mean of {len(covered)} splits of 192 patients to fit, {N_CALIBRATION} to calibrate, 100 to test; expected "
        f"are 137 / 151 = 0.907, standard error {error:.4f}"
    )
    return bench.Measured(covered.mean(), ">=", 1 - ALPHA - 3 * error, "0.9, less 3 standard errors", detail)


@bench.claim("predictive systems: CRPS over that of the predictive three times too narrow", system=SYSTEM, quick=False)
def crps_mended(context: bench.Context) -> bench.Measured:
    found = _splits(50 if context.quick else 500, 0)
    ratio = found.crps.mean() / found.narrow_crps.mean()
    honest = found.crps.mean() / found.honest_crps.mean()
    detail = (
        f"diabetes, normal predictive of Bayesian ridge regression with a third of its standard deviation; mean CRPS "
        f"{found.crps.mean():.2f} against {found.narrow_crps.mean():.2f}; {honest:.3f} times that of the unspoilt one"
    )
    return bench.Measured(ratio, "<", 1.0, "the misspecified predictive", detail)


class _Race:
    """The same 2000 calibration residuals and 2000 test points on both sides."""

    def __init__(self) -> None:
        try:
            self._crepes = importlib.import_module("crepes")
        except ImportError as error:
            raise bench.NotMeasured(f"crepes is not installed: {error}") from None
        rng = np.random.default_rng(0)
        self.mean, self.y, self.new_mean, self.y_new = rng.standard_normal((4, 2000))

    def ours(self, i: int) -> tuple[np.ndarray, float]:
        new = PredictiveSystem.calibrate(self.mean, self.y).predict(self.new_mean)
        return new.quantile((0.05, 0.5, 0.95)), float(new.crps(self.y_new).mean())

    def peer(self, i: int) -> tuple[np.ndarray, float]:
        system = self._crepes.ConformalPredictiveSystem().fit(self.y - self.mean)
        percentiles = system.predict_percentiles(self.new_mean, higher_percentiles=[5, 50, 95])
        return percentiles, system.evaluate(self.new_mean, self.y_new, metrics=["CRPS"])["CRPS"]


def _mean_crps(results) -> float:
    return float(np.mean([crps for _, crps in results]))


@bench.speed(
    "predictive systems against crepes, percentiles and CRPS",
    ours="uqsparse",
    peer="crepes",
    at_least=10.0,
    unit="run",
    quick=False,
)
def systems_against_crepes(context: bench.Context) -> bench.Contest:
    """Calibration, three percentiles and the mean CRPS; shown as error is that mean, equal on both sides."""
    race = _Race()
    return bench.Contest(race.ours, race.peer, rounds=7, error=_mean_crps)
