"""What tempered SMC claims about itself, measured against closed forms, quadrature and NUTS.

The quick suite holds what about a minute allows; the full one adds the regression with 31 coefficients.
"""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from uqsparse import bench
from uqsparse.bench.entries.smc_problems import (
    bimodal,
    cauchy_prior,
    diabetes_regression,
    logistic_data,
    logistic_regression,
    logistic_target,
    two_modes,
    unimodal,
)
from uqsparse.inference import (
    HMC,
    RandomWalk,
    SMCResult,
    TemperedTarget,
    convergence,
    freeze_ladder,
    nuts,
    tempered_smc,
)
from uqsparse.inference.arviz_io import dataset

SYSTEM = "tempered SMC"
REGRESSION = "20 runs, N = 2000, diabetes regression (10 coefficients)"


@functools.cache
def _regression_runs(name: str, seed: int) -> SMCResult:
    move, n_moves = {"random walk": (RandomWalk(), 20), "HMC": (HMC(), 5)}[name]
    target = diabetes_regression().target
    return tempered_smc(jax.random.key(seed), target, 2000, move, n_moves=n_moves, n_replicates=20)


def _evidence_error(name: str, seed: int) -> bench.Measured:
    errors = _regression_runs(name, seed).log_evidence_replicates - diabetes_regression().log_evidence
    detail = f"{REGRESSION}; standard deviation of a run {errors.std(ddof=1):.3f}"
    return bench.Measured(abs(errors.mean()), "<=", 0.1, "closed-form log evidence", detail)


@bench.claim("log evidence of a conjugate regression, random-walk moves: mean error", system=SYSTEM)
def evidence_by_random_walk(context: bench.Context) -> bench.Measured:
    return _evidence_error("random walk", context.seed)


@bench.claim("log evidence of a conjugate regression, HMC moves: mean error", system=SYSTEM, quick=False)
def evidence_by_hmc(context: bench.Context) -> bench.Measured:
    return _evidence_error("HMC", context.seed)


@bench.claim("log evidence of a conjugate regression, random-walk moves: spread of runs", system=SYSTEM)
def spread_by_random_walk(context: bench.Context) -> bench.Measured:
    errors = _regression_runs("random walk", 0).log_evidence_replicates - diabetes_regression().log_evidence
    return bench.Measured(errors.std(ddof=1), "<=", 0.3, "closed-form log evidence", REGRESSION)


@bench.claim("posterior means of a conjugate regression: largest error in posterior sd", system=SYSTEM)
def posterior_means(context: bench.Context) -> bench.Measured:
    known = diabetes_regression()
    draws = _regression_runs("random walk", 0).particles
    error = np.max(np.abs(draws.mean(axis=0) - known.mean["beta"]) / known.sd["beta"])
    return bench.Measured(error, "<=", 0.1, "closed-form posterior", REGRESSION)


@bench.claim("each temperature keeps the requested effective sample size", system=SYSTEM)
def realised_ess(context: bench.Context) -> bench.Measured:
    result = tempered_smc(jax.random.key(context.seed), cauchy_prior().target, 4000)
    error = np.max(np.abs(result.ess[:-1] / 4000 - 0.5), initial=0.0)
    detail = f"Cauchy prior, Gaussian likelihood off centre, {result.n_iter} temperatures"
    return bench.Measured(error, "<=", 0.02, "the requested fraction 0.5", detail)


@bench.claim("log evidence under an asymmetric, heavy-tailed prior", system=SYSTEM)
def asymmetric_evidence(context: bench.Context) -> bench.Measured:
    problem = cauchy_prior()
    result = tempered_smc(jax.random.key(context.seed), problem.target, 4000, n_replicates=4)
    return bench.Measured(abs(result.log_evidence - problem.log_evidence), "<=", 0.05, "quadrature", "4 runs, N = 4000")


@functools.cache
def _bimodal_runs(seed: int) -> SMCResult:
    return tempered_smc(jax.random.key(seed), bimodal(5).target, 2000, n_replicates=12)


