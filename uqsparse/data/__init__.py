"""Packaged data sets, generators and data files: plain arrays, with source and licence."""

from uqsparse.data.files import read_arrays
from uqsparse.data.generators import HeteroscedasticRegression, heteroscedastic_regression
from uqsparse.data.tables import EightSchools, Table, breast_cancer, diabetes, digits, eight_schools

__all__ = [
    "EightSchools",
    "HeteroscedasticRegression",
    "Table",
    "breast_cancer",
    "diabetes",
    "digits",
    "eight_schools",
    "heteroscedastic_regression",
    "read_arrays",
]
