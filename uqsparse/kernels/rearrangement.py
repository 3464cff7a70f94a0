"""Whole networks with their hidden units in another order, and the function unchanged.

A *stream* is one vector of hidden units: what some weights write, what norms and biases act on, and what the next
weights read. Its units may stand in any order, as long as all that touch it agree. Writing the streams down is all that
is needed to move the units of any network; `uqsparse.nn.streams` writes them for common ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.output_order import rearrange_outputs

Network = TypeVar("Network")


class Place(NamedTuple):
    """One axis of one array that holds the units of a stream.

    Args:
        where: gets the array from the network, as `equinox.tree_at` wants it.
        axis: the axis.
        tile: each block of the stream stands there so many times in a row, as a value head does for the query heads
            that share it.
        run: each unit stands there as so many entries in a row, as a channel does when an image is flattened.
    """

    where: Callable[[Any], Array]
    axis: int
    tile: int = 1
    run: int = 1


class Stream(NamedTuple):
    """The places of one vector of hidden units.

    Args:
        writers: weights whose outputs are the units, and which will be cut into groups along this axis: they decide
            the order. All their other axes count as inputs.
        others: everything else: biases, gains of norms, weights that read the units or write them and stay dense.
        n_blocks: units move only inside a block of consecutive ones, as inside a head of attention.
    """

    writers: Sequence[Place]
    others: Sequence[Place]
    n_blocks: int = 1


class Rearranged(NamedTuple):
    """A network with its units moved.

    Args:
        network: the same function, up to rounding.
        orders: for each stream, new unit n is old unit `order[n]`.
        kept: for each stream, the share of its writers' L1 mass that groups keep now.
        natural: the same before.
    """

    network: Any
    orders: tuple[Int[np.ndarray, " N"], ...]
    kept: tuple[float, ...]
    natural: tuple[float, ...]


def rearrange(
    network: PyTree,
    streams: Sequence[Stream],
    group: int = 16,
    density: float = 0.25,
    *,
    n_starts: int = 10,
    seed: int = 0,
) -> Rearranged:
    """Move the hidden units of a network so that groups of weights that are kept as a whole keep much L1 mass.

    Each stream is solved by `rearrange_outputs`, its writers together; the order of a layer's inputs changes nothing
    in what it can keep, so the streams do not depend on each other. The network stays dense: project and pack it
    afterwards.

    Args:
        network: any pytree of arrays: an Equinox module, a dict of weights.
        streams: its streams. Whatever they leave out stays as it is.
        group: outputs that share their inputs, G >= 1; a block must be a multiple of it where there are several.
        density: share of the inputs each group will keep, in [0, 1].
        n_starts: starts of each ascent, see `rearrange_outputs`.
        seed: of the random starts.

    Raises:
        ValueError: the places of a stream differ in length, a stream has no writer, its blocks do not fit its length or
            the group, an axis is in two places, or weights are not finite.

    >>> weights = {"in": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), "out": np.arange(4.0)[None]}
    >>> stream = Stream([Place(lambda w: w["in"], 0)], [Place(lambda w: w["out"], 1)])
    >>> found = rearrange(weights, [stream], group=2, density=0.5)
    >>> found.natural, found.kept, (found.network["out"] @ found.network["in"]).tolist()
    ((0.5,), (1.0,), [[2.0, 4.0]])
    """
    require_count("group", group, 1)
    streams = list(streams)
    _require_separate(network, streams)
    lengths = [_length(network, stream, i, group) for i, stream in enumerate(streams)]
    found = []
    for stream, length in zip(streams, lengths, strict=True):
        block = length // stream.n_blocks
        parts, kept, natural, total = [], 0.0, 0.0, 0.0
        scores = [one for place in stream.writers for one in _scores(place, network, stream.n_blocks)]
        for i in range(stream.n_blocks):
            of_block = [one[:, i] for one in scores]
            best = rearrange_outputs(of_block, None, group, density=density, n_starts=n_starts, seed=seed)
            parts.append(i * block + best.order)
            kept, natural = kept + best.kept, natural + best.natural
            total += float(sum(one.sum() for one in of_block))
        found.append((np.concatenate(parts), kept / total if total else 1.0, natural / total if total else 1.0))
    for stream, (order, _, _) in zip(streams, found, strict=True):
        network = reorder(network, stream, order)
    orders, kept, natural = zip(*found, strict=True) if found else ((), (), ())
    return Rearranged(network, tuple(orders), tuple(kept), tuple(natural))


def reorder(network: Network, stream: Stream, order: Int[np.ndarray, " N"]) -> Network:
    """The network with the units of one stream in another order.

    Args:
        network: any pytree of arrays.
        stream: whose units move.
        order: a permutation that stays inside the stream's blocks.
    """
    local = np.asarray(order).reshape(stream.n_blocks, -1)
    block = local.shape[1]
    if (np.sort(local, axis=1) != np.arange(local.size).reshape(local.shape)).any():
        raise ValueError(f"order must be a permutation inside {stream.n_blocks} block(s) of {block} units")
    local = local % block
    for place in (*stream.writers, *stream.others):
        starts = block * (place.tile * np.arange(stream.n_blocks)[:, None] + np.arange(place.tile))
        index = (starts[:, :, None] + local[:, None, :]).ravel()
        index = (index[:, None] * place.run + np.arange(place.run)).ravel()
        network = eqx.tree_at(
            place.where,
            network,
            replace_fn=lambda leaf, i=index, a=place.axis: (
                leaf.take(i, a) if isinstance(leaf, np.ndarray) else jnp.take(leaf, i, a)
            ),
        )
    return network


def _scores(place: Place, network: PyTree, n_blocks: int) -> list[np.ndarray]:
    """|W| as (K, n_blocks, units of a block), one for each tile."""
    weight = np.moveaxis(np.abs(np.asarray(place.where(network), np.float64)), place.axis, -1)
    tiled = weight.reshape(-1, n_blocks, place.tile, weight.shape[-1] // (n_blocks * place.tile))
    return [tiled[:, :, i] for i in range(place.tile)]


def _length(network: PyTree, stream: Stream, i: int, group: int) -> int:
    if not stream.writers:
        raise ValueError(f"stream {i} has no writer, so nothing decides its order")
    if any(place.run != 1 for place in stream.writers):
        raise ValueError(f"stream {i}: run of a writer must be 1; its units are what is cut into groups")
    lengths = set()
    for place in (*stream.writers, *stream.others):
        leaf = place.where(network)
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise ValueError(f"stream {i}: a place holds {type(leaf).__name__}, not an array")
        if not -leaf.ndim <= place.axis < leaf.ndim:
            raise ValueError(f"stream {i}: an array of shape {leaf.shape} has no axis {place.axis}")
        size, rest = divmod(leaf.shape[place.axis], place.tile * place.run)
        lengths.add(size if not rest else leaf.shape[place.axis] / (place.tile * place.run))
    if len(lengths) > 1:
        raise ValueError(f"stream {i}: its places hold different numbers of units: {sorted(lengths)}")
    (length,) = lengths
    block, rest = divmod(length, stream.n_blocks)
    if rest or (stream.n_blocks > 1 and block % group):
        raise ValueError(
            f"stream {i}: {length} units in {stream.n_blocks} blocks cannot be cut into groups of {group} that "
            f"stay inside a block"
        )
    return int(length)


def _require_separate(network: PyTree, streams: Sequence[Stream]) -> None:
    seen = set()
    for i, stream in enumerate(streams):
        for place in (*stream.writers, *stream.others):
            leaf = place.where(network)
            axis = place.axis % max(getattr(leaf, "ndim", 1), 1)
            if (id(leaf), axis) in seen:
                raise ValueError(f"stream {i}: axis {axis} of an array of shape {np.shape(leaf)} is in two places")
            seen.add((id(leaf), axis))
