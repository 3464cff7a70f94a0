"""Criteria rank as their papers say, and refuse what they cannot rank."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.nn.weight_units import WeightUnit
from uqsparse.pruning import criteria
from uqsparse.pruning.collectors import grasp_stats, input_norms, movement_stats, stats_at
from uqsparse.pruning.masks import full_mask
from uqsparse.pruning.structures import PerRow


class Pair(WeightUnit):
    """A weight with a companion that plain criteria do not see."""

    mu: jax.Array
    companion: jax.Array

    @property
    def shape(self):
        return self.mu.shape

    @property
    def score_array(self):
        return self.mu

    def masked(self, mask):
        return Pair(jnp.where(mask, self.mu, 0), self.companion)

    def grown(self, new, kept):
        return self


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    w, g, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4), (3, 4), (7, 4)))
    return {"layer": {"w": w, "b": jnp.ones(3)}}, {"layer": {"w": g, "b": jnp.ones(3)}}, x


def of(scores):
    assert scores["layer"]["b"] is None
    return np.asarray(scores["layer"]["w"])


def test_formulas(problem):
    params, grads, x = problem
    w, g = np.asarray(params["layer"]["w"]), np.asarray(grads["layer"]["w"])
    np.testing.assert_array_equal(of(criteria.magnitude()(params)), abs(w))
    np.testing.assert_allclose(of(criteria.snip()(params, grads=grads)), abs(w * g), rtol=1e-6)
    np.testing.assert_array_equal(of(criteria.gradient()(params, grads=grads)), abs(g))
    stats = stats_at(params, {"layer.w": input_norms(x[4:], previous=input_norms(x[:4]))})
    found = of(criteria.wanda()(params, stats=stats))
    np.testing.assert_allclose(found, abs(w) * np.linalg.norm(x, axis=0), rtol=1e-6)
    total = movement_stats(movement_stats(None, params, grads), params, jax.tree.map(lambda g: -3 * g, grads))
    np.testing.assert_allclose(of(criteria.movement()(params, stats=total)), 2 * w * g, rtol=1e-5)


def test_wanda_reaches_kernels(problem):
    kernel = {"w": -jnp.ones((2, 3, 5, 5))}
    by_channel = criteria.wanda()(kernel, stats={"w": jnp.arange(3.0)})["w"]
    np.testing.assert_array_equal(by_channel[1, :, 2, 2], [0, 1, 2])
    everywhere = criteria.wanda()(kernel, stats={"w": jnp.arange(75.0).reshape(3, 5, 5)})["w"]
    assert everywhere[1, 2, 3, 4] == 69
    params, _, x = problem
    scores = criteria.wanda()(params, stats=stats_at(params, {"layer.w": input_norms(x)}))["layer"]["w"]
    assert (PerRow().project(scores, 6).sum(axis=1) == 2).all()


def test_grasp_on_a_quadratic():
    """L = w A w / 2, so g = A w and H g = A A w; and removing a weight does to |g|^2 what it should."""
    rng = np.random.default_rng(3)
    halves = [one @ one.T for one in rng.normal(size=(2, 6, 6))]
    w = rng.normal(size=(2, 3))

    def loss(params, A):
        return params["w"].reshape(-1) @ A @ params["w"].reshape(-1) / 2

    with jax.enable_x64(True):
        params = {"w": jnp.asarray(w)}
        stats = grasp_stats(loss, params, [jnp.asarray(A) for A in halves])
        found = np.asarray(criteria.grasp()(params, stats=stats)["w"]).ravel()
        # A factor on the loss changes no order.
        cooler = grasp_stats(lambda *given: loss(*given) / 200, params, [jnp.asarray(A) for A in halves])
        again = np.asarray(criteria.grasp()(params, stats=cooler)["w"]).ravel()
    A = sum(halves)
    np.testing.assert_allclose(found, w.ravel() * (A @ A @ w.ravel()), rtol=1e-10)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(again))

    def flow(shrink):
        return ((A @ (w.ravel() - shrink * w.ravel())) ** 2).sum()

    raised = np.array([flow(1e-6 * np.eye(6)[q]) - flow(0) for q in range(6)]) / 1e-6
    np.testing.assert_allclose(raised, -2 * found, rtol=1e-3)
    assert raised[found.argmin()] == raised.max(), "what is removed first raises the gradient most"
    with pytest.raises(ValueError, match="batches is empty"):
        grasp_stats(loss, params, [])


@pytest.mark.parametrize("removed", [5, 20, 37])
def test_signed_magnitude_takes_both_signs_in_proportion(removed):
    w = np.random.default_rng(2).permutation(np.r_[np.linspace(5, 9, 30), np.linspace(-1, -0.1, 20)])
    scores = np.asarray(criteria.signed_magnitude()({"w": jnp.asarray(w.reshape(5, 10))})["w"]).ravel()
    gone = np.argsort(scores, kind="stable")[:removed]
    share = removed / 50
    assert abs((w[gone] > 0).sum() - 30 * share) <= 1
    assert abs((w[gone] < 0).sum() - 20 * share) <= 1
    kept = np.setdiff1d(np.arange(50), gone)
    assert w[gone][w[gone] > 0].max() < w[kept][w[kept] > 0].min()
    assert w[gone][w[gone] < 0].min() > w[kept][w[kept] < 0].max()
    zeros = criteria.signed_magnitude()({"w": jnp.array([[0.0, 2.0, 0.0, -1.0]])})["w"]
    np.testing.assert_array_equal(zeros, [[0, 0.5, 0, 0.5]])


def test_random_scores_have_a_key_of_their_own_leaf():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    one, two = (criteria.random()(params, key=jax.random.key(seed)) for seed in (0, 1))
    again = criteria.random()(params, key=jax.random.key(0))
    assert (one["a"] == again["a"]).all()
    assert (one["a"] != two["a"]).any()
    assert (one["a"] != one["b"]).any()


def test_plain_criteria_see_the_score_array_of_a_unit():
    unit = Pair(jnp.array([[1.0, -2.0]]), jnp.array([[9.0, 9.0]]))
    grads = Pair(jnp.array([[3.0, 4.0]]), jnp.array([[9.0, 9.0]]))
    params, of_units = {"u": unit, "b": jnp.ones(2)}, {"u": grads, "b": jnp.ones(2)}
    np.testing.assert_array_equal(criteria.magnitude()(params)["u"], [[1, 2]])
    np.testing.assert_array_equal(criteria.snip()(params, grads=of_units)["u"], [[3, 8]])
    np.testing.assert_array_equal(criteria.gradient()(params, grads=of_units)["u"], [[3, 4]])
    np.testing.assert_array_equal(criteria.grasp()(params, stats=of_units)["u"], [[3, -8]])
    np.testing.assert_array_equal(
        criteria.movement()(params, stats=movement_stats(None, params, of_units))["u"], [[-3, 8]]
    )
    np.testing.assert_array_equal(criteria.signed_magnitude()(params)["u"], [[0.5, 0.5]])


def test_mask_decides_what_is_scored():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    mask = full_mask(params, lambda path, leaf: path == "b")
    found = criteria.magnitude()(params, mask=mask)
    assert found["a"] is None
    assert found["b"].shape == (2, 2)


def test_dead_layers_are_named():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    grads = eqx.tree_at(lambda tree: tree.layers[0].weight, jax.tree.map(jnp.ones_like, params), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"'snip' of 'layers.0.weight' is zero everywhere"):
        criteria.snip()(params, grads=grads)
    with pytest.raises(ValueError, match=r"'grasp' of 'layers.0.weight' is zero everywhere"):
        criteria.grasp()(params, stats=grads)
    assert criteria.gradient()(params, grads=grads).layers[0].weight.sum() == 0
    # Under a transformation values cannot be looked at.
    assert jax.jit(lambda g: criteria.snip()(params, grads=g))(grads).layers[0].weight.sum() == 0


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("random", "key"),
        ("snip", "grads"),
        ("grasp", "stats"),
        ("gradient", "grads"),
        ("wanda", "stats"),
        ("movement", "stats"),
    ],
)
def test_what_is_needed_is_asked_for(name, needed):
    criterion = getattr(criteria, name)()
    assert criterion.needs == {needed}
    with pytest.raises(ValueError, match=f"'{name}' needs {needed}"):
        criterion({"w": jnp.ones((2, 2))})


def test_bad_input_is_named(problem):
    params, grads, _ = problem
    broken = {"layer": {"w": grads["layer"]["w"].at[1, 1].set(jnp.nan), "b": grads["layer"]["b"]}}
    with pytest.raises(ValueError, match=r"'snip' of 'layer.w' is NaN"):
        criteria.snip()(params, grads=broken)
    with pytest.raises(ValueError, match=r"stats of 'layer.w' are missing"):
        criteria.wanda()(params, stats={"layer": {"w": None, "b": None}})
    with pytest.raises(ValueError, match=r"'movement' of 'layer.w' must have shape \(3, 4\), got \(2,\)"):
        criteria.movement()(params, stats={"layer": {"w": jnp.ones(2), "b": None}})
    with pytest.raises(ValueError, match=r"no leaf 'layer.v'"):
        stats_at(params, {"layer.v": jnp.ones(4)})
