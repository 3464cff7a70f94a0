"""The built-in tasks and methods do what they say, apart from how well they score."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

from uqsparse import bench, data
from uqsparse.bench.entries import (
    bayesian_classification,
    bayesian_regression,
    deep_ensemble,
    few_shot_methods,
    few_shot_tasks,
    martingale_methods,
    sklearn_baselines,
    tasks,
)

QUICK = bench.Context(seed=3, quick=True)


@pytest.mark.parametrize("task", [tasks.diabetes, tasks.heteroscedastic, tasks.breast_cancer, tasks.digits])
def test_task_splits_without_leaking(task):
    split, again = task(QUICK), task(QUICK)
    assert np.array_equal(split.X_train, again.X_train)
    assert np.array_equal(split.y_test, again.y_test)
    rows = {row.tobytes() for row in np.c_[split.X_train, split.y_train]}
    assert not rows & {row.tobytes() for row in np.c_[split.X_test, split.y_test]}
    assert split.source
    assert split.licence


def test_bends_are_round_and_have_no_straight_part():
    x = np.random.default_rng(0).normal(size=(200, 1))
    bends, at_knots = bayesian_regression._bends(x, x[:5], n_knots=8, degree=3)
    np.testing.assert_allclose(np.cov(bends.T), np.eye(bends.shape[1]), atol=1e-8)
    np.testing.assert_allclose(LinearRegression().fit(x, bends).predict(x), 0, atol=1e-8)
    np.testing.assert_allclose(at_knots, bends[:5], atol=1e-10)


def test_inputs_with_few_values_get_no_bends():
    rng = np.random.default_rng(0)
    inputs = np.c_[rng.normal(size=50), rng.integers(2, size=50)]
    problem = bayesian_regression._standardise(inputs, rng.normal(size=50), inputs[:3])
    one = bayesian_regression._bends(problem.linear[:, [0]], problem.linear_test[:, [0]], n_knots=3, degree=2)
    np.testing.assert_allclose(problem.bends, one[0])
    np.testing.assert_allclose(problem.bends_test, one[1])


@pytest.mark.slow
def test_both_samplers_of_the_regression_agree_with_the_truth_and_each_other():
    table = data.heteroscedastic_regression(seed=0, n=150)
    x = np.linspace(0.1, 0.9, 9)
    predictions = [
        method(QUICK, table.X, table.y, x[:, None])
        for method in (bayesian_regression.nuts_regression, bayesian_regression.tempered_smc_regression)
    ]
    # 150 rows settle the mean curve to about 0.3 and the noise to about a third of itself; both limits are
    # twice that.
    for prediction in predictions:
        np.testing.assert_allclose(prediction.mean.mean(axis=0), 2 * np.sin(2 * np.pi * x), atol=0.7)
        np.testing.assert_allclose(prediction.sd.mean(axis=0), 0.5 + x, rtol=0.7)
    by_nuts, by_smc = predictions
    np.testing.assert_allclose(by_nuts.mean.mean(axis=0), by_smc.mean.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(by_nuts.sd.mean(axis=0), by_smc.sd.mean(axis=0), rtol=0.15)


def test_probabilities_average_the_draws():
    features = np.array([[1.0, 2.0], [0.0, -1.0]])
    level = np.array([[0.0, 0.0], [0.5, -0.5]])
    weights = np.array([np.zeros((2, 2)), [[1.0, -1.0], [0.0, 0.0]]])
    found = bayesian_classification._predict(features, level, weights)
    # With two classes the softmax is a sigmoid of the difference of the logits.
    expected = (0.5 + expit(np.array([3.0, 1.0]))) / 2
    np.testing.assert_allclose(found, np.c_[expected, 1 - expected])


def test_few_inputs_are_kept_and_many_are_reduced_by_what_training_saw():
    rng = np.random.default_rng(0)
    few, _ = bayesian_classification._features(rng.normal(2.0, 5.0, size=(40, 3)), rng.normal(size=(4, 3)))
    np.testing.assert_allclose(few.std(axis=0), 1)
    inputs = rng.normal(size=(100, 50)) * np.arange(50)
    many, test = bayesian_classification._features(inputs, inputs[:7])
    assert many.shape == (100, bayesian_classification.N_COMPONENTS)
    assert np.all(np.diff(many.std(axis=0)) < 0)
    np.testing.assert_allclose(test, many[:7])


def test_gaussian_loss_is_a_negative_log_density():
    output, y = jnp.array([[0.3, -1.0], [2.0, 0.5]]), jnp.array([0.0, 3.0])
    mean, sd = deep_ensemble.gaussian_head(output)
    expected = -norm.logpdf(y, mean, sd) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(deep_ensemble.gaussian_loss(output, y), expected, rtol=1e-5)


def test_member_keeps_its_best_epoch():
    # Labels are noise: training on for long overfits, and the held-out loss of the last epoch is far from the
    # best.
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(60, 5)), jnp.float32), jnp.asarray(rng.integers(2, size=60))
    key = jax.random.key(0)
    held_out = jax.random.permutation(jax.random.split(key, 3)[0], 60)[:12]
    train = eqx.filter_jit(deep_ensemble._train_member)

    def held_out_loss(n_epochs):
        plan = deep_ensemble._Plan(n_epochs=n_epochs, batch_size=16, learning_rate=1e-2)
        member = train(key, x, y, 2, deep_ensemble.softmax_loss, plan)
        return float(deep_ensemble.softmax_loss(jax.vmap(member)(x[held_out]), y[held_out]).mean())

    assert held_out_loss(60) < 1.0


def test_ensemble_learns_noise_that_depends_on_x():
    table = data.heteroscedastic_regression(seed=1, n=400)
    prediction = deep_ensemble.deep_ensemble_regression(QUICK, table.X, table.y, np.array([[0.1], [0.9]]))
    assert prediction.mean.shape == (deep_ensemble.N_MEMBERS, 2)
    low, high = prediction.sd.mean(axis=0)
    assert high > 1.4 * low
    assert not np.allclose(prediction.mean[0], prediction.mean[1])


@pytest.mark.parametrize("method", [sklearn_baselines.logistic_regression, deep_ensemble.deep_ensemble_classification])
def test_classifiers_give_probabilities_better_than_chance(method):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 2))
    labels = (inputs[:, 0] > 0).astype(int) + (inputs[:, 1] > 1)
    probabilities = method(QUICK, inputs[:150], labels[:150], inputs[150:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert -np.log(probabilities[np.arange(50), labels[150:]]).mean() < 0.6


def test_gaussian_process_knows_the_noise_of_a_line():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 1))
    y = 3.0 + 2.0 * x[:, 0] + 0.5 * rng.normal(size=150)
    prediction = sklearn_baselines.gaussian_process(QUICK, x, y, np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(prediction.mean[0], [1.0, 5.0], atol=0.3)
    np.testing.assert_allclose(prediction.sd[0], 0.5, rtol=0.3)


@pytest.mark.parametrize("task", [few_shot_tasks.sines_and_lines, few_shot_tasks.new_digits])
def test_few_shot_tasks_are_new_and_of_the_kind_that_is_drawn(task):
    episodes, again = task(QUICK), task(QUICK)
    assert np.array_equal(episodes.test.query_x, again.test.query_x)
    drawn = episodes.sample(jax.random.key(0), 50)
    assert drawn.support_x.shape[1:] == episodes.test.support_x.shape[1:]
    inputs = [np.concatenate([tasks.support_x, tasks.query_x], axis=1) for tasks in (drawn, episodes.test)]
    if inputs[0].shape[-1] == 1:  # single numbers do come again
        inputs = [x[:, None, :, 0] for x in inputs]
    trained, tested = ({row.tobytes() for one in x for row in one} for x in inputs)
    assert not trained & tested
    assert episodes.source


def test_a_neural_process_predicts_in_the_units_of_the_targets(monkeypatch):
    """Two steps of training: what counts is that predictions scale with the targets, and stand where the queries do."""
    monkeypatch.setattr(few_shot_methods, "_steps", lambda context, full: 2)
    tasks = few_shot_tasks.sines_and_lines(QUICK).test
    inputs = [np.asarray(a[:3]) for a in (tasks.support_x, tasks.support_y, tasks.query_x)]

    def sample(key, n, unit=1.0):
        drawn = data.sine_line_tasks(key, n, n_support=10, n_query=20)
        return drawn._replace(support_y=unit * drawn.support_y, query_y=unit * drawn.query_y)

    one = few_shot_methods.cnp_regression(QUICK, sample, *inputs)
    assert one.mean.shape == (1, 60)
    inputs[1] = 8 * inputs[1]
    eight = few_shot_methods.cnp_regression(QUICK, lambda key, n: sample(key, n, 8.0), *inputs)
    np.testing.assert_allclose(eight.mean, 8 * one.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(eight.sd, 8 * one.sd, rtol=1e-3)


def test_a_bootstrapped_line_is_least_squares_on_average():
    """200 draws: their mean is that of the estimator within five standard errors."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    y = 1.0 + X @ [2.0, -1.0] + 0.5 * rng.normal(size=300)
    at = np.vstack([np.zeros(2), np.eye(2)])
    found = martingale_methods.bootstrapped_line(QUICK, X, y, at)
    plain = LinearRegression().fit(X, y)
    error = found.mean.std(axis=0) / np.sqrt(len(found.mean))
    np.testing.assert_array_less(abs(found.mean.mean(axis=0) - plain.predict(at)), 5 * error + 0.002)
    # The spread of the estimator itself: sandwich standard errors.
    design = np.column_stack([np.ones(300), X])
    bread = np.linalg.inv(design.T @ design)
    residuals = y - plain.predict(X)
    sandwich = bread @ (design.T * residuals**2) @ design @ bread
    np.testing.assert_allclose(found.mean[:, 0].std(), np.sqrt(sandwich[0, 0]), rtol=0.25)
