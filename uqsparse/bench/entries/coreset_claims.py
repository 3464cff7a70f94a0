"""Claims about sampled rows: certified sensitivities, embeddings, regressions on coresets."""

import time
from functools import cache

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.optimize import linprog

from uqsparse.bench.records import Contest, Context, Measured
from uqsparse.bench.registry import claim, speed
from uqsparse.models.bayesian_coresets import regression_coreset, weighted_plate
from uqsparse.solvers.coresets import embedding_distortion, sample_rows
from uqsparse.solvers.row_scores import Scheme, lewis_weights, row_scores, sensitivity_brackets

_SYSTEM = "l_p row sampling"
_SCHEMES: tuple[Scheme, ...] = ("uniform", "sensitivity", "lewis", "root-leverage", "mixed")


def heavy_tailed(seed: int, n: int = 200, d: int = 4) -> np.ndarray:
    """Rows from Student's t with two degrees of freedom, shape (n, d)."""
    return np.random.default_rng(seed).standard_t(2, size=(n, d))


def uneven_rows(seed: int, n: int = 1000) -> np.ndarray:
    """Four columns, the last on five rows only, and 25 rows eight times as long."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, 4))
    A[:, 3] = 0.0
    A[rng.choice(n, 5, replace=False), 3] = rng.normal(size=5)
    A[rng.choice(n, 25, replace=False)] *= 8.0
    return A


def linear_programme_sensitivity(A: np.ndarray, i: int) -> float:
    """The l_1 sensitivity of a row by HiGHS: 1 / min |A x|_1 with a_i x = 1."""
    n, d = A.shape
    found = linprog(
        np.r_[np.zeros(d), np.ones(n)],
        A_ub=np.block([[A, -np.eye(n)], [-A, -np.eye(n)]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[A[i], np.zeros(n)][None],
        b_eq=[1.0],
        bounds=[(None, None)] * d + [(0, None)] * n,
    )
    return 1 / found.fun


@claim("l_1 sensitivities lie between their bounds, by linear programmes", system=_SYSTEM)
def brackets_hold_linear_programmes(context: Context) -> Measured:
    """30 rows; the largest relative distance of HiGHS' value outside its bracket."""
    A = heavy_tailed(context.seed)
    found = sensitivity_brackets(A, 1.0)
    exact = np.array([linear_programme_sensitivity(A, i) for i in range(30)])
    outside = np.maximum(found.lower[:30] / exact - 1, exact / found.upper[:30] - 1)
    return Measured(
        float(max(outside.max(), 0.0)),
        "<=",
        1e-6,
        "HiGHS",
        f"n = 200, d = 4; widest bracket of all rows {found.gap:.1e}",
    )


@claim("Brackets of l_p sensitivities close, p from 1 to 4", system=_SYSTEM)
def brackets_close(context: Context) -> Measured:
    """The widest bracket over p = 1, 1.25, 1.5, 2, 3, 4, n = 200, d = 4, all rows."""
    A = heavy_tailed(context.seed)
    gaps = {p: sensitivity_brackets(A, p).gap for p in (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)}
    return Measured(max(gaps.values()), "<=", 1e-4, "1", "; ".join(f"p = {p:g}: {gap:.1e}" for p, gap in gaps.items()))


@claim("Lewis weights solve their equation and sum to d", system=_SYSTEM)
def lewis_weights_solve_their_equation(context: Context) -> Measured:
    """The larger of the relative residual and |sum / d - 1|, p from 1 to 6."""
    A = heavy_tailed(context.seed)
    worst = 0.0
    for p in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        found = lewis_weights(A, p)
        worst = max(worst, found.residual, abs(found.weights.sum() / 4 - 1))
    return Measured(worst, "<=", 1e-9, "0", "n = 200, d = 4")


def _distortions(
    seed: int, p: float, sizes: tuple[int, ...], n_trials: int, schemes: tuple[Scheme, ...] = _SCHEMES
) -> dict[str, np.ndarray]:
    """Median distortion by scheme, one entry a size."""
    A = uneven_rows(seed)
    found = {}
    for scheme in schemes:
        if scheme == "root-leverage" and p > 2:
            continue
        scores = row_scores(A, p, scheme)
        by_size = [
            [
                embedding_distortion(A, sample_rows(jax.random.key(seed + trial), scores, m), p, seed=trial).value
                for trial in range(n_trials)
            ]
            for m in sizes
        ]
        found[scheme] = np.median(by_size, axis=1)
    return found


def _table(found: dict[str, np.ndarray]) -> str:
    return "; ".join(f"{scheme} {' / '.join(f'{v:.2f}' for v in values)}" for scheme, values in found.items())


@cache
def _l1_distortions(seed: int, n_trials: int) -> dict[str, np.ndarray]:
    return _distortions(seed, 1.0, (50, 100, 200, 400), n_trials)


