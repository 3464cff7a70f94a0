"""Compiled blocks: one program for blocks that are alike, and caches that are used up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_llama import some_tokens, tiny_llama

from uqsparse.nn.compiled_blocks import _program, compile_blocks

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def test_blocks_that_are_alike_share_one_program():
    _program.cache_clear()
    compiled = compile_blocks(tiny_llama())
    compiled.prefill(some_tokens((1, 3)), compiled.empty_cache(1, 8))
    structure = jax.tree.structure(tiny_llama().blocks[0])
    assert _program.cache_info().currsize == 1
    assert _program(structure, False)._cache_size() == 1


def test_in_place_uses_up_the_cache_and_gives_the_same():
    llama, tokens = tiny_llama(), some_tokens((2, 4))
    plain, in_place = compile_blocks(llama), compile_blocks(llama, in_place=True)
    old = plain.empty_cache(2, 8)
    expected, _ = plain.prefill(tokens, old)
    assert not old.keys[0].is_deleted()
    logits, new = in_place.prefill(tokens, old)
    np.testing.assert_allclose(logits, expected, **CLOSE)
    assert old.keys[0].is_deleted()
    with pytest.raises((RuntimeError, ValueError), match="deleted"):
        in_place.prefill(tokens, old)
    assert int(new.length) == 4


def test_the_weights_are_not_copied():
    llama = tiny_llama()
    assert compile_blocks(llama).embedding.weight is llama.embedding.weight


class _Squared(eqx.Module):
    """A norm with a function among its leaves."""

    norm: eqx.Module
    function: object

    def __call__(self, x):
        return self.function(self.norm(x))


def test_modules_that_hold_functions_are_compiled_too():
    llama, tokens = tiny_llama(), some_tokens(9)
    other = eqx.tree_at(lambda m: m.blocks[0].mlp_norm, llama, _Squared(llama.blocks[0].mlp_norm, jnp.square))
    np.testing.assert_allclose(compile_blocks(other)(tokens), other(tokens), **CLOSE)
    assert not np.allclose(other(tokens), llama(tokens), atol=1e-3)
