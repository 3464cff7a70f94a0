"""Scores of labels: against brute force and MAPIE, alike in NumPy and JAX, in any batch, and refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.bounds import MondrianConformal, PredictiveDraws, SplitConformal
from uqsparse.bounds.scores.labels import APS, LAC, RAPS, SAPS

rng = np.random.default_rng(0)
KEY = jax.random.key(5)
SCORES = {
    "LAC": LAC(),
    "APS": APS(KEY),
    "APS, u = 1": APS(randomised=False),
    "RAPS": RAPS(KEY, lam=0.3, k_reg=2),
    "RAPS, u = 1": RAPS(lam=0.3, k_reg=2, randomised=False),
    "SAPS": SAPS(KEY, lam=0.3),
    "SAPS, u = 1": SAPS(lam=0.3, randomised=False),
}
every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
# Probabilities in eighths: sums of them are exact, and ties are frequent.
eighths = st.lists(st.integers(0, 8), min_size=4, max_size=4).filter(lambda row: sum(row) > 0)


def simulated(n, k=6, temperature=1.0, seed=None):
    """Probabilities that are too sharp or too flat, and labels from the true ones."""
    g = np.random.default_rng(seed) if seed is not None else rng
    logits = 1.5 * g.normal(size=(n, k))
    probabilities = np.exp(temperature * logits)
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (true.cumsum(1) < g.random((n, 1))).sum(1).clip(0, k - 1)
    return probabilities / probabilities.sum(1, keepdims=True), y


def brute_force(name, row, y, u, lam=0.3, k_reg=2):
    """One score in plain Python: labels above y are those of larger probability, and the smaller of equal ones."""
    above = [k for k in range(len(row)) if row[k] > row[y] or (row[k] == row[y] and k < y)]
    rank = len(above) + 1
    if name == "LAC":
        return 1 - row[y]
    if name == "SAPS":
        return u * max(row) if rank == 1 else max(row) + (rank - 2 + u) * lam
    penalty = lam * max(rank - k_reg, 0) if name == "RAPS" else 0.0
    return sum(row[k] for k in above) + u * row[y] + penalty


@every_score
@settings(max_examples=30)
@given(rows=st.lists(eighths, min_size=1, max_size=5))
def test_scores_of_all_labels_are_those_of_brute_force(score, rows):
    p = np.array([np.array(row) / sum(row) for row in rows])
    name = type(score).__name__
    u = np.broadcast_to(1.0 if name == "LAC" else score.own_share(p), (len(p), 1))[:, 0]
    for y in range(4):
        expected = [brute_force(name, list(row), y, float(share)) for row, share in zip(p, u, strict=True)]
        np.testing.assert_allclose(score(p, np.full(len(p), y)), expected, rtol=0, atol=1e-14)


@every_score
@given(threshold=st.one_of(st.floats(0, 2), st.sampled_from([np.inf, -np.inf])))
@settings(max_examples=20)
def test_sets_hold_exactly_the_labels_whose_score_is_within_the_threshold(score, threshold):
    p, _ = simulated(9)
    p = np.concatenate([p, np.eye(6)[:2], np.full((1, 6), 1 / 6)])
    scores = np.stack([score(p, np.full(12, k)) for k in range(6)], axis=1)
    assert (score.region(p, threshold).member == (scores <= threshold)).all()
    assert (score.region(p, scores[:, 2]).member == (scores <= scores[:, 2:3])).all()  # ties included
    by_label = np.linspace(0, 1.5, 6)[None]
    assert (score.region(p, by_label).member == (scores <= by_label)).all()


@every_score
def test_numpy_and_jax_agree_and_so_does_every_batch(score):
    p, y = simulated(40)
    p32 = p.astype(np.float32)
    alone = np.concatenate([score(p[i : i + 1], y[i : i + 1]) for i in range(40)])
    assert (score(p, y) == alone).all()
    in_jax = jax.jit(lambda score, p, y: (score(p, y), score.region(p, 0.7).member))
    scores, member = in_jax(score, jnp.asarray(p32), jnp.asarray(y))
    np.testing.assert_allclose(scores, score(p, y), atol=1e-6)
    with jax.enable_x64(True):
        scores, member = in_jax(score, jnp.asarray(p), jnp.asarray(y))
        np.testing.assert_allclose(scores, score(p, y), rtol=0, atol=1e-15)
        assert (np.asarray(member) == score.region(p, 0.7).member).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_raps_without_a_penalty_is_aps_bit_for_bit(dtype):
    p, y = simulated(300)
    p = p.astype(dtype)
    assert RAPS(KEY, lam=0.0, k_reg=1)(p, y).tobytes() == APS(KEY)(p, y).tobytes()
    with jax.enable_x64(True):
        in_jax = jax.jit(lambda p: (RAPS(KEY, lam=0.0).of_labels(p), APS(KEY).of_labels(p)))
        penalised, plain = in_jax(jnp.asarray(p))
        assert (penalised == plain).all()


def test_the_key_decides_the_numbers():
    p, y = simulated(30)
    assert (APS(jax.random.key(5))(p, y) == APS(KEY)(p, y)).all()
    assert (APS(jax.random.key(6))(p, y) != APS(KEY)(p, y)).mean() > 0.9
    assert (APS(KEY)(p, y) < APS(randomised=False)(p, y)).all()


def test_an_empty_set_is_given_the_top_label_where_asked():
    p = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    assert LAC().region(p, 0.3).member.sum(1).tolist() == [0, 1, 0]
    filled = LAC(allow_empty=False).region(p, 0.3).member
    assert filled.tolist() == [[False, True, False], [False, False, True], [True, False, False]]
    assert (LAC(allow_empty=False).region(p, 0.55).member == LAC().region(p, 0.65).member)[:2].all()
    by_label = np.array([[0.9, 0.4, 0.9]])  # label 1 is held back, and a set that has others is not empty
    assert LAC(allow_empty=False).region(p, by_label).member[0].tolist() == [True, False, True]
    _, y = simulated(3, 3)
    assert (LAC(allow_empty=False)(p, y) == LAC()(p, y)).all()


def test_draws_of_probabilities_are_averaged():
    p, y = simulated(20)
    draws = np.stack([p, np.roll(p, 1, axis=0)])
    for score in SCORES.values():
        assert (score(PredictiveDraws.of(draws, n_outputs=6), y) == score(draws.mean(0), y)).all()


def test_coverage_of_randomised_sets_is_exact_whatever_the_model():
    """Coverage over 200 calibrations of 50 is 46/51; within 4 se, false-alarm rate 1e-4."""
    for score in (APS(KEY), RAPS(KEY), SAPS(KEY), LAC()):
        covered = np.empty(200)
        for i in range(200):
            p, y = simulated(150, temperature=0.5, seed=i)
            sets = SplitConformal(score, 0.1).calibrate(p[:50], y[:50]).predict(p[50:])
            covered[i] = sets.contains(y[50:]).mean()
        assert abs(covered.mean() - 46 / 51) < 4 * covered.std() / np.sqrt(200)


def test_aps_covers_at_the_level_given_x_where_the_probabilities_are_right():
    """Quarters by difficulty of 20000, calibrated on 5000: errors are 4 se of the coverage of 5000 by one threshold."""
    p, y = simulated(25000, seed=1)
    covered = SplitConformal(APS(KEY), 0.1).calibrate(p[:5000], y[:5000]).predict(p[5000:]).contains(y[5000:])
    for quarter in np.array_split(np.argsort(p[5000:].max(1)), 4):
        assert abs(covered[quarter].mean() - 0.9) < 4 * np.sqrt(2 * 0.09 / 5000)


def test_by_label_every_class_has_its_own_threshold():
    p, y = simulated(600)
    calibrated = MondrianConformal(APS(KEY), 0.2, by="label").calibrate(p, y)
    together: Any = calibrated.predict(p)
    for k in range(6):
        own = SplitConformal(APS(KEY), 0.2).calibrate(p[y == k], y[y == k])
        assert calibrated.threshold[k] == own.threshold
        alone: Any = own.predict(p)
        assert (together.member[:, k] == alone.member[:, k]).all()


def test_tuning_takes_the_rank_that_covers_and_the_penalty_with_the_smallest_sets():
    p, y = simulated(400, k=20, temperature=0.3)
    lams = (0.0, 0.05, 0.3, 1.0)
    tuned = RAPS.tuned(KEY, p, y, 0.1, lams=lams)
    ranks = [1 + sum(row[k] > row[label] for k in range(20)) for row, label in zip(p, y, strict=True)]
    assert tuned.k_reg == sorted(ranks)[361 - 1]  # ceil(401 x 0.9)
    sizes = [SplitConformal(RAPS(KEY, lam, tuned.k_reg), 0.1).calibrate(p, y).predict(p).size().mean() for lam in lams]
    assert lams[int(np.argmin(sizes))] == tuned.lam > 0
    assert min(sizes) < sizes[0]
    with pytest.raises(ValueError, match="8 labels, too few"):
        RAPS.tuned(KEY, p[:8], y[:8], 0.1)
    with pytest.raises(ValueError, match="lams is empty"):
        RAPS.tuned(KEY, p, y, lams=())


class Prefit:
    """A classifier whose input is its output, in the form MAPIE takes."""

    def __init__(self, k):
        self.classes_ = np.arange(k)
        self.n_features_in_ = k
        self.is_fitted_ = True

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.asarray(X).argmax(1)


@pytest.mark.parametrize("n", [30, 60, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_lac_equals_mapie(n, alpha):
    mapie = pytest.importorskip("mapie.classification")
    p, y = simulated(n + 100, seed=n)
    peer = mapie.SplitConformalClassifier(Prefit(6), confidence_level=1 - alpha, conformity_score="lac", prefit=True)
    peer.conformalize(p[:n], y[:n])
    ours: Any = SplitConformal(LAC(), alpha).calibrate(p[:n], y[:n]).predict(p[n:])
    assert (peer.predict_set(p[n:])[1][:, :, 0] == ours.member).all()


def test_aps_scores_and_sets_equal_mapies():
    """MAPIE's u is one minus ours and is drawn anew for the test points. So scores are compared with its u put back,
    and sets at its threshold with the last label left out, which is u = 1; its sets hold one label at least.
    """
    mapie = pytest.importorskip("mapie.classification")
    p, y = simulated(300, seed=4)
    peer = mapie.SplitConformalClassifier(
        Prefit(6), confidence_level=0.8, conformity_score="aps", prefit=True, random_state=0
    )
    peer.conformalize(p[:200], y[:200])
    scores = peer._mapie_classifier.conformity_scores_.ravel()
    u = np.random.RandomState(0).uniform(size=200)
    conservative = APS(randomised=False, allow_empty=False)
    np.testing.assert_allclose(conservative(p[:200], y[:200]), scores + u * p[np.arange(200), y[:200]], atol=1e-12)
    theirs = peer.predict_set(p[200:], conformity_score_params={"include_last_label": False})[1][:, :, 0]
    threshold = peer._mapie_classifier.conformity_score_function_.quantiles_[0]
    assert (conservative.region(p[200:], threshold).member == theirs).all()


@pytest.mark.parametrize(("lam", "k_reg"), [(0.0, 1), (0.01, 2), (0.5, 1)])
def test_raps_scores_equal_mapies(lam, k_reg):
    """MAPIE tunes on a part of the data by itself, so its penalised scores are asked for without the class around."""
    peer = pytest.importorskip("mapie.conformity_scores.sets.raps").RAPSConformityScore
    p, y = simulated(200, seed=4)
    through, rank = peer.get_true_label_cumsum_proba(y, p, np.arange(6))
    expected = peer._regularize_conformity_score(np.array([k_reg]), lam, through, rank)
    np.testing.assert_allclose(RAPS(lam=lam, k_reg=k_reg, randomised=False)(p, y), expected.ravel(), atol=1e-12)


def test_bad_probabilities_are_refused_by_row():
    p, y = simulated(5, 3)
    for bad, match in [
        (np.where(np.arange(5)[:, None] == 3, p + 0.01, p), "do not sum to 1 in 1 of 5 rows: 3"),
        (np.where(np.arange(5)[:, None] == 1, np.nan, p), "negative or NaN in 1 of 5 rows: 1"),
        (np.array([[-0.1, 1.1]] * 5), "negative or NaN in 5 of 5 rows: 0, 1, 2, 3, 4"),
        (p[:, 0], r"shape \(5,\)"),
        (p[None], r"shape \(1, 5, 3\)"),
        (PredictiveDraws.of(np.zeros((4, 5))), r"draws have shape \(4, 5\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            LAC()(bad, y)
        with pytest.raises(ValueError, match=match):
            LAC().region(bad, 0.5)
    with pytest.raises(TypeError, match="real numbers"):
        LAC()(p.astype(str), y)
    LAC()(p + 3e-7, y)
    LAC()((p + 1e-5).astype(np.float32), y)
    with pytest.raises(ValueError, match="do not sum to 1"):
        LAC()(p + 1e-5, y)


def test_bad_labels_and_thresholds_are_refused():
    p, _ = simulated(5, 3)
    for bad, match in [
        ([0, 1, 2, 3, 0], r"1 labels outside 0..2, such as 3 in row 3"),
        ([0, -1, 2, 0, 0], "such as -1 in row 1"),
        ([0.0, 1.0, 2.0, 0.0, 0.0], "dtype float64; expected integer labels"),
        ([True] * 5, "dtype bool"),
        ([0, 1], r"shape \(2,\); predictions are for 5"),
        ([[0]] * 5, r"shape \(5, 1\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            LAC()(p, np.array(bad))
    for shape in [(3,), (5, 2), (2, 3), (1, 5, 3)]:
        with pytest.raises(ValueError, match="threshold has shape"):
            LAC().region(p, np.zeros(shape))


def test_bad_options_are_refused():
    for cls in (APS, RAPS, SAPS):
        with pytest.raises(ValueError, match=rf"key is missing: pass {cls.__name__}\(jax.random.key\(0\)"):
            cls()
    for cls in (RAPS, SAPS):
        for lam in (-0.1, np.nan, np.inf):
            with pytest.raises(ValueError, match="lam must be at least 0"):
                cls(KEY, lam)
    with pytest.raises(ValueError, match="k_reg"):
        RAPS(KEY, k_reg=1.5)  # pyright: ignore[reportArgumentType]
