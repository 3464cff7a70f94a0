"""Kronecker-structured sparse Bayesian learning: exact, monotone where it says so, small and fast."""

import functools
import time
import tracemalloc
from typing import Any

import numpy as np
import scipy.optimize

from uqsparse import bench
from uqsparse.bench.entries.kronecker_problems import (
    SYSTEM,
    gaussian_problem,
    monotonicity_instance,
    quiet_fit,
)
from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector
from uqsparse.models.channels import normalised_error
from uqsparse.models.kronecker_sbl import KroneckerSBL
from uqsparse.solvers.kronecker_evidence import decompose, kronecker_posterior
from uqsparse.solvers.kronecker_variances import alternating_variances
from uqsparse.solvers.sparse_bayes import sparse_bayes

LARGE_ROWS, LARGE_COLUMNS = (40, 50, 60), (60, 60, 60)
RUN_TRIALS = 8


@bench.claim("Kronecker posterior and evidence: largest distance from dense linear algebra", system=SYSTEM)
def exactness(context: bench.Context) -> bench.Measured:
    """Three modes, complex, relative to the largest entry."""
    rng = np.random.default_rng(context.seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    factors, noise = tuple(draw(m, n) for m, n in ((4, 6), (5, 5), (6, 4))), 0.1
    gammas, y = [rng.uniform(0.1, 2, n) for n in (6, 5, 4)], draw(120)
    found = kronecker_posterior(decompose(KroneckerOperator(factors), gammas, noise), y)
    H, gamma = functools.reduce(np.kron, factors), kronecker_vector(gammas)
    C = noise * np.eye(120) + (H * gamma) @ H.conj().T
    gain = np.linalg.solve(C, H * gamma).conj().T
    mean, variance = gain @ y, gamma - np.sum(gain.T * (H * gamma), axis=0).real
    cost = np.linalg.slogdet(C)[1] + np.vdot(y, np.linalg.solve(C, y)).real
    errors = [
        abs(found.mean - mean).max() / abs(mean).max(),
        abs(found.variance - variance).max() / variance.max(),
        abs(found.cost - cost) / abs(cost),
    ]
    return bench.Measured(max(errors), "<=", 1e-10, "dense linear algebra", "120 observations, 120 unknowns, complex")


@functools.cache
def _large_posterior() -> tuple[float, float]:
    """Seconds (median of five) and MB at the peak of one posterior."""
    rng = np.random.default_rng(0)
    gammas = [rng.uniform(0.1, 2.0, n) for n in LARGE_COLUMNS]
    tracemalloc.start()
    operator = KroneckerOperator(
        tuple(rng.normal(size=shape) / 8 for shape in zip(LARGE_ROWS, LARGE_COLUMNS, strict=True))
    )
    y = rng.normal(size=operator.shape[0])
    posterior = kronecker_posterior(decompose(operator, gammas, 0.1), y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert posterior.mean.shape == (216_000,)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        kronecker_posterior(decompose(operator, gammas, 0.1), y)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), peak / 1e6


@bench.claim("a posterior of 216,000 unknowns from 120,000 observations: seconds", system=SYSTEM)
def large_seconds(context: bench.Context) -> bench.Measured:
    """Mean, variances and evidence, decompositions included."""
    return bench.Measured(_large_posterior()[0], "<", 1.0, "1 s", "median of five")


@bench.claim("a posterior of 216,000 unknowns from 120,000 observations: MB at the peak", system=SYSTEM)
def large_memory(context: bench.Context) -> bench.Measured:
    """All arrays that NumPy holds, with the problem and the result."""
    comparator = "200 MB; the dictionary alone would take 207,360 MB"
    return bench.Measured(_large_posterior()[1], "<", 200.0, comparator, "arrays allocated, as tracemalloc counts them")


def _largest_rise(trace: np.ndarray) -> float:
    return float((np.diff(trace) / abs(trace[:-1])).max())


@bench.claim("the cost never rises with AM, one sweep or MM: largest rise as a share", system=SYSTEM)
def monotone(context: bench.Context) -> bench.Measured:
    """200 iterations, no pruning, with the noise known and with it learned."""
    problem = monotonicity_instance()
    rises = {
        f"{update}{', noise learned' if learn else ''}": _largest_rise(
            quiet_fit(
                KroneckerSBL(update=update, max_iter=200, tolerance=1e-15, inner_tolerance=1e-10), problem, learn
            ).cost_trace
        )
        for update in ("am", "sweep", "mm")
        for learn in (False, True)
    }
    detail = "; ".join(f"{name} {rise:.1e}" for name, rise in rises.items())
    return bench.Measured(max(rises.values()), "<=", 1e-8, "1e-8, rounding", detail)


@bench.claim("the SVD update does raise the cost: largest rise in one iteration", system=SYSTEM)
def svd_rises(context: bench.Context) -> bench.Measured:
    """A limitation, measured on the instance on which the other updates are monotone."""
    result = quiet_fit(KroneckerSBL(update="svd", max_iter=200), monotonicity_instance())
    rises = np.diff(result.cost_trace)
    detail = f"iteration {int(rises.argmax()) + 1}; the result says is_monotone={result.is_monotone}"
    return bench.Measured(float(rises.max()), ">", 1.0, "1, a factor exp(1/2) of evidence", detail)


@bench.claim("alternating minimisation reaches the M-step's global minimum", system=SYSTEM)
def inner_minimum(context: bench.Context) -> bench.Measured:
    """Expected cost against L-BFGS on the logarithms, relative, over ten tensors of second moments."""
    gaps = []
    for seed in range(10):
        rng = np.random.default_rng([context.seed, seed])
        shape = (5, 6, 4)
        T = rng.exponential(size=shape) ** 2

        def cost(logs: np.ndarray, T: np.ndarray = T) -> tuple[float, np.ndarray]:
            a, b, c = np.split(logs, np.cumsum(T.shape)[:-1])
            total = a[:, None, None] + b[:, None] + c
            ratio = T * np.exp(-total)
            slope = 1 - ratio
            return float((total + ratio).sum()), np.concatenate(
                [slope.sum((1, 2)), slope.sum((0, 2)), slope.sum((0, 1))]
            )

        best = scipy.optimize.minimize(cost, np.zeros(sum(shape)), jac=True, method="L-BFGS-B", tol=1e-15).fun
        found = alternating_variances(T, [np.ones(n) for n in shape], tolerance=1e-12, max_cycles=200)
        gaps.append(abs(cost(np.log(np.concatenate(found.gammas)))[0] - best) / abs(best))
    return bench.Measured(max(gaps), "<=", 1e-8, "L-BFGS", "ten tensors, 5 x 6 x 4")


@bench.claim("MM against EM without pruning: log evidence gained, worst of eight", system=SYSTEM, quick=False)
def bound_against_em(context: bench.Context) -> bench.Measured:
    """At most 150 iterations of MM against 1000 of EM."""
    gains, iterations, seconds = [], [], np.zeros(2)
    for seed in range(8):
        problem = gaussian_problem(seed, (4, 6, 8), 8, (2, 2, 2), 20.0)
        evidence = []
        for place, model in enumerate((KroneckerSBL("mm"), KroneckerSBL("am", max_iter=1000))):
            start = time.process_time()
            result = quiet_fit(model, problem)
            seconds[place] += time.process_time() - start
            evidence.append(result.log_evidence)
            if model.update == "mm":
                iterations.append(result.n_iter)
        gains.append(evidence[0] - evidence[1])
    detail = (
        f"gains {min(gains):.2f} to {max(gains):.2f}, median {np.median(gains):.2f}; "
        f"{np.median(iterations):.0f} iterations of MM; {seconds[1] / seconds[0]:.0f} times the CPU seconds for EM"
    )
    return bench.Measured(min(gains), ">=", 0.0, "1000 iterations of EM (AM)", detail)


@bench.claim("the noise variance is learned: share of the true one", system=SYSTEM)
def noise(context: bench.Context) -> bench.Measured:
    """Distance from 1 on the instance of the monotonicity claim, pruning at 1e-4."""
    problem = monotonicity_instance()
    shares = {
        update: quiet_fit(KroneckerSBL(update=update, prune=1e-4), problem, True).noise_variance
        / problem.noise_variance
        for update in ("am", "mm")
    }
    detail = "; ".join(f"{update} {share:.3f}" for update, share in shares.items())
    return bench.Measured(max(abs(share - 1) for share in shares.values()), "<=", 0.2, "the true one", detail)


@functools.cache
def _runs() -> dict[str, np.ndarray]:
    """Errors on problems with runs of four nonzeros in the first and the last mode."""
    models = {
        "PC-KroSBL": KroneckerSBL(update="am", block={0: 0.5, 2: 0.5}, prune=True),
        "AM-KroSBL": KroneckerSBL(update="am", prune=True),
        "SVD-KroSBL": KroneckerSBL(update="svd", prune=True),
        "MM-KroSBL": KroneckerSBL(update="mm"),
    }
    errors: dict[str, list[float]] = {name: [] for name in models}
    for seed in range(RUN_TRIALS):
        problem = gaussian_problem(seed, (8, 6, 10), 16, (4, 1, 4), 15.0, runs=(True, False, True))
        for name, model in models.items():
            errors[name].append(normalised_error(quiet_fit(model, problem).mean, problem.x))
    return {name: np.array(values) for name, values in errors.items()}


@bench.claim("runs of nonzeros: median error with coupled modes, as a share of AM's", system=SYSTEM, quick=False)
def block(context: bench.Context) -> bench.Measured:
    """16 columns a mode, (8, 6, 10) rows, runs of 4 in two modes, 15 dB, strength .5."""
    errors = _runs()
    detail = f"{RUN_TRIALS} trials; median (mean) error: " + "; ".join(
        f"{name} {np.median(values):.3g} ({values.mean():.3g})" for name, values in errors.items()
    )
    ratio = float(np.median(errors["PC-KroSBL"]) / np.median(errors["AM-KroSBL"]))
    return bench.Measured(ratio, "<=", 0.6, "AM-KroSBL", detail)


@bench.claim("coupling of strength 0 without a floor is AM: largest difference of the means", system=SYSTEM)
def no_coupling(context: bench.Context) -> bench.Measured:
    """60 iterations of ten cycles, relative to the largest mean."""
    problem = monotonicity_instance()
    options: dict[str, Any] = {"update": "am", "max_iter": 60, "max_cycles": 10, "floor": 0.0}
    plain = quiet_fit(KroneckerSBL(**options), problem).mean
    coupled = quiet_fit(KroneckerSBL(**options, block={0: 0.0, 1: 0.0, 2: 0.0}), problem).mean
    return bench.Measured(abs(coupled - plain).max() / abs(plain).max(), "<=", 1e-6, "AM-KroSBL")


@bench.speed(
    "Kronecker sparse Bayesian learning, 3375 unknowns in three modes of 15, 1080 observations",
    ours="KroneckerSBL",
    peer="sparse_bayes, dense",
    at_least=100.0,
    unit="iteration",
    quick=False,
)
def against_dense(context: bench.Context) -> bench.Contest:
    """Three iterations of EM each, without pruning, the posterior included."""
    problems = [gaussian_problem(seed, (6, 12, 15), 15, (3, 3, 3), 20.0) for seed in range(4)]
    dense = [KroneckerOperator(tuple(problem.factors)).to_dense() for problem in problems]
    model = KroneckerSBL(update="am", max_iter=3)

    def peer(i: int) -> np.ndarray:
        noise_variance = problems[i].noise_variance
        return sparse_bayes(dense[i], problems[i].y, update="em", noise_variance=noise_variance, max_iter=3).mean

    return bench.Contest(lambda i: quiet_fit(model, problems[i]).mean, peer, rounds=3, work=lambda _: 3.0)
