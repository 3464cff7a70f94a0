"""Packaged data sets, generators and data files: plain arrays, with source and licence."""

from uqsparse.data.few_shot_tasks import FewShotTasks, classification_tasks, sine_line_tasks
from uqsparse.data.files import read_arrays
from uqsparse.data.generators import (
    HeteroscedasticRegression,
    SimulatedSeries,
    heteroscedastic_regression,
    linear_gaussian_series,
    stochastic_volatility_series,
)
from uqsparse.data.image_tasks import image_completion_tasks
from uqsparse.data.images import Bars, Patches, bars, natural_patches
from uqsparse.data.known_probability_images import KnownProbabilityImages, known_probability_images
from uqsparse.data.lotka_volterra import Populations, lotka_volterra_populations, lotka_volterra_tasks
from uqsparse.data.mnist1d import Mnist1d, mnist1d
from uqsparse.data.ordinal_draws import OrdinalDraw, dense_differences, sparse_differences
from uqsparse.data.ordinal_tables import OrdinalTable, credit_data, fair, soup
from uqsparse.data.series import Series, inflation, nile, sunspots, treasury_bill
from uqsparse.data.tables import EightSchools, Table, breast_cancer, diabetes, digits, eight_schools
from uqsparse.data.tasks import GaussianProcesses, Tasks, gp_covariance, gp_tasks, gp_tasks_with_laws, standardise_tasks

__all__ = [
    "Bars",
    "EightSchools",
    "FewShotTasks",
    "GaussianProcesses",
    "HeteroscedasticRegression",
    "KnownProbabilityImages",
    "Mnist1d",
    "OrdinalDraw",
    "OrdinalTable",
    "Patches",
    "Populations",
    "Series",
    "SimulatedSeries",
    "Table",
    "Tasks",
    "bars",
    "breast_cancer",
    "classification_tasks",
    "credit_data",
    "dense_differences",
    "diabetes",
    "digits",
    "eight_schools",
    "fair",
    "gp_covariance",
    "gp_tasks",
    "gp_tasks_with_laws",
    "heteroscedastic_regression",
    "image_completion_tasks",
    "inflation",
    "known_probability_images",
    "linear_gaussian_series",
    "lotka_volterra_populations",
    "lotka_volterra_tasks",
    "mnist1d",
    "natural_patches",
    "nile",
    "read_arrays",
    "sine_line_tasks",
    "soup",
    "sparse_differences",
    "standardise_tasks",
    "stochastic_volatility_series",
    "sunspots",
    "treasury_bill",
]
