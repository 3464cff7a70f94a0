"""Speed of the compiled sparse products against dense ones, by size, number of rows, group and sparsity."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from uqsparse.bench.entries.sparse_product_timing import (
    BCSR,
    DENSE,
    ONNXRUNTIME,
    OPENBLAS,
    SCIPY,
    Job,
    interleaved_seconds,
    key,
    timings,
)
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, NotMeasured, Picture
from uqsparse.bench.registry import claim
from uqsparse.kernels.group_sparsity import pack, project_group
from uqsparse.kernels.native import library
from uqsparse.kernels.product_choice import Shape, choose
from uqsparse.kernels.sparse_products import backend, matmul, rows_matvec

_SYSTEM = "Sparse layers"
SIZES, ROWS, SPARSITIES, GROUPS = (512, 1024, 2048, 4096), (1, 32, 256), (0.5, 0.75, 0.9, 0.95), (16, 8, 4, 1)
_DENSITIES = tuple(round(1 - sparsity, 2) for sparsity in SPARSITIES)
_LAYER_DENSITIES = (1.0, 0.8, 0.6, 0.4, 0.2)
_HOW = "processor seconds on one thread, median of interleaved rounds"


def _require_kernels() -> None:
    if not library().kernels:
        raise NotMeasured(f"no compiled kernels: {library().reason}")


def _gigaflops(size: int, rows: int, seconds: float) -> float:
    return 2e-9 * rows * size * size / seconds


def _against_bounds(ratios: dict[str, tuple[float, float]], detail: str) -> Measured:
    """The worst of several ratios, each over the bound it has to reach."""
    listed = ", ".join(f"{name} {ratio:.2f} of {bound:g}" for name, (ratio, bound) in ratios.items())
    worst = min(ratio / bound for ratio, bound in ratios.values())
    return Measured(worst, ">=", 1.0, "the ratios asked for", f"K = N = 1024, {detail}, {backend()}: {listed}; {_HOW}")


@claim("Products in groups of 16 beat the dense product from 75% of weights off", system=_SYSTEM)
def faster_than_dense(context: Context) -> Measured:
    """The least ratio to XLA's dense product, K = N = 1024, 75 and 90% off, 1 and 256 rows."""
    _require_kernels()
    found = timings([Job(1024, rows, (0.25, 0.1), rounds=5) for rows in (1, 256)], context.seed)
    ratios = [one[DENSE] / one[key(16, density)] for one in found for density in (0.25, 0.1)]
    listed = " / ".join(f"{ratio:.2f}" for ratio in ratios)
    return Measured(min(ratios), ">=", 1.0, DENSE, f"1 row, then 256: {listed}; {backend()}; {_HOW}")


@claim("Products in groups of 16 beat the dense product by the ratios asked for", system=_SYSTEM, quick=False)
def headline_ratios(context: Context) -> Measured:
    """The least ratio over its bound: 1.5, 2.5 and 4 at 256 rows, 1.8, 2.8 and 4 at one; 2.3 against OpenBLAS."""
    _require_kernels()
    densities, rounds = (0.5, 0.25, 0.1), 25
    many, one = timings(
        [Job(1024, 256, densities, peers=(OPENBLAS,), rounds=rounds), Job(1024, 1, densities, rounds=rounds)],
        context.seed,
    )
    ratios = {
        f"{1 - density:.0%} of weights off, {rows} row{'s' * (rows > 1)}": (
            found[DENSE] / found[key(16, density)],
            bound,
        )
        for rows, found, bounds in ((256, many, (1.5, 2.5, 4.0)), (1, one, (1.8, 2.8, 4.0)))
        for density, bound in zip(densities, bounds, strict=True)
    }
    ratios["75%, 256 rows, OpenBLAS"] = many[OPENBLAS] / many[key(16, 0.25)], 2.3
    speed = f"XLA dense {_gigaflops(1024, 256, many[DENSE]):.0f} and {_gigaflops(1024, 1, one[DENSE]):.0f} GF/s"
    return _against_bounds(ratios, speed)


