"""Claims about accounts of sparse networks: labels of recorded runs, multiply-adds, bytes, and honest speed."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import sparse
from threadpoolctl import threadpool_limits

from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, NotMeasured
from uqsparse.bench.registry import claim
from uqsparse.kernels.product_choice import median_seconds
from uqsparse.nn.gaussian_layers import to_bayesian
from uqsparse.pruning.cards import CARDS, violations
from uqsparse.pruning.criteria import snip
from uqsparse.pruning.flops import flops
from uqsparse.pruning.recipes.gmp import gmp
from uqsparse.pruning.recipes.granet import granet
from uqsparse.pruning.recipes.imp import imp
from uqsparse.pruning.recipes.one_shot import one_shot
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.set import set_
from uqsparse.pruning.recipes.ssvi import elbo_loss, ssvi
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.run_trace import RunTrace
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.storage import storage_bits
from uqsparse.pruning.structures import NM

_SYSTEM = "Sparse accounting"
_STEPS, _EVERY = 60, 10
_DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


def _toy(seed: int) -> tuple[Any, jax.Array, jax.Array]:
    """A perceptron, and 64 points of three classes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, 8)).astype(np.float32)
    return eqx.nn.MLP(8, 3, 24, 2, key=jax.random.key(seed)), jnp.asarray(x), jnp.asarray(x[:, :3].argmax(axis=1))


def _loss(net: Any, x: jax.Array, y: jax.Array, _: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(net)(x), y).mean()


def _negative_elbo(net: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
    return elbo_loss(key, net, (x, y), n_data=64)


def record_run(
    net: Any, optimiser: Any, x: jax.Array, y: jax.Array, loss: Callable[..., jax.Array]
) -> tuple[RunTrace, Any]:
    """Train for 60 steps; the masks and the parameters after each, not finished, and the last parameters."""
    params, static_part = eqx.partition(net, eqx.is_inexact_array)
    state, trace = optimiser.init(params), RunTrace()

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(lambda p: loss(eqx.combine(p, static_part), x, y, key))(params)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    trace.append(0, state.mask)
    for i in range(_STEPS):
        params, state = step(params, state, jax.random.key(i))
        trace.append(i, state.mask, params)
    return trace, params


def _runs(seed: int) -> dict[str, RunTrace]:
    """A finished trace for each card."""
    net, x, y = _toy(seed)
    params = eqx.filter(net, eqx.is_inexact_array)
    inner, key = optax.adam(1e-2), jax.random.key(seed)
    usual: dict[str, Any] = {"density": 0.2, "steps": _STEPS, "key": key}
    moving: dict[str, Any] = usual | {"every": _EVERY}
    grads = eqx.filter_grad(lambda net: _loss(net, x, y, key))(net)
    chosen = select_mask(params, 0.2, criterion=snip(), grads=grads)
    optimisers = {
        "static": static(inner, **usual),
        "snip": static(inner, **usual, mask=chosen),
        "set": set_(inner, **moving),
        "rigl": rigl(inner, **moving),
        "gmp": gmp(inner, **moving),
        "granet": granet(inner, **moving),
        "granet from sparse": granet(inner, **moving, start_density=0.5),
        "imp": imp(inner, **usual, rounds=2),
        "one_shot": one_shot(inner, **usual),
        "essential_sparsity": one_shot(inner, **usual, at=1.0),  # pruned below, after the last step
    }
    runs = {name: record_run(net, optimiser, x, y, _loss) for name, optimiser in optimisers.items()}
    runs["ssvi"] = record_run(to_bayesian(net), ssvi(inner, **moving), x, y, _negative_elbo)
    traces = {name: trace for name, (trace, _) in runs.items()}
    traces["essential_sparsity"].append(_STEPS, select_mask(runs["essential_sparsity"][1], 0.2))
    for trace in traces.values():
        trace.finish(_STEPS)
    return traces


@claim("Recorded runs of eleven recipes agree with their cards, wrong cards do not", system=_SYSTEM, quick=False)
def cards_are_checked(context: Context) -> Measured:
    """60 steps each; mistakes are violations of the right card, and RigL's run passing a card that says static."""
    traces = _runs(context.seed)
    wrong = {name: found for name, trace in traces.items() if (found := violations(CARDS[name], trace))}
    caught = violations(dataclasses.replace(CARDS["rigl"], topology="static"), traces["rigl"])
    explored = ", ".join(f"{name} {trace.explored:.2f}" for name, trace in traces.items())
    detail = f"{len(traces)} recipes, density 0.2; share of weights ever active: {explored}"
    return Measured(
        len(wrong) + (caught != ("topology: declared static, actual dynamic",)),
        "==",
        0,
        "the cards",
        f"{detail}; wrong: {wrong}" if wrong else detail,
    )


@claim("A run that forgets to mask its weights is reported as dense", system=_SYSTEM)
def forgotten_masks_are_found(context: Context) -> Measured:
    """Gradients and updates masked to 5%, parameters never: the density that the trace finds."""
    rng = np.random.default_rng(context.seed)
    weights, x, target = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((20, 20), (64, 20), (64, 20)))
    mask = jnp.asarray(rng.permutation(400).reshape(20, 20) < 20)
    trace = RunTrace()
    for i in range(3):
        trace.append(i, {"w": mask}, {"w": weights})
        weights -= 0.1 * mask * (x.T @ (x @ weights - target)) / 64
    trace.finish(3)
    said = violations(CARDS["static"], trace)
    return Measured(trace.actual_density or 0.0, "==", 1.0, "all weights alive", "; ".join(said))


