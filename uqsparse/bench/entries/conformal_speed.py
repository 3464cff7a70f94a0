"""Conformal prediction against MAPIE on the same arrays, and at the scale where all pairs of points would not fit.

Both sides calibrate on n observations and predict n others. Models cost nothing: their predictions are columns of the
inputs, which a trivial regressor looks up, on either side through the same calls a user would make.
"""

import functools
import importlib
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import PredefinedSplit

from uqsparse import bench
from uqsparse.bounds.conformal import SplitConformal
from uqsparse.bounds.cross_conformal import CVPlus
from uqsparse.bounds.scores import APS, AbsoluteResidual

SYSTEM = "Conformal prediction"
ALPHA, CONFIDENCE = 0.1, 0.9
SCALE = 50_000
N_FOLDS = 5


def _mapie(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"mapie.{name}")
    except ImportError as error:
        raise bench.NotMeasured(f"MAPIE is not installed (pip install mapie): {error}") from None


class _Lookup(RegressorMixin, BaseEstimator):
    """Predicts column 1 + k of X, where k is the fold (column 0) it has not been fitted to."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "_Lookup":
        rows = np.bincount(X[:, 0].astype(int), minlength=N_FOLDS)
        self.column_, self.fitted_ = 1 + int(np.argmin(rows)), True
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, self.column_]


class _LookupClasses(ClassifierMixin, BaseEstimator):
    """Its probabilities are its inputs."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "_LookupClasses":
        self.classes_, self.fitted_ = np.arange(X.shape[1]), True
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X


