"""Adaptive conformal inference on a series whose scale grows in steps, and the false alarms of the martingale."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from uqsparse import bench
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture
from uqsparse.bounds.conformal import SplitConformal
from uqsparse.bounds.exchangeability import exchangeability_martingale
from uqsparse.bounds.online import AdaptiveConformal, AdaptiveRun
from uqsparse.bounds.scores.residuals import AbsoluteResidual

SYSTEM = "Conformal prediction"
ALPHA = 0.1
N_CALIBRATION, N_STEPS, WINDOW = 500, 5000, 250
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
GAMMAS = (0.005, 0.05)


def growing_series(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibration values of scale 1, and 5000 that follow, whose scale doubles every 1000 steps."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(SCALES, N_STEPS // len(SCALES))
    return rng.normal(size=N_CALIBRATION), scale * rng.normal(size=N_STEPS)


def followed(before: np.ndarray, y: np.ndarray, **options) -> AdaptiveRun:
    """The series under adaptive conformal inference; zero is predicted throughout."""
    adaptive = AdaptiveConformal(AbsoluteResidual(), ALPHA, window=WINDOW, **options)
    with warnings.catch_warnings():
        # Large steps give the whole line now and then; it counts as a hit, and the claim is about misses.
        warnings.simplefilter("ignore", UserWarning)
        return adaptive.run(np.zeros(len(y)), y, calibration=(np.zeros(len(before)), before))


def split_misses(before: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which values the sets miss that were calibrated once, before the series."""
    calibrated = SplitConformal(AbsoluteResidual(), ALPHA).calibrate(np.zeros(len(before)), before)
    return ~np.asarray(calibrated.predict(np.zeros(len(y))).contains(y))


def _local_misses(runs: dict[str, np.ndarray]) -> Picture:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = (("#1f77b4", "-"), ("#1f77b4", ":"), ("#808080", "-"), ("#000000", "--"))
    for (name, err), (colour, line) in zip(runs.items(), styles, strict=False):
        axes.plot(np.convolve(err, np.ones(200) / 200, mode="valid"), line, color=colour, linewidth=1.3, label=name)
    axes.axhline(ALPHA, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xlabel("step")
    axes.set_ylabel("share of misses, of 200")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="upper left")
    return picture(
        figure,
        "Misses within 200 steps of a series whose scale doubles every 1000 steps; the line is at 10%",
        wide=True,
    )


@bench.claim(
    "adaptive conformal inference stays within its deterministic bound on a series whose scale doubles four times",
    system=SYSTEM,
    quick=True,
)
def within_the_bound(context: bench.Context) -> bench.Measured:
    before, y = growing_series(context.seed)
    runs = {gamma: followed(before, y, gamma=gamma) for gamma in GAMMAS}
    used = {g: abs(float(run.mean_error) - ALPHA) / run.bound for g, run in runs.items() if run.bound is not None}
    detail = "; ".join(
        f"gamma {g:g}: misses {run.mean_error:.2%}, bound {run.bound:.2%} about 10%, "
        f"{np.isposinf(run.sets.threshold).mean():.1%} of sets unbounded"
        for g, run in runs.items()
    )
    errors = {f"adaptive, gamma {g:g}": run.err for g, run in runs.items()} | {"split": split_misses(before, y)}
    return bench.Measured(
        max(used.values()),
        "<=",
        1.0,
        "the bound of Gibbs and Candès (2021), as the share of it that was used",
        f"{N_STEPS} steps, scales 1 to 16; {detail}",
        (_local_misses(errors),),
    )


@bench.claim(
    "split conformal prediction misses by more than 20 points on a series whose scale doubles four times",
    system=SYSTEM,
    quick=True,
)
def split_fails(context: bench.Context) -> bench.Measured:
    before, y = growing_series(context.seed)
    missed = float(split_misses(before, y).mean())
    return bench.Measured(
        missed - ALPHA, ">", 0.2, "alpha = 0.1", f"misses {missed:.1%}; calibrated on {N_CALIBRATION} of scale 1"
    )


@bench.claim(
    "DtACI misses 10%, within 2 points, of a series whose scale doubles four times", system=SYSTEM, quick=False
)
def mixture_of_step_sizes(context: bench.Context) -> bench.Measured:
    before, y = growing_series(context.seed)
    run = followed(before, y, method="dtaci")
    detail = f"misses {run.mean_error:.2%}; {np.isposinf(run.sets.threshold).mean():.1%} of sets unbounded"
    return bench.Measured(abs(float(run.mean_error) - ALPHA), "<=", 0.02, "alpha = 0.1", detail)


@bench.claim("the exchangeability martingale raises a false alarm in at most 5% of streams", system=SYSTEM, quick=False)
def false_alarms(context: bench.Context) -> bench.Measured:
    delta, n_streams, n = 0.05, 4000, 1000
    key_scores, key_ties, key_shift = jax.random.split(jax.random.key(context.seed), 3)
    keys = jax.random.split(key_ties, n_streams)
    watch = jax.jit(jax.vmap(lambda key, scores: exchangeability_martingale(key, scores, delta=delta).alarm))
    scores = abs(jax.random.normal(key_scores, (n_streams, n)))
    rate = float((watch(keys, scores) >= 0).mean())
    shifted = abs(jax.random.normal(key_shift, (n_streams // 4, n))) * jnp.where(jnp.arange(n) < n // 2, 1.0, 2.0)
    alarm = np.asarray(watch(keys[: n_streams // 4], shifted))
    late = np.median(alarm[alarm >= n // 2]) - n // 2
    error = math.sqrt(delta * (1 - delta) / n_streams)
    detail = (
        f"{n_streams} streams of {n} exchangeable scores; where the scale doubles half way, "
        f"{np.mean(alarm >= n // 2):.0%} alarm after it and half of those within {late:.0f} observations"
    )
    return bench.Measured(
        rate, "<=", delta + 3 * error, "Ville's inequality, delta = 0.05, and 3 standard errors", detail
    )
