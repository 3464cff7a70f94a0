"""Bayesian regressions on a weighted few of their rows: NUTS then costs what the few cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpyro
from jaxtyping import Array, ArrayLike, Float
from numpyro import handlers

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced
from uqsparse.solvers.coresets import RowSample, sample_rows
from uqsparse.solvers.row_scores import Scheme, leverage_scores, row_scores

Likelihood = Literal["gaussian", "laplace", "student-t", "logistic"]
# The l_p norm whose p-th power the log likelihood is made of.
_EXPONENTS = {"gaussian": 2.0, "laplace": 1.0}


@contextmanager
def weighted_plate(name: str, weights: Float[ArrayLike, " n"], dim: int = -1) -> Iterator[Array]:
    """A NumPyro plate over rows that count more than once: log densities inside it are multiplied by weights.

    Args:
        name: of the plate.
        weights: positive, shape (n,); traced ones are taken as they are.
        dim: axis of the plate, negative.

    Yields:
        The indices of the plate, as `numpyro.plate` does.

    Raises:
        ValueError: weights are not positive numbers in one dimension.

    >>> def model(x, y, weights):
    ...     slope = numpyro.sample("slope", numpyro.distributions.Normal(0, 10))
    ...     with weighted_plate("rows", weights):
    ...         numpyro.sample("y", numpyro.distributions.Laplace(slope * x, 1.0), obs=y)
    """
    values: Any = weights if is_traced(weights) else np.asarray(weights, dtype=np.float64)
    wrong_values = not is_traced(values) and not (np.isfinite(values) & (values > 0)).all()
    if values.ndim != 1 or not values.size or wrong_values:
        raise ValueError("weights must be positive and finite, in one dimension")
    shaped = values.reshape(values.shape + (1,) * (-dim - 1))
    with numpyro.plate(name, values.shape[0], dim=dim) as indices, handlers.scale(scale=shaped):
        yield indices


def regression_coreset(
    key: Array,
    X: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, " n"],
    size: int,
    *,
    likelihood: Likelihood = "gaussian",
    scheme: Scheme = "lewis",
) -> RowSample:
    """Rows and weights on which a regression's log likelihood is about that on all rows, whatever the coefficients.

    For normal and Laplace noise the log likelihood is an l_2 or l_1 norm of [X y] (-coefficients, 1), and scores of
    [X y] keep it within a factor of 1 +- epsilon. For Student-t noise and logistic regression the scores are
    sqrt(leverage) + 1/n, a heuristic: no such factor is promised.

    Args:
        key: random key.
        X: features, with a column of ones if the model has an intercept, shape (n, d), finite.
        y: responses, shape (n,).
        size: expected number of rows.
        likelihood: "gaussian", "laplace", "student-t" or "logistic".
        scheme: scores for the first two, see `row_scores`; "uniform" for any.

    Returns:
        A `RowSample`; hand its weights to `weighted_plate`.

    Raises:
        ValueError: an argument is out of range.

    Source: Woodruff & Yasuda (2023), Sharper bounds for l_p sensitivity sampling; for logistic regression Munteanu,
    Schwiegelshohn, Sohler & Woodruff (2018), On coresets for logistic regression.
    """
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if X.ndim != 2 or y.shape != (len(X),):
        raise ValueError(f"X and y must have shapes (n, d) and (n,), got {X.shape} and {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("y must be finite, got NaN or infinity")
    require_count("size", size, 1)
    if likelihood in _EXPONENTS:
        scores = row_scores(np.column_stack([X, y]), _EXPONENTS[likelihood], scheme)
    elif likelihood in ("student-t", "logistic"):
        rows = np.column_stack([X, y]) if likelihood == "student-t" else X
        uniform = scheme == "uniform"
        scores = np.ones(len(X)) if uniform else np.sqrt(leverage_scores(rows)) + 1 / len(X)
    else:
        raise ValueError(f"likelihood must be 'gaussian', 'laplace', 'student-t' or 'logistic', got {likelihood!r}")
    return sample_rows(key, scores, size)
