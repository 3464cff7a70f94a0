"""Claims about bigger sparse networks of the same cost: exact costs, what they gain, and what they cost in time."""

from functools import cache, partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure

from uqsparse.bench.entries.sparse_training_study import Trained, loss, network, signals, train
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured
from uqsparse.bench.registry import claim
from uqsparse.kernels.product_choice import median_seconds
from uqsparse.nn.iso_flop import IsoFlop, iso_flop
from uqsparse.pruning.flops import Phase, training_flops
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.static import static

_SYSTEM = "Sparse iso-FLOP"
_STEPS, _RATE, _EVERY, _SEEDS, _WIDTH = 2400, 2e-3, 100, range(10), 48
_SPARSITIES = {96: 0.75, 152: 0.9}  # by the width that they allow


def _wide(seed: int, sparsity: float) -> IsoFlop:
    """The network of width 48 that `train` begins with, made wider."""
    key = jax.random.split(jax.random.key(seed), 3)[0]
    return iso_flop(network(key, signals(), (_WIDTH, _WIDTH)), sparsity, key=key)


@cache
def _trained(method: str, width: int, constant: bool = True) -> Trained:
    """Networks of ten seeds: "dense", or wider ones under masks of as many weights as the one of width 48 has."""
    options: dict[str, Any] = {"steps": _STEPS, "rate": _RATE, "seeds": _SEEDS}
    if constant:
        options["decay_steps"] = 1000 * _STEPS  # so slow a decay that there is none
    if method == "dense":
        return train(lambda inner, key, params: inner, widths=(width, width), **options)
    found = [_wide(seed, _SPARSITIES[width]) for seed in _SEEDS]
    density = found[0].density

    def make(inner: optax.GradientTransformation, key: Array, params: PyTree) -> optax.GradientTransformation:
        if method == "static":
            return static(inner, density=density, key=key)
        return rigl(inner, density=density, steps=_STEPS, key=key, every=_EVERY, churn=0.6)

    return train(make, networks=[one.model for one in found], **options)


def _pooled_error(a: Trained, b: Trained) -> float:
    return 100 * float(np.hypot(a.error, b.error))


@claim("Sparse Wide with RigL beats the dense network of equal FLOPs", system=_SYSTEM, quick=False)
def wide_helps(context: Context) -> Measured:
    """Signals of ten digits, 40-48-48-10 against 40-96-96-10 with the same 4,704 weights; percentage points."""
    base, wide, big = _trained("dense", 48), _trained("rigl", 96), _trained("dense", 152)
    wider = _trained("rigl", 152)
    gain, error = 100 * (wide.mean - base.mean), _pooled_error(base, wide)
    decayed = _trained("dense", 48, False), _trained("rigl", 96, False)
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for i, (name, place) in enumerate((("rigl", "C0"), ("static", "#808080"))):
        runs = [base, *(_trained(name, width) for width in _SPARSITIES)]
        axes.errorbar(
            [48, *_SPARSITIES],
            [100 * run.mean for run in runs],
            [100 * run.error for run in runs],
            fmt="o-" if i == 0 else "s--",
            color=place,
            label="RigL" if name == "rigl" else "static masks",
        )
    axes.set(xlabel="width of the hidden layers, 4,704 weights each", ylabel="accuracy, %")
    axes.legend(frameon=False)
    drawn = picture(figure, "Accuracy at equal FLOPs by width; bars are standard errors over ten seeds")
    detail = (
        f"accuracy in %, 10 seeds, standard error: dense 48 {base}; width 96 {wide}; width 152 {wider}; dense 152 with "
        f"6.5 times the FLOPs {big}; pooled standard error {error:.2f}. With the rate falling to 0 as a cosine: dense "
        f"48 {decayed[0]}; width 96 {decayed[1]}"
    )
    return Measured(gain, ">=", max(1.5, error), "dense, width 48", detail, (drawn,))


