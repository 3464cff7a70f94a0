"""Kalman filter and smoother against conditioning of the whole joint Gaussian, against statsmodels, and in extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import block_diag
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

from uqsparse.inference.kalman import LinearGaussian, kalman_filter, kalman_smoother


def random_model(rng, n_steps, d, p, varies):
    """A stable random system; with `varies` every part of it has a row for each time."""

    def covariance(*shape):
        root = rng.normal(size=(*shape, shape[-1]))
        return root @ root.swapaxes(-1, -2) / shape[-1] + 0.1 * np.eye(shape[-1])

    moves, times = ((n_steps - 1,), (n_steps,)) if varies else ((), ())
    return LinearGaussian(
        initial_mean=rng.normal(size=d),
        initial_covariance=covariance(d),
        transition_matrix=0.9 * np.linalg.qr(rng.normal(size=(*moves, d, d)))[0],
        transition_covariance=covariance(*moves, d),
        observation_matrix=rng.normal(size=(*times, p, d)),
        observation_covariance=covariance(*times, p),
        transition_offset=rng.normal(size=(*moves, d)),
        observation_offset=rng.normal(size=(*times, p)),
    )


def random_series(rng, n_steps, p, missing_fraction=0.3):
    y = 2 * rng.normal(size=(n_steps, p))
    y[rng.uniform(size=y.shape) < missing_fraction] = np.nan
    return y


def joint_gaussian(model, n_steps):
    """Mean and covariance of (x_0, ..., x_{T-1}) and the linear map from there to the observations."""
    d, p = len(model.initial_mean), model.observation_matrix.shape[-2]

    def rows(part, n, *shape):
        return np.broadcast_to(part, (n, *shape))

    matrices = rows(model.transition_matrix, n_steps - 1, d, d)
    # x = response e, where e holds the initial state and the innovations.
    response = np.eye(n_steps * d)
    for t in range(1, n_steps):
        now, before = slice(t * d, (t + 1) * d), slice((t - 1) * d, t * d)
        response[now] += matrices[t - 1] @ response[before]
    offsets = rows(model.transition_offset, n_steps - 1, d).ravel()
    innovations = block_diag(model.initial_covariance, *rows(model.transition_covariance, n_steps - 1, d, d))
    mean = response @ np.concatenate([model.initial_mean, offsets])
    see = block_diag(*rows(model.observation_matrix, n_steps, p, d))
    noise = block_diag(*rows(model.observation_covariance, n_steps, p, p))
    return mean, response @ innovations @ response.T, see, rows(model.observation_offset, n_steps, p).ravel(), noise


def condition(model, y, upto=None):
    """Log evidence of the observations up to a time, and the states given them, by dense linear algebra."""
    n_steps, p = y.shape
    mean, covariance, see, offset, noise = joint_gaussian(model, n_steps)
    seen = np.flatnonzero(~np.isnan(y.ravel()))
    seen = seen[seen < (n_steps if upto is None else upto + 1) * p]
    see, centre = see[seen], see[seen] @ mean + offset[seen]
    spread = see @ covariance @ see.T + noise[np.ix_(seen, seen)]
    if not len(seen):
        return 0.0, mean.reshape(n_steps, -1), covariance.reshape(n_steps, -1, n_steps, mean.size // n_steps)
    gain = np.linalg.solve(spread, see @ covariance).T
    log_evidence = stats.multivariate_normal(centre, spread).logpdf(y.ravel()[seen])
    posterior = covariance - gain @ see @ covariance
    d = mean.size // n_steps
    means = (mean + gain @ (y.ravel()[seen] - centre)).reshape(n_steps, d)
    return log_evidence, means, posterior.reshape(n_steps, d, n_steps, d)


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(1, 1), (3, 2)]), varies=st.booleans(), length=st.just(6))
def test_agrees_with_conditioning_the_joint_gaussian(seed, shape, varies, length):
    rng = np.random.default_rng(seed)
    model, y = random_model(rng, length, *shape, varies), random_series(rng, length, shape[1])
    with jax.enable_x64(True):
        result = kalman_smoother(model, y, missing="skip")
    log_evidence, means, covariances = condition(model, y)
    np.testing.assert_allclose(result.log_evidence, log_evidence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.means, means, rtol=1e-8, atol=1e-9)
    for t in range(length):
        np.testing.assert_allclose(result.covariances[t], covariances[t, :, t], rtol=1e-8, atol=1e-9)
    for t in range(length - 1):
        np.testing.assert_allclose(result.lag_one_covariances[t], covariances[t, :, t + 1], rtol=1e-8, atol=1e-9)

    filtered = result.filtered
    before = 0.0
    for t in range(length):
        log_evidence, means, covariances = condition(model, y, upto=t)
        np.testing.assert_allclose(filtered.log_evidence_increments[t], log_evidence - before, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(filtered.means[t], means[t], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(filtered.covariances[t], covariances[t, :, t], rtol=1e-8, atol=1e-9)
        before = log_evidence
        if t + 1 < length:
            np.testing.assert_allclose(filtered.predicted_means[t + 1], means[t + 1], rtol=1e-8, atol=1e-9)
            ahead = covariances[t + 1, :, t + 1]
            np.testing.assert_allclose(filtered.predicted_covariances[t + 1], ahead, rtol=1e-8, atol=1e-9)


def peer(model, y):
    """statsmodels' smoother; its transition t leads from t to t + 1, its initial state is the predicted one."""
    n_steps, p = y.shape
    d = len(model.initial_mean)
    smoother = KalmanSmoother(k_endog=p, k_states=d, nobs=n_steps)

    def columns(part, rank):
        part = np.asarray(part)
        if part.ndim < rank:
            return part[..., None] if rank == 2 else part
        if len(part) == n_steps - 1:  # a last transition, which leads nowhere
            part = np.concatenate([part, part[-1:]])
        return np.moveaxis(part, 0, -1)

    smoother["selection"] = np.eye(d)
    smoother["design"] = columns(model.observation_matrix, 3)
    smoother["obs_intercept"] = columns(model.observation_offset, 2)
    smoother["obs_cov"] = columns(model.observation_covariance, 3)
    smoother["transition"] = columns(model.transition_matrix, 3)
    smoother["state_intercept"] = columns(model.transition_offset, 2)
    smoother["state_cov"] = columns(model.transition_covariance, 3)
    smoother.initialize_known(model.initial_mean, model.initial_covariance)
    smoother.tolerance = 0
    smoother.bind(y.copy())
    return smoother.smooth()


