"""Geweke's joint test on a Gaussian model: which of its four parts is wrong shows in the counter-example.

All variants share one compiled program: what differs is a number. False alarms once in 10^5.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.geweke import geweke

KEY = jax.random.key(0)


def prior(key):
    return jax.random.normal(key)


class Data(eqx.Module):
    sd: np.ndarray

    def __call__(self, key, theta):
        return theta + self.sd * jax.random.normal(key, (2,))


class LogLikelihood(eqx.Module):
    sd: np.ndarray

    def __call__(self, theta, y):
        return (-0.5 * ((y - theta) / self.sd) ** 2 - jnp.log(self.sd)).sum()


class Gibbs(eqx.Module):
    sd: np.ndarray

    def __call__(self, key, theta, y):
        return y.sum() / 3 + self.sd * jax.random.normal(key)


SD = math.sqrt(1 / 3)


def check(noise=1.0, likelihood_noise=1.0, kernel_sd=SD, **options):
    return geweke(
        KEY,
        prior,
        Data(np.asarray(noise)),
        Gibbs(np.asarray(kernel_sd)),
        log_likelihood=LogLikelihood(np.asarray(likelihood_noise)),
        n_sweeps=4,
        budget=20_000,
        **options,
    )


def test_code_that_agrees_passes():
    verdict = check()
    assert verdict.ok
    assert verdict.n == 20_000
    assert verdict.bias_bound < 0.05
    for note, part in zip(verdict.notes, ("the kernel", "4 sweeps", "likelihood against simulator"), strict=False):
        assert note.startswith(part)
        assert abs(float(note.split("z-score, ")[1])) < 5


def test_a_wrong_kernel_is_named():
    verdict = check(kernel_sd=0.7, subject="my sampler")
    assert not verdict.ok
    assert verdict.subject == "my sampler"
    assert "likelihood against simulator" not in verdict.counterexample.where
    assert abs(float(verdict.notes[2].split("z-score, ")[1])) < 5


def test_a_likelihood_that_does_not_belong_to_the_simulator_is_named():
    verdict = check(likelihood_noise=1.3)
    assert not verdict.ok
    assert "likelihood against simulator" in verdict.counterexample.where


@pytest.mark.parametrize(
    ("wrong", "disagree"),
    [
        ({}, [False, False, False]),
        ({"kernel_sd": 0.7}, [True, True, False]),
        ({"likelihood_noise": 1.3}, [False, False, True]),
        ({"noise": 1.5}, [True, True, True]),
    ],
    ids=["nothing", "kernel", "likelihood", "simulator"],
)
def test_each_bug_shows_where_it_should(wrong, disagree):
    """At a level so small that every run spends its budget: z-scores of the kernel, the sweeps and the likelihood."""
    notes = check(**wrong, alpha=1e-300).notes[:3]
    assert [abs(float(note.split("z-score, ")[1])) > 5 for note in notes] == disagree


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="simulate_data"):
        geweke(KEY, prior, 1.0, Gibbs(np.asarray(1.0)))
    with pytest.raises(ValueError, match="n_sweeps"):
        geweke(KEY, prior, Data(np.asarray(1.0)), Gibbs(np.asarray(1.0)), n_sweeps=0)
    with pytest.raises(ValueError, match="kernel must return"):
        geweke(KEY, prior, Data(np.asarray(1.0)), lambda key, theta, y: y)
