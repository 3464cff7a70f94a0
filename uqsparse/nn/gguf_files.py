"""Llama decoders from GGUF files."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from uqsparse.nn.llama import Llama
from uqsparse.nn.llama_config import LlamaConfig
from uqsparse.nn.llama_weights import NameScheme, Weights, assemble, cast_weights, collect_weights, require_weight_type
from uqsparse.nn.weight_cache import cached_weights

_VERSION = 1  # of the conversion: raise it when what `_convert` returns changes
_NAMES = NameScheme(
    outer={"embedding": "token_embd", "norm": "output_norm", "head": "output"},
    block="blk.{}.",
    inner={
        "attention_norm": "attn_norm",
        "attention.query": "attn_q",
        "attention.key": "attn_k",
        "attention.value": "attn_v",
        "attention.output": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.gate": "ffn_gate",
        "mlp.up": "ffn_up",
        "mlp.down": "ffn_down",
    },
)


def load_gguf(
    path: str | os.PathLike,
    *,
    cache: bool = True,
    cache_dir: str | os.PathLike | None = None,
    dtype: Any = jnp.float32,
) -> Llama:
    """Read a Llama decoder from a GGUF file; quantised tensors are turned into plain numbers.

    Args:
        path: GGUF file of the architecture "llama".
        cache: keep the converted weights (538 MB for SmolLM2-135M in float32) and use them the next time.
        cache_dir: folder of the converted weights; None: `uqsparse/weights` in the user's cache folder
            (`$XDG_CACHE_HOME`, else `~/.cache`).
        dtype: type of the weights: float32, bfloat16 or float16; float64 with 64-bit JAX. The computation is in float32
            at least. On a CPU, float32 is the fastest.

    Returns:
        The decoder.

    Raises:
        ImportError: gguf or safetensors is not installed (extra `lm`).
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or no GGUF file, of another architecture, or a tensor is missing, unknown, of
            an unexpected shape, of an unsupported quantisation, or not finite. The file and the tensor are named.

    Source: ggml-org, GGUF (file format description, version 3).
    """
    path, dtype = Path(path), require_weight_type(dtype)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{str(path)!r} is no GGUF file: it does not begin with 'GGUF'")

    def convert() -> tuple[str, Weights]:
        config, weights = _convert(path)
        return json.dumps(asdict(config)), cast_weights(weights, dtype)

    if cache:
        description, weights = cached_weights(path, f"{dtype}-v{_VERSION}", convert, cache_dir)
    else:
        description, weights = convert()
    return assemble(LlamaConfig(**json.loads(description)), weights)


def _convert(path: Path) -> tuple[LlamaConfig, Weights]:
    try:
        import gguf
    except ImportError as error:
        raise ImportError("reading GGUF files needs gguf; pip install 'uqsparse[lm]'") from error
    reader = _open(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(path, reader, tensors)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        shape = tuple(int(n) for n in reversed(tensor.shape))
        try:
            return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32, copy=False)
        except (NotImplementedError, ValueError) as error:
            kind = tensor.tensor_type.name
            raise ValueError(f"{str(path)!r}: tensor {name!r} of type {kind} cannot be read: {error}") from error

    return config, collect_weights(repr(str(path)), config, _NAMES, tensors, read)


def _open(path: Path) -> Any:
    import gguf

    class Reader(gguf.GGUFReader):
        # One tensor at a time, so that an error can name it.
        def _build_tensors(self, start_offs, fields):
            built = []
            for field in fields:
                try:
                    super()._build_tensors(start_offs, [field])
                except (ValueError, IndexError, KeyError, TypeError) as error:
                    raise ValueError(f"tensor {field.name!r} is cut off or damaged: {error}") from error
                built += self.tensors
            self.tensors = built

    try:
        reader = Reader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{str(path)!r} is truncated or damaged: {error}") from error
    names = [tensor.name for tensor in reader.tensors]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{str(path)!r}: tensor {twice!r} occurs twice")
    return reader


def _config(path: Path, reader: Any, tensors: dict[str, Any]) -> LlamaConfig:
    missing = object()

    def field(name: str, default: Any = missing) -> Any:
        found = reader.get_field(name)
        if found is None and default is missing:
            raise ValueError(f"{str(path)!r}: metadata {name!r} is missing")
        return default if found is None else found.contents()

    architecture = field("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{str(path)!r} holds a model of the architecture {architecture!r}; only 'llama' is supported")
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{str(path)!r}: tensor 'token_embd.weight' is missing")
    n_heads, width = field("llama.attention.head_count"), field("llama.embedding_length")
    try:
        config = LlamaConfig(
            n_tokens=int(tensors["token_embd.weight"].shape[-1]),
            width=width,
            n_blocks=field("llama.block_count"),
            n_heads=n_heads,
            n_kv_heads=field("llama.attention.head_count_kv", n_heads),
            mlp_width=field("llama.feed_forward_length"),
            context=field("llama.context_length"),
            head_size=field("llama.attention.key_length", 0),
            rope_base=field("llama.rope.freq_base", 10_000.0),
            norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
            tied="output.weight" not in tensors,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r}: the metadata describe no Llama decoder: {error}") from error
    for name, supported in (
        ("llama.rope.scaling.type", ("none",)),
        ("llama.rope.dimension_count", (config.head_size,)),
        ("llama.attention.value_length", (config.head_size,)),
        ("llama.expert_count", (0,)),
    ):
        value = field(name, supported[0])
        if value not in supported:
            raise ValueError(f"{str(path)!r}: metadata {name!r} is {value!r}; only {supported[0]!r} is supported")
    return config
