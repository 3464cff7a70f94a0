"""Hierarchical Bayesian few-shot learning against exact EM, conjugate formulas, scikit-learn and brute force."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from uqsparse.data.few_shot_tasks import FewShotTasks, sine_line_tasks
from uqsparse.models.few_shot_likelihoods import Categorical, Gaussian, mean_field_probabilities
from uqsparse.models.niw_local_steps import gauss_newton_posterior, low_rank_posterior
from uqsparse.models.niw_meta import NIWMeta

D, NOISE, N_TASKS = 3, 0.5, 60


@pytest.fixture(scope="module")
def linear_tasks():
    """60 linear regressions of five points whose weights are normal, and the noise known."""
    rng = np.random.default_rng(0)
    weights = np.array([1.0, -2.0, 0.5]) + np.sqrt([0.5, 1.5, 0.2]) * rng.normal(size=(N_TASKS, D))
    X = rng.normal(size=(N_TASKS, 5, D))
    return X, np.einsum("tnd,td->tn", X, weights) + NOISE * rng.normal(size=(N_TASKS, 5))


def local_posteriors(X, y, mean, variances):
    """Conjugate posteriors of all tasks, by dense inverses."""
    covariances = np.linalg.inv(np.einsum("tni,tnj->tij", X, X) / NOISE**2 + np.diag(1 / variances))
    right = np.einsum("tni,tn->ti", X, y) / NOISE**2 + mean / variances
    return np.einsum("tij,tj->ti", covariances, right), covariances


def expectation_maximisation(X, y, n_iter=1000):
    """Mean and variances of largest evidence."""
    mean, variances = np.zeros(D), np.ones(D)
    for _ in range(n_iter):
        means, covariances = local_posteriors(X, y, mean, variances)
        mean = means.mean(0)
        variances = ((means - mean) ** 2).mean(0) + np.einsum("tii->ti", covariances).mean(0)
    return mean, variances


def variational_ascent(X, y, n_iter=1000):
    """The belief that coordinate ascent of a finite number of tasks arrives at: m0, V, n0, all in closed form."""
    n_tasks = len(X)
    mean, V, n0 = np.zeros(D), np.full(D, float(n_tasks)), D + 2.0 + n_tasks
    for _ in range(n_iter):
        means, covariances = local_posteriors(X, y, mean, V / n0)
        mean = means.sum(0) / (1 + n_tasks)
        spread = ((means - mean) ** 2).sum(0) + np.einsum("tii->ti", covariances).sum(0)
        V = 1.0 + spread + mean**2
    return mean, V


def linear_model(**settings):
    return NIWMeta(eqx.nn.Identity(), x_size=D, noise=NOISE, learn_noise=False, use_bias=False, **settings)


def optimum(model, X, y):
    """m0 and P of the smallest loss, by L-BFGS in double precision, and the loss."""
    tasks = FewShotTasks(*(jnp.asarray(a) for a in (X[:, :2], y[:, :2, None], X[:, 2:], y[:, 2:, None])))

    @jax.jit
    def loss(p):
        moved = eqx.tree_at(lambda m: (m.prior_mean, m.log_precision), model, (p[None, :D], p[None, D:]))
        return moved.loss(tasks, jax.random.key(0))

    slope = jax.jit(jax.value_and_grad(loss))
    found = minimize(
        lambda p: [np.asarray(x, float) for x in slope(jnp.asarray(p))],
        np.zeros(2 * D),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    return found.x[:D], np.exp(found.x[D:]), float(found.fun)


@jax.jit
def _moments(parts):
    """Means and covariances of the heads of a regression."""
    return jax.vmap(jax.vmap(lambda part: (part.mean, part.covariance)))(parts)


class TestBelief:
    def test_optimum_is_that_of_exact_em_whatever_n0(self, linear_tasks):
        mean, variances = expectation_maximisation(*linear_tasks)
        values = []
        with jax.enable_x64(True):
            for n0 in (5, 1000):
                m0, P, value = optimum(linear_model(n0=n0), *linear_tasks)
                assert np.allclose(m0, mean, atol=2e-7)
                assert np.allclose(1 / P, variances, atol=2e-7)
                values.append(value)
        # The objective falls with n0, by a constant that no data change: n0 cannot be learned from it.
        assert values == sorted(values, reverse=True)

    def test_objective_of_exact_local_posteriors_is_the_evidence(self, linear_tasks):
        X, y = linear_tasks
        with jax.enable_x64(True):
            model = linear_model(n0=1e12)
            tasks = FewShotTasks(*(jnp.asarray(a) for a in (X[:, :2], y[:, :2, None], X[:, 2:], y[:, 2:, None])))
            found = float(eqx.filter_jit(model.loss)(tasks, jax.random.key(0)))
        wanted = np.mean(
            [
                stats.multivariate_normal.logpdf(y[t], np.zeros(5), X[t] @ X[t].T + NOISE**2 * np.eye(5))
                for t in range(N_TASKS)
            ]
        )
        assert found == pytest.approx(-wanted, rel=1e-8)

    def test_finitely_many_tasks_have_the_belief_of_coordinate_ascent(self, linear_tasks):
        X, y = (a[:25] for a in linear_tasks)
        mean, V = variational_ascent(X, y)
        with jax.enable_x64(True):
            model = linear_model(n_tasks=25)
            m0, P, _ = optimum(model, X, y)
        assert model.n0 == D + 2 + 25
        assert np.allclose(m0, mean, atol=1e-6)
        assert np.allclose(model.n0 / P, V, rtol=1e-6)

    def test_belief_is_the_distribution_with_this_expected_precision(self):
        model = linear_model(n0=9.0, precision=4.0)
        assert np.allclose(model.belief.expected_precision[0], 4 * np.eye(D), rtol=1e-5)
        assert np.allclose(model.belief.scale[0], 9 / 4 * np.eye(D), rtol=1e-5)

    def test_divergence_of_the_belief_is_that_between_the_distributions(self):
        from numpyro.distributions.kl import kl_divergence

        from uqsparse.models.normal_inverse_wishart import NormalInverseWishart

        with jax.enable_x64(True):
            model = eqx.tree_at(
                lambda m: m.prior_mean, linear_model(n_tasks=7, precision=2.0), jnp.array([[1.0, 2, 3]])
            )
            first = NormalInverseWishart(jnp.zeros(D), 1.0, jnp.eye(D), D + 2.0)
            found, wanted = jax.jit(lambda: (model._belief_divergence(), kl_divergence(model.belief, first)[0]))()
        assert float(found) == pytest.approx(float(wanted))


class TestLocalPosterior:
    def test_low_rank_formulas_are_those_of_dense_matrices(self):
        rng = np.random.default_rng(1)
        m0, P, rows, r = rng.normal(size=6), rng.uniform(0.5, 3, 6), rng.normal(size=(4, 6)), rng.normal(size=4)
        with jax.enable_x64(True):
            directions = rng.normal(size=(2, 6))

            @jax.jit
            def run(keys):
                found = low_rank_posterior(*(jnp.asarray(a) for a in (m0, P, rows, r)))
                moments = found.mean, found.covariance, found.variance, found.variance_of(jnp.asarray(directions))
                return *moments, found.divergence(), jax.vmap(found.sample)(keys)

            found = [np.asarray(a) for a in run(jax.random.split(jax.random.key(0), 20_000))]
            precision = np.diag(P) + rows.T @ rows
            mean, covariance = m0 + np.linalg.solve(precision, rows.T @ r), np.linalg.inv(precision)
            assert np.allclose(found[0], mean, atol=1e-12)
            assert np.allclose(found[1], covariance, atol=1e-12)
            assert np.allclose(found[2], np.diag(covariance), atol=1e-12)
            assert np.allclose(found[3], np.diag(directions @ covariance @ directions.T))
            import numpyro.distributions as dist
            from numpyro.distributions.kl import kl_divergence

            q = dist.MultivariateNormal(mean, precision_matrix=precision)
            p = dist.MultivariateNormal(m0, precision_matrix=np.diag(P))
            assert float(found[4]) == pytest.approx(float(kl_divergence(q, p)), rel=1e-9)
        draws = found[5]
        # Whitened draws are standard normal: 6 means and 21 second moments within 5.5 standard errors.
        white = (draws - mean) @ np.linalg.cholesky(precision)
        assert np.abs(white.mean(0)).max() < 5.5 / np.sqrt(20_000)
        assert np.abs(np.cov(white.T) - np.eye(6)).max() < 5.5 * np.sqrt(2 / 20_000)

    def test_closed_form_minimises_the_bound_by_brute_force(self):
        rng = np.random.default_rng(2)
        m0, P, rows, r = rng.normal(size=2), rng.uniform(0.5, 3, 2), rng.normal(size=(3, 2)), rng.normal(size=3)

        def bound(p):
            m, L = p[:2], np.array([[np.exp(p[2]), 0.0], [p[3], np.exp(p[4])]])
            V = L @ L.T
            missed = (np.sum((r - rows @ (m - m0)) ** 2) + np.trace(rows @ V @ rows.T)) / 2
            away = np.sum(P * (m - m0) ** 2) + np.sum(P * np.diag(V)) - 2
            return missed + (away - np.log(np.prod(P)) - np.linalg.slogdet(V)[1]) / 2

        best = minimize(bound, np.r_[m0, 0.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-9})
        with jax.enable_x64(True):
            found = low_rank_posterior(*(jnp.asarray(a) for a in (m0, P, rows, r)))
            factor = np.linalg.cholesky(np.asarray(found.covariance))
            at = np.r_[found.mean, np.log(factor[0, 0]), factor[1, 0], np.log(factor[1, 1])]
        assert np.allclose(at, best.x, atol=1e-5)

    def test_posterior_of_a_task_is_conjugate(self, linear_tasks):
        X, y = (a[:1] for a in linear_tasks)
        means, covariances = local_posteriors(X, y, np.zeros(D), np.full(D, 0.5))
        with jax.enable_x64(True):
            model = linear_model(precision=2.0)
            head = model.adapt(X[0], y[0][:, None])
            parts = jax.tree.map(lambda leaf: leaf[0, 0], head.parts)
            assert np.allclose(parts.mean, means[0], atol=1e-10)
            assert np.allclose(parts.covariance, covariances[0], atol=1e-10)
            # The same through the general route of a network that happens to be linear.
            layer = eqx.tree_at(
                lambda net: net.weight, eqx.nn.Linear(D, 1, False, key=jax.random.key(0)), jnp.zeros((1, D))
            )
            net = NIWMeta(layer, local="ggn", precision=2.0, noise=NOISE, inner_steps=1)
            parts = jax.tree.map(lambda leaf: leaf[0], net.adapt(X[0], y[0][:, None]).parts)
            assert np.allclose(parts.mean, means[0], atol=1e-10)
            assert np.allclose(parts.covariance, covariances[0], atol=1e-10)
            # The predictive distribution of new points.
            x = np.random.default_rng(0).normal(size=(4, D))
            mixture = model.predict(head, x, jax.random.key(0))
            assert np.allclose(mixture.mean[:, 0], x @ means[0])
            wanted = np.sqrt(np.einsum("mi,ij,mj->m", x, covariances[0], x) + NOISE**2)
            assert np.allclose(mixture.standard_deviation[:, 0], wanted)
            # Training by predictions makes their log loss small.
            by_prediction, query_y = linear_model(precision=2.0, objective="prediction"), np.ones((4, 1))
            arrays = [jnp.asarray(a) for a in (X[0], y[0][:, None], x, query_y)]
            loss = float(eqx.filter_jit(by_prediction.episode_loss)(*arrays, jax.random.key(0)))
            assert loss == pytest.approx(-stats.norm.logpdf(1.0, x @ means[0], wanted).sum(), rel=1e-9)

    def test_class_heads_are_at_the_penalised_mode_with_the_inverse_hessian(self):
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(12, 2)), np.r_[0, 1, 2, rng.integers(0, 3, 9)]
        with jax.enable_x64(True):
            model = NIWMeta(
                eqx.nn.Identity(), "categorical", n_way=3, x_size=2, use_bias=False, precision=0.7, inner_steps=12
            )
            local = model.adapt(x, y)
            parts = jax.tree.map(lambda leaf: leaf[0], local.parts)
            peer = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-12, max_iter=1000).fit(x, y)
            assert np.allclose(parts.mean.reshape(3, 2), peer.coef_, atol=1e-6)

            def energy(theta):
                logits = jnp.asarray(x) @ theta.reshape(3, 2).T
                return -jax.nn.log_softmax(logits)[jnp.arange(12), y].sum() + 0.35 * (theta**2).sum()

            found, hessian = jax.jit(lambda part: (part.covariance, jax.hessian(energy)(part.mean)))(parts)
            hessian = np.asarray(hessian)
            assert np.allclose(found, np.linalg.inv(hessian), atol=1e-6)
            # Predictions shrink the logits by the posterior variance of each around their mean.
            new = rng.normal(size=(5, 2))
            p = np.asarray(model.predict(local, new, jax.random.key(0)))
            centre = np.eye(3) - 1 / 3
            covariances = np.einsum("mi,ciej,mj->mce", new, np.linalg.inv(hessian).reshape(3, 2, 3, 2), new)
            variances = np.einsum("ac,mce,ae->ma", centre, covariances, centre)
            wanted = mean_field_probabilities(new @ peer.coef_.T @ centre, variances)
            assert np.allclose(p, wanted, atol=1e-6)
            # Training by predictions makes the log loss of the queries small, and learns how much variances count.
            queries = jnp.arange(5) % 3
            moved = eqx.tree_at(lambda m: m.log_spread, model, jnp.log(0.25))
            arrays = [jnp.asarray(a) for a in (x, y, new, queries)]
            found = eqx.filter_jit(moved.episode_loss)(*arrays, jax.random.key(0))
            wanted = mean_field_probabilities(new @ peer.coef_.T @ centre, variances / 4)
            assert float(found) == pytest.approx(-np.log(wanted)[range(5), queries].sum(), rel=1e-6)

    def test_student_prior_is_integrated_over_its_scale(self):
        # One weight, one point: dense numerical integration of Student prior times likelihood.
        n0, P = 4.0, 0.5
        with jax.enable_x64(True):
            model = NIWMeta(
                eqx.nn.Identity(), x_size=1, use_bias=False, n0=n0, precision=P, noise=NOISE, prior="student"
            )
            local = model.adapt(np.ones((1, 1)), np.array([[4.0]]))
            mean, variance = float(local.mean[0, 0]), float(local.variance[0, 0])
        theta = np.linspace(-60, 60, 200_001)
        weight = stats.t.pdf(theta, n0, 0.0, np.sqrt(1 / P)) * stats.norm.pdf(4.0, theta, NOISE)
        weight /= weight.sum()
        wanted = (weight * theta).sum()
        assert mean == pytest.approx(wanted, abs=0.02)
        second = (weight * theta**2).sum() - wanted**2
        assert variance == pytest.approx(second, abs=0.02)
        # The Student prior gives way to a surprising point more than the normal one.
        assert wanted > 4.0 / (1 + P * NOISE**2)

    def test_mode_shrinks_the_prior_by_the_stated_factor(self):
        plain, mode = (linear_model(n0=D + 2.0, prior=prior) for prior in ("mean", "mode"))
        variances = []
        for model in (plain, mode):
            # One support point at zero says nothing, so that the posterior is the prior.
            variances.append(float(model.adapt(np.zeros((1, D)), np.zeros((1, 1))).variance[0, 0]))
        assert variances[1] / variances[0] == pytest.approx((D + 2) / (2 * D + 4), rel=1e-4)

    def test_steps_of_gauss_newton_go_to_the_mode_of_a_network(self):
        rng = np.random.default_rng(5)
        with jax.enable_x64(True):
            x, y = jnp.asarray(rng.normal(size=(4, 1))), jnp.asarray(rng.normal(size=(4, 1)))
            likelihood = Gaussian(jnp.log(jnp.asarray(0.4)), False)

            def output(theta, x):
                return jnp.tanh(x * theta[0] + theta[1]) * theta[2]

            m0, P = jnp.array([0.8, 0.1, 0.9]), jnp.array([1.0, 2.0, 3.0])
            found = gauss_newton_posterior(output, likelihood, x, y, m0, P, 40).mean

            def energy(theta):
                return likelihood.nll(output(theta, x), y).sum() + (P * (theta - m0) ** 2).sum() / 2

            assert np.abs(jax.grad(energy)(found)).max() < 1e-6

    @settings(max_examples=15)
    @given(st.integers(0, 10_000))
    def test_order_of_the_support_does_not_matter_and_more_data_know_more(self, seed):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(6, D)), rng.normal(size=(6, 1))
        order = rng.permutation(6)
        with jax.enable_x64(True):
            model = linear_model(precision=float(rng.uniform(0.1, 10)))
            one, other, fewer = (
                [np.asarray(a)[0, 0] for a in _moments(model.adapt(*data).parts)]
                for data in ((x, y), (x[order], y[order]), (x[:5], y[:5]))
            )
        assert np.allclose(one[0], other[0], atol=1e-12)
        assert np.allclose(one[1], other[1], atol=1e-12)
        gained = np.linalg.eigvalsh(fewer[1] - one[1])
        assert gained.min() > -1e-12
        assert gained.max() > 0

    def test_a_sure_prior_stays_and_a_vague_one_yields(self, linear_tasks):
        X, y = (a[0] for a in linear_tasks)
        with jax.enable_x64(True):
            sure, vague = (linear_model(precision=p).adapt(X, y[:, None]).mean[0] for p in (1e12, 1e-9))
        assert np.allclose(sure, 0, atol=1e-9)
        assert np.allclose(vague, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-6)


class TestGradients:
    def test_without_loss_and_spread_the_slope_is_reptile(self):
        # With the middle of a sure quadratic at mbar, the divergence alone has the slope P (m0 - mbar) in m0.
        m0, P, middle = jnp.array([0.3, -1.0]), jnp.array([2.0, 2.0]), jnp.array([1.0, 1.0])

        def divergence(m0):
            # Precise data at the middle, in the frame of m0.
            return low_rank_posterior(m0, P, 1e3 * jnp.eye(2), 1e3 * (middle - m0)).divergence()

        assert np.allclose(jax.grad(divergence)(m0), P * (m0 - middle), rtol=1e-3)

    def test_memory_does_not_grow_with_the_inner_steps_where_that_of_maml_does(self):
        from uqsparse.models.meta_baselines import MAML

        network = eqx.nn.MLP(1, 1, 16, 1, key=jax.random.key(0))
        tasks = sine_line_tasks(jax.random.key(1), 4)

        def size(model):
            slope = eqx.filter_jit(eqx.filter_grad(lambda m: m.loss(tasks, jax.random.key(0))))
            return slope.lower(model).compile().compiled.memory_analysis().temp_size_in_bytes

        ours = [size(NIWMeta(network, local="ggn", inner_steps=n)) for n in (2, 16)]
        theirs = [size(MAML(network, inner_steps=n)) for n in (2, 16)]
        assert ours[1] <= 1.05 * ours[0]
        assert theirs[1] > 2 * theirs[0]


class TestTraining:
    def test_it_learns_sine_waves_and_lines(self):
        model = NIWMeta(eqx.nn.MLP(1, 16, 32, 1, key=jax.random.key(0)))

        def sampler(key, n):
            return sine_line_tasks(key, n, n_support=8, n_query=8)

        trained = model.fit(sampler, jax.random.key(1), 150, steps_per_call=50)
        tasks = sine_line_tasks(jax.random.key(2), 100, n_support=8)
        before, after = (
            float(((m.predict_tasks(tasks, jax.random.key(0)).mean - tasks.query_y) ** 2).mean())
            for m in (model, trained.model)
        )
        assert trained.converged
        assert trained.n_steps == 150
        assert after < before / 2
        assert after < 3.0

    def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(self, tmp_path):
        model, optimiser = NIWMeta(eqx.nn.Identity(), x_size=1), optax.adam(1e-2)

        def fit(n_steps, path=None):
            return model.fit(sine_line_tasks, jax.random.key(1), n_steps, optimiser=optimiser, checkpoint=path)

        path = tmp_path / "run.eqx"
        fit(4, path)
        assert np.array_equal(fit(8, path).model.log_precision, fit(8).model.log_precision)

    @pytest.mark.parametrize(
        ("local", "likelihood"),
        [("head", "categorical"), ("ggn", "gaussian"), ("ggn", "categorical"), ("sgld", "gaussian")],
    )
    def test_every_kind_gives_finite_losses_slopes_and_predictions(self, local, likelihood):
        way = 3 if likelihood == "categorical" else None
        network = eqx.nn.Linear(1, 4 if local == "head" else (way or 1), key=jax.random.key(0))
        model = NIWMeta(network, likelihood, local=local, n_way=way, x_size=1, objective="evidence", inner_steps=2)
        tasks = sine_line_tasks(jax.random.key(1), 2, n_support=3, n_query=3)
        if way:
            labels = jnp.tile(jnp.arange(3), (2, 1))
            tasks = tasks._replace(support_y=labels, query_y=labels)

        @eqx.filter_jit
        def run(model):
            value, slope = eqx.filter_value_and_grad(lambda m: m.loss(tasks, jax.random.key(0)))(model)
            local = model.learn(tasks.support_x[0], tasks.support_y[0], jax.random.key(0))
            return value, slope, model.predictive(local, tasks.query_x[0], jax.random.key(0), 5)

        value, slope, found = run(model)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
        assert np.abs(slope.log_precision).max() > 0
        if way:
            assert found.shape == (3, 3)
            assert np.allclose(found.sum(-1), 1, atol=1e-5)
        else:
            assert found.means.shape == (5, 3, 1)
            assert np.isfinite(found.log_prob(tasks.query_y[0])).all()

    def test_two_outputs_are_two_heads(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
        both = NIWMeta(eqx.nn.Identity(), x_size=2, y_size=2)
        one = NIWMeta(eqx.nn.Identity(), x_size=2)
        found = both.predict(both.adapt(x, y), x, jax.random.key(0))
        for j in range(2):
            single = one.predict(one.adapt(x, y[:, [j]]), x, jax.random.key(0))
            assert np.allclose(found.mean[:, j], single.mean[:, 0], atol=1e-5)
            assert np.allclose(found.standard_deviation[:, j], single.standard_deviation[:, 0], atol=1e-5)

    def test_whitened_curvature_of_the_softmax_is_that_of_autodiff(self):
        logits, y = jnp.array([[0.3, -1.0, 2.0]]), jnp.array([1])
        factor, residual = Categorical(3).whiten(logits, y)
        loss = lambda f: Categorical(3).nll(f[None], y)[0]  # noqa: E731
        assert np.allclose(factor[0] @ factor[0].T, jax.hessian(loss)(logits[0]), atol=1e-6)
        assert np.allclose(-factor[0] @ residual[0], jax.grad(loss)(logits[0]), atol=1e-6)


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"n0": 2.0}, "n0 must be larger than d - 1 = 3"),
            ({"n0": np.nan}, "n0 must be larger"),
            ({"local": "full"}, "local must be one of 'head', 'ggn', 'sgld'"),
            ({"prior": "map"}, "prior must be one of"),
            ({"objective": "query"}, "objective must be"),
            ({"likelihood": "poisson"}, "likelihood must be one of"),
            ({"likelihood": "categorical"}, "n_way must be an integer of at least 2"),
            ({"n_way": 3}, "n_way is for likelihood='categorical'"),
            ({"precision": 0.0}, "precision must be a positive number"),
            ({"noise": -1.0}, "noise must be a positive number"),
            ({"inner_steps": 0}, "inner_steps must be an integer of at least 1"),
            ({"n_tasks": 0}, "n_tasks must be an integer of at least 1"),
            ({"temperature": np.inf}, "temperature must be"),
            ({"local": "sgld", "prior": "student"}, "prior='student' is for"),
            ({"x_size": None}, "x_size must say"),
        ],
    )
    def test_settings_are_refused_by_name(self, settings, message):
        with pytest.raises(ValueError, match=message):
            NIWMeta(eqx.nn.Identity(), **({"x_size": 3} | settings))

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (np.zeros((0, 3)), np.zeros((0, 1)), "support_x must hold at least one point"),
            (np.zeros((2, 3)), np.zeros((3, 1)), "support_x must have shape"),
            ([[1.0, 2.0], [1.0]], np.zeros((2, 1)), "rows of one length"),
            (np.zeros((2, 3)), np.array([[0.0], [np.nan]]), "support_y must be finite"),
            (np.full((2, 3), np.inf), np.zeros((2, 1)), "support_x must be finite"),
        ],
    )
    def test_a_support_that_cannot_be_learned_from_is_refused(self, x, y, message):
        with pytest.raises(ValueError, match=message):
            NIWMeta(eqx.nn.Identity(), x_size=3).adapt(x, y)

    def test_a_class_without_a_row_and_labels_out_of_range_are_refused(self):
        model = NIWMeta(eqx.nn.Identity(), "categorical", n_way=3, x_size=1)
        with pytest.raises(ValueError, match=r"every class 0, ..., 2 in each task; none is 1"):
            model.adapt(np.zeros((3, 1)), np.array([0, 2, 2]))
        with pytest.raises(ValueError, match=r"must hold classes 0, ..., 2, got 0 to 3"):
            model.adapt(np.zeros((4, 1)), np.arange(4))
        with pytest.raises(ValueError, match="classes as integers"):
            model.adapt(np.zeros((3, 1)), np.array([0.0, 1.0, 2.0]))

    def test_a_stream_of_bad_tasks_is_refused_before_training(self):
        model = NIWMeta(eqx.nn.Identity(), x_size=1)
        good = sine_line_tasks(jax.random.key(0), 2)
        for bad, message in (
            (good._replace(query_y=good.query_y * np.nan), "query_y must be finite"),
            (good._replace(query_x=good.query_x[:, :3]), "tasks must have support_x of shape"),
            (
                good._replace(support_x=good.support_x[:, :0], support_y=good.support_y[:, :0]),
                "support and query points",
            ),
            ((1, 2), "tasks must have support_x"),
        ):
            with pytest.raises(ValueError, match=message):
                model.fit(lambda key, n, bad=bad: bad, jax.random.key(0), 3)

    def test_prediction_checks_its_inputs(self):
        model = NIWMeta(eqx.nn.Identity(), x_size=1)
        local = model.adapt(np.zeros((1, 1)), np.zeros((1, 1)))
        with pytest.raises(ValueError, match="n_samples"):
            model.predict(local, np.zeros((1, 1)), jax.random.key(0), 0)
        with pytest.raises(ValueError, match="x must be finite"):
            model.predict(local, np.full((1, 1), np.nan), jax.random.key(0))

    def test_divergence_of_training_is_reported_and_nothing_is_nan(self):
        model = NIWMeta(eqx.nn.Identity(), x_size=1)
        with pytest.warns(UserWarning, match="not finite"):
            found = model.fit(sine_line_tasks, jax.random.key(0), 60, optimiser=optax.sgd(1e20))
        assert found.stopped == "diverged"
        assert np.isfinite(found.model.prior_mean).all()
