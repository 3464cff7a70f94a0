"""The exact rank test: kernels that are right pass however slowly they mix, wrong ones are found."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.ranks import rank_test

SMALL = {"budget": 3000, "batch_size": 1000, "length": 6}


def simulate(key):
    """A standard normal mean and one observation of unit noise: the posterior is N(y / 2, 1 / 2)."""
    noise = jax.random.normal(key, 2)
    return noise[0], noise[0] + noise[1]


class Autoregression(eqx.Module):
    """A reversible kernel with stationary law N(pull * y, variance), right for 1/2 and 1/2; compiled once for all."""

    pull: float = 0.5
    variance: float = 0.5
    memory: float = 0.0

    def __call__(self, key, theta, y):
        noise = jnp.sqrt(self.variance * (1 - self.memory**2)) * jax.random.normal(key)
        return self.pull * y + self.memory * (theta - self.pull * y) + noise


def check(*settings, seed=0, **options):
    kernel = Autoregression(*(np.asarray(x) for x in settings))
    return rank_test(jax.random.key(seed), simulate, kernel, **{**SMALL, **options})


def metropolis(key, theta, y):
    key_step, key_accept = jax.random.split(key)
    proposal = theta + 1.5 * jax.random.normal(key_step)
    ratio = (theta - y / 2) ** 2 - (proposal - y / 2) ** 2
    return jnp.where(jnp.log(jax.random.uniform(key_accept)) < ratio, proposal, theta)


def test_a_slow_kernel_passes_and_its_ranks_are_uniform_value_by_value():
    # False-alarm rate 1e-5.
    found = check(0.5, 0.5, 0.9)
    assert found.ok, str(found)
    assert found.n == 3000
    assert found.ranks.shape == (3000, len(found.names))
    assert "the kernel is reversible" in str(found)
    assert "Autoregression" in found.subject
    counts = np.bincount(found.ranks[:, 0], minlength=6)
    # Chi-squared with 5 degrees of freedom exceeds 33 with probability 4e-6.
    assert np.sum((counts - 500) ** 2 / 500) < 33


def test_metropolis_passes():
    found = rank_test(jax.random.key(0), simulate, metropolis, **SMALL)
    assert found.ok, str(found)


@pytest.mark.parametrize(
    "settings",
    [(0.5, 1.0, 0.0), (0.0, 1.0, 0.5), (1.0, 1.0, 0.5), (0.5, 0.8, 0.5)],
    ids=["too-wide", "keeps-the-prior", "forgets-the-prior", "a-little-wide"],
)
def test_wrong_kernels_are_found(settings):
    found = check(*settings)
    assert not found.ok
    assert found.n < 2500
    assert found.counterexample is not None


def test_ranks_of_the_parameter_alone_cannot_see_a_kernel_that_keeps_the_prior():
    assert check(0.0, 1.0, 0.5, statistics=lambda theta, y: theta).ok


def cycle_start(key):
    return jax.random.randint(key, (), 0, 3), 0.0


def ahead(key, theta, y):
    return (theta + 1) % 3


def back(key, theta, y):
    return (theta - 1) % 3


def test_a_kernel_that_is_not_reversible_needs_its_reverse():
    identity = {"theta": lambda theta, y: theta}
    alone = rank_test(jax.random.key(4), cycle_start, ahead, identity, budget=3000, length=2)
    assert not alone.ok
    both = rank_test(jax.random.key(4), cycle_start, ahead, identity, backward=back, budget=3000, length=2)
    assert both.ok
    assert "backward is the kernel reversed" in str(both)


def coin_start(key):
    uniforms = jax.random.uniform(key, 2)
    theta = (uniforms[0] < 0.3).astype(int)
    return theta, (uniforms[1] < 0.2 + 0.6 * theta).astype(int)


def coin(key, theta, y):
    """Barker's acceptance of the other side."""
    joint = jnp.array([0.7, 0.3]) * jnp.where(y == 1, jnp.array([0.2, 0.8]), jnp.array([0.8, 0.2]))
    return jnp.where(jax.random.uniform(key) < joint[1 - theta] / joint.sum(), 1 - theta, theta)


def test_ties_do_no_harm():
    found = rank_test(jax.random.key(5), coin_start, coin, **SMALL)
    assert found.ok, str(found)


def test_steps_between_states_show_errors_of_slow_kernels_earlier():
    tenth = check(0.5, 1.0, 0.97, seed=6, n_steps=10)
    assert not tenth.ok
    assert check(0.5, 1.0, 0.97, seed=6, budget=tenth.n, batch_size=1000).ok


def test_same_key_same_result():
    first, second = (check(0.5, 1.0, 0.0, seed=2) for _ in range(2))
    np.testing.assert_array_equal(first.ranks, second.ranks)
    assert first.evidence == second.evidence


def test_nan_is_an_error_that_says_where():
    with pytest.raises(ValueError, match=r"theta is NaN after steps of the kernel, in a chain that starts at theta ="):
        check(0.5, -1.0, 0.0)


def test_bad_input_is_refused():
    key, kernel = jax.random.key(0), Autoregression()
    with pytest.raises(ValueError, match="length must be an integer of at least 2"):
        rank_test(key, simulate, kernel, length=1)
    with pytest.raises(ValueError, match="budget must be"):
        rank_test(key, simulate, kernel, budget=0)
    with pytest.raises(ValueError, match="alpha must lie"):
        rank_test(key, simulate, kernel, alpha=1.0)
    with pytest.raises(TypeError, match="kernel must be a function"):
        rank_test(key, simulate, None)  # pyright: ignore[reportArgumentType]
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="kernel draws random numbers on the host"):
        rank_test(key, simulate, lambda key, theta, y: y / 2 + rng.normal(), **SMALL)
