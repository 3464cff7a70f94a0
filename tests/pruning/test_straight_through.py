"""Straight-through masks: hard forward, identity backward, in both modes."""

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.pruning.straight_through import straight_through
from uqsparse.pruning.structures import NM

SCORES = jax.random.normal(jax.random.key(0), (3, 4))
WEIGHT = jax.random.normal(jax.random.key(1), (3, 4))


def test_values_are_hard_and_exactly_as_many() -> None:
    for count in (5, jnp.asarray(5)):
        mask = np.asarray(jax.jit(straight_through)(SCORES, count))
        assert set(mask.ravel().tolist()) == {0.0, 1.0}
        assert mask.sum() == 5
        assert np.asarray(SCORES)[mask > 0].min() > np.asarray(SCORES)[mask == 0].max()
    assert (np.asarray(straight_through(SCORES, 6, NM(2, 4))).sum(axis=1) == 2).all()


def test_derivatives_are_those_of_the_identity() -> None:
    def loss(scores):
        return (straight_through(scores, 5) * WEIGHT).sum() ** 2

    slope = 2 * (straight_through(SCORES, 5) * WEIGHT).sum() * WEIGHT
    np.testing.assert_allclose(jax.grad(loss)(SCORES), slope, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(SCORES), slope, rtol=1e-6)
    step = jax.random.normal(jax.random.key(2), SCORES.shape)
    np.testing.assert_allclose(jax.jvp(loss, (SCORES,), (step,))[1], (slope * step).sum(), rtol=1e-5)
    both = jax.vmap(jax.grad(loss))(jnp.stack([SCORES, -SCORES]))
    np.testing.assert_allclose(both[0], slope, rtol=1e-6)


def test_scores_learn_to_pick_the_useful_weights() -> None:
    target = jnp.zeros((3, 4)).at[1].set(1.0)
    scores = SCORES
    for _ in range(50):
        scores = scores - 0.1 * jax.grad(lambda s: ((straight_through(s, 4) - target) ** 2).sum())(scores)
    assert (np.asarray(straight_through(scores, 4)) == np.asarray(target)).all()
