"""Rows of a data matrix in chunks of equal size, on one device, on several, or on those of several processes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from uqsparse.kernels.arguments import require_count

# The mesh axis over which rows are divided.
DATA_AXIS = "data"
# Chunks have a multiple of this number of rows, unless they are to be smaller.
_ROW_STEP = 32


class ChunkedRows(NamedTuple):
    """Data as the sweeps want them.

    Args:
        Y: chunks of rows, shape (n_chunks, chunk, D), divided over the mesh by chunks.
        weights: 1 for a row of data and 0 for padding, shape (n_chunks, chunk), divided alike.
        n_rows: number of rows of data, of all processes together.
        mesh: the mesh, or None for one device.
    """

    Y: Float[Array, "n_chunks chunk D"]
    weights: Float[Array, "n_chunks chunk"]
    n_rows: int
    mesh: Mesh | None


def chunked_rows(Y: Float[Any, "n D"], chunk_size: int, mesh: Mesh | None = None) -> ChunkedRows:
    """Cut rows into chunks of equal size, padded with rows of weight 0, and place them.

    Args:
        Y: data, shape (n, D). Where several processes work together, those of this process: all rows are theirs in
            the order of the processes. Processes may hold different numbers of rows.
        chunk_size: most rows in a chunk, at least 1.
        mesh: one-dimensional mesh with axis "data" over all devices that take part; None is one device.

    Raises:
        ValueError: `chunk_size` or `mesh` is out of range, or several processes work without a mesh.
    """
    require_count("chunk_size", chunk_size, 1)
    check_mesh(mesh)
    Y = np.asarray(Y)
    n_local, n_features = Y.shape
    n_devices = 1 if mesh is None else len(mesh.local_devices)
    n_rows, rows_of_device = n_local, -(-n_local // n_devices)
    if mesh is not None and _spans_processes(mesh):
        from jax.experimental.multihost_utils import process_allgather

        sizes = np.asarray(process_allgather(np.array([n_local, rows_of_device])))
        # every device gets the same number of chunks
        n_rows, rows_of_device = int(sizes[:, 0].sum()), int(sizes[:, 1].max())
    n_chunks = max(1, -(-rows_of_device // chunk_size))
    # of few sizes, so that data of nearly the same number of rows share a compiled program
    step = min(_ROW_STEP, chunk_size)
    chunk = min(chunk_size, max(step, -(-rows_of_device // n_chunks // step) * step))
    capacity = n_devices * n_chunks * chunk
    weights = np.zeros(capacity, Y.dtype)
    weights[:n_local] = 1
    weights = weights.reshape(-1, chunk)
    if capacity > n_local:
        padded = np.zeros((capacity, n_features), Y.dtype)
        padded[:n_local] = Y
        Y = padded
    Y = Y.reshape(-1, chunk, n_features)
    if mesh is None:
        return ChunkedRows(jnp.asarray(Y), jnp.asarray(weights), n_local, None)
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def place(local: np.ndarray) -> Array:
        # said and not derived, since processes may have different numbers of devices
        shape = (mesh.devices.size * n_chunks, *local.shape[1:])
        return jax.make_array_from_process_local_data(sharding, local, shape)

    return ChunkedRows(place(Y), place(weights), n_rows, mesh)


def check_mesh(mesh: Mesh | None) -> None:
    """Refuse a mesh over which rows cannot be divided.

    Raises:
        ValueError: it has other axes than one called "data", or it is None where several processes run, or leaves
            this process out.
    """
    if mesh is None:
        if jax.process_count() > 1:
            raise ValueError(
                f"mesh must be given where {jax.process_count()} processes work together, got None: "
                'jax.make_mesh((jax.device_count(),), ("data",)) has all their devices'
            )
        return
    if not isinstance(mesh, Mesh) or mesh.axis_names != (DATA_AXIS,):
        names = getattr(mesh, "axis_names", type(mesh).__name__)
        raise ValueError(f'mesh must be a jax.sharding.Mesh with one axis called "data", got {names!r}')
    if not mesh.local_devices:
        raise ValueError("mesh must have devices of every process, got none of this one")


def row_moments(rows: ChunkedRows) -> tuple[Float[np.ndarray, " D"], float]:
    """Mean of the rows, shape (D,), and the mean over columns of their standard deviations, over all processes."""
    mean, scale = _moments(rows.Y, rows.weights, mesh=rows.mesh)
    return np.asarray(mean), float(scale)


@functools.partial(jax.jit, static_argnames="mesh")
def _moments(Y: Array, weights: Array, *, mesh: Mesh | None) -> tuple[Array, Array]:
    def moments(Y: Array, weights: Array, total: Callable[[Array], Array]) -> tuple[Array, Array]:
        n = total(jnp.sum(weights))
        mean = total(jnp.einsum("ck,ckd->d", weights, Y)) / n
        variance = total(jnp.einsum("ck,ckd->d", weights, (Y - mean) ** 2)) / n
        return mean, jnp.mean(jnp.sqrt(variance))

    if mesh is None:
        return moments(Y, weights, lambda part: part)
    divided, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    across = functools.partial(moments, total=lambda part: jax.lax.psum(part, DATA_AXIS))
    specs: Any = {"in_specs": (divided, divided), "out_specs": (whole, whole)}
    return jax.shard_map(across, mesh=mesh, check_vma=False, **specs)(Y, weights)


def _spans_processes(mesh: Mesh) -> bool:
    return len({device.process_index for device in mesh.devices.flat}) > 1
