"""Exact laws of JAX functions of a key: against closed forms, and refusals of what has none."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.checks import check_invariance, key_kernel, key_law
from uqsparse.inference.checks.boxes import level_sets
from uqsparse.inference.checks.explicit_keys import explicit_key, find_layout
from uqsparse.kernels import uniform


def test_explicit_keys_give_back_their_numbers_through_splits_folds_scans_and_branches():
    def draws(key, flag):
        first, second, third = jax.random.split(key, 3)

        def body(carry, key):
            return carry, jax.random.uniform(key, (2,))

        _, rows = jax.lax.scan(body, 0, jax.random.split(third, 3))
        branch = jax.lax.cond(
            flag, lambda: jax.random.uniform(jax.random.fold_in(second, 3)), lambda: jnp.zeros(()), *()
        )
        folded = uniform(jax.random.fold_in(second, 5), (2,))
        return jax.random.uniform(first), jax.random.normal(second), folded, branch, rows

    with jax.enable_x64(True):
        layout = find_layout(draws, [(True,), (False,)])
        assert len(layout.draws) == 1 + 1 + 2 + 1 + 6
        numbers = np.random.default_rng(0).random(len(layout.draws))
        run = jax.jit(jax.vmap(lambda u: draws(explicit_key(layout, u), True)))
        first, normal, folded, branch, rows = jax.tree.map(lambda x: np.asarray(x[0]), run(numbers[None]))
        uniforms = [first, *folded, branch, *rows.ravel(), jax.scipy.stats.norm.cdf(normal)]
        np.testing.assert_allclose(np.sort(uniforms), np.sort(numbers), atol=2**-31)


def test_what_does_not_fit_on_the_tape_is_refused():
    def folds(key):
        return jax.random.uniform(jax.random.fold_in(key, 16))

    def seeds(key):
        return jax.random.uniform(jax.random.key(0, impl=jax.random.key_impl(key)))

    def splits(key):
        for _ in range(40):
            key, _ = jax.random.split(key)
        return jax.random.uniform(key)

    for function, message in ((folds, "16 or more"), (splits, "too often")):
        with jax.enable_x64(True), pytest.raises(ValueError, match=message):
            find_layout(function, [()])
    with jax.enable_x64(True), pytest.raises(ValueError, match="seed"):
        find_layout(seeds, [()])


@given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3), st.integers(0, 100))
def test_volumes_of_level_sets(thresholds, seed):
    """How many coordinates lie below their thresholds: a sum of independent Bernoulli variables."""
    limits = np.array(thresholds)
    values, volumes, _ = level_sets(
        lambda u: (u < limits).sum(axis=1, keepdims=True).astype(float), len(limits), {}, 10_000, seed
    )
    expected = np.array([1.0])
    for p in limits:
        expected = np.convolve(expected, [1 - p, p])
    np.testing.assert_allclose(volumes, expected[values[:, 0].astype(int)], atol=1e-11)


def test_level_sets_whose_thresholds_depend_on_other_coordinates():
    """u2 < 1/3 or 4/5, depending on u1 < 1/7; u3 only matters in a corner of both."""

    def function(u):
        low = u[:, 0] < 1 / 7
        second = u[:, 1] < np.where(low, 1 / 3, 4 / 5)
        third = low & second & (u[:, 2] < 0.01)
        return np.stack([low, second, third], axis=1).astype(float)

    values, volumes, _ = level_sets(function, 3, {}, 10_000, 0)
    found = {tuple(v): p for v, p in zip(values, volumes, strict=True)}
    assert found[1, 1, 1] == pytest.approx(1 / 7 / 3 * 0.01, abs=1e-12)
    assert found[0, 1, 0] == pytest.approx(6 / 7 * 4 / 5, abs=1e-12)


MASSES = np.array([1.0, 2.0, 3.5, 7.0])


class State(NamedTuple):
    place: Any
    flags: Any


def walk(key, place, ratio=True):
    """Metropolis on a circle; steps back have probability one third."""
    key_step, key_accept = jax.random.split(key)
    back = jax.random.uniform(key_step) < 1 / 3
    proposal = (place + jnp.where(back, -1, 1)) % 4
    masses = jnp.asarray(MASSES)
    correction = jnp.where(back, 2.0, 0.5) if ratio else 1.0
    return jnp.where(jax.random.uniform(key_accept) < masses[proposal] / masses[place] * correction, proposal, place)


def test_invariance_of_a_jax_kernel_to_rounding():
    verdict = check_invariance(dict(enumerate(MASSES)), key_kernel(walk))
    assert verdict.ok
    assert verdict.evidence < 1e-14
    wrong = check_invariance(dict(enumerate(MASSES)), key_kernel(lambda key, s: walk(key, s, ratio=False)))
    assert not wrong.ok
    assert wrong.evidence > 0.05


def test_states_may_be_named_tuples_of_arrays():
    def kernel(key, state):
        flips = jax.random.uniform(key, (2,)) < jnp.array([0.25, 0.5])
        return State(walk(key, state.place) * 0 + state.place, jnp.where(flips, 1 - state.flags, state.flags))

    target = {State(p, (a, b)): MASSES[p] for p in range(4) for a in (0, 1) for b in (0, 1)}
    assert check_invariance(target, key_kernel(kernel)).ok


def test_fixed_points_for_a_symmetric_draw():
    """A Gaussian random walk whose normal draw takes its quartiles walks on the integers."""

    def kernel(key, place):
        key_step, key_accept = jax.random.split(key)
        proposal = jnp.round(place + jax.random.normal(key_step) / 0.6744897501960817).astype(int)
        masses = jnp.asarray(MASSES)
        inside = (proposal >= 0) & (proposal < 4)
        ratio = jnp.where(inside, masses[jnp.clip(proposal, 0, 3)] / masses[place], 0)
        return jnp.where(jax.random.uniform(key_accept) < ratio, proposal, place)

    law = key_law(lambda key: kernel(key, 0), points={0: (0.25, 0.75)})
    assert law == pytest.approx({0: 0.5, 1: 0.5})
    assert check_invariance(dict(enumerate(MASSES)), key_kernel(kernel, points={0: (0.25, 0.75)})).ok


def test_kernels_without_a_finite_law_are_refused():
    rng = np.random.default_rng(0)
    target = {0: 1, 1: 1}
    with pytest.raises(ValueError, match="on the host"):
        check_invariance(target, key_kernel(lambda key, s: jnp.where(jax.random.uniform(key) < rng.random(), 0, 1)))
    with pytest.raises(ValueError, match="at state 0: the kernel returned NaN"):
        check_invariance(target, key_kernel(lambda key, s: jnp.where(jax.random.uniform(key) < 0.5, jnp.nan, 0.0)))
    with pytest.raises(ValueError, match="varies continuously"):
        check_invariance(target, key_kernel(lambda key, s: s + jax.random.normal(key)))
    rarely = jax.jit(
        lambda key, u: jax.lax.cond(u < 1e-2, lambda: jax.random.uniform(jax.random.fold_in(key, 1)), lambda: u)
    )
    with pytest.raises(ValueError, match="too rarely taken"):
        key_law(lambda key: rarely(key, jax.random.uniform(jax.random.fold_in(key, 0))) < 0.005)
    with pytest.raises(ValueError, match="max_outcomes = 50"):
        key_law(lambda key: (jax.random.uniform(key, (6,)) < 0.5).sum(), max_outcomes=50)
    with pytest.raises(ValueError, match="points has draw 1"):
        key_law(lambda key: jax.random.uniform(key) < 0.5, points={1: (0.5,)})
    with pytest.raises(ValueError, match=r"points: the values of draw 0 are \(2,\)"):
        key_law(lambda key: jax.random.uniform(key) < 0.5, points={0: (2,)})
