"""A character transformer trained on Python's documentation, and what one-shot pruning leaves of it."""

from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from uqsparse.data.language import printable, python_topics
from uqsparse.nn.attention import apply_linear
from uqsparse.pruning.allocation import Allocation, erk
from uqsparse.pruning.criteria import Criterion, random
from uqsparse.pruning.recipes.essential_sparsity import essential_sparsity
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.sparsity_curves import Curve
from uqsparse.pruning.structures import Structure

CONTEXT, WIDTH, HEADS, N_BLOCKS = 64, 64, 4, 2
STEPS, BATCH, RATE = 2400, 16, 3e-3
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


class Block(eqx.Module):
    """Attention to earlier characters, and a network of rectified units."""

    attention_norm: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    hidden_norm: eqx.nn.LayerNorm
    hidden: eqx.nn.Linear
    back: eqx.nn.Linear

    def __init__(self, key: Key[Array, ""]):
        keys = jax.random.split(key, 6)
        self.attention_norm, self.hidden_norm = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.output = (eqx.nn.Linear(WIDTH, WIDTH, key=one) for one in keys[:4])
        self.hidden = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[4])
        self.back = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[5])

    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        normed = jax.vmap(jax.vmap(self.attention_norm))(x)
        heads = (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (apply_linear(layer, normed).reshape(heads) for layer in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + apply_linear(self.output, attended.reshape(x.shape))
        hidden = jax.nn.relu(apply_linear(self.hidden, jax.vmap(jax.vmap(self.hidden_norm))(x)))
        return x + apply_linear(self.back, hidden)


class CharacterTransformer(eqx.Module):
    """A decoder over characters."""

    embedding: Float[Array, "characters width"]
    place_embedding: Float[Array, "time width"]
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key: Key[Array, ""], n_characters: int):
        keys = jax.random.split(key, 3 + N_BLOCKS)
        self.embedding = 0.1 * jax.random.normal(keys[0], (n_characters, WIDTH))
        self.place_embedding = 0.1 * jax.random.normal(keys[1], (CONTEXT, WIDTH))
        self.head = eqx.nn.Linear(WIDTH, n_characters, key=keys[2])
        self.blocks = tuple(Block(key) for key in keys[3:])
        self.norm = eqx.nn.LayerNorm(WIDTH)

    def __call__(self, text: Int[Array, "batch time"]) -> Float[Array, "batch time characters"]:
        x = self.embedding[text] + self.place_embedding[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return apply_linear(self.head, jax.vmap(jax.vmap(self.norm))(x))


def in_blocks(path: str, leaf: Any) -> bool:
    """The matrices of the blocks are pruned: no embeddings, norms, biases or head."""
    return path.startswith("blocks") and leaf.ndim == 2


@cache
def corpus() -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"], int]:
    """Training text, its last tenth for evaluation, and the number of characters."""
    text = printable("\n".join(python_topics().texts))
    alphabet, codes = np.unique(list(text), return_inverse=True)
    cut = int(0.9 * len(codes))
    return codes[:cut].astype(np.int32), codes[cut:].astype(np.int32), len(alphabet)


def _losses(model: CharacterTransformer, windows: Int[Array, "batch time"]) -> Float[Array, " batch"]:
    """Nats a character of each window."""
    logits = model(windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean(axis=1)


def _windows(key: Key[Array, ""], text: Int[Array, " n"]) -> Int[Array, "batch time"]:
    starts = jax.random.randint(key, (BATCH,), 0, len(text) - CONTEXT)
    return text[starts[:, None] + jnp.arange(CONTEXT + 1)]


@partial(jax.jit, static_argnames=("optimiser", "steps"))
def _fit(key, model, state, text, first, optimiser, steps):
    """The model and the state of the optimiser after steps number `first` and on."""
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, number):
        arrays, state = carry
        windows = _windows(jax.random.fold_in(key, number), text)
        grads = jax.grad(lambda arrays: _losses(eqx.combine(arrays, rest), windows).mean())(arrays)
        updates, state = optimiser.update(grads, state, arrays)
        return (optax.apply_updates(arrays, updates), state), None

    (arrays, state), _ = jax.lax.scan(step, (arrays, state), first + jnp.arange(steps))
    return eqx.combine(arrays, rest), state


_TRAINING = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))


@cache
def checkpoints(seed: int) -> list[CharacterTransformer]:
    """A transformer before training and after each twelfth of it."""
    text, _, n_characters = corpus()
    key, every = jax.random.key(seed + 1), STEPS // 12
    kept = [CharacterTransformer(jax.random.key(seed), n_characters)]
    state = _TRAINING.init(eqx.filter(kept[0], eqx.is_inexact_array))
    for first in range(0, STEPS, every):
        model, state = _fit(key, kept[-1], state, jnp.asarray(text), first, _TRAINING, every)
        kept.append(model)
    return kept


def trained(seed: int) -> CharacterTransformer:
    """The transformer after training."""
    return checkpoints(seed)[-1]


_all_losses = jax.jit(lambda model, windows: jax.lax.map(partial(_losses, model), windows))


def negative_losses(model: CharacterTransformer) -> Float[np.ndarray, " windows"]:
    """Minus the nats a character of each evaluation window."""
    _, text, _ = corpus()
    n = (len(text) - 1) // CONTEXT // 60 * 60
    windows = text[np.arange(n)[:, None] * CONTEXT + np.arange(CONTEXT + 1)]
    return -np.asarray(_all_losses(model, jnp.asarray(windows.reshape(-1, 60, CONTEXT + 1)))).ravel()


_FINE_STEPS = 200
_FINE = static(optax.adam(optax.cosine_decay_schedule(1e-3, _FINE_STEPS)), density=1.0, key=jax.random.key(0))


def finetune(model: CharacterTransformer, mask: PyTree) -> CharacterTransformer:
    """200 steps with the mask fixed."""
    text, _, _ = corpus()
    # One transformation for all masks, so that training compiles once; the mask is in its state.
    state: Any = _FINE.init(eqx.filter(model, eqx.is_inexact_array))
    return _fit(jax.random.key(7), model, state._replace(mask=mask), jnp.asarray(text), 0, _FINE, _FINE_STEPS)[0]


@cache
def curve(
    seed: int,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    grid: tuple[float, ...] | None = GRID,
    fine: bool = False,
    criterion: Criterion | None = None,
) -> Curve:
    """Performance, minus the loss, of the transformer of a seed."""
    return essential_sparsity(
        trained(seed),
        negative_losses,
        grid,
        allocation=allocation,
        structure=structure,
        criterion=criterion,
        finetune=finetune if fine else None,
        prunable=in_blocks,
        key=jax.random.key(seed),
    )


@cache
def random_curve(seed: int) -> Curve:
    """The same with random masks, Erdős-Rényi counts."""
    return curve(seed, allocation=erk(), criterion=random(), grid=(0.0, 0.1, 0.2))
