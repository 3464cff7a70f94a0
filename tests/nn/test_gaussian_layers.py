"""Gaussian layers are those of Equinox in distribution; their divergence is NumPyro's; what is off stays off."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.nn.gaussian_layers import (
    FLOOR,
    GaussianConv,
    GaussianLinear,
    GaussianWeight,
    kl_divergence,
    sample_weights,
    to_bayesian,
    with_noise,
)

RNG = np.random.default_rng(3)
MASK = np.array([[True, False, True, True], [False, False, False, False], [True, True, False, True]])


@pytest.fixture(scope="module")
def linear():
    return GaussianLinear(eqx.nn.Linear(4, 3, key=jax.random.key(0)), sigma_init=0.3, prior_std=0.5)


def masked(layer, mask=MASK):
    return eqx.tree_at(lambda part: part.weight, layer, layer.weight.masked(jnp.asarray(mask)))


def test_off_is_exactly_zero_in_value_and_gradient(linear):
    functions = (lambda w: (w.sigma**2).sum(), lambda w: w.sigma.sum(), lambda w: w.kl())

    @eqx.filter_jit
    def computed(linear):
        layer, x, key = masked(linear), jnp.ones(4), jax.random.key(0)
        weight = layer.weight
        kept = GaussianWeight(linear.weight.mu[MASK], linear.weight.rho[MASK], 0.5)
        slope = jax.grad(lambda part: part(x, key=key).sum())(layer).weight
        off = weight.sigma, weight.active, weight.kl(), kept.kl()
        return weight, off, [jax.grad(f)(weight) for f in functions], layer(x, key=key), slope

    weight, (sigma, active, kl, kl_of_kept), slopes, output, slope = jax.device_get(computed(linear))
    assert (weight.mu[~MASK] == 0).all()
    assert (sigma[~MASK] == 0).all()
    np.testing.assert_array_equal(active, MASK)
    np.testing.assert_allclose(kl, kl_of_kept, rtol=1e-6)
    for one in slopes:
        assert (one.rho[~MASK] == 0).all()
        assert (one.mu[~MASK] == 0).all()
        assert (one.rho[MASK] != 0).all()
    # An output without weights is exactly its bias, with finite gradients.
    assert output[1] == linear.bias[1]
    assert np.isfinite(slope.rho).all()
    assert (slope.mu == 1).all()  # dense, off the mask too: what growth ranks
    with jax.enable_x64(True):  # where softplus(-200) does not underflow
        double = GaussianWeight(jnp.zeros(2), jnp.array([-200.0, 0.0])).sigma
        np.testing.assert_array_equal(double, [0, np.log(2) + FLOOR])


def test_grown_weights_have_mean_zero_and_the_average_spread():
    rho = jnp.array([[-1.0, -3.0, -7.0, -200.0]])
    weight = GaussianWeight(jnp.array([[1.0, 2.0, 3.0, 0.0]]), rho)
    kept, new = np.array([[True, True, False, False]]), np.array([[False, False, False, True]])
    grown = weight.grown(new, kept)
    np.testing.assert_array_equal(grown.mu, [[1, 2, 3, 0]])
    np.testing.assert_allclose(grown.rho, [[-1, -3, -7, -2]])
    alone = weight.grown(new, np.zeros_like(kept))
    np.testing.assert_allclose(alone.sigma[0, 3], 0.01, rtol=1e-3)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf - 1]), weight)
    each = jax.vmap(lambda w: w.grown(new, kept))(stacked)
    np.testing.assert_allclose(each.rho[:, 0, 3], [-2, -3])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(2.0**-19, 50.0, width=32), min_size=3, max_size=3))
def test_spread_survives_its_encoding(sigma):
    sigma = np.float32(sigma)
    found = np.asarray(GaussianWeight.from_sigma(jnp.zeros(3), sigma).sigma)
    np.testing.assert_allclose(found, sigma, rtol=1e-4, atol=1e-9)


@eqx.filter_jit
def applied(layer, x, keys, same_noise):
    return jax.vmap(lambda key: layer(x, key=key, same_noise=same_noise))(keys)


def moments(layer, x, n, *, same_noise):
    keys = jax.random.split(jax.random.key(5), n)
    return np.asarray(applied(layer, x, keys, same_noise), float)


def test_local_reparameterisation_has_the_moments_of_drawn_weights(linear):
    """20,000 draws each: means within 5 standard errors, variances within 5% (5 of theirs). False alarms: 1e-5."""
    layer, x = masked(linear), np.float32([0.5, -1.0, 2.0, 0.25])
    weight = layer.weight
    mean = np.asarray(weight.mu) @ x + np.asarray(layer.bias)
    variance = np.asarray(weight.sigma) ** 2 @ x**2
    np.testing.assert_allclose(layer(x), mean, rtol=1e-5)
    for same_noise in (False, True):
        draws = moments(layer, x, 20_000, same_noise=same_noise)
        assert (np.abs(draws.mean(0) - mean) <= 5 * np.sqrt(variance / 20_000) + 1e-6).all()
        np.testing.assert_allclose(draws.var(0), variance, rtol=0.05, atol=1e-12)


def test_convolution_is_the_linear_layer_on_patches():
    mask = RNG.random((3, 2, 3, 3)) < 0.5
    image = jnp.asarray(RNG.normal(size=(2, 5, 6)), jnp.float32)

    @jax.jit
    def both(key):
        conv = eqx.nn.Conv2d(2, 3, 3, stride=2, padding=1, key=jax.random.key(1))
        ours = masked(GaussianConv(conv, sigma_init=0.2), mask)
        mu, sigma = (leaf.reshape(3, 18) for leaf in (ours.weight.mu, ours.weight.sigma))
        rows = jax.lax.conv_general_dilated_patches(image[None], (3, 3), (2, 2), [(1, 1), (1, 1)])[0].reshape(18, -1)
        mean = mu @ rows + ours.bias.reshape(3, 1)
        noise = jax.random.normal(key, (3, 3, 3)).reshape(3, -1)
        expected = mean, mean + jnp.sqrt(sigma**2 @ rows**2) * noise
        drawn = eqx.tree_at(lambda part: part.weight, conv, ours.weight.sample(key))
        found = ours(image), ours(image, key=key), ours(image, key=key, same_noise=True)
        return [f.reshape(3, -1) for f in found], [*expected, drawn(image).reshape(3, -1)]

    for found, expected in zip(*both(jax.random.key(2)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_convolutions_of_other_kinds():
    @jax.jit
    def both(key):
        conv = eqx.nn.Conv1d(4, 4, 3, groups=2, use_bias=False, padding_mode="REFLECT", padding=1, key=key)
        ours, x = GaussianConv(conv), jax.random.normal(key, (4, 8))
        return ours(x), conv(x), ours(x, key=key)

    found, expected, noisy = both(jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(noisy - found).max() < 0.3


def test_whole_models():
    x = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)

    @eqx.filter_jit
    def made(key):
        mlp = eqx.nn.MLP(4, 2, 5, 2, key=key)
        model = to_bayesian(mlp, sigma_init=0.1)
        noisy = jax.vmap(lambda row, key: with_noise(model, key)(row))(x, jax.random.split(key, 3))
        drawn = sample_weights(model, key)
        kl = kl_divergence(model), sum(layer.weight.kl() for layer in model.layers), kl_divergence(drawn)
        partly = to_bayesian(mlp, where=lambda path, layer: path != "layers.0", key=key)
        return mlp, model, drawn, partly, (jax.vmap(mlp)(x), jax.vmap(model)(x), noisy), kl

    mlp, model, drawn, partly, (plain, mean, noisy), kl = made(jax.random.key(0))
    np.testing.assert_allclose(mean, plain, rtol=1e-5)
    assert (np.abs(noisy - plain) > 1e-3).any(axis=1).all()
    assert jax.tree.structure(drawn) == jax.tree.structure(model)
    weight, start = jax.device_get((drawn.layers[1].weight, model.layers[1].weight))
    assert (weight.rho == -200).all()
    assert 0.05 < np.std(weight.mu - start.mu) < 0.2
    np.testing.assert_allclose(kl[0], kl[1], rtol=1e-6)
    assert kl[2] == 0
    assert isinstance(partly.layers[0], eqx.nn.Linear)
    assert isinstance(partly.layers[2], GaussianLinear)
    assert (partly.layers[1].bias == 0).all()
    assert not np.allclose(partly.layers[1].weight.mu, mlp.layers[1].weight)


def test_elbo_is_that_of_numpyro():
    """A layer with a softmax, NumPyro's AutoNormal at the same parameters and the same draw of the weights."""
    pytest.importorskip("numpyro")
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import TraceMeanField_ELBO
    from numpyro.infer.autoguide import AutoNormal

    x, y = RNG.normal(size=(20, 4)).astype(np.float32), RNG.integers(0, 3, 20)
    layer = GaussianLinear(eqx.nn.Linear(4, 3, use_bias=False, key=jax.random.key(0)), sigma_init=0.3, prior_std=0.5)

    def model():
        w = numpyro.sample("w", dist.Normal(0, 0.5).expand([3, 4]).to_event(2))
        numpyro.sample("y", dist.Categorical(logits=x @ w.T).to_event(1), obs=y)

    guide = AutoNormal(model)
    key = jax.random.key(7)
    with numpyro.handlers.seed(rng_seed=0):
        guide()
    params = {"w_auto_loc": layer.weight.mu, "w_auto_scale": layer.weight.sigma}
    theirs = TraceMeanField_ELBO().loss(key, params, model, guide)
    seeded = numpyro.handlers.seed(numpyro.handlers.substitute(guide, params), jax.random.split(key)[1])
    w = numpyro.handlers.trace(seeded).get_trace()["w"]["value"]
    log_probabilities = jax.nn.log_softmax(x @ w.T)
    ours = kl_divergence(layer) - log_probabilities[np.arange(20), y].sum()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_bad_input_is_refused():
    linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"prior_std must be positive and finite, got 0.0"):
        GaussianLinear(linear, prior_std=0.0)
    with pytest.raises(ValueError, match="sigma must be finite and above 1e-06, got nan"):
        GaussianLinear(linear, sigma_init=float("nan"))
    with pytest.raises(ValueError, match=r"linear must be an equinox.nn.Linear between vectors"):
        GaussianLinear(eqx.nn.Linear("scalar", 2, key=jax.random.key(0)))
    with pytest.raises(ValueError, match=r"conv must be an equinox.nn.Conv"):
        GaussianConv(linear)
    with pytest.raises(ValueError, match="model must hold a layer"):
        to_bayesian(eqx.nn.LayerNorm(3))
