"""Claims about recipes of sparse training: their order, what regeneration is worth, and that zeros are zeros."""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from uqsparse.bench.entries.sparse_training_study import Bed, Trained, loss, network, signals, train
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, Picture
from uqsparse.bench.registry import claim
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.criteria import random
from uqsparse.pruning.masks import apply_mask, full_mask, mask_count
from uqsparse.pruning.plasticity import Plasticity, pruning_plasticity
from uqsparse.pruning.recipes.gmp import gmp
from uqsparse.pruning.recipes.granet import granet
from uqsparse.pruning.recipes.imp import imp
from uqsparse.pruning.recipes.one_shot import one_shot
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.set import set_
from uqsparse.pruning.recipes.static import static

_SYSTEM = "Sparse training"
_STEPS, _SEEDS, _ROUNDS = 4000, (0, 1, 2), 4

_RECIPES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "static, uniform": partial(static, allocation=uniform()),
    "static, ERK": static,
    "random pruning": partial(gmp, criterion=random()),
    "SET": set_,
    "RigL": partial(rigl, churn=0.5),
    "one-shot": one_shot,
    "GMP": gmp,
    "GraNet from 50%": partial(granet, start_density=0.5),
    "GraNet": granet,
    "IMP": partial(imp, rounds=_ROUNDS),
}


