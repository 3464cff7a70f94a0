"""MAML, Reptile, prototypes and fine-tuning against finite differences, explicit loops and scikit-learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.neighbors import NearestCentroid

from uqsparse.data.few_shot_tasks import classification_tasks, sine_line_tasks
from uqsparse.models.few_shot_learner import clipped_adam
from uqsparse.models.meta_baselines import MAML, FineTune, ProtoNet, Reptile

RATE, STEPS = 0.05, 3


def line(**kw):
    """A straight line, so that formulas can be written down."""
    return eqx.nn.Linear(1, 1, key=jax.random.key(0), **kw)


def mean_squared_steps(w, b, x, y):
    """The gradient steps on the mean squared error, written out in NumPy."""
    for _ in range(STEPS):
        missed = w * x + b - y
        w, b = w - RATE * 2 * np.mean(missed * x), b - RATE * 2 * np.mean(missed)
    return w, b


@pytest.fixture(scope="module")
def episode():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 1)) for n in (6, 6, 4, 4)]


def query_loss(w, b, episode):
    """Negative log density of the queries after the steps, with unit noise."""
    x, y, query_x, query_y = episode
    w, b = mean_squared_steps(w, b, x, y)
    return np.sum((w * query_x + b - query_y) ** 2) / 2 + len(query_x) * np.log(2 * np.pi) / 2


def slope_of(model, episode):
    episode = [jnp.asarray(a) for a in episode]
    found = eqx.filter_grad(lambda m: m.episode_loss(*episode, jax.random.key(0)))(model)
    return float(found.network.weight[0, 0]), float(found.network.bias[0])


def start_of(model):
    return float(model.network.weight[0, 0]), float(model.network.bias[0])


def test_maml_has_the_slope_of_the_loss_after_the_steps(episode):
    with jax.enable_x64(True):
        model = MAML(line(dtype=float), inner_steps=STEPS, inner_rate=RATE)
        w, b = start_of(model)
        found, h = slope_of(model, episode), 1e-5
    wanted = [
        (query_loss(w + h * i, b + h * j, episode) - query_loss(w - h * i, b - h * j, episode)) / (2 * h)
        for i, j in ((1, 0), (0, 1))
    ]
    assert np.allclose(found, wanted, rtol=1e-6)


def test_first_order_maml_has_the_slope_at_the_point_after_the_steps(episode):
    with jax.enable_x64(True):
        model = MAML(line(dtype=float), inner_steps=STEPS, inner_rate=RATE, first_order=True)
        found = slope_of(model, episode)
        w, b = mean_squared_steps(*start_of(model), episode[0], episode[1])
    missed = w * episode[2] + b - episode[3]
    assert np.allclose(found, [np.sum(missed * episode[2]), np.sum(missed)], rtol=1e-9)


def test_reptile_has_the_slope_of_start_less_end(episode):
    with jax.enable_x64(True):
        model = Reptile(line(dtype=float), inner_steps=STEPS, inner_rate=RATE)
        found, (w, b) = slope_of(model, episode), start_of(model)
        x, y = np.concatenate(episode[::2]), np.concatenate(episode[1::2])
        end = mean_squared_steps(w, b, x, y)
    assert np.allclose(found, [w - end[0], b - end[1]], rtol=1e-9)


def test_fine_tuning_has_the_slope_of_all_points_and_takes_no_step(episode):
    with jax.enable_x64(True):
        model = FineTune(line(dtype=float), inner_steps=STEPS, inner_rate=RATE)
        found, (w, b) = slope_of(model, episode), start_of(model)
    x, y = np.concatenate(episode[::2]), np.concatenate(episode[1::2])
    assert np.allclose(found, [np.sum((w * x + b - y) * x), np.sum(w * x + b - y)], rtol=1e-9)


@pytest.mark.parametrize("kind", [MAML, Reptile, FineTune])
def test_adaptation_takes_the_steps_and_the_width_is_the_noise(kind, episode):
    with jax.enable_x64(True):
        model = kind(line(dtype=float), inner_steps=STEPS, inner_rate=RATE, noise=0.3)
        x, y, new, _ = episode
        found = model.predict(model.adapt(x, y), new, jax.random.key(0))
        w, b = mean_squared_steps(*start_of(model), x, y)
        assert found.means.shape == (1, 4, 1)
        assert np.allclose(found.mean, w * new + b)
        assert np.allclose(found.standard_deviation, 0.3)


def test_prototypes_are_nearest_centroids_and_probabilities_those_of_their_distances():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 2)), np.r_[0, 1, 2, 0, 1, 2, 0, 0, 1]
    model = ProtoNet(eqx.nn.Identity(), 3, temperature=0.7)
    local = model.adapt(x, y)
    peer = NearestCentroid().fit(x, y)
    assert np.allclose(local, peer.centroids_, atol=1e-6)
    new = rng.normal(size=(20, 2))
    p = np.asarray(model.predict(local, new, jax.random.key(0)))
    assert np.array_equal(p.argmax(1), peer.predict(new))
    logits = -((new[:, None] - peer.centroids_) ** 2).sum(-1) / 0.7
    assert np.allclose(p, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("name", ["MAML", "ProtoNet"])
def test_training_lowers_the_loss_of_classes(name):
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 30)
    features = 2.0 * rng.normal(size=(5, 3))[labels] + rng.normal(size=(150, 3))
    network = eqx.nn.MLP(3, 3, 8, 1, key=jax.random.key(0))
    maml = MAML(network, "categorical", n_way=3, inner_rate=0.3)
    model = maml if name == "MAML" else ProtoNet(network, 3)

    def sampler(key, n):
        return classification_tasks(key, features, labels, n, n_way=3, n_shot=3, n_query=4)

    trained = model.fit(sampler, jax.random.key(1), 60, batch_size=8, optimiser=optax.adam(1e-2))
    tasks = sampler(jax.random.key(2), 50)
    p = np.asarray(trained.model.predict_tasks(tasks, jax.random.key(0)))
    assert p.shape == (50, 12, 3)
    assert np.allclose(p.sum(-1), 1, atol=1e-5)
    assert np.mean(p.argmax(-1) == tasks.query_y) > 0.75


def test_temperatures_have_ten_times_the_rate():
    # Adam's first step is the rate, whatever the slope.
    optimiser = clipped_adam(0.01, 100)
    model = eqx.filter(ProtoNet(line(), 2), eqx.is_inexact_array)
    steps, _ = optimiser.update(jax.tree.map(jnp.ones_like, model), optimiser.init(model))
    assert float(steps.log_temperature) == pytest.approx(-0.1, rel=1e-3)
    assert np.allclose(steps.network.weight, -0.01, rtol=1e-3)


def test_a_rate_that_is_too_large_is_reported_and_nothing_is_nan():
    model = MAML(eqx.nn.MLP(1, 1, 8, 1, key=jax.random.key(0)), inner_rate=5.0, inner_steps=20)
    with pytest.warns(UserWarning, match="not finite"):
        found = model.fit(sine_line_tasks, jax.random.key(0), 3)
    assert found.stopped == "diverged"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(found.model, eqx.is_array)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAML(line(), inner_steps=0), "inner_steps must be an integer of at least 1"),
        (lambda: MAML(line(), inner_rate=0.0), "inner_rate must be a positive number"),
        (lambda: Reptile(line(), noise=np.nan), "noise must be a positive number"),
        (lambda: MAML(line(), "categorical"), "n_way must be an integer of at least 2"),
        (lambda: ProtoNet(line(), 1), "n_way must be an integer of at least 2"),
        (lambda: ProtoNet(line(), 3, temperature=-1.0), "temperature must be a positive number"),
    ],
)
def test_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_support_and_a_missing_class_are_refused():
    with pytest.raises(ValueError, match="at least one point"):
        MAML(line()).adapt(np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(ValueError, match="every class"):
        ProtoNet(line(), 2).adapt(np.zeros((2, 1)), np.array([1, 1]))
