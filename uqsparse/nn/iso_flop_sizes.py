"""How wide, how many branches, which rank: sizes of sparse layers that cost as much as a dense one.

Source: Thangarasa, Saxena, Gupta & Lie (2024), Sparse iso-FLOP transformations for maximizing training efficiency,
ICML; ranks are rounded as in their code.
"""

import math

from uqsparse.kernels.arguments import require_count


def wide_factor(sparsity: float) -> float:
    """By how much both widths of a layer grow: a = 1 / sqrt(1 - s), so that (1 - s) a^2 = 1.

    >>> wide_factor(0.75)
    2.0
    """
    return 1 / math.sqrt(1 - require_sparsity(sparsity))


def parallel_branches(sparsity: float) -> int:
    """How many branches a layer becomes: p = 1 / (1 - s), rounded.

    >>> [parallel_branches(s) for s in (0.0, 0.5, 0.75, 0.9)]
    [1, 2, 4, 10]
    """
    return round(1 / (1 - require_sparsity(sparsity)))


def factorized_rank(sparsity: float, n_in: int, n_out: int, places: int = 1, *, both: bool = True) -> int:
    """The rank of two sparse factors: r = k n_in n_out / ((1 - s)(k n_in + n_out)), rounded up.

    Args:
        sparsity: s.
        n_in: inputs, or channels.
        n_out: outputs, or channels.
        places: of the kernel, k; 9 for 3 x 3.
        both: whether both factors are sparse; else only the first, and (1 - s) multiplies its k n_in alone.

    >>> factorized_rank(0.5, 64, 64), factorized_rank(0.5, 64, 64, 9), factorized_rank(0.5, 64, 64, both=False)
    (64, 116, 43)
    """
    kept = 1 - require_sparsity(sparsity)
    cost = kept * places * n_in + (kept if both else 1) * n_out
    return math.ceil(round(places * n_in * n_out / cost, 9))


def doped_rank(sparsity: float, n_in: int, n_out: int, places: int = 1) -> int:
    """The rank that a share s of the multiply-adds pays for: r = s k n_in n_out / (k n_in + n_out), rounded down.

    >>> doped_rank(0.5, 64, 64), doped_rank(0.5, 64, 64, 9), doped_rank(0.0, 64, 64)
    (16, 28, 0)
    """
    return math.floor(round(require_sparsity(sparsity) * places * n_in * n_out / (places * n_in + n_out), 9))


def log_cardinality(size: int, kept: int) -> float:
    """The logarithm of the number of masks, log C(size, kept), in nats.

    >>> round(math.exp(log_cardinality(5, 2)))
    10
    """
    require_count("kept", kept, 0)
    require_count("size", size, kept)
    return math.lgamma(size + 1) - math.lgamma(kept + 1) - math.lgamma(size - kept + 1)


def require_sparsity(sparsity: float) -> float:
    """The sparsity, or ValueError unless it lies in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity!r}")
    return sparsity
