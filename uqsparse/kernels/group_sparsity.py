"""Matrices in which groups of consecutive outputs share a list of inputs, packed without their zeros.

For Y = X W with W of shape (K, N), the N outputs are cut into groups of G. Input k is either kept for a whole group or
dropped from it, so that the kept values of a group are rows of G numbers: one vector load each. With G = 1 this is
the usual compressed sparse format, by outputs.

Sources: Lin et al. (2022), 1xN pattern for pruning convolutional neural networks, section 3.1; Xu et al. (2023),
SparseByteNN: a novel mobile inference acceleration framework based on fine-grained group sparsity.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import AnyArray, array_namespace, is_traced

_LARGEST = np.iinfo(np.int32).max


class GroupSparse(eqx.Module):
    """A matrix (K, N) whose outputs share their inputs by groups of G; a pytree, made by `pack`.

    Only `val` is of floating type: a filter for inexact arrays finds it and leaves the positions alone. The positions
    are arrays too, so a new mask of as many positions needs no new compilation. With a fixed fan-in, the same number
    of inputs a group, matrices of one shape can be stacked for `vmap`.

    Args:
        ptr: where each group begins in `idx`, shape (N_groups + 1,), int32.
        idx: the inputs of each group, ascending within it, shape (n,), int32.
        val: the values, shape (n, G); a last group that is not full is padded with zeros.
        ptr_t: where each input begins in `group_t`, shape (K + 1,), int32.
        group_t: the groups of each input, ascending within it, shape (n,), int32.
        pos_t: the row of `val` that belongs to each entry of `group_t`, shape (n,), int32.
        shape: (K, N).
        group: G.
    """

    ptr: Int[Array, " n_groups_and_1"]
    idx: Int[Array, " n"]
    val: Float[Array, "n G"]
    ptr_t: Int[Array, " K_and_1"]
    group_t: Int[Array, " n"]
    pos_t: Int[Array, " n"]
    shape: tuple[int, int] = eqx.field(static=True)
    group: int = eqx.field(static=True)

    @property
    def n_groups(self) -> int:
        """N / G, rounded up."""
        return -(-self.shape[1] // self.group)

    @property
    def density(self) -> float:
        """Share of the pairs of an input and a group that are kept."""
        return self.idx.shape[-1] / (self.shape[0] * self.n_groups)

    @property
    def n_bytes(self) -> int:
        """Bytes of values and positions; what only gradients need is not counted."""
        return self.val.nbytes + self.idx.nbytes + self.ptr.nbytes

    def with_weight(self, W: Num[Array, "K N"]) -> "GroupSparse":
        """The values of another matrix at the same positions; works inside `jit`, `vmap` and `grad`.

        Raises:
            ValueError: W has another shape.
        """
        W = jnp.asarray(W)
        if W.shape != self.shape:
            raise ValueError(f"W must have shape {self.shape}, got {W.shape}")
        return eqx.tree_at(lambda gs: gs.val, self, _values_at(self, W))


def pack(W: Num[AnyArray, "K N"], mask: Bool[AnyArray, "K N"] | None = None, group: int = 16) -> GroupSparse:
    """Pack a matrix without its zeros.

    An input is kept for a group if the mask keeps any of its G weights there. Those of the G that the mask drops are
    stored as zeros: the product is that of the masked matrix, but they are stored, and trained as all others. Masks
    from `project_group` keep or drop whole groups.

    Args:
        W: the matrix, finite; inputs are rows and outputs columns. It may be traced if a mask is given.
        mask: which weights count, not traced; None: those that are not zero.
        group: outputs that share their inputs, G >= 1.

    Returns:
        The packed matrix, float32 unless W is of another floating type that JAX keeps.

    Raises:
        ValueError: W is not a finite matrix, the mask has another shape, the group is below 1, or there are 2^31
            entries or more.
        TypeError: W is complex, or the mask is traced or not boolean.

    >>> W = np.array([[0.0, 0.0, 1.0], [2.0, 3.0, 0.0]])
    >>> gs = pack(W, group=2)
    >>> gs.ptr.tolist(), gs.idx.tolist(), gs.val.tolist()
    ([0, 1, 2], [1, 0], [[2.0, 3.0], [1.0, 0.0]])
    >>> bool((unpack(gs) == W).all())
    True
    """
    require_count("group", group, 1)
    W, shape = _require_matrix("W", W)
    if mask is None:
        if is_traced(W):
            raise TypeError("mask is needed where W is traced: which weights are zero cannot be seen")
        kept = np.asarray(W) != 0
    else:
        kept = _require_mask(mask, shape)
        W = array_namespace(W).where(kept, W, 0)
    whole = _in_groups(kept, group).any(axis=-1)
    group_of, idx = np.nonzero(whole.T)
    ptr = np.concatenate([[0], np.cumsum(whole.sum(axis=0))])
    if not is_traced(W) and not np.isfinite(np.asarray(W, np.float64)[kept]).all():
        raise ValueError("W must be finite where it is kept")
    val = _in_groups(W, group)[idx, group_of]
    return from_arrays(ptr, idx, val, shape, group)


def from_arrays(
    ptr: Int[AnyArray, " n_groups_and_1"],
    idx: Int[AnyArray, " n"],
    val: Num[AnyArray, "n G"],
    shape: tuple[int, int],
    group: int,
) -> GroupSparse:
    """A packed matrix from its stored arrays, all of them checked; the rest is computed.

    Args:
        ptr: where each group begins in `idx`.
        idx: the inputs of each group, strictly ascending within it.
        val: the values; may be traced.
        shape: (K, N).
        group: G.

    Raises:
        ValueError: sizes do not fit, `ptr` does not ascend from 0 to n, or an input is out of range, twice in a group
            or out of order.
        TypeError: `ptr` or `idx` does not hold integers, or `val` no real numbers.
    """
    require_count("group", group, 1)
    (k, n_outputs), n_groups = shape, -(-shape[1] // group)
    require_count("K", k, 1)
    require_count("N", n_outputs, 1)
    ptr, idx = _require_integers("ptr", ptr), _require_integers("idx", idx)
    n = idx.shape[0]
    if max(n, k, n_groups) >= _LARGEST:
        raise ValueError(f"idx must have fewer than 2^31 entries, got {n}")
    if ptr.shape != (n_groups + 1,) or ptr[0] != 0 or ptr[-1] != n or (np.diff(ptr) < 0).any():
        raise ValueError(f"ptr must ascend from 0 to {n} in {n_groups + 1} entries, got {ptr.shape[0]} entries {ptr}")
    if n and not (idx.min() >= 0 and idx.max() < k):
        raise ValueError(f"idx must lie in [0, {k}), got {idx.min()} to {idx.max()}")
    group_of = np.repeat(np.arange(n_groups), np.diff(ptr))
    if (np.diff(group_of * np.int64(k) + idx) <= 0).any():
        raise ValueError("idx must ascend within each group, without repeats")
    val = jnp.asarray(val) if hasattr(val, "dtype") else jnp.asarray(val, jnp.float32)
    if jnp.issubdtype(val.dtype, jnp.complexfloating):
        raise TypeError(f"val must hold real numbers, got {val.dtype}")
    if val.shape != (n, group):
        raise ValueError(f"val must have shape {(n, group)}, got {val.shape}")
    val = val if jnp.issubdtype(val.dtype, jnp.floating) else val.astype(jnp.float32)
    pos_t = np.argsort(idx, kind="stable")
    ptr_t = np.concatenate([[0], np.cumsum(np.bincount(idx, minlength=k))])
    positions = (jnp.asarray(array, jnp.int32) for array in (ptr_t, group_of[pos_t], pos_t))
    return GroupSparse(
        jnp.asarray(ptr, jnp.int32),
        jnp.asarray(idx, jnp.int32),
        val,
        *positions,
        shape=(int(k), int(n_outputs)),
        group=int(group),
    )


@jax.jit
def unpack(gs: GroupSparse) -> Float[Array, "K N"]:
    """The matrix with its zeros; works inside `jit`, `vmap` and `grad`."""
    dense = jnp.zeros((gs.shape[0], gs.n_groups, gs.group), gs.val.dtype)
    dense = dense.at[gs.idx, _group_of(gs)].set(gs.val, unique_indices=True)
    return dense.reshape(gs.shape[0], -1)[:, : gs.shape[1]]


def group_scores(score: Num[AnyArray, "K N"], group: int) -> Num[AnyArray, "K n_groups"]:
    """The sum of the scores of each group of outputs, shape (K, N / G rounded up).

    >>> group_scores(np.array([[1, 2, 3], [4, 5, 6]]), 2).tolist()
    [[3, 3], [9, 6]]
    """
    return _in_groups(score, group).sum(axis=-1)


def project_group(
    score: Num[AnyArray, "K N"],
    fan_in: Any = None,
    group: int = 16,
    *,
    density: float | None = None,
    fixed_fan_in: bool = True,
) -> Bool[AnyArray, "K N"]:
    """The mask of whole groups with the largest sum of scores.

    With |W| as the score it keeps the most L1 mass that groups of that number can. Ties go to the first inputs. It
    works inside `jit` and `vmap`, and then looks at no score's finiteness.

    Args:
        score: what each weight is worth, shape (K, N): larger is kept. -inf never is.
        fan_in: inputs kept a group, 0 to K; may be traced.
        group: outputs that share their inputs, G >= 1.
        density: in place of `fan_in`, a share of the inputs in [0, 1]; `fan_in` is K times it, rounded.
        fixed_fan_in: keep `fan_in` inputs in every group; otherwise as many in total, `fan_in` a group on average.

    Returns:
        Boolean, shape (K, N); NumPy if the scores are.

    Raises:
        ValueError: a score is NaN or +inf, so many are -inf that there is not enough to keep, or not exactly one of
            `fan_in` and `density` is given, in its range.

    >>> project_group(np.array([[1.0, 1.0, 5.0], [3.0, 0.0, 1.0]]), 1, group=2).astype(int).tolist()
    [[0, 0, 1], [1, 1, 0]]
    """
    require_count("group", group, 1)
    score, (k, n_outputs) = _require_matrix("score", score)
    fan_in = require_fan_in(k, fan_in, density)
    xp = array_namespace(score, fan_in)
    summed = group_scores(score, group)
    ranked = summed if fixed_fan_in else summed.reshape(-1, 1)
    count = fan_in if fixed_fan_in else fan_in * summed.shape[1]
    if not is_traced(score):
        if np.isnan(score).any() or np.isposinf(score).any():
            raise ValueError("score must be finite or -inf")
        if not is_traced(count) and (np.isfinite(ranked).sum(axis=0) < count).any():
            raise ValueError(f"score allows fewer inputs than the {fan_in} of a group: too many are -inf")
    rank = _stable_argsort(_stable_argsort(-ranked))
    kept = (rank < count).reshape(summed.shape)
    return xp.repeat(kept, group, axis=1)[:, :n_outputs]


def require_fan_in(n_inputs: int, fan_in: Any, density: float | None) -> Any:
    """The number of inputs to keep, from itself or from a density; ValueError unless exactly one is given, in range."""
    if (fan_in is None) == (density is None):
        raise ValueError(f"give either fan_in or density, got fan_in = {fan_in!r} and density = {density!r}")
    if density is not None:
        if not 0 <= density <= 1:
            raise ValueError(f"density must lie in [0, 1], got {density!r}")
        return round(density * n_inputs)
    if is_traced(fan_in):
        return fan_in
    require_count("fan_in", fan_in, 0)
    if fan_in > n_inputs:
        raise ValueError(f"fan_in must be at most the number of inputs, {n_inputs}, got {fan_in}")
    return fan_in


def _stable_argsort(values: AnyArray) -> AnyArray:
    xp = array_namespace(values)
    return np.argsort(values, axis=0, kind="stable") if xp is np else jnp.argsort(values, axis=0, stable=True)


def _in_groups(matrix: AnyArray, group: int) -> AnyArray:
    """(K, N) as (K, n_groups, G), the last group padded with zeros."""
    xp = array_namespace(matrix)
    k, n_outputs = matrix.shape
    matrix = xp.pad(matrix, ((0, 0), (0, -n_outputs % group))) if n_outputs % group else matrix
    return matrix.reshape(k, -1, group)


def _group_of(gs: GroupSparse) -> Int[Array, " n"]:
    """The group of each entry."""
    return jnp.repeat(jnp.arange(gs.n_groups), jnp.diff(gs.ptr), total_repeat_length=gs.idx.shape[0])


@jax.jit
def _values_at(gs: GroupSparse, W: Num[Array, "K N"]) -> Float[Array, "n G"]:
    return _in_groups(W, gs.group)[gs.idx, _group_of(gs)].astype(gs.val.dtype)


def _require_matrix(name: str, value: AnyArray) -> tuple[AnyArray, tuple[int, int]]:
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(f"{name} must be a matrix with rows and columns, got shape {tuple(value.shape)}")
    if not (jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.kind in "iub"):
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
    return value, tuple(value.shape)


def _require_mask(mask: AnyArray, shape: tuple[int, int]) -> np.ndarray:
    if is_traced(mask):
        raise TypeError("mask must not be traced: the size of what is packed depends on it")
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"mask must have the shape of W, {shape}, got {mask.shape}")
    return mask


def _require_integers(name: str, value: AnyArray) -> np.ndarray:
    if is_traced(value):
        raise TypeError(f"{name} must not be traced: it is checked")
    value = np.asarray(value)
    if value.dtype.kind not in "iu" or value.ndim != 1:
        raise TypeError(f"{name} must be one row of integers, got {value.dtype} of shape {value.shape}")
    return value.astype(np.int64)
