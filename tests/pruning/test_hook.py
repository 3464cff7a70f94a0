"""The hook: exact zeros, moments, and every setting."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.pruning.allocation import erk, global_by, uniform
from uqsparse.pruning.criteria import gradient, magnitude, random
from uqsparse.pruning.hook import best_mask, check_changes, sparsify
from uqsparse.pruning.mask_changes import SwapGuard
from uqsparse.pruning.masks import apply_mask, full_mask, mask_count
from uqsparse.pruning.rules import DropGrow, Prune, PruneRegrow, Reselect, RestrictedSwap, Static
from uqsparse.pruning.schedules import Constant, CosineChurn, Cubic, OneShot
from uqsparse.pruning.structures import NM, Channel, Group

OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "lion": optax.lion(0.01),
    "decayed rmsprop": optax.chain(optax.rmsprop(0.01), optax.add_decayed_weights(0.1)),
    "clipped adam": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "scheduled adam": optax.adam(optax.cosine_decay_schedule(0.1, 20)),
    "injected adam": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
}
WEIGHTS = ("a", "b", "c")


def _exchanging(inner=None, churn=0.5, floor=0.0, density=0.25, **settings):
    return sparsify(
        OPTIMISERS["adam"] if inner is None else inner,
        schedule=Constant(density, every=3),
        rule=settings.pop("rule", DropGrow()),
        grow=gradient(),
        churn=CosineChurn(churn, 9, floor),
        key=settings.pop("key", jax.random.key(1)),
        **settings,
    )


def _moments(state, shape):
    return [leaf for leaf in jax.tree.leaves(state.inner) if getattr(leaf, "shape", None) == shape]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_weights_off_the_mask_are_exactly_zero_after_every_step(toy, name: str) -> None:
    hook = sparsify(
        OPTIMISERS[name],
        schedule=Cubic(0, 9, 3, 0.6, 0.2),
        rule=PruneRegrow(),
        grow=gradient(),
        churn=CosineChurn(0.5, 9),
        allocation=global_by(),
        key=jax.random.key(0),
    )
    trace = toy.run(hook, 11)
    for params, state in zip(trace.params[1:], trace.states[1:], strict=True):
        for weight in WEIGHTS:
            off = ~np.asarray(state.mask[weight])
            assert (np.asarray(params[weight])[off] == 0).all()
            for moment in _moments(state, params[weight].shape) if weight == "c" else []:
                assert (np.asarray(moment)[off] == 0).all()
    assert state.mask["bias"] is None
    assert not (params["bias"] == 1).any()
    assert hook.change_steps == (3, 6, 9)


def test_a_change_clears_the_moments_of_what_comes_in_and_leaves(toy) -> None:
    hook = _exchanging(optax.sgd(0.0, momentum=0.9))  # the moment is a sum of gradients, and weights stand still
    trace = toy.run(hook, 3)
    params, state = trace.params[-1], trace.states[-1]
    grads = toy.gradients(params, 3)
    _, after = hook.update(grads, state, params)
    old, new = np.asarray(state.mask["a"]), np.asarray(after.mask["a"])
    before, now = (np.asarray(_moments(s, (6, 8))[0]) for s in (state, after))
    assert (old & ~new).any()
    assert (new & ~old).any()
    assert (now[~new] == 0).all()
    np.testing.assert_allclose(now[new & ~old], np.asarray(grads["a"])[new & ~old], rtol=1e-6)
    np.testing.assert_allclose(now[new & old], (0.9 * before + np.asarray(grads["a"]))[new & old], rtol=1e-5)


def test_new_weights_start_at_zero_and_take_the_step(toy) -> None:
    hook = _exchanging(optax.sgd(0.1))
    trace = toy.run(hook, 4)
    before, after = trace.params[3], trace.params[4]
    came = np.asarray(trace.states[4].mask["a"] & ~trace.states[3].mask["a"])
    assert came.any()
    slope = np.asarray(toy.gradients(before, 3)["a"])
    np.testing.assert_allclose(np.asarray(after["a"])[came], -0.1 * slope[came], rtol=1e-6)


@pytest.mark.parametrize(("floor", "expected"), [(0.0, [3, 6]), (0.3, [3, 6, 9])])
def test_the_first_change_is_not_at_step_zero_and_the_last_is_at_the_end(toy, floor: float, expected) -> None:
    trace = toy.run(_exchanging(floor=floor), 14)
    changed = [
        any((old.mask[w] != new.mask[w]).any() for w in WEIGHTS)
        for old, new in zip(trace.states[:-1], trace.states[1:], strict=True)
    ]
    # Without a floor the churn is 0 at step 9; nothing changes at step 12, after the end.
    assert [step for step, one in enumerate(changed) if one] == expected


def test_compiled_steps_and_changes_outside_them_give_the_same_networks(toy) -> None:
    steps, keys = 8, jax.random.split(jax.random.key(3), 2)
    eager = toy.run(_exchanging(key=keys[0]), steps)

    @jax.jit
    def scanned(key):
        hook = _exchanging(key=key)

        def step(carry, t):
            params, state = carry
            updates, state = hook.update(toy.gradients(params, t), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = toy.params()
        return jax.lax.scan(step, (params, hook.init(params)), jnp.arange(steps))[0]

    apart = _exchanging(automatic=False)

    @jax.jit
    @jax.vmap
    def start(key):
        params = toy.params()
        return params, _exchanging(key=key, automatic=False).init(params)

    @jax.jit
    def plain_step(params, state, t):
        def one(params, state):
            updates, state = apart.update(toy.gradients(params, t), state, params)
            return optax.apply_updates(params, updates), state

        return jax.vmap(one)(params, state)

    @jax.jit
    def change(params, state, t):
        return jax.vmap(lambda p, s: apart.update_mask(s, p, toy.gradients(p, t)))(params, state)

    params, state = start(keys)
    for t in range(steps):
        if t in apart.change_steps:
            # The step that follows takes the gradient at the weights after the change: those that came in are zero.
            params, state = change(params, state, t)
        params, state = plain_step(params, state, t)
    compiled, compiled_state = scanned(keys[0])
    for weight in WEIGHTS:
        assert (eager.states[-1].mask[weight] == compiled_state.mask[weight]).all()
        np.testing.assert_allclose(eager.params[-1][weight], compiled[weight], atol=1e-6)
        assert (state.mask[weight][0] == compiled_state.mask[weight]).all()
        assert (state.mask[weight][1] != state.mask[weight][0]).any()  # each seed has its own mask
        assert not np.asarray(params[weight])[~np.asarray(state.mask[weight])].any()


def test_it_must_be_outermost(toy) -> None:
    """A transformation after the hook undoes the zeros: the documented misuse, seen in the weights."""
    wrong = optax.chain(
        sparsify(optax.sgd(0.1), schedule=OneShot(1, 0.5), rule=Prune(), key=jax.random.key(0)), optax.scale(0.5)
    )
    params, state = toy.params(), None
    state = wrong.init(params)
    for t in range(2):
        updates, state = wrong.update(toy.gradients(params, t), state, params)
        params = optax.apply_updates(params, updates)
    off = ~np.asarray(state[0].mask["a"])
    assert (np.asarray(params["a"])[off] != 0).any()


def test_gradients_masked_before_the_hook_grow_nothing_by_score(toy) -> None:
    """Dense gradients must reach the hook: with masked ones all that is off scores zero, and the first come in."""
    params = toy.params()
    hook = _exchanging()
    state = hook.init(params)
    params = apply_mask(state.mask, params)
    dense = toy.gradients(params, 3)
    _, right = hook.update_mask(state._replace(step=jnp.array(3)), params, dense)
    _, wrong = hook.update_mask(state._replace(step=jnp.array(3)), params, apply_mask(state.mask, dense))
    came_right, came_wrong = (np.asarray(s.mask["a"] & ~state.mask["a"]) for s in (right, wrong))
    assert came_right.sum() == came_wrong.sum() > 0
    off = ~np.asarray(state.mask["a"])
    best = np.sort(np.abs(np.asarray(dense["a"]))[off])[-came_right.sum() :]
    np.testing.assert_allclose(np.sort(np.abs(np.asarray(dense["a"]))[came_right]), best)
    assert (np.flatnonzero(off)[: came_wrong.sum()] == np.flatnonzero(came_wrong)).all()


def test_reselect_brings_weights_back_with_the_values_they_had(toy) -> None:
    hook = sparsify(
        optax.sgd(0.2),
        schedule=Constant(0.5, every=2, end=8),
        rule=Reselect(),
        growth="held",
        allocation=uniform(),
        key=jax.random.key(0),
    )
    start = toy.params()
    trace = toy.run(hook, 3)
    came = np.asarray(trace.states[3].mask["a"] & ~trace.states[2].mask["a"])
    assert came.any()
    settled, state = hook.update_mask(trace.states[2], trace.params[2], toy.gradients(trace.params[2], 2))
    assert (np.asarray(settled["a"])[came] == np.asarray(start["a"])[came]).all()
    held = np.where(trace.states[2].mask["a"], trace.params[2]["a"], start["a"])
    worst, best = np.abs(held)[np.asarray(state.mask["a"])].min(), np.abs(held)[~np.asarray(state.mask["a"])].max()
    assert worst >= best


def test_random_starting_values(toy) -> None:
    hook = _exchanging(growth=0.01)
    trace = toy.run(hook, 3)
    settled, state = hook.update_mask(trace.states[3], trace.params[3], toy.gradients(trace.params[3], 3))
    came = np.asarray(state.mask["a"] & ~trace.states[3].mask["a"])
    values = np.asarray(settled["a"])[came]
    assert (values != 0).all()
    assert (np.abs(values) < 0.06).all()


def test_a_restricted_swap_moves_at_most_its_cap(toy) -> None:
    hook = sparsify(
        optax.sgd(0.1),
        schedule=Constant(0.5, every=1, end=5),
        rule=RestrictedSwap(2),
        growth="held",
        allocation=uniform(),
        key=jax.random.key(0),
    )
    trace = toy.run(hook, 5)
    for old, new in zip(trace.states[:-1], trace.states[1:], strict=True):
        for weight in WEIGHTS:
            assert int((new.mask[weight] & ~old.mask[weight]).sum()) <= 2
            assert mask_count(new.mask) == mask_count(old.mask)


def test_rewinding_starts_every_round_from_early_weights(toy) -> None:
    hook = sparsify(
        optax.adam(0.1),
        schedule=Cubic(0, 8, 4, 1.0, 0.25),
        rule=Prune(),
        allocation=global_by(),
        rewind_to=2,
        key=jax.random.key(0),
    )
    trace = toy.run(hook, 9)
    early = trace.params[2]
    settled, state = hook.update_mask(trace.states[4], trace.params[4], toy.gradients(trace.params[4], 4))
    for name in (*WEIGHTS, "bias"):
        mask = state.mask[name]
        expected = early[name] if mask is None else np.where(mask, early[name], 0)
        assert (np.asarray(settled[name]) == np.asarray(expected)).all()
    assert all((np.asarray(m) == 0).all() for m in _moments(state, (6, 8)))
    # The mask was chosen by the weights after the round, not by those it goes back to.
    final = np.abs(np.concatenate([np.asarray(trace.params[4][w]).ravel() for w in WEIGHTS]))
    kept = np.concatenate([np.asarray(state.mask[w]).ravel() for w in WEIGHTS])
    assert final[kept].min() >= final[~kept].max()
    assert mask_count(trace.states[-1].mask) == round(0.25 * (48 + 48 + 32))


def test_the_best_stretch_is_kept(toy) -> None:
    hook = _exchanging(keep_best=True, churn=0.6)
    trace = toy.run(hook, 11)
    losses = [float(toy.loss(params, t)) for t, params in enumerate(trace.params[:-1])]
    stretches = [np.mean(losses[a:b]) for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))]
    best = int(np.argmin(stretches))
    end = (3, 6, 9, 11)[best]
    params, mask = best_mask(trace.states[-1], trace.params[-1])
    assert (np.asarray(params["a"]) == np.asarray(trace.params[end]["a"])).all()
    assert (np.asarray(mask["a"]) == np.asarray(trace.states[end].mask["a"])).all()
    with pytest.raises(ValueError, match="value, the loss, must be given"):
        hook.update(toy.params(), trace.states[-1], trace.params[-1])
    with pytest.raises(ValueError, match="keep_best=True"):
        best_mask(_exchanging().init(toy.params()), toy.params())


def test_a_guard_lets_only_trades_through_that_gain(toy) -> None:
    def never(leaf, slope, mask):
        return jnp.zeros(leaf.shape)

    def cost(leaf, mask):
        return jnp.ones(leaf.shape)

    def first_only(leaf, slope, mask):
        return jnp.where(jnp.arange(leaf.size).reshape(leaf.shape) == jnp.argmin(mask), 2.0, 0.0)

    for gain, expected in ((never, 0), (first_only, 1)):
        hook = _exchanging(guard=SwapGuard(gain, cost))
        trace = toy.run(hook, 4)
        for weight in WEIGHTS:
            assert int((trace.states[4].mask[weight] & ~trace.states[3].mask[weight]).sum()) == expected


def test_no_step_where_the_mask_changes(toy) -> None:
    trace = toy.run(_exchanging(skip_step=True), 4)
    both = np.asarray(trace.states[3].mask["a"] & trace.states[4].mask["a"])
    assert (np.asarray(trace.params[4]["a"])[both] == np.asarray(trace.params[3]["a"])[both]).all()
    assert (np.asarray(trace.params[4]["bias"]) == np.asarray(trace.params[3]["bias"])).all()
    assert int(trace.states[4].step) == 4


@pytest.mark.parametrize("structure", [NM(2, 8), Channel(0), Group(2)])
def test_structures_hold_all_along(toy, structure) -> None:
    hook = sparsify(
        OPTIMISERS["adam"],
        schedule=Cubic(0, 6, 3, 1.0, 0.25),
        rule=PruneRegrow(),
        grow=gradient(),
        churn=CosineChurn(0.4, 9),
        allocation=uniform(),
        structure=structure,
        key=jax.random.key(0),
    )
    state = toy.run(hook, 10).states[-1]
    for weight in WEIGHTS:
        mask = np.asarray(state.mask[weight])
        if isinstance(structure, NM):
            assert (mask.sum(axis=1) == 2).all()
        elif isinstance(structure, Channel):
            assert (mask.all(axis=1) == mask.any(axis=1)).all()
            assert abs(mask.all(axis=1).sum() - 0.25 * len(mask)) <= 0.5
        else:
            assert (mask[0::2] == mask[1::2]).all()
            assert (mask.sum(axis=1) == 2).all()


def test_a_given_mask_is_where_training_starts(toy) -> None:
    mask = {name: jnp.arange(np.prod(shape)).reshape(shape) % 4 == 0 for name, shape in toy.shapes.items()}
    mask["bias"] = None
    hook = sparsify(optax.sgd(0.1), schedule=Constant(0.25), rule=Static(), initial=mask, key=jax.random.key(0))
    state = toy.run(hook, 2).states[-1]
    assert all((state.mask[name] == mask[name]).all() for name in WEIGHTS)


def test_the_state_survives_a_checkpoint(toy, tmp_path) -> None:
    hook = _exchanging()
    trace = toy.run(hook, 4)
    state = trace.states[-1]._replace(key=jax.random.key_data(trace.states[-1].key))
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", (trace.params[-1], state))
    params, again = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", (trace.params[-1], state))
    again = again._replace(key=jax.random.wrap_key_data(again.key))
    grads = toy.gradients(params, 6)
    moved = [hook.update_mask(s._replace(step=jnp.array(6)), params, grads)[1] for s in (again, trace.states[-1])]
    assert all((moved[0].mask[w] == moved[1].mask[w]).all() for w in WEIGHTS)


def test_random_masks_come_from_the_key(toy) -> None:
    params = toy.params()
    masks = [_exchanging(key=jax.random.key(seed)).init(params).mask for seed in (0, 0, 1)]
    assert (masks[0]["a"] == masks[1]["a"]).all()
    assert (masks[0]["a"] != masks[2]["a"]).any()
    assert mask_count(masks[0]) == round(0.25 * 128)


def test_nan_where_the_mask_changes_is_refused_by_name(toy) -> None:
    hook = _exchanging()
    trace = toy.run(hook, 3)
    grads = toy.gradients(trace.params[-1], 3)
    grads["b"] = grads["b"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"'b'"):
        hook.update(grads, trace.states[-1], trace.params[-1])
    _, state = jax.jit(hook.update)(grads, trace.states[-1], trace.params[-1])
    assert all((state.mask[w] == trace.states[-1].mask[w]).all() for w in WEIGHTS)
    with pytest.raises(ValueError, match="'b' had NaN"):
        check_changes(state)
    check_changes(trace.states[-1])


def test_refusals_name_the_argument_or_the_leaf(toy) -> None:
    params, key = toy.params(), jax.random.key(0)
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="grow and churn must be given: DropGrow"):
        sparsify(sgd, schedule=Constant(0.5), rule=DropGrow(), key=key)
    with pytest.raises(ValueError, match="every must be at most 0"):
        sparsify(sgd, schedule=Constant(0.5), rule=Prune(), key=key)
    with pytest.raises(ValueError, match="every must be at most 9"):
        sparsify(sgd, schedule=Constant(0.5, 10), rule=DropGrow(), grow=random(), churn=CosineChurn(0.1, 9), key=key)
    with pytest.raises(ValueError, match="growth must be"):
        _exchanging(growth="large")
    with pytest.raises(ValueError, match="rewind_to must lie before the first change, at step 3, got 5"):
        _exchanging(rewind_to=5)
    with pytest.raises(ValueError, match=r"density must be 0.5 for NM.*got 0.25"):
        _exchanging(structure=NM(2, 4))
    with pytest.raises(ValueError, match=r"'a' of shape \(6, 8\) cannot be cut in runs of 3"):
        sparsify(sgd, schedule=Constant(1 / 3), rule=Static(), structure=NM(1, 3), key=key).init(params)
    with pytest.raises(ValueError, match=r"'a' of shape \(6, 8\) would keep nothing at density 0.05"):
        sparsify(sgd, schedule=Constant(0.05), rule=Static(), allocation=uniform(), structure=Channel(), key=key).init(
            params
        )
    hook = _exchanging()
    state = hook.init(params)
    with pytest.raises(ValueError, match="params must be given"):
        hook.update(params, state)
    with pytest.raises(ValueError, match="mask of 'a' must be boolean of shape"):
        hook.update(params, state, params | {"a": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match="structure of the parameters"):
        hook.update(params, state, {"a": params["a"]})
    with pytest.raises(ValueError, match=r"floating type; 'n' is int32"):
        _exchanging(prunable=lambda path, leaf: True).init({"n": jnp.ones((2, 2), jnp.int32)})


def test_parameters_of_an_equinox_network_and_half_precision() -> None:
    net = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    params, _ = eqx.partition(net, eqx.is_inexact_array)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    hook = _exchanging(allocation=erk(), drop=magnitude())
    state = hook.init(params)
    assert jax.tree.structure(state.mask) == jax.tree.structure(full_mask(params))
    for _ in range(4):
        updates, state = hook.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    weight = params.layers[0].weight
    assert weight.dtype == jnp.bfloat16
    assert not np.asarray(weight, np.float32)[~np.asarray(state.mask.layers[0].weight)].any()


def test_it_passes_through_the_filters_of_equinox_and_wrappers_of_optax(toy) -> None:
    hook = _exchanging()

    @eqx.filter_jit
    def step(hook, params, state, grads):
        updates, state = hook.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = toy.params()
    state = hook.init(params)
    for _ in range(2):
        params, state = step(hook, params, state, toy.gradients(params, 0))
    assert step._cached._cache_size() == 1
    assert isinstance(hook, optax.GradientTransformationExtraArgs)
    accumulated = optax.MultiSteps(hook, 2)
    inner = accumulated.init(toy.params())
    params = toy.params()
    for t in range(8):
        updates, inner = accumulated.update(toy.gradients(params, t), inner, params)
        params = optax.apply_updates(params, updates)
    assert int(inner.inner_opt_state.step) == 4
    assert not np.asarray(params["a"])[~np.asarray(inner.inner_opt_state.mask["a"])].any()
