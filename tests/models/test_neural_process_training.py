"""Training lowers the loss, resumes bit for bit, and refuses what it cannot use."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.models.neural_processes import CNP, fit, log_likelihoods

SMALL = {"width": 8, "encoder_depth": 2, "decoder_depth": 2}
KEY = jax.random.key(0)


class Tasks(NamedTuple):
    context_x: jax.Array
    context_y: jax.Array
    context_mask: jax.Array
    target_x: jax.Array
    target_y: jax.Array
    target_mask: jax.Array


@jax.jit
def lines(key):
    """Eight lines through zero, y = slope x."""
    key_slope, key_x = jax.random.split(key)
    slope = jax.random.normal(key_slope, (8, 1, 1))
    x = jax.random.uniform(key_x, (8, 7, 1), minval=-1.0)
    y = slope * x
    return Tasks(x[:, :4], y[:, :4], jnp.ones((8, 4), bool), x[:, 4:], y[:, 4:], jnp.ones((8, 3), bool))


@eqx.filter_jit  # one program for all the first weights
def built(kind, **settings):
    return kind(1, 1, **SMALL, **settings, key=jax.random.key(1))


def sampler(key, batch_size):
    return lines(key)


@pytest.fixture(scope="module")
def trained():
    model = built(CNP)
    return model, fit(model, sampler, key=KEY, n_steps=300, optimiser=ADAM)


ADAM = optax.adam(5e-3)


def test_training_learns_lines(trained):
    model, found = trained
    assert found.converged
    assert found.n_steps == 300
    tasks = lines(jax.random.key(77))
    before, after = (log_likelihoods(one, tasks, KEY).target.mean() for one in (model, found.model))
    assert after > before + 0.5
    one = found.model.predict(tasks.context_x[0], tasks.context_y[0], tasks.target_x[0], KEY)
    assert np.abs(one.mean - tasks.target_y[0]).mean() < 0.5 * np.abs(tasks.target_y[0]).mean() + 0.1


def test_checkpoints(trained, tmp_path):
    model, whole = trained
    path = tmp_path / "cnp"
    fit(model, sampler, key=KEY, n_steps=130, optimiser=ADAM, checkpoint=path)
    resumed = fit(model, sampler, key=KEY, n_steps=300, optimiser=ADAM, checkpoint=path)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    for one, two in zip(jax.tree.leaves(resumed.model), jax.tree.leaves(whole.model), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_the_default_rate_falls_over_all_steps(tmp_path):
    """A checkpoint of the default optimiser cannot be stretched, since its rate would have been another."""
    model = built(CNP)
    found = fit(model, sampler, key=KEY, n_steps=3, checkpoint=tmp_path / "cnp")
    assert np.isfinite(found.losses).all()
    with pytest.raises(ValueError, match=r"Adam for 3 steps; this one: .*Adam for 4 steps"):
        fit(model, sampler, key=KEY, n_steps=4, checkpoint=tmp_path / "cnp")


def test_bad_tasks_are_refused_before_training():
    model = built(CNP)
    with pytest.raises(ValueError, match="context_y has 32 values that are NaN or infinite"):
        fit(model, lambda key, n: lines(key)._replace(context_y=jnp.full((8, 4, 1), jnp.nan)), key=KEY, n_steps=3)
    with pytest.raises(ValueError, match=r"target_x must have shape \(8, 3, 1\), got \(8, 3, 2\)"):
        fit(model, lambda key, n: lines(key)._replace(target_x=jnp.zeros((8, 3, 2))), key=KEY, n_steps=3)
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1, got 0"):
        fit(model, sampler, key=KEY, n_steps=0)


def test_tasks_that_turn_bad_end_training_before_them():
    model = built(CNP)
    first = np.asarray(jax.random.key_data(jax.random.split(jax.random.fold_in(KEY, 20))[0]))

    def sometimes_bad(key, batch_size):
        tasks = lines(key)
        if (np.asarray(jax.random.key_data(key)) == first).all():
            return tasks._replace(target_y=tasks.target_y.at[0, 0].set(jnp.nan))
        return tasks

    with pytest.warns(UserWarning, match="not finite at step 20"):
        found = fit(model, sometimes_bad, key=KEY, n_steps=40, optimiser=ADAM)
    assert found.stopped == "diverged"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.model) if isinstance(leaf, jax.Array))
