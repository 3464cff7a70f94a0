"""Recipes for networks that estimate a probability, on small networks whose steps can be taken by hand."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from uqsparse.bounds.calibration import cape, early_stopping
from uqsparse.bounds.calibration.cape import fit_cape
from uqsparse.bounds.calibration.deep_ensembles import deep_ensemble
from uqsparse.bounds.calibration.early_stopping import fit_early_stopped
from uqsparse.bounds.calibration.empirical_targets import empirical_targets
from uqsparse.bounds.calibration.losses import focal_loss
from uqsparse.bounds.calibration.network_training import network_logits

N = 40
SGD, FAST = optax.sgd(0.5), optax.adam(0.03)
pytestmark = pytest.mark.filterwarnings("ignore:the validation loss was still falling")


def table(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 2)).astype(np.float32)
    y = (rng.uniform(size=N) < expit(2 * x[:, 0])).astype(int)
    y[:2] = 0, 1
    return x, y


X, Y = table(0)
DATA = (X, Y, *table(1))


class Mirror(eqx.Module):
    """As dropout, but exact: does something in training that it does not do in inference."""

    inference: bool = False

    def __call__(self, x, key):
        return x if self.inference else -x


class Line(eqx.Module):
    """Logistic regression, with a layer that differs between training and inference if asked for."""

    weight: jax.Array
    bias: jax.Array
    layer: eqx.Module

    def __init__(self, layer=None):
        self.weight, self.bias = jnp.array([0.7, -0.4]), jnp.array(0.1)
        self.layer = eqx.nn.Dropout(0.0) if layer is None else layer

    def __call__(self, x, *, key=None):
        return self.layer(self.weight * x, key=key).sum() + self.bias


@functools.cache
def net():
    """A small network early stopped, of which all tests that need no steps by hand start."""
    start = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(3))
    return fit_early_stopped(jax.random.key(0), start, *DATA, optimiser=FAST, n_epochs=8, batch_size=16)


def plus_one(key, x):
    return x + 1


def step_by_hand(x, targets, weight, bias, rate=0.5):
    """Gradient descent on the cross entropy, all rows at once."""
    residual = expit(x @ weight + bias) - targets
    return weight - rate * x.T @ residual / len(x), bias - rate * residual.mean()


@pytest.mark.parametrize("targets", ["kernel", "bin"])
def test_epochs_of_cape_are_steps_on_targets_and_on_labels(targets):
    """Three epochs by hand: targets from the clean rows, steps on the augmented ones; then labels; then new targets."""
    weight, bias = np.array([0.7, -0.4]), 0.1
    settings = {"n_bins": 4, "bandwidth": 0.05, "window": 9}
    done = fit_cape(
        jax.random.key(0),
        Line(),
        *DATA,
        targets=targets,
        optimiser=SGD,
        n_epochs=3,
        batch_size=N,
        augment=plus_one,
        plateau=None,
        **settings,
    )
    np.testing.assert_array_equal(done.calibrating, [True, False, True])
    losses = []
    for index in range(3):
        t = Y if index == 1 else empirical_targets(expit(X @ weight + bias), Y, targets, **settings)
        weight, bias = step_by_hand(X + 1, t, weight, bias)
        losses.append(log_loss(DATA[3], expit(DATA[2] @ weight + bias)))
    np.testing.assert_allclose(done.validation_losses, losses, rtol=1e-5)
    assert done.best_epoch == np.argmin(losses)
    assert done.validation_loss == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(("ce_epochs", "pattern"), [(0, [1, 1, 1, 1, 1]), (1, [1, 0, 1, 0, 1]), (3, [1, 0, 0, 0, 1])])
def test_which_epochs_calibrate(ce_epochs, pattern):
    done = fit_cape(jax.random.key(0), Line(), *DATA, ce_epochs=ce_epochs, optimiser=SGD, n_epochs=5, batch_size=N)
    np.testing.assert_array_equal(done.calibrating, np.array(pattern, bool))


def test_dropout_is_active_in_steps_only():
    """A step sees the mirrored inputs, and the targets and the validation loss the plain ones."""
    done = fit_cape(jax.random.key(0), Line(Mirror()), *DATA, optimiser=SGD, n_epochs=1, batch_size=N)
    weight, bias = np.array([0.7, -0.4]), 0.1
    weight, bias = step_by_hand(-X, empirical_targets(expit(X @ weight + bias), Y), weight, bias)
    assert done.validation_losses[0] == pytest.approx(log_loss(DATA[3], expit(DATA[2] @ weight + bias)), rel=1e-5)
    assert done.network.layer.inference is False


def test_best_network_comes_back_and_cape_never_loses_in_validation():
    base = net()
    again = fit_cape(jax.random.key(5), base.network, *DATA, optimiser=FAST, n_epochs=6, batch_size=16, n_bins=4)
    for done in (base, again):
        assert done.validation_loss == pytest.approx(log_loss(DATA[3], done.probability(DATA[2])), rel=1e-5)
        assert done.n_epochs == len(done.training_losses) == len(done.rate_scales) == len(done.calibrating)
        assert done.best_epoch == (-1 if done.validation_losses.min() >= 0.999999 * done.validation_loss else 0) or (
            done.validation_losses[done.best_epoch] == done.validation_loss == done.validation_losses.min()
        )
    assert again.validation_loss <= base.validation_loss
    assert not base.calibrating.any()
    np.testing.assert_allclose(expit(base.logits(X)), base.probability(X))


def test_same_key_same_network():
    one, two, other = (
        fit_early_stopped(
            jax.random.key(seed), Line(eqx.nn.Dropout(0.3)), *DATA, optimiser=FAST, n_epochs=3, batch_size=16
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.validation_losses, two.validation_losses)
    assert (one.validation_losses != other.validation_losses).all()


def test_another_loss_trains_and_cross_entropy_still_chooses():
    focal = functools.partial(focal_loss, gamma=3.0)
    done = fit_early_stopped(jax.random.key(0), Line(), *DATA, loss=focal, optimiser=SGD, n_epochs=2, batch_size=N)
    assert done.training_losses[0] == pytest.approx(float(focal(X @ [0.7, -0.4] + 0.1, jnp.asarray(Y))), rel=1e-5)
    assert done.validation_loss == pytest.approx(log_loss(DATA[3], done.probability(DATA[2])), rel=1e-5)


def test_members_that_start_alike_are_one_network():
    """All rows in one batch, so that order does not matter: each member is what a single training gives."""
    settings = {"optimiser": SGD, "n_epochs": 3, "batch_size": N}
    many = deep_ensemble(jax.random.key(0), lambda key: Line(), *DATA, n_members=3, **settings)
    one = fit_early_stopped(jax.random.key(7), Line(), *DATA, **settings)
    np.testing.assert_allclose(many.validation_losses, np.tile(one.validation_losses[:, None], 3), rtol=1e-5)
    np.testing.assert_allclose(many.probability(X), one.probability(X), rtol=1e-5)


def test_ensemble_averages_probabilities_of_each_members_best():
    def make(key):
        return eqx.nn.MLP(2, 1, 8, 1, key=key)

    done = deep_ensemble(jax.random.key(4), make, *DATA, n_members=3, optimiser=FAST, n_epochs=4, batch_size=16)
    members = done.member_probability(DATA[2])
    assert members.shape == (3, N)
    np.testing.assert_allclose(done.probability(DATA[2]), members.mean(0))
    assert np.ptp(members, axis=0).max() > 0.01
    for m in range(3):
        assert done.validation_loss[m] == pytest.approx(log_loss(DATA[3], members[m]), rel=1e-5)
        assert done.validation_loss[m] == done.validation_losses[:, m].min()


def test_interrupt_loses_nothing_finished(monkeypatch):
    real, calls = early_stopping.compiled_epoch, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(early_stopping, "compiled_epoch", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 2 epochs"):
        done = fit_cape(jax.random.key(0), Line(), *DATA, optimiser=SGD, n_epochs=5, batch_size=N)
    assert (done.stopped, done.n_epochs, done.converged) == ("interrupted", 2, False)
    np.testing.assert_array_equal(done.calibrating, [True, False])
    assert done.validation_loss == pytest.approx(log_loss(DATA[3], done.probability(DATA[2])), rel=1e-5)


def test_divergence_is_reported_and_the_network_is_finite():
    with pytest.warns(UserWarning, match="a loss was not finite"):
        done = fit_early_stopped(jax.random.key(0), Line(), *DATA, optimiser=optax.sgd(1e38), n_epochs=9, batch_size=16)
    assert done.stopped == "diverged"
    assert np.isfinite(done.logits(X)).all()


def test_progress(capsys):
    fit_cape(jax.random.key(0), Line(), *DATA, optimiser=SGD, n_epochs=3, batch_size=N, progress=True)
    assert "CaPE" in capsys.readouterr().out


NAN = np.where(np.arange(2 * N).reshape(N, 2) == 3, np.nan, X)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, NAN, "x has 1 values that are NaN or infinite"),
        (2, NAN, "x_validation has 1 values that are NaN or infinite"),
        (0, X[:0], r"x has shape \(0, 2\)"),
        (0, X[:, :1], "rows of x and x_validation differ"),
        (1, Y[:-1], "y: .*shape"),
        (1, Y + 1, "y: .*0 and 1 only"),
        (1, np.where(Y == 1, np.nan, 0.0), "y: .*0 and 1 only"),
        (1, np.ones(N), "y: .*both classes"),
        (3, np.zeros(N), "y_validation: .*both classes"),
    ],
)
@pytest.mark.parametrize("fit", [fit_cape, fit_early_stopped, deep_ensemble])
def test_bad_data(fit, place, value, message):
    data = list(DATA)
    data[place] = value
    with pytest.raises(ValueError, match=message):
        fit(jax.random.key(0), Line(), *data)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"ce_epochs": -1}, "ce_epochs must be an integer of at least 0, got -1"),
        ({"targets": "bins"}, "targets must be 'kernel' or 'bin', got 'bins'"),
        ({"targets": "bin", "n_bins": 41}, "n_bins must be at most the number of rows, 40, got 41"),
        ({"bandwidth": 0.0}, "bandwidth must be positive and finite, got 0.0"),
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        fit_cape(jax.random.key(0), Line(), *DATA, **setting)


def test_bad_networks():
    two = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    broken = eqx.tree_at(lambda line: line.bias, Line(), jnp.nan)
    for fit in (fit_cape, fit_early_stopped):
        with pytest.raises(ValueError, match="network must map one row to one real logit, got"):
            fit(jax.random.key(0), two, *DATA)
        with pytest.raises(ValueError, match="logits must be finite"):
            fit(jax.random.key(0), broken, *DATA)
        with pytest.raises(TypeError, match="network must be callable on one row, got int"):
            fit(jax.random.key(0), 3, *DATA)
    with pytest.raises(ValueError, match="network must map one row"):
        deep_ensemble(jax.random.key(0), lambda key: two, *DATA)
    with pytest.raises(ValueError, match="40 logits that are NaN or infinite"):
        network_logits(broken, X)
    with pytest.raises(ValueError, match="n_members must be an integer of at least 1, got 0"):
        deep_ensemble(jax.random.key(0), lambda key: Line(), *DATA, n_members=0)
    with pytest.raises(TypeError, match="x has dtype"):
        fit_cape(jax.random.key(0), Line(), X.astype(str), *DATA[1:])


def test_default_optimiser_is_one_object():
    """Programs compiled for it are found again."""
    assert cape.adam(1e-3) is cape.adam(1e-3)
