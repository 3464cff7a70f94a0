"""What a score is: how strange an observation looks beside its prediction, and which look no stranger."""

import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.regions import Region
from uqsparse.kernels.namespaces import AnyArray


class Score(eqx.Module):
    """A nonconformity score, a fixed function of one prediction and one observation; larger is stranger.

    Predictions are arrays or tuples of arrays, NumPy or JAX, with one entry a test point, or a predictive distribution
    of n test points, which says so in its attribute `n`; each score says which. Both methods work inside `jit`.
    """

    @abc.abstractmethod
    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        """The score of each observation."""

    @abc.abstractmethod
    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Region:
        """All values whose score is at most the threshold, ties included: a scalar, or one for each test point."""


def as_array(name: str, value: Any) -> Any:
    """A NumPy or JAX array of real numbers, refused if it holds anything else.

    Raises:
        TypeError: the values are no real numbers.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    return array


def require_same_length(name: str, array: Any, n: int, than: str) -> None:
    """Refuse arrays that would only fit by broadcasting."""
    if array.ndim < 1 or array.shape[0] != n:
        raise ValueError(f"{name} has shape {array.shape}; {than} has {n} entries")


def n_points(predictions: Any) -> int:
    """The number of test points that predictions are for."""
    n = getattr(predictions, "n", None)
    return int(jax.tree.leaves(predictions)[0].shape[0] if n is None else n)
