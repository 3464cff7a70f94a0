"""Bits that a sparse weight takes, values and the cost of saying where they are."""

import math
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import AnyArray
from uqsparse.pruning.structures import NM, Block, Group, PerRow, Structure

Plain = Literal["dense", "bitmask", "csr", "coo"]
Format = Plain | NM | Block | Group
_INTEGER = 32  # bits of an index


def index_bits(mask: Bool[AnyArray, "..."], format: Format) -> int:
    """Bits of the positions of a weight's values.

    With n kept weights of N, in R rows (outputs; a kernel counts as inputs):

    - "dense": none, as every weight is stored; "bitmask": N, in whole bytes.
    - "csr": 32 n columns and 32 (R + 1) row ends; "coo": 64 n, row and column.
    - `NM(n, m)`: log2 C(m, n), rounded up, for each run, in whole bytes. Hardware takes more: two bits for each
      of the two values of a 2:4 run, where three a run would do.
    - `Block(h, w)`: 32 for each block with a weight. `Group(size)`: 32 for each input of a group, and 32 for each
      group and one more, as `uqsparse.kernels.pack` has it.

    Raises:
        ValueError: the format is unknown, or does not fit the mask: more than n of a run, or runs of another length.

    >>> mask = np.array([[True, False, False, False], [False, True, False, False]])
    >>> {name: index_bits(mask, name) for name in ("bitmask", "csr", "coo")} | {"1:4": index_bits(mask, NM(1, 4))}
    {'bitmask': 8, 'csr': 160, 'coo': 128, '1:4': 8}
    """
    mask = _require_mask(mask)
    n = int(np.count_nonzero(mask))
    match format:
        case "dense":
            return 0
        case "bitmask":
            return _whole_bytes(mask.size)
        case "csr":
            return _INTEGER * (n + mask.shape[0] + 1)
        case "coo":
            return 2 * _INTEGER * n
        case NM(n=kept, m=run):
            return _whole_bytes(len(_runs(mask, format)) * math.ceil(math.log2(math.comb(run, kept))))
        case Block():
            return _INTEGER * int(np.count_nonzero(_units(mask, format)))
        case Group():
            units = _units(mask, format)
            return _INTEGER * (int(np.count_nonzero(units)) + len(units) + 1)
    known = ", ".join(get_args(Plain))
    raise ValueError(f"format must be one of {known}, or a structure NM, Block or Group, got {format!r}")


def storage_bits(mask: Bool[AnyArray, "..."], format: Format, value_bits: int = 32) -> int:
    """Bits of values and positions of a weight; formats as those of `index_bits`.

    Blocks and groups store all their weights, runs of M always N of them. A bitmask takes less than CSR if
    32 n + 32 (R + 1) > N, at densities above 1/32.

    >>> storage_bits(np.eye(64, dtype=bool), "bitmask"), storage_bits(np.eye(64, dtype=bool), "csr")
    (6144, 6176)
    """
    require_count("value_bits", value_bits, 1)
    index, mask = index_bits(mask, format), np.asarray(mask)
    match format:
        case "dense":
            stored = mask.size
        case NM():
            stored = len(_runs(mask, format)) * format.n
        case Block():  # those at the edge as they are
            stored = int(np.count_nonzero(format.spread(jnp.asarray(_units(mask, format)), mask.shape)))
        case Group():  # the last one padded
            stored = int(np.count_nonzero(_units(mask, format))) * format.size
        case _:
            stored = int(np.count_nonzero(mask))
    return index + value_bits * stored


def format_name(format: Format) -> str:
    """A short name for tables.

    >>> format_name("csr"), format_name(NM(2, 4)), format_name(Block(4, 1)), format_name(Group(16))
    ('csr', '2:4', 'blocks 4x1', 'groups of 16')
    """
    match format:
        case NM(n=n, m=m):
            return f"{n}:{m}"
        case Block(h=h, w=w):
            return f"blocks {h}x{w}"
        case Group(size=size):
            return f"groups of {size}"
    return str(format)


def fits(mask: Bool[AnyArray, "..."], structure: Structure) -> bool:
    """Whether a mask could have come from a structure: whole units, the same number a row, and at most N of each M.

    >>> fits(np.array([[True, True, False, False]]), NM(2, 4)), fits(np.array([[True, False]]), Block(1, 2))
    (True, False)
    """
    mask = _require_mask(mask)
    try:
        structure.check("mask", mask.shape)
    except ValueError:
        return False
    units = np.asarray(structure.rows(jnp.asarray(mask, jnp.float32)))
    kept = units.sum(axis=1)
    if isinstance(structure, NM):
        return bool((kept <= structure.n).all())
    whole = np.isclose(units, 0) | np.isclose(units, 1)
    even = np.isclose(kept, kept[0]).all() or not isinstance(structure, PerRow | Group)
    return bool(whole.all() and even)


def _runs(mask: np.ndarray, format: NM) -> np.ndarray:
    if not fits(mask, format):
        raise ValueError(f"mask of shape {mask.shape} is not {format.n}:{format.m} along axis {format.axis}")
    return np.asarray(format.rows(jnp.asarray(mask)))


def _units(mask: np.ndarray, format: Block | Group) -> np.ndarray:
    """Which blocks or groups have a weight."""
    return np.asarray(format.rows(jnp.asarray(mask, jnp.float32))) > 0


def _whole_bytes(bits: int) -> int:
    return 8 * -(-bits // 8)


def _require_mask(mask: AnyArray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim < 1 or not mask.size:
        raise ValueError(f"mask must be boolean with at least one entry, got {mask.dtype} of shape {mask.shape}")
    return mask
