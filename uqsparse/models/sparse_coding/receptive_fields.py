"""Receptive fields of a learned dictionary: a Gabor fitted to each, and what it says of the field."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from uqsparse.kernels.arguments import require_count
from uqsparse.solvers.gabor_least_squares import GaborLeastSquares, gabor_least_squares, gabor_starts

# A field is oriented, or a blob, only if the fit explains this share of its variance.
_LEAST_FIT = 0.5
_LEAST_LENGTH = 0.3


class GaborFits(NamedTuple):
    """The Gabor nearest to each of M fields of side x side pixels.

    With u and v the coordinates along the two axes of the envelope, from its centre, the field is
    `amplitude exp(-u^2 / 2 sigma_x^2 - v^2 / 2 sigma_y^2) cos(2 pi frequency u + phase)`.

    Args:
        centre: column and row of the envelope's centre, in pixels from the first pixel's middle, shape (M, 2).
        sigma_x: width of the envelope along the oscillation, pixels, shape (M,).
        sigma_y: width of the envelope along the stripes, pixels, shape (M,).
        orientation: direction of the oscillation, radians in [0, pi) from the columns' axis (rightwards) towards the
            rows' (downwards), shape (M,). The stripes are perpendicular to it: 0 means upright stripes.
        frequency: cycles per pixel, at most 0.5, shape (M,).
        phase: at the centre, radians in (-pi, pi], shape (M,).
        amplitude: of the envelope, at least 0, shape (M,).
        r_squared: share of the field's variance over its pixels that the fit explains, shape (M,); 0 for a field that
            is constant, negative for a fit that is worse than the mean.
        n_x: sigma_x frequency, shape (M,): how many cycles fit into the width; near 0 for blobs, large for gratings.
        n_y: sigma_y frequency, shape (M,): the length of the stripes in cycles.
        kind: "oriented" where r_squared >= 0.5 and n_y > 0.3, "blob" where only the first holds, "unstructured" else,
            shape (M,). An edge without flanks counts as a blob: the nearest Gabor has a frequency near 0.
        at_bound: whether a width, the frequency or the centre ended at an end of its range, shape (M,).
        n_agreeing: how many starts ended within 0.001 of the best r_squared, shape (M,).
        converged: whether the best start settled within the iterations, shape (M,).
        n_iter: iterations that the slowest start took.
        side: pixels on a side of the fields.
    """

    centre: Float[np.ndarray, "M 2"]
    sigma_x: Float[np.ndarray, " M"]
    sigma_y: Float[np.ndarray, " M"]
    orientation: Float[np.ndarray, " M"]
    frequency: Float[np.ndarray, " M"]
    phase: Float[np.ndarray, " M"]
    amplitude: Float[np.ndarray, " M"]
    r_squared: Float[np.ndarray, " M"]
    n_x: Float[np.ndarray, " M"]
    n_y: Float[np.ndarray, " M"]
    kind: Shaped[np.ndarray, " M"]
    at_bound: Bool[np.ndarray, " M"]
    n_agreeing: Int[np.ndarray, " M"]
    converged: Bool[np.ndarray, " M"]
    n_iter: int
    side: int

    @property
    def fields(self) -> Float[np.ndarray, "D M"]:
        """The fitted fields, one a column, as the dictionary has them."""
        envelope = (self.centre, self.sigma_x, self.sigma_y)
        return gabor_fields(*envelope, self.orientation, self.frequency, self.phase, self.amplitude, side=self.side)

    def share(self, kind: str) -> float:
        """The share of fields that are of a kind."""
        return float(np.mean(self.kind == kind))


def gabor_fields(
    centre: Float[Any, "M 2"],
    sigma_x: Float[Any, " M"],
    sigma_y: Float[Any, " M"],
    orientation: Float[Any, " M"],
    frequency: Float[Any, " M"],
    phase: Float[Any, " M"],
    amplitude: Float[Any, " M"] = 1.0,
    *,
    side: int,
) -> Float[np.ndarray, "D M"]:
    """Gabors of given parameters, one a column of side x side pixels, row by row.

    Args:
        centre: column and row of each centre, in pixels, shape (M, 2).
        sigma_x: width along the oscillation, pixels, positive, shape (M,) or a number, as all that follow.
        sigma_y: width along the stripes, pixels, positive.
        orientation: direction of the oscillation, radians, from the columns' axis towards the rows'.
        frequency: cycles per pixel.
        phase: at the centre, radians.
        amplitude: of the envelope.
        side: pixels on a side, at least 1.

    Source: Daugman (1985), Uncertainty relation for resolution in space, spatial frequency, and orientation.

    >>> gabor_fields([[1.0, 1.0]], 1.0, 1.0, 0.0, 0.25, 0.0, side=3).round(2)[:, 0].tolist()
    [0.0, 0.61, 0.0, 0.0, 1.0, 0.0, 0.0, 0.61, 0.0]
    """
    require_count("side", side, 1)
    centre = np.atleast_2d(np.asarray(centre, float))
    rows, columns = np.divmod(np.arange(side * side)[:, None], side)
    across, down = columns - centre[:, 0], rows - centre[:, 1]
    u = across * np.cos(orientation) + down * np.sin(orientation)
    v = down * np.cos(orientation) - across * np.sin(orientation)
    envelope = np.exp(-((u / sigma_x) ** 2 + (v / sigma_y) ** 2) / 2)
    return amplitude * envelope * np.cos(2 * np.pi * np.asarray(frequency) * u + phase)


def fit_gabors(dictionary: Float[Any, "D M"], side: int, *, max_iter: int = 300) -> GaborFits:
    """Fit a Gabor to each column of a dictionary of square patches, by least squares from several starts.

    A start takes its frequency and direction from one of the three highest peaks of the field's spectrum and its centre
    and widths from the field's energy; two more start as blobs. For given envelope and frequency the best amplitude and
    phase are those of a regression on a cosine and a sine, so they are projected out, and a Levenberg-Marquardt
    method moves the other six parameters, for all fields at once. Widths stay within [0.5, side] pixels, frequencies
    within [0.05 / side, 0.5] cycles a pixel, centres on the patch.

    Least squares of a Gabor has local minima: `n_agreeing` says how many of the eight starts ended at the best.

    Args:
        dictionary: fields, one a column of D = side^2 pixels, row by row, shape (D, M); finite.
        side: pixels on a side, at least 4.
        max_iter: most iterations a start, at least 1.

    Returns:
        A `GaborFits`. A start that has not settled is reported there, with a warning if it is the best of its field.

    Raises:
        ValueError: an argument is out of its range, not finite, or the shapes do not fit.

    Source: Jones & Palmer (1987), An evaluation of the two-dimensional Gabor filter model of simple receptive fields in
    cat striate cortex (the model); Ringach (2002), Spatial structure and symmetry of simple-cell receptive fields in
    macaque primary visual cortex (n_x, n_y); Kaufman (1975), A variable projection method for solving separable
    nonlinear least squares problems (the Jacobian).

    >>> planted = gabor_fields([[4.0, 5.0]], 1.5, 2.5, 0.6, 0.2, 0.3, side=10)
    >>> fits = fit_gabors(planted, 10)
    >>> round(float(fits.frequency[0]), 4), round(float(fits.sigma_y[0]), 4), str(fits.kind[0])
    (0.2, 2.5, 'oriented')
    """
    require_count("side", side, 4)
    require_count("max_iter", max_iter, 1)
    fields = _checked(dictionary, side).T
    scale = abs(fields).max(axis=1)
    # Squares of the scaled fields neither overflow nor vanish.
    fields = fields / np.where(scale > 0, scale, 1.0)[:, None]
    found = gabor_least_squares(fields, gabor_starts(fields, side), side, max_iter=max_iter)
    if not found.converged.all():
        warnings.warn(
            f"fit_gabors: {np.sum(~found.converged)} of {len(fields)} fits have not settled after {max_iter} "
            "iterations; more max_iter may help",
            RuntimeWarning,
            stacklevel=2,
        )
    total = ((fields - fields.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    structured = total > 1e-12 * (fields**2).sum(axis=1)
    explained = np.where(structured[:, None], 1 - found.cost / np.where(structured, total, 1.0)[:, None], 0.0)
    return _record(found, explained, scale, side)


def _checked(dictionary: Any, side: int) -> Float[np.ndarray, "D M"]:
    array = np.asarray(dictionary)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"dictionary must hold real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[0] != side**2 or array.shape[1] < 1:
        raise ValueError(f"dictionary must have shape (side^2, M) = ({side**2}, M), M >= 1, got {array.shape}")
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"dictionary must be finite, got {bad} values that are NaN or infinite")
    return array.astype(float)


def _record(
    found: GaborLeastSquares, explained: Float[np.ndarray, "M starts"], scale: Float[np.ndarray, " M"], side: int
) -> GaborFits:
    x, y, log_x, log_y, angle, frequency = found.parameters.T
    even, odd = found.factors.T
    # Turned by pi the sine changes its sign; the direction then lies in [0, pi).
    turns = np.floor(angle / np.pi)
    odd = np.where(turns % 2 == 0, odd, -odd)
    orientation = angle - turns * np.pi
    sigma_x, sigma_y, r_squared = np.exp(log_x), np.exp(log_y), explained.max(axis=1)
    n_y = sigma_y * frequency
    structured = np.where(n_y > _LEAST_LENGTH, "oriented", "blob")
    return GaborFits(
        centre=np.stack([x, y], axis=1),
        sigma_x=sigma_x,
        sigma_y=sigma_y,
        orientation=np.where(orientation < np.pi, orientation, 0.0),
        frequency=frequency,
        phase=np.arctan2(-odd, even),
        amplitude=np.hypot(even, odd) * scale,
        r_squared=r_squared,
        n_x=sigma_x * frequency,
        n_y=n_y,
        kind=np.where(r_squared >= _LEAST_FIT, structured, "unstructured"),
        at_bound=found.at_bound,
        n_agreeing=(explained >= r_squared[:, None] - 1e-3).sum(axis=1),
        converged=found.converged,
        n_iter=found.n_iter,
        side=side,
    )