def _xla_flops(model: Any, shape: tuple[int, ...]) -> float:
    params, rest = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    run = jax.jit(lambda params, x: eqx.combine(params, rest)(x))
    analysis = run.lower(params, jax.ShapeDtypeStruct(shape, jnp.float32)).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list | tuple) else analysis
    if not analysis or "flops" not in analysis:
        raise NotMeasured("XLA gives no count of operations here")
    return float(analysis["flops"])


@claim("FLOPs of perceptrons are those that XLA counts", system=_SYSTEM)
def perceptrons_cost_what_xla_says(context: Context) -> Measured:
    """Five sizes; the largest difference of all operations, in FLOPs."""
    sizes = ((40, 10, 256, 2), (8, 3, 16, 1), (5, 5, 7, 3), (30, 4, 20, 2), (3, 2, 0, 0))
    worst, said = 0.0, []
    for size in sizes:
        mlp = eqx.filter_eval_shape(eqx.nn.MLP, *size, key=jax.random.key(0))
        found, theirs = flops(mlp, size[:1]), _xla_flops(mlp, size[:1])
        worst = max(worst, abs(found.flops + found.other - theirs))
        said.append(f"{found.flops + found.other:,}")
    return Measured(worst, "==", 0, "XLA's cost analysis", f"FLOPs {', '.join(said)}")


@claim("FLOPs of convolutions are those that XLA counts, up to their borders", system=_SYSTEM)
def convolutions_cost_what_xla_says(context: Context) -> Measured:
    """Three convolutions of 80 x 80 images; the largest relative difference."""
    options = ({"kernel_size": 3}, {"kernel_size": 5, "stride": 2, "groups": 2}, {"kernel_size": 3, "padding": 1})
    gaps = []
    for one in options:
        conv = eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 8, **one, key=jax.random.key(0))
        found = flops(conv, (4, 80, 80))
        gaps.append(abs(_xla_flops(conv, (4, 80, 80)) / (found.flops + found.other) - 1))
    detail = "XLA leaves out products with the padding: " + ", ".join(f"{100 * gap:.2f}%" for gap in gaps)
    return Measured(max(gaps), "<=", 0.02, "XLA's cost analysis", detail)


