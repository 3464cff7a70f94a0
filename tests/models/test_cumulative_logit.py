"""The distribution of ordered classes has the probabilities of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.special import expit

from uqsparse.models.cumulative_logit import CumulativeLogit


@jax.jit
def _log_prob(eta, y):
    return CumulativeLogit(eta).log_prob(y)


def test_log_probabilities_are_differences_of_sigmoids():
    eta = np.array([[-1.0, 0.5, 2.0], [0.3, 0.4, 5.0], [-9.0, 0.0, 9.0], [0.0, 1.0, 2.0]])
    expected = np.diff(expit(eta), axis=1, prepend=0.0, append=1.0)
    for y in range(4):
        np.testing.assert_allclose(np.exp(_log_prob(eta, np.full(4, y))), expected[:, y], rtol=1e-4)


def test_one_predictor_makes_it_numpyros_ordered_logistic():
    cuts, predictor, y = np.array([-1.0, 0.5, 2.0]), np.array([0.7, -1.3, 0.0, 2.0]), np.arange(4)
    peer = dist.OrderedLogistic(predictor, cuts).log_prob(y)
    np.testing.assert_allclose(_log_prob(cuts - predictor[:, None], y), peer, rtol=1e-4)


def test_a_class_between_crossing_boundaries_is_impossible():
    crossing = np.tile([1.0, 0.0, 3.0], (4, 1))
    assert np.isneginf(_log_prob(crossing, np.arange(4))).tolist() == [False, True, False, False]


def test_samples_follow_the_probabilities():
    eta = jnp.array([[-1.0, 0.5, 2.0], [1.0, 0.0, 3.0]])  # the second cross: the largest so far counts
    draws = np.asarray(CumulativeLogit(eta).sample(jax.random.key(1), (20_000,)))
    assert draws.shape == (20_000, 2)
    for row, logits in enumerate(([-1.0, 0.5, 2.0], [1.0, 1.0, 3.0])):
        expected = np.diff(expit(logits), prepend=0.0, append=1.0)
        error = np.sqrt(expected * (1 - expected) / 20_000)
        # Eight z-scores, each beyond 4.9 with probability 1e-6.
        assert (abs(np.bincount(draws[:, row], minlength=4) / 20_000 - expected) <= 4.9 * error).all()
