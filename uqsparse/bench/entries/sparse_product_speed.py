"""Speed of the compiled sparse products against dense ones, by size, number of rows, group and sparsity."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from uqsparse.bench.entries.sparse_product_timing import (
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
from uqsparse.kernels.native import library
from uqsparse.kernels.sparse_products import backend, rows_matvec

_SYSTEM = "Sparse products"
SIZES, ROWS, SPARSITIES, GROUPS = (512, 1024, 2048, 4096), (1, 32, 256), (0.5, 0.75, 0.9, 0.95), (16, 8, 4, 1)
_DENSITIES = tuple(round(1 - sparsity, 2) for sparsity in SPARSITIES)
_LAYER_DENSITIES = (1.0, 0.8, 0.6, 0.4, 0.2)
_HOW = "processor seconds on one thread, least of interleaved rounds"


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


@claim("Products in groups of 16 beat the dense product by the ratios asked for", system=_SYSTEM)
def headline_ratios(context: Context) -> Measured:
    """The least ratio over its bound: 1.5, 2.5 and 4 at 256 rows, 1.8, 2.8 and 4 at one; 2.3 against OpenBLAS."""
    _require_kernels()
    densities, rounds = (0.5, 0.25, 0.1), 9 if context.quick else 25
    many, one = timings(
        [
            Job(1024, 256, densities, peers=(DENSE, OPENBLAS), rounds=rounds),
            Job(1024, 1, densities, rounds=rounds),
        ],
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


@claim("Gradients in groups of 16 beat the dense ones by the ratios asked for", system=_SYSTEM)
def gradient_ratios(context: Context) -> Measured:
    """Gradients of rows and values together, 256 rows: the least ratio over its bound, 2 at 75% and 3.5 at 90%."""
    _require_kernels()
    (found,) = timings([Job(1024, 256, (0.25, 0.1), what="gradients", rounds=7 if context.quick else 25)], context.seed)
    ratios = {
        f"{1 - density:.0%}": (found[DENSE] / found[key(16, density)], bound)
        for density, bound in ((0.25, 2.0), (0.1, 3.5))
    }
    return _against_bounds(ratios, f"XLA dense {2 * _gigaflops(1024, 256, found[DENSE]):.0f} GF/s")


# --- the whole table --------------------------------------------------------------------------------------------------


@cache
def _table(seed: int) -> dict[tuple[int, int], dict[str, float]]:
    """Seconds by size and rows, of all groups and densities and of the peers."""
    places = [(size, rows) for size in SIZES for rows in ROWS]
    peers = (DENSE, OPENBLAS, SCIPY, ONNXRUNTIME)
    jobs = [Job(size, rows, _DENSITIES, GROUPS, peers=peers, rounds=5) for size, rows in places]
    return dict(zip(places, timings(jobs, seed), strict=True))


def _heat_map(columns: list[str], rows: list[str], panels: dict[str, np.ndarray], caption: str) -> Picture:
    """Ratios as colours and numbers: blue where the sparse product is faster, red where it is slower."""
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
    return picture(figure, caption)


def _ratio_pictures(found: dict[tuple[int, int], dict[str, float]]) -> tuple[Picture, ...]:
    rows = [f"{size}, {n_rows}" for size, n_rows in found]
    columns = [f"{sparsity:.0%}" for sparsity in SPARSITIES]
    pictures = []
    for peer in (DENSE, OPENBLAS, ONNXRUNTIME):
        if not all(peer in seconds for seconds in found.values()):
            continue
        panels = {
            f"groups of {group}" if group > 1 else "no groups": np.array(
                [[seconds[peer] / seconds[key(group, density)] for density in _DENSITIES] for seconds in found.values()]
            )
            for group in GROUPS
        }
        caption = f"How many times faster than {peer}, by K = N and number of rows (down) and sparsity (across)"
        pictures.append(_heat_map(columns, rows, panels, caption))
    panels = {
        "no groups": np.array(
            [[one[f"{SCIPY} {density:g}"] / one[key(1, density)] for density in _DENSITIES] for one in found.values()]
        )
    }
    caption = f"How many times faster than {SCIPY}, by K = N and number of rows (down) and sparsity (across)"
    return (*pictures, _heat_map(columns, rows, panels, caption))


@claim("Products in groups of 16 beat the dense product at every size", system=_SYSTEM, quick=False)
def every_size(context: Context) -> Measured:
    """The least ratio to XLA's dense product, K = N = 512 to 4096, 1 to 256 rows, from 50% of weights off."""
    _require_kernels()
    found = _table(context.seed)
    ratios = {
        (*place, density): seconds[DENSE] / seconds[key(16, density)]
        for place, seconds in found.items()
        for density in _DENSITIES
    }
    worst = min(ratios, key=lambda place: ratios[place])
    speeds = ", ".join(
        f"{size}/{rows} {_gigaflops(size, rows, one[DENSE]):.0f} ({_gigaflops(size, rows, one[OPENBLAS]):.0f})"
        for (size, rows), one in found.items()
    )
    detail = (
        f"least at K = {worst[0]}, {worst[1]} rows, {1 - worst[2]:.0%}; {backend()}; XLA (OpenBLAS) GF/s by K/rows: "
        f"{speeds}; {_HOW}"
    )
    return Measured(ratios[worst], ">=", 1.0, DENSE, detail, _ratio_pictures(found))


