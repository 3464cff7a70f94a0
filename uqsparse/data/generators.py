"""Synthetic data whose truth is known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class HeteroscedasticRegression(NamedTuple):
    """A regression in which the noise depends on the input, with its truth.

    Args:
        X: inputs in [0, 1], shape (n, 1).
        y: targets, shape (n,).
        mean: true mean of each target, shape (n,).
        sd: true standard deviation of each target, shape (n,).
        feature_names: the one input's name.
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    X: Float[np.ndarray, "n 1"]
    y: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    source: str
    licence: str


def heteroscedastic_regression(seed: int, n: int = 200) -> HeteroscedasticRegression:
    """Draw a sine wave whose noise triples from left to right: `y = 2 sin(2 pi x) + (0.5 + x) e`, `e ~ N(0,
    1)`.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of rows, at least 1; inputs are uniform on [0, 1].

    Raises:
        ValueError: if `n` is below 1.

    Source: Goldberg, Williams & Bishop (1998), Regression with input-dependent noise, NIPS 10, section 4.

    >>> heteroscedastic_regression(seed=0, n=3).X.shape
    (3, 1)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=n)
    mean, sd = 2.0 * np.sin(2.0 * np.pi * x), 0.5 + x
    return HeteroscedasticRegression(
        X=x[:, None],
        y=mean + sd * rng.standard_normal(n),
        mean=mean,
        sd=sd,
        feature_names=("x",),
        source="Goldberg, Williams & Bishop (1998), Regression with input-dependent noise, NIPS 10",
        licence="generated, free to use",
    )
