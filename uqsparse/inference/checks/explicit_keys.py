"""Random keys that carry their own random numbers, so that a JAX function of a key is a function of explicit numbers.

An explicit key looks to JAX like any other typed key and works under `jit`, `vmap`, `scan` and `cond`. Think of an
endless tape of words: a key owns a stretch of it, `split` shares the stretch out among the children, and drawing random
bits reads it from its beginning. First a function is watched, to see which places of the tape it reads; then keys are
made that hold just the words of those places. So production code that takes a key is run as it is, with numbers of our
choosing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_2x32
from jaxtyping import Array, Float, UInt32

TAPE = 2**31
# `fold_in(key, i)` shares a stretch out among this many children; a larger i is refused.
FOLDS = 16
N_TAPES = 4


class Draw(NamedTuple):
    """One random number that a function draws: its place on the tape, in words of 32 bits, and its width in bits."""

    place: int
    width: int


class Layout(NamedTuple):
    """Which numbers a function draws, in the order of the tape."""

    draws: tuple[Draw, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """The words that are read."""
        return tuple(draw.place + i for draw in self.draws for i in range(_words(draw.width)))


def find_layout(function: Callable[..., Any], examples: Sequence[tuple[Any, ...]], seed: int = 0) -> Layout:
    """Find out which random numbers a function of a key draws, by watching it.

    Args:
        function: `function(key, *arguments)`, traceable.
        examples: tuples of arguments to watch it on, each with several random tapes. Numbers that are drawn only in a
            branch which none of these takes stay unknown.
        seed: of the random tapes.

    Raises:
        ValueError: its key is split too often, or numbers of 16 and more are folded into it.
    """
    seen: list[_Use] = []
    watching = _implementation((), seen.append)
    # A new function, so that JAX does not recall an earlier trace of it.
    run = jax.jit(lambda data, *arguments: function(jax.random.wrap_key_data(data, impl=watching), *arguments))
    for arguments in examples:
        for tape in range(N_TAPES):
            jax.block_until_ready(run(np.array([0, TAPE, seed + tape], np.uint32), *arguments))
    jax.effects_barrier()
    if any(use.fold >= FOLDS for use in seen):
        raise ValueError(f"the function folds a number of {FOLDS} or more into its key: split the key instead")
    if any(use.n_words > use.room for use in seen):
        raise ValueError("the function splits its key too often: take fewer particles or steps")
    draws = {
        Draw(place, use.width) for use in seen for place in range(use.place, use.place + use.n_words, _words(use.width))
    }
    return Layout(tuple(sorted(draws)))


def explicit_key(layout: Layout, numbers: Float[Array, " k"], rest: Any = 0) -> Array:
    """Make a key whose draws are the given numbers.

    Args:
        layout: what the function draws.
        numbers: one number in [0, 1) for each draw, in double precision. A uniform draw returns it, rounded down to
            that draw's precision, and `jax.random.normal` the normal quantile at it.
        rest: word that stands at all other places of the tape, which the function should not read.
    """
    words = [jnp.uint32(0), jnp.uint32(TAPE), jnp.asarray(rest, jnp.uint32)]
    for number, draw in zip(numbers, layout.draws, strict=True):
        high = jnp.floor(number * 2.0**32)
        words.append(high.astype(jnp.uint32) >> max(32 - draw.width, 0))
        if draw.width > 32:
            words.append(jnp.floor((number * 2.0**32 - high) * 2.0**32).astype(jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl=_implementation(layout.places, None))


class _Use(NamedTuple):
    """What a watched key was asked for: bits of some width at a place, or a fold of a number."""

    width: int
    place: int
    n_words: int
    room: int
    fold: int


@functools.lru_cache(maxsize=64)
def _implementation(places: tuple[int, ...], watch: Callable[[_Use], None] | None) -> Any:
    """Kind of key whose data are the place and length of its stretch, a word for all other places, and the words.

    A watched key holds no words and reads pseudo-random ones.
    """
    known = np.asarray(places, np.uint32)

    def tell(width: int, place: Any, count: int, room: Any, fold: Any = 0) -> None:
        if (told := watch) is not None:
            jax.debug.callback(lambda *seen: told(_Use(width, *map(int, seen))), place, count, room, fold)

    def seed(_: Any) -> Array:
        raise ValueError("the function makes a key of its own from a seed: let it use the key it is given")

    def share(data: Array, i: Any, n: int) -> Array:
        room = data[1] // jnp.uint32(n)
        return data.at[:2].set(jnp.stack([data[0] + jnp.asarray(i, jnp.uint32) * room, room]))

    def split(data: Array, shape: tuple[int, ...]) -> Array:
        n = math.prod(shape)
        return jax.vmap(lambda i: share(data, i, n))(jnp.arange(n)).reshape(*shape, data.shape[0])

    def fold_in(data: Array, number: Any) -> Array:
        tell(32, data[0], 0, data[1], number)
        return share(data, jnp.minimum(jnp.asarray(number, jnp.uint32), FOLDS - 1), FOLDS)

    def read(data: Array, count: int) -> UInt32[Array, " count"]:
        wanted = data[0] + jnp.arange(count, dtype=jnp.uint32)
        if watch is not None:
            return threefry_2x32(jnp.stack([data[2], jnp.uint32(0)]), wanted)
        if not places:
            return jnp.full(count, data[2])
        at = jnp.minimum(jnp.searchsorted(jnp.asarray(known), wanted), len(known) - 1)
        return jnp.where(jnp.asarray(known)[at] == wanted, data[3:][at], data[2])

    def random_bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
        count = math.prod(shape) * _words(width)
        tell(width, data[0], count, data[1])
        words = read(data, count)
        if width == 64:
            pairs = words.reshape(-1, 2).astype(jnp.uint64)
            return (pairs[:, 0] << 32 | pairs[:, 1]).reshape(shape)
        return words.astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width]).reshape(shape)

    return define_prng_impl(
        key_shape=(3 + len(places),),
        seed=seed,
        split=split,
        fold_in=fold_in,
        random_bits=random_bits,
        name="explicit",
        tag="explicit",
    )


def _words(width: int) -> int:
    return 2 if width == 64 else 1
