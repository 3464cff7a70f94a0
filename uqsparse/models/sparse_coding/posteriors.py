"""Posteriors of many rows, a chunk at a time, with the same truncation for all or with more states where needed."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.kernels.arguments import require_count
from uqsparse.models.sparse_coding.states import MAX_STATES, state_count
from uqsparse.solvers.truncated_em import Parameters, TruncatedModel, TruncatedPosterior, chunk_rows

_SMALLEST_CHUNK = 16


def row_posteriors(
    model: TruncatedModel,
    parameters: Parameters,
    Y: Float[np.ndarray, "n D"],
    top_k: int = 1,
    *,
    adaptive: bool = False,
    max_states: int = MAX_STATES,
    chunk_size: int | None = None,
) -> TruncatedPosterior:
    """Posteriors of rows over their kept states, at temperature 1, in the precision of `Y`.

    Args:
        model: the model with its truncation.
        parameters: its parameters, NumPy arrays.
        Y: data, shape (n, D).
        top_k: how many of the most probable states to return, at least 1 and at most as many as are kept.
        adaptive: whether gamma and H' grow by 1, for the rows whose most probable state has gamma active causes, until
            none is left or a row would have more than `max_states` states, which is warned about.
        max_states: most states of a row in adaptive posteriors.
        chunk_size: rows handled at a time; None chooses.

    Returns:
        The posteriors, NumPy arrays.

    Raises:
        ValueError: `top_k` is out of range.

    Source: Lücke & Eggert (2010), Expectation truncation and the benefits of preselection in training generative
    models, JMLR 11; growing truncation: Exarchakis et al. (2019), ProSper, section 2.
    """
    require_count("top_k", top_k, 1)
    kept = _n_states(model)
    if top_k > kept:
        raise ValueError(f"top_k must be at most the {kept} states that a row keeps, got {top_k}")
    found = _fixed_posteriors(model, parameters, Y, top_k, chunk_size)
    if not adaptive:
        return found
    pending = np.arange(len(Y))
    while True:
        full = np.count_nonzero(found.states[pending, 0], axis=1) >= model.gamma
        pending = pending[full]
        if not pending.size or model.gamma == model.n_causes:
            return found
        n_candidates = min(model.n_candidates + 1, model.n_causes)
        model = dataclasses.replace(model, n_candidates=n_candidates, gamma=model.gamma + 1)
        if _n_states(model) > max_states:
            warnings.warn(
                f"{pending.size} rows still have gamma={model.gamma - 1} active causes in their most probable state, "
                f"and the next gamma asks for {_n_states(model)} states, above max_states={max_states}",
                RuntimeWarning,
                stacklevel=3,
            )
            return found
        better = _fixed_posteriors(model, parameters, Y[pending], top_k, chunk_size)
        for old, new in zip(found, better, strict=True):
            old[pending] = new


def _n_states(model: TruncatedModel) -> int:
    return state_count(model.n_causes, model.n_candidates, model.gamma, model.n_values)


def _fixed_posteriors(
    model: TruncatedModel, parameters: Parameters, Y: Float[np.ndarray, "n D"], top_k: int, chunk_size: int | None
) -> TruncatedPosterior:
    """Chunks have a size that is a power of two, or the full one, so that few shapes compile."""
    n = len(Y)
    largest = chunk_rows(model, Y.shape[1]) if chunk_size is None else chunk_size
    chunk = min(largest, max(_SMALLEST_CHUNK, 1 << (n - 1).bit_length()))
    parts: list[Any] = []
    with jax.enable_x64(Y.dtype == np.float64):
        for begin in range(0, n, chunk):
            rows = Y[begin : begin + chunk]
            padded = np.zeros((chunk, Y.shape[1]), Y.dtype)
            padded[: len(rows)] = rows
            found = _posterior(model, parameters, padded, top_k)
            parts.append([np.asarray(leaf)[: len(rows)] for leaf in found])
    # copies, since JAX hands out read-only views
    return TruncatedPosterior(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames="top_k")
def _posterior(model: TruncatedModel, parameters: Parameters, Y: Any, top_k: int) -> TruncatedPosterior:
    return model.posterior(parameters, Y, top_k)
