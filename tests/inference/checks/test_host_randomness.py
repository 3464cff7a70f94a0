"""Functions that draw random numbers on the host are told from those that do not."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.host_randomness import refuse_host_randomness

KEY, Y = jax.random.key(0), np.ones(2)
GENERATOR = np.random.default_rng(0)


def numpy_global(key, y):
    return y.sum() + np.random.normal()  # noqa: NPY002


def python_global(key, y):
    return y.sum() + random.gauss(0, 1)


def own_generator(key, y):
    return y.sum() + jnp.asarray(GENERATOR.normal(size=1))


def own_generator_scalar(key, y):
    return y.sum() + float(GENERATOR.normal())


def own_generator_choice(key, y):
    return (y.sum(),) if GENERATOR.uniform() < 0.5 else (y.sum(), y)


def call_back(key, y):
    noise = jax.ShapeDtypeStruct((), jnp.float32)
    return y.sum() + jax.pure_callback(lambda: np.asarray(GENERATOR.normal(), np.float32), noise)


GUILTY = [numpy_global, python_global, own_generator, own_generator_scalar, call_back]


@pytest.mark.parametrize("function", GUILTY)
def test_it_is_found(function):
    with pytest.raises(ValueError, match="kernel draws random numbers on the host"):
        refuse_host_randomness("kernel", function, KEY, Y)


@pytest.mark.parametrize("function", [numpy_global, own_generator])
def test_it_is_found_in_a_compiled_function_that_has_run_before(function):
    compiled = jax.jit(function)
    compiled(KEY, Y)
    with pytest.raises(ValueError, match="kernel draws random numbers on the host"):
        refuse_host_randomness("kernel", compiled, KEY, Y)


def test_programs_of_different_forms_count_as_found():
    """Two traces take the same branch half the time: 40 checks all miss it with probability 1e-12."""
    with pytest.raises(ValueError, match="draws random numbers on the host"):  # noqa: PT012
        for _ in range(40):
            refuse_host_randomness("kernel", own_generator_choice, KEY, Y)


TABLE = np.arange(3.0)


def constants(key, y):
    """Makes new constants, new closures and a drawn number from its key in every trace."""
    table = jnp.asarray(np.arange(5.0))
    moved = jax.lax.fori_loop(0, 3, lambda i, x: x + table[i], y)
    return jax.nn.relu(moved).sum() + TABLE.sum() + jax.random.normal(key) + math.pi


def deterministic_call_back(key, y):
    result = jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.pure_callback(lambda x: np.asarray(2.0 * np.asarray(x), np.float32), result, y)


def key_inside(key, y):
    """A fixed key is odd, but repeats nothing that would change."""
    return y.sum() + jax.random.normal(jax.random.key(3))


@pytest.mark.parametrize("function", [constants, deterministic_call_back, key_inside, jax.jit(constants)])
def test_others_are_left_alone(function):
    refuse_host_randomness("kernel", function, KEY, Y)


def test_nan_is_equal_to_itself():
    def undefined(key, y):
        nan = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(lambda: np.asarray(np.nan, np.float32), nan)

    refuse_host_randomness("kernel", undefined, KEY, Y)


def test_it_leaves_the_global_generators_alone():
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    refuse_host_randomness("kernel", constants, KEY, Y)
    found = np.random.uniform(), random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    assert found == (np.random.uniform(), random.random())  # noqa: NPY002
