"""MPNP against a NumPy version of its own, and the properties that make its draws a martingale posterior."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from uqsparse.models.neural_processes import CANP, CNP, MPANP, MPNP
from uqsparse.models.neural_processes.process import Points
from uqsparse.models.neural_processes.scores import mixture_score

SMALL = {"width": 8, "heads": 2, "encoder_depth": 2, "decoder_depth": 2, "n_pseudo": 3}
RNG = np.random.default_rng(2)
KEY = jax.random.key(1)


@eqx.filter_jit  # one program for all the first weights
def built(kind, **settings):
    return kind(1, 1, **SMALL | settings, key=jax.random.key(0))


class Tasks(NamedTuple):
    """Two tasks of four and two points of context."""

    context_x: np.ndarray
    context_y: np.ndarray
    context_mask: np.ndarray
    target_x: np.ndarray
    target_y: np.ndarray
    target_mask: np.ndarray


TASKS = Tasks(
    *(RNG.normal(size=(2, 5, 1)).astype(np.float32) for _ in range(2)),
    np.array([[True, True, True, True, False], [True, False, False, True, False]]),
    *(RNG.normal(size=(2, 3, 1)).astype(np.float32) for _ in range(2)),
    np.array([[True, True, True], [True, False, True]]),
)


def linear(layer, x):
    return x @ np.asarray(layer.weight).T + (0 if layer.bias is None else np.asarray(layer.bias))


def perceptron(mlp, x):
    for layer in mlp.layers[:-1]:
        x = np.maximum(linear(layer, x), 0)
    return linear(mlp.layers[-1], x)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def attended(block, x, y):
    """MAB(x, y) of two heads of four entries each."""
    q, k, v = linear(block.attention.query, x), linear(block.attention.key, y), linear(block.attention.value, y)
    heads = []
    for at in (slice(0, 4), slice(4, 8)):
        weights = np.exp(q[:, at] @ k[:, at].T / np.sqrt(8))
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, at])
    h = normalised(q + np.concatenate(heads, 1))
    return normalised(h + np.maximum(linear(block.residual, h), 0))


def densities(model, rows, x, y):
    """Log densities of points given rows of representations, with the decoder's layers put side by side again."""
    decoder = model.base.decoder
    r = perceptron(model.base.after_pooling, rows.mean(0))
    h = linear(decoder.from_x, x) + linear(decoder.from_representations[0], r)
    out = perceptron(decoder.rest, np.maximum(h, 0))
    scale = model.min_scale + (1 - model.min_scale) * np.log1p(np.exp(out[:, 1:]))
    return norm.logpdf(y, out[:, :1], scale).sum(-1)


def drawn(generator, noise, rows):
    """Rows of unseen points, given the noise and the rows of the context."""
    block = generator.block
    inward = attended(block.inward, linear(generator.to_points, rows), noise)
    return linear(generator.from_rows, attended(block.outward, noise, inward))


@pytest.mark.parametrize("coherence", ["pointwise", "joint"])
def test_the_three_terms_of_the_objective(coherence):
    model = built(MPNP, training_samples=4, pseudo_weight=0.3, coherence=coherence, generator_width=4)
    noise = np.asarray(jax.random.normal(KEY, (4, 2, 3, 4)))
    total = 0.0
    for t in range(2):
        seen, targets = np.asarray(TASKS.context_mask[t]), np.asarray(TASKS.target_mask[t])
        context = [np.asarray(a[t])[seen] for a in (TASKS.context_x, TASKS.context_y)]
        x, y = (
            np.concatenate([part, np.asarray(a[t])[targets]])
            for part, a in zip(context, (TASKS.target_x, TASKS.target_y), strict=True)
        )
        rows = perceptron(model.base.encoder, np.concatenate(context, 1))
        unseen = [drawn(model.generator, noise[k, t], rows) for k in range(4)]
        both = np.array([densities(model, np.concatenate([rows, u]), x, y) for u in unseen])
        if coherence == "joint":
            marginal = (logsumexp(both.sum(1)) - np.log(4)) / len(x)
        else:
            marginal = (logsumexp(both, axis=0) - np.log(4)).mean()
        alone = np.mean([densities(model, u, x, y).mean() for u in unseen])
        total += marginal + densities(model, rows, x, y).mean() + 0.3 * alone
    np.testing.assert_allclose(eqx.filter_jit(model.loss)(TASKS, KEY), -total / 2, rtol=1e-4)


@pytest.mark.parametrize("kind", [MPNP, MPANP])
def test_drawn_points_are_exchangeable(kind):
    """Permuting the noise permutes the drawn rows: i.i.d. noise makes them exchangeable, hence c.i.d."""
    model = built(kind)
    context = Points(TASKS.context_x, TASKS.context_y, TASKS.context_mask)
    noise = np.asarray(jax.random.normal(KEY, (4, 2, 3, 8)))
    order = np.array([2, 0, 1])
    generate = eqx.filter_jit(lambda noise: model.generate(noise, model.base.remember(context), context.mask))
    for rows, swapped in zip(
        jax.tree.leaves(jax.device_get(generate(noise))),
        jax.tree.leaves(jax.device_get(generate(noise[..., order, :]))),
        strict=True,
    ):
        np.testing.assert_allclose(swapped, rows[..., order, :], rtol=1e-4, atol=1e-5)
        assert np.abs(rows[..., order, :] - rows).max() > 1e-2


@pytest.mark.parametrize(("kind", "base"), [(MPNP, CNP), (MPANP, CANP)])
def test_without_drawn_points_it_is_the_conditional_process(kind, base):
    model = built(kind, n_pseudo=0)
    assert isinstance(model.base, base)
    found, expected = (one.predict_tasks(TASKS, KEY, 3) for one in (model, model.base))
    np.testing.assert_array_equal(found.means, expected.means)
    np.testing.assert_array_equal(found.scales, expected.scales)
    if kind is MPNP:  # the loss is that of both
        assert eqx.filter_jit(model.loss)(TASKS, KEY) == eqx.filter_jit(model.base.loss)(TASKS, KEY)


def test_one_draw_is_scored_as_its_log_density():
    """With one draw the two readings of the mixture agree."""
    density = RNG.normal(size=(1, 2, 5)).astype(np.float32)
    expected = np.mean([density[0, t, there].mean() for t, there in enumerate(TASKS.context_mask)])
    for coherence in ("pointwise", "joint"):
        found = mixture_score(density, TASKS.context_mask, coherence)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
