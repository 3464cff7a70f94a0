"""Curves find known knees, one-shot masks are those of a sort, and kept energy orders the structures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from uqsparse.pruning.allocation import erk, global_by, uniform
from uqsparse.pruning.criteria import random
from uqsparse.pruning.mask_similarity import mask_similarity
from uqsparse.pruning.masks import full_mask
from uqsparse.pruning.quiet_weights import change_point, quiet_weight_trace
from uqsparse.pruning.recipes.essential_sparsity import essential_sparsity
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.sparsity_curves import Curve
from uqsparse.pruning.structures import NM, PerRow

GRID = np.arange(19) / 20


def bent(at, left=-0.1, right=-2.0, s=GRID):
    return 1 + left * s + (right - left) * np.maximum(s - at, 0)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32),
        "bias": jnp.ones(8),
        "b": jnp.asarray(rng.normal(size=(12, 8)), jnp.float32),
    }


def test_knee_is_found_in_noise():
    """Within 0.03 in 95% of 200 draws; noise 0.01."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        at = rng.uniform(0.2, 0.7)
        found = Curve(GRID, bent(at) + 0.01 * rng.normal(size=len(GRID))).knee()
        hits += abs(found.sparsity - at) <= 0.03
    assert hits >= 190


def test_knee_is_the_least_squares_fit():
    """Against a search that shares no code: ordinary least squares at each breakpoint."""
    values = bent(0.43) + 0.03 * np.random.default_rng(2).normal(size=len(GRID))

    def fit(at):
        design = np.stack([np.ones_like(GRID), GRID, np.maximum(GRID - at, 0)], axis=1)
        coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
        return ((values - design @ coefficients) ** 2).sum(), coefficients

    grid = np.linspace(0.05, 0.85, 81)
    start = grid[np.argmin([fit(at)[0] for at in grid])]
    best = minimize_scalar(lambda at: fit(at)[0], bounds=(start - 0.01, start + 0.01), method="bounded").x
    found = Curve(GRID, values).knee()
    assert found.sparsity == pytest.approx(best, abs=1e-3)
    _, (_, left, change) = fit(found.sparsity)
    assert (found.left, found.right) == pytest.approx((left, left + change))
    assert found.slope_ratio == pytest.approx(abs(left + change) / abs(left))
    assert found.interval is None


def test_knee_bends_down():
    # Falls from 0.3 on, and is flat again from 0.6 on: the second bend is no knee.
    floor = np.maximum(bent(0.3, 0, -3), 0.1)
    assert Curve(GRID, floor).knee().sparsity < 0.4
    straight = Curve(GRID, 1 - 0.3 * GRID).knee()
    assert (straight.sparsity, straight.slope_ratio) == (GRID[-1], 1.0)
    upward = Curve(GRID, bent(0.4, -2.0, -0.1)).knee()
    assert (upward.sparsity, upward.slope_ratio) == (GRID[-1], 1.0)
    flat = Curve(GRID, np.ones_like(GRID)).knee()
    assert (flat.sparsity, flat.slope_ratio) == (GRID[-1], 1.0)
    assert Curve(GRID, bent(0.4, 0.0)).knee().sparsity == pytest.approx(0.4)


def test_interval_covers_the_knee_of_the_mean():
    """Deterministic seeds; the interval of 95% misses in some of 20 sets, in six or more with probability 3e-4."""
    rng = np.random.default_rng(3)
    missed = 0
    for seed in range(20):
        examples = bent(0.4)[:, None] + 0.1 * rng.normal(size=(len(GRID), 60))
        curve = Curve(GRID, examples.mean(axis=1), examples)
        low, high = curve.knee(jax.random.key(seed), n_bootstrap=100).interval
        assert low <= high
        assert high - low < 0.1
        missed += not low - 1e-3 <= 0.4 <= high + 1e-3
    assert missed <= 5
    again = curve.knee(jax.random.key(19), n_bootstrap=100).interval
    assert again == (low, high)