@claim("Predicted bytes are those of arrays that are really packed", system=_SYSTEM)
def bytes_are_exact(context: Context) -> Measured:
    """20 random masks of 64 x 96 as bitmask, CSR and, for 20 others, 2:4 patterns; the largest difference in bytes."""
    rng, worst, agree = np.random.default_rng(context.seed), 0, 0
    for density in np.geomspace(0.005, 0.9, 20):
        weight = np.where(rng.random((64, 96)) < density, rng.normal(size=(64, 96)), 0).astype(np.float32)
        mask, csr = weight != 0, sparse.csr_matrix(weight)
        sizes = {
            "bitmask": np.packbits(mask).nbytes + weight[mask].nbytes,
            "csr": csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes,
        }
        worst = max(worst, abs(storage_bits(mask, "bitmask") // 8 - sizes["bitmask"]))
        worst = max(worst, abs(storage_bits(mask, "csr") // 8 - sizes["csr"]))
        agree += (sizes["bitmask"] < sizes["csr"]) == (32 * csr.nnz + 32 * 65 > mask.size)
        patterns = list(itertools.combinations(range(4), 2))
        numbers = rng.integers(len(patterns), size=64 * 24)
        runs = np.zeros((64 * 24, 4), bool)
        runs[np.arange(64 * 24)[:, None], np.array(patterns)[numbers]] = True
        width = math.ceil(math.log2(len(patterns)))
        packed = np.packbits((numbers[:, None] >> np.arange(width)) & 1).nbytes + 4 * int(runs.sum())
        worst = max(worst, abs(storage_bits(runs.reshape(64, 96), NM(2, 4)) // 8 - packed))
    detail = f"bitmask beats CSR where the formula says for {agree} of 20 masks"
    return Measured(worst + 20 - agree, "==", 0, "numpy.packbits, scipy.sparse, patterns bit by bit", detail)


@cache
def _speeds() -> tuple[float, dict[float, float], dict[float, float]]:
    """Milliseconds of a dense product of 1024 x 1024 by 1024 x 64, of masked dense and of CSR ones by density."""
    rng = np.random.default_rng(0)
    dense, x = (rng.normal(size=shape).astype(np.float32) for shape in ((1024, 1024), (1024, 64)))
    masked = {d: np.where(rng.random(dense.shape) < d, dense, 0).astype(np.float32) for d in _DENSITIES}
    packed = {d: sparse.csr_matrix(weight) for d, weight in masked.items()}
    calls: list[Callable[[], Any]] = [lambda: dense @ x]
    calls += [lambda weight=weight: weight @ x for weight in (*masked.values(), *packed.values())]
    with threadpool_limits(1):
        first, *rest = (1e3 * one for one in median_seconds(calls, 9, 0.02))
    n = len(_DENSITIES)
    return first, dict(zip(_DENSITIES, rest[:n], strict=True)), dict(zip(_DENSITIES, rest[n:], strict=True))


def _crossover() -> float:
    """The density at which CSR takes as long as dense, between the measured ones, on logarithmic axes."""
    dense, _, csr = _speeds()
    logs = np.log([csr[d] / dense for d in _DENSITIES])
    if not logs[0] > 0 > logs[-1]:
        return _DENSITIES[0] if logs[0] <= 0 else _DENSITIES[-1]
    return float(np.exp(np.interp(0, logs[::-1], np.log(_DENSITIES)[::-1])))


def _times(what: dict[float, float]) -> str:
    return ", ".join(f"{d:g}: {ms:.2f}" for d, ms in what.items())


@claim("A masked dense product is no faster than the dense one", system=_SYSTEM, quick=False)
def masked_dense_saves_no_time(context: Context) -> Measured:
    """1024 x 1024 by 1024 x 64, one thread; the smallest ratio of times over six densities."""
    dense, masked, _ = _speeds()
    ratio = min(masked.values()) / dense
    return Measured(ratio, ">=", 0.95, "dense BLAS", f"milliseconds: dense {dense:.2f}; by density {_times(masked)}")


@claim("A CSR product with half of the FLOPs is slower than the dense one", system=_SYSTEM, quick=False)
def half_the_flops_take_longer(context: Context) -> Measured:
    """As above, at density 0.5: how many times as long."""
    dense, _, csr = _speeds()
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(_DENSITIES, [csr[d] / dense for d in _DENSITIES], "o-", label="CSR")
    axes.loglog(_DENSITIES, _DENSITIES, ":", color="#808080", label="FLOPs")
    axes.axhline(1, color="#000000", linewidth=0.8)
    axes.set(xlabel="density", ylabel="time / dense time")
    axes.legend(frameon=False)
    drawn = picture(figure, "Time of a CSR product against the dense one, and what FLOPs promise")
    detail = f"milliseconds: dense {dense:.2f}; CSR by density {_times(csr)}"
    return Measured(csr[0.5] / dense, ">", 1, "dense BLAS", detail, (drawn,))


@claim("A CSR product at density 0.01 is faster than the dense one", system=_SYSTEM, quick=False)
def very_sparse_products_win(context: Context) -> Measured:
    """As above: how many times as long, and the density at which both take the same time."""
    dense, _, csr = _speeds()
    return Measured(csr[0.01] / dense, "<", 1, "dense BLAS", f"as fast as dense at density {_crossover():.3f}")
