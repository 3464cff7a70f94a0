"""Dictionary learning: recovers a planted dictionary, beats where it started, and is particular about its input."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from uqsparse.kernels.penalties import CEL0, L1, MCP
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner, dictionary_step


@pytest.fixture(scope="module")
def planted():
    """512 signals of 2 active units among 16, in 12 dimensions, with little noise."""
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(12, 16))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.zeros((512, 16))
    for row in codes:
        row[rng.choice(16, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(1, 2, 2)
    return codes @ dictionary.T + 0.02 * rng.normal(size=(512, 12)), dictionary


def learner(penalty="cel0", strength=0.2, **options):
    settings = {"max_iter": 3, "tol": None, "batch_size": 64, "random_state": 0}
    return DictionaryLearner(16, penalty, strength, **(settings | options))


@pytest.fixture(scope="module")
def fitted(planted):
    return learner(max_iter=40).fit(planted[0])


def test_it_finds_the_planted_dictionary(planted, fitted):
    X, dictionary = planted
    likeness = abs(dictionary.T @ fitted.dictionary_).max(axis=1)
    # 16 random directions reach about 0.7.
    assert np.mean(likeness > 0.98) >= 0.75
    assert fitted.score(X) > 0.9
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, rtol=1e-12)
    assert len(fitted.objective_trace_) == fitted.n_steps_ == 40 * 8
    assert fitted.n_iter_ == 40
    assert fitted.objective_trace_[-8:].mean() < 0.5 * fitted.objective_trace_[:8].mean()
    assert fitted.active_fraction_trace_[-1] == pytest.approx(2 / 16, abs=0.06)


def test_transform_and_back(planted, fitted):
    X, _ = planted
    codes = fitted.transform(X[:64])
    assert codes.shape == (64, 16)
    assert (codes == 0).mean() > 0.7
    np.testing.assert_array_equal(fitted.inverse_transform(codes), codes @ fitted.components_)
    error = np.sum((X[:64] - codes @ fitted.components_) ** 2)
    assert fitted.score(X[:64]) == pytest.approx(1 - error / np.sum(X[:64] ** 2), rel=1e-12)
    assert list(fitted.get_feature_names_out())[:1] == ["dictionarylearner0"]
    assert not fitted.transform(np.zeros((64, 12))).any()
    assert fitted.score(np.zeros((64, 12))) == 1.0
    with pytest.raises(ValueError, match=r"codes has shape \(2, 3\); expected \(n, 16\)"):
        fitted.inverse_transform(np.ones((2, 3)))


def test_l1_reaches_scikit_learns_objective(planted):
    X, _ = planted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = learner("l1", 0.2, max_iter=30).fit(X)
        peer = DictionaryLearning(16, alpha=0.2, fit_algorithm="cd", max_iter=60, random_state=0).fit(X)

    def objective(components, codes):
        return (0.5 * np.sum((X - codes @ components) ** 2) + 0.2 * abs(codes).sum()) / len(X)

    peer.set_params(transform_algorithm="lasso_cd", transform_alpha=0.2)
    reached = objective(ours.components_, ours.transform(X))
    assert reached <= 1.05 * objective(peer.components_, peer.transform(X))


def test_the_same_seed_gives_the_same_answer(planted):
    X = planted[0][:128]
    first, second, other = (learner(random_state=seed).fit(X).components_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert abs(first - other).max() > 0.1


def test_partial_fit_goes_on_and_a_fit_starts_anew(planted):
    X = planted[0][:128]
    model = learner()
    for first in (0, 64):
        model.partial_fit(X[first : first + 64])
    assert model.n_steps_ == model.n_iter_ == 2
    assert model.converged_ is None
    begun = model.components_
    model.partial_fit(X[:64])
    assert 0 < abs(model.components_ - begun).max() < 1
    assert model.n_steps_ == 3
    assert model.fit(X).n_steps_ == 6


def test_the_strength_moves_to_an_active_target(planted):
    X, _ = planted
    for penalty, target in (("l1", 0.25), (CEL0(0.05), 3)):
        model = learner(penalty, active_target=target, max_iter=15).fit(X)
        share = target if target < 1 else target / 16
        assert np.mean(model.transform(X) != 0) == pytest.approx(share, rel=0.25)
        assert model.strength_ == model.penalty_.lambda_ != 0.05


def test_codes_that_are_all_zero_divide_by_nothing(planted):
    X = planted[0][:128]
    model = learner(strength=1e6, reseed_after=4)
    with pytest.warns(UserWarning, match="no unit is active: the strength 1e.06 is too large"):
        model.fit(X)
    assert np.isfinite(model.components_).all()
    # Six batches: all units started anew once, from rows.
    assert model.n_reseeded_ == 16
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(abs(model.components_ @ unit.T).max(axis=1), 1, rtol=1e-12)
    assert not model.transform(X[:64]).any()


def test_a_strength_of_zero_is_least_squares_without_nan(planted):
    model = learner("l1", 0.0, max_iter=1).fit(planted[0][:64])
    assert np.isfinite(model.components_).all()
    assert model.score(planted[0][:64]) > 0.99


def test_an_unused_unit_starts_anew(planted):
    X, _ = planted
    start = np.random.default_rng(1).normal(size=(16, 12))
    X = np.hstack([X, np.zeros((512, 1))])
    start = np.hstack([start, np.zeros((16, 1))])
    start[5] = np.eye(13)[12]  # points where no signal goes
    kept = learner(dictionary_init=start, reseed_after=None).fit(X)
    assert kept.components_[5, 12] == 1
    moved = learner(dictionary_init=start, reseed_after=10).fit(X)
    assert moved.components_[5, 12] == 0
    assert moved.n_reseeded_ >= 1


def test_zero_rows_are_left_out(planted):
    X = planted[0][:64]
    with_zeros = np.vstack([X, np.zeros((10, 12))])
    model, same = learner().fit(with_zeros), learner().fit(X)
    assert model.n_dropped_ == 10
    np.testing.assert_array_equal(model.components_, same.components_)


def test_the_dictionary_step_has_no_scale_and_halves_the_way_to_least_squares():
    rng = np.random.default_rng(2)
    components = np.eye(3)[:1]
    codes, target = rng.normal(size=(50, 1)), np.array([[0.8, 0.6, 0.0]])
    left = codes @ target - codes @ components
    moved = dictionary_step(components, left, codes)
    # One unit: the damping is 0.1 of its own energy.
    way = components + 0.5 / 1.1 * (target - components)
    np.testing.assert_allclose(moved, way / np.linalg.norm(way), rtol=1e-12)
    np.testing.assert_allclose(dictionary_step(components, 1e8 * left, 1e8 * codes), moved, rtol=1e-9)


def test_it_is_a_scikit_learn_estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(DictionaryLearner(3, max_iter=2, tol=None, code_max_iter=200))


def test_convergence_is_reported(planted):
    with pytest.warns(ConvergenceWarning, match="not converged in max_iter=1 passes"):
        assert learner(tol=1e-3, max_iter=1).fit(planted[0][:64]).converged_ is False
    assert learner(tol=0.5, max_iter=10).fit(planted[0][:64]).converged_ is True
    assert learner(max_iter=1).fit(planted[0][:64]).converged_ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "lambda_ of CEL0 must be nonnegative"),
        ({"strength": float("nan")}, "lambda_ of CEL0 must be nonnegative"),
        ({"penalty": "l3"}, "penalty must be one of"),
        ({"penalty": L1(np.ones(16))}, "penalty must have one strength for all units"),
        ({"penalty": MCP(0.1, 1e-3)}, "gamma must be larger than step"),
        ({"max_iter": 0}, "max_iter must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"code_max_iter": 0}, "code_max_iter must be an integer"),
        ({"reseed_after": 0}, "reseed_after must be an integer"),
        ({"fit_tolerance": 0.0}, "fit_tolerance must be a positive number"),
        ({"transform_tolerance": -1.0}, "transform_tolerance must be a positive number"),
        ({"tol": 0.0}, "tol must lie strictly between 0 and 1"),
        ({"active_target": 16}, r"active_target must be a share in \(0, 1\) or a count in \[1, 16\)"),
        ({"dictionary_init": np.zeros((16, 12))}, "dictionary_init must be finite, without zero rows"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        learner(**options).fit(np.ones((4, 12)))


def test_refusals_of_data():
    with pytest.raises(ValueError, match="n_components must be an integer of at least 1"):
        DictionaryLearner(0).fit(np.ones((4, 12)))
    with pytest.raises(ValueError, match="X is zero"):
        learner().fit(np.zeros((4, 12)))
    with pytest.raises(ValueError, match="NaN"):
        learner().fit(np.full((4, 12), np.nan))
    with pytest.raises(TypeError, match="penalty must be a name or a record"):
        learner(penalty=3).fit(np.ones((4, 12)))
