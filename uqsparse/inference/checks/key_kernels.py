"""The exact law of a JAX function of a random key that has finitely many results.

The function is run as it is, with keys that carry explicit numbers. As a function of those numbers, each uniform on
[0, 1), its result is constant on boxes, since all it does is compare them with thresholds. The thresholds are found by
bisection, every box is visited, and the probability of a result is the volume of its boxes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.inference.checks.boxes import level_sets
from uqsparse.inference.checks.exact import FLOAT_TOLERANCE, Images, Measure
from uqsparse.inference.checks.explicit_keys import Layout, explicit_key, find_layout
from uqsparse.inference.checks.host_randomness import refuse_host_randomness

# Results are compared, and states merged, to this many significant digits.
DIGITS = 10
# Draws of 32 bits know thresholds to 2**-23 in single precision.
SINGLE_TOLERANCE = 1e-6
# One size of batch, so that little is compiled.
BATCH = 4096


def key_kernel(
    kernel: Callable[[Any, Any], Any],
    *,
    points: Mapping[int, Sequence[float]] | None = None,
    max_outcomes: int = 2_000_000,
    seed: int = 0,
) -> Images:
    """Give a JAX kernel of a key to `push` and `check_invariance`.

    The kernel may use `jit`, `scan`, `cond` and `vmap`, and split and fold its key as it likes. It runs in double
    precision. What it draws has to act through comparisons, as in `uniform < p`: with a normal or gamma draw the next
    state would take infinitely many values. (`jax.random.categorical` compares sums of logarithms of several draws,
    which are no boxes either; draw an index from one uniform number and cumulative probabilities.)

    Args:
        kernel: `kernel(key, state)` returns the next state. A state is a number, a tuple of numbers or of tuples (an
            array), or a named tuple of states; the kernel gets arrays and returns arrays of the same structure.
        points: for some draws, by their number in the order of the key's splits, the only values they are to take,
            with equal probability, in [0, 1). A symmetric random walk keeps its invariant distribution if its normal
            draw takes two symmetric values, and then it stays on a lattice.
        max_outcomes: most boxes.
        seed: of the search for thresholds.

    Returns:
        The kernel by its images of states.

    Raises:
        ValueError: (when it is used) the kernel returns NaN, draws randomness of its own, varies continuously with a
            draw, or has more boxes than `max_outcomes`.

    >>> import jax.numpy as jnp
    >>> from uqsparse.inference.checks import check_invariance
    >>> def metropolis(key, state):  # masses 1 and 2
    ...     return jnp.where((state == 1) & (jax.random.uniform(key) < 0.5), 0, 1)
    >>> check_invariance({0: 1, 1: 2}, key_kernel(metropolis)).ok
    True
    """
    program = _Program(kernel, dict(points or {}), max_outcomes, seed)
    return Images(program.law, lambda: program.tolerance)


def key_law(function: Callable[[Any], Any], **options: Any) -> Measure:
    """Compute the distribution of a JAX function of a key that has finitely many results.

    Args:
        function: `function(key)` returns a number, an array, or a named tuple of them.
        **options: those of `key_kernel`.

    Returns:
        Results, as states are given there, with their probabilities.

    >>> sorted(key_law(lambda key: jax.random.uniform(key, (2,)) < 0.5).values())
    [0.25, 0.25, 0.25, 0.25]
    """
    return key_kernel(lambda key, _: function(key), **options).of(0)


def as_arrays(state: Any) -> Any:
    """Turn a state into arrays: a number into a scalar, nested tuples into an array, a named tuple part by part."""
    if hasattr(state, "_fields"):
        return type(state)(*map(as_arrays, state))
    return np.asarray(state)


def as_state(arrays: Any) -> Any:
    """Turn arrays into a hashable state, floats rounded to ten significant digits."""
    if hasattr(arrays, "_fields"):
        return type(arrays)(*map(as_state, arrays))
    if isinstance(arrays, tuple | list):
        return tuple(map(as_state, arrays))
    return _nested(np.asarray(arrays).tolist())


class _Program:
    """A kernel with the layout of its draws, compiled once for each structure of states."""

    def __init__(self, kernel: Callable, points: dict[int, Sequence[float]], max_outcomes: int, seed: int):
        self.kernel, self.points, self.max_outcomes, self.seed = kernel, points, max_outcomes, seed
        self.examples: list[tuple[Any, ...]] = []
        self.layout = Layout(())
        self.run: Callable[..., Any] = kernel

    def law(self, state: Any) -> Measure:
        with jax.enable_x64(True):
            arrays = as_arrays(state)
            if not self.examples:
                refuse_host_randomness("kernel", self.kernel, jax.random.key(self.seed), arrays)
            if not (self.examples and self._knows_its_draws(arrays)):
                self.examples.append((arrays,))
                self._compile()
                if not self._knows_its_draws(arrays):
                    raise ValueError("the kernel draws numbers in a branch that is too rarely taken to be found")
            k = len(self.layout.draws)
            results, masses, _ = level_sets(
                lambda u: self._evaluate(arrays, u), k, self.points, self.max_outcomes, self.seed
            )
            like = jax.eval_shape(self.run, arrays, np.zeros((1, k)), np.uint32(0))
            return {_unflatten(like, row): float(mass) for row, mass in zip(results, masses, strict=True)}

    @property
    def tolerance(self) -> float:
        return SINGLE_TOLERANCE if any(draw.width < 64 for draw in self.layout.draws) else FLOAT_TOLERANCE

    def _compile(self) -> None:
        # A new function, so that JAX does not recall an earlier trace of the same kernel.
        self.layout = layout = find_layout(lambda key, arrays: self.kernel(key, arrays), self.examples, self.seed)
        for axis, values in self.points.items():
            if not 0 <= axis < len(layout.draws):
                raise ValueError(f"points has draw {axis}, but the kernel makes draws 0 to {len(layout.draws) - 1}")
            if not len(values) or not all(0 <= value < 1 for value in values):
                raise ValueError(f"points: the values of draw {axis} are {values}; expected numbers in [0, 1)")

        def one(arrays, numbers, rest):
            return self.kernel(explicit_key(layout, numbers, rest), arrays)

        self.run = jax.jit(jax.vmap(one, (None, 0, None)))

    def _evaluate(self, arrays: Any, numbers: Float[np.ndarray, "n k"], rest: int = 0) -> Float[np.ndarray, "n m"]:
        """Results as rows of rounded numbers."""
        rows = []
        for begin in range(0, len(numbers), BATCH):
            part = numbers[begin : begin + BATCH]
            padded = np.concatenate([part, np.zeros((BATCH - len(part), numbers.shape[1]))])
            found = jax.tree.leaves(self.run(arrays, padded, np.uint32(rest)))
            rows.append(np.concatenate([np.reshape(x, (BATCH, -1)).astype(float) for x in found], axis=1)[: len(part)])
        values = np.concatenate(rows)
        if np.isnan(values).any():
            bad = numbers[np.isnan(values).any(axis=1).argmax()]
            raise ValueError(f"the kernel returned NaN for the random numbers {np.array2string(bad, precision=4)}")
        return _rounded(values)

    def _knows_its_draws(self, arrays: Any) -> bool:
        """Whether the rest of the tape is without influence."""
        numbers = np.random.default_rng(self.seed).random((BATCH, len(self.layout.draws)))
        return np.array_equal(self._evaluate(arrays, numbers, 0), self._evaluate(arrays, numbers, 0x9E3779B9))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round to the significant digits that count; infinities stay."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(values))))
        return np.where(np.isfinite(size), np.round(values * size) / size, values) + 0.0


def _unflatten(like: Any, row: np.ndarray) -> Any:
    """The state that a row of numbers stands for; `like` has the leading axis of a batch."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
    parts = np.split(row, np.cumsum(sizes)[:-1])
    arrays = [part.reshape(leaf.shape[1:]).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return as_state(jax.tree.unflatten(structure, arrays))


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value