class _Data(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    folds: np.ndarray


@functools.lru_cache(maxsize=4)
def _regression(n: int) -> _Data:
    """Predictions of five models that differ by .3 and miss by 1; column 0 is the fold."""
    rng = np.random.default_rng(0)
    folds = rng.permutation(np.arange(n) % N_FOLDS)
    truth = 2 * rng.standard_normal(2 * n)
    X = truth[:, None] + np.column_stack([np.zeros(2 * n), 0.3 * rng.standard_normal((2 * n, N_FOLDS))])
    X[:, 0] = np.append(folds, np.zeros(n))
    y = truth + rng.standard_normal(2 * n)
    return _Data(X[:n], y[:n], X[n:], y[n:], folds)


@functools.lru_cache(maxsize=2)
def _classes(n: int, n_classes: int = 10) -> _Data:
    """Labels drawn from the probabilities that are predicted."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2 * n, n_classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (probabilities.cumsum(axis=1) > rng.random((2 * n, 1))).argmax(axis=1)
    return _Data(probabilities[:n], y[:n], probabilities[n:], y[n:], np.zeros(0))


def our_split(data: _Data, model: _Lookup) -> tuple[np.ndarray, np.ndarray]:
    """Both ends, each of shape (n,)."""
    calibrated = SplitConformal(AbsoluteResidual(), ALPHA).calibrate(model.predict(data.X), data.y)
    sets: Any = calibrated.predict(model.predict(data.X_test))
    return sets.lower, sets.upper


def our_cv_plus(data: _Data) -> tuple[np.ndarray, np.ndarray]:
    """Both ends, each of shape (n,)."""
    fitted = CVPlus(ALPHA).fit(_Lookup(), data.X, data.y, cv=PredefinedSplit(data.folds))
    sets = fitted.predict(data.X_test)
    return sets.lower, sets.upper


def _require_same(ours: Any, peer: Any) -> None:
    """A contest between different answers measures nothing."""
    if not np.array_equal(ours, peer):
        apart = np.abs(np.asarray(ours) - np.asarray(peer)).max()
        raise ValueError(f"the two sides return different intervals, up to {apart:.3g} apart")


@bench.speed(
    "conformal split intervals, 50,000 x 50,000, against MAPIE",
    ours="uqsparse",
    peer="MAPIE",
    at_least=10.0,
    unit="calibration and prediction",
    quick=False,
)
def split_against_mapie(context: bench.Context) -> bench.Contest:
    """`SplitConformalRegressor(prefit=True)` with absolute residuals; its intervals are the same."""
    peer_class = _mapie("regression").SplitConformalRegressor
    data = _regression(SCALE)
    model = _Lookup().fit(data.X, data.y)

    def ours(i: int) -> Any:
        return our_split(data, model)

    def peer(i: int) -> Any:
        calibrated = peer_class(model, confidence_level=CONFIDENCE, prefit=True).conformalize(data.X, data.y)
        return calibrated.predict_interval(data.X_test)[1][:, :, 0].T

    _require_same(ours(0), peer(0))
    return bench.Contest(ours, peer, rounds=25)


@bench.speed(
    "conformal CV+ intervals, five folds, against MAPIE",
    ours="uqsparse",
    peer="MAPIE",
    at_least=10.0,
    unit="calibration and prediction",
    quick=True,
)
def cv_plus_against_mapie(context: bench.Context) -> bench.Contest:
    """`CrossConformalRegressor(method="plus")` on the same folds; 5,000 x 5,000, or 2,500 x 2,500 in the quick suite.

    At 50,000 x 50,000 it would hold arrays of 18.6 GiB.
    """
    peer_class = _mapie("regression").CrossConformalRegressor
    data = _regression(2500 if context.quick else 5000)

    def ours(i: int) -> Any:
        return our_cv_plus(data)

    def peer(i: int) -> Any:
        regressor = peer_class(
            _Lookup(), confidence_level=CONFIDENCE, method="plus", cv=PredefinedSplit(data.folds)
        ).fit_conformalize(data.X, data.y)
        return regressor.predict_interval(data.X_test)[1][:, :, 0].T

    _require_same(ours(0), peer(0))
    return bench.Contest(ours, peer, rounds=3 if context.quick else 5)


@bench.speed(
    "conformal APS label sets, ten classes, 50,000 x 50,000, against MAPIE",
    ours="uqsparse",
    peer="MAPIE",
    at_least=10.0,
    unit="calibration and prediction",
    quick=False,
)
def aps_against_mapie(context: bench.Context) -> bench.Contest:
    """Both randomised, each by its own uniform numbers, so that sets agree in size and coverage, not one by one."""
    peer_class = _mapie("classification").SplitConformalClassifier
    data = _classes(SCALE)
    model = _LookupClasses().fit(data.X, data.y)

    def ours(i: int) -> np.ndarray:
        calibrated = SplitConformal(APS(key=jax.random.key(i)), ALPHA).calibrate(model.predict_proba(data.X), data.y)
        sets: Any = calibrated.predict(model.predict_proba(data.X_test))
        return sets.member

    def peer(i: int) -> np.ndarray:
        classifier = peer_class(
            model, confidence_level=CONFIDENCE, prefit=True, conformity_score="aps", random_state=i
        ).conformalize(data.X, data.y)
        return classifier.predict_set(data.X_test, conformity_score_params={"include_last_label": "randomized"})[1][
            :, :, 0
        ]

    sizes = [side(0).sum(axis=1).mean() for side in (ours, peer)]
    if abs(sizes[0] / sizes[1] - 1) > 0.01:
        raise ValueError(f"the two sides return sets of different mean size, {sizes[0]:.3f} and {sizes[1]:.3f}")

    def off_coverage(results: Any) -> float:
        covered = [sets[np.arange(SCALE), data.y_test].mean() for sets in results]
        return float(np.abs(np.array(covered) - (1 - ALPHA)).mean())

    return bench.Contest(ours, peer, rounds=7, error=off_coverage)


class _Footprint(NamedTuple):
    seconds: dict[str, float]
    peak_bytes: float
    covered: dict[str, float]


def _at_scale() -> _Footprint:
    """Both methods at 50,000 x 50,000, in a process that does nothing else; its peak counts all it has loaded."""
    data = _regression(SCALE)
    seconds, covered = {}, {}
    for name, run in (
        ("split", lambda: our_split(data, _Lookup().fit(data.X, data.y))),
        ("CV+", lambda: our_cv_plus(data)),
    ):
        start = time.perf_counter()
        lower, upper = run()
        seconds[name] = time.perf_counter() - start
        covered[name] = float(((lower <= data.y_test) & (data.y_test <= upper)).mean())
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return _Footprint(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, covered)


@functools.cache
def _footprint() -> _Footprint:
    if multiprocessing.current_process().daemon:
        raise bench.NotMeasured("a process of its own cannot be started here")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(_at_scale).result()


def _detail(found: _Footprint) -> str:
    parts = [f"{name} {found.seconds[name]:.2f} s, coverage {found.covered[name]:.4f}" for name in found.seconds]
    return f"50,000 calibration x 50,000 test points, alpha .1, five folds: {'; '.join(parts)}"


@bench.claim("split and CV+ intervals at 50,000 x 50,000: GiB at the peak", system=SYSTEM, quick=False)
def scale_memory(context: bench.Context) -> bench.Measured:
    """Of a process of its own, with everything that Python has loaded."""
    found = _footprint()
    return bench.Measured(found.peak_bytes / 2**30, "<", 2.0, "2 GiB; an array of all pairs takes 18.6", _detail(found))


@bench.claim("split and CV+ intervals at 50,000 x 50,000: seconds for both", system=SYSTEM, quick=False)
def scale_seconds(context: bench.Context) -> bench.Measured:
    """Calibration and prediction; the models cost nothing."""
    found = _footprint()
    return bench.Measured(sum(found.seconds.values()), "<", 20.0, "20 s", _detail(found))
