"""Random masks have exact counts and independent, uniform positions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uqsparse.pruning.allocation import erk, fixed, global_by, ratio_of, uniform
from uqsparse.pruning.random_masks import gradient_flow, random_mask, rescale_fan_in

PARAMS = {"a": jnp.ones((6, 10)), "bias": jnp.ones(6), "b": jnp.ones((6, 10))}
N, K, DRAWS = 60, 15, 4000


@pytest.fixture(scope="module")
def draws():
    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = jax.vmap(lambda key: random_mask(key, PARAMS, K / N, uniform()))(keys)
    assert found["bias"] is None
    return {leaf: np.asarray(found[leaf]).reshape(DRAWS, N) for leaf in ("a", "b")}


def test_counts_are_exact(draws):
    assert (draws["a"].sum(axis=1) == K).all()
    assert (draws["b"].sum(axis=1) == K).all()
    wide = {"a": jnp.ones((40, 8)), "b": jnp.ones((8, 40)), "c": jnp.ones((40, 40))}
    found = random_mask(jax.random.key(1), wide, 0.1)
    expected = erk().counts({path: leaf.shape for path, leaf in wide.items()}, 0.1)
    assert {path: int(leaf.sum()) for path, leaf in found.items()} == expected
    assert all(leaf.all() for leaf in random_mask(jax.random.key(1), wide, 1.0).values())


def test_positions_are_uniform(draws):
    """False alarms 1e-4 a leaf: each position is kept as often as any other, with the covariance of fixed counts."""
    for masks in draws.values():
        centred = masks.sum(axis=0) - DRAWS * K / N
        variance = DRAWS * (K / N) * (1 - K / N)
        assert (centred**2).sum() / variance * (N - 1) / N < stats.chi2.ppf(1 - 1e-4, N - 1)


@pytest.mark.parametrize("pair", ["draws", "leaves"])
def test_overlap_of_independent_masks(draws, pair):
    """False alarms 1e-4: the overlap is hypergeometric, between masks of two keys and between leaves of one mask."""
    one, other = (draws["a"][::2], draws["a"][1::2]) if pair == "draws" else (draws["a"], draws["b"])
    overlap = (one & other).sum(axis=1)
    law = stats.hypergeom(N, K, K)
    edges = [0, 2, 3, 4, 5, 6, K + 1]
    seen = np.histogram(overlap, edges)[0]
    expected = len(overlap) * np.array([law.cdf(b - 1) - law.cdf(a - 1) for a, b in itertools.pairwise(edges)])
    assert stats.chisquare(seen, expected).pvalue > 1e-4
    # Jaccard near d / (2 - d), within five standard errors of the mean overlap.
    d = K / N
    slack = 5 * law.std() / np.sqrt(len(overlap)) / K
    mean = overlap.mean() / K
    assert abs(mean - d) < slack
    assert mean / (2 - mean) == pytest.approx(d / (2 - d), abs=2 * slack)


def test_independent_draws_fluctuate():
    """False alarms 1e-4: counts are binomial."""
    keys = jax.random.split(jax.random.key(3), 1000)
    counts = np.asarray(jax.vmap(lambda key: random_mask(key, PARAMS, 0.25, exact=False)["a"].sum())(keys))
    law = stats.binom(60, 0.25)
    assert counts.var() > 0
    assert abs(counts.mean() - 15) < stats.norm.ppf(1 - 5e-5) * law.std() / np.sqrt(1000)


def test_masks_do_not_look_at_weights_but_keys():
    other = jax.tree.map(lambda w: 0 * w - 3, PARAMS)
    one, two = random_mask(jax.random.key(5), PARAMS, 0.3), random_mask(jax.random.key(5), other, 0.3)
    assert (one["a"] == two["a"]).all()
    assert (one["a"] != random_mask(jax.random.key(6), PARAMS, 0.3)["a"]).any()


def test_ratios_keep_counts_and_forget_positions():
    scores = {"a": jnp.arange(60.0).reshape(6, 10), "bias": None, "b": 20 + jnp.arange(60.0).reshape(6, 10)}
    found = random_mask(jax.random.key(0), PARAMS, 0.25, ratio_of(scores))
    assert (int(found["a"].sum()), int(found["b"].sum())) == (5, 25)
    best = scores["b"] > 54
    assert not (found["b"] == best).all()


def test_rescaling_restores_the_variance():
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(200, 100)), jnp.float32), "b": jnp.ones(3)}
    mask = random_mask(jax.random.key(0), params, 0.1)
    rescaled = rescale_fan_in(params, mask)
    np.testing.assert_allclose(rescaled["a"], np.where(mask["a"], params["a"] / np.sqrt(0.1), 0), rtol=1e-6)
    # Sum of 2000 squares, relative sd sqrt(2 / 2000) = 0.032: five of these.
    assert float(jnp.square(rescaled["a"]).mean()) == pytest.approx(1, abs=0.16)
    assert (rescaled["b"] == 1).all()
    with pytest.raises(ValueError, match="'a' cannot be rescaled: it keeps no weight"):
        rescale_fan_in(params, {"a": jnp.zeros((200, 100), bool), "b": None})


def test_gradient_flow_sums_active_weights():
    grads = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.full(2, 100.0), "c": jnp.array([[5.0]])}
    mask = {"a": jnp.array([[True, False], [False, True]]), "b": None, "c": jnp.array([[True]])}
    assert gradient_flow(grads, mask) == 1 + 16 + 25


def test_bad_input_is_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="compares scores; use ratio_of"):
        random_mask(key, PARAMS, 0.5, global_by())
    with pytest.raises(ValueError, match="density must lie in"):
        random_mask(key, PARAMS, 0.0)
    with pytest.raises(ValueError, match="'b' would lose all of its weights"):
        random_mask(key, PARAMS, 0.25, fixed({"a": 0.5}))
