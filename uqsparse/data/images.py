"""Images for sparse coding: generated bars whose dictionary is known, and patches of two photographs."""

from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from sklearn import datasets

Superposition = Literal["linear", "max", "max-magnitude"]
Whitening = Literal["filter", "zca"]

# The corner of the whitening filter, in cycles per pixel: what lies above is mostly noise of the camera.
_CORNER = 0.4


class Bars(NamedTuple):
    """Images of superposed bars in noise, with the bars and which of them each image holds.

    Args:
        images: pixels row by row, shape (n, side * side).
        dictionary: one bar a column, the horizontal ones from the top, then the vertical ones from the left, shape
            (side * side, 2 * side).
        states: discrete state of each bar in each image, 0 where it is absent, shape (n, 2 * side).
        coefficients: what the bar is multiplied by: the state, times a Gaussian draw with a slab, shape (n, 2 * side).
        probability: share of nonzero states.
        noise_scale: standard deviation of the noise of a pixel.
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    images: Float[np.ndarray, "n pixels"]
    dictionary: Float[np.ndarray, "pixels bars"]
    states: Float[np.ndarray, "n bars"]
    coefficients: Float[np.ndarray, "n bars"]
    probability: float
    noise_scale: float
    source: str
    licence: str


class Patches(NamedTuple):
    """Square patches of grey photographs.

    Args:
        patches: pixels row by row, shape (n, side * side).
        image: which photograph each is from, shape (n,).
        corner: row and column of its upper left pixel, shape (n, 2). Patches may overlap: to keep a test set apart,
            take another photograph, or split by place.
        side: pixels along a side.
        source: who took the photographs and where they were published.
        licence: under which terms they are distributed.
    """

    patches: Float[np.ndarray, "n pixels"]
    image: Int[np.ndarray, " n"]
    corner: Int[np.ndarray, "n 2"]
    side: int
    source: str
    licence: str


def bars(
    seed: int,
    n: int,
    *,
    side: int = 5,
    amplitude: float = 10.0,
    probability: float | tuple[float, ...] = 0.2,
    noise_scale: float = 2.0,
    superposition: Superposition = "linear",
    values: tuple[float, ...] = (1.0,),
    slab: tuple[float, float] | None = None,
    signed: bool | None = None,
) -> Bars:
    """Draw images in which each of 2 * side bars is present or not, independently.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of images, at least 1.
        side: pixels along a side, at least 2.
        amplitude: intensity of a bar's pixels, positive.
        probability: that a bar is present, in (0, 1), shared equally among the values; or one number a value, with
            a sum in (0, 1).
        noise_scale: standard deviation of the Gaussian noise of a pixel, at least 0.
        superposition: what a pixel under several bars shows: "linear" their sum; "max" the largest; "max-magnitude"
            the one of largest absolute value, with its sign.
        values: nonzero states a bar may take, distinct and not 0; for instance (-1, 1) or (1, 2).
        slab: mean and standard deviation (at least 0) of a Gaussian that multiplies each state; none if left out.
        signed: whether every second bar is negative; by default only with "max-magnitude".

    Raises:
        ValueError: an argument is out of range, or bars or states are negative under "max".

    Source: Foldiak (1990), Forming sparse representations by local anti-Hebbian learning, Biological Cybernetics 64
    (bars); Exarchakis, Bornschein, Sheikh, Dai, Henniges, Drefs & Luecke (2019), ProSper, arXiv 1908.06843 (amplitude,
    noise, superpositions).

    >>> bars(seed=0, n=3).images.shape
    (3, 25)
    """
    signed = superposition == "max-magnitude" if signed is None else signed
    shares = _checked_bars(n, side, amplitude, probability, noise_scale, superposition, values, slab, signed)
    rng = np.random.default_rng(seed)
    dictionary = amplitude * bar_dictionary(side)
    if signed:
        dictionary[:, 1::2] *= -1
    choices = np.array((0.0, *values))
    states = rng.choice(choices, size=(n, 2 * side), p=np.r_[1 - shares.sum(), shares])
    coefficients = states if slab is None else states * (slab[0] + slab[1] * rng.standard_normal(states.shape))
    clean = _superposed(coefficients, dictionary, superposition)
    return Bars(
        images=clean + noise_scale * rng.standard_normal(clean.shape),
        dictionary=dictionary,
        states=states,
        coefficients=coefficients,
        probability=float(shares.sum()),
        noise_scale=float(noise_scale),
        source="bars of Foldiak (1990), Biological Cybernetics 64, as in ProSper, arXiv 1908.06843",
        licence="generated, free to use",
    )


def bar_dictionary(side: int) -> Float[np.ndarray, "pixels bars"]:
    """All horizontal and vertical bars of a square as columns of zeros and ones: horizontal first.

    >>> bar_dictionary(2).T.tolist()
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    """
    one, rows = np.ones(side), np.eye(side)
    return np.c_[np.kron(rows, one[:, None]), np.kron(one[:, None], rows)]


def _checked_bars(
    n: int,
    side: int,
    amplitude: float,
    probability: float | tuple[float, ...],
    noise_scale: float,
    superposition: Superposition,
    values: tuple[float, ...],
    slab: tuple[float, float] | None,
    signed: bool,
) -> Float[np.ndarray, " values"]:
    """The probability of each value."""
    for name, count, least in (("n", n, 1), ("side", side, 2)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {count!r}")
    if not (np.isfinite(amplitude) and amplitude > 0):
        raise ValueError(f"amplitude must be a positive number, got {amplitude!r}")
    if not (np.isfinite(noise_scale) and noise_scale >= 0):
        raise ValueError(f"noise_scale must be a nonnegative number, got {noise_scale!r}")
    if superposition not in get_args(Superposition):
        raise ValueError(f"superposition must be one of {', '.join(get_args(Superposition))}, got {superposition!r}")
    if not values or len(set(values)) < len(values) or 0 in values or not np.isfinite(values).all():
        raise ValueError(f"values must be distinct finite numbers other than 0, got {values!r}")
    shares = np.atleast_1d(np.asarray(probability, float))
    shares = np.full(len(values), shares[0] / len(values)) if np.ndim(probability) == 0 else shares
    if shares.shape != (len(values),) or not (shares > 0).all() or not shares.sum() < 1:
        raise ValueError(
            f"probability must be one number in (0, 1), or a positive one for each of the {len(values)} values with a "
            f"sum below 1, got {probability!r}"
        )
    if slab is not None and not (len(slab) == 2 and np.isfinite(slab).all() and slab[1] >= 0):
        raise ValueError(f"slab must be a mean and a nonnegative standard deviation, got {slab!r}")
    if superposition == "max" and (signed or slab is not None or min(values) < 0):
        raise ValueError(
            "superposition 'max' needs bars and states that are not negative: no signed, slab or values < 0"
        )
    return shares


def _superposed(
    coefficients: Float[np.ndarray, "n bars"],
    dictionary: Float[np.ndarray, "pixels bars"],
    superposition: Superposition,
) -> Float[np.ndarray, "n pixels"]:
    if superposition == "linear":
        return coefficients @ dictionary.T
    clean = np.zeros((len(coefficients), len(dictionary)))
    # One bar at a time: an array over images, pixels and bars would be large.
    for weight, bar in zip(coefficients.T, dictionary.T, strict=True):
        shown = np.outer(weight, bar)
        clean = np.where(abs(shown) > abs(clean), shown, clean) if superposition != "max" else np.maximum(clean, shown)
    return clean


def natural_patches(
    seed: int,
    n: int,
    *,
    side: int = 12,
    images: tuple[int, ...] = (0, 1),
    whitening: Whitening | None = "filter",
) -> Patches:
    """Draw square patches, all at different places, of the two photographs that scikit-learn carries.

    The photographs are a temple (0) and a flower (1), 427 x 640 pixels, made grey by the mean of the three colours.

    Args:
        seed: seed of the places, at least 0; the same seed gives the same data.
        n: number of patches, at least 1.
        side: pixels along a side, from 2 to 64.
        images: which photographs, (0,), (1,) or (0, 1); places are drawn from all of them alike.
        whitening: "filter" passes each photograph through f exp(-(f / 0.4)^4), with f in cycles per pixel, and gives
            it mean 0 and variance 1; "zca" decorrelates the pixels of a patch by the symmetric inverse square root of
            their covariance over both photographs, whichever are asked for (its eigenvalues raised by a hundredth of
            their mean); None leaves grey levels in [0, 1].

    Returns:
        The patches. Those without contrast (equal pixels) are skipped, and others drawn for them.

    Raises:
        ValueError: an argument is out of range, or there are not n patches with contrast.

    Source: Olshausen & Field (1997), Sparse coding with an overcomplete basis set: a strategy employed by V1?, Vision
    Research 37 (the filter, there with 200 cycles a picture of 512 pixels as its corner).

    >>> natural_patches(seed=0, n=5, side=8).patches.shape
    (5, 64)
    """
    for name, count, least, most in (("n", n, 1, None), ("side", side, 2, 64)):
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or count < least or (most is not None and count > most):
            raise ValueError(
                f"{name} must be an integer of at least {least}{f' and at most {most}' if most else ''}, got {count!r}"
            )
    if not images or len(set(images)) < len(images) or not set(images) <= {0, 1}:
        raise ValueError(f"images must be (0,), (1,) or (0, 1), got {images!r}")
    if whitening is not None and whitening not in get_args(Whitening):
        raise ValueError(f"whitening must be 'filter', 'zca' or None, got {whitening!r}")
    pictures = np.stack([_filtered(i) if whitening == "filter" else _grey()[i] for i in images])
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (side, side), axis=(1, 2))
    n_places = int(np.prod(windows.shape[:3]))
    if n > n_places:
        raise ValueError(f"n is {n}, and the photographs {images} have only {n_places} patches of side {side}")
    places = np.random.default_rng(seed).permutation(n_places)
    kept: list[np.ndarray] = []
    drawn, n_kept = 0, 0
    while n_kept < n and drawn < len(places):
        block = places[drawn : drawn + n - n_kept]
        drawn += len(block)
        pixels = windows[np.unravel_index(block, windows.shape[:3])].reshape(len(block), -1)
        kept.append(block[np.ptp(pixels, axis=1) > 1e-9])
        n_kept += len(kept[-1])
    if n_kept < n:
        raise ValueError(
            f"n is {n}, and the photographs {images} have only {n_kept} patches of side {side} with contrast"
        )
    which, row, column = np.unravel_index(np.concatenate(kept), windows.shape[:3])
    patches = windows[which, row, column].reshape(n, -1)
    if whitening == "zca":
        mean, root = _zca(side)
        patches = (patches - mean) @ root
    return Patches(
        patches=patches,
        image=np.asarray(images)[which],
        corner=np.stack([row, column], axis=1),
        side=side,
        source="photographs china.jpg by danielbuechele and flower.jpg by vultilion, flickr.com, in scikit-learn",
        licence="CC BY 2.0, distributed with scikit-learn",
    )


@cache
def _grey() -> Float[np.ndarray, "2 rows columns"]:
    bunch: Any = datasets.load_sample_images()
    grey = np.stack([image.mean(axis=2) for image in bunch.images]) / 255
    grey.setflags(write=False)
    return grey


@cache
def _filtered(image: int) -> Float[np.ndarray, "rows columns"]:
    grey = _grey()[image]
    frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.rfftfreq(grey.shape[1])[None])
    gain = frequency * np.exp(-((frequency / _CORNER) ** 4))
    whitened = np.fft.irfft2(np.fft.rfft2(grey) * gain, s=grey.shape)
    # The gain is 0 at frequency 0, so the mean is 0 already.
    whitened /= whitened.std()
    whitened.setflags(write=False)
    return whitened


@cache
def _zca(side: int) -> tuple[Float[np.ndarray, " pixels"], Float[np.ndarray, "pixels pixels"]]:
    """Mean and symmetric inverse square root of the covariance, over every third place in each direction."""
    windows = np.lib.stride_tricks.sliding_window_view(_grey(), (side, side), axis=(1, 2))[:, ::3, ::3]
    pixels = windows.reshape(-1, side * side)
    values, vectors = np.linalg.eigh(np.cov(pixels.T))
    root = (vectors / np.sqrt(np.maximum(values, 0.0) + 0.01 * values.mean())) @ vectors.T
    return pixels.mean(axis=0), root
