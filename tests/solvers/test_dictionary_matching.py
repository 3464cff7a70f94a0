"""Matching against all permutations, signs and scales."""

from itertools import permutations

import numpy as np
import pytest

from uqsparse.solvers.dictionary_matching import match_dictionaries


def brute_force(found, truth, sign, scale):
    """Least sum of squared relative errors over all injections, each pair at its best sign and scale."""

    def error(f, t):
        best = np.inf
        for s in (1.0, -1.0) if sign else (1.0,):
            factor = s * max(s * f @ t / (f @ f), 0.0) if scale else s
            best = min(best, np.sum((factor * f - t) ** 2) / np.sum(t**2))
        return best

    table = np.array([[error(f, t) for f in found.T] for t in truth.T])
    n_true = truth.shape[1]
    return min((sum(table[i, p[i]] for i in range(n_true)), p) for p in permutations(range(found.shape[1]), n_true))


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_least_error_over_all_pairings(sign, scale):
    rng = np.random.default_rng(3)
    for _ in range(5):
        truth, found = rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
        best, pairing = brute_force(found, truth, sign, scale)
        matching = match_dictionaries(found, truth, sign=sign, scale=scale)
        assert (matching.relative_error**2).sum() == pytest.approx(best, rel=1e-10)
        if sign or not scale:  # else several pairings are equally bad: obtuse angles all have error 1
            assert tuple(matching.assignment) == pairing
        chosen = found[:, matching.assignment]
        cosine = (chosen * truth).sum(0) / np.linalg.norm(chosen, axis=0) / np.linalg.norm(truth, axis=0)
        np.testing.assert_allclose(matching.cosine, abs(cosine) if sign else cosine, rtol=1e-10)
        np.testing.assert_allclose(
            np.linalg.norm(matching.factor * chosen - truth, axis=0) / np.linalg.norm(truth, axis=0),
            matching.relative_error,
        )


def test_a_shuffled_dictionary_matches_itself():
    rng = np.random.default_rng(0)
    truth, order = rng.normal(size=(6, 5)), rng.permutation(5)
    plain = match_dictionaries(truth[:, order], truth)
    np.testing.assert_array_equal(order[plain.assignment], np.arange(5))
    assert plain.relative_error.max() == 0
    np.testing.assert_allclose(plain.cosine, 1)
    turned = match_dictionaries(-3 * truth[:, order], truth, sign=True, scale=True)
    np.testing.assert_allclose(turned.relative_error, 0, atol=1e-12)
    np.testing.assert_allclose(turned.factor, -1 / 3)


def test_a_column_of_zeros_matches_nothing():
    matching = match_dictionaries(np.array([[1.0, 0.0], [0.0, 0.0]]), np.eye(2), sign=True, scale=True)
    np.testing.assert_array_equal(matching.cosine, [1, 0])
    np.testing.assert_array_equal(matching.relative_error, [0, 1])


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (np.eye(3), np.eye(2), "expected two"),
        (np.ones(3), np.eye(3), "expected two"),
        (np.eye(3)[:, :2], np.eye(3), "expected at least the 3"),
        (np.full((2, 2), np.nan), np.eye(2), "found has values"),
        (np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]]), "column of zeros, number 1"),
    ],
)
def test_bad_dictionaries_are_refused(found, truth, message):
    with pytest.raises(ValueError, match=message):
        match_dictionaries(found, truth)
