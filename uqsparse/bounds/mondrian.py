"""Mondrian conformal prediction: one threshold a group, and coverage within each."""

import warnings
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, Shaped

from uqsparse.bounds.conformal import (
    Alpha,
    checked_alpha,
    checked_scores,
    conformal_quantile,
    level_of,
    sets_of,
    warn_infinite,
)
from uqsparse.bounds.guarantee import NOT_TUNED, Guarantee
from uqsparse.bounds.regions import LabelSets, Region
from uqsparse.bounds.scores.score import Score, as_array, n_points, require_same_length
from uqsparse.kernels import is_traced
from uqsparse.kernels.namespaces import AnyArray

WITHIN_GROUPS = "calibration and test observations of one group are exchangeable"


class CalibratedGroups(eqx.Module):
    """A score with one threshold a group, ready to predict.

    Args:
        score: the score.
        threshold: shape (n_groups,), or (len(alpha), n_groups).
        groups: the groups in ascending order; for groups by label the labels 0, ..., n_groups - 1.
        counts: how many calibration observations each has.
        by_label: whether the groups are the class labels.
        guarantee: what its sets promise.
    """

    score: Score
    threshold: Float[AnyArray, "... g"]
    groups: tuple[Any, ...] = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)
    by_label: bool = eqx.field(static=True)
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, predictions: Any, groups: Shaped[AnyArray, " n"] | None = None) -> Region:
        """The prediction set of each test point.

        Args:
            predictions: in the form the score takes, n test points.
            groups: the group of each, shape (n,); a group without calibration observations gets infinite sets, with a
                warning. Not given where the groups are the labels: each label is then held against its own threshold.

        Raises:
            ValueError: groups are missing, or given beside label groups.
        """
        if self.by_label:
            if groups is not None:
                raise ValueError("groups are given, and the groups are the labels, which a test point does not show")
            threshold = self.threshold[..., None, :]
        else:
            if groups is None:
                raise ValueError("groups are missing: each test point needs its group's threshold")
            groups = jnp.asarray(groups) if is_traced(groups) else np.asarray(groups)
            require_same_length("groups", groups, n_points(predictions), "predictions")
            threshold = self._thresholds_of(groups)
        return sets_of(self.score, predictions, threshold, self.guarantee, several=self.threshold.ndim == 2)

    def _thresholds_of(self, groups: Any) -> Any:
        xp = jnp if is_traced(groups) else np
        known = xp.asarray(self.groups)
        place = xp.minimum(xp.searchsorted(known, groups), len(self.groups) - 1)
        unseen = known[place] != groups
        if xp is np and unseen.any():
            named = ", ".join(map(repr, np.unique(groups[unseen])[:5].tolist()))
            warnings.warn(f"no calibration observation in group(s) {named}: their sets are infinite", stacklevel=3)
        return xp.where(unseen, xp.inf, self.threshold[..., place])


class MondrianConformal:
    """Conformal prediction by groups: each group is calibrated by its own observations.

    Args:
        score: the nonconformity score, see `scores`.
        alpha: miscoverage allowed within each group, in (0, 1); several give sets at several levels.
        by: "group" for groups that are known of a test point; "label" for one threshold a class label, which covers
            the observations of every class at the level and takes a score of labels.

    Raises:
        ValueError: alpha is outside (0, 1), or `by` is unknown.

    Source: Vovk, Lindsay, Nouretdinov & Gammerman (2003), Mondrian confidence machine; Vovk (2012), Conditional
    validity of inductive conformal predictors.

    >>> from uqsparse.bounds.scores import AbsoluteResidual
    >>> y, groups = np.arange(40.0), np.repeat(["a", "b"], 20)
    >>> calibrated = MondrianConformal(AbsoluteResidual(), alpha=0.1).calibrate(np.zeros(40), y, groups)
    >>> calibrated.predict(np.zeros(2), ["a", "b"]).upper.tolist()
    [18.0, 38.0]
    """

    def __init__(self, score: Score, alpha: Alpha = 0.1, *, by: Literal["group", "label"] = "group"):
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, got {type(score).__name__}")
        if by not in ("group", "label"):
            raise ValueError(f"by must be 'group' or 'label', got {by!r}")
        self.score = score
        self.alpha = checked_alpha(alpha)
        self.by = by

    def calibrate(
        self, predictions: Any, y: Num[AnyArray, " n"], groups: Shaped[AnyArray, " n"] | None = None
    ) -> CalibratedGroups:
        """Find one threshold a group from held-out observations.

        Args:
            predictions: predictions of observations that the model was not fitted to, in the form the score takes.
            y: their observed values, shape (n,).
            groups: the group of each, shape (n,), of any type that sorts; not given where the groups are the labels.

        Raises:
            ValueError: shapes do not fit, a score is NaN, or groups are missing or not wanted.
        """
        y = as_array("y", y)
        scores = np.asarray(checked_scores(self.score(predictions, y)))
        if (groups is None) != (self.by == "label"):
            raise ValueError("groups are needed for by='group', and are the labels themselves for by='label'")
        members = np.asarray(y if groups is None else groups)
        require_same_length("groups", members, len(scores), "y")
        names = np.arange(self._n_labels(predictions)) if self.by == "label" else np.unique(members)
        parts = [scores[members == name] for name in names]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for all groups, below
            found = [conformal_quantile(part, self.alpha) if len(part) else self._infinite() for part in parts]
        threshold = np.stack(found, axis=-1)
        infinite = np.flatnonzero(np.isposinf(threshold).reshape(-1, len(names)).any(axis=0))
        small = ", ".join(f"{names[i]} ({len(parts[i])})" for i in infinite)
        warn_infinite(threshold, f"too few observations in group(s) {small}")
        counts = tuple(map(len, parts))
        guarantee = Guarantee("group", level_of(self.alpha), min(counts), (WITHIN_GROUPS, NOT_TUNED))
        return CalibratedGroups(self.score, threshold, tuple(names.tolist()), counts, self.by == "label", guarantee)

    def _infinite(self) -> np.ndarray:
        return np.full(np.shape(self.alpha), np.inf)

    def _n_labels(self, predictions: Any) -> int:
        """As many labels as the score's sets have."""
        region = self.score.region(predictions, np.inf)
        if not isinstance(region, LabelSets):
            raise TypeError(f"by='label' needs a score of labels, and {type(self.score).__name__} is none")
        return region.member.shape[-1]
