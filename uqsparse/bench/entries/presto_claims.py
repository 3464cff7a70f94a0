"""PRESTO: optimal to the last digit, and closer to a rare event's true probability than its two relatives."""

import functools
import warnings
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from scipy import stats

from uqsparse import bench
from uqsparse.bench.entries import presto_peers as peers
from uqsparse.bench.entries.presto_mode import posterior_mode
from uqsparse.data.ordinal_draws import OrdinalDraw, dense_differences, sparse_differences
from uqsparse.models.bayesian_presto import bayesian_presto
from uqsparse.models.presto import OrdinalPath, fit_ordinal_path

SYSTEM = "PRESTO"
SPARSE_CELLS = ((0.0, 3.0, 5.0), (0.0, 3.5, 5.5), (0.0, 4.0, 6.0))
DENSE_CELLS = ((0.0, 2.5, 4.5), *SPARSE_CELLS)
REPETITIONS = 20
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


class _Exact(NamedTuple):
    path: OrdinalPath
    fits: tuple[peers.ConvexFit, ...]
    n: int


@functools.lru_cache(maxsize=2)
def _exact(n: int, seed: int) -> _Exact:
    """Ours and CVXPY's solutions at three penalties of one sparse draw."""
    draw = sparse_differences(seed, n=n)
    X, factors = (draw.X - draw.X.mean(axis=0)) / draw.X.std(axis=0), np.ones(3)
    lambdas = peers.largest_penalty(X, draw.y, 4) * np.array([0.5, 0.1, 0.01])
    path = fit_ordinal_path(X, draw.y, n_classes=4, penalty_factors=factors, lambdas=lambdas)
    program = peers.ConvexProgram(X, draw.y, 4, factors)
    return _Exact(path, tuple(program.solve(one, **TIGHT) for one in lambdas), n)


def _setting(found: _Exact) -> str:
    return f"one sparse draw, n = {found.n}, p = 10, K = 4, at 0.5, 0.1 and 0.01 of the largest penalty"


@bench.claim("PRESTO's objective is within 1e-7 of CVXPY's", system=SYSTEM)
def objective(context: bench.Context) -> bench.Measured:
    """The larger difference, either way."""
    found = _exact(400 if context.quick else 2500, 0)
    above = found.path.objective - np.array([fit.objective for fit in found.fits])
    detail = f"{_setting(found)}; ours less CVXPY's: {', '.join(f'{one:.1e}' for one in above)}"
    return bench.Measured(float(abs(above).max()), "<=", 1e-7, "CVXPY with Clarabel, tolerances 1e-12", detail)


@bench.claim("PRESTO's differences are within 1e-5 of CVXPY's", system=SYSTEM)
def differences(context: bench.Context) -> bench.Measured:
    """Per standard deviation of a feature."""
    found = _exact(400 if context.quick else 2500, 0)
    apart = [abs(fit.psi - psi).max() for fit, psi in zip(found.fits, found.path.differences, strict=True)]
    detail = f"{_setting(found)}; {', '.join(f'{one:.1e}' for one in apart)}"
    return bench.Measured(float(max(apart)), "<", 1e-5, "CVXPY with Clarabel, tolerances 1e-12", detail)


@bench.claim("PRESTO's own duality gap is at most 1e-8", system=SYSTEM)
def gap(context: bench.Context) -> bench.Measured:
    """The bound is a certificate: it needs no reference."""
    found = _exact(400 if context.quick else 2500, 0)
    detail = f"{_setting(found)}; {', '.join(f'{one:.1e}' for one in found.path.gap)}"
    return bench.Measured(float(found.path.gap.max()), "<=", 1e-8, "Fenchel duality", detail)


