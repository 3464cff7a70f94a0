"""Budgets are spread exactly, and Erdős-Rényi densities solve their equation."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from uqsparse.pruning.allocation import (
    allocate,
    er,
    erk,
    erk_densities,
    erk_plus,
    fixed,
    global_by,
    ratio_of,
    uniform,
    uniform_plus,
)

MLP = {"0": (256, 40), "1": (256, 256), "2": (10, 256)}
RESNET = {
    "stem": (16, 3, 3, 3),
    "one": (16, 16, 3, 3),
    "two": (32, 16, 3, 3),
    "skip": (32, 16, 1, 1),
    "wide": (128, 64, 3, 3),
    "head": (10, 64),
}
LENET = {"0": (300, 784), "1": (100, 300), "2": (10, 100)}
TINY = {"a": (2, 2), "b": (4, 2), "c": (64, 64)}
SAME = {"a": (20, 20), "b": (20, 20), "c": (100, 100), "d": (200, 200)}
RULES = [uniform, er, erk]


def sizes(shapes):
    return np.array([math.prod(shape) for shape in shapes.values()])


def by_bisection(shapes, density):
    """min(1, eps p) with the one eps that meets the budget."""
    n = sizes(shapes)
    p = np.array([sum(shape) for shape in shapes.values()]) / n
    eps = brentq(lambda eps: (np.minimum(1, eps * p) * n).sum() - density * n.sum(), 0, 1 / p.min(), xtol=1e-15)
    return np.minimum(1, eps * p)


def published(shapes, density):
    """Densities by the formula that jaxpruner publishes: zeros rounded down leaf by leaf, full leaves taken out."""
    n, total = sizes(shapes), np.array([sum(shape) for shape in shapes.values()])
    zeros = np.floor((1 - density) * n + 1e-9)
    full = set()
    while True:
        rest = [i for i in range(len(n)) if i not in full]
        eps = (sum(n[i] - zeros[i] for i in rest) - sum(zeros[i] for i in full)) / sum(total[i] for i in rest)
        raw = {i: total[i] / n[i] for i in rest}
        if eps * max(raw.values()) <= 1:
            return np.array([1.0 if i in full else eps * raw[i] for i in range(len(n))])
        full |= {i for i in rest if raw[i] == max(raw.values())}


@pytest.mark.parametrize("shapes", [MLP, RESNET, LENET, TINY, SAME], ids=["mlp", "resnet", "lenet", "tiny", "same"])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.75, 0.999, 1.0])
def test_erk_agrees_with_bisection(shapes, density):
    found = np.array(list(erk_densities(shapes, density).values()))
    np.testing.assert_allclose(found, by_bisection(shapes, density), rtol=1e-9)
    assert (found * sizes(shapes)).sum() == pytest.approx(density * sizes(shapes).sum(), rel=1e-12)


# Sizes are multiples of 1 / density, since the published formula rounds each leaf.
@pytest.mark.parametrize(
    ("shapes", "density"),
    [
        ({"a": (256, 40), "b": (256, 256), "c": (10, 256)}, 0.25),
        ({"a": (3, 3, 64, 128), "b": (3, 3, 4, 64), "c": (128, 10)}, 0.125),
        ({"a": (300, 784), "b": (100, 300), "c": (10, 100)}, 0.05),
        ({"a": (2, 2), "b": (4, 2), "c": (64, 64)}, 0.25),
        (SAME, 0.5),
    ],
)
def test_erk_agrees_with_jaxpruners_formula(shapes, density):
    found = np.array(list(erk_densities(shapes, density).values()))
    np.testing.assert_allclose(found, published(shapes, density), rtol=1e-9)
    assert found.max() <= 1


def test_several_layers_become_dense_at_once():
    shapes = {"a": (4, 4), "b": (4, 4), "c": (8, 4), "d": (400, 400)}
    found = erk_densities(shapes, 0.2)
    assert found["a"] == found["b"] == found["c"] == 1.0
    assert 0.19 < found["d"] < 0.2


leaves = st.lists(st.lists(st.integers(2, 12), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5).map(
    lambda found: {str(i): shape for i, shape in enumerate(found)}
)


@settings(max_examples=25, deadline=None)
@given(leaves, st.floats(0.02, 1.0), st.sampled_from([uniform, er, erk]))
def test_counts_are_exact(shapes, density, rule):
    n = sizes(shapes)
    made = rule(allow_empty=True)
    found = made.counts(shapes, density)
    assert list(found) == list(shapes)
    counts = np.array(list(found.values()))
    assert counts.sum() == round(density * int(n.sum()))
    assert (counts >= 0).all()
    assert (counts <= n).all()
    if rule is uniform:
        assert (abs(counts - density * n) < 1 + 1e-9).all()
    assert made.counts(shapes, 1.0) == dict(zip(shapes, n.tolist(), strict=True))


def test_what_the_rules_have_in_common():
    assert er().counts(MLP, 0.1) == erk().counts(MLP, 0.1)
    assert er().counts(RESNET, 0.1) != erk().counts(RESNET, 0.1)
    one = {"only": (30, 20)}
    assert erk().counts(one, 0.1) == uniform().counts(one, 0.1) == {"only": 60}
    squares = list(erk_densities({str(k): (k, k) for k in (10, 20, 40, 80)}, 0.1).values())
    assert squares == sorted(squares, reverse=True)


def test_er_takes_the_channels_alone():
    last = {path: (*shape[2:], *shape[1::-1]) for path, shape in RESNET.items()}
    assert er().counts(RESNET, 0.1) == er(channel_axes=(-1, -2)).counts(last, 0.1)
    assert er().counts(RESNET, 0.1) != er().counts(last, 0.1)
    found = er().counts({"a": (10, 20, 5, 5), "b": (40, 30, 1, 1)}, 0.05)
    first = 5000 * 30 / 200
    second = 1200 * 70 / 1200
    assert found["a"] == round(310 * first / (first + second))


def test_uniform_plus():
    shapes = {"a": (10, 4), "b": (50, 50), "c": (50, 50), "d": (10, 50)}
    found = uniform_plus().counts(shapes, 0.1)
    assert (found["a"], found["d"]) == (40, 100)
    assert found["b"] == found["c"] == (554 - 140) // 2
    half = uniform_plus().counts(shapes, 0.5)
    assert half["a"] == 40
    assert sum(half.values()) == 2770
    assert half["d"] / 500 == pytest.approx(half["b"] / 2500, abs=2e-3)
    assert uniform_plus().counts({"a": (4, 4), "b": (4, 4)}, 0.6) == {"a": 16, "b": 3}
    with pytest.raises(ValueError, match="uniform_plus keeps '0' dense"):
        uniform_plus().counts(MLP, 0.05)
    with pytest.raises(ValueError, match="keeps 'a' dense"):
        uniform_plus().counts({"a": (4, 4)}, 0.5)
    with pytest.raises(ValueError, match="last must lie in"):
        uniform_plus(last=0.0)


def test_dense_leaves():
    found = erk(dense=("2",)).counts(MLP, 0.1)
    assert found["2"] == 2560
    assert sum(found.values()) == 7834
    assert erk_plus().counts(MLP, 0.1) == found
    rest = erk().counts({"0": MLP["0"], "1": MLP["1"]}, (7834 - 2560) / (78336 - 2560))
    assert abs(rest["0"] - found["0"]) <= 1
    # The last matrix is not the last leaf.
    assert erk_plus().counts({"a": (4, 4), "b": (10, 8), "k": (20, 20, 3, 3)}, 0.1)["b"] == 80
    with pytest.raises(ValueError, match="last matrix"):
        erk_plus().counts({"k": (20, 20, 3, 3)}, 0.1)
    with pytest.raises(ValueError, match=r"1: kept dense these are 65536 weights"):
        uniform(dense=("1",)).counts(MLP, 0.1)
    with pytest.raises(ValueError, match="no prunable leaf 'nine'"):
        erk(dense=("nine",)).counts(MLP, 0.1)


def test_fixed():
    found = fixed({"0": 0.5, "2": 1.0}).counts(MLP, 0.2)
    assert found == {"0": 5120, "1": 15667 - 5120 - 2560, "2": 2560}
    thirds = fixed({"a": 1 / 3, "b": 1 / 3}).counts({"a": (5, 4), "b": (5, 4)}, 1 / 3)
    assert sum(thirds.values()) == 13
    with pytest.raises(ValueError, match="keep 20 weights"):
        fixed({"a": 0.5, "b": 0.5}).counts({"a": (5, 4), "b": (5, 4)}, 0.9)
    with pytest.raises(ValueError, match=r"densities\['a'\] must lie in \[0, 1\]"):
        fixed({"a": 1.5})
    with pytest.raises(ValueError, match="no prunable leaf 'z'"):
        fixed({"z": 0.5}).counts(MLP, 0.2)


def test_global_selection_against_a_sort():
    rng = np.random.default_rng(1)
    params = {
        "a": jnp.asarray(rng.normal(size=(6, 5))),
        "b": jnp.zeros(3),
        "c": jnp.asarray(3 * rng.normal(size=(4, 5))),
    }
    scores = {"a": abs(params["a"]), "b": None, "c": abs(params["c"])}
    found = allocate(params, 0.3, global_by(), scores=scores)
    threshold = np.sort(np.r_[np.ravel(scores["a"]), np.ravel(scores["c"])])[-15]
    assert found == {"a": int((scores["a"] >= threshold).sum()), "b": None, "c": int((scores["c"] >= threshold).sum())}
    assert allocate(params, 0.3, ratio_of(scores)) == found
    # Ties go to the first leaf, and the sum stays exact.
    tied = {"a": jnp.ones((6, 5)), "b": None, "c": jnp.ones((4, 5))}
    assert allocate(params, 0.7, global_by(), scores=tied) == {"a": 30, "b": None, "c": 5}
    assert allocate(params, 0.6, global_by(dense=("c",)), scores=tied) == {"a": 10, "b": None, "c": 20}


def test_layers_do_not_collapse_unnoticed():
    shapes = {"small": (2, 2), "large": (100, 100)}
    with pytest.raises(ValueError, match="'small' would lose all of its weights"):
        uniform().counts(shapes, 0.01)
    assert uniform(allow_empty=True).counts(shapes, 0.01)["small"] == 0
    scores = {"small": jnp.zeros((2, 2)), "large": jnp.ones((100, 100))}
    assert allocate(scores, 0.5, global_by(), scores=scores) == {"small": 1, "large": 5001}
    assert allocate(scores, 0.5, global_by(allow_empty=True), scores=scores)["small"] == 0
    with pytest.raises(ValueError, match="lose all"):
        erk().counts({str(i): (10, 10) for i in range(5)}, 0.006)


def test_bad_input_is_named():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    for density in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="density must lie in"):
            allocate(params, density, uniform())
    with pytest.raises(ValueError, match="needs scores"):
        allocate(params, 0.5, global_by())
    with pytest.raises(ValueError, match="without scores"):
        global_by().counts(MLP, 0.5)
    with pytest.raises(ValueError, match="scores of 'b' hold NaN"):
        allocate(params, 0.5, global_by(), scores={"a": params["a"], "b": params["b"].at[0, 0].set(jnp.nan)})
    with pytest.raises(ValueError, match="scores of 'b' are missing"):
        allocate(params, 0.5, global_by(), scores={"a": params["a"], "b": None})
    with pytest.raises(ValueError, match="only 16 may be"):
        allocate(params, 0.9, global_by(), scores={"a": params["a"], "b": jnp.full((4, 4), -jnp.inf)})
    with pytest.raises(ValueError, match=r"scores of 'b' must have shape \(4, 4\), got nothing"):
        allocate(params, 0.5, ratio_of({"a": params["a"], "b": None}))
