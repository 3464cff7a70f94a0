"""The loop is Optax step by step, goes on from a checkpoint bit for bit, and never hands out a NaN."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.nn.episodic_training import train_on_episodes
from uqsparse.nn.training_checkpoints import load_checkpoint

ADAM = optax.adam(0.05)
NETWORK = {"w": jnp.array([0.3, -0.2]), "name": "not an array"}
KEY = jax.random.key(3)


@jax.jit
def draw(key):
    x = jax.random.normal(key, (4, 2))
    return x, x @ jnp.array([1.0, -2.0]) + 0.1 * jax.random.normal(jax.random.fold_in(key, 1), (4,))


def sampler(key, batch_size):
    assert batch_size == 4
    return draw(key)


def loss(network, batch, key):
    x, y = batch
    noise = 0.1 * jax.random.normal(key, y.shape)
    return ((x @ network["w"] - y - noise) ** 2).mean()


def train(n_steps, **settings):
    settings = {"batch_size": 4, **settings}
    arguments = {"key": KEY, "loss": loss, "optimiser": ADAM, "network": NETWORK, "sampler": sampler}
    arguments |= {name: settings.pop(name) for name in list(settings) if name in arguments}
    return train_on_episodes(*arguments.values(), n_steps, **settings)


def test_steps_are_those_of_optax():
    w, losses = NETWORK["w"], []
    state = ADAM.init(w)
    for i in range(30):
        key_batch, key_loss = jax.random.split(jax.random.fold_in(KEY, i))
        value, slope = jax.value_and_grad(lambda w: loss({"w": w}, draw(key_batch), key_loss))(w)  # noqa: B023
        updates, state = ADAM.update(slope, state)
        w = optax.apply_updates(w, updates)
        losses.append(float(value))
    found = train(30)
    np.testing.assert_allclose(found.model["w"], w, rtol=1e-5)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert found.model["name"] == "not an array"
    assert found.converged
    assert found.n_steps == 30
    assert found.steps_per_second > 0
    together = train(30, steps_per_call=7)
    np.testing.assert_allclose(together.model["w"], w, rtol=1e-5)
    np.testing.assert_allclose(together.losses, losses, rtol=1e-4)


@pytest.mark.parametrize("steps_per_call", [1, 7])
def test_checkpoints_go_on_bit_for_bit(tmp_path, steps_per_call):
    whole = train(70, steps_per_call=steps_per_call)
    path = tmp_path / "run"
    for n_steps in (1, 23, 70):
        settings = {"checkpoint": path, "checkpoint_every": 10, "steps_per_call": steps_per_call}
        pieces = train(n_steps, **settings)
        assert pieces.n_steps == n_steps
    assert pieces.model["w"].tobytes() == whole.model["w"].tobytes()
    np.testing.assert_array_equal(pieces.losses, whole.losses)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    finished = train(70, **settings)  # nothing is left to do
    assert finished.model["w"].tobytes() == whole.model["w"].tobytes()
    assert finished.steps_per_second is None


def test_an_interrupt_loses_nothing(tmp_path):
    calls = itertools.count()

    def interrupted(key, batch_size):
        if next(calls) == 60:  # the first call looks at the shapes
            raise KeyboardInterrupt
        return draw(key)

    path = tmp_path / "run"
    with pytest.warns(UserWarning, match="interrupted after 51 steps"):
        found = train(70, sampler=interrupted, checkpoint=path)
    assert found.stopped == "interrupted"
    assert not found.converged
    whole, resumed = train(70), train(70, checkpoint=path)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert resumed.model["w"].tobytes() == whole.model["w"].tobytes()


@pytest.mark.parametrize("steps_per_call", [1, 7])
def test_a_loss_that_is_not_finite_ends_training_before_it(steps_per_call):
    def bad_at_twelve(network, batch, key):
        w = network["w"]
        return loss(network, batch, key) + jnp.where(network["count"] > 11.5, jnp.nan, 0.0) * w.sum() - network["count"]

    # The rate is one for the counter, whose slope is -1.
    network = NETWORK | {"count": jnp.zeros(())}
    optimiser = optax.sgd(1.0)
    settings = {"loss": bad_at_twelve, "network": network, "optimiser": optimiser, "steps_per_call": steps_per_call}
    settings["loss"] = lambda network, batch, key: bad_at_twelve(network, batch, key)
    with pytest.warns(UserWarning, match="not finite at step 12"):
        found = train(40, **settings)
    assert found.stopped == "diverged"
    assert found.n_steps == 13
    assert np.isfinite(found.losses[:12]).all()
    assert np.isnan(found.losses[12])
    before = train(12, **settings)
    np.testing.assert_array_equal(found.model["w"], before.model["w"])
    assert found.model["count"] == 12


def test_a_sampler_of_numpy():
    def simulated(key, batch_size):
        rng = np.random.default_rng(int(jax.random.bits(key)))
        x = rng.normal(size=(batch_size, 2)).astype(np.float32)
        return x, x.sum(1)

    found = train(60, sampler=simulated)
    assert found.losses[-10:].mean() < 0.5 * found.losses[:10].mean()


def test_equal_runs_share_their_program():
    traced = []

    def counting(network, batch, key):
        traced.append(1)
        return loss(network, batch, key)

    train(3, loss=counting)
    n_traced = len(traced)
    train(3, loss=counting, key=jax.random.key(8))
    assert len(traced) == n_traced + 1  # once more for the shape of its result


def test_progress(capsys):
    train(3, progress=True, title="episodes")
    assert "episodes" in capsys.readouterr().out


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "run"
    train(5, checkpoint=path)
    with pytest.raises(ValueError, match=r"is of another run: key .*; this one: key"):
        train(9, checkpoint=path, key=jax.random.key(4))
    with pytest.raises(ValueError, match="is of another run"):
        train(9, checkpoint=path, settings="other settings")
    with pytest.raises(ValueError, match="at step 5, beyond n_steps = 4"):
        train(4, checkpoint=path)
    wider = {"w": jnp.zeros(3)}
    with pytest.raises(ValueError, match="is of another network or optimiser"):
        train(9, checkpoint=path, network=wider)
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"xyz")
    with pytest.raises(ValueError, match="is damaged"):
        train(9, checkpoint=path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path, "", NETWORK)


def test_bad_input_is_refused(tmp_path):
    for name in ("batch_size", "steps_per_call", "checkpoint_every"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            train(3, **{name: 0})
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1, got 0"):
        train(0)
    with pytest.raises(ValueError, match="checkpoint must be a file, got the folder"):
        train(3, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="is in a folder that does not exist"):
        train(3, checkpoint=tmp_path / "nowhere" / "run")
    with pytest.raises(ValueError, match="loss must return one real number, got"):
        train(3, loss=lambda network, batch, key: network["w"])


def test_networks_of_equinox():
    network = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0))

    def mse(network, batch, key):
        return ((jax.vmap(network)(batch[0]) - batch[1]) ** 2).mean()

    found = train(60, network=network, loss=mse)
    assert found.losses[-10:].mean() < found.losses[:10].mean()
    assert isinstance(found.model, eqx.nn.MLP)