@pytest.mark.parametrize("varies", [False, True])
def test_agrees_with_statsmodels_on_a_long_series_with_gaps(varies):
    rng = np.random.default_rng(1)
    model, y = random_model(rng, 300, 4, 3, varies), random_series(rng, 300, 3)
    y[40:60] = np.nan
    with jax.enable_x64(True):
        result = kalman_smoother(model, y, missing="skip")
        filtered = kalman_filter(model, y, missing="skip")
    expected = peer(model, y)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, np.moveaxis(theirs, -1, 0), rtol=1e-8, atol=1e-9)

    close(filtered.log_evidence_increments, expected.llf_obs)
    close(filtered.predicted_means, expected.predicted_state[:, :-1])
    close(filtered.predicted_covariances, expected.predicted_state_cov[..., :-1])
    close(filtered.means, expected.filtered_state)
    close(filtered.covariances, expected.filtered_state_cov)
    close(result.means, expected.smoothed_state)
    close(result.covariances, expected.smoothed_state_cov)
    # Theirs is the covariance of x_{t+1} with x_t.
    close(np.moveaxis(result.lag_one_covariances, 1, 2), expected.smoothed_state_autocov[..., :-1])
    np.testing.assert_allclose(result.log_evidence, expected.llf_obs.sum(), rtol=1e-10)


@pytest.mark.parametrize("double", [False, True])
def test_a_constant_seen_often_is_estimated_by_its_mean(double):
    y = np.random.default_rng(0).normal(3.0, 1.0, size=(2000, 1))
    one = np.eye(1)
    with jax.enable_x64(double):
        result = kalman_smoother(LinearGaussian(np.zeros(1), 1e9 * one, one, 0 * one, one, one), y)
    np.testing.assert_allclose(result.means, y.mean(), rtol=1e-8 if double else 1e-4)
    np.testing.assert_allclose(result.covariances, 1 / 2000, rtol=1e-6 if double else 5e-4)


