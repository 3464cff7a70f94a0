"""SMC^2 against quadrature over both parameters of a noisy autoregression (see `conftest`)."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from uqsparse.inference import StateSpaceModel
from uqsparse.inference.arviz_io import attributes, dataset
from uqsparse.inference.filter_settings import check_filter
from uqsparse.inference.moves import MoveParams
from uqsparse.inference.parameter_prior import parameter_target
from uqsparse.inference.smc2 import smc2
from uqsparse.inference.smc2_cloud import Problem, start
from uqsparse.inference.smc2_moves import exchange, rejuvenate
from uqsparse.inference.state_space import prepare_series

M = 1600


@pytest.fixture(scope="module")
def learned(noisy_autoregression):
    known = noisy_autoregression
    return smc2(jax.random.key(0), known.model, known.y, n_parameters=M, n_particles=60, missing="skip")


def test_evidence_over_time(noisy_autoregression, learned):
    """Over 30 runs the log evidence scattered with a standard deviation of 0.05 about the truth; bounds of 5."""
    found = np.cumsum(learned.log_evidence_increments)
    np.testing.assert_allclose(found, np.cumsum(noisy_autoregression.log_evidence_increments), atol=0.25)
    assert learned.log_evidence == pytest.approx(found[-1])
    assert 0.03 < learned.log_evidence_se < 0.08
    # Nothing was seen at t = 7.
    assert learned.log_evidence_increments[7] == pytest.approx(0.0, abs=1e-9)


def test_parameters_and_states_over_time(noisy_autoregression, learned):
    """Over 30 runs the means scattered with standard deviations below 0.02 at each time; bounds of 5."""
    known = noisy_autoregression
    for name in ("a", "q"):
        np.testing.assert_allclose(learned.parameter_means[name], known.means[name], atol=0.1)
        np.testing.assert_allclose(learned.parameter_sds[name], known.sds[name], rtol=0.2)
        assert learned.samples[name].mean() == pytest.approx(known.means[name][-1], abs=5 * 0.009)
        assert learned.samples[name].std() == pytest.approx(known.sds[name][-1], rel=0.12)
    np.testing.assert_allclose(learned.state_means, known.filtered_means, atol=0.1)
    np.testing.assert_allclose(learned.samples["variance"], learned.samples["q"] ** 2)
    assert learned.converged
    assert learned.ess.shape == (len(known.y),)
    assert learned.moved_at[-1] == len(known.y) - 1
    assert np.all(learned.ess[learned.moved_at[:-1]] < 0.5 * M)
    assert np.all((learned.acceptance > 0.1) & (learned.acceptance < 0.6))


def test_arviz_holds_draws_evidence_and_data(noisy_autoregression, learned):
    data = learned.to_arviz()
    assert dataset(data)["a"].shape == (1, M)
    np.testing.assert_array_equal(dataset(data, "observed_data")["observations"], noisy_autoregression.y)
    assert attributes(data)["log_evidence"] == learned.log_evidence
    assert attributes(data)["algorithm"] == "SMC^2"


def test_filters_get_more_particles(noisy_autoregression):
    """Over 30 runs from 6 particles: standard deviations 0.072 (log evidence), 0.011 and 0.009 (means). Bounds of 5."""
    known = noisy_autoregression
    result = smc2(
        jax.random.key(2), known.model, known.y, n_parameters=800, n_particles=6, max_particles=24, missing="skip"
    )
    assert result.n_particles[0] == 6
    assert result.n_particles[-1] == 24
    assert result.log_evidence_sd[0] < 1
    assert result.log_evidence == pytest.approx(known.log_evidence_increments.sum(), abs=5 * 0.08)
    for name, bound in (("a", 0.06), ("q", 0.05)):
        assert result.samples[name].mean() == pytest.approx(known.means[name][-1], abs=bound)
        assert result.samples[name].std() == pytest.approx(known.sds[name][-1], rel=0.12)


def test_exchange_corrects_the_weights_and_filters_follow_their_parameters(noisy_autoregression):
    known, now = noisy_autoregression, jnp.asarray(0)
    with jax.enable_x64(True):
        target, series = parameter_target(known.model), prepare_series(known.y, missing="skip")
        few, many = (Problem(known.model, target, series, check_filter(n, "systematic", 0.5)) for n in (5, 40))
        cloud, _ = start(jax.random.key(0), few, 50)
        larger, fine = exchange(jax.random.key(2), many, cloud, now)
        assert bool(fine)
        assert larger.population.states.shape == (50, 40)
        # What weights and evidences say about the parameters together is the same before and after.
        shift = (larger.log_weights - larger.log_evidence) - (cloud.log_weights - cloud.log_evidence)
        np.testing.assert_allclose(shift, shift[0], atol=1e-9)
        assert float(jnp.sum(jnp.exp(larger.log_weights))) == pytest.approx(1.0)

        # Steps so long that none is accepted: all that happens is resampling.
        params = MoveParams(jnp.asarray(50.0), jnp.zeros(2), jnp.eye(2))
        moved, info = rejuvenate(jax.random.key(3), many, larger, now, params, 1)
        assert float(info.acceptance) == 0
        same = np.all(np.asarray(moved.position)[:, None] == np.asarray(larger.position), axis=2)
        assert np.all(same.sum(axis=1) == 1)
        ancestors = same.argmax(axis=1)
        assert len(set(ancestors)) < 50
        for name in ("log_prior", "log_evidence", "population", "roots"):
            before = jax.tree.map(lambda x: x[ancestors], getattr(larger, name))
            jax.tree.map(np.testing.assert_array_equal, getattr(moved, name), before)
        np.testing.assert_allclose(moved.log_weights, -np.log(50))


WALK = StateSpaceModel(
    initial=lambda p, u: {"level": dist.Normal(0.0, 1.0)},
    transition=lambda p, x, u: {"level": dist.Normal(x["level"] + u, jnp.sqrt(p["variance"]))},
    observation=lambda p, x, u: dist.Poisson(jnp.exp(x["level"])),
    prior=lambda: numpyro.sample("variance", dist.LogNormal(-2.0, 0.5)),
)
SMALL = {"n_parameters": 40, "n_particles": 20, "n_moves": 2}


def test_same_key_same_result_and_progress_moves_a_bar(capsys):
    y, inputs = np.array([1, 0, 3, 2, 5]), np.linspace(0.0, 0.2, 5)
    first = smc2(jax.random.key(1), WALK, y, inputs, **SMALL)
    again = smc2(jax.random.PRNGKey(1), WALK, y, inputs, progress=True, **SMALL)
    np.testing.assert_array_equal(first.samples["variance"], again.samples["variance"])
    assert first.log_evidence == again.log_evidence
    assert first.state_means["level"].shape == (5,)
    assert "20 particles, acceptance" in capsys.readouterr().out
    assert not jax.config.jax_enable_x64


def test_observations_that_nothing_explains_are_named():
    with pytest.raises(ValueError, match="all weights are zero at t = 3, observation -1"):
        smc2(jax.random.key(1), WALK, np.array([1, 0, 3, -1, 5]), np.zeros(5), **SMALL)


def test_densities_that_are_no_numbers_are_errors():
    negative = StateSpaceModel(
        WALK.initial, WALK.transition, WALK.observation, lambda: numpyro.sample("variance", dist.Normal(1.0, 1.0))
    )
    with pytest.raises(ValueError, match=r"a log density is NaN or \+inf at t = 1 for parameters {'variance': -"):
        smc2(jax.random.key(1), negative, np.array([1, 0, 3, 1, 5]), np.zeros(5), **SMALL)


def test_parameters_that_became_too_few_are_warned_about():
    with pytest.warns(UserWarning, match="effective parameters were left"):
        result = smc2(
            jax.random.key(1), WALK, np.array([1, 0, 9, 2, 30]), np.zeros(5), parameter_ess_fraction=0.01, **SMALL
        )
    assert not result.converged


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_parameters": 1}, ValueError, "n_parameters"),
        ({"n_particles": 1}, ValueError, "n_particles"),
        ({"n_moves": 0}, ValueError, "n_moves"),
        ({"parameter_ess_fraction": 1.0}, ValueError, "parameter_ess_fraction"),
        ({"n_particles": 50, "max_particles": 40}, ValueError, "max_particles must be an integer of at least 50"),
        ({"model": StateSpaceModel(WALK.initial, WALK.transition, WALK.observation)}, ValueError, "no prior"),
        ({"observations": np.array([0.0, np.nan])}, ValueError, "first at t = 1"),
        ({"key": 0}, TypeError, "key must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, error, message):
    arguments = {"key": jax.random.key(0), "model": WALK, "observations": np.zeros(4)} | options
    with pytest.raises(error, match=message):
        smc2(arguments.pop("key"), arguments.pop("model"), arguments.pop("observations"), **arguments)