@functools.lru_cache(maxsize=16)
def _errors(kind: str, intercepts: tuple[float, ...], share: float, repetitions: int) -> dict[str, np.ndarray]:
    """Mean squared error of the rare probability on the training rows, times 1e5, of each method in each repetition."""
    found: dict[str, list[float]] = {}
    for seed in range(repetitions):
        draw = _draw(kind, seed, intercepts, share)
        truth = draw.probabilities[:, -1]
        fits = {
            "PRESTO": peers.presto(draw.X, draw.y, draw.X),
            "PRESTO, c1 = 0": peers.presto(draw.X, draw.y, draw.X, first_penalty=0.0),
            "proportional odds": peers.proportional_odds(draw.X, draw.y, draw.X),
            "logistic": peers.logistic(draw.X, draw.y, draw.X),
        }
        for name, q in fits.items():
            found.setdefault(name, []).append(1e5 * float(((q - truth) ** 2).mean()))
    return {name: np.array(values) for name, values in found.items()}


def _draw(kind: str, seed: int, intercepts: tuple[float, ...], share: float) -> OrdinalDraw:
    if kind == "dense":
        return dense_differences(seed, intercepts=intercepts)
    return sparse_differences(seed, intercepts=intercepts, share=share)


def _table(cells: dict[str, dict[str, np.ndarray]]) -> str:
    rows = [
        f"{cell}: " + ", ".join(f"{name} {values.mean():.2f}" for name, values in errors.items())
        for cell, errors in cells.items()
    ]
    return f"{REPETITIONS} repetitions a cell, mean squared error x 1e5; " + "; ".join(rows)


def _worst_ratio(cells: dict[str, dict[str, np.ndarray]], *rivals: str) -> float:
    return max(errors["PRESTO"].mean() / min(errors[name].mean() for name in rivals) for errors in cells.values())


@bench.claim(
    "sparse differences: PRESTO's error over the better of its relatives, worst cell", system=SYSTEM, quick=False
)
def sparse_ordering(context: bench.Context) -> bench.Measured:
    """Share 1/2, n = 2500, p = 10, K = 4; the relatives are proportional odds and logistic regression."""
    cells = {str(cell): _errors("sparse", cell, 0.5, REPETITIONS) for cell in SPARSE_CELLS}
    ratio = _worst_ratio(cells, "proportional odds", "logistic")
    return bench.Measured(ratio, "<", 1.0, "statsmodels OrderedModel, LogisticRegression(C=inf)", _table(cells))


@bench.claim("sparse differences, (0, 3, 5): how often PRESTO beats proportional odds", system=SYSTEM, quick=False)
def sparse_wins(context: bench.Context) -> bench.Measured:
    """Repetitions in which its mean squared error is smaller."""
    errors = _errors("sparse", SPARSE_CELLS[0], 0.5, REPETITIONS)
    wins = {name: float((errors["PRESTO"] < errors[name]).mean()) for name in ("proportional odds", "logistic")}
    detail = f"{REPETITIONS} repetitions; and logistic regression in {wins['logistic']:.2f}"
    return bench.Measured(wins["proportional odds"], ">=", 0.7, "statsmodels OrderedModel", detail)


@bench.claim("sparse differences, (0, 3, 5): p-value that PRESTO is no better", system=SYSTEM, quick=False)
def sparse_significance(context: bench.Context) -> bench.Measured:
    """The larger of two paired one-sided Wilcoxon tests."""
    errors = _errors("sparse", SPARSE_CELLS[0], 0.5, REPETITIONS)
    found: dict[str, float] = {}
    for name in ("proportional odds", "logistic"):
        test: Any = stats.wilcoxon(errors["PRESTO"], errors[name], alternative="less")
        found[name] = float(test.pvalue)
    detail = ", ".join(f"against {name} {value:.1e}" for name, value in found.items())
    return bench.Measured(
        max(found.values()), "<", 0.05, "paired Wilcoxon tests", f"{REPETITIONS} repetitions; {detail}"
    )


@bench.claim("dense differences: PRESTO's error over that of proportional odds, worst cell", system=SYSTEM, quick=False)
def dense_ordering(context: bench.Context) -> bench.Measured:
    """No difference is zero, so that the penalty's assumption is wrong."""
    cells = {str(cell): _errors("dense", cell, 0.0, REPETITIONS) for cell in DENSE_CELLS}
    return bench.Measured(_worst_ratio(cells, "proportional odds"), "<", 1.0, "statsmodels OrderedModel", _table(cells))