@pytest.mark.parametrize("double", [False, True])
def test_singular_covariances(double):
    """A second-order autoregression in companion form from a known start, seen without noise: nothing is invertible
    but the variance of each observation, and the evidence is a product of regressions."""
    y = np.cumsum(np.random.default_rng(0).normal(size=60))
    model = LinearGaussian(
        initial_mean=np.array([y[0], y[0]]),
        initial_covariance=np.zeros((2, 2)),
        transition_matrix=np.array([[1.2, -0.5], [1.0, 0.0]]),
        transition_covariance=np.diag([1.0, 0.0]),
        observation_matrix=np.eye(1, 2),
        observation_covariance=np.zeros((1, 1)),
    )
    seen = np.concatenate([[np.nan], y[1:]])  # the first is known beforehand
    with jax.enable_x64(double):
        result = kalman_smoother(model, seen[:, None], missing="skip")
    np.testing.assert_allclose(result.means[1:, 0], y[1:], rtol=1e-5)
    np.testing.assert_allclose(result.means[1:, 1], y[:-1], rtol=1e-5)
    innovations = y[1:] - 1.2 * y[:-1] + 0.5 * np.concatenate([[y[0]], y[:-2]])
    np.testing.assert_allclose(result.log_evidence, stats.norm.logpdf(innovations).sum(), rtol=1e-5)
    np.testing.assert_allclose(result.covariances, 0, atol=1e-5)


def test_single_precision_keeps_a_wide_start_and_components_of_any_size():
    """A level in units of 10^4 with a slope in units of 1, and a wide initial covariance."""
    y = 1e4 + np.cumsum(np.random.default_rng(0).normal(size=(80, 1)), axis=0)
    model = LinearGaussian(
        initial_mean=np.array([1e4, 0.0]),
        initial_covariance=np.diag([1e4, 1.0]),
        transition_matrix=np.array([[1.0, 1.0], [0.0, 1.0]]),
        transition_covariance=np.diag([0.5, 1e-4]),
        observation_matrix=np.eye(1, 2),
        observation_covariance=np.eye(1),
    )
    single = kalman_smoother(model, y)
    with jax.enable_x64(True):
        double = kalman_smoother(model, y)
    assert single.means.dtype == single.covariances.dtype == jnp.float32
    assert double.means.dtype == jnp.float64
    np.testing.assert_allclose(single.log_evidence, double.log_evidence, rtol=1e-3)
    np.testing.assert_allclose(single.means[:, 1], double.means[:, 1], atol=0.01)
    np.testing.assert_allclose(single.covariances, double.covariances, rtol=0.01, atol=1e-4)
    assert np.all(np.linalg.eigvalsh(single.covariances) > 0)


def test_gradients_against_finite_differences():
    """Along a random direction of each part of a model."""
    rng = np.random.default_rng(3)
    model, y = random_model(rng, 6, 3, 2, varies=True), random_series(rng, 6, 2)
    assert np.isnan(y).any()

    def log_evidence(model, y):
        return kalman_filter(model, y, missing="skip").log_evidence

    with jax.enable_x64(True):
        slopes, by_observation = jax.device_get(jax.grad(log_evidence, (0, 1))(model, y))
        for name, slope in slopes._asdict().items():
            direction = rng.normal(size=slope.shape)
            if name.endswith("covariance"):
                direction += direction.swapaxes(-1, -2)
            there, back = (
                log_evidence(model._replace(**{name: getattr(model, name) + h * direction}), y) for h in (1e-5, -1e-5)
            )
            np.testing.assert_allclose(
                np.sum(slope * direction), (there - back) / 2e-5, rtol=1e-6, atol=1e-7, err_msg=name
            )
    assert np.all((by_observation == 0) == np.isnan(y))
    assert np.all(np.isfinite(by_observation))


def test_vmap_over_parameters_and_series_is_a_loop():
    rng = np.random.default_rng(4)
    model = random_model(rng, 10, 2, 1, varies=False)
    noises = np.array([0.1, 1.0, 5.0])[:, None, None]
    series = np.stack([random_series(rng, 10, 1) for _ in range(3)])

    def run(noise, y):
        return kalman_smoother(model._replace(observation_covariance=noise), y, missing="skip")

    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(run))(noises, series)
        for i in range(3):
            alone = run(noises[i], series[i])
            jax.tree.map(lambda xs, x, i=i: np.testing.assert_allclose(xs[i], x, rtol=1e-9, atol=1e-12), batch, alone)


