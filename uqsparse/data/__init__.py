"""Packaged data sets, generators and data files: plain arrays, with source and licence."""

from uqsparse.data.files import read_arrays
from uqsparse.data.generators import (
    HeteroscedasticRegression,
    SimulatedSeries,
    heteroscedastic_regression,
    linear_gaussian_series,
    stochastic_volatility_series,
)
from uqsparse.data.images import Bars, Patches, bars, natural_patches
from uqsparse.data.known_probability_images import KnownProbabilityImages, known_probability_images
from uqsparse.data.ordinal_draws import OrdinalDraw, dense_differences, sparse_differences
from uqsparse.data.ordinal_tables import OrdinalTable, credit_data, fair, soup
from uqsparse.data.series import Series, inflation, nile, sunspots, treasury_bill
from uqsparse.data.tables import EightSchools, Table, breast_cancer, diabetes, digits, eight_schools

__all__ = [
    "Bars",
    "EightSchools",
    "HeteroscedasticRegression",
    "KnownProbabilityImages",
    "OrdinalDraw",
    "OrdinalTable",
    "Patches",
    "Series",
    "SimulatedSeries",
    "Table",
    "bars",
    "breast_cancer",
    "credit_data",
    "dense_differences",
    "diabetes",
    "digits",
    "eight_schools",
    "fair",
    "heteroscedastic_regression",
    "inflation",
    "known_probability_images",
    "linear_gaussian_series",
    "natural_patches",
    "nile",
    "read_arrays",
    "soup",
    "sparse_differences",
    "stochastic_volatility_series",
    "sunspots",
    "treasury_bill",
]
