"""Plain sparse Bayesian learning: exact, monotone, fast; against ARDRegression, the Lasso, pursuit and a sampler."""

import functools
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import ARDRegression, LassoCV, OrthogonalMatchingPursuitCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

from uqsparse import bench
from uqsparse.bench.entries.kronecker_problems import monotonicity_instance
from uqsparse.inference import RandomWalk, TemperedTarget, tempered_smc
from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.models.channels import normalised_error
from uqsparse.models.sparse_bayes import SparseBayesianRegression, sparse_bayesian_model
from uqsparse.solvers.sparse_bayes import Update, sparse_bayes

SYSTEM = "Sparse Bayesian learning"
UPDATES: tuple[Update, ...] = ("em", "mackay", "mm", "fast")
SIDE = 1000


@bench.method("Sparse Bayesian regression", kind="regression", quick=True)
def sparse_bayesian_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """Coefficients of splines of one input, or of all squares and products of several, by maximum evidence.

    The noise is constant by construction.
    """
    if X_train.shape[1] == 1:
        features: Any = SplineTransformer(8, 3, knots="quantile", extrapolation="linear", include_bias=False)
    else:
        features = PolynomialFeatures(2, include_bias=False)
    model = make_pipeline(StandardScaler(), features, VarianceThreshold(1e-12), SparseBayesianRegression())
    mean, sd = model.fit(X_train, y_train).predict(X_test, return_std=True)
    return bench.GaussianMixture(mean[None, :], sd[None, :])