def test_one_observation():
    rng = np.random.default_rng(5)
    for varies in (False, True):
        model, y = random_model(rng, 1, 2, 2, varies), random_series(rng, 1, 2, 0)
        with jax.enable_x64(True):
            result = kalman_smoother(model, y)
        log_evidence, means, _ = condition(model, y)
        np.testing.assert_allclose(result.log_evidence, log_evidence, rtol=1e-9)
        np.testing.assert_allclose(result.means, means, rtol=1e-9)
        assert result.lag_one_covariances.shape == (0, 2, 2)


def local_level(**changes):
    one = np.eye(1)
    return LinearGaussian(np.zeros(1), one, one, one, one, one)._replace(**changes)


def test_an_observation_that_is_known_beforehand_is_named_or_flagged():
    known = local_level(observation_covariance=np.zeros((1, 1)), transition_covariance=np.zeros((1, 1)))
    y = np.array([[1.0], [1.0], [2.0]])
    with pytest.raises(ValueError, match="t = 1 has no finite log density"):
        kalman_filter(known, y)
    inside = jax.jit(kalman_smoother)(known, y)
    assert inside.filtered.log_evidence_increments[1:].tolist() == [-np.inf, -np.inf]
    assert float(inside.log_evidence) == -np.inf
    np.testing.assert_array_equal(inside.means, 1.0)


TWO = np.eye(2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": (1, 2)}, TypeError, "model must be a LinearGaussian, got a tuple"),
        ({"missing": "ignore"}, ValueError, "missing must be"),
        ({"observations": np.zeros(5)}, ValueError, r"observations has shape \(5,\), expected \(T, p\)"),
        ({"observations": np.zeros((0, 1))}, ValueError, "at least 1"),
        ({"observations": np.zeros((5, 2))}, ValueError, r"observation_matrix has shape \(1, 1\), expected \(2, 1\)"),
        ({"observations": [[0.0], [np.nan], [np.nan]]}, ValueError, "first at t = 1; pass missing='skip'"),
        ({"observations": [[0.0], [np.nan], [np.inf]], "missing": "skip"}, ValueError, "first at t = 2$"),
        ({"initial_mean": np.zeros((1, 1))}, ValueError, r"initial_mean has shape \(1, 1\), expected \(d,\)"),
        ({"initial_covariance": TWO}, ValueError, r"initial_covariance has shape \(2, 2\), expected \(1, 1\)"),
        ({"transition_matrix": np.ones((5, 1, 1))}, ValueError, r"transition_matrix .* or \(4, 1, 1\): T = 5"),
        ({"observation_matrix": np.ones((4, 1, 1))}, ValueError, r"observation_matrix .* or \(5, 1, 1\): T = 5"),
        ({"transition_offset": np.zeros(2)}, ValueError, r"transition_offset has shape \(2,\)"),
        ({"observation_covariance": None}, ValueError, r"observation_covariance has shape \(\)"),
        ({"transition_matrix": np.full((1, 1), np.nan)}, ValueError, "transition_matrix has NaN"),
        ({"observation_covariance": np.full((1, 1), -1.0)}, ValueError, "observation_covariance is not positive semi"),
        ({"transition_covariance": np.zeros((4, 1, 1)) - 1}, ValueError, "transition_covariance is not positive semi"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(changes, error, message):
    parts = {name: changes[name] for name in LinearGaussian._fields if name in changes}
    model = changes.get("model", local_level(**parts))
    for solve in (kalman_filter, kalman_smoother):
        with pytest.raises(error, match=message):
            solve(
                model,
                np.asarray(changes.get("observations", np.zeros((5, 1)))),
                missing=changes.get("missing", "error"),
            )


def test_a_covariance_that_is_not_symmetric_is_named():
    zeros = np.zeros((2, 2))
    crooked = np.array([[1.0, 0.5], [0.0, 1.0]])
    model = LinearGaussian(np.zeros(2), crooked, zeros, TWO, TWO, TWO)
    with pytest.raises(ValueError, match="initial_covariance is not symmetric"):
        kalman_filter(model, np.zeros((3, 2)))
