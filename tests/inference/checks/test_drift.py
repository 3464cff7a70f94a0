"""The drift test, on kernels whose drift is known: a Gaussian posterior in closed form, and a coin.

Statistical tests raise a false alarm once in 10^5 unless they say otherwise.
"""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.drift import drift_test

KEY = jax.random.key(1)


def simulate(key):
    """theta ~ N(0, 1), two observations with unit noise: the posterior is N(sum(y) / 3, 1 / 3)."""
    noise = jax.random.normal(key, (3,))
    return {"mu": noise[0]}, noise[0] + noise[1:]


class Gibbs(eqx.Module):
    """A draw from N(weight * sum(y), sd^2), kept apart from the last by `memory`; NaN from states above `limit`."""

    weight: np.ndarray
    sd: np.ndarray
    memory: np.ndarray
    limit: np.ndarray

    def __call__(self, key, theta, y):
        mean = self.weight * y.sum()
        innovation = jnp.sqrt(1 - self.memory**2) * self.sd * jax.random.normal(key)
        new = mean + self.memory * (theta["mu"] - mean) + innovation
        return {"mu": jnp.where(theta["mu"] > self.limit, jnp.nan, new)}


SD = math.sqrt(1 / 3)


def gibbs(weight=1 / 3, sd=SD, memory=0.0, limit=np.inf):
    return Gibbs(*map(np.asarray, (weight, sd, memory, limit)))


def check(kernel, budget=20_000, **options):
    return drift_test(KEY, simulate, kernel, budget=budget, **options)


class Coin(eqx.Module):
    """Leaves 0 with probability p and 1 with probability q; both are equally likely at the start."""

    p: np.ndarray
    q: np.ndarray

    def __call__(self, key, theta, y):
        leaves = jax.random.uniform(key) < jnp.where(theta == 0, self.p, self.q)
        return jnp.where(leaves, 1 - theta, theta)


def flip(key):
    return jax.random.bernoulli(key).astype(jnp.int32), ()


def coin(p, q, key=KEY, **options):
    return drift_test(key, flip, Coin(np.asarray(p), np.asarray(q)), **options)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_correct_kernel_passes(memory):
    verdict = check(gibbs(memory=memory))
    assert verdict.ok
    assert verdict.n == 20_000
    assert verdict.counterexample is None
    assert 0 < verdict.bias_bound < 0.03
    assert "changed theta in 100.0%" in verdict.notes[0]


@pytest.mark.parametrize(
    "wrong",
    [{"sd": 0.7}, {"sd": 0.45}, {"weight": 0.28}, {"weight": 0.0, "sd": 1.0}],
    ids=["wide", "narrow", "mean", "prior"],
)
def test_a_wrong_kernel_is_found(wrong):
    """The last keeps the prior: only statistics that depend on the data see it."""
    verdict = check(gibbs(**wrong), subject="Gibbs")
    assert not verdict.ok
    assert verdict.n < 20_000
    assert verdict.evidence >= math.log(1e5)
    assert verdict.subject == "Gibbs"
    assert "theta['mu']" in verdict.counterexample.where
    assert ("times y" in verdict.counterexample.where) == (wrong.get("weight") == 0.0)


class Moments(eqx.Module):
    """Three statistics of theta alone, NaN above a limit."""

    limit: np.ndarray

    def __call__(self, theta, y):
        DTYPES.add(str(y.dtype))
        mu = jnp.where(theta["mu"] > self.limit, jnp.nan, theta["mu"])
        return {"mean": mu, "others": (mu**2, mu**3)}


class LogLikelihood(eqx.Module):
    """The log likelihood, or zero at a coefficient of zero; -inf above a limit."""

    coefficient: np.ndarray
    limit: np.ndarray

    def __call__(self, theta, y):
        value = -0.5 * self.coefficient * ((y - theta["mu"]) ** 2).sum()
        return jnp.where(theta["mu"] > self.limit, -jnp.inf, value)


DTYPES = set()


def check_moments(kernel, likelihood=0.0, impossible=np.inf, undefined=np.inf):
    log_likelihood = LogLikelihood(np.asarray(likelihood), np.asarray(impossible))
    return check(kernel, statistics=Moments(np.asarray(undefined)), log_likelihood=log_likelihood, budget=8192)


def test_statistics_of_theta_alone_miss_a_kernel_that_keeps_the_prior():
    keeps_prior = gibbs(weight=0.0, sd=1.0)
    assert check_moments(keeps_prior).ok
    verdict = check_moments(keeps_prior, likelihood=1.0)
    assert not verdict.ok
    assert "log likelihood" in verdict.counterexample.where


def test_an_infinite_log_likelihood_is_a_value_like_others():
    """-inf above 0: a correct kernel passes, and one that goes there too often is found."""
    assert check_moments(gibbs(), impossible=0.0).ok
    verdict = check_moments(gibbs(sd=0.8), impossible=2.0)
    assert not verdict.ok


def test_a_statistic_that_is_nan_is_an_error():
    with pytest.raises(ValueError, match=r"the statistic Moments\['mean'\] is NaN at theta = "):
        check_moments(gibbs(), undefined=1.0)
    # Too rare for the pilot sample to show.
    with pytest.raises(ValueError, match=r"the statistic Moments\['mean'\] is NaN in a pair that starts from theta = "):
        check_moments(gibbs(), undefined=3.5)


def test_double_precision_stays_inside():
    check_moments(gibbs())
    assert {"float64"} == DTYPES
    assert jnp.zeros(1).dtype == jnp.float32


