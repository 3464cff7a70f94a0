"""Put named weights into a Llama decoder, whatever a file calls them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.nn.llama import Llama
from uqsparse.nn.llama_config import LlamaConfig
from uqsparse.nn.tree_paths import path_name

Weights = dict[str, np.ndarray]


class NameScheme(NamedTuple):
    """What a kind of file calls the weights.

    Args:
        outer: name in the file of each of our modules outside the blocks, "embedding" say.
        block: what a name of a block's weight begins with in the file, with {} for the number of the block.
        inner: name in the file, behind that beginning, of each of our modules inside a block, "mlp.gate" say.
    """

    outer: Mapping[str, str]
    block: str
    inner: Mapping[str, str]

    def of(self, ours: str) -> str:
        """The name in the file of one of our weights, "blocks.3.mlp.gate.weight" say."""
        module = ours.removesuffix(".weight")
        if not module.startswith("blocks."):
            return f"{self.outer[module]}.weight"
        _, number, inner = module.split(".", 2)
        return f"{self.block.format(number)}{self.inner[inner]}.weight"


def weight_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a decoder by its name, which is its place in the module.

    >>> config = LlamaConfig(n_tokens=50, width=16, n_blocks=2, n_heads=4, n_kv_heads=2, mlp_width=24, context=32)
    >>> weight_shapes(config)["blocks.1.attention.key.weight"]
    (8, 16)
    """
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(_blank(config))}


def collect_weights(
    origin: str,
    config: LlamaConfig,
    scheme: NameScheme,
    present: Collection[str],
    read: Callable[[str], np.ndarray],
) -> Weights:
    """Read every weight of a decoder from a file.

    Args:
        origin: name of the file, for errors.
        config: the decoder's sizes.
        scheme: what the file calls the weights.
        present: names of the tensors in the file.
        read: returns the tensor of a name.

    Raises:
        ValueError: a tensor is missing or has no place in the architecture, has another shape, or holds NaN or
            infinite numbers.
    """
    shapes = weight_shapes(config)
    wanted = {scheme.of(ours): ours for ours in shapes}
    for name in wanted:
        if name not in present:
            raise ValueError(f"{origin}: tensor {name!r} is missing")
    for name in present:
        if name not in wanted:
            raise ValueError(f"{origin}: tensor {name!r} has no place in the Llama architecture as supported here")
    weights = {}
    for name, ours in wanted.items():
        array = read(name)
        if array.shape != shapes[ours]:
            raise ValueError(f"{origin}: tensor {name!r} has shape {array.shape}, expected {shapes[ours]}")
        if not np.isfinite(array.astype(np.float32, copy=False)).all():
            raise ValueError(f"{origin}: tensor {name!r} holds NaN or infinite numbers")
        weights[ours] = array
    return weights


def require_weight_type(dtype: Any) -> np.dtype:
    """Raise ValueError unless weights can be kept in this type; returns it as NumPy's."""
    found = np.dtype(dtype)
    if found.name not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {found}")
    if found.name == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("dtype float64 needs 64-bit JAX: with jax.enable_x64(True)")
    return found


def cast_weights(weights: Weights, dtype: Any) -> Weights:
    """Matrices to `dtype`, vectors (the norms' scales) to that or float32, whichever is wider."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return {name: array.astype(dtype if array.ndim == 2 else wide, copy=False) for name, array in weights.items()}


def assemble(config: LlamaConfig, weights: Weights) -> Llama:
    """The decoder with these weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_name(path)]), _blank(config))


def interleaved_rows(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Reorder the rows of a query or key map from half-split RoPE, pairs (i, i + h/2), to pairs (2i, 2i + 1).

    >>> interleaved_rows(np.arange(8)[:, None], 2).ravel().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _blank(config: LlamaConfig) -> Llama:
    return eqx.filter_eval_shape(Llama, config, key=jax.random.key(0))
