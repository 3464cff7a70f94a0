"""GGUF files: small ones written for the purpose, damaged ones, and SmolLM2 itself against what is known of it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from reference_llama import TINY, tiny_llama

from uqsparse.data.language import load_tokenizer, python_topics
from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.gguf_files import load_gguf

gguf = pytest.importorskip("gguf", reason="needs the extra lm")
pytest.importorskip("safetensors", reason="needs the extra lm")


def tensors_of(llama):
    """Name in GGUF to array, and nothing else: written out, not taken from the reader."""
    tensors = {"token_embd.weight": llama.embedding.weight, "output_norm.weight": llama.norm.weight}
    if llama.head is not None:
        tensors["output.weight"] = llama.head.weight
    for i, block in enumerate(llama.blocks):
        tensors |= {
            f"blk.{i}.attn_norm.weight": block.attention_norm.weight,
            f"blk.{i}.attn_q.weight": block.attention.query.weight,
            f"blk.{i}.attn_k.weight": block.attention.key.weight,
            f"blk.{i}.attn_v.weight": block.attention.value.weight,
            f"blk.{i}.attn_output.weight": block.attention.output.weight,
            f"blk.{i}.ffn_norm.weight": block.mlp_norm.weight,
            f"blk.{i}.ffn_gate.weight": block.mlp.gate.weight,
            f"blk.{i}.ffn_up.weight": block.mlp.up.weight,
            f"blk.{i}.ffn_down.weight": block.mlp.down.weight,
        }
    return {name: np.asarray(array) for name, array in tensors.items()}


def write(path, llama, *, architecture="llama", raw=(), change=lambda tensors: None, more=(), leave_out=()):
    config = llama.config
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {
        "block_count": config.n_blocks,
        "context_length": config.context,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "rope.dimension_count": config.head_size,
    }
    for name, value in numbers.items():
        if name not in leave_out:
            writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.rope.freq_base", config.rope_base)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config.norm_eps)
    for name, value in more:
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(name, value)
    tensors = tensors_of(llama)
    change(tensors)
    for name, array in tensors.items():
        content, kind = dict(raw).get(name, (array, None))
        writer.add_tensor(name, content, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(loaded, llama):
    assert loaded.config == replace(llama.config, norm_eps=loaded.config.norm_eps)
    np.testing.assert_allclose(loaded.config.norm_eps, llama.config.norm_eps, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(llama), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_plain_numbers_come_back_as_they_were(tmp_path, tied):
    llama = tiny_llama(replace(TINY, tied=tied))
    assert_same(load_gguf(write(tmp_path / "a.gguf", llama), cache=False), llama)


def test_heads_of_another_size_than_width_over_heads(tmp_path):
    llama = tiny_llama(replace(TINY, head_size=6))
    sizes = [("llama.attention.key_length", 6), ("llama.attention.value_length", 6)]
    assert_same(load_gguf(write(tmp_path / "a.gguf", llama, more=sizes), cache=False), llama)


def test_quantised_numbers_come_back_rounded(tmp_path):
    """Q8_0: blocks of 32 numbers, each a whole number between -127 and 127 times a scale in half precision."""
    llama = tiny_llama()
    exact, kind = np.asarray(llama.blocks[1].mlp.down.weight), gguf.GGMLQuantizationType.Q8_0
    path = write(tmp_path / "a.gguf", llama, raw=[("blk.1.ffn_down.weight", (gguf.quantize(exact, kind), kind))])
    loaded = np.asarray(load_gguf(path, cache=False).blocks[1].mlp.down.weight)
    scale = np.abs(exact).max(axis=1, keepdims=True) / 127
    half = scale.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(loaded, np.round(exact / scale) * half, atol=1.01 * half.max() / 1000)
    assert 0 < np.abs(loaded - exact).max() < 0.6 * scale.max()


def test_the_cache_gives_the_same_decoder_without_the_tensors(tmp_path, monkeypatch):
    llama = tiny_llama()
    path = write(tmp_path / "a.gguf", llama)
    assert_same(load_gguf(path, cache_dir=tmp_path / "cache"), llama)
    monkeypatch.setattr(gguf, "dequantize", None)
    assert_same(load_gguf(path, cache_dir=tmp_path / "cache"), llama)
    (entry,) = (tmp_path / "cache").iterdir()
    assert "float32" in entry.name


def test_other_types_of_numbers(tmp_path):
    llama = tiny_llama()
    path = write(tmp_path / "a.gguf", llama)
    for cache in (False, True, True):
        loaded = load_gguf(path, dtype=jax.numpy.bfloat16, cache=cache, cache_dir=tmp_path)
        assert loaded.blocks[0].mlp.up.weight.dtype == jax.numpy.bfloat16
        assert loaded.norm.weight.dtype == np.float32
        np.testing.assert_array_equal(loaded.embedding.weight, llama.embedding.weight.astype(jax.numpy.bfloat16))
    with pytest.raises(ValueError, match="dtype must be float16, bfloat16, float32 or float64, got int8"):
        load_gguf(path, dtype=np.int8)
    with pytest.raises(ValueError, match="dtype float64 needs 64-bit JAX"):
        load_gguf(path, dtype=np.float64)
    with jax.enable_x64(True):
        assert load_gguf(path, dtype=np.float64, cache=False).embedding.weight.dtype == np.float64


def test_files_that_are_no_gguf_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_gguf(tmp_path / "none.gguf")
    for content in (b"", b"GG", b"PK\x03\x04 something else", b"FUGG"):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(ValueError, match=r"foreign' is no GGUF file"):
            load_gguf(tmp_path / "foreign")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = write(tmp_path / "a.gguf", tiny_llama()).read_bytes()
    last = "blk.1.ffn_down.weight"
    for length in [5, 9, 24, 100, 400, *range(600, len(content), 3001)]:
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut.gguf'"):
            load_gguf(tmp_path / "cut.gguf", cache_dir=tmp_path)
    (tmp_path / "cut.gguf").write_bytes(content[:-200])
    with pytest.raises(ValueError, match=rf"cut.gguf' is truncated or damaged: tensor '{last}' is cut off"):
        load_gguf(tmp_path / "cut.gguf", cache_dir=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def _put(name, value):
    def change(tensors):
        tensors[name] = value(tensors) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "gpt2"}, "of the architecture 'gpt2'; only 'llama' is supported"),
        ({"leave_out": ["feed_forward_length"]}, "metadata 'llama.feed_forward_length' is missing"),
        ({"change": lambda t: t.pop("blk.1.ffn_up.weight")}, "tensor 'blk.1.ffn_up.weight' is missing"),
        ({"change": lambda t: t.pop("token_embd.weight")}, "tensor 'token_embd.weight' is missing"),
        (
            {"change": _put("blk.0.attn_k.weight", lambda t: t["blk.0.attn_k.weight"][:8])},
            r"tensor 'blk.0.attn_k.weight' has shape \(8, 32\), expected \(16, 32\)",
        ),
        (
            {"change": _put("blk.0.attn_q.bias", np.zeros(32, np.float32))},
            "tensor 'blk.0.attn_q.bias' has no place in the Llama architecture",
        ),
        (
            {"change": _put("output_norm.weight", np.full(32, np.nan, np.float32))},
            "tensor 'output_norm.weight' holds NaN or infinite numbers",
        ),
        ({"more": [("llama.rope.scaling.type", "linear")]}, "'llama.rope.scaling.type' is 'linear'; only 'none'"),
        ({"more": [("llama.expert_count", 8)]}, "'llama.expert_count' is 8; only 0"),
        ({"more": [("llama.attention.key_length", 7)]}, "describe no Llama decoder: head_size must be even"),
    ],
    ids=["foreign", "metadata", "missing", "vocabulary", "shape", "bias", "nan", "rope", "experts", "head"],
)
def test_what_is_no_llama_decoder_is_refused(tmp_path, arguments, message):
    path = write(tmp_path / "bad.gguf", tiny_llama(), **arguments)
    with pytest.raises(ValueError, match=rf"bad.gguf'.*{message}"):
        load_gguf(path, cache=False)


def test_an_unsupported_quantisation_is_refused(tmp_path):
    kind, name = gguf.GGMLQuantizationType.Q8_K, "blk.0.ffn_gate.weight"
    content = np.zeros((TINY.mlp_width, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)  # a block of 256 numbers a row
    llama = tiny_llama(replace(TINY, width=256, head_size=64))
    path = write(tmp_path / "bad.gguf", llama, raw=[(name, (content, kind))])
    with pytest.raises(ValueError, match=rf"bad.gguf': tensor '{name}' of type Q8_K cannot be read"):
        load_gguf(path, cache=False)


@pytest.fixture(scope="module")
def smol(smollm2_path):
    return compile_blocks(load_gguf(smollm2_path)), load_tokenizer(smollm2_path)


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smol):
    llama, tokenizer = smol
    tokens = tokenizer.encode("The capital of France is")
    logits = llama(np.asarray(tokens))
    assert tokenizer.decode([int(logits[-1].argmax())]) == " Paris"


@pytest.mark.slow
def test_smollm2_reaches_its_known_perplexity(smol):
    """The whole path, from the quantised file to the mean log probability, against a figure that was measured by other
    code: 17.2 on tokens 2000 to 2511 of the articles of Python 3.11, joined by line breaks."""
    llama, tokenizer = smol
    texts = python_topics().texts
    if len(texts) != 79 or len("\n".join(texts)) != 465_048:
        pytest.skip("the articles of this version of Python are not those of the figure")
    tokens = np.asarray(tokenizer.encode("\n".join(texts)))
    assert len(tokens) == 112_955
    logits = np.asarray(llama(tokens[2000:2512]), np.float64)
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    perplexity = np.exp(-log_probabilities[np.arange(511), tokens[2001:2512]].mean())
    assert abs(perplexity - 17.2) < 0.05
