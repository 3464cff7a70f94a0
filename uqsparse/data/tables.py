"""Packaged data sets, offline: real tables that scikit-learn carries, and the eight schools."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num
from sklearn import datasets

_SHIPPED = "distributed with scikit-learn (BSD-3-Clause)"


class Table(NamedTuple):
    """A regression or classification table.

    Args:
        X: features, shape (n, p), in their natural units.
        y: targets, shape (n,): numbers, or classes 0, 1, ... as integers.
        feature_names: p names.
        source: who made the data and where they were published.
        licence: under which terms they are distributed.
    """

    X: Float[np.ndarray, "n p"]
    y: Num[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    source: str
    licence: str


class EightSchools(NamedTuple):
    """Estimated effects of coaching on test scores in eight schools.

    Args:
        effect: estimated effect of each school, in points, shape (8,).
        standard_error: its standard error, in points, shape (8,).
        school: names of the schools.
        source: who made the data and where they were published.
        licence: under which terms they are distributed.
    """

    effect: Float[np.ndarray, "8"]
    standard_error: Float[np.ndarray, "8"]
    school: tuple[str, ...]
    source: str
    licence: str


def diabetes() -> Table:
    """Progression of diabetes in a year, for 442 patients with 10 baseline measurements.

    Features are in their clinical units, not in the scaled form that scikit-learn gives by default: a scaling
    that has seen the test rows would leak them into training.

    >>> diabetes().X.shape
    (442, 10)
    """
    bunch: Any = datasets.load_diabetes(scaled=False)
    source = "Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression, Annals of Statistics 32"
    return Table(bunch.data, bunch.target, tuple(bunch.feature_names), source, _SHIPPED)


def breast_cancer() -> Table:
    """Diagnosis of 569 breast tumours (0 malignant, 1 benign) from 30 measurements of cell nuclei.

    >>> breast_cancer().X.shape
    (569, 30)
    """
    bunch: Any = datasets.load_breast_cancer()
    source = "Street, Wolberg & Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis"
    licence = f"CC BY 4.0 (UCI Machine Learning Repository); {_SHIPPED}"
    return Table(bunch.data, bunch.target, tuple(map(str, bunch.feature_names)), source, licence)


def digits() -> Table:
    """1797 handwritten digits, 8 x 8 pixels of intensity 0 to 16, ten classes.

    >>> digits().X.shape
    (1797, 64)
    """
    bunch: Any = datasets.load_digits()
    source = "Alpaydin & Kaynak (1998), Optical recognition of handwritten digits, UCI Machine Learning Repository"
    licence = f"CC BY 4.0 (UCI Machine Learning Repository); {_SHIPPED}"
    return Table(bunch.data, bunch.target, tuple(bunch.feature_names), source, licence)


def eight_schools() -> EightSchools:
    """Effects of coaching on SAT scores in eight schools, the classic hierarchical example.

    >>> eight_schools().effect[0]
    np.float64(28.0)
    """
    return EightSchools(
        effect=np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
        standard_error=np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        school=tuple("ABCDEFGH"),
        source="Rubin (1981), Estimation in parallel randomized experiments, J. of Educational Statistics 6",
        licence="published facts, free to use",
    )
