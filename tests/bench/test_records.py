"""What entries hand back is checked at the door."""

import numpy as np
import pytest

from uqsparse import bench
from uqsparse.bench.records import Picture


@pytest.mark.parametrize(
    ("value", "relation", "bound", "holds"),
    [
        (1, "<", 1, False),
        (1, "<=", 1, True),
        (1, "==", 1, True),
        (1, ">=", 1, True),
        (1, ">", 1, False),
        (0, "<", 1, True),
        (0, ">=", 1, False),
    ],
)
def test_relations(value, relation, bound, holds):
    assert bench.Measured(value, relation, bound, "c").holds is holds


def test_measured_refuses_nan_and_unknown_relations():
    with pytest.raises(ValueError, match=r"Measured.value is nan"):
        bench.Measured(np.nan, "<=", 1, "c")
    with pytest.raises(ValueError, match=r"Measured.bound is inf"):
        bench.Measured(0, "<=", np.inf, "c")
    with pytest.raises(ValueError, match=r"Measured.relation is '=<'"):
        bench.Measured(0, "=<", 1, "c")


def test_split_refuses_what_does_not_fit():
    X, y = np.zeros((4, 2)), np.zeros(4)
    with pytest.raises(ValueError, match=r"X_train has shape \(4, 2\) and y_train \(3,\)"):
        bench.Split(X, y[:3], X, y)
    with pytest.raises(ValueError, match="X_train has 2 columns and X_test 3"):
        bench.Split(X, y, np.zeros((4, 3)), y)
    with pytest.raises(ValueError, match=r"Split.y_test has 1 values that are NaN"):
        bench.Split(X, y, X, np.array([0, np.nan, 0, 0]))
    with pytest.raises(TypeError, match=r"Split.X_train has dtype"):
        bench.Split(X.astype(str), y, X, y)


def test_gaussian_mixture_broadcasts_and_refuses():
    mixture = bench.GaussianMixture(np.zeros((3, 5)), 2.0)
    assert mixture.sd.shape == (3, 5)
    assert bench.GaussianMixture(np.zeros(5), np.ones(5)).mean.shape == (1, 5)
    with pytest.raises(ValueError, match="standard deviations are positive"):
        bench.GaussianMixture(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"sd has shape \(4,\), which does not fit"):
        bench.GaussianMixture(np.zeros((3, 5)), np.ones(4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        bench.GaussianMixture(np.full((1, 2), np.nan), 1.0)


def test_contest_wants_enough_rounds():
    with pytest.raises(ValueError, match=r"Contest.rounds is 2"):
        bench.Contest(ours=abs, peer=abs, rounds=2)


@pytest.mark.parametrize(
    ("svg", "words"),
    [
        ("<p>text</p>", "must be one <svg> element"),
        ("<svg><rect/>", "must be one <svg> element"),
        ("<svg><script>alert(1)</script></svg>", "must stand alone, and it holds '<script'"),
        ("<svg><rect onclick='alert(1)'/></svg>", "must stand alone"),
        ("<svg><image href='a.png'/></svg>", "must stand alone"),
        ("<svg><use href='https://example.org/a.svg'/></svg>", "must stand alone, and it holds 'https:'"),
        ("<svg><rect fill='url(a.svg#b)'/></svg>", "must stand alone"),
    ],
)
def test_pictures_that_need_or_run_something_are_refused(svg, words):
    with pytest.raises(ValueError, match=words):
        Picture(svg, "a caption")


def test_pictures_belong_to_a_claim():
    drawn = Picture("<svg><rect fill='url(#own)'/><text>on one = 1</text></svg>", "a caption")
    assert bench.Measured(0, "<=", 1, "c", pictures=(drawn,)).pictures == (drawn,)
    with pytest.raises(ValueError, match="caption is empty"):
        Picture("<svg></svg>", " ")
    with pytest.raises(TypeError, match=r"Measured.pictures holds str; expected bench.records.Picture"):
        bench.Measured(0, "<=", 1, "c", pictures=("<svg></svg>",))