@cache
def trained(name: str, density: float, n_seeds: int = 3) -> Trained:
    """Networks of a recipe; IMP trains each of its rounds for half of the others' steps."""
    steps, decay = (_STEPS, _STEPS) if name != "IMP" else (_STEPS // 2 * (_ROUNDS + 1), _STEPS // 2)
    if name == "dense":
        return train(lambda inner, key, params: inner, steps=steps, seeds=range(n_seeds))

    def make(inner: optax.GradientTransformation, key: Any, params: Any) -> optax.GradientTransformation:
        return _RECIPES[name](inner, density=density, steps=steps, key=key)

    return train(make, steps=steps, decay_steps=decay, seeds=range(n_seeds))


def _gap(better: Trained, worse: Trained) -> float:
    """The difference of mean accuracies less the pooled standard error."""
    return better.mean - worse.mean - float(np.hypot(better.error, worse.error))


@claim(
    "At 5% of the weights static uniform < static ERK < SET, RigL < GraNet, GMP < dense, each by a standard error",
    system=_SYSTEM,
    quick=False,
)
def ladder(context: Context) -> Measured:
    """Signals of ten digits, perceptron 40-256-256-10, Adam, 4,000 steps, 3 seeds; the least gap of the ladder."""
    rungs = [["static, uniform"], ["static, ERK"], ["SET", "RigL"], ["GraNet from 50%", "GMP"], ["dense"]]
    found = {name: trained(name, 0.05 if name != "dense" else 1.0) for rung in rungs for name in rung}
    gaps = [_gap(found[high], found[low]) for lower, higher in pairwise(rungs) for low in lower for high in higher]
    return Measured(
        100 * min(gaps),
        ">",
        0.0,
        "accuracy, in points: higher rung less lower one less their standard error",
        "; ".join(f"{name} {result}" for name, result in found.items()),
    )


@claim("The recipes' order at 20% of the weights is the one published on ImageNet", system=_SYSTEM, quick=False)
def published_order(context: Context) -> Measured:
    """The order of Lee et al. (2024): magnitude > RigL > SET > static > random; pairs in another order, 3 seeds."""
    order = ["GMP", "RigL", "SET", "static, ERK", "random pruning"]
    found = {name: trained(name, 0.2) for name in order}
    wrong = sum(found[low].mean > found[high].mean for i, high in enumerate(order) for low in order[i + 1 :])
    return Measured(
        wrong, "==", 0, "pairs in another order, of 10", "; ".join(f"{name} {found[name]}" for name in order)
    )


@claim("At 2% of the weights GraNet is 2 points above GMP, and 10 above a static mask", system=_SYSTEM, quick=False)
def granet_at_two_percent(context: Context) -> Measured:
    """From dense, with the same schedule, 8 seeds; the smaller of what both gaps have over their bar, in points."""
    ours, pruned = (trained(name, 0.02, 8) for name in ("GraNet", "GMP"))
    fixed, half = trained("static, uniform", 0.02), trained("GraNet from 50%", 0.02)
    spare = min(100 * (ours.mean - pruned.mean) - 2, 100 * (ours.mean - fixed.mean) - 10)
    return Measured(
        spare,
        ">=",
        0.0,
        "points",
        f"GraNet {ours}; GMP {pruned}; static, uniform {fixed} (3 seeds); GraNet from 50% {half} (3 seeds)",
    )


@claim("IMP and GraNet find better networks than one pruning with retraining, at 5%", system=_SYSTEM, quick=False)
def all_recipes(context: Context) -> Measured:
    """Accuracy of all recipes by density, 3 seeds; the smaller gap to one-shot pruning at 5%, in points."""
    one = trained("one-shot", 0.05)
    gap = 100 * min(trained(name, 0.05).mean - one.mean for name in ("IMP", "GraNet"))
    return Measured(
        gap,
        ">",
        0.0,
        "one-shot pruning at three quarters of the training",
        "; ".join(f"{name} {trained(name, 0.05)}" for name in ("one-shot", "IMP", "GraNet")),
        (_by_density(),),
    )


def _by_density() -> Picture:
    densities = (0.02, 0.05, 0.1, 0.2)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    styles = ["o-", "s-", "^-", "v-", "D-"]
    for i, name in enumerate(_RECIPES):
        results = [trained(name, density) for density in densities]
        means, errors = [100 * r.mean for r in results], [100 * r.error for r in results]
        axes.errorbar(densities, means, errors, fmt=styles[i % 5], ms=4, lw=1.3, color=f"C{i}", label=name)
    axes.axhline(100 * trained("dense", 1.0).mean, color="#808080", ls="--", label="dense")
    axes.set_xscale("log")
    axes.set_xticks(densities, [f"{100 * density:.0f}%" for density in densities], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("weights that live")
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, fontsize=9)
    return picture(figure, "Accuracy on signals of ten digits against the share of weights, mean and standard error")


_TIMES = (0.25, 0.5, 0.75, 0.95)


@cache
def _plasticity(regenerate: float) -> list[Plasticity]:
    """For each seed, a dense network pruned to 10% at four times, and 500 further steps."""
    bed, times = signals(), [int(_STEPS * time) for time in _TIMES]
    dense = {t: _dense_until(t) for t in times}
    found = []
    for index, seed in enumerate(_SEEDS):
        nets = [dense[t].networks[index] for t in times]
        fixed = eqx.partition(nets[0], eqx.is_inexact_array)[1]

        def score(params: Any, fixed: Any = fixed) -> float:
            chosen = jax.vmap(eqx.combine(params, fixed))(bed.x_test).argmax(axis=1)
            return float((chosen == bed.y_test).mean())

        def gradients(params: Any, fixed: Any = fixed) -> Any:
            return jax.grad(lambda p: loss(eqx.combine(p, fixed), bed.x[:512], bed.y[:512]))(params)

        def retrain(params: Any, mask: Any, step: int, fixed: Any = fixed, seed: int = seed) -> Any:
            again = train(
                lambda inner, key, _: static(inner, density=0.1, key=key, mask=mask),
                steps=500,
                decay_steps=_STEPS,
                first_step=step,
                seeds=(seed,),
                networks=[eqx.combine(params, fixed)],
            )
            return eqx.filter(again.networks[0], eqx.is_inexact_array)

        checkpoints = [(t, eqx.filter(net, eqx.is_inexact_array)) for t, net in zip(times, nets, strict=True)]
        found.append(
            pruning_plasticity(checkpoints, retrain, score, density=0.1, regenerate=regenerate, gradients=gradients)
        )
    return found


@cache
def _dense_until(step: int) -> Trained:
    return train(lambda inner, key, params: inner, steps=step, decay_steps=_STEPS, seeds=_SEEDS)


@claim("A network recovers least from the latest pruning, and regenerated weights help", system=_SYSTEM, quick=False)
def late_pruning_recovers_least(context: Context) -> Measured:
    """90% pruned at 25, 50, 75 and 95% of the training, 500 further steps, 3 seeds.

    Times that contradict: any where recovery is worse than at 95%, and any after the first where regenerating a tenth
    of the weights does not help.
    """
    plain, traded, half = (
        np.mean([result.plasticity for result in _plasticity(share)], axis=0) for share in (0.0, 0.1, 0.5)
    )
    wrong = int((plain[:-1] <= plain[-1]).sum() + (traded[1:] <= plain[1:]).sum())

    def line(name: str, values: np.ndarray) -> str:
        return f"{name} " + ", ".join(f"{100 * value:+.1f}" for value in values)

    lines = (line("pruned", plain), line("a tenth regenerated", traded), line("half regenerated", half))
    return Measured(wrong, "==", 0, "times that contradict", "after less before, in points: " + "; ".join(lines))


@claim("After every step, weights off the mask are zero bit for bit", system=_SYSTEM)
def zeros_are_zero(context: Context) -> Measured:
    """GraNet around AdamW, 30 steps, changes every 5; weights that are not zero off the mask, of all steps."""
    x, y = jax.random.normal(jax.random.key(context.seed), (64, 40)), jnp.arange(64) % 10
    net = network(jax.random.key(context.seed), Bed(x, y, x, y), (16,))
    params, fixed = eqx.partition(net, eqx.is_inexact_array)
    hook = granet(optax.adamw(1e-2, weight_decay=0.1), density=0.1, steps=30, every=5, key=jax.random.key(0))

    def step(carry: Any, _: Any) -> Any:
        state: Any
        params, state = carry
        grads = jax.grad(lambda p: loss(eqx.combine(p, fixed), x, y))(params)
        updates, state = hook.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        masked = apply_mask(state.mask, params)
        return (params, state), sum(
            (a != b).sum() for a, b in zip(*map(jax.tree.leaves, (params, masked)), strict=True)
        )

    carry: Any = (params, hook.init(params))
    (_, state), off = jax.lax.scan(step, carry, length=30)
    kept, budget = mask_count(state.mask), round(0.1 * mask_count(full_mask(params)))
    return Measured(
        int(off.sum()) + abs(kept - budget), "==", 0, "0, and as many weights as asked for", f"{kept} weights kept"
    )