@claim("Gradients in groups of 16 beat the dense ones by the ratios asked for", system=_SYSTEM, quick=False)
def gradient_ratios(context: Context) -> Measured:
    """Gradients of rows and values together, 256 rows: the least ratio over its bound, 2 at 75% and 3.5 at 90%."""
    _require_kernels()
    (found,) = timings([Job(1024, 256, (0.25, 0.1), what="gradients", rounds=25)], context.seed)
    ratios = {
        f"{1 - density:.0%}": (found[DENSE] / found[key(16, density)], bound)
        for density, bound in ((0.25, 2.0), (0.1, 3.5))
    }
    return _against_bounds(ratios, f"XLA dense {2 * _gigaflops(1024, 256, found[DENSE]):.0f} GF/s")


# --- whole tables -----------------------------------------------------------------------------------------------------

Table = dict[tuple[int, int], dict[str, float]]  # seconds by name, for each size and number of rows


def _table(jobs: list[Job], seed: int, threads: int = 1) -> Table:
    return {(job.size, job.rows): found for job, found in zip(jobs, timings(jobs, seed, threads), strict=True)}


def _ratios(table: Table, peer: str, ours: str, densities: tuple[float, ...] = _DENSITIES) -> np.ndarray:
    """The peer's seconds over ours: places down, densities across. "{}" in a name stands for the density."""
    return np.array(
        [[one[peer.format(f"{d:g}")] / one[ours.format(f"{d:g}")] for d in densities] for one in table.values()]
    )


def _heat_map(table: Table, panels: dict[str, np.ndarray], caption: str, densities=_DENSITIES) -> Picture:
    """Ratios as colours and numbers: blue where the sparse product is faster, red where it is slower."""
    columns, rows = [f"{1 - density:.0%}" for density in densities], [f"{size}, {rows}" for size, rows in table]
    figure = Figure(figsize=(3.2 * len(panels) + 1, 0.34 * len(rows) + 1.2), dpi=72, layout="constrained")
    for place, (axes, (title, ratios)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True)
    ):
        axes.pcolormesh(np.arange(len(columns)), np.arange(len(rows)), np.log2(ratios), cmap="RdBu", vmin=-4, vmax=4)
        axes.invert_yaxis()
        for (i, j), ratio in np.ndenumerate(ratios):
            dark = abs(np.log2(ratio)) > 2.5
            axes.text(j, i, f"{ratio:.2g}", ha="center", va="center", size=9, color="#fefefe" if dark else "#101010")
        axes.set_title(title, size=11)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows if place == 0 else [""] * len(rows))
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return picture(figure, f"{caption}, by K = N and number of rows (down) and sparsity (across)")


def _least(ratios: np.ndarray, table: Table, densities: tuple[float, ...] = _DENSITIES) -> str:
    row, column = np.unravel_index(ratios.argmin(), ratios.shape)
    size, rows = list(table)[row]
    return f"least at K = {size}, {rows} row{'s' * (rows > 1)}, {1 - densities[column]:.0%} off"


def _by_group(table: Table, peer: str) -> dict[str, np.ndarray]:
    titles = {group: f"groups of {group}" if group > 1 else "no groups" for group in GROUPS}
    return {title: _ratios(table, peer, f"{group} {{}}") for group, title in titles.items()}


def _against_both(table: Table, caption: str, how: str) -> Measured:
    """The least ratio to XLA, with a picture of the ratios to XLA and to OpenBLAS."""
    panels = {f"than {peer}": _ratios(table, peer, "16 {}") for peer in (DENSE, OPENBLAS)}
    ratios = panels[f"than {DENSE}"]
    detail = f"{_least(ratios, table)}; {backend()}; {how}"
    return Measured(float(ratios.min()), ">=", 1.0, DENSE, detail, (_heat_map(table, panels, caption),))


