"""PRESTO on real ordered outcomes: how women rate their marriage, and how sure tasters of a soup are."""

import functools
from collections.abc import Callable

import numpy as np

from uqsparse import bench
from uqsparse.bench.entries import presto_peers as peers
from uqsparse.data.ordinal_tables import fair, soup

SYSTEM = "PRESTO"
Scores = dict[str, dict[str, np.ndarray]]

METHODS: dict[str, Callable[..., np.ndarray]] = {
    "PRESTO": peers.presto,
    "PRESTO, c1 = 0": functools.partial(peers.presto, first_penalty=0.0),
    "proportional odds": peers.proportional_odds,
    "ridge proportional odds": peers.ridge_proportional_odds,
    "logistic": peers.logistic,
    "prevalence": lambda X, y, X_test: np.full(len(X_test), (y == y.max()).mean()),
}


def _scores(X: np.ndarray, y: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]]) -> Scores:
    """Scores of the rare probability on the test rows of each split, by method and score."""
    found: dict[str, dict[str, list[float]]] = {}
    for train, test in splits:
        rare = y[test] == y.max()
        for name, fit in METHODS.items():
            q = fit(X[train], y[train], X[test])
            scores = found.setdefault(name, {"log loss": [], "AUC": [], "calibration": []})
            scores["log loss"].append(peers.log_loss(q, rare))
            scores["AUC"].append(peers.area_under_curve(q, rare))
            scores["calibration"].append(peers.binned_calibration_error(q, rare))
    return {name: {score: np.array(one) for score, one in scores.items()} for name, scores in found.items()}


def _listed(found: Scores, score: str, factor: float = 1.0, digits: int = 4) -> str:
    return f"{score} " + ", ".join(f"{name} {factor * s[score].mean():.{digits}f}" for name, s in found.items())


@functools.cache
def _fair() -> Scores:
    """Ten random trainings of 800 rows in which every class has at least 5, tested on the 5566 others."""
    try:
        table = fair()
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None
    rng, splits = np.random.default_rng(0), []
    while len(splits) < 10:
        order = rng.permutation(len(table.y))
        if np.bincount(table.y[order[:800]], minlength=5).min() >= 5:
            splits.append((order[:800], order[800:]))
    return _scores(table.X, table.y, splits)


def _fair_detail() -> str:
    return f"10 trainings of 800; means: {_listed(_fair(), 'log loss')}; {_listed(_fair(), 'AUC', digits=3)}"


def _fair_wins(rival: str) -> float:
    found = _fair()
    return float((found["PRESTO"]["log loss"] < found[rival]["log loss"]).sum())


@bench.claim(
    "fair: trainings of 10 in which PRESTO's rare log loss beats proportional odds", system=SYSTEM, quick=False
)
def fair_against_proportional_odds(context: bench.Context) -> bench.Measured:
    """The rare class, "very poor", holds 1.6 %."""
    return bench.Measured(_fair_wins("proportional odds"), ">=", 6, "statsmodels OrderedModel", _fair_detail())


@bench.claim(
    "fair: trainings of 10 in which PRESTO's rare log loss beats logistic regression", system=SYSTEM, quick=False
)
def fair_against_logistic(context: bench.Context) -> bench.Measured:
    """About 12 of 800 rows are of the rare class."""
    return bench.Measured(_fair_wins("logistic"), "==", 10, "LogisticRegression(C=inf)", _fair_detail())


@bench.claim(
    "fair: PRESTO's rare log loss less that of the prevalence, mean of 10 trainings", system=SYSTEM, quick=False
)
def fair_against_prevalence(context: bench.Context) -> bench.Measured:
    """A model that does worse than the class's share has learnt nothing about it."""
    found = _fair()
    lead = float((found["PRESTO"]["log loss"] - found["prevalence"]["log loss"]).mean())
    return bench.Measured(lead, "<", 0.0, "the share of the class in the training rows", _fair_detail())


@bench.claim("soup: PRESTO's binned calibration error over that of proportional odds", system=SYSTEM, quick=False)
def soup_calibration(context: bench.Context) -> bench.Measured:
    """Tasters, not tastings, are split 90 to 10, ten times; ten bins of equal frequency, squared error."""
    try:
        table = soup()
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None
    assert table.groups is not None
    rng, people, splits = np.random.default_rng(0), np.unique(table.groups), []
    for _ in range(10):
        held_out = np.isin(table.groups, rng.choice(people, size=len(people) // 10, replace=False))
        splits.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    found = _scores(table.X, table.y, splits)
    ratio = float(found["PRESTO"]["calibration"].mean() / found["proportional odds"]["calibration"].mean())
    detail = (
        f"10 splits by taster; means: {_listed(found, 'calibration', 1e3, 2)} (x 1e3); {_listed(found, 'log loss')}"
    )
    return bench.Measured(ratio, "<", 1.0, "statsmodels OrderedModel", detail)