@claim("100 rows by sensitivity keep l_1 norms better than 400 at random", system=_SYSTEM)
def few_rows_beat_many(context: Context) -> Measured:
    """Median distortion of 100 rows over that of 400 uniform ones; a column lives on five of 1,000 rows."""
    if context.quick:
        found = _distortions(context.seed, 1.0, (100, 400), 3, ("sensitivity", "uniform"))
        few, many, how = found["sensitivity"][0], found["uniform"][1], "3 trials, m = 100 / 400"
    else:
        found = _l1_distortions(context.seed, 20)
        few, many, how = found["sensitivity"][1], found["uniform"][3], "20 trials, m = 50 / 100 / 200 / 400"
    return Measured(float(few / many), "<", 1.0, "uniform, m = 400", f"{how}: {_table(found)}")


@claim("Distortion by sensitivity falls with the number of rows", system=_SYSTEM, quick=False)
def distortion_falls(context: Context) -> Measured:
    """The smaller of the two factors by which four times the rows divide the median distortion."""
    found = _l1_distortions(context.seed, 20)["sensitivity"]
    return Measured(float(min(found[0] / found[2], found[1] / found[3])), ">=", 1.6, "1", "p = 1, 20 trials")


@claim("Cheap scores do as well as sensitivities in l_1", system=_SYSTEM, quick=False)
def cheap_scores_do_as_well(context: Context) -> Measured:
    """Largest ratio of median distortions to that by sensitivity: Lewis, root leverage, with leverage added."""
    found = _l1_distortions(context.seed, 20)
    ratios = {scheme: float((found[scheme] / found["sensitivity"]).max()) for scheme in _SCHEMES[2:]}
    detail = ", ".join(f"{scheme} {ratio:.2f}" for scheme, ratio in ratios.items())
    return Measured(max(ratios.values()), "<=", 1.2, "sensitivity", f"20 trials, worst of four sizes: {detail}")


@claim("Sensitivities keep l_4 norms that uniform samples lose", system=_SYSTEM, quick=False)
def fourth_powers_are_kept(context: Context) -> Measured:
    """The largest median distortion by sensitivity over m = 50 to 400, p = 4."""
    found = _distortions(context.seed, 4.0, (50, 100, 200, 400), 20)
    return Measured(
        float(found["sensitivity"].max()), "<=", 0.02, "0", f"20 trials, m = 50 / 100 / 200 / 400: {_table(found)}"
    )


@claim("Weighted sums over sampled rows are unbiased", system=_SYSTEM)
def weighted_sums_are_unbiased(context: Context) -> Measured:
    """2,000 samples of 60 rows, 5 directions, p = 1: largest |mean - truth| in standard errors.

    3.9 standard errors once in 2,000 runs (five normal tests).
    """
    A = uneven_rows(context.seed)
    scores = row_scores(A, 1.0, "lewis")
    x = np.random.default_rng(context.seed).normal(size=(4, 5))
    values = np.abs(A @ x)
    keys = jax.random.split(jax.random.key(context.seed), 2000)
    samples = [sample_rows(key, scores, 60) for key in keys]
    sums = np.array([one.weights @ values[one.rows] for one in samples])
    errors = np.abs(sums.mean(axis=0) - values.sum(axis=0)) / (sums.std(axis=0, ddof=1) / np.sqrt(len(sums)))
    size = np.mean([len(one.rows) for one in samples])
    return Measured(float(errors.max()), "<=", 3.9, "0", f"mean number of rows {size:.2f} of 60 asked for")


