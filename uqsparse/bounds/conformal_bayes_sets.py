"""The sets that conformal Bayes returns: unions of intervals and label sets that know how far their weights carry."""

from jaxtyping import Float

from uqsparse.bounds.regions import IntervalUnions, LabelSets
from uqsparse.kernels.namespaces import AnyArray


class ReweightedUnions(IntervalUnions):
    """Unions of intervals of values that were added to the data of a posterior by weights.

    Args:
        lower: lower ends of up to m intervals a test point, shape (n, m); NaN where there are fewer.
        upper: upper ends, shape (n, m).
        threshold: None, since each value is held against scores of its own.
        guarantee: see `Region`.
        ess: the least effective sample size of the weights over the values kept, shape (n,); NaN for sets
            that are empty, or hold everything because there are too few observations.
    """

    ess: Float[AnyArray, "... n"] | None = None


class ReweightedLabels(LabelSets):
    """Sets of labels that were added to the data of a posterior by weights.

    Args:
        member: whether class k is in the set, shape (n, n_classes).
        threshold: None, since each label is held against scores of its own.
        guarantee: see `Region`.
        ess: the least effective sample size of the weights over the labels kept, shape (n,); NaN for sets
            that are empty, or hold everything because there are too few observations.
    """

    ess: Float[AnyArray, "... n"] | None = None
