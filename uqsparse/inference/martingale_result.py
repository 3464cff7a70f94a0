"""What predictive resampling found: samples of a functional, and how far it had settled at the horizon.

Updates shrink as the number of observations i grows, and their variance as 1 / i^2. So the second half of a future
tells what is still missing behind its end: a variance of (n + N/2) / (N/2) times the mean square of the change from
N/2 to N.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from uqsparse.inference.arviz_io import to_arviz


class MartingalePosterior(NamedTuple):
    """Samples from a martingale posterior. Leaves have the shape of the functional behind the axes named here.

    Args:
        samples: values of the functional at the horizon, leading axis n_samples.
        start: its value before any draw, at the predictive that the data give.
        horizons: numbers of forward draws at which it was looked at, doubling, the last one the whole horizon, (k,).
        mean_path: mean over the samples at these horizons, leading axis k. Constant for functionals that are linear
            in the predictive, up to Monte Carlo error, if the predictive is a martingale.
        sd_path: standard deviation over the samples, leading axis k.
        shift: mean absolute change since the horizon before, leading axis k; it has to fade.
        remaining_sd: standard deviation of what the functional still had to move behind the horizon, estimated.
        sd_shortfall: share by which the standard deviation of the samples is too small for that, the larger of all
            leaves of the functional, entries pooled. Without correction about 1 - sqrt(N / (n + N)).
        is_tail_corrected: whether a Gaussian draw of the missing movement was added to the samples.
        n_data: number of observations n.
        n_forward: length N of the futures; infinity for exact draws of the limit.
        converged: whether the shortfall is within the tolerance, or corrected.
    """

    samples: PyTree
    start: PyTree
    horizons: Int[np.ndarray, " k"]
    mean_path: PyTree
    sd_path: PyTree
    shift: PyTree
    remaining_sd: PyTree
    sd_shortfall: float
    is_tail_corrected: bool
    n_data: int
    n_forward: float
    converged: bool

    def to_arviz(self, names: dict[str, Any] | None = None) -> Any:
        """ArviZ data with one chain of the samples.

        Args:
            names: variables by name, leading axis n_samples, in place of the functional's leaves.
        """
        if names is None:
            paths = jax.tree_util.tree_leaves_with_path(self.samples)
            names = {jax.tree_util.keystr(path, simple=True, separator="_") or "theta": leaf for path, leaf in paths}
        notes = {
            "algorithm": "predictive resampling",
            "n_data": self.n_data,
            "n_forward": float(self.n_forward),
            "sd_shortfall": self.sd_shortfall,
            "converged": int(self.converged),
        }
        return to_arviz({"posterior": {name: np.asarray(value)[None] for name, value in names.items()}}, notes)


def collect(
    path: PyTree,
    start: PyTree,
    horizons: Int[np.ndarray, " k"],
    n_data: int,
    tail_noise: np.random.Generator | None,
    tolerance: float,
) -> MartingalePosterior:
    """Summarise a functional along futures.

    Args:
        path: its values, axes (k, n_samples) first.
        start: its value before any draw.
        horizons: numbers of draws, increasing.
        n_data: number of observations.
        tail_noise: generator of the tail correction, None for none.
        tolerance: largest shortfall of the standard deviation that counts as converged.
    """
    before = int(horizons[-2]) if len(horizons) > 1 else 0
    # sums of 1 / j^2 behind the horizon, and over the last stretch; the half is a continuity correction
    ratio = (n_data + before + 0.5) / (horizons[-1] - before)
    path = jax.tree.map(lambda values, first: np.concatenate([_row(first, values), values]), path, start)
    last_move = jax.tree.map(lambda values: values[-1] - values[-2], path)
    remaining = jax.tree.map(lambda move: np.sqrt(ratio * np.mean(move**2, axis=0)), last_move)
    shortfall = max(
        _shortfall(values[-1], rest)
        for values, rest in zip(jax.tree.leaves(path), jax.tree.leaves(remaining), strict=True)
    )
    samples = jax.tree.map(lambda values: values[-1], path)
    if tail_noise is not None:
        samples = _corrected(tail_noise, samples, last_move, ratio)
    return MartingalePosterior(
        samples=samples,
        start=start,
        horizons=horizons,
        mean_path=jax.tree.map(lambda values: values[1:].mean(axis=1), path),
        sd_path=jax.tree.map(lambda values: values[1:].std(axis=1), path),
        shift=jax.tree.map(lambda values: np.abs(np.diff(values, axis=0)).mean(axis=1), path),
        remaining_sd=remaining,
        sd_shortfall=shortfall,
        is_tail_corrected=tail_noise is not None,
        n_data=n_data,
        n_forward=int(horizons[-1]),
        converged=tail_noise is not None or shortfall <= tolerance,
    )


def exact(samples: PyTree, start: PyTree, n_data: int) -> MartingalePosterior:
    """The record of draws of the limit, of which nothing is missing."""
    return MartingalePosterior(
        samples=samples,
        start=start,
        horizons=np.zeros(0, int),
        mean_path=jax.tree.map(lambda values: values.mean(axis=0)[None][:0], samples),
        sd_path=jax.tree.map(lambda values: values.std(axis=0)[None][:0], samples),
        shift=jax.tree.map(lambda values: values.std(axis=0)[None][:0], samples),
        remaining_sd=jax.tree.map(lambda values: np.zeros(values.shape[1:]), samples),
        sd_shortfall=0.0,
        is_tail_corrected=False,
        n_data=n_data,
        n_forward=np.inf,
        converged=True,
    )


def _row(first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The start of all samples, as one more row of a path."""
    return np.broadcast_to(first, values.shape[1:])[None]


def _shortfall(samples: Float[np.ndarray, "b ..."], rest: Float[np.ndarray, "..."]) -> float:
    """Pooled over entries, since single ones may be all but constant."""
    seen, missing = np.sum(np.var(samples, axis=0)), np.sum(rest**2)
    return float(1 - np.sqrt(seen / (seen + missing))) if missing > 0 else 0.0


def _corrected(rng: np.random.Generator, samples: PyTree, last_move: PyTree, ratio: float) -> PyTree:
    """Add Gaussian noise with `ratio` times the second moments of the last move, across all leaves."""
    leaves, structure = jax.tree.flatten(samples)
    n = len(leaves[0])
    moves = np.concatenate([move.reshape(n, -1) for move in jax.tree.leaves(last_move)], axis=1)
    _, scales, axes = np.linalg.svd(moves, full_matrices=False)
    noise = rng.normal(size=(n, len(scales))) * (scales * np.sqrt(ratio / n)) @ axes
    parts = np.split(noise, np.cumsum([leaf[0].size for leaf in leaves])[:-1], axis=1)
    moved = [leaf + part.reshape(leaf.shape) for leaf, part in zip(leaves, parts, strict=True)]
    return jax.tree.unflatten(structure, moved)
