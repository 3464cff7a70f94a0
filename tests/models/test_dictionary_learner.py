"""Dictionary learning: recovers a planted dictionary, beats where it started, and is particular about its input."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from uqsparse.kernels.penalties import CEL0, L1, MCP
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner, Moments, dictionary_step


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


def test_parts_of_a_stream_are_remembered_as_the_whole(planted):
    X = planted[0][:160]
    whole, parts, forgetful = learner().partial_fit(X), learner(), learner().partial_fit(X[:64])
    for first in (0, 64, 128):
        parts.partial_fit(X[first : first + 64])
    np.testing.assert_array_equal(parts.components_, whole.components_)
    anew = learner(dictionary_init=forgetful.components_).partial_fit(X[64:128])
    # Within 1e-15 of each other if nothing were remembered.
    assert abs(anew.components_ - forgetful.partial_fit(X[64:128]).components_).max() > 1e-4


def test_units_fit_all_batches_with_old_ones_forgotten():
    rng = np.random.default_rng(2)
    batches = [(rng.normal(size=(n, 4)) * (rng.random((n, 4)) < 0.5), rng.normal(size=(n, 3))) for n in (20, 30, 7)]
    units = rng.normal(size=(4, 3))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    moments = Moments(np.zeros((4, 4)), np.zeros((4, 3)))
    for codes, rows in batches[:2]:
        _, moments = dictionary_step(units, moments, codes, rows, 0.7)
    moved, moments = dictionary_step(units, moments, *batches[2], 0.7)
    weights = np.repeat([0.7**2, 0.7, 1.0], [20, 30, 7])
    codes, rows = (np.concatenate(each) for each in zip(*batches, strict=True))

    def error(units):
        return weights @ np.sum((rows - codes @ units) ** 2, axis=1)

    # The best direction of each unit in turn, by least squares with the length left free but for its sign.
    expected = units.copy()
    for j in range(4):
        others = rows - np.delete(codes, j, axis=1) @ np.delete(expected, j, axis=0)
        root = np.sqrt(weights)[:, None]
        best = np.linalg.lstsq(root * codes[:, [j]], root * others, rcond=None)[0][0]
        before, expected[j] = error(expected), best / np.linalg.norm(best)
        assert error(expected) <= before
    np.testing.assert_allclose(moved, expected, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-12)


def test_the_dictionary_step_has_no_scale_and_leaves_unused_units():
    rng = np.random.default_rng(3)
    units = np.eye(3)
    nothing = Moments(np.zeros((3, 3)), np.zeros((3, 3)))
    codes, rows = rng.normal(size=(7, 3)) * [1, 0, 1], rng.normal(size=(7, 3))
    moved, moments = dictionary_step(units, nothing, codes, rows, 0.0)
    np.testing.assert_array_equal(moved[1], units[1])
    assert abs(moved[0] - units[0]).max() > 0.1
    large, _ = dictionary_step(units, nothing, 1e8 * codes, 1e8 * rows, 0.0)
    np.testing.assert_allclose(large, moved, rtol=1e-9)
    # A batch without active units changes neither units that are fitted already nor what is remembered of them.
    alone = Moments(np.diag(np.diagonal(moments.codes)), moments.rows)
    fitted, _ = dictionary_step(units, alone, 0 * codes, rows, 1.0)
    again, kept = dictionary_step(fitted, alone, 0 * codes, rows, 0.5)
    np.testing.assert_allclose(again, fitted, rtol=1e-12)
    np.testing.assert_allclose(kept.rows, 0.5 * alone.rows, rtol=1e-12)


def test_a_unit_that_starts_anew_has_no_past(planted):
    X, _ = planted
    start = np.vstack([np.eye(13)[12], np.random.default_rng(1).normal(size=(15, 13)) * (np.arange(13) < 12)])
    # The first unit explains much of the first rows, and is used by no later one.
    first = np.hstack([X[:320], 10.0 * np.where(np.arange(320) % 2, 1, -1)[:, None]])
    later = np.hstack([X[:256], np.zeros((256, 1))])
    model = learner(dictionary_init=start, reseed_after=3).partial_fit(first)
    assert abs(model.components_[0, 12]) > 0.99
    model.partial_fit(later[:192])
    assert model.n_reseeded_ == 1
    assert not any(each.any() for each in (model._moments.codes[0], model._moments.codes[:, 0], model._moments.rows[0]))
    model.partial_fit(later[192:])
    # Neither it nor the others, to make up for it, turn to where it pointed.
    assert abs(model.components_[:, 12]).max() < 0.03


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
