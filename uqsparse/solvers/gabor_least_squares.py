"""Least squares of Gabors, many fields at once: starts from spectrum and energy, amplitude and phase projected out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# Columns of the parameters that enter nonlinearly.
_X, _Y, _LOG_X, _LOG_Y, _ANGLE, _FREQUENCY = range(6)
# An envelope narrower than this is a single pixel, in pixels.
_LEAST_SIGMA = 0.5
# Least frequency in cycles per patch: below it a sine within the envelope is a straight line.
_LEAST_CYCLES = 0.05
_N_PEAKS = 3
# Numbers of a temporary array that stays in the processor's cache.
_BLOCK = 40_000


class GaborLeastSquares(NamedTuple):
    """The best of several starts for each of n fields.

    Args:
        parameters: column and row of the centre, logarithms of the two widths, direction and frequency of the
            oscillation, shape (n, 6).
        factors: of the cosine and of the sine under the envelope, shape (n, 2).
        cost: sum of squared residuals of every start, shape (n, starts).
        converged: whether the best start settled, shape (n,).
        at_bound: whether a parameter of the best start is at an end of its range, shape (n,).
        n_iter: iterations that the slowest start took.
    """

    parameters: Float[np.ndarray, "n 6"]
    factors: Float[np.ndarray, "n 2"]
    cost: Float[np.ndarray, "n starts"]
    converged: Bool[np.ndarray, " n"]
    at_bound: Bool[np.ndarray, " n"]
    n_iter: int


def gabor_least_squares(
    fields: Float[np.ndarray, "n D"], starts: Float[np.ndarray, "n starts 6"], side: int, *, max_iter: int = 300
) -> GaborLeastSquares:
    """Fit a Gabor to each field from each of its starts, and keep the best.

    For a given envelope and frequency the best amplitude and phase are those of a regression on a cosine and a sine.
    They are projected out, and a Levenberg-Marquardt method with bounds moves the other six parameters.

    Args:
        fields: one a row, side x side pixels, row by row; of moderate size (squares are summed).
        starts: in the order of `GaborLeastSquares.parameters`, shape (n, starts, 6), within the bounds.
        side: pixels on a side.
        max_iter: most iterations a start.

    Source: Golub & Pereyra (1973), The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate; Kaufman (1975), A variable projection method for solving separable nonlinear least squares
    problems (the Jacobian).
    """
    n, n_starts, _ = starts.shape
    problems = _Problems(np.repeat(fields, n_starts, axis=0), starts.reshape(-1, 6), side)
    runs = [_minimised(part, max_iter) for part in problems.parts(max(1, _BLOCK // side**2))]
    cost = np.concatenate([run.cost for run in runs]).reshape(n, n_starts)
    best = (np.arange(n), cost.argmin(axis=1))
    parameters = np.concatenate([run.parameters for run in runs]).reshape(n, n_starts, 6)[best]
    converged = np.concatenate([run.converged for run in runs]).reshape(n, n_starts)[best]
    low, high = _bounds(side)
    return GaborLeastSquares(
        parameters=parameters,
        factors=_project(_Problems(fields, parameters, side)).factors,
        cost=cost,
        converged=converged,
        at_bound=((parameters <= low) | (parameters >= high)).any(axis=1),
        n_iter=max(run.n_iter for run in runs),
    )


class _Problems(NamedTuple):
    """Fields, one a row, each with the nonlinear parameters of one fit."""

    fields: Float[np.ndarray, "n D"]
    parameters: Float[np.ndarray, "n 6"]
    side: int

    def parts(self, size: int) -> list["_Problems"]:
        places = [slice(first, first + size) for first in range(0, len(self.fields), size)]
        return [_Problems(self.fields[place], self.parameters[place], self.side) for place in places]


class _Run(NamedTuple):
    parameters: Float[np.ndarray, "n 6"]
    cost: Float[np.ndarray, " n"]
    converged: Bool[np.ndarray, " n"]
    n_iter: int


class _Projection(NamedTuple):
    """The best combination of cosine and sine: their factors, the residual, and what its derivatives need."""

    factors: Float[np.ndarray, "n 2"]
    residual: Float[np.ndarray, "n D"]
    basis: Float[np.ndarray, "n 2 D"]
    orthonormal: Float[np.ndarray, "n 2 D"]
    coordinates: Float[np.ndarray, "n 2 D"]

    @property
    def cost(self) -> Float[np.ndarray, " n"]:
        return np.einsum("nd,nd->n", self.residual, self.residual)


def _bounds(side: int) -> Float[np.ndarray, "2 6"]:
    low = [-0.5, -0.5, np.log(_LEAST_SIGMA), np.log(_LEAST_SIGMA), -np.inf, _LEAST_CYCLES / side]
    high = [side - 0.5, side - 0.5, np.log(side), np.log(side), np.inf, 0.5]
    return np.array([low, high])


def gabor_starts(fields: Float[np.ndarray, "n D"], side: int) -> Float[np.ndarray, "n 8 6"]:
    """Eight starts a field: three peaks of its spectrum, each with two envelopes, and two blobs.

    The centre of an envelope is that of the field's energy, or the place where it is highest; its widths are those of
    the energy along and across the oscillation, or half a cycle.

    Args:
        fields: one a row, side x side pixels, row by row.
        side: pixels on a side, at least 4.
    """
    n = len(fields)
    images = fields.reshape(n, side, side)
    places = np.arange(side)
    smoother = np.exp(-(((places[:, None] - places) / (side / 10)) ** 2) / 2)
    smoother /= smoother.sum(axis=1, keepdims=True)
    energy = smoother @ images**2 @ smoother.T
    energy /= np.maximum(energy.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    peak = np.stack(np.divmod(energy.reshape(n, -1).argmax(axis=1), side)[::-1], axis=1).astype(float)
    weight = np.where(energy > 0.15, energy, 0.0) + 1e-12
    weight /= weight.sum(axis=(1, 2), keepdims=True)
    x, y = np.meshgrid(places, places)
    centroid = np.stack([(weight * axis).sum(axis=(1, 2)) for axis in (x, y)], axis=1)
    dx, dy = x - centroid[:, 0, None, None], y - centroid[:, 1, None, None]
    xx, xy, yy = ((weight * one).sum(axis=(1, 2))[:, None] for one in (dx * dx, dx * dy, dy * dy))

    window = np.exp(-((x - peak[:, 0, None, None]) ** 2 + (y - peak[:, 1, None, None]) ** 2) / (2 * (side / 3) ** 2))
    angle, frequency = _spectral_peaks(images * window)
    cos, sin = np.cos(angle), np.sin(angle)
    # The square of a Gaussian is narrower by the root of two than itself.
    along = np.sqrt(2 * np.maximum(cos**2 * xx + 2 * cos * sin * xy + sin**2 * yy, 0.2))
    across = np.sqrt(2 * np.maximum(sin**2 * xx - 2 * cos * sin * xy + cos**2 * yy, 0.2))
    natural = 0.5 / np.maximum(frequency, 0.5 / side)

    def start(centre, sigma_x, sigma_y, angle, frequency):
        k = angle.shape[1]
        middle = np.broadcast_to(centre[:, None, :], (n, k, 2))
        rest = [np.broadcast_to(one, (n, k)) for one in (np.log(sigma_x), np.log(sigma_y), angle, frequency)]
        return np.concatenate([middle, np.stack(rest, axis=2)], axis=2)

    # A blob's axes: those of the energy.
    tilt = 0.5 * np.arctan2(2 * xy, xx - yy)
    round_sigma = np.sqrt(xx + yy)
    starts = np.concatenate(
        [
            start(centroid, along, across, angle, frequency),
            start(peak, natural, natural, angle, frequency),
            start(centroid, round_sigma, round_sigma, tilt, np.array(0.5 / side)),
            start(peak, np.array(side / 8), np.array(side / 8), tilt, np.array(_LEAST_CYCLES / side)),
        ],
        axis=1,
    )
    return np.clip(starts, *_bounds(side))


def _spectral_peaks(images: Float[np.ndarray, "n side side"]) -> tuple[np.ndarray, np.ndarray]:
    """Direction and frequency of the highest local maxima of the spectrum, each of shape (n, 3)."""
    n, side, _ = images.shape
    size = 4 * side
    power = abs(np.fft.fft2(images, s=(size, size))) ** 2
    neighbours = [np.roll(power, shift, axis=(1, 2)) for shift in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1))]
    highest = power >= np.max(neighbours, axis=0)
    grid = np.fft.fftfreq(size)
    fy, fx = np.meshgrid(grid, grid, indexing="ij")
    # The spectrum of a real image is symmetric: half of it says all.
    half = (fy > 0) | ((fy == 0) & (fx >= 0))
    ranked = np.argsort(np.where(highest & half, -power, 0.0).reshape(n, -1), axis=1, kind="stable")[:, :_N_PEAKS]
    fx, fy = fx.ravel()[ranked], fy.ravel()[ranked]
    return np.arctan2(fy, fx), np.hypot(fx, fy)


def _project(problems: _Problems) -> _Projection:
    fields, parameters, side = problems
    x, y, log_x, log_y, angle, frequency = parameters.T[:, :, None]
    rows, columns = np.divmod(np.arange(side * side), side)
    cos, sin = np.cos(angle), np.sin(angle)
    u = (columns - x) * cos + (rows - y) * sin
    v = (rows - y) * cos - (columns - x) * sin
    envelope = np.exp(-((u * np.exp(-log_x)) ** 2 + (v * np.exp(-log_y)) ** 2) / 2)
    argument = (2 * np.pi) * frequency * u
    basis = np.stack([envelope * np.cos(argument), envelope * np.sin(argument)], axis=1)

    def dot(a, b):
        return np.einsum("nd,nd->n", a, b)

    # Gram-Schmidt, from the larger of the two: at high frequencies and certain centres the cosine vanishes on all
    # pixels, and where it does not, the sine may be parallel to it. What is left of such a column is not used.
    norms = np.sqrt(np.einsum("nkd,nkd->nk", basis, basis))
    swap = norms[:, 1] > norms[:, 0]
    first, second = np.where(swap[:, None, None], basis[:, ::-1], basis).transpose(1, 0, 2)
    norm = np.maximum(norms.max(axis=1), np.finfo(float).tiny)
    one = first / norm[:, None]
    overlap = dot(one, second)
    two = second - overlap[:, None] * one
    left = np.sqrt(dot(two, two))
    usable = left > 1e-7 * norm
    two = np.where(usable[:, None], two / np.where(usable, left, 1.0)[:, None], 0.0)
    on_one, on_two = dot(one, fields), dot(two, fields)
    factor_two = np.where(usable, on_two / np.where(usable, left, 1.0), 0.0)
    factor_one = (on_one - overlap * factor_two) / norm
    factors = np.stack([factor_one, factor_two], axis=1)
    factors = np.where(swap[:, None], factors[:, ::-1], factors)
    residual = fields - on_one[:, None] * one - on_two[:, None] * two
    return _Projection(factors, residual, basis, np.stack([one, two], axis=1), np.stack([u, v], axis=1))


def _jacobian(parameters: Float[np.ndarray, "n 6"], at: _Projection) -> Float[np.ndarray, "n 6 D"]:
    """Derivatives of the fit in Kaufman's approximation: of the Gabor at fixed factors, less their part in its span."""
    _, _, log_x, log_y, angle, frequency = parameters.T[:, :, None]
    u, v = at.coordinates.transpose(1, 0, 2)
    a, b = at.factors.T[:, :, None]
    even, odd = at.basis.transpose(1, 0, 2)
    value, slope = a * even + b * odd, b * even - a * odd
    cos, sin = np.cos(angle), np.sin(angle)
    u_scaled, v_scaled = u * np.exp(-2 * log_x), v * np.exp(-2 * log_y)
    by_u = (2 * np.pi) * frequency * slope - u_scaled * value
    by_v = -v_scaled * value
    derivatives = np.empty((len(parameters), 6, u.shape[1]))
    derivatives[:, _X] = sin * by_v - cos * by_u
    derivatives[:, _Y] = -sin * by_u - cos * by_v
    derivatives[:, _LOG_X] = u_scaled * u * value
    derivatives[:, _LOG_Y] = v_scaled * v * value
    derivatives[:, _ANGLE] = v * by_u - u * by_v
    derivatives[:, _FREQUENCY] = (2 * np.pi) * u * slope
    inside = derivatives @ at.orthonormal.transpose(0, 2, 1)
    return derivatives - inside @ at.orthonormal


