"""Claims about thresholding: proximal maps, iterative thresholding, dictionary learning, side by side with peers."""

import importlib
import itertools
import time
import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning, sparse_encode
from sklearn.linear_model import Lasso

from uqsparse.bench.records import Contest, Context, Measured, NotMeasured
from uqsparse.bench.registry import claim, speed
from uqsparse.data.images import natural_patches
from uqsparse.kernels.penalties import (
    CEL0,
    L0,
    L1,
    MCP,
    PENALTIES,
    SCAD,
    LHalf,
    Log,
    LTwoThirds,
    Penalty,
    penalty_named,
)
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner
from uqsparse.solvers.iterative_thresholding import iterative_thresholding

_SYSTEM = "Sparse coding beyond l1"
# Strength of the l1 contests: a tenth of 200 units is active.
_STRENGTH = 0.3
_SIDE, _UNITS = 10, 200


class _Batch(NamedTuple):
    """Patches of one photograph, and a dictionary learned from the other."""

    patches: np.ndarray
    dictionary: np.ndarray


@cache
def _patches(n: int) -> _Batch:
    learning = natural_patches(0, 4096, side=_SIDE, images=(0,)).patches
    learner = DictionaryLearner(_UNITS, penalty="l1", strength=_STRENGTH, max_iter=4, tol=None, random_state=0)
    dictionary = np.asfortranarray(learner.fit(learning).dictionary_)
    return _Batch(natural_patches(1, n, side=_SIDE, images=(1,)).patches, dictionary)


def _objective(batch: _Batch, penalty: Penalty, codes: np.ndarray) -> np.ndarray:
    """The objective of each row, apart from any solver."""
    return 0.5 * np.sum((batch.patches - codes @ batch.dictionary.T) ** 2, axis=1) + penalty.value(codes).sum(axis=1)


