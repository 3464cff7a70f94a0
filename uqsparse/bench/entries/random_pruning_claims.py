"""Claims about random masks that are fixed before training: ratios, size, positions and calibration."""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from matplotlib.figure import Figure
from scipy.optimize import brentq
from scipy.stats import spearmanr

from uqsparse.bench.entries.sparse_training_study import Bed, Trained, signals, train
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, Picture
from uqsparse.bench.registry import claim
from uqsparse.bounds.calibration.metrics import expected_calibration_error
from uqsparse.data.tables import digits
from uqsparse.pruning.allocation import Allocation, er, erk, erk_densities, ratio_of, uniform
from uqsparse.pruning.collectors import grasp_stats
from uqsparse.pruning.criteria import grasp, snip
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.selection import select_mask

_SYSTEM = "Random pruning"
_WIDTHS = (32, 64, 128, 256, 512)
_SEEDS, _FIVE = (0, 1, 2), (0, 1, 2, 3, 4)
Shapes = dict[str, tuple[int, ...]]

_SHAPES: dict[str, Shapes] = {
    "perceptron": {"0": (256, 40), "1": (256, 256), "2": (10, 256)},
    "kernels": {"0": (3, 3, 64, 128), "1": (3, 3, 4, 64), "2": (128, 12)},
    "LeNet": {"0": (300, 784), "1": (100, 300), "2": (10, 100)},
    "three dense": {"0": (4, 4), "1": (4, 4), "2": (8, 4), "3": (400, 400)},
    "ResNet": {"0": (16, 3, 3, 4), "1": (16, 16, 3, 4), "2": (32, 16, 1, 1), "3": (128, 64, 3, 3), "4": (12, 64)},
}


def _by_bisection(shapes: Shapes, density: float) -> np.ndarray:
    """min(1, eps p) with the one eps that meets the budget."""
    n = np.array([math.prod(shape) for shape in shapes.values()])
    p = np.array([sum(shape) for shape in shapes.values()]) / n
    eps: Any = brentq(lambda eps: (np.minimum(1, eps * p) * n).sum() - density * n.sum(), 0, 1 / p.min(), xtol=1e-15)
    return np.minimum(1, eps * p)


def _published(shapes: Shapes, density: float) -> np.ndarray:
    """What jaxpruner publishes: zeros rounded down leaf by leaf, leaves above 1 taken out, the highest first."""
    n = np.array([math.prod(shape) for shape in shapes.values()])
    total = np.array([sum(shape) for shape in shapes.values()])
    zeros, full = np.floor((1 - density) * n), np.zeros(len(n), bool)
    while True:
        eps = ((n - zeros)[~full].sum() - zeros[full].sum()) / total[~full].sum()
        p = np.where(full, -1, total / n)
        if eps * p.max() <= 1:
            return np.where(full, 1, eps * total / n)
        full |= p == p.max()


@claim("Erdős-Rényi densities are those of a bisection and of jaxpruner's formula", system=_SYSTEM)
def exact_densities(context: Context) -> Measured:
    """Five sets of shapes, density 1/4; the largest relative difference."""
    worst = 0.0
    for shapes in _SHAPES.values():
        found = np.array(list(erk_densities(shapes, 0.25).values()))
        for oracle in (_by_bisection(shapes, 0.25), _published(shapes, 0.25)):
            worst = max(worst, float(abs(found / oracle - 1).max()))
    return Measured(worst, "<=", 1e-9, "bisection, and formula with leaf sizes that 1/4 divides", ", ".join(_SHAPES))


@claim("Counts of all ratio rules sum to the budget exactly", system=_SYSTEM)
def exact_counts(context: Context) -> Measured:
    """Wrong sums, and counts outside 0 to the leaf's size: 3 rules, 5 sets of shapes, 100 densities."""
    wrong = 0
    for density in np.random.default_rng(context.seed).uniform(0.01, 1, 100):
        for shapes in _SHAPES.values():
            n = np.array([math.prod(shape) for shape in shapes.values()])
            for rule in (uniform, er, erk):
                counts = np.array(list(rule(allow_empty=True).counts(shapes, float(density)).values()))
                wrong += counts.sum() != round(float(density) * int(n.sum())) or ((counts < 0) | (counts > n)).any()
    return Measured(float(wrong), "==", 0, "round(density * N)", "1,500 allocations")


def _dense(inner: optax.GradientTransformation, key: Any, params: PyTree) -> optax.GradientTransformation:
    return inner


@cache
def _with_ratio(name: str, density: float, seeds: tuple[int, ...]) -> Trained:
    """Random positions with a rule's counts, or the best positions by SNIP."""

    def make(inner: optax.GradientTransformation, key: Any, params: PyTree) -> optax.GradientTransformation:
        if name == "SNIP mask":
            mask = select_mask(params, density, criterion=snip(), grads=_snip_grads(params))
            return static(inner, density=density, key=key, mask=mask)
        return static(inner, density=density, key=key, allocation=_rule(name, params))

    return train(make, seeds=seeds)