@bench.claim("weight of the larger of two separate modes: error", system=SYSTEM)
def mode_weight(context: bench.Context) -> bench.Measured:
    weight = np.mean(_bimodal_runs(0).particles.mean(axis=1) > 0)
    return bench.Measured(abs(weight - 0.7), "<=", 0.05, "exact weight 0.7", "mean of 12 runs, N = 2000, dimension 5")


@bench.claim("log evidence of a bimodal posterior: root mean square error", system=SYSTEM)
def bimodal_evidence(context: bench.Context) -> bench.Measured:
    errors = _bimodal_runs(0).log_evidence_replicates - bimodal(5).log_evidence
    rmse = np.sqrt(np.mean(errors**2))
    return bench.Measured(rmse, "<=", 0.25, "closed form", "12 runs, N = 2000, dimension 5")


@bench.claim("NUTS chains in different modes are reported: largest R-hat", system="NUTS")
def nuts_reports_modes(context: bench.Context) -> bench.Measured:
    data = nuts(jax.random.key(0), two_modes, 5, n_warmup=150, n_samples=150, log_likelihood=False)
    worst = max(row.r_hat for row in convergence(data).scalars)
    return bench.Measured(worst, ">", 1.1, "the limit above which chains disagree", "bimodal target, 4 chains")


@bench.claim("frozen ladder: mean evidence estimate over the truth, in standard errors", system=SYSTEM)
def frozen_is_unbiased(context: bench.Context) -> bench.Measured:
    problem = cauchy_prior()
    ladder = freeze_ladder(tempered_smc(jax.random.key(context.seed), problem.target, 2000))
    runs = tempered_smc(
        jax.random.key(context.seed + 1), problem.target, 50, n_moves=2, ladder=ladder, n_replicates=2000
    )
    ratio = np.exp(runs.log_evidence_replicates - problem.log_evidence)
    z = abs(ratio.mean() - 1) / (ratio.std(ddof=1) / np.sqrt(len(ratio)))
    return bench.Measured(z, "<=", 4.0, "an unbiased estimate", f"2000 runs, N = 50; mean ratio {ratio.mean():.4f}")


@bench.claim("error bar of a single run over the spread of runs", system=SYSTEM, quick=False)
def error_bar(context: bench.Context) -> bench.Measured:
    target = diabetes_regression().target
    runs = [tempered_smc(jax.random.key(s), target, 1000, n_moves=20) for s in range(60)]
    claimed = np.sqrt(np.mean([run.log_evidence_se**2 for run in runs]))
    spread = np.std([run.log_evidence for run in runs], ddof=1)
    detail = f"60 runs, N = 1000, diabetes regression: claimed {claimed:.3f}, spread {spread:.3f}"
    return bench.Measured(abs(np.log(claimed / spread)), "<=", np.log(1.5), "a factor of 1.5, in logarithms", detail)


