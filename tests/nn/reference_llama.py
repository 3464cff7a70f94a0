"""A Llama forward pass written from the papers in plain loops, float64; and a tiny decoder to try it on."""

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.nn.llama import Llama
from uqsparse.nn.llama_config import LlamaConfig

TINY = LlamaConfig(
    n_tokens=19, width=32, n_blocks=2, n_heads=4, n_kv_heads=2, mlp_width=32, context=24, rope_base=50.0, norm_eps=1e-3
)


def tiny_llama(config=TINY, seed=0):
    """Random weights, the norms' scales too, which start at 1 otherwise."""
    llama = Llama(config, key=jax.random.key(seed))
    leaves, structure = jax.tree.flatten(llama)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [1 + 0.3 * jax.random.normal(k, a.shape) if a.ndim == 1 else a for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def reference_logits(llama, tokens):
    """Logits after each token, shape (t, v)."""
    c = llama.config

    def matrix(layer):
        return np.asarray(layer.weight, np.float64)

    def normed(layer, vector):
        return vector / np.sqrt(np.mean(vector**2) + c.norm_eps) * np.asarray(layer.weight, np.float64)

    def turned(vector, position):
        out = np.empty_like(vector)
        for i in range(c.head_size // 2):
            angle = position * c.rope_base ** (-2 * i / c.head_size)
            a, b = vector[2 * i], vector[2 * i + 1]
            out[2 * i] = a * np.cos(angle) - b * np.sin(angle)
            out[2 * i + 1] = a * np.sin(angle) + b * np.cos(angle)
        return out

    stream = [matrix(llama.embedding)[t] for t in tokens]
    for block in llama.blocks:
        a, h = block.attention, c.head_size
        queries, keys, values = [], [], []
        for position, vector in enumerate(stream):
            n = normed(block.attention_norm, vector)
            q, k, v = matrix(a.query) @ n, matrix(a.key) @ n, matrix(a.value) @ n
            queries.append([turned(q[i * h : (i + 1) * h], position) for i in range(c.n_heads)])
            keys.append([turned(k[i * h : (i + 1) * h], position) for i in range(c.n_kv_heads)])
            values.append([v[i * h : (i + 1) * h] for i in range(c.n_kv_heads)])
        after = []
        for position, vector in enumerate(stream):
            mixed = []
            for head in range(c.n_heads):
                shared = head // (c.n_heads // c.n_kv_heads)
                scores = [queries[position][head] @ keys[s][shared] / np.sqrt(h) for s in range(position + 1)]
                weights = np.exp(scores) / np.sum(np.exp(scores))
                mixed.append(sum(w * values[s][shared] for s, w in enumerate(weights)))
            vector = vector + matrix(a.output) @ np.concatenate(mixed)
            n = normed(block.mlp_norm, vector)
            gate, up = matrix(block.mlp.gate) @ n, matrix(block.mlp.up) @ n
            after.append(vector + matrix(block.mlp.down) @ (gate / (1 + np.exp(-gate)) * up))
        stream = after
    head = matrix(llama.embedding if llama.head is None else llama.head)
    return np.stack([head @ normed(llama.norm, vector) for vector in stream])


def some_tokens(shape, seed=0):
    """Random tokens of the tiny decoder."""
    return jnp.asarray(np.random.default_rng(seed).integers(TINY.n_tokens, size=shape))