def _dense_posterior(
    H: np.ndarray, y: np.ndarray, gammas: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, variances and log evidence of one Gaussian model, from the covariance of y."""
    C = noise * np.eye(len(y)) + (H * gammas) @ H.conj().T
    gain = np.linalg.solve(C, H * gammas).conj().T
    variance = gammas - np.sum(gain.T * (H * gammas), axis=0).real
    cost = np.linalg.slogdet(C)[1] + np.vdot(y, np.linalg.solve(C, y)).real
    if np.iscomplexobj(H):
        return gain @ y, variance, -cost - len(y) * np.log(np.pi)
    return gain @ y, variance, -(cost + len(y) * np.log(2 * np.pi)) / 2


@bench.claim("plain SBL's posterior and evidence: largest distance from dense linear algebra", system=SYSTEM)
def exactness(context: bench.Context) -> bench.Measured:
    """All updates; more columns than rows and fewer; real and complex; relative to the largest entry."""
    rng = np.random.default_rng(context.seed)
    worst = 0.0
    for shape in ((30, 80), (80, 30)):
        for imaginary in (0.0, 1j):
            H = rng.normal(size=shape) + imaginary * rng.normal(size=shape)
            y = H[:, :4] @ rng.normal(size=4) + 0.1 * rng.normal(size=shape[0])
            for update in UPDATES:
                found = sparse_bayes(H, y, update=update, noise_variance=0.02, max_iter=30)
                mean, variance, log_evidence = _dense_posterior(H, y, found.gammas, found.noise_variance)
                worst = max(
                    worst,
                    abs(found.mean - mean).max() / abs(mean).max(),
                    abs(found.variance - variance).max() / variance.max(),
                    abs(found.log_evidence - log_evidence) / abs(log_evidence),
                )
    return bench.Measured(worst, "<=", 1e-8, "dense linear algebra", "30 x 80 and 80 x 30, four updates")


@bench.claim(
    "plain SBL's evidence never falls with EM, MM and fast updates: largest fall as a share", system=SYSTEM, quick=False
)
def monotone(context: bench.Context) -> bench.Measured:
    """192 observations of 512 unknowns, 20 dB, nothing pruned; 200 iterations with known noise, 50 that learn it."""
    problem = monotonicity_instance()
    H = KroneckerOperator(tuple(problem.factors)).to_dense()
    rises = {}
    for update in ("em", "mm", "fast"):
        for noise in (problem.noise_variance, None):
            found = sparse_bayes(
                H,
                problem.y,
                update=update,
                noise_variance=noise,
                max_iter=50 if noise is None else 200,
                tolerance=1e-9,
            )
            rises[f"{update}, {'learned' if noise is None else 'known'} noise"] = found.largest_rise
    detail = "; ".join(f"{name} {rise:.1e}" for name, rise in rises.items())
    return bench.Measured(max(rises.values()), "<=", 1e-8, "1e-8, rounding", detail)


@bench.claim(
    "plain SBL learns the noise of 192 observations of 512 unknowns: distance of its share from 1",
    system=SYSTEM,
    quick=False,
)
def noise(context: bench.Context) -> bench.Measured:
    """The instance of the monotonicity claim, pruning at 1e-4."""
    problem = monotonicity_instance()
    H = KroneckerOperator(tuple(problem.factors)).to_dense()
    found = {update: sparse_bayes(H, problem.y, update=update, prune=1e-4) for update in UPDATES}
    shares = {update: one.noise_variance / problem.noise_variance for update, one in found.items()}
    true = sparse_bayes(H[:, np.flatnonzero(problem.x)], problem.y, noise_variance=problem.noise_variance)
    detail = "; ".join(f"{update} {share:.2f}" for update, share in shares.items())
    best = max(one.log_evidence for one in found.values())
    return bench.Measured(
        max(abs(share - 1) for share in shares.values()),
        "<=",
        0.2,
        "the true one",
        f"{detail}; best log evidence {best:.0f}, of the true support and noise {true.log_evidence:.0f}",
    )


def _regression(seed: int, n: int, p: int, n_nonzero: int, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian features, noise of standard deviation 0.5."""
    rng = np.random.default_rng(seed)
    X, coef = rng.normal(size=(n, p)), np.zeros(p)
    coef[rng.choice(p, n_nonzero, replace=False)] = size * rng.normal(size=n_nonzero)
    return X, X @ coef + 0.5 * rng.normal(size=n), coef


def _log_evidence(X: np.ndarray, y: np.ndarray, gammas: np.ndarray, noise_variance: float) -> float:
    """Of the contrasts of y, in an orthonormal basis."""
    basis = np.linalg.qr(np.column_stack([np.ones(len(y)), np.eye(len(y))[:, 1:]]))[0][:, 1:].T
    return _dense_posterior(basis @ X[:, gammas > 0], basis @ y, gammas[gammas > 0], noise_variance)[2]


def _peer_log_evidence(X: np.ndarray, y: np.ndarray, peer: ARDRegression) -> float:
    return _log_evidence(X, y, np.where(peer.coef_ != 0, 1 / peer.lambda_, 0.0), 1 / float(peer.alpha_))


class _Race(NamedTuple):
    ratio: float
    seconds: float
    peer_seconds: float
    gain: float  # log evidence less the peer's
    detail: str


@functools.cache
def _race(n_nonzero: int, size: float, seed: int) -> _Race:
    """CPU seconds of one fit each, after a warm-up of ours on other data."""
    X, y, coef = _regression(seed, SIDE, SIDE, n_nonzero, size)
    SparseBayesianRegression().fit(X[:200, :200], y[:200])
    start = time.process_time()
    ours = SparseBayesianRegression().fit(X, y)
    middle = time.process_time()
    peer = ARDRegression().fit(X, y)
    end = time.process_time()
    gain = _log_evidence(X, y, ours.gammas_, ours.noise_variance_) - _peer_log_evidence(X, y, peer)
    errors = [normalised_error(one.coef_, coef) for one in (ours, peer)]
    detail = (
        f"{middle - start:.2f} s and {end - middle:.1f} s of CPU; columns kept {len(ours.support_)} and "
        f"{np.count_nonzero(peer.coef_)}; normalised error {errors[0]:.3f} and {errors[1]:.3f}; noise variance "
        f"{ours.noise_variance_:.2f} and {1 / peer.alpha_:.2f}, true 0.25"
    )
    return _Race((end - middle) / (middle - start), middle - start, end - middle, gain, detail)


SPARSE = ((20, 1.0, 0), (20, 1.0, 1), (20, 1.0, 2))
DENSE = (SIDE, 0.2, 0)


@bench.claim(
    "20 of 1000 coefficients, 1000 rows: CPU time of ARDRegression over ours, median of three",
    system=SYSTEM,
    quick=False,
)
def sparse_race(context: bench.Context) -> bench.Measured:
    """Defaults of both; one fit each on three data sets, interleaved."""
    races = [_race(*one) for one in SPARSE]
    ratios = ", ".join(f"{race.ratio:.1f}" for race in races)
    return bench.Measured(
        float(np.median([race.ratio for race in races])),
        ">=",
        20,
        "scikit-learn ARDRegression",
        f"{ratios}; first: {races[0].detail}",
    )


@bench.claim(
    "20 of 1000 coefficients, 1000 rows: log evidence less ARDRegression's, worst of three", system=SYSTEM, quick=False
)
def sparse_evidence(context: bench.Context) -> bench.Measured:
    """The same fits."""
    gains = [_race(*one).gain for one in SPARSE]
    return bench.Measured(min(gains), ">=", 0, "its evidence", ", ".join(f"{gain:.1f}" for gain in gains))


@bench.claim("all of 1000 coefficients, 1000 rows: CPU time of ARDRegression over ours", system=SYSTEM, quick=False)
def dense_race(context: bench.Context) -> bench.Measured:
    """A truth that is not sparse: 1000 small coefficients."""
    race = _race(*DENSE)
    return bench.Measured(
        race.ratio, ">=", 5, "scikit-learn ARDRegression", f"log evidence {race.gain:+.1f} against it; {race.detail}"
    )


@bench.speed(
    "sparse Bayesian regression, 1000 rows, 20 of 1000 coefficients",
    ours="SparseBayesianRegression",
    peer="scikit-learn ARDRegression",
    at_least=20,
    unit="fit",
    quick=False,
)
def speed(context: bench.Context) -> bench.Contest:
    """Defaults of both, a new data set in each round. The error is minus the mean log evidence."""
    problems = [_regression(context.seed + i, SIDE, SIDE, 20, 1.0)[:2] for i in range(4)]

    def ours(i: int) -> tuple[int, np.ndarray, float]:
        fit = SparseBayesianRegression().fit(*problems[i])
        return i, fit.gammas_, fit.noise_variance_

    def peer(i: int) -> tuple[int, np.ndarray, float]:
        fit = ARDRegression().fit(*problems[i])
        return i, np.where(fit.coef_ != 0, 1 / fit.lambda_, 0.0), 1 / float(fit.alpha_)

    def error(results: Any) -> float:
        return -float(np.mean([_log_evidence(problems[i][0], problems[i][1], g, noise) for i, g, noise in results]))

    return bench.Contest(ours=ours, peer=peer, rounds=3, error=error)


@functools.cache
def _recovery(n_trials: int) -> dict[str, np.ndarray]:
    """Normalised errors, (trials,), of 10 nonzeros of 256 from 100 rows."""
    errors: dict[str, list[float]] = {}
    for seed in range(n_trials):
        X, y, coef = _regression(seed, 100, 256, 10, 1.0)
        models: dict[str, Any] = {
            "fast, known noise": SparseBayesianRegression(noise_variance=0.25),
            "fast, learned noise": SparseBayesianRegression(),
            "EM, learned noise": SparseBayesianRegression("em", prune=1e-3),
            "ARDRegression": ARDRegression(),
            "LassoCV": LassoCV(cv=5, alphas=50),
            "OrthogonalMatchingPursuitCV": OrthogonalMatchingPursuitCV(cv=5, max_iter=30),
        }
        for name, model in models.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                errors.setdefault(name, []).append(normalised_error(model.fit(X, y).coef_, coef))
    return {name: np.array(values) for name, values in errors.items()}


@bench.claim(
    "10 of 256 coefficients from 100 rows, noise known: median error over LassoCV's", system=SYSTEM, quick=False
)
def recovery(context: bench.Context) -> bench.Measured:
    """20 trials, noise of standard deviation 0.5, coefficients of 1."""
    medians = {name: float(np.median(values)) for name, values in _recovery(20).items()}
    detail = "median normalised errors: " + "; ".join(f"{name} {value:.3f}" for name, value in medians.items())
    return bench.Measured(medians["fast, known noise"] / medians["LassoCV"], "<=", 1, "LassoCV", detail)


@bench.claim(
    "SBL's log evidence against tempered SMC's on the same model: distance in standard errors",
    system=SYSTEM,
    quick=False,
)
def sampled_evidence(context: bench.Context) -> bench.Measured:
    """Prior variances and noise variance fixed at those of largest evidence: the evidence is then exact."""
    rng = np.random.default_rng(context.seed)
    X = rng.normal(size=(20, 5))
    y = X @ [1.0, 0.0, -2.0, 0.0, 0.5] + 0.5 * rng.normal(size=20)
    fit = SparseBayesianRegression("em", fit_intercept=False, prune=0.0).fit(X, y)
    target = TemperedTarget.from_numpyro(
        sparse_bayesian_model, X, y=y, gammas=fit.gammas_, noise_variance=fit.noise_variance_
    )
    result = tempered_smc(jax.random.key(context.seed), target, n_particles=4000, move=RandomWalk(), n_replicates=16)
    distance = abs(float(result.log_evidence) - fit.log_evidence_) / float(result.log_evidence_se)
    detail = (
        f"{float(result.log_evidence):.3f} +- {float(result.log_evidence_se):.3f} from 16 runs of 4000 particles, "
        f"exactly {fit.log_evidence_:.3f}"
    )
    return bench.Measured(distance, "<=", 4, "4 standard errors, a t with 15 degrees of freedom", detail)
