"""An epoch uses each row once, and the loop keeps the best network whatever ends it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.nn.training import Plateau, train_epoch, train_keeping_best

SGD = optax.sgd(1.0)


class Counter(eqx.Module):
    """Its loss falls with each row in the batch, so that gradient descent counts the rows it has seen."""

    seen: jax.Array
    name: str = "not an array"


def count(network, batch, key):
    return -network.seen[batch["row"]].sum()


@eqx.filter_jit
def counted(key, batch_size, rows=None, scale=1.0):
    network = Counter(jnp.zeros(10))
    state = SGD.init(eqx.filter(network, eqx.is_inexact_array))
    data = {"row": jnp.arange(10)}
    return train_epoch(key, count, SGD, network, state, data, batch_size=batch_size, rows=rows, scale=scale)


def test_each_row_once_and_a_last_batch_that_is_not_full_left_out():
    network, _, loss = counted(jax.random.key(0), 3)
    assert sorted(network.seen.tolist()) == [0.0] + [1.0] * 9
    assert network.name == "not an array"
    assert float(loss) == 0.0  # before each step its rows had not been seen
    left_out = {int(counted(jax.random.key(seed), 3)[0].seen.argmin()) for seed in range(30)}
    assert len(left_out) > 3  # a given row stays out 30 times with probability 1e-30


def test_rows_batch_size_and_scale():
    rows = jnp.array([1, 4, 7])
    network, _, _ = counted(jax.random.key(0), 50, rows, jnp.float32(0.5))
    np.testing.assert_array_equal(network.seen, np.isin(np.arange(10), rows) * 0.5)


def test_one_epoch_is_steps_of_optax():
    """Adam on least squares, one batch: two epochs against two steps by hand."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    adam = optax.adam(0.1)

    def loss(w, batch, key):
        return ((batch[0] @ w - batch[1]) ** 2).mean()

    w = expected = jnp.zeros(2)
    state = expected_state = adam.init(w)
    for _ in range(2):
        w, state, value = train_epoch(jax.random.key(0), loss, adam, w, state, (x, y), batch_size=6)
        assert float(value) == pytest.approx(float(((x @ expected - y) ** 2).mean()), rel=1e-5)
        slope = 2 * x.T @ (x @ expected - y) / 6
        updates, expected_state = adam.update(slope, expected_state)
        expected = expected + updates
    np.testing.assert_allclose(w, expected, rtol=1e-5)


def scripted(losses, interrupt_at=None):
    """An epoch whose validation losses are given, and whose network is the number of epochs it has seen."""

    def epoch(index, network, state, scale):
        if index == interrupt_at:
            raise KeyboardInterrupt
        return network + 1, state, np.asarray(losses[index]) + 1, losses[index]

    return epoch


def run(losses, **settings):
    settings = {"validation_loss": 5.0} | settings
    interrupt_at = settings.pop("interrupt_at", None)
    return train_keeping_best(0, None, scripted(losses, interrupt_at), len(losses), **settings)


def test_best_epoch_is_kept():
    done = run([4.0, 2.0, 3.0])
    assert (done.network, done.best_epoch, done.validation_loss) == (2, 1, 2.0)
    np.testing.assert_array_equal(done.validation_losses, [4, 2, 3])
    np.testing.assert_array_equal(done.training_losses, [5, 3, 4])
    assert (done.stopped, done.converged) == ("epochs", True)


def test_start_is_kept_where_nothing_beats_it():
    done = run([6.0, 5.0, 7.0])
    assert (done.network, done.best_epoch, done.validation_loss) == (0, -1, 5.0)


def test_patience():
    done = run([4.0, 4.5, 3.0, 3.5, 3.5, 1.0], patience=2)
    assert (done.network, done.stopped, len(done.validation_losses)) == (3, "patience", 5)


def test_plateau_lowers_the_rate_after_more_than_patience_epochs():
    """Improvements below the threshold do not count; the rate does not fall below its least."""
    losses = [4.0, 4.0, 4.0, 3.9999, 4.0, 4.0, 4.0, 3.0, 3.1]
    done = run(losses, plateau=Plateau(factor=0.5, patience=1, least_scale=0.2, threshold=1e-3))
    np.testing.assert_array_equal(done.scales, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2])
    assert (run(losses).scales == 1).all()


@pytest.mark.parametrize(
    "plateau",
    [Plateau(factor=1.0), Plateau(patience=-1), Plateau(least_scale=2.0), Plateau(threshold=np.nan)],
)
def test_plateau_that_cannot_be(plateau):
    with pytest.raises(ValueError, match="plateau needs a"):
        run([4.0], plateau=plateau)


def test_interrupt_returns_the_best_so_far():
    with pytest.warns(UserWarning, match="interrupted after 3 epochs"):
        done = run([4.0, 2.0, 3.0, 1.0], interrupt_at=3)
    assert (done.network, done.best_epoch, done.stopped, done.converged) == (2, 1, "interrupted", False)
    assert len(done.training_losses) == 3
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        done = run([4.0], interrupt_at=0)
    assert (done.network, len(done.validation_losses)) == (0, 0)


def test_divergence_ends_the_training():
    with pytest.warns(UserWarning, match="not finite"):
        done = run([4.0, np.nan, 1.0])
    assert (done.network, done.stopped, done.converged, len(done.validation_losses)) == (1, "diverged", False, 2)


def test_loss_that_still_falls_is_reported():
    with pytest.warns(UserWarning, match="still falling after 2 epochs"):
        done = run([4.0, 3.0])
    assert not done.converged


def test_members_keep_their_own_best():
    losses = [np.array([4.0, 1.0, np.nan]), np.array([3.0, 2.0, np.nan]), np.array([3.5, 3.0, np.nan])]
    with pytest.warns(UserWarning, match="not finite"):
        done = train_keeping_best(
            jnp.zeros((3, 2)),
            None,
            scripted(losses),
            3,
            validation_loss=np.full(3, 5.0),
            plateau=Plateau(patience=0),
        )
    np.testing.assert_array_equal(done.network, [[2, 2], [1, 1], [0, 0]])
    np.testing.assert_array_equal(done.best_epoch, [1, 0, -1])
    np.testing.assert_array_equal(done.validation_loss, [3, 1, 5])
    np.testing.assert_array_equal(done.scales[:, :2], [[1, 1], [1, 1], [1, 0.5]])
    assert done.stopped == "diverged"


def test_progress_shows_the_loss(capsys):
    run([4.0, 2.0, 3.0], progress=True, title="a title")
    shown = capsys.readouterr().out
    assert "a title" in shown
    assert "loss 3.0000, best 2.0000" in shown
