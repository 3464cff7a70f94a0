"""Conformal label sets of digits with noisy labels: sizes, coverage by class, and RAPS without its penalty."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from uqsparse import bench, data
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture
from uqsparse.bounds import MondrianConformal, SplitConformal
from uqsparse.bounds.scores import APS, LAC, RAPS

SYSTEM = "Conformal prediction"
N_CLASSES, N_TRAIN, N_CALIBRATION = 10, 600, 600
NOISE = 0.1
SPLITS, MANY_SPLITS = 15, 90
SETTING = "logistic regression on digits, 10% of labels replaced at random, split 600 / 600 / 597"


class Split(NamedTuple):
    """Predicted probabilities and labels of calibration and test digits."""

    probabilities: np.ndarray
    y: np.ndarray
    test_probabilities: np.ndarray
    test_y: np.ndarray


@functools.cache
def _split(seed: int) -> Split:
    rng = np.random.default_rng(seed)
    table = data.digits()
    X, y = np.asarray(table.X) / 16, np.array(table.y)
    noisy = rng.random(len(y)) < NOISE
    y[noisy] = rng.integers(N_CLASSES, size=noisy.sum())
    order = rng.permutation(len(y))
    train, calibration, test = np.split(order, [N_TRAIN, N_TRAIN + N_CALIBRATION])
    model = LogisticRegression(max_iter=1000).fit(X[train], y[train])
    return Split(model.predict_proba(X[calibration]), y[calibration], model.predict_proba(X[test]), y[test])


def _splits(context: bench.Context, n: int) -> list[Split]:
    return [_split(int(seed)) for seed in np.random.SeedSequence(context.seed).generate_state(n)]


def _lac_and_aps(context: bench.Context, n: int) -> tuple[np.ndarray, np.ndarray]:
    """At alpha = .15, whether each test digit is covered and by how many labels: (split, score, n)."""
    covered, sizes = [], []
    for i, split in enumerate(_splits(context, n)):
        both = [
            SplitConformal(score, 0.15).calibrate(split.probabilities, split.y).predict(split.test_probabilities)
            for score in (LAC(), APS(jax.random.key(i)))
        ]
        covered.append([sets.contains(split.test_y) for sets in both])
        sizes.append([sets.size() for sets in both])
    return np.array(covered), np.array(sizes)


@bench.claim("noisy digits at alpha 0.15: mean size of LAC sets over that of APS sets", system=SYSTEM)
def lac_is_smaller(context: bench.Context) -> bench.Measured:
    n = 2 if context.quick else SPLITS
    covered, sizes = _lac_and_aps(context, n)
    (lac, aps), (lac_covers, aps_covers) = sizes.mean((0, 2)), covered.mean((0, 2))
    detail = f"{n} splits; sizes {lac:.2f} and {aps:.2f}, coverage {lac_covers:.3f} and {aps_covers:.3f}; {SETTING}"
    return bench.Measured(lac / aps, "<=", 0.8, "APS, randomised", detail, (_size_picture(sizes),))


@bench.claim("noisy digits at alpha 0.15: coverage of LAC and APS sets differs by", system=SYSTEM, quick=False)
def lac_covers_as_aps(context: bench.Context) -> bench.Measured:
    covered, _ = _lac_and_aps(context, SPLITS)
    lac, aps = covered.mean((0, 2))
    detail = f"{SPLITS} splits; coverage {lac:.3f} and {aps:.3f}; {SETTING}"
    return bench.Measured(abs(lac - aps), "<=", 0.02, "APS, randomised", detail)


@bench.claim("RAPS without its penalty: scores that differ from those of APS in any bit", system=SYSTEM)
def raps_is_aps(context: bench.Context) -> bench.Measured:
    compared = differ = 0
    n = 1 if context.quick else SPLITS
    for i, split in enumerate(_splits(context, n)):
        key = jax.random.key(i)
        for dtype in (np.float64, np.float32):
            probabilities = split.test_probabilities.astype(dtype)
            for k in range(N_CLASSES):
                y = np.full(len(probabilities), k)
                with_penalty, plain = RAPS(key, lam=0.0, k_reg=1)(probabilities, y), APS(key)(probabilities, y)
                compared += len(y)
                bits = f"u{plain.itemsize}"
                differ += int(np.count_nonzero(with_penalty.view(bits) != plain.view(bits)))
    detail = f"{compared} scores of {n} splits of digits, single and double precision, all labels"
    return bench.Measured(differ, "==", 0, "APS with the same key", detail)


@bench.claim(
    "noisy digits at alpha 0.1: coverage of the worst class by class thresholds less that by one, in points",
    system=SYSTEM,
    quick=False,
)
def worst_class(context: bench.Context) -> bench.Measured:
    """The worst class is the one that is covered least on average over splits, for each method its own."""
    covered, sizes = [], []
    for split in _splits(context, MANY_SPLITS):
        both: list[Any] = [
            method.calibrate(split.probabilities, split.y).predict(split.test_probabilities)
            for method in (SplitConformal(LAC(), 0.1), MondrianConformal(LAC(), 0.1, by="label"))
        ]
        masks = [split.test_y == k for k in range(N_CLASSES)]
        covered.append([[sets.contains(split.test_y)[mask].mean() for mask in masks] for sets in both])
        sizes.append([[sets.size()[mask].mean() for mask in masks] for sets in both])
    by_class = np.array(covered)
    plain, mondrian = by_class.mean(0).min(axis=1)
    few_plain, few_mondrian = by_class[:SPLITS].mean(0).min(axis=1)
    detail = (
        f"{MANY_SPLITS} splits: {plain:.3f} with one threshold, {mondrian:.3f} with one a class (first {SPLITS}: "
        f"{few_plain:.3f}, {few_mondrian:.3f}); LAC; {SETTING}"
    )
    pictures = (_class_picture(by_class, np.array(sizes)),)
    return bench.Measured(100 * (mondrian - plain), ">=", 1.5, "LAC with one threshold", detail, pictures)


def _size_picture(sizes: np.ndarray) -> Picture:
    """Shares of sets by their number of labels."""
    figure = Figure(figsize=(6.4, 2.8), dpi=72, layout="constrained")
    axes = figure.subplots()
    labels = np.arange(N_CLASSES + 1)
    for j, (name, colour) in enumerate([("LAC", "#1f77b4"), ("APS", "#bbbbbb")]):
        shares = np.bincount(sizes[:, j].ravel(), minlength=N_CLASSES + 1) / sizes[:, j].size
        axes.bar(labels + 0.4 * (j - 0.5), shares, width=0.38, color=colour, label=name)
    axes.set_xticks(labels)
    axes.set_xlim(-0.6, sizes.max() + 0.6)
    axes.set_xlabel("labels in the set")
    axes.set_ylabel("share of test digits")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    caption = (
        "How many labels the sets of noisy digits hold at alpha 0.15: both scores cover alike, and APS adds labels to "
        "sets of digits that are easy"
    )
    return picture(figure, caption)


def _class_picture(covered: np.ndarray, sizes: np.ndarray) -> Picture:
    """Coverage and mean set size of each class, averages over splits with two standard errors."""
    figure = Figure(figsize=(6.4, 4.6), dpi=72, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for j, (name, colour, marker) in enumerate([("one threshold", "#808080", "s"), ("one a class", "#1f77b4", "o")]):
        place = np.arange(N_CLASSES) + 0.24 * (j - 0.5)
        for axes, values in ((above, covered[:, j]), (below, sizes[:, j])):
            error = 2 * values.std(0, ddof=1) / np.sqrt(len(values))
            axes.errorbar(place, values.mean(0), error, fmt=marker, color=colour, markersize=5, label=name)
    above.axhline(0.9, color="#000000", linewidth=1, linestyle="--")
    above.set_ylabel("coverage")
    above.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    below.set_ylabel("labels in the set")
    below.set_ylim(bottom=0)
    below.set_xlabel("digit")
    below.set_xticks(np.arange(N_CLASSES))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    caption = (
        "Coverage of each digit by LAC sets at alpha 0.1, and their mean sizes, with two standard errors over splits: "
        "one threshold for all leaves the hardest digit below 0.9, and one a class covers each, with larger sets"
    )
    return picture(figure, caption)
