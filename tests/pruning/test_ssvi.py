"""Sparse variational inference: constant sparsity, its limits, and the exact case against a search of all supports."""

import itertools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.nn.gaussian_layers import GaussianLinear, GaussianWeight, kl_divergence, sample_weights, to_bayesian
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.gaussian_criteria import snr
from uqsparse.pruning.masks import apply_mask, full_mask
from uqsparse.pruning.recipes.ssvi import elbo_loss, predictive, ssvi
from uqsparse.pruning.recipes.static import static

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)).astype(np.float32)
Y = (X[:, :3] @ RNG.normal(size=(3, 3))).argmax(1)
STEPS, EVERY = 60, 10


@pytest.fixture(scope="module")
def model():
    return to_bayesian(eqx.nn.MLP(8, 3, 16, 1, key=jax.random.key(0)), sigma_init=0.05)


def trained(model, hook):
    """Final parameters and state, and after each step the mask, and what is off it."""
    params, static_part = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def run(params, state):
        def step(carry, key):
            params, state = carry

            def loss(params):
                return elbo_loss(key, eqx.combine(params, static_part), (jnp.asarray(X), jnp.asarray(Y)), n_data=60)

            updates, state = hook.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            weights = [layer.weight for layer in params.layers]
            masks = [layer.weight for layer in state.mask.layers]
            return (params, state), (weights, masks)

        return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1), STEPS))

    state = hook.init(params)
    (params, state), (weights, masks) = run(apply_mask(state.mask, params), state)
    return jax.device_get((params, state.mask, weights, masks))


def recipe(**settings):
    given = {"density": 0.25, "steps": STEPS, "every": EVERY, "alpha": 0.5, "key": jax.random.key(2)} | settings
    return ssvi(optax.adam(1e-2), **given)


@pytest.fixture(scope="module")
def sparse(model):
    return trained(model, recipe())


def test_every_step_has_the_same_number_of_weights_and_zeros_elsewhere(sparse):
    _, _, weights, masks = sparse
    for weight, mask in zip(weights, masks, strict=True):
        counts = mask.reshape(STEPS, -1).sum(1)
        assert (counts == counts[0]).all()
        assert (weight.mu[~mask] == 0).all()
        assert (np.asarray(weight.sigma)[~mask] == 0).all()
        assert (np.asarray(weight.sigma)[mask] > 0).all()
        assert weight.mu[mask].any()
        steps = np.flatnonzero((mask[1:] != mask[:-1]).any((1, 2))) + 1
        assert set(steps) <= {10, 20, 30, 40}  # churn is zero at 45
        assert len(steps) >= 3
    assert sum(mask[0].sum() for mask in masks) == round(0.25 * 176)


def test_new_weights_start_at_zero_with_the_average_spread_of_those_kept(model):
    params = eqx.filter(model, eqx.is_inexact_array)
    hook = recipe(automatic=False)
    state = jax.jit(hook.init)(params)
    params = apply_mask(state.mask, params)
    rho = params.layers[0].weight.rho
    params = eqx.tree_at(lambda p: p.layers[0].weight.rho, params, rho + 0.1 * X[:16])
    params = apply_mask(state.mask, params)
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(4), p.shape), params)
    new, after = jax.jit(hook.update_mask)(state._replace(step=jnp.array(EVERY)), params, grads)
    for i in (0, 1):
        old, now = np.asarray(state.mask.layers[i].weight), np.asarray(after.mask.layers[i].weight)
        before, weight, slope = (tree.layers[i].weight for tree in (params, new, grads))
        came, kept, left = now & ~old, now & old, old & ~now
        assert came.sum() == left.sum() > 0
        assert (np.asarray(weight.mu)[came] == 0).all()
        np.testing.assert_allclose(np.asarray(weight.rho)[came], np.asarray(before.rho)[kept].mean(), rtol=1e-5)
        ratio = np.abs(np.asarray(before.mu)) / np.where(old, np.asarray(before.sigma), 1)
        assert ratio[left].max() <= ratio[kept].min()
        assert np.abs(slope.mu)[came].min() >= np.abs(slope.mu)[~old & ~now].max()