@claim("Products in groups of 16 beat the dense product at every size", system=_SYSTEM, quick=False)
def every_size(context: Context) -> Measured:
    """The least ratio to XLA's dense product, K = N = 512 to 4096, 1 to 256 rows, from 50% of weights off."""
    _require_kernels()
    peers = (OPENBLAS, SCIPY, ONNXRUNTIME)
    jobs = [Job(size, rows, _DENSITIES, GROUPS, peers=peers, rounds=5) for size in SIZES for rows in ROWS]
    table = _table(jobs, context.seed)
    ratios = _ratios(table, DENSE, "16 {}")
    pictures = [
        _heat_map(table, _by_group(table, peer), f"How many times faster than {peer}")
        for peer in (DENSE, OPENBLAS, ONNXRUNTIME)
        if all(peer in one for one in table.values())
    ]
    single = {"no groups": _ratios(table, f"{SCIPY} {{}}", "1 {}")}
    pictures.append(_heat_map(table, single, f"How many times faster than {SCIPY}"))
    speeds = ", ".join(
        f"{size}/{rows} {_gigaflops(size, rows, one[DENSE]):.0f} ({_gigaflops(size, rows, one[OPENBLAS]):.0f})"
        for (size, rows), one in table.items()
    )
    detail = f"{_least(ratios, table)}; {backend()}; XLA (OpenBLAS) GF/s by K/rows: {speeds}; {_HOW}"
    return Measured(float(ratios.min()), ">=", 1.0, DENSE, detail, tuple(pictures))


@claim("Gradients in groups of 16 beat the dense ones at every size", system=_SYSTEM, quick=False)
def every_gradient(context: Context) -> Measured:
    """The least ratio to XLA's gradients of rows and weights, K = N = 512 to 2048, 64 and 256 rows, from 50% off."""
    _require_kernels()
    places = [(size, rows) for size in SIZES[:3] for rows in (64, 256)]
    jobs = [Job(*place, _DENSITIES, what="gradients", peers=(OPENBLAS,), rounds=7) for place in places]
    table = _table(jobs, context.seed)
    return _against_both(table, "How many times faster gradients of rows and values in groups of 16 are", _HOW)


@claim("Products on two threads beat the dense product on two", system=_SYSTEM, quick=False)
def two_threads(context: Context) -> Measured:
    """The least ratio to XLA's dense product, seconds of the clock, K = N = 1024 and 2048, groups of 16."""
    _require_kernels()
    if len(os.sched_getaffinity(0)) < 2:
        raise NotMeasured("it takes two processors")
    jobs = [Job(size, rows, _DENSITIES, peers=(OPENBLAS,), rounds=15) for size in SIZES[1:3] for rows in ROWS]
    table = _table(jobs, context.seed, threads=2)
    how = "seconds of the clock, median of interleaved rounds"
    return _against_both(table, "How many times faster products in groups of 16 are on two threads", how)


@claim("Without compiled kernels, what auto takes beats the dense product", system=_SYSTEM, quick=False)
def without_compiled_kernels(context: Context) -> Measured:
    """The least ratio to XLA's dense product of the loop in JAX, groups of 64, where `auto` takes it: K = N = 1024."""
    densities, groups = (0.5, 0.25, 0.1, 0.05), (16, 64, 128)
    jobs = [Job(1024, rows, densities, groups, backend="jax", peers=(SCIPY, BCSR), rounds=5) for rows in ROWS]
    table = _table(jobs, context.seed)
    panels = {f"groups of {group}, JAX": _ratios(table, DENSE, f"{group} {{}}") for group in groups}
    panels |= {f"{peer}, no groups": _ratios(table, DENSE, f"{peer} {{}}") for peer in (BCSR, SCIPY)}
    taken = {
        (rows, density): table[1024, rows][DENSE] / table[1024, rows][key(64, density)]
        for rows in ROWS
        for density in densities
        if choose(Shape(rows, 1024, 1024, 64, round(density * 1024) * 16), "forward", "jax") == "jax"
    }
    worst = min(taken, key=lambda place: taken[place])
    detail = f"least at {worst[0]} row{'s' * (worst[0] > 1)}, {1 - worst[1]:.0%} off; {_HOW}"
    drawing = _heat_map(table, panels, "How many times faster than XLA dense products without compiled kernels are")
    return Measured(taken[worst], ">=", 1.0, DENSE, detail, (drawing,))