@claim("Layers that are packed automatically are never slower than dense ones", system=_SYSTEM, quick=False)
def never_slower(context: Context) -> Measured:
    """What `pack_network` makes of one layer against that layer, forward: groups of 16, 0 to 80% of weights off.

    A layer that is left dense is the same program, and counts as 1.
    """
    _require_kernels()
    places = [(size, rows) for size in (SIZES[:2] if context.quick else SIZES) for rows in ROWS]
    found = timings([Job(*place, _LAYER_DENSITIES, what="layer", rounds=15) for place in places], context.seed)
    ratios = np.array([[one[DENSE] / one[key(16, density)] for density in _LAYER_DENSITIES] for one in found])
    at = np.unravel_index(ratios.argmin(), ratios.shape)
    drawing = _heat_map(
        [f"{1 - density:.0%}" for density in _LAYER_DENSITIES],
        [f"{size}, {rows}" for size, rows in places],
        {"groups of 16": ratios},
        "How many times faster than a dense layer what pack_network makes of it is, by K = N and rows (down) and "
        "sparsity (across)",
    )
    size, rows = places[at[0]]
    sparsity = 1 - _LAYER_DENSITIES[at[1]]
    detail = (
        f"{ratios.size} layers; least at K = {size}, {rows} rows, {sparsity:.0%}; those packed, from 40% off, "
        f"{ratios[:, 2:].min():.2f} and more; {backend()}; {_HOW}"
    )
    return Measured(float(ratios.min()), ">=", 0.9, "the dense layer", detail, (drawing,))


@claim("Chosen inputs of a wide layer are multiplied faster than all", system=_SYSTEM, quick=False)
def chosen_inputs(context: Context) -> Measured:
    """One row, 2048 inputs and 5504 outputs, the 35% of inputs largest in magnitude found by `top_k` and multiplied."""
    _require_kernels()
    rng = np.random.default_rng(context.seed)
    x = jnp.asarray(rng.normal(size=2048), jnp.float32)
    W = jnp.asarray(rng.normal(size=(2048, 5504)), jnp.float32)
    count = round(0.35 * 2048)

    @jax.jit
    def sparse(x, W):
        return rows_matvec(x, W, jax.lax.top_k(jnp.abs(x), count)[1])

    @jax.jit
    def gathered(x, W):
        kept = jax.lax.top_k(jnp.abs(x), count)[1]
        return x[kept] @ W[kept]

    dense = jax.jit(jnp.matmul)
    calls = {
        name: lambda f=f: jax.block_until_ready(f(x, W))
        for name, f in (("sparse", sparse), ("dense", dense), ("gathered", gathered))
    }
    seconds = interleaved_seconds(calls, rounds=9)
    detail = f"{backend()}; gather and dense product {seconds['dense'] / seconds['gathered']:.2f}; processor seconds"
    return Measured(seconds["dense"] / seconds["sparse"], ">=", 1.5, DENSE, detail)
