"""The evidence bound against NumPyro's divergence; the bootstrap against its own law."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import kl_divergence
from scipy.special import logsumexp
from scipy.stats import norm

from uqsparse.models.neural_processes import BNP, NP
from uqsparse.models.neural_processes.bootstrapping import with_replacement
from uqsparse.models.neural_processes.latent import gaussian_divergence
from uqsparse.models.neural_processes.process import Points

RNG = np.random.default_rng(3)
KEY = jax.random.key(1)


class Tasks(NamedTuple):
    """One task of four points of context and three targets."""

    context_x: np.ndarray = RNG.normal(size=(1, 5, 1)).astype(np.float32)
    context_y: np.ndarray = RNG.normal(size=(1, 5, 1)).astype(np.float32)
    context_mask: np.ndarray = np.array([[True, True, False, True, True]])
    target_x: np.ndarray = RNG.normal(size=(1, 3, 1)).astype(np.float32)
    target_y: np.ndarray = RNG.normal(size=(1, 3, 1)).astype(np.float32)
    target_mask: np.ndarray = np.ones((1, 3), bool)


TASKS = Tasks()
THERE = np.asarray(TASKS.context_mask[0])
CONTEXT = [np.asarray(a[0])[THERE] for a in (TASKS.context_x, TASKS.context_y)]
EVERY = [np.concatenate([c, np.asarray(a[0])]) for c, a in zip(CONTEXT, (TASKS.target_x, TASKS.target_y), strict=True)]


@eqx.filter_jit  # one program for all the first weights
def built(kind, **settings):
    return kind(1, 1, width=8, encoder_depth=2, decoder_depth=2, **settings, key=jax.random.key(0))


@eqx.filter_jit
def decoded(base, context, x, shift=None):
    """The base network's prediction, and what it knows of the context."""
    representations = base.encode(context, x)
    return *base.decoder(representations, x, shift), representations[0]


@eqx.filter_jit
def drawn_rows(key, rows, mask, n_samples, **settings):
    return with_replacement(key, rows, mask, n_samples, **settings)


def points(x, y):
    return Points(np.asarray(x), np.asarray(y), np.ones(len(x), bool))


def test_divergence_is_that_of_numpyro():
    means, deviations = RNG.normal(size=(2, 6, 4)), RNG.uniform(0.1, 2, (2, 6, 4))
    p, q = (dist.Normal(m, s).to_event(1) for m, s in zip(means, deviations, strict=True))
    found = jax.jit(gaussian_divergence)(means[0], deviations[0], means[1], deviations[1])
    np.testing.assert_allclose(found, kl_divergence(p, q), rtol=1e-4)


def test_evidence_bound():
    """From the model's two laws and its decoder, on points without padding."""
    model = built(NP, training_samples=3)

    @eqx.filter_jit
    def laws_and_predictions(model, every, context, standard):
        posterior, prior = model.latent_encoder(every), model.latent_encoder(context)
        latent = posterior[0] + posterior[1] * standard
        mean, scale = model.decoder((model.encode(context, every.x), latent), every.x)
        return posterior, prior, mean, scale

    standard = jax.random.normal(KEY, (3, 1, 8))
    posterior, prior, mean, scale = laws_and_predictions(model, points(*EVERY), points(*CONTEXT), standard)
    density = norm.logpdf(EVERY[1], mean, scale).sum() / 3
    divergence = float(kl_divergence(dist.Normal(*posterior).to_event(1), dist.Normal(*prior).to_event(1)))
    assert divergence > 0.01
    found = eqx.filter_jit(model.loss)(TASKS, KEY)
    np.testing.assert_allclose(found, -(density - divergence) / len(EVERY[0]), rtol=1e-4)


def test_rows_are_drawn_evenly_from_those_that_are_there():
    """Chi-squared of 4 x 4,000 draws over 4 rows; a value above 30 has probability 1.4e-6."""
    rows = np.arange(5.0, dtype=np.float32)[:, None]
    drawn = np.asarray(drawn_rows(KEY, rows, THERE, 4000))[:, THERE, 0]
    counts = np.array([(drawn == i).sum() for i in range(5)])
    assert counts[2] == 0
    expected = drawn.size / 4
    assert ((counts[THERE] - expected) ** 2 / expected).sum() < 30
    # Draws at different positions are independent.
    assert abs(np.mean(drawn[:, 0] == drawn[:, 1]) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)
    nothing = drawn_rows(KEY, rows, np.zeros(5, bool), 4000)
    assert np.isfinite(nothing).all()