def _rule(name: str, params: PyTree) -> Allocation:
    if name == "SNIP ratio":
        return ratio_of(snip()(params, grads=_snip_grads(params)))
    if name == "GraSP ratio":
        return ratio_of(grasp()(params, stats=_grasp_stats(params)))
    return uniform() if name == "uniform" else erk()


def _loss(params: PyTree, batch: Any, temperature: float = 1.0) -> Any:
    """Of the perceptron with these weights: the parameters hold everything but the rectified units."""
    x, y = batch
    linear = [layer for layer in params.layers if layer is not None and hasattr(layer, "weight")]
    for i, layer in enumerate(linear):
        x = x @ layer.weight.T + layer.bias
        x = jax.nn.relu(x) if i + 1 < len(linear) else x / temperature
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


def _snip_grads(params: PyTree) -> PyTree:
    """Gradients on the first 128 signals."""
    bed = signals()
    return jax.grad(_loss)(params, (bed.x[:128], bed.y[:128]))


def _grasp_stats(params: PyTree) -> PyTree:
    """25 signals of each class, in two batches, logits over 200."""
    bed = signals()
    y = np.asarray(bed.y)
    rows = np.sort(np.concatenate([np.flatnonzero(y == label)[:25] for label in range(10)]))
    halves = [(bed.x[half], bed.y[half]) for half in np.array_split(rows, 2)]
    return grasp_stats(lambda params, batch: _loss(params, batch, 200.0), params, halves)


def _gap(better: Trained, worse: Trained) -> tuple[float, float]:
    """Difference of mean accuracies in points, and its standard error."""
    return 100 * (better.mean - worse.mean), 100 * float(np.hypot(better.error, worse.error))


@claim("At 5% of the weights Erdős-Rényi ratios are 4 points above uniform ones", system=_SYSTEM, quick=False)
def ratios_matter(context: Context) -> Measured:
    """Random masks, signals of ten digits, perceptron 40-256-256-10, Adam, 4,000 steps, 5 seeds."""
    found = {name: _with_ratio(name, 0.05, _FIVE) for name in ("uniform", "ERK")}
    low = _with_ratio("uniform", 0.02, _SEEDS)
    gap, error = _gap(found["ERK"], found["uniform"])
    detail = "; ".join(f"{name} {result}" for name, result in found.items())
    return Measured(gap, ">=", 4.0, "points", f"± {error:.1f}; {detail}; uniform at 2%: {low}")


@claim("Which weights a random mask keeps matters little, given SNIP's counts", system=_SYSTEM, quick=False)
def positions_do_not_matter(context: Context) -> Measured:
    """Accuracy of the SNIP mask less that of random masks with its counts, in points, 5% of the weights, 5 seeds."""
    mask, ratio = (_with_ratio(name, 0.05, _FIVE) for name in ("SNIP mask", "SNIP ratio"))
    gap, error = _gap(mask, ratio)
    return Measured(abs(gap), "<=", 1.0, "points", f"± {error:.1f}; SNIP mask {mask}; random with its counts {ratio}")


@claim("SNIP's counts matter: random masks with them are 3 points above uniform ones", system=_SYSTEM, quick=False)
def snip_ratios_matter(context: Context) -> Measured:
    """Accuracy in points, random masks of 5% of the weights, 5 seeds."""
    names = ("uniform", "ERK", "SNIP ratio", "GraSP ratio", "SNIP mask")
    found = {name: _with_ratio(name, 0.05, _FIVE) for name in names}
    gap, error = _gap(found["SNIP ratio"], found["uniform"])
    detail = "; ".join(f"{name} {result}" for name, result in found.items())
    return Measured(gap, ">=", 3.0, "points", f"± {error:.1f}; {detail}", (_ratio_picture(found),))


def _ratio_picture(found: dict[str, Trained]) -> Picture:
    figure = Figure(figsize=(6.4, 2.4), dpi=72, layout="constrained")
    ax = figure.subplots()
    for row, result in enumerate(found.values()):
        ax.plot(100 * result.accuracies, np.full(len(result.accuracies), row), "|", color="#808080", markersize=12)
        ax.plot(100 * result.mean, row, "o", color="#1f77b4")
        ax.plot(100 * (result.mean + result.error * np.array([-1, 1])), [row, row], color="#1f77b4")
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel("accuracy on the test signals, %")
    return picture(
        figure, "Accuracy of masks of 5% of the weights that are fixed before training: five seeds, mean and its error"
    )


@cache
def _by_width(width: int, sparse: bool) -> Trained:
    def make(inner: optax.GradientTransformation, key: Any, params: PyTree) -> optax.GradientTransformation:
        return static(inner, density=0.1, key=key)

    return train(make if sparse else _dense, widths=(width, width), steps=2000, seeds=_SEEDS)


