"""The generators of ordered outcomes have the truth they state."""

import numpy as np
import pytest

from uqsparse.data.ordinal_draws import dense_differences, sparse_differences


@pytest.mark.parametrize("generate", [sparse_differences, dense_differences])
def test_draws_are_reproducible_and_hold_every_class(generate):
    draw, again, other = generate(3), generate(3), generate(4)
    np.testing.assert_array_equal(draw.y, again.y)
    assert not np.array_equal(draw.X, other.X)
    assert draw.X.shape == (2500, 10)
    assert abs(draw.X).max() <= 1
    assert set(np.unique(draw.y)) == {0, 1, 2, 3}
    assert draw.probabilities.min() > 0
    np.testing.assert_allclose(draw.probabilities.sum(1), 1)
    # The last class by the model's definition, not by differencing.
    rare = 1 / (1 + np.exp(draw.intercepts[-1] + draw.X @ draw.coefs[-1]))
    np.testing.assert_allclose(draw.probabilities[:, -1], rare, rtol=1e-9)


def test_classes_follow_their_probabilities():
    draw = sparse_differences(seed=0, n=200_000, p=2, intercepts=(-1.0, 1.0, 3.0))
    observed = np.eye(4)[draw.y]
    # Means of x_j (1{y = k} - p_k): 12 z-scores, each beyond 4.9 with probability 1e-6.
    for weight in (np.ones(len(draw.X)), draw.X[:, 0], draw.X[:, 1]):
        excess = weight[:, None] * (observed - draw.probabilities)
        z = excess.sum(0) / np.sqrt((weight[:, None] ** 2 * draw.probabilities * (1 - draw.probabilities)).sum(0))
        assert abs(z).max() < 4.9


def test_differences_are_what_their_names_say():
    sparse = sparse_differences(0, n=2500, p=50, intercepts=(-2.0, 12.0), share=1 / 3)
    assert set(np.unique(sparse.coefs[0])) == {0.0, 0.5}
    assert set(np.unique(np.diff(sparse.coefs, axis=0))) == {-0.5, 0.0, 0.5}
    dense = dense_differences(0)
    assert abs(dense.coefs[0]).max() <= 0.5
    assert abs(np.diff(dense.coefs, axis=0)).max() <= 0.5
    assert len(np.unique(dense.coefs)) == 30


def test_draws_with_negative_probabilities_are_thrown_away():
    draws = [sparse_differences(seed, intercepts=(0.0, 3.0, 5.0)) for seed in range(5)]
    assert sum(draw.n_refused for draw in draws) > 0
    with pytest.raises(ValueError, match="none of 2000 draws had positive probabilities"):
        sparse_differences(0, n=40, p=40, intercepts=(0.0, 1e-9, 2e-9), share=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 3}, "n must be at least 4"),
        ({"p": 0}, "p must be at least 1"),
        ({"intercepts": (1.0,)}, "at least two increasing"),
        ({"intercepts": (1.0, 1.0)}, "at least two increasing"),
        ({"intercepts": (0.0, float("nan"))}, "at least two increasing"),
        ({"share": 1.5}, "share must lie"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_differences(0, **arguments)
