"""Sparse recovery problems with Kronecker structure, and all methods run on them."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from uqsparse.bench.entries import sparse_recovery_baselines as baselines
from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector
from uqsparse.models.channels import (
    IRSSetup,
    normalised_error,
    simulate_irs_link,
    spectral_efficiency,
    support_recovery_rate,
)
from uqsparse.models.kronecker_sbl import KroneckerSBL

SYSTEM = "Sparse Bayesian learning"
Values = Literal["free", "kronecker"]


class Problem(NamedTuple):
    """`y = (A_1 x ... x A_I) x + noise` with a support that is a product."""

    y: np.ndarray
    factors: list[np.ndarray]
    x: np.ndarray
    noise_variance: float
    sparsity: list[int]


class Trial(NamedTuple):
    """How one method did on one problem."""

    error: float
    support: float
    seconds: float


def gaussian_problem(
    seed: int,
    rows: tuple[int, ...],
    n: int,
    sparsity: tuple[int, ...],
    snr_db: float,
    values: Values = "free",
    runs: tuple[bool, ...] | None = None,
) -> Problem:
    """Gaussian factors; nonzeros of each mode anywhere, or in one run where `runs` says so."""
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(m, n)) for m in rows]
    supports = []
    for mode, k in enumerate(sparsity):
        if runs is not None and runs[mode]:
            supports.append(rng.integers(n - k + 1) + np.arange(k))
        else:
            supports.append(np.sort(rng.choice(n, k, replace=False)))
    tensor = np.zeros([n] * len(rows))
    if values == "free":
        tensor[np.ix_(*supports)] = rng.normal(size=sparsity)
    else:
        tensor[np.ix_(*supports)] = kronecker_vector([rng.normal(size=k) for k in sparsity]).reshape(sparsity)
    clean = KroneckerOperator(tuple(factors)).matvec(tensor.ravel())
    noise_variance = float(np.mean(clean**2)) / 10 ** (snr_db / 10)
    y = clean + np.sqrt(noise_variance) * rng.normal(size=clean.size)
    return Problem(y, factors, tensor.ravel(), noise_variance, list(sparsity))


def monotonicity_instance() -> Problem:
    """8 columns and 2 nonzeros a mode, 192 observations of 512 unknowns, 20 dB; no nonzero is tiny."""
    return gaussian_problem(6, (4, 6, 8), 8, (2, 2, 2), 20.0)


def quiet_fit(model: KroneckerSBL, problem: Any, learn: bool = False) -> Any:
    """A fit whose warning that the iterations ran out is left to its record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return model.fit(problem.y, problem.factors, None if learn else problem.noise_variance)


def all_methods() -> dict[str, Callable[[Problem, np.ndarray], np.ndarray]]:
    """Every method by name, from a problem and its dense dictionary to an estimate."""

    def ours(**options: Any) -> Callable[[Problem, np.ndarray], np.ndarray]:
        return lambda problem, H: quiet_fit(KroneckerSBL(**options), problem).mean

    return {
        "AM-KroSBL": ours(update="am", prune=True),
        "one sweep": ours(update="sweep", prune=True),
        "SVD-KroSBL": ours(update="svd", prune=True),
        "MM-KroSBL": ours(update="mm"),
        "plain SBL": lambda problem, H: baselines.plain_sbl(H, problem.y, problem.noise_variance),
        "Lasso, oracle penalty": lambda problem, H: baselines.oracle_lasso(H, problem.y, problem.x),
        "OMP": lambda problem, H: baselines.matching_pursuit(H, problem.y, problem.noise_variance),
        "Kronecker OMP": lambda problem, H: baselines.kronecker_matching_pursuit(
            problem.factors, problem.y, problem.sparsity, problem.noise_variance
        ),
        "least squares, oracle support": lambda problem, H: baselines.oracle_least_squares(
            H, problem.y, np.flatnonzero(problem.x)
        ),
    }


def run_methods(problem: Problem) -> dict[str, Trial]:
    """All methods on one problem."""
    H = KroneckerOperator(tuple(problem.factors)).to_dense()
    trials = {}
    for name, method in all_methods().items():
        start = time.process_time()
        estimate = method(problem, H)
        seconds = time.process_time() - start
        trials[name] = Trial(normalised_error(estimate, problem.x), support_recovery_rate(estimate, problem.x), seconds)
    return trials


@functools.cache
def recovery(values: Values, n_trials: int = 20) -> dict[float, dict[str, np.ndarray]]:
    """Errors, support recovery rates and seconds, (trials, 3), by SNR in dB and method."""
    table: dict[float, dict[str, np.ndarray]] = {}
    for snr_db in (10.0, 20.0, 30.0):
        rows = [
            run_methods(gaussian_problem(seed, (6, 8, 10), 10, (3, 3, 3), snr_db, values)) for seed in range(n_trials)
        ]
        table[snr_db] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return table


class LinkScores(NamedTuple):
    """How well one method knows a link."""

    error: float  # normalised, of the channels of all patterns
    support: float
    efficiency: float  # share of the spectral efficiency that perfect knowledge has
    seconds: float


LINK_SNRS = (5.0, 10.0, 15.0, 20.0)


@functools.cache
def links(n_trials: int = 25) -> dict[float, dict[str, np.ndarray]]:
    """Scores over simulated links, (trials, 4), by SNR in dB and method: 144 observations of 1728 unknowns."""
    setup = IRSSetup(n_mobile=4, n_base=8, n_surface=64, n_grid=12)
    methods = {
        "SVD-KroSBL": lambda link, H: quiet_fit(KroneckerSBL(update="svd", prune=True), link).mean,
        "MM-KroSBL": lambda link, H: quiet_fit(KroneckerSBL(update="mm"), link).mean,
        "AM-KroSBL": lambda link, H: quiet_fit(KroneckerSBL(update="am", prune=True), link).mean,
        "AM-KroSBL, settled": lambda link, H: (
            quiet_fit(KroneckerSBL(update="am", prune=True, max_iter=1000), link).mean
        ),
        "plain SBL": lambda link, H: baselines.plain_sbl(H, link.y, link.noise_variance),
        "OMP": lambda link, H: baselines.matching_pursuit(H, link.y, link.noise_variance),
        "least norm": lambda link, H: baselines.minimum_norm(H, link.y),
    }
    table: dict[float, dict[str, np.ndarray]] = {}
    for snr_db in LINK_SNRS:
        rows: dict[str, list[LinkScores]] = {name: [] for name in methods}
        for seed in range(n_trials):
            link = simulate_irs_link(jax.random.key(seed), setup, snr_db=snr_db)
            H = KroneckerOperator(link.factors).to_dense()
            best = spectral_efficiency(link.channels, link.channels, snr_db)
            for name, method in methods.items():
                start = time.process_time()
                x = method(link, H)
                seconds = time.process_time() - start
                channels = link.channels_of(x)
                rows[name].append(
                    LinkScores(
                        normalised_error(channels, link.channels),
                        support_recovery_rate(x, link.x),
                        spectral_efficiency(channels, link.channels, snr_db) / best,
                        seconds,
                    )
                )
        table[snr_db] = {name: np.array(scores) for name, scores in rows.items()}
    return table
