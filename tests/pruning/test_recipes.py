"""Recipes: the invariants of each, and agreement with independent programs."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.pruning.allocation import erk, global_by, uniform
from uqsparse.pruning.criteria import gradient, random
from uqsparse.pruning.hook import sparsify
from uqsparse.pruning.masks import apply_mask, full_mask, mask_count
from uqsparse.pruning.plasticity import pruning_plasticity
from uqsparse.pruning.recipes.gmp import gmp
from uqsparse.pruning.recipes.granet import granet
from uqsparse.pruning.recipes.imp import imp
from uqsparse.pruning.recipes.one_shot import one_shot
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.set import set_
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.schedules import Constant, CosineChurn
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.structures import Channel

WEIGHTS = ("a", "b", "c")
N, STEPS, EVERY = 128, 16, 3
KEY = jax.random.key(5)
settings = {"density": 0.2, "steps": STEPS, "every": EVERY, "key": KEY}


def _masks(trace):
    return [{w: np.asarray(state.mask[w]) for w in WEIGHTS} for state in trace.states]


def _counts(mask):
    return {w: int(mask[w].sum()) for w in WEIGHTS}


def _same(first, second) -> bool:
    return all((np.asarray(first[w]) == np.asarray(second[w])).all() for w in WEIGHTS)


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(tree[w]).ravel() for w in WEIGHTS])


@pytest.fixture(scope="module")
def traces(toy):
    adam = optax.adam(0.1)
    recipes = {
        "static": static(adam, density=0.2, steps=STEPS, key=KEY),
        "gmp": gmp(adam, **settings),
        "granet": granet(adam, **settings),
        "granet, no churn": granet(adam, **settings, churn=0.0),
        "granet from half": granet(adam, **settings, start_density=0.5),
        "rigl": rigl(adam, **settings),
        "set": set_(adam, **settings),
        "imp": imp(adam, density=0.2, steps=STEPS, key=KEY, rounds=3),
        "one shot": one_shot(adam, density=0.2, steps=STEPS, key=KEY),
    }
    return {name: (hook, toy.run(hook, STEPS)) for name, hook in recipes.items()}


def test_every_recipe_ends_with_the_number_of_weights_asked_for(traces) -> None:
    for name, (_, trace) in traces.items():
        assert mask_count(trace.states[-1].mask) == round(0.2 * N), name
        assert np.count_nonzero(_flat(trace.params[-1])) <= round(0.2 * N), name


def test_the_mask_rests_after_the_last_change(traces) -> None:
    for name, (hook, trace) in traces.items():
        masks = _masks(trace)
        last = hook.change_steps[-1] if hook.change_steps else 0
        assert all(_same(masks[-1], mask) for mask in masks[last + 1 :]), name


def test_static_masks_never_change(traces) -> None:
    masks = _masks(traces["static"][1])
    assert all(_same(masks[0], mask) for mask in masks)


def test_gradual_pruning_follows_its_schedule_and_takes_nothing_back(traces) -> None:
    masks = _masks(traces["gmp"][1])
    for step, (old, new) in enumerate(pairwise(masks)):
        t = step // EVERY * EVERY  # the last change at or before this step
        density = 0.2 + 0.8 * (1 - min(t / 12, 1)) ** 3
        assert sum(_counts(new).values()) == round(density * N)
        assert not any((new[w] & ~old[w]).any() for w in WEIGHTS)


def test_granet_without_churn_is_gradual_pruning_bit_for_bit(traces) -> None:
    for ours, pruned in zip(traces["granet, no churn"][1].params, traces["gmp"][1].params, strict=True):
        assert _same(ours, pruned)


def test_granet_at_one_density_is_rigl(toy) -> None:
    adam = optax.adam(0.1)
    ours = granet(adam, density=0.2, start_density=0.2, steps=STEPS, every=EVERY, key=KEY, allocation=erk())
    exchange = sparsify(
        adam,
        schedule=Constant(0.2, EVERY),
        rule=DropGrow(rounding="ceil"),
        grow=gradient(),
        churn=CosineChurn(0.5, 12),
        key=KEY,
    )
    for one, other in zip(toy.run(ours, STEPS).params, toy.run(exchange, STEPS).params, strict=True):
        assert _same(one, other)


def test_exchanges_keep_every_count(traces) -> None:
    for name in ("rigl", "set"):
        masks = _masks(traces[name][1])
        assert all(_counts(mask) == _counts(masks[0]) for mask in masks)
        assert not _same(masks[0], masks[-1])


def test_a_prune_and_regrow_event_by_hand(toy, traces) -> None:
    """One event of GraNet from a dense network, in NumPy."""
    trace = traces["granet"][1]
    params = {w: np.asarray(trace.params[3][w]) for w in WEIGHTS}
    grads = {w: np.asarray(toy.gradients(trace.params[3], 3)[w]) for w in WEIGHTS}
    size = np.abs(_flat(params))
    kept = np.zeros(N, bool)
    kept[np.argsort(-size, kind="stable")[: round((0.2 + 0.8 * 0.75**3) * N)]] = True
    rate = 0.25 * (1 + np.cos(np.pi * 3 / 12))
    start = 0
    for w in WEIGHTS:
        mask = kept[start : start + params[w].size]
        start += params[w].size
        weights, slopes = np.abs(params[w]).ravel(), np.abs(grads[w]).ravel()
        n = min(int(np.ceil(rate * mask.sum())), int((~mask).sum()))
        drop = np.argsort(np.where(mask, weights, np.inf), kind="stable")[:n]
        grow = np.argsort(np.where(mask, np.inf, -slopes), kind="stable")[:n]
        new = mask.copy()
        new[drop], new[grow] = False, True
        assert (np.asarray(trace.states[4].mask[w]).ravel() == new).all()


def test_rounds_of_magnitude_pruning_by_hand(toy, traces) -> None:
    """Train from the same weights, prune, go back: a loop of its own with the same optimiser."""
    start, mask = toy.params(), full_mask(toy.params())
    trained = start
    for turn, density in enumerate((1.0, 0.2 ** (1 / 3), 0.2 ** (2 / 3), 0.2)):
        if density < 1:
            size = np.where(_flat(mask), np.abs(_flat(trained)), -1)
            kept = np.isin(np.arange(N), np.argsort(-size, kind="stable")[: round(density * N)])
            parts = np.split(kept, np.cumsum([48, 48]))
            mask = {w: jnp.asarray(p.reshape(toy.shapes[w])) for w, p in zip(WEIGHTS, parts, strict=True)} | {
                "bias": None
            }
        params = apply_mask(mask, start)
        adam = optax.adam(0.1)
        state = adam.init(params)
        # The step at which weights go back is no step of the optimiser.
        for step in range(4 * turn + (turn > 0), 4 * turn + 4):
            updates, state = adam.update(apply_mask(mask, toy.gradients(params, step)), state, params)
            params = optax.apply_updates(params, updates)
        trained = params
    assert _same(traces["imp"][1].states[-1].mask, mask)
    for w in (*WEIGHTS, "bias"):
        np.testing.assert_allclose(traces["imp"][1].params[-1][w], trained[w], atol=1e-5)


def test_signed_pruning_of_set_takes_both_signs(toy) -> None:
    hook = set_(optax.sgd(0.0), density=0.5, steps=STEPS, every=EVERY, key=KEY, signed=True, churn=0.4)
    trace = toy.run(hook, EVERY + 1)
    for w in WEIGHTS:
        gone = np.asarray(trace.states[EVERY].mask[w] & ~trace.states[EVERY + 1].mask[w])
        values = np.asarray(trace.params[EVERY][w])[gone]
        assert (values > 0).any()
        assert (values < 0).any()


def test_random_pruning_ignores_magnitude(toy) -> None:
    hook = gmp(optax.sgd(0.0), **settings, criterion=random())
    state = toy.run(hook, STEPS).states[-1]
    kept = np.abs(_flat(toy.params()))[_flat(state.mask)]
    rank = np.searchsorted(np.sort(np.abs(_flat(toy.params()))), kept).mean() / N
    assert 0.3 < rank < 0.7  # 26 ranks uniform on [0, 1]: five standard errors around 1/2 are 0.22 to 0.78


REFERENCE = Path(__file__).parent / "torch_masks.npz"


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_selections_are_those_of_torch(density: float) -> None:
    """Masks that torch.nn.utils.prune (2.5.1) makes of the same four weights, a convolution among them."""
    with np.load(REFERENCE) as stored:
        params = {f"w{i}": jnp.asarray(stored[f"w{i}"]) for i in range(4)}
        for kind, allocation in (("global", global_by(allow_empty=True)), ("layer", uniform(allow_empty=True))):
            mask = select_mask(params, density, allocation=allocation)
            for i in range(4):
                if kind == "layer":  # torch rounds each layer by itself
                    n = params[f"w{i}"].size
                    one = select_mask({"w": params[f"w{i}"]}, round(density * n) / n)["w"]
                else:
                    one = mask[f"w{i}"]
                assert (np.packbits(np.asarray(one)) == stored[f"{kind}_{density}_{i}"]).all()


def test_channels_are_those_of_torch() -> None:
    with np.load(REFERENCE) as stored:
        for i in range(4):
            weight = jnp.asarray(stored[f"w{i}"])
            mask = select_mask({"w": weight}, 0.5, allocation=uniform(), structure=Channel(0))["w"]
            assert (np.packbits(np.asarray(mask)) == stored[f"channel_{i}"]).all()


def test_selection_refuses_what_it_cannot_rank(toy) -> None:
    params = toy.params()
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\], got 0"):
        select_mask(params, 0)
    with pytest.raises(ValueError, match="'b'"):
        select_mask(params | {"b": params["b"].at[0, 0].set(jnp.nan)}, 0.5)


def test_one_threshold_leaves_no_leaf_empty_unless_told() -> None:
    params = {"large": jnp.arange(1.0, 51.0).reshape(5, 10), "small": jnp.full((2, 3), 1e-3)}
    mask = select_mask(params, 5 / 56)
    assert int(mask["small"].sum()) == 1
    assert mask_count(mask) == 5
    assert int(select_mask(params, 5 / 56, allocation=global_by(allow_empty=True))["small"].sum()) == 0


def test_plasticity_by_hand(toy) -> None:
    params = toy.params()

    def score(p):
        return -float(toy.loss(p, 0))

    def retrain(p, mask, step):
        for _ in range(3):
            p = jax.tree.map(lambda a, g: a - 0.1 * g, p, apply_mask(mask, toy.gradients(p, 0)))
        return p

    found = pruning_plasticity([(4, params), (9, params)], retrain, score, density=0.25)
    mask = select_mask(params, 0.25)
    pruned = apply_mask(mask, params)
    assert found.steps.tolist() == [4, 9]
    np.testing.assert_allclose(found.before, score(params))
    np.testing.assert_allclose(found.pruned, score(pruned))
    np.testing.assert_allclose(found.after, score(retrain(pruned, mask, 4)))
    np.testing.assert_allclose(found.plasticity, found.after - found.before)
    seen = []
    traded = pruning_plasticity(
        [(4, params)],
        lambda p, mask, step: (seen.append(mask), retrain(p, mask, step))[1],
        score,
        density=0.25,
        regenerate=0.5,
        gradients=partial(toy.gradients, wave=0),
    )
    # The gradients of a quadratic point at the weights that help most, so half of them regrown helps more.
    assert traded.after[0] > found.after[0]
    assert _counts({w: np.asarray(seen[0][w]) for w in WEIGHTS}) == _counts({w: np.asarray(mask[w]) for w in WEIGHTS})
    with pytest.raises(ValueError, match="gradients must be given"):
        pruning_plasticity([(4, params)], retrain, score, density=0.25, regenerate=0.5)
    with pytest.raises(ValueError, match="regenerate must lie"):
        pruning_plasticity([(4, params)], retrain, score, density=0.25, regenerate=1.0)


@pytest.mark.parametrize("recipe", [static, gmp, granet, rigl, set_, imp, one_shot])
@pytest.mark.parametrize("density", [0.0, 1.2, float("nan")])
def test_densities_out_of_range_are_refused(recipe, density: float) -> None:
    with pytest.raises(ValueError, match=r"density must (lie|be)"):
        recipe(optax.sgd(0.1), density=density, steps=1000, key=KEY)


def test_windows_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of every = 100"):
        gmp(optax.sgd(0.1), density=0.1, steps=100, key=KEY)
    with pytest.raises(ValueError, match="every must be at most 75"):
        rigl(optax.sgd(0.1), density=0.1, steps=100, key=KEY)
    with pytest.raises(ValueError, match="steps must be an integer of at least 6"):
        imp(optax.sgd(0.1), density=0.1, steps=3, key=KEY)
