"""Expectation maximisation with truncated posteriors: annealed, on chosen data, in chunks, over devices and machines.

A model says what one pass over some rows yields (`TruncatedModel.e_step`) and what parameters follow
(`TruncatedModel.m_step`). The driver here does the rest, and is the same for all models.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int
from rich.progress import track

from uqsparse.solvers.annealing import Annealing
from uqsparse.solvers.chunked_rows import DATA_AXIS, ChunkedRows, chunked_rows
from uqsparse.solvers.truncated_model import EStep, Parameters, Statistics, TruncatedModel, TruncatedPosterior

__all__ = [
    "Annealing",
    "EMState",
    "EStep",
    "TruncatedEM",
    "TruncatedModel",
    "TruncatedPosterior",
    "chunk_rows",
    "fit_truncated_em",
    "placed_rows",
]

# Numbers of scratch space for one chunk: 32 MiB in double precision.
_SCRATCH = 2**22
_LARGEST_CHUNK = 4096
# A cause that is expected to be active in fewer rows is dead: nothing can be learned about it.
_DEAD = 0.5


class EMState(NamedTuple):
    """Where a fit stands between two iterations; all a fit needs to go on.

    Args:
        parameters: the parameters, NumPy arrays.
        free_energy: free energies so far, shape (n_iter,).
        n_used: numbers of rows that the M-steps used, shape (n_iter,).
        revived: pairs of iteration and cause, shape (n_revived, 2).
    """

    parameters: Parameters
    free_energy: Float[np.ndarray, " n_iter"]
    n_used: Int[np.ndarray, " n_iter"]
    revived: Int[np.ndarray, "n_revived 2"]


class TruncatedEM(NamedTuple):
    """Where a fit arrived, and how.

    Args:
        parameters: the last parameters, NumPy arrays.
        final_free_energy: their free energy of all rows at temperature 1, in nats: a lower bound of the log
            likelihood, by which runs are compared.
        free_energy: free energy of all rows before each M-step at that iteration's temperature, shape (n_iter,).
        temperature: temperature of each iteration, shape (n_iter,).
        n_used: how many rows each M-step used, shape (n_iter,).
        revived: pairs of iteration and cause that was dead and started again, shape (n_revived, 2).
        dead: causes that are active in less than half a row at the end.
        n_iter: number of iterations.
        converged: whether the last iteration ran at temperature 1 and changed the free energy by at most the
            tolerance, relative.
    """

    parameters: Parameters
    final_free_energy: float
    free_energy: Float[np.ndarray, " n_iter"]
    temperature: Float[np.ndarray, " n_iter"]
    n_used: Int[np.ndarray, " n_iter"]
    revived: Int[np.ndarray, "n_revived 2"]
    dead: Int[np.ndarray, " n_dead"]
    n_iter: int
    converged: bool


def fit_truncated_em(
    model: TruncatedModel,
    parameters: Parameters,
    Y: Float[Any, "n D"] | ChunkedRows,
    schedule: Annealing,
    *,
    key: Array,
    mesh: Mesh | None = None,
    chunk_size: int | None = None,
    tolerance: float = 1e-4,
    on_iteration: Callable[[EMState], None] | None = None,
    start: EMState | None = None,
    progress: bool = False,
) -> TruncatedEM:
    """Maximise the free energy of a truncated posterior over the parameters of a model.

    All computations have the precision of `Y`. Without cut, parameter noise and dead causes an iteration is an exact
    step of expectation maximisation on the states that are kept. A cut ranks all rows by their log evidence, those of
    all devices and processes together, so that the result does not depend on how the rows are divided.

    Args:
        model: the generative model with its truncation.
        parameters: where to start.
        Y: data, finite, shape (n, D), float64 or float32; those of this process if several work together. Data that
            have been placed by `chunked_rows` are used as they are; `mesh` and `chunk_size` are then left out.
        schedule: temperatures, cuts and parameter noise of all iterations.
        key: random key of the parameter noise.
        mesh: one-dimensional mesh with axis "data", over which rows are divided; None is one device.
        chunk_size: rows handled at a time on each device; None chooses as many as 32 MiB of scratch space allow.
        tolerance: relative change of the free energy in the last iteration that counts as converged.
        on_iteration: called with the state after each iteration.
        start: a state to go on from; `parameters` are then not used. The result is that of a run that never stopped,
            bit for bit on the same devices.
        progress: whether to show a bar.

    Returns:
        The last parameters with the record of the run.

    Raises:
        ValueError: `Y` is not a finite matrix, a size is out of range, or the mesh cannot divide rows.
        FloatingPointError: the free energy is not finite.

    Source: Lücke & Eggert (2010), Expectation truncation and the benefits of preselection in training generative
    models, JMLR 11; Exarchakis et al. (2019), ProSper: a Python library for probabilistic sparse coding with
    non-standard priors and superpositions.
    """
    if isinstance(Y, ChunkedRows):
        if mesh is not None or chunk_size is not None:
            raise ValueError("mesh and chunk_size must be left out for data that are already in chunks")
        rows = Y
    else:
        rows = placed_rows(model, Y, chunk_size, mesh)
    dtype = np.dtype(rows.Y.dtype)
    if start is None:
        start = EMState(parameters, np.zeros(0), np.zeros(0, int), np.zeros((0, 2), int))
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), start.parameters)
    free_energy, n_used = list(map(float, start.free_energy)), list(map(int, start.n_used))
    revived = [(int(iteration), int(cause)) for iteration, cause in start.revived]

    def swept(parameters: Parameters, temperature: float, used: int) -> _Swept:
        return _iteration(
            model,
            parameters,
            rows.Y,
            rows.weights,
            dtype.type(temperature),
            np.int32(used),
            np.bool_(used < rows.n_rows),
            mesh=rows.mesh,
        )

    def state() -> EMState:
        pairs = np.array(revived, int).reshape(-1, 2)
        return EMState(parameters, np.array(free_energy), np.array(n_used, int), pairs)

    with jax.enable_x64(dtype == np.float64):
        remaining = range(len(free_energy), schedule.n_iter)
        for iteration in track(remaining, description="expectation maximisation", disable=not progress):
            used = _rows_used(model, parameters, schedule.cut(iteration), rows.n_rows)
            step = swept(parameters, schedule.temperature(iteration), used)
            free_energy.append(_finite(step.free_energy, iteration))
            n_used.append(used)
            # Parameters pass through the host: what goes on is what a checkpoint holds, and nothing compiles twice.
            parameters = jax.tree.map(np.asarray, step.parameters)
            dead = np.flatnonzero(np.asarray(step.activity) < _DEAD)
            if dead.size and schedule.revives(iteration):
                parameters = _revive(model, parameters, dead, step, rows)
                revived.extend((iteration, int(cause)) for cause in dead)
            if (noise := schedule.noise(iteration)) > 0:
                parameters = _perturbed(model, parameters, jax.random.fold_in(key, iteration), dtype.type(noise))
                parameters = jax.tree.map(np.asarray, parameters)
            if on_iteration is not None:
                on_iteration(state())
        last = swept(parameters, 1.0, rows.n_rows)
        final = _finite(last.free_energy, schedule.n_iter)
        dead = np.flatnonzero(np.asarray(last.activity) < _DEAD)
    temperature = np.array([schedule.temperature(iteration) for iteration in range(schedule.n_iter)])
    settled = abs(final - free_energy[-1]) <= tolerance * max(abs(final), rows.n_rows)
    return TruncatedEM(
        parameters=parameters,
        final_free_energy=final,
        free_energy=np.array(free_energy),
        temperature=temperature,
        n_used=np.array(n_used, int),
        revived=state().revived,
        dead=dead,
        n_iter=schedule.n_iter,
        converged=bool(temperature[-1] == 1 and settled),
    )


def placed_rows(
    model: TruncatedModel, Y: Float[Any, "n D"], chunk_size: int | None = None, mesh: Mesh | None = None
) -> ChunkedRows:
    """Place data in chunks that suit a model, for one fit or for many.

    Args:
        model: the model, which says how much scratch space a row needs.
        Y: data, finite, shape (n, D), float64 or float32.
        chunk_size: rows handled at a time on each device; None chooses as many as 32 MiB of scratch space allow.
        mesh: one-dimensional mesh with axis "data", or None for one device.

    Raises:
        ValueError: `Y` is not a finite matrix, a size is out of range, or the mesh cannot divide rows.
    """
    Y = np.asarray(Y)
    if Y.ndim != 2 or not Y.size:
        raise ValueError(f"Y must be a matrix with rows and columns, got shape {Y.shape}")
    if Y.dtype not in (np.float64, np.float32):
        raise ValueError(f"Y must be of dtype float64 or float32, got {Y.dtype}")
    if not np.isfinite(np.sum(Y)) and (bad := np.count_nonzero(~np.isfinite(Y))):
        raise ValueError(f"Y must be finite, got {bad} values that are NaN or infinite")
    with jax.enable_x64(Y.dtype == np.float64):
        return chunked_rows(Y, chunk_rows(model, Y.shape[1]) if chunk_size is None else chunk_size, mesh)


def chunk_rows(model: TruncatedModel, n_features: int) -> int:
    """How many rows of a model fit into 32 MiB of scratch space."""
    return int(np.clip(_SCRATCH // model.floats_per_row(n_features), 1, _LARGEST_CHUNK))


class _Swept(NamedTuple):
    """What an iteration leaves on the devices."""

    parameters: Parameters
    free_energy: Float[Array, ""]
    activity: Float[Array, " H"]
    log_evidence: Float[Array, "n_chunks chunk"]


@functools.partial(jax.jit, static_argnames="mesh")
def _iteration(
    model: TruncatedModel,
    parameters: Parameters,
    Y: Float[Array, "n_chunks chunk D"],
    weights: Float[Array, "n_chunks chunk"],
    temperature: Float[Array, ""],
    n_used: Int[Array, ""],
    cut: Array,
    *,
    mesh: Mesh | None,
) -> _Swept:
    """One step of expectation maximisation; temperature, cut and parameters are traced, so shapes compile once."""
    if mesh is None:
        return _shard_iteration(model, parameters, Y, weights, temperature, n_used, cut, axis=None)
    divided, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    return jax.shard_map(
        functools.partial(_shard_iteration, axis=DATA_AXIS),
        mesh=mesh,
        in_specs=(whole, whole, divided, divided, whole, whole, whole),
        out_specs=_Swept(whole, whole, whole, divided),  # pyright: ignore[reportArgumentType]
        check_vma=False,
    )(model, parameters, Y, weights, temperature, n_used, cut)


def _shard_iteration(
    model: TruncatedModel,
    parameters: Parameters,
    Y: Float[Array, "n_chunks chunk D"],
    weights: Float[Array, "n_chunks chunk"],
    temperature: Float[Array, ""],
    n_used: Int[Array, ""],
    cut: Array,
    axis: str | None,
) -> _Swept:
    def ranked() -> Array:
        # only the evidence is wanted here, and only it is computed
        log_evidence = _sweep(model, parameters, Y, weights, temperature)[0]
        return weights * (_ranks(log_evidence, weights, axis) < n_used)

    used = jax.lax.cond(cut, ranked, lambda: weights)
    log_evidence, statistics = _sweep(model, parameters, Y, used, temperature)
    free_energy = jnp.sum(jnp.where(weights > 0, log_evidence, 0))
    if axis is not None:
        statistics, free_energy = jax.lax.psum((statistics, free_energy), axis)
    following = model.m_step(parameters, statistics, temperature)
    return _Swept(following, free_energy, model.activity(statistics), log_evidence)


def _sweep(
    model: TruncatedModel, parameters: Parameters, Y: Array, weights: Array, temperature: Array
) -> tuple[Float[Array, "n_chunks chunk"], Statistics]:
    """Log evidence of all rows and sums of their statistics, one chunk in memory at a time."""

    def add(total: Statistics, chunk: tuple[Array, Array]) -> tuple[Statistics, Array]:
        step = model.e_step(parameters, *chunk, temperature)
        return jax.tree.map(jnp.add, total, step.statistics), step.log_evidence

    shapes = jax.eval_shape(model.e_step, parameters, Y[0], weights[0], temperature).statistics
    nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    statistics, log_evidence = jax.lax.scan(add, nothing, (Y, weights))
    return log_evidence, statistics


def _ranks(log_evidence: Array, weights: Array, axis: str | None) -> Int[Array, "n_chunks chunk"]:
    """Rank of each row of this shard among the rows of all, 0 for the best explained; the earlier first if equal."""
    mine = jnp.where(weights > 0, log_evidence, -jnp.inf).ravel()
    everyone = mine if axis is None else jax.lax.all_gather(mine, axis, tiled=True)
    places = jnp.arange(everyone.size, dtype=jnp.int32)
    ranks = jnp.zeros_like(places).at[jnp.argsort(-everyone, stable=True)].set(places)
    if axis is not None:
        ranks = jax.lax.dynamic_slice(ranks, (jax.lax.axis_index(axis) * mine.size,), (mine.size,))
    return ranks.reshape(weights.shape)


@functools.partial(jax.jit, static_argnames=("n", "mesh"))
def _worst_rows(
    log_evidence: Array, Y: Array, weights: Array, *, n: int, mesh: Mesh | None
) -> tuple[Float[Array, "m D"], Array]:
    """The n rows that are explained worst, or fewer if there are not as many, and which of them are data."""

    def worst(log_evidence: Array, Y: Array, weights: Array, axis: str | None = None) -> tuple[Array, Array]:
        badness = jnp.where(weights > 0, -log_evidence, -jnp.inf).ravel()
        badness, places = jax.lax.top_k(badness, min(n, badness.size))
        candidates = Y.reshape(-1, Y.shape[-1])[places]
        if axis is not None:
            badness, candidates = (jax.lax.all_gather(part, axis, tiled=True) for part in (badness, candidates))
            badness, places = jax.lax.top_k(badness, min(n, badness.size))
            candidates = candidates[places]
        return candidates, badness > -jnp.inf

    if mesh is None:
        return worst(log_evidence, Y, weights)
    divided, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    across = functools.partial(worst, axis=DATA_AXIS)
    specs: Any = {"in_specs": (divided, divided, divided), "out_specs": (whole, whole)}
    return jax.shard_map(across, mesh=mesh, check_vma=False, **specs)(log_evidence, Y, weights)


@jax.jit
def _covered_share(model: TruncatedModel, parameters: Parameters) -> Float[Array, ""]:
    return model.covered_share(parameters)


@jax.jit
def _perturbed(model: TruncatedModel, parameters: Parameters, key: Array, scale: Array) -> Parameters:
    return model.perturb(parameters, key, scale)


def _rows_used(model: TruncatedModel, parameters: Parameters, cut: float, n_rows: int) -> int:
    """How many rows the M-step uses."""
    if cut == 0:
        return n_rows
    share = 1 - (1 - float(_covered_share(model, parameters))) * cut
    # a share that is a fraction of n up to rounding is that fraction
    return max(1, min(n_rows, math.floor(n_rows * share + 1e-9)))


def _revive(
    model: TruncatedModel, parameters: Parameters, dead: Int[np.ndarray, " n_dead"], step: _Swept, rows: ChunkedRows
) -> Parameters:
    """Start dead causes again from the rows that are explained worst, one each as long as there are enough."""
    found = _worst_rows(step.log_evidence, rows.Y, rows.weights, n=model.n_causes, mesh=rows.mesh)
    worst, real = map(np.asarray, found)
    worst = worst[real]
    for place, cause in enumerate(dead):
        parameters = model.revive(parameters, int(cause), worst[place % len(worst)])
    return jax.tree.map(np.asarray, parameters)


def _finite(free_energy: Array, iteration: int) -> float:
    value = float(free_energy)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the free energy is {value} at iteration {iteration}: rescale the data, or fit in float64"
        )
    return value