def test_essential_sparsity_at_a_tolerance():
    curve = Curve(GRID, bent(0.4, 0.0, -1.0))
    assert curve.essential(0.1) == pytest.approx(0.5)
    assert curve.essential(0.0) == pytest.approx(0.4)
    assert Curve(GRID, np.ones(19)).essential() == GRID[-1]
    # A loss, as a negative performance: 1% of 2 is 0.02.
    loss = Curve(GRID, -2 - np.maximum(GRID - 0.3, 0))
    assert loss.essential(0.01) == pytest.approx(0.32)
    # A lucky point beyond the fall does not count, and an unlucky one before it does not end the search.
    lucky = bent(0.4, 0.0, -4.0)
    lucky[16] = 1.0
    assert lucky.argmin() != 16
    assert Curve(GRID, lucky).essential(0.1) < 0.5
    unlucky = bent(0.6, 0.0, -4.0)
    unlucky[4] = 0.8
    assert Curve(GRID, unlucky).essential(0.1) > 0.55


def test_curves_prune_the_smallest(weights):
    """NumPy's sort decides which weights the global and the uniform selection keep."""
    flat = np.r_[np.ravel(weights["a"]), np.ravel(weights["b"])]
    order = np.argsort(-abs(flat), kind="stable")
    seen = []

    def evaluate(params):
        seen.append(np.r_[np.ravel(params["a"]), np.ravel(params["b"])])
        assert (params["bias"] == 1).all()
        return np.array([np.asarray(params[name]).sum() for name in "ab"])

    curve = essential_sparsity(weights, evaluate, [0.0, 0.3, 0.55, 0.9])
    for s, found in zip((0.0, 0.3, 0.55, 0.9), seen, strict=True):
        expected = np.zeros_like(flat)
        kept = order[: round((1 - s) * flat.size)]
        expected[kept] = flat[kept]
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(curve.sparsities, [0, 0.3, 0.55, 0.9], atol=1 / flat.size)
    np.testing.assert_allclose(curve.performances, curve.examples.mean(axis=1))
    assert curve.examples.shape == (4, 2)
    assert essential_sparsity(weights, lambda params: 1.0, [0.0, 0.3]).examples is None


def test_uniform_does_not_care_about_scales(weights):
    scaled = {**weights, "a": weights["a"] * 10, "b": weights["b"] * 0.1}
    for allocation, same in ((uniform(), True), (global_by(), False)):
        one, two = (select_mask(params, 0.4, allocation=allocation) for params in (weights, scaled))
        assert all(np.array_equal(one[name], two[name]) for name in "ab") is same


def test_fine_tuning_keeps_the_mask(weights):
    def finetune(params, mask):
        return jax.tree.map(lambda w: w + 1.0, params)

    kept = []

    def evaluate(params):
        kept.append(sum(int((np.asarray(params[name]) != 0).sum()) for name in "ab"))
        return 1.0

    essential_sparsity(weights, evaluate, [0.0, 0.5], finetune=finetune)
    assert kept == [224, 112]


@pytest.mark.parametrize("structure", [NM(1, 4), NM(2, 4), PerRow()], ids=str)
def test_curves_of_structures(weights, structure):
    masks = []

    def evaluate(params):
        masks.append(np.asarray(params["a"]) != 0)
        return sum(float((np.asarray(params[name]) ** 2).sum()) for name in "ab")

    sparsities = None if isinstance(structure, NM) else [0.0, 0.25, 0.5]
    curve = essential_sparsity(weights, evaluate, sparsities, structure=structure)
    assert (np.diff(curve.performances) < 0).all()
    np.testing.assert_allclose(np.diff(curve.sparsities), 0.25)
    if isinstance(structure, NM):
        assert len(curve.sparsities) == 5 - structure.n
        for k, mask in zip((4, 3, 2, 1), masks, strict=False):
            # Runs of four along the inputs.
            np.testing.assert_array_equal(mask.reshape(8, 4, 4).sum(axis=2), k)


