"""Small images with binary labels whose true probabilities are known, to see what a network makes of them."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

Scenario = Literal["linear", "sigmoid", "skewed", "centred", "discrete"]
SIDE = 16


class KnownProbabilityImages(NamedTuple):
    """Images with a label each, and the probability the label was drawn with.

    Args:
        images: intensities around 0 to 1.3, with noise, shape (n, 16, 16).
        y: labels 0 or 1, shape (n,).
        probability: true probability of label 1, shape (n,).
        latent: what the probability depends on, in [0, 1], shape (n,).
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    images: Float[np.ndarray, "n 16 16"]
    y: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    latent: Float[np.ndarray, " n"]
    source: str
    licence: str


def known_probability_images(seed: int, n: int, scenario: Scenario = "linear") -> KnownProbabilityImages:
    """Draw images of an elliptic blob whose elongation sets the probability of label 1.

    The latent value z is Beta(1.5, 1.5); the axes of the blob have the ratio 1 + 2.5 z at a fixed area. Its centre,
    angle, size and brightness vary and mean nothing, and each pixel has noise of standard deviation 0.1.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of images, at least 1.
        scenario: the probability of label 1 given z: "linear" z; "sigmoid" 1 / (1 + exp(-25 (z - 0.29))); "skewed"
            z / 2.5; "centred" z / 3 + 0.35; "discrete" 0.1 and 0.2 more above each of z = 0.2, 0.4, 0.6, 0.8.

    Raises:
        ValueError: if n is below 1 or the scenario is unknown.

    Source: Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation, ICML (the five scenarios, there
    with age / 100 as z and photographs of faces; its text and its program differ in the sign of the sigmoid).

    >>> known_probability_images(seed=0, n=3).images.shape
    (3, 16, 16)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if scenario not in get_args(Scenario):
        raise ValueError(f"scenario must be one of {', '.join(get_args(Scenario))}, got {scenario!r}")
    rng = np.random.default_rng(seed)
    z = rng.beta(1.5, 1.5, size=n)
    probability = true_probability(z, scenario)
    y = (rng.uniform(size=n) < probability).astype(np.int64)
    return KnownProbabilityImages(
        images=_blobs(rng, z),
        y=y,
        probability=probability,
        latent=z,
        source="scenarios of Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation, ICML",
        licence="generated, free to use",
    )


def true_probability(latent: Float[np.ndarray, " n"], scenario: Scenario) -> Float[np.ndarray, " n"]:
    """Probability of label 1 given the latent value in [0, 1].

    >>> true_probability(np.array([0.1, 0.9]), "discrete")
    array([0.1, 0.9])
    """
    if scenario == "linear":
        return latent
    if scenario == "sigmoid":
        return 1 / (1 + np.exp(-25 * (latent - 0.29)))
    if scenario == "skewed":
        return latent / 2.5
    if scenario == "centred":
        return latent / 3 + 0.35
    return 0.1 + 0.2 * (latent[:, None] > np.array([0.2, 0.4, 0.6, 0.8])).sum(axis=1)


def _blobs(rng: np.random.Generator, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 16 16"]:
    n = len(z)
    centre = rng.uniform(-0.3, 0.3, size=(n, 2))
    angle = rng.uniform(-0.4, 0.4, size=n)
    size = rng.uniform(0.25, 0.4, size=n)
    amplitude = rng.uniform(0.7, 1.3, size=n)
    ratio = 1 + 2.5 * z
    places = np.linspace(-1, 1, SIDE)
    across = places[None, None, :] - centre[:, 0, None, None]
    down = places[None, :, None] - centre[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    long, short = (size * np.sqrt(ratio))[:, None, None], (size / np.sqrt(ratio))[:, None, None]
    squared = ((cos * across + sin * down) / long) ** 2 + ((cos * down - sin * across) / short) ** 2
    clean = amplitude[:, None, None] * np.exp(-squared / 2)
    return (clean + 0.1 * rng.standard_normal(clean.shape)).astype(np.float32)
