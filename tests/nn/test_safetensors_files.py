"""Weights in Hugging Face's layout, whose RoPE pairs coordinates i and i + h/2."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from reference_llama import TINY, reference_logits, some_tokens, tiny_llama

from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.llama_weights import interleaved_rows
from uqsparse.nn.safetensors_files import load_safetensors

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra lm")

CONFIG = {
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": TINY.n_tokens,
    "hidden_size": TINY.width,
    "num_hidden_layers": TINY.n_blocks,
    "num_attention_heads": TINY.n_heads,
    "num_key_value_heads": TINY.n_kv_heads,
    "intermediate_size": TINY.mlp_width,
    "max_position_embeddings": TINY.context,
    "rope_theta": TINY.rope_base,
    "rms_norm_eps": TINY.norm_eps,
    "tie_word_embeddings": True,
}


def half_split(weight, n_heads):
    """Rows of each head: first the even ones, then the odd ones."""
    rows = []
    for head in np.split(np.asarray(weight), n_heads):
        rows += [*head[0::2], *head[1::2]]
    return np.stack(rows)


def tensors_of(llama):
    config = llama.config
    tensors = {"model.embed_tokens.weight": llama.embedding.weight, "model.norm.weight": llama.norm.weight}
    if llama.head is not None:
        tensors["lm_head.weight"] = llama.head.weight
    for i, block in enumerate(llama.blocks):
        at = f"model.layers.{i}."
        tensors |= {
            at + "input_layernorm.weight": block.attention_norm.weight,
            at + "self_attn.q_proj.weight": half_split(block.attention.query.weight, config.n_heads),
            at + "self_attn.k_proj.weight": half_split(block.attention.key.weight, config.n_kv_heads),
            at + "self_attn.v_proj.weight": block.attention.value.weight,
            at + "self_attn.o_proj.weight": block.attention.output.weight,
            at + "post_attention_layernorm.weight": block.mlp_norm.weight,
            at + "mlp.gate_proj.weight": block.mlp.gate.weight,
            at + "mlp.up_proj.weight": block.mlp.up.weight,
            at + "mlp.down_proj.weight": block.mlp.down.weight,
        }
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def write(folder, llama, config=CONFIG):
    folder.mkdir(exist_ok=True)
    safetensors_numpy.save_file(tensors_of(llama), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same(loaded, llama):
    assert loaded.config == llama.config
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(llama), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_a_file_and_a_file_with_sizes(tmp_path):
    llama = tiny_llama()
    folder = write(tmp_path, llama)
    assert_same(load_safetensors(folder), llama)
    assert_same(load_safetensors(folder / "model.safetensors"), llama)
    (folder / "config.json").unlink()
    assert_same(load_safetensors(folder / "model.safetensors", TINY), llama)
    with pytest.raises(FileNotFoundError, match=r"config.json'; give the argument config instead"):
        load_safetensors(folder)


def test_an_untied_head_in_several_files(tmp_path):
    llama = tiny_llama(replace(TINY, tied=False))
    tensors = tensors_of(llama)
    parts = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for part in set(parts.values()):
        safetensors_numpy.save_file({n: a for n, a in tensors.items() if parts[n] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": False}))
    assert_same(load_safetensors(tmp_path), llama)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-1.safetensors'"):
        load_safetensors(tmp_path)


def test_a_head_that_repeats_the_embedding_is_left_out(tmp_path):
    llama = tiny_llama()
    tensors = tensors_of(llama)
    safetensors_numpy.save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "a")
    assert_same(load_safetensors(tmp_path / "a", TINY), llama)


def test_half_split_rope_by_its_own_formula():
    """Scores of the half-split form, pairs (i, i + h/2), equal those of reordered rows and pairs (2i, 2i + 1)."""
    h, rng = TINY.head_size, np.random.default_rng(0)
    query, key = rng.normal(size=(2, h, TINY.width))
    x, y = rng.normal(size=(2, TINY.width))

    def turned(vector, position, first, second):
        out = vector.copy()
        for i in range(h // 2):
            angle = position * TINY.rope_base ** (-2 * i / h)
            a, b = vector[first(i)], vector[second(i)]
            out[first(i)] = a * np.cos(angle) - b * np.sin(angle)
            out[second(i)] = a * np.sin(angle) + b * np.cos(angle)
        return out

    halves = (lambda i: i), (lambda i: i + h // 2)
    pairs = (lambda i: 2 * i), (lambda i: 2 * i + 1)
    expected = turned(query @ x, 7, *halves) @ turned(key @ y, 3, *halves)
    query, key = interleaved_rows(query, 1), interleaved_rows(key, 1)
    np.testing.assert_allclose(turned(query @ x, 7, *pairs) @ turned(key @ y, 3, *pairs), expected)


def test_low_precision_and_one_forward_pass(tmp_path):
    llama, tokens = tiny_llama(), some_tokens(9)
    folder = write(tmp_path, llama)
    logits = compile_blocks(load_safetensors(folder))(tokens)
    np.testing.assert_allclose(logits, reference_logits(llama, np.asarray(tokens)), rtol=2e-5, atol=2e-5)
    rounded = load_safetensors(folder, dtype=jax.numpy.bfloat16)
    assert rounded.blocks[0].attention.key.weight.dtype == jax.numpy.bfloat16
    assert rounded.norm.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; only 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True; only False"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "type of RoPE is 'llama3'; only 'default'"),
        ({"num_key_value_heads": 3}, "describes no Llama decoder: n_kv_heads must divide"),
    ],
    ids=["model", "activation", "bias", "rope", "heads"],
)
def test_other_architectures_are_refused(tmp_path, entries, message):
    with pytest.raises(ValueError, match=rf"config.json'.*{message}"):
        load_safetensors(write(tmp_path, tiny_llama(), CONFIG | entries))


def test_a_config_that_is_not_complete_is_refused(tmp_path):
    write(tmp_path, tiny_llama(), {k: v for k, v in CONFIG.items() if k != "vocab_size"})
    with pytest.raises(ValueError, match=r"config.json': entry 'vocab_size' is missing"):
        load_safetensors(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json' is not valid JSON"):
        load_safetensors(tmp_path)


def test_newer_config_files_hold_the_base_of_rope_elsewhere(tmp_path):
    entries = {k: v for k, v in CONFIG.items() if k != "rope_theta"}
    entries["rope_parameters"] = {"rope_theta": 77.0, "rope_type": "default"}
    assert load_safetensors(write(tmp_path, tiny_llama(), entries)).config.rope_base == 77.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "tensor 'model.layers.1.mlp.up_proj.weight' is missing"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}), "has no place"),
        (lambda t: t.update({"model.norm.weight": np.zeros(31, np.float32)}), r"'model.norm.weight' has shape \(31,\)"),
        (lambda t: t.update({"model.norm.weight": np.full(32, np.inf, np.float32)}), "holds NaN or infinite"),
        (lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}), "of type int8 cannot be read"),
    ],
    ids=["missing", "bias", "shape", "infinite", "integers"],
)
def test_bad_tensors_are_refused(tmp_path, change, message):
    tensors = tensors_of(tiny_llama())
    change(tensors)
    safetensors_numpy.save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=rf"bad.safetensors'.*{message}"):
        load_safetensors(tmp_path / "bad.safetensors", TINY)


def test_damaged_files_are_refused(tmp_path):
    content = (write(tmp_path, tiny_llama()) / "model.safetensors").read_bytes()
    for damaged in (b"", content[:100], content[:-1], b"GGUF and more bytes than eight"):
        (tmp_path / "cut").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cut' is truncated, damaged or no safetensors file"):
            load_safetensors(tmp_path / "cut", TINY)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_safetensors(tmp_path / "none", TINY)