def _gaps_by_width() -> tuple[list[tuple[float, float]], Picture]:
    dense, sparse = ([_by_width(width, which) for width in _WIDTHS] for which in (False, True))
    figure = Figure(figsize=(6.4, 3.2), dpi=72, layout="constrained")
    ax = figure.subplots()
    for results, label, colour in ((dense, "dense", "#808080"), (sparse, "10%, random, ERK", "#1f77b4")):
        means, errors = ([100 * getattr(one, name) for one in results] for name in ("mean", "error"))
        ax.errorbar(_WIDTHS, means, errors, fmt="o-", color=colour, label=label, capsize=3)
    ax.set_xscale("log", base=2)
    ax.set_xticks(_WIDTHS, [str(width) for width in _WIDTHS])
    ax.set_xlabel("width of the hidden layers")
    ax.set_ylabel("accuracy on the test signals, %")
    ax.legend(frameon=False)
    gaps = [_gap(one, other) for one, other in zip(dense, sparse, strict=True)]
    return gaps, picture(figure, "Accuracy of dense networks and of random tenths of them, by width, three seeds")


@claim("The gap between dense and random sparse networks closes with width", system=_SYSTEM, quick=False)
def size_matters(context: Context) -> Measured:
    """Spearman correlation of width and gap in accuracy; widths 32 to 512, 10% of the weights, ERK, 2,000 steps."""
    gaps, drawn = _gaps_by_width()
    detail = ", ".join(f"{width}: {gap:.1f} ± {error:.1f}" for width, (gap, error) in zip(_WIDTHS, gaps, strict=True))
    found: Any = spearmanr(_WIDTHS, [gap for gap, _ in gaps])
    return Measured(
        float(found.statistic),
        "<=",
        -0.8,
        "0",
        f"gap in points by width, 3 seeds: {detail}",
        (drawn,),
    )


@claim("At width 512 that gap is less than half of the gap at width 32", system=_SYSTEM, quick=False)
def gap_halves(context: Context) -> Measured:
    """The ratio of the two gaps, 3 seeds."""
    gaps, _ = _gaps_by_width()
    return Measured(gaps[-1][0] / gaps[0][0], "<", 0.5, "gap at width 32", f"{gaps[-1][0]:.1f} and {gaps[0][0]:.1f}")


@cache
def _noisy_digits() -> tuple[Bed, np.ndarray]:
    """1,297 handwritten digits to train and 500 to test, a fifth of all labels drawn anew; and the true test labels."""
    table, rng = digits(), np.random.default_rng(0)
    order = rng.permutation(len(table.y))
    x, y = (table.X[order] / 16).astype(np.float32), table.y[order].astype(np.int32)
    noisy = np.where(rng.uniform(size=len(y)) < 0.2, rng.integers(0, 10, len(y)), y).astype(np.int32)
    return Bed(*map(jnp.asarray, (x[:1297], noisy[:1297], x[1297:], noisy[1297:]))), y[1297:]


def _calibration(result: Trained, y: np.ndarray) -> np.ndarray:
    """Calibration error of the top label of each network, 15 bins of equal width."""
    errors = []
    for probabilities in result.probabilities:
        hit = (probabilities.argmax(axis=1) == y).astype(int)
        top = np.clip(probabilities.max(axis=1), 0, 1).astype(float)
        errors.append(expected_calibration_error(top, hit, 15, "width").value)
    return np.array(errors)


@cache
def _on_noisy_digits(sparse: bool) -> Trained:
    def make(inner: optax.GradientTransformation, key: Any, params: PyTree) -> optax.GradientTransformation:
        return static(inner, density=0.1, key=key)

    kind = make if sparse else _dense
    return train(kind, bed=_noisy_digits()[0], widths=(512, 512), steps=2000, seeds=_SEEDS)


def _calibration_gap(y: np.ndarray) -> tuple[float, str]:
    """ECE of the sparse networks less that of the dense ones, and both in words."""
    means, words = [], []
    for name, sparse in (("sparse", True), ("dense", False)):
        result = _on_noisy_digits(sparse)
        errors = _calibration(result, y)
        hits = 100 * (result.probabilities.argmax(axis=2) == y).mean(axis=1)
        means.append(errors.mean())
        spread = errors.std(ddof=1) / np.sqrt(len(errors))
        words.append(f"{name}: ECE {errors.mean():.3f} ± {spread:.3f}, accuracy {hits.mean():.1f}%")
    return float(means[0] - means[1]), "; ".join(words)


@claim("A random tenth of a wide network is calibrated no worse than all of it", system=_SYSTEM, quick=False)
def calibration(context: Context) -> Measured:
    """Difference of ECE, width 512; digits, a fifth of the labels redrawn in training and test; 3 seeds."""
    gap, words = _calibration_gap(np.asarray(_noisy_digits()[0].y_test))
    return Measured(gap, "<=", 0.0, "dense", words)


@claim("A random tenth, trained on noisy labels, is calibrated no worse on clean ones", system=_SYSTEM, quick=False)
def calibration_on_clean_labels(context: Context) -> Measured:
    """The same networks against true labels: who learned the noise well is then too cautious."""
    gap, words = _calibration_gap(_noisy_digits()[1])
    return Measured(gap, "<=", 0.0, "dense", words)