@claim("RigL beats static masks in wider networks of equal FLOPs", system=_SYSTEM, quick=False)
def rigl_beats_static(context: Context) -> Measured:
    """As above, at widths 96 and 152; the smaller of the two differences, in points."""
    runs = {width: (_trained("rigl", width), _trained("static", width)) for width in _SPARSITIES}
    gains = {width: 100 * (moving.mean - still.mean) for width, (moving, still) in runs.items()}
    detail = "; ".join(
        f"width {width}: RigL {moving}, static {still}, pooled error {_pooled_error(moving, still):.2f}"
        for width, (moving, still) in runs.items()
    )
    return Measured(min(gains.values()), ">=", 1.0, "static masks", detail)


def _step_milliseconds() -> dict[int, float]:
    """Processor time of a training step on 128 signals, dense at width 48, masked dense at the wider ones."""
    bed, calls = signals(), []
    x, y = bed.x[:128], bed.y[:128]
    optimiser = optax.adam(_RATE)
    for width in (_WIDTH, *_SPARSITIES):
        found = None if width == _WIDTH else _wide(0, _SPARSITIES[width])
        net = network(jax.random.key(0), bed, (_WIDTH, _WIDTH)) if found is None else found.model
        params, rest = eqx.partition(net, eqx.is_inexact_array)
        wrapped = optimiser if found is None else static(optimiser, density=found.density, key=jax.random.key(0))
        state = wrapped.init(params)
        params = params if found is None else apply_mask(state.mask, params)  # pyright: ignore

        @jax.jit
        def step(params, state, wrapped=wrapped, rest=rest):
            grads = jax.grad(lambda p: loss(eqx.combine(p, rest), x, y))(params)
            updates, state = wrapped.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        calls.append(partial(_wait, partial(step, params, state)))
    seconds = median_seconds(calls, 9, 0.05)
    return {width: 1e3 * one for width, one in zip((_WIDTH, *_SPARSITIES), seconds, strict=True)}


def _wait(call: Any) -> None:
    jax.block_until_ready(call())


@claim("Masked dense, wider networks of equal FLOPs take longer to train", system=_SYSTEM, quick=False)
def equal_flops_are_not_equal_time(context: Context) -> Measured:
    """A step of Adam on 128 signals at width 152, masked dense, against the dense one at width 48, one processor."""
    times, said = _step_milliseconds(), []
    changes = len(range(_EVERY, int(0.75 * _STEPS) + 1, _EVERY))
    for width, sparsity in {48: 0.0, **_SPARSITIES}.items():
        found = _wide(0, sparsity)
        phase = Phase(_STEPS, 2 * found.macs_after, changes if sparsity else 0)
        cost = training_flops([phase], 2 * found.dense_macs, batch_size=128)
        said.append(
            f"width {width}: {cost.sparse:.3e} FLOPs by formula, {cost.masked:.3e} masked dense, "
            f"{times[width]:.2f} ms a step"
        )
    return Measured(
        times[152] / times[48], ">", 1.0, "dense, width 48", f"{_STEPS} steps with RigL; " + "; ".join(said)
    )


@claim("Four transformations cost the dense network to a thousandth", system=_SYSTEM)
def costs_are_matched(context: Context) -> Measured:
    """Random perceptrons of three hidden layers, s = 0.5, 0.75 and 0.95; the largest relative difference."""
    rng, worst, n = np.random.default_rng(context.seed), 0.0, 0
    for sparsity in (0.5, 0.75, 0.95):
        for member in ("wide", "parallel", "factorized", "doped"):
            sizes = [30, *(int(size) for size in rng.integers(24, 200, 3)), 10]
            net = eqx.filter_eval_shape(_perceptron, tuple(sizes))
            found = eqx.filter_eval_shape(iso_flop, net, sparsity, member, key=jax.random.key(0))
            worst, n = max(worst, abs(found.macs_after / found.macs_before - 1)), n + 1
            assert found.macs_before == sum(a * b for a, b in pairwise(sizes))
    return Measured(worst, "<=", 1e-3, "dense multiply-adds", f"{n} networks")


def _perceptron(sizes: tuple[int, ...]) -> eqx.nn.Sequential:
    return eqx.nn.Sequential([eqx.nn.Linear(a, b, key=jax.random.key(0)) for a, b in pairwise(sizes)])
