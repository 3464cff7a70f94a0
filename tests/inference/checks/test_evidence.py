"""The test of evidence estimates: fair by enumeration, and on estimates whose mean is known."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from uqsparse.inference import StateSpaceModel, particle_filter
from uqsparse.inference.checks.evidence import evidence_test

KEY = jax.random.key(0)


class Weights(eqx.Module):
    """The mean of four weights that are 1/2 or 3/2 at even odds, times a bias."""

    bias: float

    def __call__(self, key):
        return jnp.log(self.bias * (0.5 + jax.random.bernoulli(key, shape=(4,)).mean()))


def weights(bias):
    return Weights(np.float64(bias))


@pytest.mark.parametrize("upper_bound", [None, math.log(3)])
@pytest.mark.parametrize("n", [1, 3])
def test_the_mean_e_value_is_one(upper_bound, n):
    """Z_hat / Z is 0 or 3 with probabilities 2/3 and 1/3; all sequences are enumerated."""
    law, total = {-np.inf: 2 / 3, math.log(3): 1 / 3}, 0.0
    for path in itertools.product(law, repeat=n):
        values = iter(path)
        verdict = evidence_test(
            KEY,
            lambda key, values=values: next(values),
            0.0,
            upper_bound=upper_bound,
            compiled=False,
            budget=n,
            alpha=1e-9,
        )
        total += math.prod(law[x] for x in path) * math.exp(verdict.evidence)
    assert total == pytest.approx(1.0, abs=1e-12)


def test_an_unbiased_estimate_passes():
    """At a false-alarm rate of 1e-5."""
    verdict = evidence_test(KEY, weights(1.0), 0.0, upper_bound=math.log(1.5))
    assert verdict.ok
    assert verdict.n == 10_000
    assert 0 < verdict.bias_bound < 0.03


@pytest.mark.parametrize("bias", [0.95, 1.05])
def test_bias_in_either_direction_is_found(bias):
    verdict = evidence_test(KEY, weights(bias), 0.0, upper_bound=math.log(1.6))
    assert not verdict.ok
    assert verdict.n < 10_000
    assert verdict.evidence >= math.log(1e5)
    assert float(str(verdict.counterexample.obtained).split()[0]) == pytest.approx(bias, abs=0.03)


def test_without_a_bound_only_an_upward_bias_is_found():
    assert not evidence_test(KEY, weights(1.05), 0.0).ok
    verdict = evidence_test(KEY, weights(0.95), 0.0)
    assert verdict.ok
    assert verdict.bias_bound is None
    assert any("downward bias is not tested" in note for note in verdict.notes)
    low, high = (float(x) for x in verdict.notes[1].split("between ")[1].split(" and "))
    assert low < 0.95 < high < 0.97


@pytest.mark.parametrize("bias", [0.99, 1.01])
def test_a_bias_too_small_to_find_is_within_the_bound(bias):
    verdict = evidence_test(KEY, weights(bias), 0.0, upper_bound=math.log(1.6), budget=1000)
    assert verdict.ok
    assert verdict.bias_bound > 0.01


def test_a_loose_bound_makes_the_bound_on_the_bias_loose():
    verdict = evidence_test(KEY, weights(1.0), 0.0, upper_bound=math.log(1000.0), budget=1000)
    assert verdict.ok
    assert verdict.bias_bound > 0.5


def test_the_same_key_gives_the_same_verdict():
    assert evidence_test(KEY, weights(1.05), 0.0) == evidence_test(KEY, weights(1.05), 0.0)


def test_the_budget_need_not_be_a_multiple_of_the_batch():
    assert evidence_test(KEY, weights(1.0), 0.0, budget=600).n == 600


class Filtered(eqx.Module):
    """The evidence by a filter of four particles on two states, plus an error."""

    tables: tuple
    y: np.ndarray
    error: np.ndarray

    def __call__(self, key):
        first, moves, emits = map(jnp.asarray, self.tables)
        model = StateSpaceModel(
            initial=lambda p, u: dist.Categorical(first),
            transition=lambda p, x, u: dist.Categorical(moves[x]),
            observation=lambda p, x, u: dist.Categorical(emits[x]),
        )
        return particle_filter(key, model, self.y, n_particles=4).log_evidence + self.error


@pytest.mark.slow
def test_a_particle_filter_is_unbiased_for_a_hidden_markov_model():
    """Three times; the evidence by summing over all eight paths. False alarms once in 10^5."""
    first, moves, emits = np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.1, 0.9]])
    y = np.array([0, 1, 1])
    exact = sum(
        first[a] * emits[a, y[0]] * moves[a, b] * emits[b, y[1]] * moves[b, c] * emits[c, y[2]]
        for a, b, c in itertools.product(range(2), repeat=3)
    )
    right, wrong = (Filtered((first, moves, emits), y, np.asarray(error)) for error in (0.0, 0.1))
    verdict = evidence_test(KEY, right, math.log(exact), upper_bound=0.0, budget=2000)
    assert verdict.ok
    assert verdict.bias_bound < 0.3
    assert not evidence_test(KEY, wrong, math.log(exact), upper_bound=0.1, budget=2000).ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_estimate_is_refused(value):
    with pytest.raises(ValueError, match="estimate returned"):
        evidence_test(KEY, lambda key: value, 0.0, compiled=False)


def test_an_estimate_above_its_bound_is_refused():
    with pytest.raises(ValueError, match="above upper_bound"):
        evidence_test(KEY, weights(1.0), 0.0, upper_bound=0.1)


def test_host_randomness_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="estimate draws random numbers on the host"):
        evidence_test(KEY, lambda key: jnp.log(rng.uniform()), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_evidence": np.nan}, "log_evidence"),
        ({"log_evidence": 0.0, "upper_bound": -1.0}, "upper_bound"),
        ({"log_evidence": 0.0, "alpha": 0.0}, "alpha"),
        ({"log_evidence": 0.0, "budget": 0}, "budget"),
        ({"log_evidence": 0.0, "batch_size": 2.5}, "batch_size"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        evidence_test(KEY, weights(1.0), **options)
    with pytest.raises(TypeError, match="estimate"):
        evidence_test(KEY, 3.0, 0.0)  # type: ignore[arg-type]
