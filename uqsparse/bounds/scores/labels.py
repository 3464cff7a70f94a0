"""Scores of class labels from predicted probabilities, and the label sets they cut out."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.bounds.regions import LabelSets
from uqsparse.bounds.scores.probabilities import checked_labels, class_probabilities, label_ranking, label_ranks
from uqsparse.bounds.scores.score import Score
from uqsparse.kernels import array_namespace, conformal_rank, is_traced, order_statistic
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.hashing import row_uniforms
from uqsparse.kernels.namespaces import AnyArray


class LabelScore(Score):
    """A score of labels. Its sets hold the labels whose own score is at most the threshold.

    Predictions are probabilities of shape (n, K), or `PredictiveDraws` of probabilities, which are averaged. Labels
    are integers in 0..K-1.

    Args:
        allow_empty: whether a set may be empty. Where not, the most probable label is added to an empty set; that can
            only raise coverage. p-values do not know of it.
    """

    allow_empty: bool = eqx.field(static=True, default=True, kw_only=True)

    @abc.abstractmethod
    def of_labels(self, probabilities: Float[AnyArray, "n k"]) -> Float[AnyArray, "n k"]:
        """The score of every label, from checked probabilities."""

    def __call__(self, predictions: Any, y: Int[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        probabilities = class_probabilities(predictions)
        y = checked_labels(y, *probabilities.shape)
        xp = array_namespace(probabilities, y)
        return self.of_labels(probabilities)[xp.arange(y.shape[0]), y]

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> LabelSets:
        """All labels whose score is at most the threshold.

        Args:
            predictions: see the class.
            threshold: a scalar, one for each test point, shape (n,), or one for each label, shape (1, K) or (n, K).

        Raises:
            ValueError: predictions are no probabilities, or the threshold has another shape.
        """
        probabilities = class_probabilities(predictions)
        shape = probabilities.shape
        wide = threshold if isinstance(threshold, jax.Array) else np.asarray(threshold)
        wide = wide[:, None] if wide.ndim == 1 else wide
        if wide.ndim > 2 or any(got not in (1, want) for got, want in zip(wide.shape, shape, strict=False)):
            raise ValueError(f"threshold has shape {np.shape(threshold)}; expected (), {shape[:1]} or {shape}")
        member = self.of_labels(probabilities) <= wide
        if not self.allow_empty:
            member = member | (~member.any(-1, keepdims=True) & (label_ranks(probabilities) == 1))
        return LabelSets(member=member, threshold=threshold)


class LAC(LabelScore):
    """1 - p_y: the smallest sets on average, which may leave out whole classes that are hard.

    Args:
        allow_empty: see `LabelScore`.

    Source: Sadinle, Lei & Wasserman (2019), Least ambiguous set-valued classifiers with bounded error levels.

    >>> LAC()(np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([1, 0])).tolist()
    [0.75, 0.5]
    """

    def of_labels(self, probabilities: Float[AnyArray, "n k"]) -> Float[AnyArray, "n k"]:
        return 1 - probabilities


class _Randomised(LabelScore):
    """Scores that count a share u of a label's own part, u being uniform or 1."""

    key: Array | None = None
    randomised: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        if self.randomised and self.key is None:
            raise ValueError(
                f"key is missing: pass {type(self).__name__}(jax.random.key(0), ...), or randomised=False for u = 1"
            )

    def own_share(self, probabilities: Float[AnyArray, "n k"]) -> Any:
        """u of each observation: a fixed function of the key and of the row of probabilities, whatever the batch."""
        if not self.randomised or self.key is None:
            return 1.0
        words = jax.random.key_data(self.key)
        words = words if is_traced(words) else np.asarray(words)
        return row_uniforms(words, probabilities)[:, None].astype(probabilities.dtype)


def _probability_above(probabilities: Float[AnyArray, "n k"]) -> tuple[Any, Any]:
    """The total probability of the labels ranked above each, and the ranks."""
    xp = array_namespace(probabilities)
    order, ranks = label_ranking(probabilities)
    through = xp.cumsum(xp.take_along_axis(probabilities, order, axis=-1), axis=-1, dtype=probabilities.dtype)
    above = xp.concatenate([xp.zeros_like(through[:, :1]), through[:, :-1]], axis=-1)
    return xp.take_along_axis(above, ranks - 1, axis=-1), ranks


class APS(_Randomised):
    """The probability of all labels ranked above y, and a share u of its own: larger sets where the model is unsure.

    Where the probabilities are right, its sets cover at the level given x as well. Equal probabilities are ranked by
    label, the smaller first. u is a fixed function of the key and of the observation's own probabilities, so the same
    observation has the same score in any batch, in NumPy and in JAX; rows that agree in single precision share it.

    Args:
        key: random key; needed where randomised.
        randomised: whether u is uniform, which makes coverage exact, or 1, which makes sets larger than needed.
        allow_empty: see `LabelScore`.

    Raises:
        ValueError: the key is missing.

    Source: Romano, Sesia & Candès (2020), Classification with valid and adaptive coverage, equations 5 to 8.

    >>> APS(randomised=False)(np.array([[0.5, 0.25, 0.25]]), np.array([1])).tolist()
    [0.75]
    """

    def of_labels(self, probabilities: Float[AnyArray, "n k"]) -> Float[AnyArray, "n k"]:
        return _probability_above(probabilities)[0] + self.own_share(probabilities) * probabilities


