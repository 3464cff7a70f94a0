"""How much two masks have in common."""

import math
from typing import NamedTuple

import jax
import numpy as np

from uqsparse.pruning.masks import Mask


class MaskSimilarity(NamedTuple):
    """Similarities of two masks, 1 if they are equal.

    Args:
        jaccard: weights that both keep, over weights that either keeps. Independent masks of density d have about
            d / (2 - d).
        cosine: weights that both keep, over the geometric mean of what they keep; of independent masks about d.
    """

    jaccard: float
    cosine: float


def mask_similarity(a: Mask, b: Mask) -> MaskSimilarity:
    """Similarity of two masks of the same network, over all leaves together.

    Args:
        a: a mask.
        b: another, of the same structure and shapes.

    Raises:
        ValueError: structures or shapes differ, or a mask keeps nothing.

    >>> a, b = {"w": np.array([[1, 1, 0, 0]], bool)}, {"w": np.array([[1, 0, 1, 1]], bool)}
    >>> similarity = mask_similarity(a, b)
    >>> similarity.jaccard, round(similarity.cosine, 3)
    (0.25, 0.408)
    """
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    same = jax.tree.structure(a) == jax.tree.structure(b)
    if not same or [leaf.shape for leaf in leaves] != [leaf.shape for leaf in others]:
        raise ValueError("a and b must be masks of the same network, and their structures or shapes differ")
    one, other = (np.concatenate([np.asarray(leaf).ravel() for leaf in tree] or [[]]) for tree in (leaves, others))
    if not (one.any() and other.any()):
        raise ValueError("a and b must each keep a weight")
    both = int((one & other).sum())
    return MaskSimilarity(both / int((one | other).sum()), both / math.sqrt(int(one.sum()) * int(other.sum())))
