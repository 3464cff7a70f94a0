"""The decoder against a loop-written forward pass in float64, and its ways of reading against each other."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_llama import TINY, reference_logits, some_tokens, tiny_llama

from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.llama_config import LlamaConfig

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def compiled(llama):
    return compile_blocks(llama)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False},
        {"n_kv_heads": 4},
        {"n_kv_heads": 1, "head_size": 6, "rope_base": 1e4},
    ],
    ids=["grouped", "untied", "ungrouped", "one-kv-head"],
)
def test_logits_are_those_of_a_plain_forward_pass(changes):
    model, tokens = tiny_llama(replace(TINY, **changes), seed=3), some_tokens(9)
    np.testing.assert_allclose(compile_blocks(model)(tokens), reference_logits(model, np.asarray(tokens)), **CLOSE)


def test_later_tokens_change_nothing_before_them(compiled):
    tokens = some_tokens(9)
    changed = tokens.at[6].set((tokens[6] + 1) % TINY.n_tokens)
    before, after = np.asarray(compiled(tokens)), np.asarray(compiled(changed))
    np.testing.assert_array_equal(before[:6], after[:6])
    assert (np.abs(before[6:] - after[6:]).max(axis=1) > 1e-3).all()


def test_a_batch_is_its_strings_one_by_one(compiled):
    tokens = some_tokens((3, 9))
    np.testing.assert_allclose(compiled(tokens), np.stack([compiled(row) for row in tokens]), **CLOSE)


def test_reading_piece_by_piece_is_reading_at_once(compiled):
    tokens = some_tokens((3, 9))
    whole = np.asarray(compiled(tokens))
    cache = compiled.empty_cache(3, 13)
    logits, cache = compiled.prefill(tokens[:, :5], cache)
    np.testing.assert_allclose(logits, whole[:, 4], **CLOSE)
    for i in range(5, 9):
        logits, cache = compiled.decode(tokens[:, i], cache)
        np.testing.assert_allclose(logits, whole[:, i], **CLOSE)
    assert int(cache.length) == 9


def test_padding_of_a_prompt_is_not_seen(compiled):
    tokens = some_tokens((3, 9))
    whole = np.asarray(compiled(tokens))
    cache = compiled.empty_cache(3, 13)
    padded = jnp.concatenate([tokens[:, :3], jnp.full((3, 2), 7)], axis=1)
    logits, cache = compiled.prefill(padded, cache, 3)
    np.testing.assert_allclose(logits, whole[:, 2], **CLOSE)
    logits, cache = compiled.prefill(tokens[:, 3:8], cache)
    logits, cache = compiled.decode(tokens[:, 8], cache)
    np.testing.assert_allclose(logits, whole[:, 8], **CLOSE)


def test_grouped_heads_are_repeated_heads(llama, compiled):
    full = tiny_llama(replace(TINY, n_kv_heads=TINY.n_heads))

    def repeated(weight):
        by_head = np.asarray(weight).reshape(TINY.n_kv_heads, TINY.head_size, TINY.width)
        return jnp.asarray(np.repeat(by_head, TINY.n_heads // TINY.n_kv_heads, axis=0).reshape(-1, TINY.width))

    def weights(model):
        return [layer.weight for b in model.blocks for layer in (b.attention.key, b.attention.value)]

    def rest(model):
        others = [model.embedding, model.norm]
        for b in model.blocks:
            others += [b.attention_norm, b.attention.query, b.attention.output, b.mlp_norm, b.mlp]
        return others

    full = eqx.tree_at(rest, full, rest(llama))
    full = eqx.tree_at(weights, full, [repeated(weight) for weight in weights(llama)])
    tokens = some_tokens(9)
    np.testing.assert_allclose(compile_blocks(full)(tokens), compiled(tokens), **CLOSE)


class _Factors(eqx.Module):
    """The same map in another form, with a function among its leaves."""

    left: jax.Array
    right: jax.Array
    between: object = jnp.asarray

    def __call__(self, x):
        return self.left @ self.between(self.right @ x)


class _Zero(eqx.Module):
    size: int = eqx.field(static=True)

    def __call__(self, x):
        return jnp.zeros(self.size, x.dtype)


MAPS = [
    lambda m: m.blocks[1].attention.query,
    lambda m: m.blocks[0].attention.key,
    lambda m: m.blocks[0].attention.value,
    lambda m: m.blocks[1].attention.output,
    lambda m: m.blocks[0].mlp.gate,
    lambda m: m.blocks[1].mlp.up,
    lambda m: m.blocks[0].mlp.down,
    lambda m: m.head,
]


@pytest.mark.parametrize("where", MAPS, ids=["query", "key", "value", "output", "gate", "up", "down", "head"])
def test_every_linear_map_can_be_replaced(where):
    model, tokens = tiny_llama(replace(TINY, tied=False)), some_tokens(9)
    before = np.asarray(model(tokens))
    weight = where(model).weight
    same = eqx.tree_at(where, model, _Factors(weight, jnp.eye(weight.shape[1])))
    np.testing.assert_allclose(same(tokens), before, **CLOSE)
    nothing = eqx.tree_at(where, model, _Zero(weight.shape[0]))
    assert np.abs(np.asarray(nothing(tokens)) - before).max() > 1e-3


def test_it_can_be_compiled_as_one_program_and_differentiated(llama, compiled):
    tokens = some_tokens(9)

    def loss(model):
        return -jax.nn.log_softmax(model(tokens))[jnp.arange(8), tokens[1:]].mean()

    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(llama)
    expected = -jax.nn.log_softmax(compiled(tokens))[jnp.arange(8), tokens[1:]].mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # A small step against the gradient lowers the loss by what the gradient says.
    step = jax.tree.map(lambda a: -1e-3 * a, gradient)
    after = loss(compile_blocks(jax.tree.map(jnp.add, llama, step)))
    promised = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
    np.testing.assert_allclose(after - value, promised, rtol=0.1)


def test_low_precision_weights_are_used_in_float32(llama):
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim == 2 else a, llama)
    tokens = some_tokens(9)
    logits = compile_blocks(rounded)(tokens)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, reference_logits(rounded, np.asarray(tokens)), **CLOSE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(jnp.zeros(25, int)), "25 tokens asked for; the context of the model holds 1 to 24"),
        (lambda m: m(jnp.zeros(0, int)), "0 tokens asked for"),
        (lambda m: m(jnp.array([3, 19])), "tokens must lie between 0 and 18, got 3 to 19"),
        (lambda m: m(jnp.array([-1, 3])), "got -1 to 3"),
        (lambda m: m(jnp.array([0.5, 3])), "tokens must be integers"),
        (lambda m: m.empty_cache(2, 30), "30 tokens asked for"),
        (lambda m: m.prefill(jnp.zeros((1, 5), int), m.empty_cache(1, 4)), r"0 \+ 5 tokens do not fit"),
        (lambda m: m.prefill(jnp.zeros((2, 3), int), m.empty_cache(1, 4)), "tokens of 2 strings do not fit"),
        (lambda m: m.prefill(jnp.zeros((1, 3), int), m.empty_cache(1, 4), 4), "n_real must be between 1 and"),
        (lambda m: m.decode(jnp.zeros(1, int), m.empty_cache(1, 4)._replace(length=jnp.array(4))), r"4 \+ 1 tokens"),
    ],
    ids=["long", "empty", "large", "negative", "fractional", "capacity", "full", "strings", "padding", "one-more"],
)
def test_what_does_not_fit_is_refused(compiled, call, message):
    with pytest.raises(ValueError, match=message):
        call(compiled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads must divide n_heads, got 3 and 4"),
        ({"head_size": 5}, "head_size must be even"),
        ({"width": 30, "head_size": 0}, "n_heads must divide width"),
        ({"n_blocks": 0}, "n_blocks must be an integer of at least 1, got 0"),
        ({"context": 2.5}, "context must be an integer of at least 1, got 2.5"),
        ({"rope_base": 0.0}, "rope_base must be a finite number above 0"),
        ({"norm_eps": float("nan")}, "norm_eps must be a finite number above 0"),
    ],
    ids=["groups", "odd", "split", "none", "fraction", "base", "nan"],
)
def test_sizes_that_make_no_decoder_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_sizes_are_kept():
    assert LlamaConfig(**{name: getattr(TINY, name) for name in TINY.__dataclass_fields__}) == TINY
