"""check_involution: what it accepts, what it rejects and what it says then."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from uqsparse.inference.checks.involutions import check_involution
from uqsparse.inference.involutive import Jump, JumpState, Model, involutive, reversible_jump

KEY = jax.random.key(0)


def pair(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a), jax.random.normal(b)


def pairs(key):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (2,)), jax.random.normal(b, (2,))


def walk(x, v):
    return x + v, -v


def gradient(x):
    return jnp.stack([x[0] ** 3 + x[1], x[0] + jnp.sin(x[1])])


def leapfrog(x, v):
    for _ in range(4):
        v = v - 0.1 * gradient(x)
        x = x + 0.2 * v
        v = v - 0.1 * gradient(x)
    return x, v


def leapfrog_flip(x, v):
    x, v = leapfrog(x, v)
    return x, -v


# One mean or two, padded: (k, (a, b)) and u, which takes over what b held.
def one_or_two(key):
    a, b, c = jax.random.split(key, 3)
    k = jax.random.bernoulli(a).astype(jnp.int32)
    return {"k": k, "mean": jax.random.normal(b, (2,))}, jax.random.normal(c)


def split_merge(x, v):
    one, (a, b) = x["k"] == 0, x["mean"]
    mean = jnp.where(one, jnp.stack([a + v, a - v]), jnp.stack([(a + b) / 2, v]))
    return {"k": 1 - x["k"], "mean": mean}, jnp.where(one, b, (a - b) / 2)


def split_merge_wrong_way(x, v):
    """Merging forgets to halve the difference."""
    image, u = split_merge(x, v)
    return image, jnp.where(x["k"] == 0, u, 2 * u)


def split_without_u(x, v):
    """Splits one number into two equal ones: a dimension too few goes in."""
    a, b = x["mean"]
    mean = jnp.where(x["k"] == 0, jnp.stack([a, a]), jnp.stack([(a + b) / 2, b]))
    return {"k": 1 - x["k"], "mean": mean}, v


def forgets_the_label(x, v):
    image, u = split_merge(x, v)
    return {**image, "k": jnp.ones_like(x["k"])}, u


def by_hand(sign=1.0, factor=1.0):
    return lambda x, v: sign * factor * jnp.where(x["k"] == 0, np.log(2), -np.log(2))


@pytest.mark.parametrize(
    ("f", "sampler", "log_det"),
    [
        (walk, pair, None),
        (walk, pair, lambda x, v: 0.0),
        (lambda x, v: (v, x), pair, None),
        (lambda x, v: (x * jnp.exp(v), -v), pair, lambda x, v: v),
        (leapfrog_flip, pairs, None),
        (split_merge, one_or_two, None),
        (split_merge, one_or_two, by_hand()),
        (lambda x, v: (1e8 * v, 1e-8 * x), pair, None),
    ],
    ids=["walk", "walk by hand", "swap", "scale", "leapfrog", "split", "split by hand", "badly scaled"],
)
def test_what_is_right_passes(f, sampler, log_det):
    verdict = check_involution(f, sampler, key=KEY, log_det=log_det)
    assert verdict.ok, str(verdict)
    assert verdict.n == 1000
    assert verdict.method == "exact"
    assert verdict.evidence < 1e-6


@pytest.mark.parametrize(
    ("f", "sampler", "log_det", "says"),
    [
        (lambda x, v: (x + v, v), pair, None, "f(f(z)) at x ="),
        (leapfrog, pairs, None, "f(f(z)) at x ="),
        (split_merge_wrong_way, one_or_two, None, "f(f(z)) at x ="),
        (split_merge, one_or_two, by_hand(sign=-1), "the given log_det"),
        (split_merge, one_or_two, by_hand(factor=2), "the given log_det"),
        (lambda x, v: (x * jnp.exp(v), -v), pair, lambda x, v: 0.0, "the given log_det"),
        (split_without_u, one_or_two, None, "f(f(z))"),
        (lambda x, v: (jnp.stack([x, v]), v), pair, None, "the continuous dimension of z and of f(z)"),
        (lambda x, v: (jnp.stack([x, v]), ()), pair, None, "the structure of f(z)"),
        (forgets_the_label, one_or_two, None, "labels of f(f(z))"),
        (lambda x, v: (jnp.log(x), jnp.exp(v)), pair, None, "f(z) at x ="),
        (lambda x, v: (jax.lax.stop_gradient(x) + v, -v), pair, None, "the Jacobian Df(z)"),
        (lambda x, v: (-x, -2 * v + jax.lax.stop_gradient(v)), pair, None, "log |det Df(z)| + log |det Df(f(z))|"),
    ],
    ids=[
        "no flip",
        "leapfrog without flip",
        "split",
        "sign",
        "factor",
        "no Jacobian",
        "split without u",
        "dimension",
        "structure",
        "label",
        "NaN",
        "gradient stopped",
        "gradient doubled",
    ],
)
def test_what_is_wrong_is_named(f, sampler, log_det, says):
    verdict = check_involution(f, sampler, key=KEY, log_det=log_det)
    assert not verdict.ok
    assert says in verdict.counterexample.where
    assert verdict.evidence > 1e-3


def test_derivatives_that_lie_are_found_by_differences():
    """A custom derivative whose own square is one, so that only the third opinion can tell."""

    @jax.custom_jvp
    def scale(x, v):
        return x * jnp.exp(v)

    scale.defjvp(lambda z, dz: (scale(*z), dz[0] + z[0] * jnp.exp(z[1]) * dz[1]))
    verdict = check_involution(lambda x, v: (scale(x, v), -v), pair, key=KEY)
    assert not verdict.ok
    assert "finite differences" in verdict.counterexample.where


def test_kinks_and_changing_labels_raise_no_alarm():
    """Half the points lie where a reflection acts; the label says which side of it a point is on."""

    def f(x, v):
        return {"x": jnp.abs(x["x"]) * jnp.sign(v), "side": (v > 0).astype(jnp.int32)}, v

    def sampler(key):
        x, v = pair(key)
        side = v > 0
        return {"x": jnp.where(side, jnp.abs(x), -jnp.abs(x)), "side": side.astype(jnp.int32)}, v

    for seed in range(5):
        assert check_involution(f, sampler, key=jax.random.key(seed), n=200).ok


def test_active_entries_decide_on_the_dimension():
    """f writes zeros over its padding: wrong if all entries count, right with `active`, wrong if `active` is."""

    def f(x, v):
        one, (a, b) = x["k"] == 0, x["mean"]
        mean = jnp.where(one, jnp.stack([a + v, a - v]), jnp.stack([(a + b) / 2, 0.0]))
        return {"k": 1 - x["k"], "mean": mean}, jnp.where(one, 0.0, (a - b) / 2)

    def active(x, v):
        return {"k": True, "mean": jnp.arange(2) <= x["k"]}, x["k"] == 0

    def too_many(x, v):
        return {"k": True, "mean": jnp.arange(2) <= x["k"]}, True

    assert check_involution(f, one_or_two, key=KEY, active=active, log_det=by_hand()).ok
    assert not check_involution(f, one_or_two, key=KEY).ok
    verdict = check_involution(f, one_or_two, key=KEY, active=too_many)
    assert "the continuous dimension" in verdict.counterexample.where
    assert {verdict.counterexample.expected, verdict.counterexample.obtained} == {2, 3}


def two_models(inverse):
    models = [Model(1, lambda x: -0.5 * jnp.sum(x**2)), Model(2, lambda x: -0.5 * jnp.sum(x**2))]
    split = Jump(0, 1, lambda x: dist.Normal(0.0, 1.0), lambda x, u: jnp.stack([x[0] + u, x[0] - u]), inverse)

    def sampler(key):
        x, _ = one_or_two(key)
        return JumpState(x["k"], jnp.where(jnp.arange(2) <= x["k"], x["mean"], 0.0))

    return reversible_jump(models, [split]), sampler


def test_kernels_are_checked_with_their_own_auxiliary_and_jacobian():
    assert check_involution(*two_models(None), key=KEY).ok
    verdict = check_involution(*two_models(lambda x: (x.mean()[None], x[0] - x[1])), key=KEY)
    assert not verdict.ok
    assert "f(f(z))" in verdict.counterexample.where

    def kernel(log_det):
        def law(x):
            return dist.Normal(0.0, 1.0)

        return involutive(lambda x, v: (x * jnp.exp(v), -v), lambda x: -(x**2), law, log_det=log_det)

    assert check_involution(kernel(lambda x, v: v), jax.random.normal, key=KEY).ok
    verdict = check_involution(kernel(lambda x, v: -v), jax.random.normal, key=KEY)
    assert "the given log_det" in verdict.counterexample.where


@pytest.mark.parametrize("seed", range(6))
def test_no_alarm_for_conjugated_swaps_and_none_missed(seed):
    """Swapping in coordinates that a random matrix changes is an involution whatever the matrix."""
    matrix = np.random.default_rng(seed).normal(size=(4, 4))
    inverse = np.linalg.inv(matrix)

    def f(spoil, x, v):
        a, b = jnp.split(matrix @ jnp.concatenate([x, v]), 2)
        return tuple(jnp.split(inverse @ jnp.concatenate([b, (1 + spoil) * a]), 2))

    assert check_involution(functools.partial(f, 0.0), pairs, key=jax.random.key(seed), n=300).ok
    if seed < 2:
        assert not check_involution(functools.partial(f, 1e-5), pairs, key=jax.random.key(seed), n=300).ok


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="n must be an integer"):
        check_involution(walk, pair, key=KEY, n=0)
    with pytest.raises(ValueError, match="tolerance"):
        check_involution(walk, pair, key=KEY, tolerance=0.0)
    with pytest.raises(ValueError, match="sampler must return a pair"):
        check_involution(walk, jax.random.normal, key=KEY)
    with pytest.raises(ValueError, match="finite points"):
        check_involution(walk, lambda key: (jnp.log(pair(key)[0]), 0.0), key=KEY)
    with pytest.raises(TypeError, match="sampler must be a function"):
        check_involution(walk, 3, key=KEY)  # pyright: ignore[reportArgumentType]