def test_each_sample_may_have_rows_of_its_own():
    rows = np.arange(15.0, dtype=np.float32).reshape(3, 5, 1)
    drawn = np.asarray(drawn_rows(KEY, rows, np.ones(5, bool), 3, has_samples=True))[..., 0]
    np.testing.assert_array_equal(drawn // 5, np.arange(3)[:, None] * np.ones(5))


def test_residual_bootstrap():
    """Resampled outputs are means plus centred residuals in units of the scale, from the base's own predictions."""
    model = built(BNP)
    context = Points(TASKS.context_x[0], TASKS.context_y[0], TASKS.context_mask[0])
    found = np.asarray(eqx.filter_jit(model.resample_context)(KEY, context, 200).y)
    np.testing.assert_array_equal(found[:, ~THERE], 0)
    pairs = np.concatenate([context.x, context.y], -1)
    chosen = np.asarray(drawn_rows(jax.random.split(KEY)[0], pairs, context.mask, 200))
    for k in range(5):
        resample = np.asarray(chosen[k])[THERE]
        mean, scale, _ = jax.device_get(decoded(model.base, points(*np.split(resample, 2, 1)), CONTEXT[0]))
        residuals = (CONTEXT[1] - mean) / scale
        standardised = (found[k][THERE] - mean) / scale
        assert abs(standardised.sum()) < 1e-3  # centred
        # Up to one shift, that of the centring, every one is a residual.
        shift = residuals[:, 0] - standardised[0]
        matches = [np.abs((standardised + s) - residuals.T).min(1).max() < 1e-3 for s in shift]
        assert any(matches)


@pytest.mark.parametrize("coherence", ["pointwise", "joint"])
def test_bootstrapping_objective(coherence):
    model = built(BNP, training_samples=3, coherence=coherence)
    context = Points(TASKS.context_x, TASKS.context_y, TASKS.context_mask)
    resampled = jax.device_get(eqx.filter_jit(model.resample_context)(KEY, context, 3))
    weight, bias = np.asarray(model.adaptation[0].weight), np.asarray(model.adaptation[0].bias)
    densities = []
    for k in range(3):
        _, _, extra = decoded(model.base, points(resampled.x[k, 0][THERE], resampled.y[k, 0][THERE]), EVERY[0])
        mean, scale, _ = decoded(model.base, points(*CONTEXT), EVERY[0], np.asarray(extra) @ weight.T + bias)
        densities.append(norm.logpdf(EVERY[1], mean, scale)[:, 0])
    mean, scale, _ = decoded(model.base, points(*CONTEXT), EVERY[0])
    base = norm.logpdf(EVERY[1], mean, scale).mean()
    densities = np.array(densities)
    if coherence == "joint":
        mixture = (logsumexp(densities.sum(1)) - np.log(3)) / 7
    else:
        mixture = (logsumexp(densities, axis=0) - np.log(3)).mean()
    np.testing.assert_allclose(eqx.filter_jit(model.loss)(TASKS, KEY), -(base + mixture), rtol=1e-4)


def test_the_law_of_bootstrapped_predictions_does_not_know_the_order():
    """Means of 2,000 components, 4 comparisons within 6 standard errors: false alarms under 1e-7."""
    model = built(BNP)
    x, y = np.asarray(TASKS.context_x[0]), np.asarray(TASKS.context_y[0])
    order = np.array([3, 0, 4, 1, 2])
    first = model.predict(x, y, x[:4], KEY, 2000, context_mask=THERE)
    second = model.predict(x[order], y[order], x[:4], jax.random.key(2), 2000, context_mask=THERE[order])
    first, second = np.asarray(first.means), np.asarray(second.means)
    error = np.sqrt((first.var(0) + second.var(0)) / 2000)
    assert (np.abs(first.mean(0) - second.mean(0)) < 6 * error).all()


def test_training_does_not_see_through_the_bootstrap():
    model = built(BNP)
    context = Points(TASKS.context_x, TASKS.context_y, TASKS.context_mask)
    slope = eqx.filter_jit(eqx.filter_grad(lambda model: (model.resample_context(KEY, context, 3).y ** 2).sum()))(model)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slope))
