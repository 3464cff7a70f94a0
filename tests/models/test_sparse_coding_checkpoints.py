"""Fits that were stopped go on where they were, and end with the same bits."""

import jax
import numpy as np
import pytest

from uqsparse.models.sparse_coding import checkpoints, estimator
from uqsparse.models.sparse_coding.bsc import BinarySparseCoding

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Killed(BaseException):
    """What no code between catches, as a signal."""


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.random((60, 3)) < 0.4) @ rng.normal(scale=4, size=(3, 5)) + rng.normal(size=(60, 5))


def coder(**settings):
    return BinarySparseCoding(
        **{"n_causes": 3, "n_candidates": 3, "gamma": 2, "n_iter": 6, "n_restarts": 2, "random_state": 0}
        | {"parameter_noise": 0.1}
        | settings
    )


@pytest.fixture(scope="module")
def whole(X):
    return coder().fit(X)


def kill_at(monkeypatch, n_saved, *, while_writing):
    """Die after so many checkpoints, in the middle of the next one or after it."""
    n = 0

    def replace(draft, path, write=checkpoints.os.replace):
        nonlocal n
        n += 1
        if n > n_saved and while_writing:
            raise Killed
        write(draft, path)
        if n == n_saved and not while_writing:
            raise Killed

    monkeypatch.setattr(checkpoints.os, "replace", replace)


@pytest.mark.parametrize(("n_saved", "while_writing"), [(1, False), (4, True), (7, False), (9, True)])
def test_a_killed_fit_goes_on_and_ends_with_the_same_bits(X, whole, tmp_path, monkeypatch, n_saved, while_writing):
    path = tmp_path / "fit.npz"
    with monkeypatch.context() as patch:
        kill_at(patch, n_saved, while_writing=while_writing)
        with pytest.raises(Killed):
            coder().fit(X, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["fit.npz"]
    iterations = []
    sweep = estimator.fit_truncated_em

    def counted(*args, on_iteration, **settings):
        def both(state):
            iterations.append(len(state.free_energy))
            on_iteration(state)

        return sweep(*args, on_iteration=both, **settings)

    monkeypatch.setattr(estimator, "fit_truncated_em", counted)
    resumed = coder().fit(X, checkpoint=path)
    # seven checkpoints a run: one an iteration and one at its end
    done = n_saved - n_saved // 7
    assert len(iterations) == 12 - done
    jax.tree.map(np.testing.assert_array_equal, resumed.restarts_, whole.restarts_)
    np.testing.assert_array_equal(resumed.dictionary_, whole.dictionary_)


def test_a_finished_checkpoint_is_the_fit(X, whole, tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    coder().fit(X, checkpoint=path)
    monkeypatch.setattr(estimator, "fit_truncated_em", None)
    again = coder().fit(X, checkpoint=path)
    assert type(again.parameters_) is type(whole.parameters_)
    jax.tree.map(np.testing.assert_array_equal, again.restarts_, whole.restarts_)
    energies = [run.final_free_energy for run in again.restarts_]
    assert energies == sorted(energies, reverse=True)
    # without random_state, the checkpoint's seed is the seed
    coder(random_state=None).fit(X, checkpoint=path)
    for settings, data, name in (
        ({"random_state": 1}, X, "random_state"),
        ({"n_iter": 7}, X, "schedule"),
        ({"gamma": 1}, X, "model"),
        ({"n_restarts": 3}, X, "n_restarts"),
        ({}, X[::-1], "data"),
        ({"dtype": "float32"}, X, "dtype"),
    ):
        with pytest.raises(ValueError, match=f"is that of another fit, with other .*{name}"):
            coder(**settings).fit(data, checkpoint=path)


def test_places_and_files_that_are_no_checkpoints_are_refused(X, tmp_path):
    (tmp_path / "text").write_text("not a checkpoint")
    np.savez(tmp_path / "other.npz", dictionary=X)
    for path, message in (
        (tmp_path / "text", "is not a checkpoint"),
        (tmp_path / "other.npz", "is not a checkpoint"),
        (tmp_path, "is a folder"),
        (tmp_path / "missing" / "fit.npz", "does not exist"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint: .*{message}"):
            coder().fit(X, checkpoint=path)