# The high-water mark in /proc starts anew with the program; ru_maxrss would begin at the parent's.
MEMORY_PROBE = """
import jax
from uqsparse.bench.entries.smc_problems import diabetes_regression
from uqsparse.inference import tempered_smc
tempered_smc(jax.random.key(0), diabetes_regression().target, 100_000, n_moves=2)
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@bench.claim("peak memory of a run with 100 000 particles in 10 dimensions, MiB", system=SYSTEM)
def peak_memory(context: bench.Context) -> bench.Measured:
    if not Path("/proc/self/status").exists():
        raise bench.NotMeasured("this system does not tell a process's peak memory in /proc")
    probe = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
    peak = int(probe.stdout.split()[-1]) / 1024
    return bench.Measured(peak, "<=", 1024, "1 GiB", "whole process, libraries included; 442 observations")


@functools.cache
def _logistic(name: str) -> SMCResult:
    options = {
        "HMC": {"n_particles": 1000, "move": HMC(), "n_replicates": 4},
        "random walk": {"n_particles": 1000, "n_moves": 60, "n_replicates": 4},
        "waste-free": {"n_particles": 3000, "n_moves": 30, "move": HMC(), "waste_free": True, "n_replicates": 4},
    }[name]
    return tempered_smc(jax.random.key(7), logistic_target(), **options)


@functools.cache
def _logistic_nuts() -> np.ndarray:
    x, y = logistic_data()
    data = nuts(jax.random.key(1), logistic_regression, x, y, log_likelihood=False)
    return dataset(data)["beta"].values.reshape(-1, 31)


@bench.claim("logistic regression, means: SMC with HMC moves against NUTS, in posterior sd", system=SYSTEM, quick=False)
def logistic_means(context: bench.Context) -> bench.Measured:
    reference, ours = _logistic_nuts(), _logistic("HMC").particles
    worst = np.max(np.abs(ours.mean(axis=0) - reference.mean(axis=0)) / reference.std(axis=0))
    return bench.Measured(worst, "<=", 0.15, "NUTS, 4 x 1000 draws", "largest of 31 coefficients, 4 runs of N = 1000")


@bench.claim("logistic regression, spreads: SMC with HMC moves over NUTS", system=SYSTEM, quick=False)
def logistic_spreads(context: bench.Context) -> bench.Measured:
    ratio = _logistic("HMC").particles.std(axis=0) / _logistic_nuts().std(axis=0)
    worst = np.max(np.abs(ratio - 1))
    return bench.Measured(worst, "<=", 0.15, "NUTS, 4 x 1000 draws", "largest deviation from 1 of 31 ratios")


@bench.claim("log evidence agrees between moves: largest difference in standard errors", system=SYSTEM, quick=False)
def logistic_evidence(context: bench.Context) -> bench.Measured:
    runs = {name: _logistic(name) for name in ("HMC", "random walk", "waste-free")}
    pairs = [("HMC", "random walk"), ("HMC", "waste-free"), ("random walk", "waste-free")]
    worst = max(
        abs(runs[a].log_evidence - runs[b].log_evidence) / np.hypot(runs[a].log_evidence_se, runs[b].log_evidence_se)
        for a, b in pairs
    )
    detail = ", ".join(f"{name} {run.log_evidence:.2f} ± {run.log_evidence_se:.2f}" for name, run in runs.items())
    return bench.Measured(worst, "<=", 3.0, "three combined standard errors", detail)


def _waste_free_gain(target: TemperedTarget, truth: float | None, n_runs: int, length: int) -> tuple[float, float]:
    """Root mean square errors of log evidence, waste-free and standard, at N K = 10 000 moves per temperature."""
    key = jax.random.key(11)
    standard = tempered_smc(key, target, 1000, n_moves=10, n_replicates=n_runs).log_evidence_replicates
    waste_free = tempered_smc(
        key, target, 10_000, n_moves=length, waste_free=True, n_replicates=n_runs
    ).log_evidence_replicates
    if truth is None:
        truth = _logistic("HMC").log_evidence
    rmse = np.sqrt(np.mean((np.stack([waste_free, standard]) - truth) ** 2, axis=1))
    return float(rmse[0]), float(rmse[1])


@bench.claim(
    "waste-free over standard error of log evidence, Gaussian likelihood", system="waste-free SMC", quick=False
)
def waste_free_gaussian(context: bench.Context) -> bench.Measured:
    problem = unimodal(10)
    waste_free, standard = _waste_free_gain(problem.target, problem.log_evidence, 20, length=200)
    detail = f"dimension 10, 20 runs, equal moves: {waste_free:.3f} against {standard:.3f}"
    return bench.Measured(waste_free / standard, "<=", 0.85, "standard tempered SMC", detail)


@bench.claim(
    "waste-free over standard error of log evidence, logistic regression", system="waste-free SMC", quick=False
)
def waste_free_logistic(context: bench.Context) -> bench.Measured:
    waste_free, standard = _waste_free_gain(logistic_target(), None, 20, length=200)
    detail = f"31 coefficients, 20 runs, equal moves, random walk: {waste_free:.3f} against {standard:.3f}"
    return bench.Measured(waste_free / standard, "<=", 0.85, "standard tempered SMC", detail)