def test_more_steps_show_a_weaker_error_sooner():
    """A variance that is 40 % off shows by 1 - 0.95^2 = 0.10 of it after a step, and by 0.64 after ten."""
    wrong = gibbs(sd=math.sqrt(1.4 / 3), memory=0.95)
    assert check(wrong).ok
    assert not check(wrong, n_steps=10).ok


def test_the_same_key_gives_the_same_verdict():
    assert check(gibbs(sd=0.7)) == check(gibbs(sd=0.7))


def test_the_mean_drift_is_right():
    """The coin's drift is (p - q) / 2, and its sides are half of tanh(1) off the middle."""
    verdict = coin(0.6, 0.2, batch_size=250)
    assert not verdict.ok
    drift, error = (float(x) for x in re.findall(r"[+-]?[\d.]+", verdict.counterexample.obtained)[:2])
    assert drift == pytest.approx(0.2 * math.tanh(1), abs=5 * error)
    assert verdict.bias_bound > 0.2 * math.tanh(1)
    assert verdict.n == pytest.approx(2 * math.log(1e5) / (0.2 * math.tanh(1)) ** 2 * 0.2, rel=0.9)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.29), (0.29, 0.3)])
def test_a_drift_too_small_to_find_is_within_the_bound(p, q):
    verdict = coin(p, q, budget=5000, batch_size=250)
    assert verdict.ok
    assert 0.005 * math.tanh(1) < verdict.bias_bound < 0.05


def test_the_bound_grows_with_the_drift():
    """Two coins that move as often, one with a drift of 0.2 tanh(1) = 0.152, at a level so small that both pass; the
    difference of the bounds has a standard error of 0.005."""
    drifting, still = (coin(p, q, budget=12_000, batch_size=250, alpha=1e-300) for p, q in ((0.6, 0.2), (0.4, 0.4)))
    assert drifting.ok
    assert drifting.bias_bound > still.bias_bound + 0.12


def test_false_alarms_are_no_more_frequent_than_stated():
    """Level 0.2, a look after every 250 pairs, 40 runs: more than 21 alarms have probability 2e-6."""
    runs = [coin(0.3, 0.3, jax.random.key(seed), budget=2000, batch_size=250, alpha=0.2) for seed in range(40)]
    assert sum(not run.ok for run in runs) <= 21


def test_the_budget_need_not_be_a_multiple_of_the_batch():
    verdict = coin(0.3, 0.3, budget=700, batch_size=250)
    assert verdict.n == 700
    assert "changed theta in" in verdict.notes[0]
    assert 0.2 < float(verdict.notes[0].split("in ")[1].split("%")[0]) / 100 < 0.4


def test_a_kernel_that_never_moves_passes_and_the_notes_say_so():
    verdict = coin(0.0, 0.0, budget=700, batch_size=250)
    assert verdict.ok
    assert "changed theta in 0.0%" in verdict.notes[0]


@pytest.mark.parametrize("n_steps", [1, 10])
def test_nan_from_the_kernel_is_an_error_that_names_the_place(n_steps):
    with pytest.raises(ValueError, match=r"the kernel returned NaN from theta = \{'mu': [\d.]+\}, y = \[") as caught:
        check(gibbs(limit=2.5), n_steps=n_steps)
    assert float(re.search(r"'mu': ([\d.]+)", str(caught.value)).group(1)) > 2.5


def test_nan_in_theta_at_the_start_is_an_error():
    with pytest.raises(ValueError, match="simulate returned NaN in theta"):
        drift_test(KEY, lambda key: (jnp.log(jax.random.normal(key)), ()), lambda key, theta, y: theta)


def test_host_randomness_is_refused():
    def noisy(key, theta, y):
        return {"mu": y.sum() / 3 + SD * np.random.normal()}  # noqa: NPY002

    with pytest.raises(ValueError, match="kernel draws random numbers on the host"):
        check(noisy)
    with pytest.raises(ValueError, match="simulate draws random numbers on the host"):
        drift_test(KEY, lambda key: noisy(key, None, jnp.zeros(2)), gibbs())
    with pytest.raises(ValueError, match="statistics draws random numbers on the host"):
        check(gibbs(), statistics=lambda theta, y: noisy(KEY, theta, y))


@pytest.mark.parametrize(
    ("kernel", "returns"),
    [
        (lambda key, theta, y: theta["mu"], "float64"),
        (lambda key, theta, y: {"mu": y}, "mu: float64.2."),
        (lambda key, theta, y: {"mu": 1}, "mu: int"),
    ],
    ids=["structure", "shape", "kind"],
)
def test_a_kernel_that_returns_something_else_than_theta_is_refused(kernel, returns):
    with pytest.raises(
        ValueError, match=rf"kernel must return .* of the form of theta, {{mu: float64\[\]}}.*{returns}"
    ):
        check(kernel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"budget": 0}, "budget"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"n_steps": 0}, "n_steps"),
        ({"statistics": []}, "statistics"),
        ({"statistics": lambda theta, y: ()}, "statistics"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        check(gibbs(), **{"budget": 100, **options})


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="kernel"):
        check(3.0)
    with pytest.raises(TypeError, match="simulate"):
        drift_test(KEY, None, gibbs())
    with pytest.raises(TypeError, match="statistics"):
        check(gibbs(), statistics=["mu"])
    with pytest.raises(ValueError, match=r"simulate must return a pair \(theta, y\)"):
        drift_test(KEY, lambda key: jax.random.normal(key), gibbs())
