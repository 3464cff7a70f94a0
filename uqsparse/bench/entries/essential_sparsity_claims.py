"""Claims about one-shot pruning of a trained network: its curve, its knee, and the instruments that find them."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from uqsparse.bench.entries import essential_sparsity_study as study
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, Picture
from uqsparse.bench.registry import claim
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.quiet_weights import change_point, quiet_weight_trace
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.sparsity_curves import Curve
from uqsparse.pruning.structures import NM, PerRow

_SYSTEM = "Essential sparsity"
_SEEDS = (0, 1, 2)
_GRID = np.arange(19) / 20
# N:M from the least to the most constrained, at half of the weights.
_PATTERNS = (NM(8, 16), NM(4, 8), NM(2, 4), NM(1, 2))


@claim("The knee of a noisy curve is found within 0.03 in 95% of draws", system=_SYSTEM)
def knee_is_found(context: Context) -> Measured:
    """Share of 200 two-segment curves, breakpoint from 0.2 to 0.7, slopes -0.1 and -2, noise 0.01, 19 sparsities."""
    rng = np.random.default_rng(context.seed)
    hits = 0
    for at in rng.uniform(0.2, 0.7, 200):
        values = 1 - 0.1 * _GRID - 1.9 * np.maximum(_GRID - at, 0) + 0.01 * rng.normal(size=19)
        hits += abs(Curve(_GRID, values).knee().sparsity - at) <= 0.03
    return Measured(hits / 200, ">=", 0.95, "the breakpoint", "200 draws")


@claim("Change points are exact, and smooth traces are not called abrupt", system=_SYSTEM)
def change_points_are_exact(context: Context) -> Measured:
    """Wrong answers: 100 noisy series of 30 with one jump of 20 noises, and 100 lines, roots and logistic curves."""
    rng = np.random.default_rng(context.seed)
    t, wrong = np.linspace(0, 1, 30), 0
    for _ in range(100):
        at = int(rng.integers(3, 28))
        found = change_point(0.2 * (np.arange(30) >= at) + 0.01 * rng.normal(size=30))
        wrong += found.at != at or not found.abrupt
        a, b, rate = rng.uniform([-1, -1, 2], [1, 1, 12])
        smooth = (a + b * t, a + b * np.sqrt(t), 1 / (1 + np.exp(-rate * (t - 0.5))))[int(rng.integers(3))]
        wrong += change_point(smooth).abrupt
    return Measured(float(wrong), "==", 0, "where the jump was put", "200 series")


@claim("Kept energy falls from unstructured masks down the chain of N:M", system=_SYSTEM, quick=False)
def kept_energy_falls(context: Context) -> Measured:
    """Rises along global, per layer, per row, 8:16, 4:8, 2:4, 1:2; 50 sets of two layers, half of the weights."""
    rng = np.random.default_rng(context.seed)
    sets = {"a": jnp.asarray(rng.standard_t(3, size=(50, 8, 32))), "b": jnp.asarray(rng.normal(size=(50, 16, 16)))}
    chain = [{}, {"allocation": uniform()}, {"structure": PerRow(), "allocation": uniform()}]
    chain += [{"structure": pattern} for pattern in _PATTERNS]

    def energies(how: dict) -> np.ndarray:
        def one(params: dict) -> jax.Array:
            kept = apply_mask(select_mask(params, 0.5, **how), params)
            return jnp.square(kept["a"]).sum() + jnp.square(kept["b"]).sum()

        return np.asarray(jax.vmap(one)(sets))

    kept = np.stack([energies(how) for how in chain])
    rises = int((np.diff(kept, axis=0) > 1e-5 * kept[0]).sum())
    shares = kept.mean(axis=1) / float(sum(jnp.square(leaf).sum() for leaf in sets.values()) / 50)
    return Measured(rises, "==", 0, "0 of 300", "mean share kept " + " / ".join(f"{share:.3f}" for share in shares))


def _losses(**how) -> np.ndarray:
    """Loss by seed and sparsity, nats a character."""
    return -np.stack([study.curve(seed, **how).performances for seed in _SEEDS])


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def _table(losses: np.ndarray, grid: tuple[float, ...] = study.GRID) -> str:
    return ", ".join(f"{s:g}: {_mean(column)}" for s, column in zip(grid, losses.T, strict=True))


@claim("One-shot pruning of a fifth of the weights costs less than 0.05 nats a character", system=_SYSTEM, quick=False)
def a_fifth_is_free(context: Context) -> Measured:
    """Transformer, 2 blocks of width 64, Python's documentation; 2,400 steps; one threshold on magnitudes; 3 seeds."""
    losses = _losses()
    return Measured(
        float((losses[:, 2] - losses[:, 0]).mean()), "<", 0.05, "dense", _table(losses), (_curves_picture(),)
    )


