"""One process, two precisions, the same data: what JAX alone gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from uqsparse.inference.arviz_io import dataset
from uqsparse.inference.nuts import nuts
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash

Y = np.array([0.3, 1.1, 2.4])
TINY = {"n_warmup": 5, "n_samples": 8, "n_chains": 1}


def closed_over():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=Y)


@pytest.mark.parametrize("first", [False, True])
def test_a_model_with_data_inside_runs_in_either_precision_after_the_other(first):
    for double in (first, not first):
        with jax.enable_x64(double):
            data = nuts(jax.random.key(0), closed_over, **TINY)
        assert dataset(data)["mu"].dtype == (np.float64 if double else np.float32)


def test_a_clash_is_survived():
    values = np.array([1 / 3, 2 / 3])
    kept = [jax.make_jaxpr(lambda m: values * m)(1.0)]  # alive, it holds the float32 form of the values

    def compute():
        calls.append(None)
        if len(calls) == 2:
            kept.clear()
        return jax.jit(lambda m: jnp.asarray(values) * m)(1.0)

    calls: list[None] = []
    with jax.enable_x64(True):
        result = retry_after_precision_clash(compute)
    np.testing.assert_allclose(result, values, rtol=1e-7)
    assert len(calls) <= 2


def test_other_errors_pass_at_once():
    calls = []

    def fail():
        calls.append(None)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        retry_after_precision_clash(fail)
    assert len(calls) == 1


def test_copies_are_of_numpy_arrays_only():
    tree = {"a": Y, "b": jnp.ones(2), "n": 3, "s": "text"}
    copied = copy_arrays(tree)
    assert copied["a"] is not Y
    np.testing.assert_array_equal(copied["a"], Y)
    assert copied["b"] is tree["b"]
    assert copied["n"] == 3
    assert copied["s"] == "text"