def _minimised(problems: _Problems, max_iter: int, tolerance: float = 1e-7) -> _Run:
    """Levenberg-Marquardt within bounds, every problem with its own damping; problems that have settled leave."""
    low, high = _bounds(problems.side)
    n = len(problems.fields)
    parameters, damping = problems.parameters.copy(), np.full(n, 1e-2)
    converged, calm = np.zeros(n, bool), np.zeros(n, int)
    at = _project(problems)
    cost, total = at.cost, (problems.fields**2).sum(axis=1)
    running, n_iter = np.arange(n), 0
    while len(running) and n_iter < max_iter:
        n_iter += 1
        here = parameters[running]
        J = _jacobian(here, at)
        gradient = np.einsum("npd,nd->np", J, at.residual)
        # At a bound that the descent direction points beyond, a parameter rests.
        free = ~(((here <= low) & (gradient < 0)) | ((here >= high) & (gradient > 0)))
        J *= free[:, :, None]
        gradient *= free
        normal = J @ J.transpose(0, 2, 1)
        diagonal = np.einsum("npp->np", normal)
        ridge = damping[running, None] * diagonal + np.where(free, 1e-12 * diagonal.max(axis=1, keepdims=True), 1.0)
        # A field that is fitted by nothing has no gradient either: it stays where it is.
        ridge += np.finfo(float).tiny ** 0.5
        step = np.linalg.solve(normal + ridge[:, :, None] * np.eye(6), gradient[:, :, None])[:, :, 0]
        tried = np.clip(here + step, low, high)
        there = _project(_Problems(problems.fields[running], tried, problems.side))
        new = there.cost
        better = new < cost[running]
        gain = np.where(better, cost[running] - new, 0.0)
        parameters[running] = np.where(better[:, None], tried, here)
        cost[running] = np.where(better, new, cost[running])
        damping[running] = np.clip(damping[running] * np.where(better, 0.2, 5.0), 1e-9, 1e9)
        # Twice in a row a step that gains next to nothing, or a damping under which no step gains.
        small = gain <= tolerance * total[running]
        calm[running] = np.where(better & small, calm[running] + 1, np.where(better, 0, calm[running]))
        done = (calm[running] >= 2) | (damping[running] >= 1e8) | (cost[running] <= 1e-20 * total[running])
        converged[running] = done
        kept = ~done
        at = _Projection(
            *(
                np.where(better.reshape(-1, *[1] * (after.ndim - 1)), after, before)[kept]
                for after, before in zip(there, at, strict=True)
            )
        )
        running = running[kept]
    return _Run(parameters, cost, converged, n_iter)