def _peer(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotMeasured(f"{package} is not installed (pip install {package}): {error}") from None


def _random_problem(seed: int, n: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=shape)
    dictionary /= np.linalg.norm(dictionary, axis=0)
    return rng.normal(size=(n, shape[0])), dictionary


@claim("Eight proximal maps are the minimisers a grid search finds", system=_SYSTEM)
def maps_are_minimisers(context: Context) -> Measured:
    """200 points, five pairs of parameters a map, 20,001 grid points; the largest distance in grid spacings."""
    rng = np.random.default_rng(context.seed)
    grid, points = np.arange(-10_000, 10_001) * 6e-4, rng.uniform(-5, 5, 200)
    worst = {}
    for name in PENALTIES:
        worst[name] = 0.0
        for strength, step in ((0.1, 0.9), (0.3, 0.5), (0.7, 0.9), (1.0, 0.3), (1.5, 0.8)):
            penalty = penalty_named(name, strength)
            best = grid[(0.5 * (grid - points[:, None]) ** 2 + step * penalty.value(grid)).argmin(axis=1)]
            worst[name] = max(worst[name], float(abs(penalty.prox(points, step) - best).max() / 6e-4))
    detail = "; ".join(f"{name} {value:.2f}" for name, value in worst.items())
    return Measured(max(worst.values()), "<=", 1.0, "one grid spacing, 6e-4", detail)


@claim("CEL0 is MCP with strength c sqrt(2 lambda) and gamma 1 / c^2", system=_SYSTEM)
def cel0_is_mcp(context: Context) -> Measured:
    """The larger of the differences of values and proximal maps, 10,000 points."""
    x = np.random.default_rng(context.seed).uniform(-5, 5, 10_000)
    worst = 0.0
    for strength, c, step in ((0.2, 1.0, 0.5), (1.3, 0.8, 0.9), (0.05, 1.4, 0.3)):
        a, edge = abs(x), np.sqrt(2 * strength)
        mcp = MCP(c * edge, 1 / c**2)
        value = strength - c**2 / 2 * np.maximum(edge / c - a, 0) ** 2
        moved = np.sign(x) * np.minimum(a, np.maximum(a - edge * c * step, 0) / (1 - c**2 * step))
        worst = max(worst, abs(mcp.value(x) - value).max(), abs(mcp.prox(x, step) - moved).max())
    return Measured(float(worst), "<=", 1e-12, "formulas of Soubies et al.", "three parameter sets")


@claim("The objective never rises, whatever the penalty, at step 0.98 / L", system=_SYSTEM, quick=False)
def objective_never_rises(context: Context) -> Measured:
    """300 iterations, 64 patches, plain and accelerated; the largest rise as a share of the start."""
    X, dictionary = _random_problem(context.seed, 64, (32, 64))
    step, rises = 0.98 / float(np.linalg.norm(dictionary, 2)) ** 2, {}
    for name, accelerated in itertools.product(PENALTIES, (False, True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = iterative_thresholding(
                X, dictionary, penalty_named(name, 0.1), step=step, tolerance=1e-15, max_iter=300,
                acceleration=accelerated,
            )  # fmt: skip
        trace = found.objective_trace
        rises[name] = max(rises.get(name, 0.0), float(np.diff(trace).max() / trace[0]), 0.0)
    detail = "; ".join(f"{name} {rise:.1e}" for name, rise in rises.items())
    return Measured(max(rises.values()), "<=", 1e-10, "0", detail)


@claim("A step of 2.5 / L is seen to make the objective rise", system=_SYSTEM, quick=False)
def long_step_is_seen(context: Context) -> Measured:
    """The largest rise of l1's objective as a share of the start, in 60 plain iterations; 1 where it diverged."""
    X, dictionary = _random_problem(context.seed, 64, (32, 64))
    step = 2.5 / float(np.linalg.norm(dictionary, 2)) ** 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = iterative_thresholding(
                X,
                dictionary,
                L1(0.1),
                step=step,
                max_iter=60,
                acceleration=False,
            )
            rise = float(np.diff(found.objective_trace).max() / found.objective_trace[0])
        except FloatingPointError:
            rise = 1.0
    return Measured(rise, ">=", 1e-6, "a rise that a test would see", "32 x 64, 64 signals")


@claim("l1 codes are scikit-learn's lasso to 1e-6", system=_SYSTEM)
def l1_is_the_lasso(context: Context) -> Measured:
    """20 signals, 32 x 64; the largest difference of a coefficient."""
    X, dictionary = _random_problem(context.seed, 20, (32, 64))
    found = iterative_thresholding(X, dictionary, L1(0.2), tolerance=1e-10, max_iter=50_000)
    peer = Lasso(alpha=0.2 / 32, fit_intercept=False, tol=1e-14, max_iter=100_000)
    exact = np.array([peer.fit(dictionary, x).coef_ for x in X])
    assert found.gap is not None
    return Measured(
        float(abs(found.codes - exact).max()), "<=", 1e-6, "Lasso", f"largest duality gap {found.gap.max():.1e}"
    )


@claim("The best of 30 CEL0 restarts is the enumerated l0 minimum in 90 % of problems", system=_SYSTEM, quick=False)
def cel0_reaches_the_enumerated_minimum(context: Context) -> Measured:
    """50 dictionaries of 8 x 10; signals of three units and noise 0.1; price 0.1; starts of standard deviation 3."""
    share, hard, best_hard = _enumeration(context.seed, planted=True)
    share_noise, hard_noise, _ = _enumeration(context.seed + 1, planted=False)
    detail = (
        f"hard thresholding from 0 {hard:.0%}, best of 30 {best_hard:.0%}; signals of pure noise, price 0.5: CEL0 "
        f"{share_noise:.0%}, hard thresholding from 0 {hard_noise:.0%}"
    )
    return Measured(share, ">=", 0.9, "enumeration of 1,024 supports", detail)


def _enumeration(seed: int, planted: bool) -> tuple[float, float, float]:
    """Shares of 50 problems solved by CEL0's restarts, by hard thresholding from 0, and by its restarts."""
    rng, price = np.random.default_rng(seed), 0.1 if planted else 0.5
    supports = [list(s) for size in range(9) for s in itertools.combinations(range(10), size)]
    hits = np.zeros(3)
    for _ in range(50):
        dictionary = rng.normal(size=(8, 10))
        dictionary /= np.linalg.norm(dictionary, axis=0)
        x = rng.normal(size=8)
        if planted:
            x = dictionary[:, :3] @ rng.normal(size=3) + 0.1 * x
        best = min(
            0.5 * np.sum((x - dictionary[:, s] @ np.linalg.lstsq(dictionary[:, s], x, rcond=None)[0]) ** 2)
            + price * len(s)
            for s in supports
        )
        starts, X = 3 * rng.normal(size=(30, 10)), np.tile(x, (30, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            relaxed = iterative_thresholding(X, dictionary, CEL0(price), start=starts, tolerance=1e-9)
            zero = iterative_thresholding(X, dictionary, L0(price), tolerance=1e-9)
            restarted = iterative_thresholding(X, dictionary, L0(price), start=starts, tolerance=1e-9)
        hits += [one.objective.min() <= best + 1e-8 for one in (relaxed, zero, restarted)]
    share, hard, best_hard = hits / 50
    return float(share), float(hard), float(best_hard)


def _skglm_solver(penalty: Penalty, dictionary: np.ndarray) -> Any:
    """A function of one signal that solves our problem by skglm.

    Its loss is divided by the number of rows, so that the dictionary and the signal go in times the root of that.
    """
    penalties, datafits = _peer("skglm.penalties", "skglm"), _peer("skglm.datafits", "skglm")
    solvers, compilation = _peer("skglm.solvers", "skglm"), _peer("skglm.utils.jit_compilation", "skglm")
    kinds: dict[type, Any] = {
        L1: lambda p: penalties.L1(p.lambda_),
        LHalf: lambda p: penalties.L0_5(p.lambda_),
        LTwoThirds: lambda p: penalties.L2_3(p.lambda_),
        MCP: lambda p: penalties.MCPenalty(p.lambda_, p.gamma),
        SCAD: lambda p: penalties.SCAD(p.lambda_, p.b),
        Log: lambda p: penalties.LogSumPenalty(p.lambda_, p.epsilon),
    }
    datafit = compilation.compiled_clone(datafits.Quadratic())
    theirs = compilation.compiled_clone(kinds[type(penalty)](penalty))
    # At zero, where l_q penalties have a local minimum, the subdifferential says nothing: their advice is this score.
    strategy = "subdiff" if isinstance(penalty, L1 | MCP | SCAD) else "fixpoint"
    solver = solvers.AndersonCD(tol=1e-6, max_iter=100, fit_intercept=False, ws_strategy=strategy)
    root = np.sqrt(len(dictionary))
    scaled = np.asfortranarray(root * dictionary)

    def solve(x: np.ndarray) -> np.ndarray:
        datafit.initialize(scaled, root * x)
        return solver.solve(scaled, root * x, datafit, theirs)[0]

    return solve


@cache
def _skglm_ratios() -> dict[str, tuple[float, float]]:
    """Mean objective over skglm's, from zero and from the better of zero and the lasso's codes, penalty by penalty."""
    batch = _patches(128)
    ratios = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lasso = iterative_thresholding(batch.patches, batch.dictionary, L1(_STRENGTH)).codes
        for penalty in (L1(0.5), LHalf(0.5), LTwoThirds(0.5), MCP(0.5, 3.0), SCAD(0.5), Log(0.5, 0.1)):
            solve = _skglm_solver(penalty, batch.dictionary)
            theirs = _objective(batch, penalty, np.array([solve(x) for x in batch.patches])).mean()
            ours = [
                iterative_thresholding(
                    batch.patches, batch.dictionary, penalty, start=start, tolerance=1e-6, max_iter=20_000
                ).objective
                for start in (None, lasso)
            ]
            ratios[penalty.name] = float(ours[0].mean() / theirs), float(np.minimum(*ours).mean() / theirs)
    return ratios


def _against_skglm(place: int) -> Measured:
    ratios = {name: pair[place] for name, pair in _skglm_ratios().items()}
    detail = "128 patches, 200 units; " + "; ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items())
    return Measured(max(ratios.values()), "<=", 1.001, "skglm 0.5, AndersonCD from zero", detail)


@claim("Objectives from zero are those of skglm or better, penalty by penalty", system=_SYSTEM, quick=False)
def objectives_from_zero(context: Context) -> Measured:
    """The steps of proximal gradient are shorter than those of coordinate descent, and end in nearer minima."""
    return _against_skglm(0)


@claim("Objectives from zero or the lasso's codes are those of skglm or better", system=_SYSTEM, quick=False)
def objectives_from_two_starts(context: Context) -> Measured:
    """The better of two starts for each row; skglm starts from zero."""
    return _against_skglm(1)


@claim("Proximal maps of l0 and log are pyproximal's", system=_SYSTEM, quick=False)
def maps_are_pyproximals(context: Context) -> Measured:
    """10,000 points; the largest difference.

    pyproximal's L0 takes the threshold itself, step times sigma; the minimiser's is sqrt(2 step sigma).
    """
    pyproximal = _peer("pyproximal", "pyproximal")
    x = np.random.default_rng(context.seed).uniform(-4, 4, 10_000)
    worst = {}
    for penalty, theirs in (
        (L0(0.4), pyproximal.L0(np.sqrt(2 * 0.7 * 0.4) / 0.7)),
        (Log(0.4, 0.5), pyproximal.Log(0.4 * np.log(3.0), 2.0)),
    ):
        worst[penalty.name] = float(abs(penalty.prox(x, 0.7) - np.asarray(theirs.prox(x.copy(), 0.7))).max())
    detail = "; ".join(f"{name} {value:.1e}" for name, value in worst.items())
    return Measured(max(worst.values()), "<=", 1e-6, "pyproximal 0.13", detail)


def _coding_contest(algorithm: str, n: int, rounds: int) -> Contest:
    batch = _patches(n)

    def ours(_: int) -> np.ndarray:
        return iterative_thresholding(batch.patches, batch.dictionary, L1(_STRENGTH), tolerance=1e-5).codes

    def peer(_: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            components = np.ascontiguousarray(batch.dictionary.T)
            return sparse_encode(batch.patches, components, algorithm=algorithm, alpha=_STRENGTH, max_iter=1000)

    return Contest(ours, peer, rounds=rounds, error=_worst_excess(batch))


def _worst_excess(batch: _Batch) -> Any:
    """Largest excess of a row's objective over the minimum, as a share of the mean objective."""
    best = cache(
        lambda: iterative_thresholding(batch.patches, batch.dictionary, L1(_STRENGTH), tolerance=1e-9).objective
    )
    return lambda results: float(
        max((_objective(batch, L1(_STRENGTH), codes) - best()).max() for codes in results) / best().mean()
    )


@speed(
    "Lasso codes of 2,048 patches, coordinate descent",
    ours="iterative_thresholding",
    peer="scikit-learn sparse_encode, lasso_cd",
    at_least=2.0,
    quick=False,
)
def codes_against_coordinate_descent(context: Context) -> Contest:
    """10 x 10 patches, 200 units; ours with tolerance 1e-5."""
    return _coding_contest("lasso_cd", 2048, 5)


@speed(
    "Lasso codes of 1,024 patches, least angles",
    ours="iterative_thresholding",
    peer="scikit-learn sparse_encode, lasso_lars",
    at_least=5.0,
    quick=False,
)
def codes_against_least_angles(context: Context) -> Contest:
    """The same, by scikit-learn's default algorithm for the transform with an l1 penalty."""
    return _coding_contest("lasso_lars", 1024, 3)


def _skglm_contest(penalty: Penalty, tolerance: float) -> Contest:
    batch = _patches(1024)
    solve = _skglm_solver(penalty, batch.dictionary)

    def ours(_: int) -> np.ndarray:
        return iterative_thresholding(batch.patches, batch.dictionary, penalty, tolerance=tolerance).codes

    def peer(_: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array([solve(x) for x in batch.patches])

    def mean_objective(results: Any) -> float:
        return float(np.mean([_objective(batch, penalty, codes).mean() for codes in results]))

    return Contest(ours, peer, rounds=3, error=mean_objective)


@speed(
    "l1 codes of 1,024 patches with one dictionary", ours="iterative_thresholding", peer="skglm AndersonCD",
    at_least=3.0, quick=False,
)  # fmt: skip
def l1_codes_against_skglm(context: Context) -> Contest:
    """Both from zero; skglm has no batch of signals, so its loop is in Python. Errors are mean objectives."""
    return _skglm_contest(L1(_STRENGTH), 1e-5)


@speed(
    "MCP codes of 1,024 patches with one dictionary", ours="iterative_thresholding", peer="skglm AndersonCD",
    at_least=3.0, quick=False,
)  # fmt: skip
def mcp_codes_against_skglm(context: Context) -> Contest:
    """The same with the minimax concave penalty, gamma = 3."""
    return _skglm_contest(MCP(0.5, 3.0), 1e-5)


def _learned(model: Any, patches: np.ndarray) -> tuple[np.ndarray, float]:
    """Dictionary in rows of norm 1, and processor seconds of the fit."""
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(patches)
    seconds = time.process_time() - begun
    return model.components_ / np.linalg.norm(model.components_, axis=1, keepdims=True), seconds


@claim("Dictionaries at equal l1 strength are no worse than scikit-learn's", system=_SYSTEM, quick=False)
def dictionaries_are_no_worse(context: Context) -> Measured:
    """5,000 patches, 100 units; objective on 2,000 patches of the other photograph over scikit-learn's.

    The larger of the ratios to its mini-batch version with as many passes, three, and to five iterations of its batch
    version.
    """
    patches = natural_patches(context.seed, 5000, side=_SIDE, images=(0,)).patches
    test = natural_patches(context.seed + 1, 2000, side=_SIDE, images=(1,)).patches
    ours = DictionaryLearner(100, "l1", _STRENGTH, max_iter=3, tol=None, random_state=context.seed)
    ours.fit(patches[:512])  # compiles
    common: dict[str, Any] = {"alpha": _STRENGTH, "fit_algorithm": "cd", "random_state": context.seed}
    # As many passes as ours: no early stop.
    limits: dict[str, Any] = {"batch_size": 256, "max_iter": 3, "max_no_improvement": None}
    models: dict[str, Any] = {
        "ours": ours,
        "mini-batch": MiniBatchDictionaryLearning(100, **limits, **common),
        "batch": DictionaryLearning(100, max_iter=5, **common),
    }
    objective, seconds = {}, {}
    for name, model in models.items():
        components, seconds[name] = _learned(model, patches)
        found = iterative_thresholding(test, components.T, L1(_STRENGTH), tolerance=1e-6)
        objective[name] = float(found.objective.mean())
    detail = "; ".join(f"{name}: objective {objective[name]:.3f}, {seconds[name]:.1f} s" for name in models)
    slower = max(seconds["ours"] / seconds[name] for name in ("mini-batch", "batch"))
    ratio = max(objective["ours"] / objective[name] for name in ("mini-batch", "batch"))
    return Measured(ratio, "<=", 1.02, "scikit-learn", f"{detail}; our time over the faster {slower:.2f}")