@claim("One-shot pruning of half of the weights costs more than 0.2 nats a character", system=_SYSTEM, quick=False)
def a_half_is_not(context: Context) -> Measured:
    """As above, with the same density in each layer beside it."""
    losses = _losses()
    detail = f"same density in each layer: {_table(_losses(allocation=uniform()))}"
    return Measured(float((losses[:, 5] - losses[:, 0]).mean()), ">", 0.2, "dense", detail)


def _knees(**how) -> tuple[np.ndarray, np.ndarray, str]:
    """Breakpoints and slope ratios by seed, and both in words with the bootstrap intervals."""
    knees = [study.curve(seed, **how).knee(jax.random.key(seed)) for seed in _SEEDS]
    words = [
        f"{knee.sparsity:.2f} [{knee.interval[0]:.2f}, {knee.interval[1]:.2f}], slopes {knee.slope_ratio:.1f} to 1"
        for knee in knees
        if knee.interval
    ]
    return np.array([knee.sparsity for knee in knees]), np.array([knee.slope_ratio for knee in knees]), "; ".join(words)


@claim("The knee of that curve lies between 25% and 50%", system=_SYSTEM, quick=False)
def knee_lies_between(context: Context) -> Measured:
    """The largest distance of three seeds' breakpoints from 37.5%; 720 windows of evaluation text, resampled."""
    at, _, words = _knees()
    free = [study.curve(seed).essential(0.01) for seed in _SEEDS]
    detail = f"{words}; 1% more loss at {', '.join(f'{s:.2f}' for s in free)}"
    return Measured(float(abs(at - 0.375).max()), "<=", 0.125, "0.375", detail)


@claim("Behind the knee the loss rises more than 4 times as fast", system=_SYSTEM, quick=False)
def knee_is_sharp(context: Context) -> Measured:
    """The smallest slope ratio of three seeds."""
    _, ratios, words = _knees()
    return Measured(float(ratios.min()), ">", 4.0, "slope left of the knee", words)


@claim("A random tenth taken away costs more than 40% by magnitude", system=_SYSTEM, quick=False)
def random_is_worse(context: Context) -> Measured:
    """The least difference of losses over three seeds; random masks with Erdős-Rényi counts."""
    losses = -np.stack([study.random_curve(seed).performances for seed in _SEEDS])
    gap = losses[:, 1] - _losses()[:, 4]
    return Measured(float(gap.min()), ">", 0.0, "magnitude at 40%", f"random, {_table(losses, (0.0, 0.1, 0.2))}")


