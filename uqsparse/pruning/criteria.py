"""Criteria: what a weight is worth. The highest scores are kept, or grown first."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from uqsparse.kernels.namespaces import is_traced
from uqsparse.pruning.masks import Mask, full_mask, is_unit, masked_map, pruned_leaves

# From a leaf (an array or a weight unit) and the keywords grad, stats and key, the scores of its positions.
Score = Callable[..., Float[Array, "..."]]


@dataclass(frozen=True)
class Criterion:
    """A criterion: it scores every weight that a mask governs.

    Args:
        name: what it is called.
        score: scores of one leaf, `score(leaf, grad=..., stats=..., key=...)`.
        needs: what must be given: "grads", "stats" or "key".
        refuses_zeros: whether a leaf whose scores are all zero is an error.
    """

    name: str
    score: Score
    needs: frozenset[str] = frozenset()
    refuses_zeros: bool = False

    def __call__(
        self,
        params: PyTree,
        *,
        grads: PyTree | None = None,
        stats: PyTree | None = None,
        mask: Mask | None = None,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Float[Array, "..."] | None]:
        """Scores of all leaves that the mask governs, whether it keeps a weight or not.

        Args:
            params: parameters; weights that are off are zero.
            grads: gradients of the loss, of the parameters' structure.
            stats: what a collector gathered, a tree of the parameters' structure with a leaf for each weight.
            mask: None scores what can be pruned by default; see `full_mask`.
            key: a typed random key; each leaf gets its own.

        Returns:
            Tree of the parameters' structure, None where the mask is.

        Raises:
            ValueError: something that the criterion needs is missing, a score is NaN, or all scores of a leaf are
                zero where that means that nothing was measured; the path is named.
        """
        given = {"grads": grads, "stats": stats, "key": key}
        for name in ("grads", "stats", "key"):
            if name in self.needs and given[name] is None:
                raise ValueError(f"the criterion {self.name!r} needs {name}")
        mask = full_mask(params) if mask is None else mask
        paths = iter(pruned_leaves(params, mask).paths)
        numbers = itertools.count()

        def of_leaf(leaf: Any, mask_leaf: Any, grad: Any, stat: Any) -> Any:
            if mask_leaf is None:
                return None
            path, number = next(paths), next(numbers)
            for name, found in (("grads", grad), ("stats", stat)):
                if name in self.needs and found is None:
                    raise ValueError(f"{name} of {path!r} are missing, and the criterion {self.name!r} needs them")
            leaf_key = None if key is None else jax.random.fold_in(key, number)
            found = jnp.asarray(self.score(leaf, grad=grad, stats=stat, key=leaf_key))
            _refuse(self, path, found, tuple(leaf.shape))
            return found

        nothing = masked_map(lambda leaf, mask_leaf: None, params, mask)
        return masked_map(
            of_leaf, params, mask, nothing if grads is None else grads, nothing if stats is None else stats
        )


def _refuse(criterion: Criterion, path: str, scores: Float[Array, "..."], shape: tuple[int, ...]) -> None:
    if scores.shape != shape:
        raise ValueError(f"{criterion.name!r} of {path!r} must have shape {shape}, got {scores.shape}")
    if is_traced(scores):
        return
    if jnp.isnan(scores).any():
        raise ValueError(f"{criterion.name!r} of {path!r} is NaN: a weight, gradient or statistic is not finite")
    if criterion.refuses_zeros and not scores.any():
        raise ValueError(
            f"{criterion.name!r} of {path!r} is zero everywhere: no gradient reaches it (units that are off, or "
            "normalisation in inference mode)"
        )


def _plain(leaf: Any) -> Float[Array, "..."]:
    return leaf.score_array if is_unit(leaf) else leaf


def magnitude() -> Criterion:
    """Absolute value |w|.

    >>> magnitude()({"w": jnp.array([[1.0, -3.0]])})["w"].tolist()
    [[1.0, 3.0]]
    """
    return Criterion("magnitude", lambda leaf, **_: abs(_plain(leaf)))


def random() -> Criterion:
    """Uniform draws: every weight is worth the same on average. Needs a key."""

    def score(leaf: Any, *, key: PRNGKeyArray, **_: Any) -> Float[Array, "..."]:
        values = _plain(leaf)
        return jax.random.uniform(key, values.shape, values.dtype)

    return Criterion("random", score, frozenset({"key"}))


def snip() -> Criterion:
    """|w g|: what removing the weight changes in the loss, to first order. Needs gradients.

    Scores of one leaf that are all zero are refused: then no gradient reached it.

    Source: Lee, Ajanthan & Torr (2019), SNIP: single-shot network pruning based on connection sensitivity, eq. 6.
    """

    def score(leaf: Any, *, grad: Any, **_: Any) -> Float[Array, "..."]:
        return abs(_plain(leaf) * _plain(grad))

    return Criterion("snip", score, frozenset({"grads"}), refuses_zeros=True)


def grasp() -> Criterion:
    """w (H g): weights go first whose removal raises the squared norm of the gradient most. Needs `grasp_stats`.

    Removing the weights changes |g|^2 by -2 w (H g) to first order, so the largest -w (H g) are removed.

    Source: Wang, Zhang & Grosse (2020), Picking winning tickets before training by preserving gradient flow, eq. 8.
    """

    def score(leaf: Any, *, stats: Any, **_: Any) -> Float[Array, "..."]:
        return _plain(leaf) * _plain(stats)

    return Criterion("grasp", score, frozenset({"stats"}), refuses_zeros=True)


def gradient() -> Criterion:
    """|g|: which weights would move most; for growth. Needs gradients.

    Source: Evci, Gale, Menick, Castro & Elsen (2020), Rigging the lottery, section 3 (4).
    """
    return Criterion("gradient", lambda leaf, *, grad, **_: abs(_plain(grad)), frozenset({"grads"}))


def wanda() -> Criterion:
    """|W_ij| |X_j|: magnitude times the norm of the input. Needs `input_norms` as statistics.

    It is meant for selection among the inputs of each output, that is for the structure `PerRow` or `NM`.

    Source: Sun, Liu, Bair & Kolter (2024), A simple and effective pruning approach for large language models, eq. 1.
    """

    def score(leaf: Any, *, stats: Any, **_: Any) -> Float[Array, "..."]:
        values = _plain(leaf)
        norms = jnp.asarray(stats)
        return abs(values) * norms.reshape((1, *norms.shape) + (1,) * (values.ndim - norms.ndim - 1))

    return Criterion("wanda", score, frozenset({"stats"}))


def movement() -> Criterion:
    """Sum of -w g over steps: weights that move away from zero stay. Needs `movement_stats`.

    Source: Sanh, Wolf & Rush (2020), Movement pruning, eq. 4.
    """
    return Criterion("movement", lambda leaf, *, stats, **_: _plain(stats), frozenset({"stats"}))


def signed_magnitude() -> Criterion:
    """Magnitude ranked among the weights of the same sign, as a share: equal shares of both signs are removed.

    The smallest positive and the largest negative weights have the lowest scores; a zero has none.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity,
    Algorithm 1.

    >>> signed_magnitude()({"w": jnp.array([[0.1, 5.0, -6.0, -9.0]])})["w"].tolist()
    [[0.25, 0.75, 0.25, 0.75]]
    """

    def score(leaf: Any, **_: Any) -> Float[Array, "..."]:
        values = _plain(leaf)
        order = jnp.argsort(abs(values).reshape(-1))
        ranked = values.reshape(-1)[order]
        positive, negative = ranked > 0, ranked < 0
        shares = jnp.zeros(values.shape, values.dtype).reshape(-1)
        for one in (positive, negative):
            shares += jnp.where(one, (jnp.cumsum(one) - 0.5) / jnp.maximum(one.sum(), 1), 0)
        return jnp.zeros_like(shares).at[order].set(shares).reshape(values.shape)

    return Criterion("signed magnitude", score)