def _laplace_regression(seed: int, n: int = 20_000, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Laplace noise, and 1% of the rows with gross leverage."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X[rng.choice(n, n // 100, replace=False)] *= 30.0
    return X, X @ rng.normal(size=d) + rng.laplace(size=n)


def _least_absolute(X: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    from sklearn.linear_model import QuantileRegressor

    model = QuantileRegressor(quantile=0.5, alpha=0.0, fit_intercept=False, solver="highs")
    return model.fit(X, y, sample_weight=weights).coef_


@cache
def _l1_regressions(seed: int) -> dict[str, np.ndarray]:
    """Costs on all rows over the least one, and seconds over those of the full solve, by scheme, 20 trials."""
    X, y = _laplace_regression(seed)
    start = time.process_time()
    full = _least_absolute(X, y)
    full_seconds = time.process_time() - start
    least = np.abs(X @ full - y).sum()
    found = {}
    schemes: tuple[Scheme, ...] = ("root-leverage", "lewis", "uniform")
    for scheme in schemes:
        rows = []
        for trial in range(20):
            start = time.process_time()
            sample = sample_rows(jax.random.key(1000 * seed + trial), row_scores(np.c_[X, y], 1.0, scheme), 400)
            w = _least_absolute(X[sample.rows], y[sample.rows], sample.weights)
            seconds = time.process_time() - start
            rows.append((np.abs(X @ w - y).sum() / least, full_seconds / seconds))
        found[scheme] = np.array(rows)
    return found


@claim("Least absolute deviations on 400 of 20,000 rows cost at most 5% more", system=_SYSTEM, quick=False)
def l1_regression_on_a_coreset(context: Context) -> Measured:
    """Trials of 20 in which the cost on all rows is within 5% of the least, the worse of two schemes."""
    found = _l1_regressions(context.seed)
    good = min(float(np.sum(found[scheme][:, 0] <= 1.05)) for scheme in ("root-leverage", "lewis"))
    medians = ", ".join(f"{scheme} {np.median(rows[:, 0]):.4f}" for scheme, rows in found.items())
    return Measured(good, ">=", 19, "20 trials", f"median cost ratio: {medians}")


@claim("Least absolute deviations on the coreset are at least ten times as fast", system=_SYSTEM, quick=False)
def l1_regression_is_faster(context: Context) -> Measured:
    """CPU seconds of the full solve over scoring, sampling and solving, the smaller median of two schemes."""
    found = _l1_regressions(context.seed)
    ratios = {scheme: float(np.median(found[scheme][:, 1])) for scheme in ("root-leverage", "lewis")}
    detail = ", ".join(f"{scheme} {ratio:.0f}" for scheme, ratio in ratios.items())
    return Measured(min(ratios.values()), ">=", 10.0, "1", f"n = 20,000, d = 6, m = 400, HiGHS both: {detail}")


@speed(
    "l_1 sensitivities of 300 rows",
    ours="sensitivity brackets",
    peer="HiGHS, a linear programme a row",
    at_least=20.0,
    unit="row",
)
def sensitivities_against_linear_programmes(context: Context) -> Contest:
    """n = 300, d = 5; the peer solves 10 of the rows."""
    A = heavy_tailed(context.seed, 300, 5)
    return Contest(
        lambda _: sensitivity_brackets(A, 1.0).upper,
        lambda _: np.array([linear_programme_sensitivity(A, i) for i in range(10)]),
        work=lambda results: len(results[0]),
        rounds=3 if context.quick else 7,
    )


def laplace_model(X, y, weights):
    """Linear regression with Laplace noise of unknown scale; rows count by their weights."""
    w = numpyro.sample("w", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5))
    with weighted_plate("rows", weights):
        numpyro.sample("y", dist.Laplace(X @ w, scale), obs=y)


@cache
def _posteriors(seed: int) -> dict[str, tuple[float, float]]:
    """Mean error of posterior means in posterior standard deviations, and seconds, by rows used; medians of 5."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(5000, 5))
    X[rng.choice(5000, 50, replace=False)] *= 10.0
    y = X @ rng.normal(size=5) + rng.laplace(size=5000)

    def fit(*data):
        """Draws, and the seconds of a second run: what is left when all is compiled."""
        with jax.enable_x64(True):
            mcmc = MCMC(NUTS(laplace_model), num_warmup=500, num_samples=500, progress_bar=False, jit_model_args=True)
            mcmc.run(jax.random.key(seed), *data)
            start = time.perf_counter()
            mcmc.run(jax.random.key(seed + 1), *data)
            return np.asarray(mcmc.get_samples()["w"]), time.perf_counter() - start

    full, full_seconds = fit(X, y, np.ones(5000))
    result = {"all": (0.0, full_seconds)}
    schemes: tuple[Scheme, ...] = ("lewis", "uniform")
    for scheme in schemes:
        trials = []
        for trial in range(5):
            key = jax.random.key(100 * seed + trial)
            sample = regression_coreset(key, X, y, 300, likelihood="laplace", scheme=scheme)
            draws, seconds = fit(X[sample.rows], y[sample.rows], sample.weights)
            trials.append((np.abs((draws.mean(0) - full.mean(0)) / full.std(0)).mean(), seconds))
        result[scheme] = tuple(np.median(trials, axis=0))
    return result


@claim(
    "NUTS on 300 of 5,000 rows finds the posterior means within half a standard deviation", system=_SYSTEM, quick=False
)
def posterior_on_a_coreset(context: Context) -> Measured:
    """Laplace regression, 1% of rows ten times as long, Lewis weights; error of the means in posterior deviations."""
    found = _posteriors(context.seed)
    return Measured(
        found["lewis"][0],
        "<=",
        0.5,
        "NUTS on all rows",
        f"median of 5 samples; uniform rows: {found['uniform'][0]:.2f}",
    )


@claim("NUTS on 300 of 5,000 rows takes a fifth of the time", system=_SYSTEM, quick=False)
def posterior_on_a_coreset_is_faster(context: Context) -> Measured:
    """Wall seconds on all rows over those on the coreset, what compiles once left out on either side."""
    found = _posteriors(context.seed)
    full, few = found["all"][1], found["lewis"][1]
    return Measured(full / few, ">=", 5.0, "1", f"500 + 500 draws, {full:.1f} s against {few:.1f} s")