@bench.claim(
    "dense differences: PRESTO's error over that of logistic regression, worst cell", system=SYSTEM, quick=False
)
def dense_against_logistic(context: bench.Context) -> bench.Measured:
    """Where the last class is least rare, logistic regression needs no help."""
    cells = {str(cell): _errors("dense", cell, 0.0, REPETITIONS) for cell in DENSE_CELLS}
    return bench.Measured(_worst_ratio(cells, "logistic"), "<", 1.1, "LogisticRegression(C=inf)", _table(cells))


@functools.cache
def _coverages(prior: Literal["laplace", "horseshoe"]) -> tuple[np.ndarray, int, float]:
    """Coverage of the truth by 90 % intervals on fresh rows, in 10 draws; divergences, and the largest R-hat."""
    covered, divergent, r_hat = [], 0, 0.0
    for seed in range(10):
        draw, fresh = sparse_differences(seed, n=600), np.random.default_rng(seed).uniform(-1, 1, size=(300, 10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told in the detail
            posterior = bayesian_presto(
                jax.random.key(seed), draw.X, draw.y, prior=prior, n_warmup=400, n_samples=400, n_chains=2
            )
        found = posterior.rare_probability(fresh)
        truth = 1 / (1 + np.exp(draw.intercepts[-1] + fresh @ draw.coefs[-1]))
        covered.append(((found.lower <= truth) & (truth <= found.upper)).mean())
        divergent += posterior.convergence.n_divergent or 0
        r_hat = max(r_hat, float(found.r_hat.max()))
    return np.array(covered), divergent, r_hat


def _coverage(prior: Literal["laplace", "horseshoe"]) -> bench.Measured:
    covered, divergent, r_hat = _coverages(prior)
    detail = (
        f"10 sparse draws of n = 600, 300 fresh rows each: mean {covered.mean():.3f}, from {covered.min():.2f} to "
        f"{covered.max():.2f}; {divergent} of 8000 transitions left the domain or diverged, largest R-hat {r_hat:.3f}"
    )
    return bench.Measured(
        float(abs(covered.mean() - 0.885)), "<=", 0.085, "distance to the middle of [0.80, 0.97]", detail
    )


@bench.claim(
    "90 % credible intervals of the rare probability cover 80 to 97 %, Laplace prior", system=SYSTEM, quick=False
)
def laplace_coverage(context: bench.Context) -> bench.Measured:
    """The penalty is that of cross-validation."""
    return _coverage("laplace")


@bench.claim("90 % credible intervals of the rare probability cover 80 to 97 %, horseshoe", system=SYSTEM, quick=False)
def horseshoe_coverage(context: bench.Context) -> bench.Measured:
    """A quarter of the differences are expected to be large; a half are."""
    return _coverage("horseshoe")


@bench.claim("the mode under the Laplace prior is PRESTO's fit, within 1e-4", system=SYSTEM, quick=False)
def mode(context: bench.Context) -> bench.Measured:
    """The NumPyro model's density, maximised by L-BFGS-B from another start; psi per standard deviation."""
    draw = sparse_differences(0, n=600)
    X, n = (draw.X - draw.X.mean(axis=0)) / draw.X.std(axis=0), len(draw.y)
    apart = []
    largest = peers.largest_penalty(X, draw.y, 4)
    for ratio in (0.3, 0.1):
        path = fit_ordinal_path(X, draw.y, n_classes=4, penalty_factors=np.ones(3), lambdas=np.array([ratio * largest]))
        apart.append(float(abs(posterior_mode(X, draw.y, 4, n * ratio * largest) - path.differences[0]).max()))
    detail = f"n = 600, at 0.3 and 0.1 of the largest penalty: {', '.join(f'{one:.1e}' for one in apart)}"
    return bench.Measured(max(apart), "<=", 1e-4, "L-BFGS-B on NumPyro's log density", detail)
