"""Particle filters against dense Gaussian algebra, sums over all paths of a finite chain, and themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import Density, Proposal, StateSpaceModel, particle_filter

PHI, STEP, NOISE, START = 0.9, 1.0, 0.5, 1.5
T = 12


def autoregression(phi=PHI):
    return StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, START),
        transition=lambda p, x, u: dist.Normal(phi * x, STEP),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )


def covariance(n=T, phi=PHI):
    """Joint covariance of the states."""
    response = np.array([[phi ** (i - j) if i >= j else 0.0 for j in range(n)] for i in range(n)])
    return response @ np.diag([START**2] + [STEP**2] * (n - 1)) @ response.T


def exact(y):
    """Log evidence and the filtering means and standard deviations; NaN observations are left out."""
    states, seen = covariance(len(y)), ~np.isnan(y)
    noisy = states + NOISE**2 * np.eye(len(y))
    log_evidence = stats.multivariate_normal(cov=noisy[np.ix_(seen, seen)]).logpdf(y[seen])
    means, sds = [], []
    for t in range(len(y)):
        past = np.flatnonzero(seen[: t + 1])
        gain = states[t, past] @ np.linalg.inv(noisy[np.ix_(past, past)]) if len(past) else np.zeros(0)
        means.append(gain @ y[past])
        sds.append(np.sqrt(states[t, t] - gain @ states[past, t]))
    return log_evidence, np.array(means), np.array(sds)


def observations(n=T, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(np.zeros(n), covariance(n)) + NOISE * rng.normal(size=n)


def _given_observation(mean, variance, y):
    gain = variance / (variance + NOISE**2)
    return dist.Normal(mean + gain * (y - mean), jnp.sqrt((1 - gain) * variance))


GUIDED = Proposal(
    initial=lambda p, u, y: _given_observation(0.0, START**2, y),
    transition=lambda p, x, u, y: _given_observation(PHI * x, STEP**2, y),
)


def look_ahead(p, x, u, y):
    """Not the exact predictive density: wider, so that the correction has something to correct."""
    return dist.Normal(PHI * x, 1.5).log_prob(y)


FILTERS = {
    "bootstrap": {},
    "guided": {"proposal": GUIDED},
    "auxiliary": {"lookahead": look_ahead},
    "guided auxiliary": {"proposal": GUIDED, "lookahead": look_ahead},
}


@pytest.mark.parametrize(
    ("kind", "resampling", "ess_fraction", "has_gaps"),
    [
        ("bootstrap", "systematic", 0.5, True),
        ("bootstrap", "multinomial", 1.0, False),
        ("bootstrap", "stratified", 0.0, False),
        ("guided", "stratified", 0.9, True),
        ("guided", "residual", 1.0, False),
        ("auxiliary", "residual", 0.5, False),
        ("auxiliary", "systematic", 1.0, False),
        ("guided auxiliary", "multinomial", 0.9, True),
    ],
)
def test_evidence_is_unbiased(kind, resampling, ess_fraction, has_gaps):
    """Mean of 4000 estimates from 20 particles within 4.5 standard errors: false-alarm rate below 1e-5 a case. Each
    case is a compilation; the benchmark has all combinations."""
    y = observations()
    if has_gaps:
        y[[0, 4, 5]] = np.nan
    options = {"n_particles": 20, "resampling": resampling, "ess_fraction": ess_fraction, **FILTERS[kind]}

    def run(key):
        return particle_filter(key, autoregression(), y, missing="skip", **options).log_evidence

    with jax.enable_x64(True):
        log_evidence = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 4000))
    ratio = np.exp(np.asarray(log_evidence) - exact(y)[0])
    assert np.std(ratio) > 0
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(len(ratio))


@pytest.mark.parametrize("kind", ["bootstrap", "guided auxiliary"])
def test_filtering_means_and_quantiles(kind):
    """40 000 particles: 12 means, each with standard error below 0.015 sd; bounds of 6 of them."""
    y = observations()
    y[3] = np.nan
    options = FILTERS[kind] | {"missing": "skip", "quantiles": (0.05, 0.5)}
    result = particle_filter(jax.random.key(0), autoregression(), y, n_particles=40_000, **options)
    _, means, sds = exact(y)
    np.testing.assert_allclose(result.means, means, atol=6 * 0.015 * sds.max())
    expected = means[:, None] + sds[:, None] * stats.norm.ppf([0.05, 0.5])
    np.testing.assert_allclose(result.quantiles, expected, atol=6 * 0.03 * sds.max())
    assert result.quantiles.shape == (T, 2)


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
def test_error_bar_matches_the_spread_of_runs(resampling):
    """Root mean square of the estimated errors against the sd of 300 runs, within 35 %: about eight standard errors
    of a standard deviation from 300 runs (each 4 %)."""
    y = observations(150)

    def run(key):
        return particle_filter(key, autoregression(), y, n_particles=300, resampling=resampling)

    result = jax.jit(jax.vmap(lambda key: run(key)[2:4]))(jax.random.split(jax.random.key(0), 300))
    spread = np.std(np.asarray(result[0]), ddof=1)
    claimed = np.sqrt(np.mean(np.asarray(result[1]) ** 2))
    assert claimed == pytest.approx(spread, rel=0.35)


FIRST = np.array([0.25, 0.75])
MOVES = np.array([[0.9, 0.1], [0.3, 0.7]])
EMITS = np.array([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])


def two_states():
    return StateSpaceModel(
        initial=lambda p, u: dist.Categorical(jnp.asarray(FIRST)),
        transition=lambda p, x, u: dist.Categorical(jnp.asarray(MOVES)[x]),
        observation=lambda p, x, u: dist.Categorical(jnp.asarray(EMITS)[x]),
    )


def test_discrete_states_against_the_sum_over_all_paths():
    """Probabilities from 40 000 particles, standard error below 0.005; bounds of 6."""
    y = np.array([0, 2, 2, 1, 0])
    weights = {}
    for path in itertools.product((0, 1), repeat=len(y)):
        moves = np.prod([MOVES[a, b] for a, b in itertools.pairwise(path)])
        weights[path] = FIRST[path[0]] * moves * np.prod(EMITS[list(path), y])
    total = sum(weights.values())
    last = sum(w for path, w in weights.items() if path[-1] == 1) / total
    result = particle_filter(
        jax.random.key(0), two_states(), y, n_particles=40_000, statistics=lambda k: jax.nn.one_hot(k, 2)
    )
    assert result.means.shape == (5, 2)
    assert float(result.means[-1, 1]) == pytest.approx(last, abs=6 * 0.005)
    assert float(result.log_evidence) == pytest.approx(np.log(total), abs=6 * float(result.log_evidence_se))
    assert jnp.issubdtype(result.states.dtype, jnp.integer)


def test_inputs_reach_the_time_they_belong_to():
    """Inputs shift transition and observation; taking them off again leaves a model with known evidence."""
    y, drive = observations(), np.linspace(-3, 4, T)
    shift = np.array([sum(PHI ** (t - s) * drive[s] for s in range(1, t + 1)) for t in range(T)])
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, START),
        transition=lambda p, x, u: dist.Normal(PHI * x + u["drive"], STEP),
        observation=lambda p, x, u: dist.Normal(x + p * u["offset"], NOISE),
    )
    inputs = {"drive": drive, "offset": drive**2}
    shifted = y + shift + 0.5 * drive**2
    result = particle_filter(jax.random.key(0), model, shifted, 0.5, inputs, n_particles=20_000)
    assert float(result.log_evidence) == pytest.approx(exact(y)[0], abs=6 * float(result.log_evidence_se))


def test_states_and_observations_as_pytrees_with_leaves_missing_one_by_one():
    """Two independent autoregressions in one model: the evidence is the product."""
    first, second = observations(seed=1), observations(seed=2)
    first[2], second[[0, 5]] = np.nan, np.nan
    model = StateSpaceModel(
        initial=lambda p, u: {"a": dist.Normal(0.0, START), "b": dist.Normal(0.0, START)},
        transition=lambda p, x, u: jax.tree.map(lambda one: dist.Normal(PHI * one, STEP), x),
        observation=lambda p, x, u: {"left": dist.Normal(x["a"], NOISE), "right": dist.Normal(x["b"], NOISE)},
    )
    y = {"left": first, "right": second}
    result = particle_filter(jax.random.key(0), model, y, n_particles=20_000, missing="skip")
    expected = exact(first)[0] + exact(second)[0]
    assert float(result.log_evidence) == pytest.approx(expected, abs=6 * float(result.log_evidence_se))
    assert result.means["a"].shape == (T,)


def test_plain_functions_do_what_distributions_do():
    def normal(mean, sd):
        return Density(
            lambda key: mean + sd * jax.random.normal(key),
            lambda x: -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi),
        )

    model = StateSpaceModel(
        initial=lambda p, u: normal(0.0, START),
        transition=lambda p, x, u: normal(PHI * x, STEP),
        observation=lambda p, x, u: Density(None, normal(x, NOISE).log_prob),
    )
    y = observations()
    result = particle_filter(jax.random.key(0), model, y, n_particles=20_000)
    assert float(result.log_evidence) == pytest.approx(exact(y)[0], abs=6 * float(result.log_evidence_se))


def test_history_is_the_genealogy_of_the_run():
    y = observations()
    result = particle_filter(jax.random.key(0), autoregression(), y, n_particles=500, keep_history=True)
    history = result.history
    assert history.states.shape == history.log_weights.shape == history.ancestors.shape == (T, 500)
    weights = np.exp(np.asarray(history.log_weights))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose((weights * np.asarray(history.states)).sum(1), result.means, atol=1e-4)
    np.testing.assert_allclose(1 / (weights**2).sum(1), result.ess, rtol=1e-3)
    kept = np.asarray(history.ancestors) == np.arange(500)
    np.testing.assert_array_equal(kept.all(1), ~np.asarray(result.resampled))
    # Children stay near their parents, and not near anybody else.
    parents = np.take_along_axis(np.asarray(history.states)[:-1], np.asarray(history.ancestors)[1:], axis=1)
    steps = np.asarray(history.states)[1:] - PHI * parents
    assert abs(steps.std() - STEP) < 0.05


def test_vmap_over_parameters_and_series_is_a_loop():
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, START),
        transition=lambda p, x, u: dist.Normal(p * x, STEP),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )
    parameters = jnp.array([0.5, 0.9, 0.99])
    series = jnp.stack([jnp.asarray(observations(seed=s)) for s in range(3)])
    key = jax.random.key(0)

    def run(parameters, y):
        return particle_filter(key, model, y, parameters, n_particles=50)

    batch = jax.vmap(run)(parameters, series)
    for i in range(3):
        alone = run(parameters[i], series[i])
        np.testing.assert_allclose(batch.log_evidence[i], alone.log_evidence, rtol=1e-5)
        np.testing.assert_allclose(batch.means[i], alone.means, rtol=1e-4, atol=1e-4)


def test_same_key_same_result_in_the_precision_that_is_set():
    y = observations()
    first = particle_filter(jax.random.key(7), autoregression(), y, n_particles=50)
    again = particle_filter(jax.random.PRNGKey(7), autoregression(), y, n_particles=50)
    np.testing.assert_array_equal(first.states, again.states)
    assert first.states.dtype == jnp.float32
    with jax.enable_x64(True):
        double = particle_filter(jax.random.key(7), autoregression(), y, n_particles=50)
    assert double.states.dtype == jnp.float64
    np.testing.assert_allclose(first.log_evidence, double.log_evidence, atol=1e-3)


def test_a_model_with_numpy_arrays_runs_in_both_precisions():
    spread = np.eye(2)
    model = StateSpaceModel(
        initial=lambda p, u: dist.MultivariateNormal(np.zeros(2), spread),
        transition=lambda p, x, u: dist.MultivariateNormal(x, spread),
        observation=lambda p, x, u: dist.MultivariateNormal(x, spread),
    )
    y = np.zeros((3, 2))
    single = particle_filter(jax.random.key(0), model, y, n_particles=50)
    with jax.enable_x64(True):
        double = particle_filter(jax.random.key(0), model, y, n_particles=50)
    assert (single.states.dtype, double.states.dtype) == (jnp.float32, jnp.float64)
    np.testing.assert_allclose(single.log_evidence, double.log_evidence, atol=1e-3)


def counts():
    return StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 0.1),
        observation=lambda p, x, u: dist.Poisson(jnp.exp(x)),
    )


def test_collapse_names_the_time_or_is_flagged_without_nan():
    y = np.array([1, 0, -1, 2])
    with pytest.raises(ValueError, match=r"all weights are zero at t = 2, observation -1"):
        particle_filter(jax.random.key(0), counts(), y, n_particles=50)
    result = particle_filter(jax.random.key(0), counts(), y, n_particles=50, collapse="flag")
    assert int(result.collapsed_at) == 2
    assert float(result.log_evidence) == -np.inf
    assert int(result.invalid_at) == -1
    assert np.all(np.isfinite(result.means))
    inside = jax.jit(lambda y: particle_filter(jax.random.key(0), counts(), y, n_particles=50))(jnp.asarray(y))
    assert int(inside.collapsed_at) == 2


def test_a_log_density_that_is_no_number_is_named():
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 0.1),
        observation=lambda p, x, u: Density(None, lambda y: jnp.where(y > 2, jnp.nan, -((y - x) ** 2))),
    )
    with pytest.raises(ValueError, match=r"NaN or \+inf at t = 1, observation 3"):
        particle_filter(jax.random.key(0), model, np.array([1.0, 3.0, 1.0]), n_particles=50)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_particles": 1}, ValueError, "n_particles must be an integer of at least 2"),
        ({"n_particles": 10.5}, ValueError, "n_particles"),
        ({"resampling": "lottery"}, ValueError, "resampling must be one of systematic"),
        ({"ess_fraction": 1.5}, ValueError, "ess_fraction"),
        ({"missing": "ignore"}, ValueError, "missing must be"),
        ({"collapse": "hide"}, ValueError, "collapse must be"),
        ({"quantiles": (0.0,)}, ValueError, "quantiles must lie strictly"),
        ({"proposal": lambda x: x}, TypeError, "proposal must be a Proposal"),
        ({"lookahead": 3}, TypeError, "lookahead must be a function"),
        ({"inputs": np.zeros(T + 1)}, ValueError, r"inputs has shape \(13,\)"),
        ({"observations": np.zeros((T, 2))}, ValueError, r"observations has rows of shape \(2,\)"),
        ({"observations": np.zeros(0)}, ValueError, "T >= 1"),
        ({"observations": np.array([0.0, np.nan])}, ValueError, "first at t = 1; pass missing='skip'"),
        ({"observations": np.array([0.0, np.inf]), "missing": "skip"}, ValueError, "first at t = 1"),
        ({"inputs": np.full(T, np.nan)}, ValueError, "inputs has NaN"),
        ({"key": 3}, TypeError, "key must be a JAX random key"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {"key": jax.random.key(0), "model": autoregression(), "observations": observations()} | changes
    with pytest.raises(error, match=message):
        particle_filter(arguments.pop("key"), arguments.pop("model"), arguments.pop("observations"), **arguments)


def test_a_state_that_changes_its_shape_is_named():
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        observation=lambda p, x, u: dist.Normal(x, 1.0),
    )
    with pytest.raises(ValueError, match="transition gives states like"):
        particle_filter(jax.random.key(0), model, observations(), n_particles=10)
    with pytest.raises(TypeError, match="initial must be a function"):
        StateSpaceModel(1.0, lambda *a: None, lambda *a: None)


def test_a_hundred_thousand_particles_in_single_precision():
    y = observations(3)
    result = particle_filter(jax.random.key(0), autoregression(), y, n_particles=100_000)
    assert float(result.log_evidence_se) < 0.01
    assert float(result.log_evidence) == pytest.approx(exact(y)[0], abs=6 * float(result.log_evidence_se))


def test_one_observation_is_a_series():
    result = particle_filter(jax.random.key(0), autoregression(), observations(1), n_particles=20_000)
    assert float(result.log_evidence) == pytest.approx(exact(observations(1))[0], abs=0.05)
    assert result.ess.shape == (1,)