@claim("On a GPU groups of 128 beat the dense product from 90% of weights off", system=_SYSTEM, quick=False)
def on_a_gpu(context: Context) -> Measured:
    """The ratio to XLA's dense product there, K = N = 4096, 256 rows; the loop in JAX, which `auto` takes on a GPU."""
    devices = [device for device in jax.devices() if device.platform == "gpu"]
    if not devices:
        raise NotMeasured("there is no GPU")
    rng = np.random.default_rng(context.seed)
    W, x = (jax.device_put(rng.normal(size=(n, 4096)).astype(np.float32), devices[0]) for n in (4096, 256))
    gs = jax.device_put(pack(W, project_group(np.abs(np.asarray(W)), density=0.1, group=128), 128), devices[0])
    dense, sparse = jax.jit(jnp.matmul), jax.jit(lambda x, gs: matmul(x, gs, "jax"))
    seconds = interleaved_seconds(
        {
            "dense": lambda: jax.block_until_ready(dense(x, W)),
            "sparse": lambda: jax.block_until_ready(sparse(x, gs)),
        },
        rounds=15,
        clock=time.perf_counter,
    )
    detail = f"{devices[0].device_kind}; seconds of the clock"
    return Measured(seconds["dense"] / seconds["sparse"], ">=", 1.0, DENSE, detail)


@claim("Layers that are packed automatically are never slower than dense ones", system=_SYSTEM, quick=False)
def never_slower(context: Context) -> Measured:
    """What `pack_network` makes of one layer against that layer, forward: groups of 16, 0 to 80% of weights off.

    A layer that is left dense is the same program, and counts as 1.
    """
    _require_kernels()
    jobs = [Job(size, rows, _LAYER_DENSITIES, what="layer", rounds=15) for size in SIZES for rows in ROWS]
    table = _table(jobs, context.seed)
    names = [key(16, density) for density in _LAYER_DENSITIES]
    ratios = np.array([[one[DENSE] / one.get(name, one[DENSE]) for name in names] for one in table.values()])
    packed = np.array([[name in one for name in names] for one in table.values()])
    panels = {"groups of 16": ratios}
    caption = "How many times faster than a dense layer what pack_network makes of it is"
    drawing = _heat_map(table, panels, caption, _LAYER_DENSITIES)
    detail = (
        f"{ratios.size} layers, {packed.sum()} of them packed; {_least(ratios, table, _LAYER_DENSITIES)}; of those "
        f"packed {ratios[packed].min():.2f}; {backend()}; {_HOW}"
    )
    return Measured(float(ratios.min()), ">=", 0.9, "the dense layer", detail, (drawing,))


@claim("Chosen inputs of a wide layer are multiplied faster than all", system=_SYSTEM, quick=False)
def chosen_inputs(context: Context) -> Measured:
    """One row, 2048 inputs and 5504 outputs; the 35% of inputs largest in magnitude, found by `top_k`, multiplied."""
    _require_kernels()
    rng = np.random.default_rng(context.seed)
    x = jnp.asarray(rng.normal(size=2048), jnp.float32)
    W = jnp.asarray(rng.normal(size=(2048, 5504)), jnp.float32)
    sparsities = (0.5, 0.65, 0.9)

    def chosen(product, sparsity):
        count = round((1 - sparsity) * 2048)
        run = jax.jit(lambda x, W: product(x, W, jax.lax.top_k(jnp.abs(x), count)[1]))
        return lambda: jax.block_until_ready(run(x, W))

    dense = jax.jit(jnp.matmul)
    calls = {"dense": lambda: jax.block_until_ready(dense(x, W))}
    for sparsity in sparsities:
        calls[f"compiled {sparsity}"] = chosen(rows_matvec, sparsity)
        calls[f"gathered {sparsity}"] = chosen(lambda x, W, kept: x[kept] @ W[kept], sparsity)
    seconds = interleaved_seconds(calls, rounds=9)
    ratio = {name: seconds["dense"] / value for name, value in seconds.items()}
    listed = ", ".join(f"{s:.0%} {ratio[f'compiled {s}']:.2f} ({ratio[f'gathered {s}']:.2f})" for s in sparsities)
    detail = f"by inputs left out, in brackets a gather and a dense product: {listed}; {backend()}; medians of rounds"
    return Measured(ratio["compiled 0.65"], ">=", 1.5, DENSE, detail)