def test_without_trades_it_is_training_on_a_static_support(model):
    """Bit for bit; operation by operation, since XLA may round a larger program differently."""
    start, static_part = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def slope(params, key):
        return jax.grad(lambda p: elbo_loss(key, eqx.combine(p, static_part), (X, Y), n_data=60))(params)

    momentum = optax.sgd(1e-2, momentum=0.9)
    ends = []
    for hook in (
        ssvi(momentum, density=0.25, steps=STEPS, every=3, alpha=0.0, key=jax.random.key(2)),
        static(momentum, density=0.25, steps=STEPS, key=jax.random.key(2)),
    ):
        params, state = start, hook.init(start)
        for i in range(8):
            updates, state = hook.update(slope(params, jax.random.key(i)), state, params)
            params = optax.apply_updates(params, updates)
        ends.append((params, state.mask))
    for ours, theirs in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_at_density_one_it_is_dense_variational_inference(model):
    full = trained(model, recipe(density=1.0, automatic=False))[0]
    params, static_part = eqx.partition(model, eqx.is_inexact_array)
    adam = optax.adam(1e-2)

    @jax.jit
    def dense(params):
        def step(carry, key):
            params, state = carry
            loss = lambda p: elbo_loss(key, eqx.combine(p, static_part), (X, Y), n_data=60)  # noqa: E731
            updates, state = adam.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), STEPS)
        return jax.lax.scan(step, (params, adam.init(params)), keys)[0][0]

    for ours, theirs in zip(jax.tree.leaves(full), jax.tree.leaves(dense(params)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_snr_and_mean_over_deviation_train_the_same_network(model, sparse):
    other = trained(model, recipe(criterion=snr()))
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(sparse), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_is_the_bound_of_linear_regression():
    """Mean of 20,000 draws against the closed form: five standard errors, false alarms below 1e-6."""
    layer = GaussianLinear(eqx.nn.Linear(8, 1, key=jax.random.key(0)), sigma_init=0.3, prior_std=0.7)
    layer = eqx.tree_at(lambda part: part.weight, layer, layer.weight.masked(jnp.arange(8)[None] < 5))
    y = X[:, 0] - 0.5

    def squares(output, target):
        return 0.5 * (output[0] - target) ** 2

    loss = jax.jit(jax.vmap(lambda key: elbo_loss(key, layer, (X, y), n_data=200, beta=0.5, loss=squares)))
    draws = np.asarray(loss(jax.random.split(jax.random.key(3), 20_000)), float)
    mu, sigma = (np.asarray(a, float)[0, :5] for a in (layer.weight.mu, layer.weight.sigma))
    fit = 0.5 * (np.mean((X[:, :5] @ mu + float(layer.bias[0]) - y) ** 2) + (X[:, :5] ** 2 @ sigma**2).mean())
    divergence = (np.log(0.7 / sigma) + (sigma**2 + mu**2) / (2 * 0.49) - 0.5).sum()
    expected = fit + 0.5 / 200 * divergence
    assert abs(draws.mean() - expected) < 5 * draws.std() / np.sqrt(len(draws))


def test_draws_of_the_predictive_are_networks(model):
    draws = predictive(jax.random.key(5), model, X, n_samples=3)
    keys = jax.random.split(jax.random.key(5), 3)
    np.testing.assert_allclose(draws[1], jax.vmap(sample_weights(model, keys[1]))(X), rtol=1e-4, atol=1e-5)
    assert draws.shape == (3, 60, 3)
    assert np.abs(draws[0] - draws[2]).max() > 0.01


def bound(x, y, support):
    """-F / closed form: noise variance 1, prior N(0, 1), inputs orthogonal."""
    n = (x[:, support] ** 2).sum(0)
    b = x[:, support].T @ y
    return 0.5 * (y @ y - (b**2 / (n + 1)).sum() + np.log(n + 1).sum()), b / (n + 1), (n + 1) ** -0.5


@pytest.fixture(scope="module")
def regressions():
    """Twenty problems with orthogonal inputs, trained with and without the guard by exact gradients."""
    rng = np.random.default_rng(5)
    x = np.stack([np.linalg.qr(rng.normal(size=(30, 12)))[0] for _ in range(20)]) * np.sqrt(30)
    y = np.einsum("pnd,pd->pn", x, rng.normal(0, 0.5, (20, 12))) + rng.normal(size=(20, 30))

    @jax.jit
    def run(x, y, keys):
        return [jax.vmap(lambda x, y, key, g=guard: one(x, y, key, g))(x, y, keys) for guard in (1.0, None)]

    def one(x, y, key, guard):
        adam = optax.adam(optax.cosine_decay_schedule(0.03, 2000))
        hook = ssvi(adam, density=4 / 12, steps=2000, key=key, every=50, alpha=0.6, guard=guard)

        def loss(w):
            spread = (x**2).sum(0) @ w.sigma[0] ** 2
            return 0.5 * (((y - x @ w.mu[0]) ** 2).sum() + spread) + w.kl()

        def step(carry, _):
            weight, state = carry
            updates, state = hook.update(jax.grad(loss)(weight), state, weight)
            return (optax.apply_updates(weight, updates), state), state.mask[0]

        start = GaussianWeight.from_sigma(jnp.zeros((1, 12)), 0.1, 1.0)
        (weight, _), masks = jax.lax.scan(step, (start, hook.init(start)), None, 2000)
        return masks[::50], weight.mu[0], weight.sigma[0], loss(weight)

    keys = jax.random.split(jax.random.key(0), 20)
    found = jax.device_get(run(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), keys))
    supports = [np.array(s) for s in itertools.combinations(range(12), 4)]
    best = np.zeros((20, 12), bool)
    for p in range(20):
        best[p, min(supports, key=lambda s: bound(x[p], y[p], s)[0])] = True
    return x, y, best, found


def test_guarded_trades_find_the_best_of_all_supports(regressions):
    x, y, best, ((supports, mu, sigma, loss), _) = regressions
    np.testing.assert_array_equal(supports[:, -1], best)
    for p in range(20):
        expected, mean, deviation = bound(x[p], y[p], np.flatnonzero(best[p]))
        np.testing.assert_allclose(loss[p], expected, rtol=1e-4)
        np.testing.assert_allclose(mu[p][best[p]], mean, atol=1e-3)
        np.testing.assert_allclose(sigma[p][best[p]], deviation, atol=1e-3)


def test_forced_trades_visit_it_and_leave_it(regressions):
    _, _, best, (_, (supports, *_)) = regressions
    assert (supports == best[:, None]).all(-1).any(1).all()
    assert 0.1 < (supports[:, -1] == best).all(-1).mean() < 0.9


def test_bad_input_is_refused(model):
    params = eqx.filter(model, eqx.is_inexact_array)
    for settings, what in [
        ({"density": 0.0}, "density must lie in"),
        ({"density": 1.5}, "density must lie in"),
        ({"alpha": 1.0}, "churn must lie in"),
        ({"alpha": -0.1}, "churn must lie in"),
        ({"end": 0.0}, "end must lie in"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"guard": -1.0}, "guard must be positive and finite"),
        ({"every": 0}, "every must be"),
    ]:
        with pytest.raises(ValueError, match=what):
            recipe(**settings)
    infinite = eqx.tree_at(lambda p: p.layers[1].weight.rho, params, jnp.full((3, 16), jnp.nan))
    with pytest.raises(ValueError, match=r"rho of 'layers.1.weight' must be finite"):
        recipe().init(infinite)
    with pytest.raises(ValueError, match="prunable chooses no leaf"):
        recipe().init(eqx.filter(eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.is_inexact_array))
    with pytest.warns(UserWarning, match=r"leaves layers.0.weight less than a weight for each output"):
        recipe(density=0.07, allocation=uniform()).init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe().init(params)
    for settings, what in [({"n_data": 0}, "n_data must be"), ({"n_data": 9, "beta": -1.0}, "beta must be at least 0")]:
        with pytest.raises(ValueError, match=what):
            elbo_loss(jax.random.key(0), model, (X, Y), **settings)
    with pytest.raises(ValueError, match="n_samples must be"):
        predictive(jax.random.key(0), model, X, 0)
    hook = recipe()
    state = hook.init(params)._replace(step=jnp.array(EVERY))
    with pytest.raises(ValueError, match=r"'layers.0.weight' is NaN"):
        hook.update(jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params), state, params)


def test_partly_bayesian_networks_keep_the_rest_dense():
    partly = to_bayesian(eqx.nn.MLP(8, 3, 16, 1, key=jax.random.key(0)), where=lambda path, _: path == "layers.0")
    params = eqx.filter(partly, eqx.is_inexact_array)
    state = recipe().init(params)
    assert state.mask.layers[1].weight is None
    assert full_mask(params).layers[1].weight is not None
    kept = apply_mask(state.mask, params)
    assert int(state.mask.layers[0].weight.sum()) == 32
    np.testing.assert_allclose(kl_divergence(kept), 32 / 128 * kl_divergence(params), rtol=0.2)
