"""Packaged data sets, generators and data files: plain arrays, with source and licence."""

from uqsparse.data.files import read_arrays
from uqsparse.data.generators import (
    HeteroscedasticRegression,
    SimulatedSeries,
    heteroscedastic_regression,
    linear_gaussian_series,
    stochastic_volatility_series,
)
from uqsparse.data.series import Series, inflation, nile, sunspots, treasury_bill
from uqsparse.data.tables import EightSchools, Table, breast_cancer, diabetes, digits, eight_schools

__all__ = [
    "EightSchools",
    "HeteroscedasticRegression",
    "Series",
    "SimulatedSeries",
    "Table",
    "breast_cancer",
    "diabetes",
    "digits",
    "eight_schools",
    "heteroscedastic_regression",
    "inflation",
    "linear_gaussian_series",
    "nile",
    "read_arrays",
    "stochastic_volatility_series",
    "sunspots",
    "treasury_bill",
]
