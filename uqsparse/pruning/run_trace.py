"""The record of a run of sparse training: what its masks were, without the masks."""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.pruning.masks import is_unit, pruned_leaves


class TraceEntry(NamedTuple):
    """A change of the mask.

    Args:
        step: updates of the weights that had been made.
        hash: of the mask.
        counts: kept weights by path.
        came: weights that were off and are on.
        left: weights that were on and are off.
    """

    step: int
    hash: str
    counts: dict[str, int]
    came: int
    left: int


class RunTrace:
    """The record of a run: hashes and counts of its masks, of bounded size.

    A loop calls `append` before the first step, at changes of the mask or more often, and `finish` at the end. Beside
    the entries two masks are kept, a bit a weight.

    Args:
        capacity: entries that are kept. Later changes are counted, and enter all totals, but have no entry.

    >>> trace = RunTrace()
    >>> for step, mask in enumerate([[True, False], [False, True]]):
    ...     trace.append(step, {"w": np.array([mask])}, {"w": np.ones((1, 2))})
    >>> trace.finish(2)
    >>> trace.explored, trace.n_changes, trace.densities(), trace.actual_density
    (1.0, 1, {'w': 0.5}, 1.0)
    """

    def __init__(self, capacity: int = 10_000):
        require_count("capacity", capacity, 1)
        self.capacity = capacity
        self.entries: list[TraceEntry] = []
        self.sizes: dict[str, int] = {}
        self.n_changes, self.came, self.left = 0, 0, 0
        self.last_change, self.last_density_change = 0, 0
        self.n_steps: int | None = None
        self.actual_density: float | None = None
        self.highest_count = 0
        self._last: TraceEntry | None = None
        self._last_step = -1
        self._bits: dict[str, np.ndarray] = {}
        self._union: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._weight_steps: dict[str, int] = {}

    def append(self, step: int, mask: PyTree, params: PyTree | None = None) -> None:
        """Record the mask that holds from now on.

        Args:
            step: updates of the weights made so far; not below that of the last call.
            mask: boolean arrays, None where a leaf is never pruned. Not traced.
            params: the parameters, to see whether what is off is zero; the largest share found that is not off by
                mask or by value is `actual_density`.

        Raises:
            ValueError: the step is below the last one or the run is finished, or the mask has other leaves.
        """
        require_count("step", step, 0)
        if self.n_steps is not None:
            raise ValueError(f"the run was finished after {self.n_steps} steps; got step {step}")
        if step < self._last_step:
            raise ValueError(f"step must not go back: got {step} after {self._last_step}")
        pruned = pruned_leaves(mask if params is None else params, mask)
        masks = dict(zip(pruned.paths, map(np.asarray, pruned.masks), strict=True))
        shapes = {path: one.shape for path, one in masks.items()}
        if not masks or (self._shapes and shapes != self._shapes):
            raise ValueError(f"mask must have the leaves {self._shapes or 'of a network'}, got {shapes}")
        self._pass_time(step)
        bits = {path: np.packbits(one) for path, one in masks.items()}
        digest = hashlib.sha256(b"".join(one.tobytes() for one in bits.values())).hexdigest()[:16]
        if self._last is None or digest != self._last.hash:
            self._change(step, digest, masks, bits)
        if params is not None:
            live = sum(_count_live(leaf, masks[path]) for path, leaf in zip(pruned.paths, pruned.leaves, strict=True))
            self.actual_density = max(self.actual_density or 0.0, live / self.size)

    def _change(self, step: int, digest: str, masks: dict[str, np.ndarray], bits: dict[str, np.ndarray]) -> None:
        counts = {path: int(np.count_nonzero(one)) for path, one in masks.items()}
        if self._last is None:
            self._shapes = {path: one.shape for path, one in masks.items()}
            self.sizes = {path: one.size for path, one in masks.items()}
            self._weight_steps = dict.fromkeys(masks, 0)
            self._union, entry = dict(bits), TraceEntry(step, digest, counts, 0, 0)
        else:
            came = sum(int(np.bitwise_count(one & ~self._bits[path]).sum()) for path, one in bits.items())
            left = sum(int(np.bitwise_count(self._bits[path] & ~one).sum()) for path, one in bits.items())
            entry = TraceEntry(step, digest, counts, came, left)
            self._union = {path: one | self._union[path] for path, one in bits.items()}
            self.n_changes, self.came, self.left = self.n_changes + 1, self.came + came, self.left + left
            self.last_change = step
            if sum(counts.values()) != sum(self._last.counts.values()):
                self.last_density_change = step
        if len(self.entries) < self.capacity:
            self.entries.append(entry)
        self.highest_count = max(self.highest_count, sum(counts.values()))
        self._bits, self._last = bits, entry

    def finish(self, n_steps: int) -> None:
        """Say how many updates of the weights there were in all."""
        if self._last is None:
            raise ValueError("the trace is empty: append the mask of step 0 first")
        if self.n_steps is not None or n_steps < self._last_step:
            raise ValueError(f"n_steps must be at least the last step, {self._last_step}, once; got {n_steps}")
        self._pass_time(n_steps)
        self.n_steps = n_steps

    def _pass_time(self, step: int) -> None:
        if self._last is not None:
            for path, count in self._last.counts.items():
                self._weight_steps[path] += count * (step - self._last_step)
        self._last_step = step

    @property
    def size(self) -> int:
        """Prunable weights."""
        return sum(self.sizes.values())

    @property
    def initial_density(self) -> float:
        """Share of the prunable weights that the first mask keeps."""
        return sum(self.entries[0].counts.values()) / self.size

    @property
    def final_density(self) -> float:
        """Share of the prunable weights that the last mask keeps."""
        return sum(int(np.bitwise_count(one).sum()) for one in self._bits.values()) / self.size

    def final_mask(self, path: str) -> Bool[np.ndarray, "..."]:
        """The last mask of a leaf."""
        shape = self._shapes[path]
        return np.unpackbits(self._bits[path], count=math.prod(shape)).reshape(shape).astype(bool)

    @property
    def explored(self) -> float:
        """Share of the prunable weights that were active at any time."""
        return sum(int(np.bitwise_count(one).sum()) for one in self._union.values()) / self.size

    def densities(self) -> dict[str, float]:
        """Density of each leaf, averaged over the steps so far; with none, that of the last mask."""
        if not self._last_step or self._last is None:
            return {path: count / self.sizes[path] for path, count in (self._last.counts if self._last else {}).items()}
        return {path: total / (self.sizes[path] * self._last_step) for path, total in self._weight_steps.items()}


def _count_live(leaf: Any, mask: np.ndarray) -> int:
    """Weights that are on, or that are off and not zero."""
    values = np.asarray(leaf.score_array if is_unit(leaf) else leaf)
    return int(np.count_nonzero(mask | (values != 0)))
