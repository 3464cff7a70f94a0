"""Networks whose dense layers are replaced by packed ones, and their files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from uqsparse.kernels.group_sparsity import GroupSparse, from_arrays
from uqsparse.kernels.product_choice import worth_packing
from uqsparse.kernels.sparse_products import Backend
from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear, in_place_of, keeps_whole_groups
from uqsparse.nn.tree_paths import path_name
from uqsparse.whole_file import whole_file

Network = TypeVar("Network")
_DENSE = (eqx.nn.Linear, eqx.nn.Conv)

_STORED = ("ptr", "idx", "val")


def pack_network(
    network: Network,
    *,
    mask: PyTree | None = None,
    density: float | None = None,
    group: int | None = 16,
    which: Callable[[Any], bool] = lambda layer: True,
    backend: Backend = "auto",
) -> Network:
    """Replace the linear layers and convolutions of a network by packed ones.

    With a mask, or with neither mask nor density, the function is that of the masked network, up to rounding.
    Without groups, `group=1`, linear layers become `SparseLinear`.

    With `backend="auto"` a layer stays dense, with zeros for what is dropped, where more than 60% of it is kept (30%
    without groups, 40% in groups of 2 and 3), where a packed one can be slower. Training fills such zeros unless it
    masks them.

    Args:
        network: any pytree that holds `equinox.nn.Linear` and `equinox.nn.Conv`.
        mask: a pytree like the network with a boolean array for each weight, or None for a layer that stays dense.
        density: or the share of the inputs that each group keeps, those with the largest sum of |weight|. With
            neither, the weights that are not zero are kept.
        group: outputs that share their inputs. None, without a density: for each layer the largest of 16, 8, 4, 2 and 1
            that needs no weight which is dropped.
        which: whether to pack a layer; layers between scalars and convolutions in groups never are.
        backend: of the products, see `uqsparse.kernels.matmul`; any but "auto" packs every layer.

    Raises:
        ValueError: a mask and a density are given, or a layer cannot be packed as asked; it is named.

    >>> mlp = eqx.nn.MLP(8, 4, width_size=32, depth=1, key=jax.random.key(0))
    >>> [layer.packed.val.shape for layer in pack_network(mlp, density=0.25).layers]
    [(4, 16), (8, 16)]
    """

    if group is None and density is not None:
        raise ValueError("group must be a number where a density is given, got None")

    def pack_layer(layer: Any, weight_mask: Any) -> Any:
        size = group or _largest_group(np.asarray(layer.weight) != 0 if weight_mask is None else weight_mask)
        chosen = {"mask": weight_mask, "density": density, "backend": backend}
        if isinstance(layer, eqx.nn.Conv):
            return GroupConv.from_conv(layer, group=size, **chosen)
        if size == 1:
            return SparseLinear.from_linear(layer, **chosen)
        return GroupLinear.from_linear(layer, group=size, **chosen)

    def replace(path: tuple[Any, ...], layer: Any, mask_of: Any) -> Any:
        if not isinstance(layer, _DENSE) or not which(layer):
            return layer
        weight_mask = getattr(mask_of, "weight", None)
        if weight_mask is None and by_mask:
            return layer
        if isinstance(layer, eqx.nn.Conv):
            if layer.groups != 1:
                return layer
        elif "scalar" in (layer.in_features, layer.out_features):
            return layer
        try:
            packed = pack_layer(layer, weight_mask)
        except ValueError as error:
            raise ValueError(f"{path_name((*path, jax.tree_util.GetAttrKey('weight')))!r}: {error}") from None
        if backend != "auto" or worth_packing(packed.packed.density, packed.packed.group):
            return packed
        return eqx.tree_at(lambda dense: dense.weight, layer, packed.weight)

    def is_layer(node: Any) -> bool:
        return isinstance(node, _DENSE)

    by_mask = mask is not None
    if not by_mask:
        mask = jax.tree.map(lambda layer: None, network, is_leaf=is_layer)
    return jax.tree_util.tree_map_with_path(replace, network, mask, is_leaf=is_layer)


def _largest_group(mask: Any) -> int:
    rows = np.asarray(mask).reshape(len(mask), -1)
    return next(group for group in (16, 8, 4, 2, 1) if keeps_whole_groups(rows, group))


def network_bytes(network: PyTree) -> int:
    """Bytes of all arrays of a network; of packed weights, values and positions."""
    leaves = jax.tree.leaves(network, is_leaf=lambda node: isinstance(node, GroupSparse))
    return sum(leaf.n_bytes if isinstance(leaf, GroupSparse) else leaf.nbytes for leaf in leaves if _has_bytes(leaf))


def save_packed(path: str | os.PathLike, network: PyTree) -> None:
    """Write the arrays of a network to a safetensors file, packed weights packed.

    Arrays are named by where they stand, as `layers.0.packed.val`. Nothing else is written: functions and sizes are in
    the network that `load_packed` is given.

    Args:
        path: the file; it is replaced if it exists, when the new one is complete.
        network: any pytree of arrays, packed layers included.

    Raises:
        ImportError: safetensors is not installed (extra `lm`).
        OSError: the folder is missing, or cannot be written.
    """
    save_file = _safetensors().numpy.save_file
    tensors, packed = {}, {}
    for name, leaf in _named_leaves(network):
        if isinstance(leaf, GroupSparse):
            packed[name] = {"shape": leaf.shape, "group": leaf.group}
            tensors |= {f"{name}.{part}": np.asarray(getattr(leaf, part)) for part in _STORED}
        elif eqx.is_array(leaf) or isinstance(leaf, np.ndarray):
            tensors[name] = np.asarray(leaf)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with whole_file(Path(path)) as draft:
        save_file(tensors, draft, metadata={"packed": json.dumps(packed)})


def load_packed(path: str | os.PathLike, like: Network, *, backend: Backend = "auto") -> Network:
    """Read a network from a file of `save_packed`, bit by bit what was written.

    Args:
        path: the file.
        like: a network of the same architecture, with dense layers or packed ones: its functions and sizes are kept,
            its arrays replaced. Where the file has packed weights, dense layers become packed.
        backend: of the products of layers that become packed.

    Raises:
        ImportError: safetensors is not installed (extra `lm`).
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, a tensor is missing, unknown, of another shape or type, or positions are out
            of range. The file and the tensor are named.
    """
    module = _safetensors()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with module.safe_open(path, framework="numpy") as file:
            entries = json.loads((file.metadata() or {}).get("packed", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        packed = {}
        for name, entry in entries.items():
            ptr, idx, val = (tensors.pop(f"{name}.{part}") for part in _STORED)
            packed[name] = from_arrays(ptr, idx, val, tuple(entry["shape"]), entry["group"])
    except KeyError as error:
        raise ValueError(f"{str(path)!r}: tensor or entry {error} is missing") from None
    except (module.SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged, or not written by save_packed: {error}") from error

    def find(name: str, leaf: Any) -> Any:
        if isinstance(leaf, GroupSparse):
            if name not in packed or packed[name].shape != leaf.shape:
                raise ValueError(f"{str(path)!r}: no packed weight {name!r} of shape {leaf.shape}")
            return packed.pop(name)
        if not (eqx.is_array(leaf) or isinstance(leaf, np.ndarray)):
            return leaf
        found = tensors.pop(name, None)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            got = "nothing" if found is None else f"{found.dtype} of shape {found.shape}"
            raise ValueError(f"{str(path)!r}: tensor {name!r} must be {leaf.dtype} of shape {leaf.shape}, got {got}")
        return jnp.asarray(found) if isinstance(leaf, jax.Array) else found

    def prepare(name: str, layer: Any) -> Any:
        weight = packed.get(f"{name}.packed" if name else "packed")
        if weight is None or not isinstance(layer, _DENSE):
            return layer
        if isinstance(layer, eqx.nn.Conv):
            return GroupConv.in_place_of(layer, weight, backend)
        return in_place_of(layer, weight, SparseLinear if weight.group == 1 else GroupLinear, backend)

    like = _map_named(prepare, like, _DENSE)
    network = _map_named(find, like, GroupSparse)
    if left := [*tensors, *packed]:
        raise ValueError(f"{str(path)!r}: tensor {left[0]!r} has no place in the network")
    return network


def _map_named(function: Callable[[str, Any], Any], tree: Network, kinds: type | tuple[type, ...]) -> Network:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree, is_leaf=lambda node: isinstance(node, kinds)
    )


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, GroupSparse))[0]
    return [(path_name(path), leaf) for path, leaf in found]


def _has_bytes(leaf: Any) -> bool:
    return isinstance(leaf, GroupSparse | jax.Array | np.ndarray)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("safetensors files need safetensors; pip install 'uqsparse[lm]'") from error
    return safetensors
