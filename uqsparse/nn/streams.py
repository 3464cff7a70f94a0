"""The streams of common networks: which places hold the same hidden units, for `uqsparse.kernels.rearrange`."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from uqsparse.kernels.rearrangement import Place, Stream
from uqsparse.nn.llama import Llama

_ELEMENTWISE: tuple[Callable[..., Any], ...] = (
    *(jax.nn.relu, jax.nn.relu6, jax.nn.leaky_relu, jax.nn.elu, jax.nn.celu, jax.nn.selu, jax.nn.gelu, jax.nn.silu),
    *(jax.nn.softplus, jax.nn.sigmoid, jax.nn.tanh, jax.nn.hard_tanh, jax.nn.hard_sigmoid, jax.nn.hard_silu),
    *(jax.nn.soft_sign, jax.nn.mish, jnp.tanh, jnp.sin, jnp.square),
)
# These act on each channel, or on each entry, alone.
_ALONE = (eqx.nn.Dropout, eqx.nn.Identity, eqx.nn.Pool, eqx.nn.PReLU)


def chain_streams(
    network: eqx.nn.MLP | eqx.nn.Sequential, elementwise: Sequence[Callable[..., Any]] = ()
) -> list[Stream]:
    """The streams between the layers of a chain: one for each linear or convolutional layer but the last.

    Layers may be `Linear`, `Conv` (with one group), `LayerNorm` and `RMSNorm`, pools, dropout, and a `Lambda` of an
    elementwise function of `jax.nn` or of `jax.numpy.ravel`.

    Args:
        network: the chain. Its input and its output keep their order.
        elementwise: other functions that act on each entry alone.

    Raises:
        ValueError: a layer is of another kind; its streams have to be written by hand.

    >>> mlp = eqx.nn.MLP(3, 2, width_size=8, depth=2, key=jax.random.key(0))
    >>> [len(stream.others) for stream in chain_streams(mlp)]
    [2, 2]
    """
    if isinstance(network, eqx.nn.MLP):
        if any(eqx.is_array(leaf) for leaf in jax.tree.leaves((network.activation, network.final_activation))):
            raise ValueError("the activation of the MLP holds arrays: write its streams by hand")
        if "scalar" in (network.in_size, network.out_size) and network.depth == 0:
            return []
    elif not isinstance(network, eqx.nn.Sequential):
        raise ValueError(f"network must be an equinox.nn.MLP or Sequential, got {type(network).__name__}")
    streams: list[Stream] = []
    writer: Place | None = None
    units, others = 0, []
    for i, layer in enumerate(network.layers):

        def place(name: str, axis: int, run: int = 1, i: int = i) -> Place:
            return Place(lambda chain: getattr(chain.layers[i], name), axis, run=run)

        if isinstance(layer, eqx.nn.Linear | eqx.nn.Conv):
            if getattr(layer, "groups", 1) != 1:
                raise ValueError(f"layer {i}: a convolution in groups ties its inputs: write its streams by hand")
            if writer is not None:
                reader = place("weight", 1, _run(layer.weight.shape[1], units, i))
                streams.append(Stream([writer], [*others, reader]))
            writer, units = place("weight", 0), layer.weight.shape[0]
            others = [] if layer.bias is None else [place("bias", 0)]
        elif isinstance(layer, eqx.nn.LayerNorm | eqx.nn.RMSNorm):
            names = [name for name in ("weight", "bias") if writer is not None and getattr(layer, name) is not None]
            others += [place(name, 0, _run(getattr(layer, name).shape[0], units, i)) for name in names]
        elif isinstance(layer, eqx.nn.Lambda):
            if not any(layer.fn is known for known in (*_ELEMENTWISE, *elementwise, jnp.ravel)):
                raise ValueError(f"layer {i}: {layer.fn!r} is not known to act elementwise; name it in `elementwise`")
        elif not isinstance(layer, _ALONE):
            raise ValueError(f"layer {i}: {type(layer).__name__} is not supported: write its streams by hand")
    return streams


def llama_streams(llama: Llama, group: int = 16) -> list[Stream]:
    """The streams of a Llama decoder: the residual one, the gated units of each block and its values by heads.

    Queries and keys keep their order, which the rotary embedding fixes. Values move inside a head, and are left out if
    the head size is no multiple of the group.

    Args:
        llama: the decoder, its linear maps dense.
        group: outputs that will share their inputs.
    """
    config = llama.config
    streams, writers = [], []
    others = [Place(lambda m: m.embedding.weight, 1), Place(lambda m: m.norm.weight, 0)]
    if llama.head is not None:
        others.append(Place(lambda m: m.head.weight, 1))
    for i in range(len(llama.blocks)):

        def place(part: str, axis: int, tile: int = 1, i: int = i) -> Place:
            first, _, second = part.partition(".")

            def where(model: Llama) -> Any:
                module = getattr(model.blocks[i], first)
                return (getattr(module, second) if second else module).weight

            return Place(where, axis, tile)

        writers += [place("attention.output", 0), place("mlp.down", 0)]
        others += [place(name, 0) for name in ("attention_norm", "mlp_norm")]
        others += [place(f"attention.{name}", 1) for name in ("query", "key", "value")]
        others += [place(f"mlp.{name}", 1) for name in ("gate", "up")]
        streams.append(Stream([place("mlp.gate", 0), place("mlp.up", 0)], [place("mlp.down", 1)]))
        if config.head_size % group == 0:
            sharing = config.n_heads // config.n_kv_heads
            reader = place("attention.output", 1, sharing)
            streams.append(Stream([place("attention.value", 0)], [reader], config.n_kv_heads))
    return [Stream(writers, others), *streams]


def _run(entries: int, units: int, i: int) -> int:
    run, rest = divmod(entries, units)
    if rest or not run:
        raise ValueError(f"layer {i} reads {entries} entries, which are not {units} units or so many equal runs")
    return run