@claim("Loss rises down the chain of N:M at half of the weights", system=_SYSTEM, quick=False)
def nm_order(context: Context) -> Measured:
    """Pairs out of order of the mean losses of unstructured (same density a layer), 8:16, 4:8, 2:4, 1:2 and 1:4."""
    grid = (0.0, 0.5)
    rows = {"unstructured": _losses(allocation=uniform(), grid=grid)[:, 1]}
    for pattern in _PATTERNS:
        rows[f"{pattern.n}:{pattern.m}"] = _losses(structure=pattern, grid=grid)[:, 1]
    rows["1:4"] = _losses(structure=NM(1, 4), grid=(0.0, 0.75))[:, 1]
    means = [values.mean() for values in rows.values()]
    wrong = sum(one > other for i, one in enumerate(means) for other in means[i + 1 :])
    return Measured(float(wrong), "==", 0, "0 of 15", "; ".join(f"{name} {_mean(row)}" for name, row in rows.items()))


@claim("200 steps of fine-tuning win back 60% of what half of the weights cost", system=_SYSTEM, quick=False)
def fine_tuning_recovers(context: Context) -> Measured:
    """The smallest share of three seeds, of the gap to the dense network that was not tuned."""
    before, after = _losses(), _losses(fine=True)
    shares = (before[:, 5] - after[:, 5]) / (before[:, 5] - before[:, 0])
    return Measured(float(shares.min()), ">=", 0.6, "one-shot", f"mean {_mean(shares)}; tuned: {_table(after)}")


@claim("Fine-tuning moves the knee to the right", system=_SYSTEM, quick=False)
def fine_tuning_moves_the_knee(context: Context) -> Measured:
    """The least move of three seeds."""
    (before, _, words), (after, _, tuned) = _knees(), _knees(fine=True)
    return Measured(float((after - before).min()), ">", 0.0, "one-shot", f"tuned {tuned}; before {words}")


@claim("The weights of that transformer do not go quiet at once", system=_SYSTEM, quick=False)
def nothing_is_abrupt(context: Context) -> Measured:
    """Abrupt changes, by both measures, of three seeds; from a twelfth of the training on, checkpoints every twelfth.

    The paper sees abrupt changes in the pre-training of large models; this bed is too small to show them.
    """
    traces = [quiet_weight_trace(study.checkpoints(seed)[1:], prunable=study.in_blocks) for seed in _SEEDS]
    abrupt = sum(trace.absolute_change.abrupt + trace.relative_change.abrupt for trace in traces)
    detail = "; ".join(
        f"below 0.1 deviations {trace.relative[0]:.3f} to {trace.relative[-1]:.3f}, excess kurtosis "
        f"{trace.kurtosis[0]:.2f} to {trace.kurtosis[-1]:.2f}"
        + "".join(
            f", {name} share {'abrupt' if change.abrupt else 'smooth'} ({change.jump:+.4f} at {change.at})"
            for name, change in (("absolute", trace.absolute_change), ("relative", trace.relative_change))
        )
        for trace in traces
    )
    return Measured(float(abrupt), "==", 0, "0 of 6", detail)


def _curves_picture() -> Picture:
    figure = Figure(figsize=(6.4, 3.8), dpi=72, layout="constrained")
    ax = figure.subplots()
    rows = (
        ("magnitude, one threshold", "#1f77b4", _losses(), study.GRID),
        ("magnitude, same density a layer", "#808080", _losses(allocation=uniform()), study.GRID),
        ("the first, 200 steps later", "#2ca02c", _losses(fine=True), study.GRID),
        (
            "random",
            "#d62728",
            -np.stack([study.random_curve(seed).performances for seed in _SEEDS]),
            (0.0, 0.1, 0.2),
        ),
    )
    for label, colour, losses, grid in rows:
        ax.plot(grid, losses.T, color=colour, linewidth=0.8, alpha=0.5)
        ax.plot(grid, losses.mean(axis=0), "o-", color=colour, markersize=4, label=label)
    ax.axvline(float(_knees()[0].mean()), color="#1f77b4", linewidth=1, linestyle=(0, (3, 2)))
    ax.set_xlabel("share of weights removed")
    ax.set_ylabel("nats a character")
    ax.legend(frameon=False)
    return picture(figure, "Loss of a character transformer after one-shot pruning, three seeds; dashed: the knee")
