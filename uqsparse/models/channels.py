"""Radio channels that are sparse in angle: a link over an intelligent reflecting surface, and how to score estimates.

A mobile with N_t antennas sends over a surface of L reflecting elements to a base station with N_r antennas. Each of
the two hops is a few plane waves with angles on a grid of R cosines. For the pattern theta_k of phases that the
surface shows, the base station sees `H_2 diag(theta_k) H_1`; a few pilot symbols are sent under each of a few patterns.
All that is received is then a Kronecker dictionary of three small factors times a sparse vector, with one axis for the
difference of the angles at the surface, one for the departure from the mobile and one for the arrival at the base.

Source: He & Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with application to
IRS-MIMO channel estimation, section V.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float, Shaped

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector


def angle_grid(n_angles: int) -> Float[np.ndarray, " R"]:
    """Cosines of angles, evenly spaced from -1 (included) to 1 (excluded, where steering vectors repeat).

    >>> angle_grid(4).tolist()
    [-1.0, -0.5, 0.0, 0.5]
    """
    require_count("n_angles", n_angles, 1)
    return -1 + 2 * np.arange(n_angles) / n_angles


def steering_matrix(n_elements: int, cosines: Float[ArrayLike, " R"]) -> Complex[np.ndarray, "n_elements R"]:
    """Responses of a linear array with elements half a wavelength apart, a column of norm 1 for each direction.

    Args:
        n_elements: of the array.
        cosines: of the angles between the waves and the array, in [-1, 1].

    >>> steering_matrix(2, [0.0, 1.0]).round(3).real.tolist()
    [[0.707, 0.707], [0.707, -0.707]]
    """
    require_count("n_elements", n_elements, 1)
    return np.exp(1j * np.pi * np.outer(np.arange(n_elements), cosines)) / math.sqrt(n_elements)


@dataclasses.dataclass(frozen=True)
class IRSSetup:
    """Sizes of a link over a surface. The defaults are those of the source.

    Args:
        n_mobile: N_t, antennas of the mobile.
        n_base: N_r, antennas of the base station.
        n_surface: L, elements of the surface.
        n_grid: R, angles of the grid: the sparse vector has R^3 entries.
        n_pilots: K_p, symbol vectors sent under each pattern.
        n_patterns: K_i, patterns of the surface: K_i K_p N_r numbers are received.
        angle_spread: S, neighbouring angles from which each hop arrives, at most R.

    Raises:
        ValueError: a size is not a positive integer, or the spread is wider than the grid.
    """

    n_mobile: int = 6
    n_base: int = 16
    n_surface: int = 256
    n_grid: int = 18
    n_pilots: int = 3
    n_patterns: int = 6
    angle_spread: int = 3

    def __post_init__(self):
        for field in dataclasses.fields(self):
            require_count(field.name, getattr(self, field.name), 1)
        if self.angle_spread > self.n_grid:
            raise ValueError(f"angle_spread must be at most n_grid, {self.n_grid}, got {self.angle_spread}")


@dataclasses.dataclass(frozen=True)
class IRSLink:
    """A simulated link: what was received, what it was made of, and the truth.

    Args:
        y: received symbols, (K_i K_p N_r,), by pattern, then pilot, then antenna.
        factors: the dictionary: surface (K_i, R), mobile (K_p, R), base (N_r, R).
        x: the sparse vector, (R^3,): by difference of angles at the surface, departure and arrival.
        noise_variance: of each entry of y.
        channels: `H_2 diag(theta_k) H_1` for each pattern, (K_i, N_r, N_t).
        patterns: theta_k in columns, entries +-1 / sqrt(L), (L, K_i).
        pilots: symbol vectors in columns, (N_t, K_p).
        setup: the sizes.
    """

    y: Complex[np.ndarray, " M"]
    factors: tuple[Complex[np.ndarray, "M_i R"], ...]
    x: Complex[np.ndarray, " N"]
    noise_variance: float
    channels: Complex[np.ndarray, "K_i N_r N_t"]
    patterns: Float[np.ndarray, "L K_i"]
    pilots: Complex[np.ndarray, "N_t K_p"]
    setup: IRSSetup

    def channels_of(
        self, x: Complex[np.ndarray, "*batch N"], patterns: Float[np.ndarray, "L K"] | None = None
    ) -> Complex[np.ndarray, "*batch K N_r N_t"]:
        """The channels that a sparse vector stands for, under any patterns.

        Args:
            x: estimate or draws of the sparse vector, (..., R^3).
            patterns: patterns in columns, (L, K); those of the link if left out.
        """
        setup = self.setup
        mobile = steering_matrix(setup.n_mobile, angle_grid(setup.n_grid)).conj()
        surface = _surface_factor(self.patterns if patterns is None else patterns, setup)
        flat = KroneckerOperator((surface, mobile, self.factors[2])).matvec(x)
        return np.swapaxes(flat.reshape(*x.shape[:-1], len(surface), setup.n_mobile, setup.n_base), -1, -2)


def simulate_irs_link(key: Array, setup: IRSSetup | None = None, *, snr_db: float) -> IRSLink:
    """Draw a channel, pilots, patterns and noise.

    Each hop arrives from `angle_spread` neighbouring angles, with circular Gaussian gains, and departs at one. Pilots
    are QPSK symbols over sqrt(N_t), drawn anew (at most 100 times) if they are all orthogonal to an angle of the grid:
    a departure there would leave no trace.

    Args:
        key: random key, typed or legacy.
        setup: sizes.
        snr_db: mean power of the entries of y without noise over the noise variance, in dB.

    Raises:
        ValueError: `snr_db` is not finite.

    >>> link = simulate_irs_link(jax.random.key(0), IRSSetup(4, 8, 64, 12), snr_db=15.0)
    >>> link.y.shape, link.x.shape, [factor.shape for factor in link.factors]
    ((144,), (1728,), [(6, 12), (3, 12), (8, 12)])
    """
    setup = IRSSetup() if setup is None else setup
    if not math.isfinite(snr_db):
        raise ValueError(f"snr_db must be finite, got {snr_db!r}")
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    grid = angle_grid(setup.n_grid)
    mobile, base, surface = (steering_matrix(n, grid) for n in (setup.n_mobile, setup.n_base, setup.n_surface))

    into_surface, into_base = _cluster(rng, setup), _cluster(rng, setup)
    from_mobile, from_surface = rng.integers(setup.n_grid, size=2)
    scales = [math.sqrt(n * setup.n_surface / setup.angle_spread) for n in (setup.n_mobile, setup.n_base)]
    first = scales[0] * np.outer(surface @ into_surface, mobile[:, from_mobile].conj())
    second = scales[1] * np.outer(base @ into_base, surface[:, from_surface].conj())

    patterns = rng.choice([-1.0, 1.0], size=(setup.n_surface, setup.n_patterns)) / math.sqrt(setup.n_surface)
    pilots = _pilots(rng, setup, mobile)
    channels = np.einsum("ra,ak,at->krt", second, patterns, first)

    departure = np.zeros(setup.n_grid)
    departure[from_mobile] = 1.0
    # an arrival a and a departure d at the surface only show as d - a
    difference = into_surface[(from_surface - np.arange(setup.n_grid)) % setup.n_grid]
    x = kronecker_vector([scales[0] * difference, departure, scales[1] * into_base])
    factors = (_surface_factor(patterns, setup), pilots.T @ mobile.conj(), base)
    clean = np.swapaxes(channels @ pilots, 1, 2).reshape(-1)
    noise_variance = float(np.mean(abs(clean) ** 2)) / 10 ** (snr_db / 10)
    y = clean + math.sqrt(noise_variance) * _circular(rng, clean.size)
    return IRSLink(y, factors, x, noise_variance, channels, patterns, pilots, setup)


def normalised_error(estimate: Shaped[ArrayLike, "*n"], truth: Shaped[ArrayLike, "*n"]) -> float:
    """Normalised mean squared error `|estimate - truth|^2 / |truth|^2`.

    >>> normalised_error([1.0, 1.0], [1.0, 0.0])
    1.0
    """
    estimate, truth = np.asarray(estimate), np.asarray(truth)
    if estimate.shape != truth.shape:
        raise ValueError(f"estimate must have the shape of truth, {truth.shape}, got {estimate.shape}")
    if not truth.any():
        raise ValueError("truth must not be zero throughout")
    return float(np.sum(abs(estimate - truth) ** 2) / np.sum(abs(truth) ** 2))


def support_recovery_rate(
    estimate: Shaped[ArrayLike, " N"], truth: Shaped[ArrayLike, " N"], threshold: float = 1e-3
) -> float:
    """Size of the intersection of two supports over that of their union.

    Args:
        estimate: its support are the entries above a share of the largest in absolute value.
        truth: its support are the nonzero entries.
        threshold: the share.

    >>> support_recovery_rate([1.0, 0.5, 1e-5], [2.0, 0.0, 0.0])
    0.5
    """
    size, wanted = abs(np.asarray(estimate)), np.asarray(truth) != 0
    if size.shape != wanted.shape:
        raise ValueError(f"estimate must have the shape of truth, {wanted.shape}, got {size.shape}")
    found = size > threshold * size.max(initial=0.0)
    union = np.count_nonzero(found | wanted)
    return float(np.count_nonzero(found & wanted) / union) if union else 1.0


def spectral_efficiency(
    estimates: Complex[ArrayLike, "K N_r N_t"], channels: Complex[ArrayLike, "K N_r N_t"], snr_db: float
) -> float:
    """Bits a second and hertz of one stream along the leading singular vectors of the estimated channels.

    `mean_k log2(1 + snr |u_k^H H_k v_k|^2 / mean |H|_F^2)` with u_k and v_k of the estimate of H_k. The channels
    themselves as estimates give the best that one stream can do.

    Args:
        estimates: channels that the beams are made for.
        channels: true channels.
        snr_db: of the data that are sent, in dB.
    """
    estimates, channels = np.asarray(estimates), np.asarray(channels)
    if estimates.shape != channels.shape or channels.ndim != 3:
        raise ValueError(f"estimates and channels must share (K, N_r, N_t), got {estimates.shape}, {channels.shape}")
    left, _, right = np.linalg.svd(estimates, full_matrices=False)
    gains = abs(np.einsum("kr,krt,kt->k", left[:, :, 0].conj(), channels, right[:, 0].conj())) ** 2
    mean_power = np.mean(np.sum(abs(channels) ** 2, axis=(1, 2)))
    return float(np.mean(np.log2(1 + 10 ** (snr_db / 10) * gains / mean_power)))


def _surface_factor(patterns: np.ndarray, setup: IRSSetup) -> np.ndarray:
    grid = angle_grid(setup.n_grid)
    surface = steering_matrix(setup.n_surface, grid)
    return patterns.T @ (surface[:, :1] * surface.conj())


def _pilots(rng: np.random.Generator, setup: IRSSetup, mobile: np.ndarray) -> np.ndarray:
    pilots = np.empty(0)
    for _ in range(100):
        bits = rng.choice([-1.0, 1.0], size=(2, setup.n_mobile, setup.n_pilots))
        pilots = (bits[0] + 1j * bits[1]) / math.sqrt(2 * setup.n_mobile)
        if np.linalg.norm(pilots.T @ mobile.conj(), axis=0).min() > 1e-6:
            break
    return pilots


def _cluster(rng: np.random.Generator, setup: IRSSetup) -> np.ndarray:
    """Gains of neighbouring angles, zero elsewhere, (R,)."""
    gains = np.zeros(setup.n_grid, complex)
    first = rng.integers(setup.n_grid - setup.angle_spread + 1)
    gains[first : first + setup.angle_spread] = _circular(rng, setup.angle_spread)
    return gains


def _circular(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.standard_normal(n) + 1j * rng.standard_normal(n)) / math.sqrt(2)
