"""The gradients of sparse products under every order of `vmap`, `grad` and `jvp`, against dense products."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.kernels.group_sparsity import pack, project_group, unpack
from uqsparse.kernels.sparse_products import matmul, rows_matvec

CLOSE = {"rtol": 2e-4, "atol": 2e-4}


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(12, 20)).astype(np.float32)
    mask = project_group(np.abs(W), 4, 8)
    return pack(W, mask, 8), jnp.asarray(rng.normal(size=(5, 12)), jnp.float32)


def with_values(gs, val):
    return eqx.tree_at(lambda gs: gs.val, gs, val)


def energies(case):
    """The same function of rows and values, by sparse products of single rows, and by dense ones of all."""
    gs, _ = case

    def sparse(x, val):
        return (jnp.tanh(jax.vmap(lambda row: matmul(row, with_values(gs, val)))(x)) ** 2).sum()

    def dense(x, val):
        return (jnp.tanh(x @ unpack(with_values(gs, val))) ** 2).sum()

    return sparse, dense


def test_the_gradient_of_a_batch_is_three_products_and_no_loop(case):
    gs, x = case
    sparse, dense = energies(case)
    text = str(jax.make_jaxpr(jax.grad(sparse, argnums=(0, 1)))(x, gs.val))
    counts = [text.count(f"sparse_product{name}[") for name in ("", "_input_gradient", "_value_gradient")]
    assert counts == [1, 1, 1]
    assert "scan[" not in text
    assert "while[" not in text
    ours, theirs = (jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(x, gs.val) for one in (sparse, dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), ours, theirs)


def test_forward_mode_and_second_derivatives_are_those_of_the_dense_product(case):
    gs, x = case
    direction = (jnp.cos(x), jnp.sin(gs.val))

    def derivatives(energy):
        def along(x, val):
            slope = jax.grad(energy, argnums=(0, 1))(x, val)
            return sum((one * other).sum() for one, other in zip(slope, direction, strict=True))

        first = jax.jvp(energy, (x, gs.val), direction)[1]
        return first, jax.grad(along, argnums=(0, 1))(x, gs.val), jax.jvp(along, (x, gs.val), direction)[1]

    ours, theirs = (jax.jit(partial(derivatives, energy))() for energy in energies(case))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), ours, theirs)


def test_gradients_of_single_rows_of_a_batch(case):
    gs, x = case
    sparse, dense = energies(case)

    def each(energy):
        return jax.jit(jax.vmap(jax.grad(energy, argnums=(0, 1)), (0, None)))(x[:, None], gs.val)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), each(sparse), each(dense))


def test_types_come_back(case):
    gs, x = case
    narrow = jax.grad(lambda x, val: matmul(x, with_values(gs, val)).sum(), argnums=(0, 1))
    dx, dval = narrow(x.astype(jnp.bfloat16), gs.val)
    assert (dx.dtype, dval.dtype) == (jnp.bfloat16, jnp.float32)


def test_the_gradient_of_a_batch_of_chosen_rows_is_one_gradient_of_the_matrix():
    rng = np.random.default_rng(1)
    x, W = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 12), (12, 20)))
    idx = rng.integers(0, 12, size=(5, 4))  # with repeats
    times = (idx[:, :, None] == np.arange(12)).sum(axis=1)

    def sparse(x, W):
        return (jnp.tanh(jax.vmap(rows_matvec, (0, None, 0))(x, W, idx)) ** 2).sum()

    def dense(x, W):
        return (jnp.tanh((times * x) @ W) ** 2).sum()

    text = str(jax.make_jaxpr(jax.grad(sparse, argnums=(0, 1)))(x, W))
    assert [text.count(f"chosen_rows_product{name}[") for name in ("", "_input_gradient", "_value_gradient")] == [1] * 3
    assert "scan[" not in text

    def derivatives(energy):
        return jax.jit(jax.value_and_grad(energy, argnums=(0, 1)))(x, W)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), derivatives(sparse), derivatives(dense))