class RAPS(_Randomised):
    """APS with a penalty on labels of rank beyond k_reg, which keeps sets from holding many improbable labels.

    With lam = 0 it is `APS` bit for bit. k_reg and lam have to be chosen without the calibration data: by judgement,
    or by `RAPS.tuned` on observations of their own.

    Args:
        key: random key; needed where randomised.
        lam: penalty on each rank beyond k_reg, at least 0.
        k_reg: the rank up to which there is no penalty, at least 0.
        randomised: see `APS`.
        allow_empty: see `LabelScore`.

    Raises:
        ValueError: the key is missing, lam is negative or k_reg is no count.

    Source: Angelopoulos, Bates, Jordan & Malik (2021), Uncertainty sets for image classifiers using conformal
    prediction, equation 4.

    >>> RAPS(lam=0.5, k_reg=1, randomised=False)(np.array([[0.5, 0.25, 0.25]]), np.array([2])).tolist()
    [2.0]
    """

    lam: float = eqx.field(static=True, default=0.01)
    k_reg: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        _require_penalty(self.lam)
        require_count("k_reg", self.k_reg, 0)

    def of_labels(self, probabilities: Float[AnyArray, "n k"]) -> Float[AnyArray, "n k"]:
        xp = array_namespace(probabilities)
        above, ranks = _probability_above(probabilities)
        penalty = self.lam * xp.maximum(ranks - self.k_reg, 0).astype(probabilities.dtype)
        return above + self.own_share(probabilities) * probabilities + penalty

    @classmethod
    def tuned(
        cls,
        key: Array,
        probabilities: Any,
        y: Int[AnyArray, " n"],
        alpha: float = 0.1,
        *,
        lams: Sequence[float] = (0.0, 0.001, 0.01, 0.1, 0.2, 0.5),
        randomised: bool = True,
        allow_empty: bool = True,
    ) -> "RAPS":
        """Choose k_reg and lam on a split of their own, NOT the one that calibrates: see the warning.

        k_reg is the rank within which the true label lies for 1 - alpha of the split, as conformal ranks count; lam is
        the one whose sets, calibrated on the split, are smallest on average on the split; of equals the least.

        Warning:
            The split must be used neither for fitting the model nor for calibration. Calibrating on observations that
            have chosen the score voids the guarantee.

        Args:
            key: random key of the scores.
            probabilities: shape (n, K), as the score takes them.
            y: true labels, shape (n,).
            alpha: the miscoverage that will be asked for.
            lams: the candidates.
            randomised: see `APS`.
            allow_empty: see `LabelScore`.

        Raises:
            ValueError: the split is too small for alpha, there is no candidate, or the input is bad.

        Source: Angelopoulos et al. (2021), algorithm 4 and appendix E.
        """
        probabilities = class_probabilities(probabilities)
        y = checked_labels(y, *probabilities.shape)
        require_fraction("alpha", alpha)
        if not len(lams):
            raise ValueError("lams is empty; expected at least one candidate")
        n = y.shape[0]
        if (rank := conformal_rank(n, alpha)) > n:
            raise ValueError(f"y has {n} labels, too few to choose k_reg at alpha = {alpha:g}")
        k_reg = int(order_statistic(label_ranks(probabilities)[np.arange(n), y], rank))
        scores = [
            cls(key=key, lam=float(lam), k_reg=k_reg, randomised=randomised, allow_empty=allow_empty) for lam in lams
        ]

        def mean_size(score: RAPS) -> float:
            threshold = order_statistic(score(probabilities, y), rank)
            return float(score.region(probabilities, threshold).size().mean())

        return min(scores, key=lambda score: (mean_size(score), score.lam))


class SAPS(_Randomised):
    """The top probability, then lam for each further rank: only the order of the other labels counts.

    A label of rank 1 scores u p_max, one of rank r >= 2 scores p_max + (r - 2 + u) lam.

    Args:
        key: random key; needed where randomised.
        lam: what each rank beyond the first adds, at least 0; to be chosen without the calibration data.
        randomised: see `APS`.
        allow_empty: see `LabelScore`.

    Raises:
        ValueError: the key is missing, or lam is negative.

    Source: Huang, Xi, Zhang, Yao, Qiu & Wei (2024), Conformal prediction for deep classifier via label ranking,
    equation 8.

    >>> SAPS(lam=0.5, randomised=False)(np.array([[0.5, 0.25, 0.25]]), np.array([2])).tolist()
    [1.5]
    """

    lam: float = eqx.field(static=True, default=0.1)

    def __check_init__(self):
        _require_penalty(self.lam)

    def of_labels(self, probabilities: Float[AnyArray, "n k"]) -> Float[AnyArray, "n k"]:
        xp = array_namespace(probabilities)
        ranks = label_ranks(probabilities)
        u = self.own_share(probabilities)
        top = probabilities.max(-1, keepdims=True)
        beyond = top + ((ranks - 2).astype(probabilities.dtype) + u) * self.lam
        return xp.where(ranks == 1, u * top, beyond)


def _require_penalty(lam: float) -> None:
    if not 0 <= lam < float("inf"):
        raise ValueError(f"lam must be at least 0 and finite, got {lam!r}")