def test_random_masks_are_nested_and_worse(weights):
    kept = []

    def evaluate(params):
        kept.append(np.asarray(params["a"]) != 0)
        return sum(float((np.asarray(params[name]) ** 2).sum()) for name in "ab")

    grid = [0.0, 0.2, 0.5]
    found = essential_sparsity(
        weights, evaluate, grid, criterion=random(), allocation=erk(), key=jax.random.key(0)
    ).performances
    assert not (kept[2] & ~kept[1]).any()
    assert (essential_sparsity(weights, evaluate, grid).performances[1:] > found[1:]).all()


def test_kept_energy_falls_with_the_structure():
    """Unstructured global, unstructured per leaf, per row, 8:16, 4:8, 2:4, 1:2: sums of kept squares never rise."""
    rng = np.random.default_rng(7)
    scales = jnp.asarray(rng.choice([0.1, 1.0, 3.0], size=(50, 1, 1)))
    sets = {"a": jnp.asarray(rng.standard_t(3, size=(50, 4, 32))), "b": scales * rng.normal(size=(50, 8, 16))}
    chain = [{}, {"allocation": uniform()}, {"structure": PerRow(), "allocation": uniform()}]
    chain += [{"structure": NM(m // 2, m)} for m in (16, 8, 4, 2)]

    # One program for all, which the compilation cache holds.
    @jax.jit
    @jax.vmap
    def select(params):
        return [select_mask(params, 0.5, **how) for how in chain]

    kept = []
    for masks in select(sets):
        assert (sum(np.asarray(mask).reshape(50, -1).sum(axis=1) for mask in masks.values()) == 128).all()
        kept.append(sum((np.where(masks[name], sets[name], 0) ** 2).sum(axis=(1, 2)) for name in "ab"))
    assert (np.diff(kept, axis=0) <= 1e-5 * kept[0]).all()
    assert (kept[0] > kept[-1]).all()


def test_mask_similarity():
    a, b = {"w": np.array([[1, 1, 1, 0]], bool), "b": None}, {"w": np.array([[1, 1, 0, 1]], bool), "b": None}
    assert mask_similarity(a, b) == pytest.approx((0.5, 2 / 3))
    assert mask_similarity(a, a) == (1.0, 1.0)
    with pytest.raises(ValueError, match="same network"):
        mask_similarity(a, {"w": a["w"]})
    with pytest.raises(ValueError, match="same network"):
        mask_similarity(a, {"w": a["w"].T, "b": None})
    with pytest.raises(ValueError, match="must each keep"):
        mask_similarity(a, {"w": ~a["w"] & False, "b": None})


def checkpoints(quiet_shares, seed=0):
    """Two layers of different scale; a share of each is exactly zero."""
    rng = np.random.default_rng(seed)
    for share in quiet_shares:
        layers = {"a": rng.normal(size=(40, 50)), "b": 5 * rng.normal(size=(20, 50)), "norm": np.zeros(3)}
        for name in "ab":
            layers[name].ravel()[: round(share * layers[name].size)] = 0
        yield layers


@pytest.mark.parametrize("at", [3, 10, 16])
def test_one_jump_is_found_exactly(at):
    found = quiet_weight_trace(checkpoints([0.1] * at + [0.5] * (20 - at)))
    assert (found.absolute_change.at, found.relative_change.at) == (at, at)
    assert found.absolute_change.abrupt
    assert found.relative_change.abrupt
    assert found.absolute[0] == pytest.approx(0.1, abs=2e-3)
    assert found.absolute_change.jump == pytest.approx(0.4, abs=3e-3)
    assert found.relative[0] > 0.1
    assert abs(found.kurtosis[0]) < found.kurtosis[-1]


@pytest.mark.parametrize("kind", ["line", "logistic", "square root", "noise", "constant"])
def test_nothing_smooth_is_called_abrupt(kind):
    t = np.linspace(0, 1, 40)
    noise = np.random.default_rng(5).normal(size=40)
    series = {
        "line": 0.1 + 0.5 * t,
        "logistic": 1 / (1 + np.exp(-(t - 0.5) * 12)),
        "square root": np.sqrt(t),
        "noise": 0.3 + 0.01 * noise,
        "constant": np.full(40, 0.2),
    }[kind]
    assert not change_point(series).abrupt
    assert change_point(np.r_[series[:20], series[20:] + 5]) == pytest.approx(
        (20, 5 + series[20] - series[19], change_point(series).noise, True), rel=0.2
    )


def test_relative_shares_do_not_depend_on_scale():
    one = quiet_weight_trace(checkpoints([0.1] * 4))
    other = quiet_weight_trace(jax.tree.map(lambda w: 1e-3 * w, tree) for tree in checkpoints([0.1] * 4))
    np.testing.assert_array_equal(one.relative, other.relative)
    np.testing.assert_allclose(one.kurtosis, other.kurtosis)
    assert (other.absolute > one.absolute).all()


def test_plot_draws_the_curve_and_the_knee():
    ax = Curve(GRID, bent(0.4)).plot(label="magnitude")
    assert len(ax.lines) == 2
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), GRID)
    assert ax.lines[1].get_xdata()[0] == pytest.approx(0.4)
    assert len(Curve(GRID[:3], bent(0.4)[:3]).plot(ax).lines) == 3


def test_bad_input_is_named(weights):
    good = float
    for sparsities in ([0.1, 0.2], [0.0, 0.5, 0.4], [0.0, 1.0], [0.0], [0.0, np.nan]):
        with pytest.raises(ValueError, match="sparsities must increase from 0"):
            essential_sparsity(weights, good, sparsities)
    with pytest.raises(ValueError, match="multiples of 1 / 4"):
        essential_sparsity(weights, good, [0.0, 0.3], structure=NM(1, 4))
    with pytest.raises(ValueError, match="evaluate must return a finite number"):
        essential_sparsity(weights, lambda params: np.nan, [0.0, 0.5])
    shapes = iter([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="evaluate returned shape"):
        essential_sparsity(weights, lambda params: next(shapes), [0.0, 0.5])
    with pytest.raises(ValueError, match="'a' of shape"):
        essential_sparsity(weights, lambda params: 1.0, structure=NM(1, 5))
    with pytest.raises(ValueError, match="five sparsities or more"):
        Curve(GRID[:4], bent(0.1)[:4]).knee()
    with pytest.raises(ValueError, match="performance of each example"):
        Curve(GRID, bent(0.4)).knee(jax.random.key(0))
    with pytest.raises(ValueError, match="tolerance must be"):
        Curve(GRID, bent(0.4)).essential(-0.1)
    with pytest.raises(ValueError, match="performances must be finite"):
        Curve(GRID, np.full(19, np.nan))
    with pytest.raises(ValueError, match="checkpoints must be four or more"):
        quiet_weight_trace(checkpoints([0.1] * 3))
    with pytest.raises(ValueError, match="'a' must be finite and differ, at checkpoint 0"):
        quiet_weight_trace([{"a": np.zeros((3, 3))}] * 4)
    with pytest.raises(ValueError, match="threshold must be positive"):
        quiet_weight_trace([], threshold=0.0)
    with pytest.raises(ValueError, match="series must be four"):
        change_point(np.ones(3))


def test_whole_networks_are_taken():
    model = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    curve = essential_sparsity(model, lambda network: float(np.asarray(network.layers[0].weight).sum()), [0.0, 0.5])
    assert curve.sparsities.tolist() == [0.0, 0.5]
    assert full_mask(model).layers[0].weight.shape == (8, 4)
