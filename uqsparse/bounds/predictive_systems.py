"""Conformal predictive systems: whole predictive distributions whose probabilities are calibrated."""

import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, Shaped

from uqsparse.bounds.conformal import checked_scores
from uqsparse.bounds.conformal_distribution import ConformalDistribution
from uqsparse.bounds.guarantee import EXCHANGEABLE, NOT_TUNED, Guarantee
from uqsparse.bounds.mondrian import WITHIN_GROUPS
from uqsparse.bounds.monotone_maps import ScoreName, monotone_map
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray


class PredictiveSystem(eqx.Module):
    """Calibration scores that turn predictions into calibrated predictive distributions.

    Build it by `calibrate`.

    Args:
        scores: calibration scores in ascending order, one array for each group.
        groups: the groups in ascending order; None where there is one.
        score: what a score is, see `calibrate`.
        guarantee: see `ConformalDistribution`.

    Source: Vovk, Nouretdinov, Manokhin & Gammerman (2018), Cross-conformal predictive distributions, section 3 (split
    conformal predictive systems); Vovk, Shen, Manokhin & Xie (2019), Nonparametric predictive distributions based on
    conformal prediction; scores of probability: Chernozhukov, Wüthrich & Zhu (2021), Distributional conformal
    prediction; groups: Boström, Johansson & Löfström (2021), Mondrian conformal predictive distributions.

    >>> system = PredictiveSystem.calibrate(np.zeros(9), np.arange(1.0, 10.0))
    >>> new = system.predict(np.array([100.0]))
    >>> new.quantile(0.8).tolist(), new.cdf(np.array([105.5])).tolist(), new.mean().tolist()
    ([108.0], [0.55], [105.0])
    """

    scores: tuple[Float[AnyArray, " n"], ...]
    groups: tuple[Any, ...] | None = eqx.field(static=True)
    score: ScoreName | None = eqx.field(static=True)
    guarantee: Guarantee = eqx.field(static=True)

    @classmethod
    def calibrate(
        cls,
        predictions: Any,
        y: Num[AnyArray, " n"],
        *,
        score: ScoreName | None = None,
        groups: Shaped[AnyArray, " n"] | None = None,
    ) -> "PredictiveSystem":
        """Compute the scores of held-out observations.

        Args:
            predictions: predictions of n observations that the model was not fitted to: means of shape (n,), a pair
                (mean, sd), or a predictive distribution such as `PredictiveDraws`.
            y: their observed values, finite, shape (n,).
            score: "residual" is y - mean, and gives distributions of one shape; "normalised" is (y - mean) / sd, and
                gives them the predicted widths; "probability" is the predictive distribution function at y, takes
                `PredictiveDraws` and keeps the shape of each (distributional conformal prediction). None takes
                "normalised" where predictions have standard deviations and "residual" elsewhere.
            groups: the group of each, shape (n,), of any type that sorts: each is then calibrated by its own.

        Raises:
            ValueError: shapes do not fit, a score is NaN or infinite, or a standard deviation is not positive.
            TypeError: the predictions are not what the score takes.
        """
        y = as_array("y", y)
        mapping = monotone_map(predictions, score)
        require_same_length("y", y, mapping.n, "predictions")
        scores = checked_scores(mapping.score(y))
        if not is_traced(scores) and (bad := np.flatnonzero(~np.isfinite(np.asarray(scores)))).size:
            raise ValueError(f"scores are infinite in {bad.size} of {mapping.n} rows, the first is {bad[0]}")
        xp = array_namespace(scores)
        if groups is None:
            parts, names = (xp.sort(scores),), None
        else:
            members = np.asarray(groups)
            require_same_length("groups", members, mapping.n, "predictions")
            names = tuple(np.unique(members).tolist())
            parts = tuple(xp.sort(scores[np.flatnonzero(members == name)]) for name in names)
        n = min(part.shape[0] for part in parts)
        # Between the outermost atoms; `interval` states the level that it is asked for.
        level = round((n - 1) / (n + 1), 12)
        assumed = EXCHANGEABLE if names is None else WITHIN_GROUPS
        guarantee = Guarantee("marginal" if names is None else "group", level, n, (assumed, NOT_TUNED))
        return cls(parts, names, score, guarantee)

    def predict(self, predictions: Any, groups: Shaped[AnyArray, " n"] | None = None) -> ConformalDistribution:
        """The calibrated predictive distributions of n test points.

        Args:
            predictions: in the form that `calibrate` was given.
            groups: the group of each test point, shape (n,), where the calibration had groups. A group without
                calibration observations gets infinite quantiles, with a warning.

        Raises:
            ValueError: groups are missing, or not wanted, or shapes do not fit.
        """
        mapping = monotone_map(predictions, self.score)
        if (groups is None) != (self.groups is None):
            raise ValueError("groups are needed at prediction exactly where the calibration had them")
        return ConformalDistribution(mapping, self.scores, self._places(groups, mapping.n), self.guarantee)

    def _places(self, groups: Any, n: int) -> Any:
        """Which of the groups each test point belongs to, -1 for others."""
        if self.groups is None:
            return None
        xp = jnp if is_traced(groups) else np
        known, groups = xp.asarray(self.groups), xp.asarray(groups)
        require_same_length("groups", groups, n, "predictions")
        place = xp.minimum(xp.searchsorted(known, groups), len(self.groups) - 1)
        place = xp.where(known[place] == groups, place, -1)
        if not is_traced(place) and (place < 0).any():
            named = ", ".join(map(repr, np.unique(np.asarray(groups)[np.asarray(place) < 0])[:5].tolist()))
            warnings.warn(f"no calibration observation in group(s) {named}: quantiles are infinite", stacklevel=3)
        return place
