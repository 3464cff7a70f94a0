"""Copula predictives against oracles: SciPy's multivariate normal, quadrature, and loops in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uqsparse.inference.copula_predictive import CopulaPredictive
from uqsparse.inference.copula_regression import CopulaRegression
from uqsparse.inference.predictive_resampling import martingale_posterior
from uqsparse.kernels.gaussian_copula import gaussian_copula_cdf, log_gaussian_copula

GRID = np.linspace(-9, 9, 151)


def key(i=0):
    return jax.random.key(i)


def mixture(seed=1, n=50):
    rng = np.random.default_rng(seed)
    return np.where(rng.uniform(size=n) < 0.8, rng.normal(-2, 1, n), rng.normal(2, 1, n))


def test_copula_is_that_of_the_normal_law():
    a, b, rho = np.array([-1.2, 0.3, 2.0]), np.array([0.4, -2.0, 1.5]), 0.7
    law = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    expected = law.logpdf(np.stack([a, b], axis=1)) - stats.norm.logpdf(a) - stats.norm.logpdf(b)
    log_density, cdf = jax.jit(lambda: (log_gaussian_copula(a, b, rho), gaussian_copula_cdf(a, b, rho)))()
    np.testing.assert_allclose(log_density, expected, rtol=1e-5)
    conditional = stats.norm.cdf((a - rho * b) / np.sqrt(1 - rho**2))
    np.testing.assert_allclose(cdf, conditional, rtol=1e-5)


def by_loops(orders, at, rho):
    """Joint density and first distribution function of standardised rows, from the formulas, by plain loops.

    Conditional distribution functions of the average over orders in columns 1, 2, ... come from its joint densities.
    """
    densities, cdfs = [], []
    for rows in orders:
        points = np.concatenate([rows, at])
        p, u = np.cumprod(stats.norm.pdf(points), axis=1), stats.norm.cdf(points)
        for i, _ in enumerate(rows, start=1):
            w, v = (2 - 1 / i) / (i + 1), u[i - 1].copy()
            p, u = p.copy(), u.copy()
            for k in range(len(points)):
                product = 1.0
                for j, r in enumerate(rho):
                    zu, zv = stats.norm.ppf(u[k, j]), stats.norm.ppf(v[j])
                    h = stats.norm.cdf((zu - r * zv) / np.sqrt(1 - r * r))
                    c = stats.multivariate_normal.pdf([zu, zv], cov=[[1, r], [r, 1]])
                    u[k, j] = ((1 - w) * u[k, j] + w * product * h) / (1 - w + w * product)
                    product *= c / stats.norm.pdf(zu) / stats.norm.pdf(zv)
                    p[k, j] *= 1 - w + w * product
        densities.append(p[len(rows) :])
        cdfs.append(u[len(rows) :])
    densities, cdfs = np.array(densities), np.array(cdfs)
    before = np.concatenate([np.ones_like(densities[..., :1]), densities[..., :-1]], axis=-1)
    return densities.mean(axis=0), (before * cdfs).sum(axis=0) / before.sum(axis=0)


def test_density_is_that_of_plain_loops():
    """Two columns; the prefix of the first is the density of one."""
    rng = np.random.default_rng(0)
    y, rho = rng.normal(2.0, 3.0, (6, 2)), np.array([0.6, 0.8])
    state = CopulaPredictive(bandwidth=rho, n_permutations=3, seed=4).init(y)  # at the data
    z = (y - y.mean(axis=0)) / y.std(axis=0, ddof=1)
    order = np.random.default_rng(4)
    orders = [z[order.permutation(6)] for _ in range(3)]
    density, cdf = by_loops(orders, z, rho)
    np.testing.assert_allclose(np.exp(state.log_prefix), density, rtol=1e-5)
    np.testing.assert_allclose(state.density, density[:, -1] / y.std(axis=0, ddof=1).prod(), rtol=1e-5)
    np.testing.assert_allclose(state.ranks, cdf, rtol=1e-6)


@pytest.fixture(scope="module")
def fitted():
    y = mixture()
    rule = CopulaPredictive(GRID)
    return y, rule, rule.init(y)


def test_density_integrates_to_one_and_its_cdf_is_its_integral(fitted):
    _, _, state = fitted
    density = np.asarray(state.density)
    assert np.trapezoid(density, GRID) == pytest.approx(1.0, abs=1e-6)
    running = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(GRID))])
    np.testing.assert_allclose(state.cdf, running, atol=2e-3)


def test_an_update_weighs_the_next_observation(fitted):
    """Of rank 0.5, by the copula density of the normal law and the weight of datum 51."""
    _, rule, state = fitted
    after = eqx.filter_jit(rule.update)(state, jnp.array([0.5]))
    w, r = (2 - 1 / 51) / 52, state.bandwidth[0]
    where = slice(60, 100, 8)
    z = stats.norm.ppf(np.asarray(state.cdf)[where])
    copula = stats.norm.pdf(z, 0, np.sqrt(1 - r**2)) / stats.norm.pdf(z)
    np.testing.assert_allclose(after.density[where] / state.density[where], 1 - w + w * copula, rtol=1e-4)
    assert after.n == 51


def test_density_learns(fitted):
    """Nearer to the truth than the normal that it starts from, in integrated square."""
    y, _, state = fitted
    truth = 0.8 * stats.norm.pdf(GRID, -2) + 0.2 * stats.norm.pdf(GRID, 2)
    before = np.trapezoid((stats.norm.pdf(GRID, y.mean(), y.std()) - truth) ** 2, GRID)
    assert np.trapezoid((np.asarray(state.density) - truth) ** 2, GRID) < 0.5 * before
    assert 0.5 < state.bandwidth[0] < 0.95


def test_bandwidth_predicts_best(fitted):
    y, _, state = fitted
    scores = [float(CopulaPredictive(GRID, bandwidth=r).init(y).score) for r in (0.5, state.bandwidth[0], 0.93)]
    assert scores[1] == pytest.approx(float(state.score), abs=1e-9)
    assert scores[1] > max(scores[0], scores[2])
    # in the data's units
    other = CopulaPredictive(GRID, bandwidth=0.5).init(10 * y)
    assert float(other.score) == pytest.approx(scores[0] - np.log(10), abs=1e-9)


def test_normal_scores_end_at_the_lower_limit():
    """Data that lie as a normal law has them: nothing predicts better than the start, and that is said."""
    y = stats.norm.ppf((np.arange(50) + 0.5) / 50)
    with pytest.warns(UserWarning, match="bandwidth ended at its lower limit"):
        state = CopulaPredictive(GRID).init(y)
    assert state.bandwidth == pytest.approx(0.5, abs=1e-3)


def test_resampled_densities_are_densities_about_the_fit(fitted):
    """Means of 150 samples within 4.5 standard errors at 13 points (false alarm 1e-4); each integrates to one."""
    y, _, state = fitted
    rule = CopulaPredictive(GRID, bandwidth=state.bandwidth)
    found = martingale_posterior(key(), rule, y, lambda s: s.density, 100, 150, tolerance=0.9)
    np.testing.assert_allclose(np.trapezoid(found.samples, GRID, axis=1), 1.0, atol=1e-3)
    middle = slice(44, 83, 3)
    error = found.samples.std(axis=0)[middle] / np.sqrt(150)
    assert (np.abs(found.samples.mean(axis=0) - found.start)[middle] < 4.5 * error).all()
    assert (found.samples.std(axis=0)[middle] > 0.005).all()


def regression_by_loops(orders, inputs, targets, rho):
    """The conditional method from its formulas, by plain loops over standardised data."""
    found = []
    for X, y in orders:
        pairs = [(x, t) for x, t in zip(X, y, strict=True)] + [(x, t) for x in inputs for t in targets]
        p, u = [stats.norm.pdf(t) for _, t in pairs], [stats.norm.cdf(t) for _, t in pairs]
        for i, x_new in enumerate(X, start=1):
            w, v = (2 - 1 / i) / (i + 1), stats.norm.ppf(u[i - 1])
            for k, (x, _) in enumerate(pairs):
                near = np.prod([_density(a, b, r) for a, b, r in zip(x, x_new, rho[1:], strict=True)])
                share = w * near / (1 - w + w * near)
                z = stats.norm.ppf(u[k])
                p[k] *= 1 - share + share * _density(z, v, rho[0])
                u[k] += share * (stats.norm.cdf((z - rho[0] * v) / np.sqrt(1 - rho[0] ** 2)) - u[k])
        found.append(np.reshape([p[len(X) :], u[len(X) :]], (2, len(inputs), len(targets))))
    return np.mean(found, axis=0)


def _density(a, b, rho):
    law = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    return law.pdf([a, b]) / stats.norm.pdf(a) / stats.norm.pdf(b)


def test_regression_is_that_of_plain_loops():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)
    inputs, targets, rho = rng.normal(size=(2, 2)), np.array([-1.0, 0.2, 0.9]), np.array([0.6, 0.7, 0.8])
    state = CopulaRegression(inputs, targets, rho, n_permutations=2, seed=5).init((X, y))
    scale = lambda a, of: (a - of.mean(axis=0)) / of.std(axis=0, ddof=1)  # noqa: E731
    order = np.random.default_rng(5)
    orders = [(scale(X, X)[o], scale(y, y)[o]) for o in (order.permutation(5) for _ in range(2))]
    p, u = regression_by_loops(orders, scale(inputs, X), scale(targets, y), rho)
    np.testing.assert_allclose(state.density, p / y.std(ddof=1), rtol=1e-5)
    np.testing.assert_allclose(state.cdf, u, rtol=1e-6)


def test_regression_follows_the_line_with_bands():
    rng = np.random.default_rng(4)
    x = rng.uniform(-2, 2, 40)
    y = x + 0.3 * rng.normal(size=40)
    targets = np.linspace(-5, 5, 51)
    rule = CopulaPredictive.regression([-1.5, 0.0, 1.5], targets, 0.9, n_permutations=2)
    look = lambda s: {"mean": s.mean, "median": s.quantile(0.5), "cdf": s.cdf}  # noqa: E731
    found = martingale_posterior(key(), rule, (x, y), look, 60, 100, tolerance=0.9)
    cdf = found.samples["cdf"]
    assert (np.diff(cdf, axis=-1) > -1e-12).all()
    np.testing.assert_allclose(cdf[..., [0, -1]], np.broadcast_to([0.0, 1.0], (*cdf.shape[:2], 2)), atol=1e-3)
    np.testing.assert_allclose(found.start["mean"], [-1.5, 0.0, 1.5], atol=0.5)
    error = found.samples["mean"].std(axis=0) / np.sqrt(100)
    assert (np.abs(found.samples["mean"].mean(axis=0) - found.start["mean"]) < 4.5 * error + 1e-3).all()
    assert (np.abs(found.start["median"] - found.start["mean"]) < 0.3).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array([1.0]), "at least two observations"),
        (np.zeros(0), "at least two observations"),
        (np.array([1.0, np.inf, 2.0]), "must be finite, got 1"),
        (np.array([1.0, 1.0, 1.0]), "constant column, number 0"),
        (np.array([[1.0, 2.0], [2.0, 2.0]]), "constant column, number 1"),
        (np.array([1.0, 2.0, 2.0]), "1 ties in column 0"),
        (np.ones((2, 2, 2)), "must have shape"),
    ],
)
def test_bad_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        CopulaPredictive().init(data)


def test_bad_settings_are_refused(fitted):
    y, rule, _ = fitted
    with pytest.raises(ValueError, match=r"bandwidth must lie in \(0, 1\)"):
        CopulaPredictive(bandwidth=1.0).init(y)
    with pytest.raises(ValueError, match="n_permutations must be"):
        CopulaPredictive(n_permutations=0)
    with pytest.raises(ValueError, match="points must be finite"):
        CopulaPredictive([np.nan])
    with pytest.raises(ValueError, match="points must have the data's 2 columns"):
        CopulaPredictive(GRID).init(np.random.default_rng(0).normal(size=(5, 2)))
    with pytest.raises(ValueError, match="draws ranks"):
        martingale_posterior(key(), rule, y, lambda a, w: w @ a, 10, 5, law="empirical")
    with pytest.raises(ValueError, match="finite, increasing"):
        CopulaRegression([0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="inputs must be finite"):
        CopulaRegression([np.nan], [0.0, 1.0])
    regression = CopulaRegression([0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"pair \(X, y\)"):
        regression.init(y)
    with pytest.raises(ValueError, match="must have shapes"):
        regression.init((np.random.default_rng(0).normal(size=(50, 2)), y))
    with pytest.raises(ValueError, match="y has 1 ties"):
        regression.init((np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])))


def test_single_precision_stays_finite():
    """States that JAX holds in single precision, at ranks that round to zero and one."""
    rule = CopulaPredictive(np.array([-50.0, 0.0, 50.0]), bandwidth=0.95)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), rule.init(mixture()))
    update = eqx.filter_jit(rule.update)
    for rank in (0.0, 1.0, 0.5):
        state = update(state, jnp.array([rank], jnp.float32))
    assert np.isfinite(state.log_prefix).all()
    assert ((state.cdf >= 0) & (state.cdf <= 1)).all()
