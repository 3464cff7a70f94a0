"""Which program is the fastest for a sparse product: the density up to which each beats the dense product.

There are two questions. Whether a weight is worth packing is asked once, before it is packed, and a weight that stays
dense is multiplied as it is: `worth_packing`. How a packed weight is multiplied is asked for every product, and the
dense program has to unpack it first: `choose`.

The limits that come with the package are round numbers. For compiled products in groups of 16 they follow measurements
on one thread of a processor with AVX-512, for 512 to 4096 inputs and outputs. All others are estimates from single
shapes, rounded towards the dense product. `calibrate` measures those of `choose` anew on the machine at hand.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.group_sparsity import GroupSparse, pack, project_group
from uqsparse.kernels.native import library

Program = Literal["native", "jax"]
Product = Literal["forward", "gradients"]

# Lower ends of the classes that limits are kept for. Where the kernels change their way of working: few rows are not
# packed, and small groups have the batch in the vector.
GROUPS = (1, 2, 4, 8, 16, 64)
ROWS = (1, 8, 64)


class Shape(NamedTuple):
    """A product: rows, inputs, outputs, outputs in a group, and entries of each of them."""

    n_rows: int
    n_inputs: int
    n_outputs: int
    group: int
    n_entries: int

    @property
    def density(self) -> float:
        """Share of the pairs of an input and a group that are kept."""
        return self.n_entries / max(self.n_inputs * -(-self.n_outputs // self.group), 1)


class Limit(NamedTuple):
    """The density up to which a program is taken rather than the dense product."""

    program: Program
    product: Product
    group: int
    rows: int
    density: float


def _limits(program: Program, product: Product, densities: dict[int, tuple[float, float, float]]) -> tuple[Limit, ...]:
    return tuple(
        Limit(program, product, group, rows, density)
        for group, by_rows in densities.items()
        for rows, density in zip(ROWS, by_rows, strict=True)
    )


DEFAULTS = (
    *_limits(
        "native",
        "forward",
        {
            1: (0.10, 0.30, 0.20),
            2: (0.20, 0.40, 0.30),
            4: (0.60, 0.70, 0.50),
            8: (0.80, 0.80, 0.40),
            16: (1.0, 1.0, 1.0),
            64: (1.0, 1.0, 1.0),
        },
    ),
    *_limits(
        "native",
        "gradients",
        {
            1: (0.05, 0.10, 0.10),
            2: (0.10, 0.15, 0.15),
            4: (0.20, 0.25, 0.25),
            8: (0.40, 0.40, 0.35),
            16: (0.60, 0.60, 0.60),
            64: (0.60, 0.60, 0.60),
        },
    ),
    *_limits("jax", "forward", {1: (0, 0, 0), 16: (0.05, 0.05, 0.05), 64: (0.25, 0.40, 0.40)}),
    *_limits("jax", "gradients", {1: (0, 0, 0), 16: (0.02, 0.02, 0.02), 64: (0.15, 0.20, 0.20)}),
)

# Lower ends of classes of groups, and the share of a weight up to which it is packed: less of smaller groups, which
# gain only for some numbers of rows. The same on every machine: what a network is made of, and so its files, must not
# depend on where it was packed.
_PACKED_UP_TO = {1: 0.3, 2: 0.4, 4: 0.6}

_current: tuple[Limit, ...] = DEFAULTS


def worth_packing(density: float, group: int) -> bool:
    """Whether a weight of which this share is kept is better packed than left dense with zeros in it.

    A packed weight that keeps nearly everything cannot win: it is multiplied in another order, or unpacked first.

    >>> worth_packing(1229 / 2048, 16), worth_packing(0.7, 16), worth_packing(0.5, 1)
    (True, False, False)
    """
    # rounded, as a fan-in is: 60% of 2048 inputs are 1229
    return round(density, 2) <= _PACKED_UP_TO[max(end for end in _PACKED_UP_TO if end <= group)]


def choose(shape: Shape, product: Product, program: Program, limits: tuple[Limit, ...] | None = None) -> str:
    """The program that is expected to be the fastest: the one given, or "dense".

    Args:
        shape: of the product.
        product: the product itself or its gradients.
        program: what competes with the dense product.
        limits: in place of the current ones.

    >>> choose(Shape(256, 1024, 1024, 16, 64 * 256), "forward", "native", DEFAULTS)
    'native'
    >>> choose(Shape(256, 1024, 1024, 1, 1024 * 512), "forward", "native", DEFAULTS)
    'dense'
    """
    table = _current if limits is None else limits
    fitting = [
        one
        for one in table
        if (one.program, one.product) == (program, product)
        and one.group <= shape.group
        and one.rows <= max(shape.n_rows, 1)
    ]
    limit = max(fitting, key=lambda one: (one.group, one.rows)).density
    return program if round(shape.density, 2) <= round(limit, 2) else "dense"


def calibrate(
    size: int = 1024, groups: tuple[int, ...] = (1, 4, 8, 16), rows: tuple[int, ...] = (1, 32, 256), *, rounds: int = 5
) -> tuple[Limit, ...]:
    """Measure up to which density compiled products beat the dense one on this machine, and let "auto" go by it.

    Seconds of the processor are measured, medians over rounds in turn. A product takes a time that grows linearly with
    the density, and the limit is where the line through two densities meets the dense program. What was compiled before
    keeps its choice. It takes some seconds, more with larger sizes; the limits last as long as the process.

    Args:
        size: inputs and outputs of the matrices that are timed; take those of your network.
        groups: group sizes to time; limits hold from each up to the next that is listed in `GROUPS`.
        rows: numbers of rows to time, each for the class of `ROWS` that it belongs to.
        rounds: repetitions, whose median counts.

    Returns:
        The limits now in use. Where nothing is compiled they are those that come with the package.

    Raises:
        ValueError: a size, group or number of rows is below 1.
    """
    global _current
    for name, values in (("size", (size,)), ("groups", groups), ("rows", rows), ("rounds", (rounds,))):
        for value in values:
            require_count(name, value, 1)
    if not library().kernels:
        return _current
    table = {one[:4]: one for one in _current}
    for group in groups:
        matrices = [_random_matrix(size, group, density) for density in (0.25, 0.75)]
        for n_rows in rows:
            for product in ("forward", "gradients"):
                density = _meeting_point(matrices, n_rows, product, rounds)
                place = ("native", product, _class(GROUPS, group), _class(ROWS, n_rows))
                table[place] = Limit(*place, density)
    _current = tuple(table.values())
    return _current


def _class(ends: tuple[int, ...], value: int) -> int:
    return max(end for end in ends if end <= value)


def _random_matrix(size: int, group: int, density: float) -> GroupSparse:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(size, size)).astype(np.float32)
    return pack(W, project_group(np.abs(W), density=density, group=group), group)


def _meeting_point(matrices: list[GroupSparse], n_rows: int, product: Product, rounds: int) -> float:
    """The density at which the compiled program takes as long as the dense one."""
    from uqsparse.kernels.sparse_products import matmul  # it takes its choice from here

    sparse, other = matrices
    x = jnp.asarray(np.random.default_rng(1).normal(size=(n_rows, sparse.shape[0])), jnp.float32)

    def run(gs, backend):
        if product == "forward":
            return matmul(x, gs, backend)
        _, pull = jax.vjp(lambda x, val: matmul(x, dataclasses.replace(gs, val=val), backend), x, gs.val)
        return pull(jnp.ones((n_rows, gs.shape[1]), jnp.float32))

    programs = [
        jax.jit(lambda gs: run(gs, "native")).lower(sparse).compile(),
        jax.jit(lambda gs: run(gs, "native")).lower(other).compile(),
        jax.jit(lambda gs: run(gs, "dense")).lower(sparse).compile(),
    ]
    calls = [
        lambda program=program, gs=gs: jax.block_until_ready(program(gs))
        for program, gs in zip(programs, (sparse, other, sparse), strict=True)
    ]
    low, high, dense = median_seconds(calls, rounds)
    slope = (high - low) / (other.density - sparse.density)
    if slope <= 0:
        return 1.0 if low < dense else 0.0
    return float(np.clip(sparse.density + (dense - low) / slope, 0.0, 1.0))


def median_seconds(
    calls: Sequence[Callable[[], Any]],
    rounds: int,
    least: float = 0.005,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """Seconds of each call: the median of interleaved rounds in which each is repeated for about `least` seconds.

    The least of the rounds would not do: what threads that have just stopped took is now and then counted a tick late,
    and a round can seem to take half of its time.

    Args:
        calls: what to time; each waits for its own result.
        rounds: repetitions, at least 1.
        least: seconds of a round.
        clock: seconds of the processor, or those of the wall for several threads.
    """
    repeats = []
    for call in calls:
        call()  # compiles
        start = clock()
        call()
        repeats.append(max(1, round(least / max(clock() - start, 1e-6))))
    found = np.empty((rounds, len(calls)))
    for seconds in found:
        for i, call in enumerate(calls):
            start = clock()
            for _ in range(repeats[i]):
                call()
            seconds[i] = (clock() - start) / repeats[i]
    return np.median(found, axis=0).tolist()
