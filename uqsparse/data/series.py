"""Real time series, offline: data sets that statsmodels carries, read when they are asked for."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

_SHIPPED = "public domain; distributed with statsmodels (BSD-3-Clause)"
_FRED = "Federal Reserve Bank of St. Louis, FRED, accessed 15 December 2009"


class Series(NamedTuple):
    """A time series.

    Args:
        values: one number for each time, shape (T,).
        times: years, at the start of the period; quarters are quarters of a year, shape (T,).
        name: what was measured.
        unit: its unit.
        source: who made the data and where they were published.
        licence: under which terms they are distributed.
    """

    values: Float[np.ndarray, " T"]
    times: Float[np.ndarray, " T"]
    name: str
    unit: str
    source: str
    licence: str


def nile() -> Series:
    """Annual flow of the Nile at Aswan, 1871 to 1970: a level that drops about 1899, under noise.

    Raises:
        ImportError: if statsmodels is not installed.

    >>> nile().values[:3]
    array([1120., 1160.,  963.])
    """
    table = _table("nile")
    source = "Cobb (1978), The problem of the Nile: conditional solution to a changepoint problem, Biometrika 65"
    return Series(_column(table, "volume"), _column(table, "year"), "annual flow", "10^8 m^3", source, _SHIPPED)


def inflation() -> Series:
    """Quarterly inflation in the United States, from the consumer price index, second quarter of 1959 to third of 2009.

    Level and volatility both drift.

    Raises:
        ImportError: if statsmodels is not installed.

    >>> inflation().values[:3]
    array([2.34, 2.74, 0.27])
    """
    # The first quarter has no quarter before it, and stands as zero in the table.
    values, times = _quarterly("infl")
    return Series(values[1:], times[1:], "inflation", "percent a year", f"consumer price index, {_FRED}", _SHIPPED)


def treasury_bill() -> Series:
    """Rate of the three-month treasury bill of the United States, quarterly, 1959 to third quarter of 2009.

    Its quarterly changes are nearly uncorrelated, but large ones come together (1973 to 1975, 1979 to 1982): a case for
    stochastic volatility.

    Raises:
        ImportError: if statsmodels is not installed.

    >>> treasury_bill().values[:3]
    array([2.82, 3.08, 3.82])
    """
    source = f"three-month treasury bill, secondary market rate, {_FRED}"
    return Series(*_quarterly("tbilrate"), "treasury bill rate", "percent a year", source, _SHIPPED)


def sunspots() -> Series:
    """Yearly mean of the daily sunspot numbers, 1700 to 2008: a cycle of about eleven years.

    Raises:
        ImportError: if statsmodels is not installed.

    >>> sunspots().values[:3]
    array([ 5., 11., 16.])
    """
    table = _table("sunspots")
    source = "National Geophysical Data Center (NOAA), yearly sunspot numbers"
    return Series(_column(table, "SUNACTIVITY"), _column(table, "YEAR"), "sunspots", "number", source, _SHIPPED)


def _table(name: str) -> Any:
    try:
        # Here, since it brings pandas along and most users of the other data sets need neither.
        from statsmodels import datasets
    except ImportError as error:
        raise ImportError("this series comes with statsmodels; pip install 'uqsparse[bench]'") from error
    return getattr(datasets, name).load_pandas().data


def _column(table: Any, name: str) -> Float[np.ndarray, " T"]:
    return table[name].to_numpy(dtype=np.float64, copy=True)


def _quarterly(name: str) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    table = _table("macrodata")
    return _column(table, name), _column(table, "year") + (_column(table, "quarter") - 1) / 4
