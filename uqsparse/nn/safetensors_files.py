"""Llama decoders from safetensors files in the layout of Hugging Face's transformers."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from uqsparse.nn.llama import Llama
from uqsparse.nn.llama_config import LlamaConfig
from uqsparse.nn.llama_weights import (
    NameScheme,
    assemble,
    cast_weights,
    collect_weights,
    interleaved_rows,
    require_weight_type,
)

_NAMES = NameScheme(
    outer={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    block="model.layers.{}.",
    inner={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
)


def load_safetensors(path: str | os.PathLike, config: LlamaConfig | None = None, *, dtype: Any = jnp.float32) -> Llama:
    """Read a Llama decoder from safetensors in the layout of Hugging Face's transformers.

    Args:
        path: a safetensors file, or a folder with `model.safetensors` or with several files and their index,
            `model.safetensors.index.json`.
        config: the decoder's sizes; None: from the `config.json` in the same folder.
        dtype: type of the weights, see `load_gguf`.

    Returns:
        The decoder.

    Raises:
        ImportError: safetensors is not installed (extra `lm`).
        FileNotFoundError: there is no such file, or no `config.json` where one is needed.
        ValueError: a file is truncated or no safetensors file, `config.json` describes another architecture, or a
            tensor is missing, unknown, of an unexpected shape, or not finite. The file and the tensor are named.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError("reading safetensors files needs safetensors; pip install 'uqsparse[lm]'") from error
    path, dtype = Path(path), require_weight_type(dtype)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    folder = path if path.is_dir() else path.parent
    config = read_config(folder / "config.json") if config is None else config
    tensors = {}
    for part in _parts(path):
        try:
            tensors.update(load_file(part))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {str(part)!r}") from None
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ValueError(f"{str(part)!r} is truncated, damaged or no safetensors file: {error}") from error
    if config.tied:
        tensors.pop("lm_head.weight", None)  # some files repeat the embedding under this name
    tensors = {name: array for name, array in tensors.items() if not name.endswith("rotary_emb.inv_freq")}

    def read(name: str) -> np.ndarray:
        array = tensors[name]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{str(path)!r}: tensor {name!r} of type {array.dtype} cannot be read")
        return array

    weights = collect_weights(repr(str(path)), config, _NAMES, tensors, read)
    for i in range(config.n_blocks):
        for name, n_heads in (("query", config.n_heads), ("key", config.n_kv_heads)):
            place = f"blocks.{i}.attention.{name}.weight"
            weights[place] = interleaved_rows(weights[place], n_heads)
    return assemble(config, cast_weights(weights, dtype))


def read_config(path: str | os.PathLike) -> LlamaConfig:
    """Read the sizes of a decoder from a `config.json` of Hugging Face's transformers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, misses an entry, or asks for what is not supported.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the argument config instead")
    entries = _json(path)
    rope = entries.get("rope_parameters") or entries.get("rope_scaling") or {}
    for name, value, supported in (
        ("model_type", entries.get("model_type"), "llama"),
        ("hidden_act", entries.get("hidden_act", "silu"), "silu"),
        ("attention_bias", entries.get("attention_bias", False), False),
        ("mlp_bias", entries.get("mlp_bias", False), False),
        ("type of RoPE", rope.get("rope_type", rope.get("type", "default")), "default"),
    ):
        if value != supported:
            raise ValueError(f"{str(path)!r}: {name} is {value!r}; only {supported!r} is supported")
    try:
        return LlamaConfig(
            n_tokens=entries["vocab_size"],
            width=entries["hidden_size"],
            n_blocks=entries["num_hidden_layers"],
            n_heads=entries["num_attention_heads"],
            n_kv_heads=entries.get("num_key_value_heads") or entries["num_attention_heads"],
            mlp_width=entries["intermediate_size"],
            context=entries["max_position_embeddings"],
            head_size=entries.get("head_dim") or 0,
            rope_base=rope.get("rope_theta", entries.get("rope_theta", 10_000.0)),
            norm_eps=entries["rms_norm_eps"],
            tied=entries.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ValueError(f"{str(path)!r}: entry {error} is missing") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} describes no Llama decoder: {error}") from error


def _parts(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    parts = _json(index).get("weight_map")
    if not isinstance(parts, dict):
        raise ValueError(f"{str(index)!r}: entry 'weight_map' is missing")
    return [path / name for name in sorted(set(parts.values()))]


def _json(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{str(path)!r} must hold one object")
    return entries
