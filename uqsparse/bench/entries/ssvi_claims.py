"""Claims about sparse Bayesian networks: the exact case, compression with calibration, criteria, unfamiliar inputs."""

from functools import cache

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

from uqsparse.bench.entries import ssvi_exact
from uqsparse.bench.entries.ssvi_pictures import criterion_points, curves
from uqsparse.bench.entries.ssvi_study import CRITERIA, SEEDS, Scores, entropy, standard_error, study
from uqsparse.bench.records import Context, Measured
from uqsparse.bench.registry import claim

_SYSTEM = "Sparse Bayesian networks"
_FORM = "accuracy / NLL / calibration error"
_SETUP = f"{len(SEEDS)} seeds, 1,500 steps, 32 draws"
_DENSITIES = (0.1, 0.05, 0.02)
_WAYS = ("SSVI", "static", "pruned")


# Linear regression, where a search over all supports gives the answer.


@claim("Guarded trades find the best of all 495 supports", system=_SYSTEM)
def guarded_trades_are_exact(context: Context) -> Measured:
    """Orthogonal inputs, 4 of 12 weights; the share of problems whose final support is the best one."""
    n = 20 if context.quick else 200
    problem = ssvi_exact.problems(context.seed, n)
    best, losses = ssvi_exact.search(problem)
    found = ssvi_exact.train(problem, context.seed, guarded=True)
    errors = []
    for X, y, at, mu, sigma in zip(problem.X, problem.y, best, found.mu, found.sigma, strict=True):
        _, mean, deviation = ssvi_exact.bound(X, y, np.flatnonzero(at))
        errors.append(max(np.abs(mu[at] - mean).max(), np.abs(sigma[at] - deviation).max()))
    gap = np.abs(found.losses[:, -1] / losses - 1).max()
    return Measured(
        float((found.support == best).all(1).mean()),
        "==",
        1.0,
        "search",
        f"{n} problems; means and deviations within {max(errors):.1e} of the closed form, the bound within {gap:.1e}",
    )


@cache
def _forced(seed: int) -> tuple[float, float]:
    problem = ssvi_exact.problems(seed, 200)
    best, _ = ssvi_exact.search(problem)
    found = ssvi_exact.train(problem, seed, guarded=False)
    return float((found.support == best).all(1).mean()), float((found.best == best).all(1).mean())


@claim("Trades without the guard visit the best support every time", system=_SYSTEM, quick=False)
def forced_trades_visit_the_best(context: Context) -> Measured:
    """The share of 200 orthogonal problems whose support of the lowest loss on the way is the best of all 495."""
    final, visited = _forced(context.seed)
    return Measured(visited, "==", 1.0, "search", f"200 problems; the final support is the best in {100 * final:.0f}%")


@cache
def _correlated(seed: int) -> dict[str, np.ndarray]:
    """Losses above the best support's: final and best visited, with the guard and without, and 20 random supports'."""
    problem = ssvi_exact.problems(seed, 20, correlation=0.6)
    _, losses = ssvi_exact.search(problem)
    rng = np.random.default_rng(seed)
    supports = [[rng.choice(ssvi_exact.D, ssvi_exact.S, replace=False) for _ in range(20)] for _ in losses]
    random = [
        min(ssvi_exact.bound(X, y, np.sort(s))[0] for s in some)
        for X, y, some in zip(problem.X, problem.y, supports, strict=True)
    ]
    gaps = {"20 random supports": np.array(random) - losses}
    for guarded, name in ((True, "guarded"), (False, "forced")):
        found = ssvi_exact.train(problem, seed, guarded=guarded)
        gaps[f"{name}, final"] = found.losses[:, -1] - losses
        gaps[f"{name}, best visited"] = found.losses.min(1) - losses
    return gaps


def _worse_than_random(gaps: dict[str, np.ndarray], name: str) -> Measured:
    worse = (gaps[name] > gaps["20 random supports"] + 1e-3).sum()
    means = "; ".join(f"{one} {gap.mean():.2f}" for one, gap in gaps.items())
    return Measured(
        float(worse), "==", 0.0, "20 random supports", f"20 problems; mean gap to the best support in nats: {means}"
    )


@claim("Correlated inputs: the final support is never worse than 20 random ones", system=_SYSTEM, quick=False)
def final_support_beats_random_ones(context: Context) -> Measured:
    """Inputs with correlation 0.6; problems where the best of 20 random supports has a lower loss."""
    return _worse_than_random(_correlated(context.seed), "forced, final")


@claim("Correlated inputs: nor is the best support on the way", system=_SYSTEM, quick=False)
def best_visited_support_beats_random_ones(context: Context) -> Measured:
    """The same problems, with the support of the lowest loss before a trade."""
    return _worse_than_random(_correlated(context.seed), "forced, best visited")


# Digits: how much can go, and what that does to probabilities.


def _digits(way: str, density: float = 1.0) -> Scores:
    return study("digits", way, density)


def _digits_table() -> str:
    rows = [f"dense {_digits('dense')}"]
    rows += [f"{100 * d:g}%: " + ", ".join(f"{way} {_digits(way, d)}" for way in _WAYS) for d in _DENSITIES]
    return f"{_FORM}; " + "; ".join(rows) + f"; {_SETUP}"


@claim("Digits: 2% of the weights cost less than three points of accuracy", system=_SYSTEM, quick=False)
def few_weights_cost_little(context: Context) -> Measured:
    """Points that dense variational inference is better by; a perceptron with two hidden layers of 256."""
    drop = _digits("dense").accuracy.mean() - _digits("SSVI", 0.02).accuracy.mean()
    found = {way: {d: _digits(way, d) for d in _DENSITIES} for way in _WAYS}
    return Measured(float(100 * drop), "<", 3.0, "dense", _digits_table(), pictures=(curves(found, _digits("dense")),))


@claim("Digits, 2%: trades gain a point of accuracy over a support that stays", system=_SYSTEM, quick=False)
def trades_gain_accuracy(context: Context) -> Measured:
    """Difference in points."""
    gain = 100 * (_digits("SSVI", 0.02).accuracy - _digits("static", 0.02).accuracy)
    return Measured(float(gain.mean()), ">=", 1.0, "static", f"± {standard_error(gain):.1f}, {len(SEEDS)} seeds")


@claim("Digits, 2%: trades lower the negative log likelihood to 0.7 of a static support's", system=_SYSTEM, quick=False)
def trades_gain_likelihood(context: Context) -> Measured:
    """Ratio of means."""
    ratio = _digits("SSVI", 0.02).nll.mean() / _digits("static", 0.02).nll.mean()
    return Measured(float(ratio), "<=", 0.7, "static", f"{len(SEEDS)} seeds")


@claim("Digits: trades never raise the negative log likelihood", system=_SYSTEM, quick=False)
def trades_never_hurt(context: Context) -> Measured:
    """The largest ratio to a static support's over 10, 5 and 2%."""
    ratios = [_digits("SSVI", d).nll.mean() / _digits("static", d).nll.mean() for d in _DENSITIES]
    return Measured(
        float(max(ratios)), "<=", 1.0, "static", f"10, 5, 2%: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
    )


@claim("Digits, 5 and 2%: sparse from the start beats pruning later, by all three scores", system=_SYSTEM, quick=False)
def sparse_from_the_start_beats_pruning_later(context: Context) -> Measured:
    """Comparisons won of six: accuracy, negative log likelihood and calibration error at both densities."""
    won = 0
    for d in (0.05, 0.02):
        ours, theirs = _digits("SSVI", d), _digits("pruned", d)
        won += ours.accuracy.mean() > theirs.accuracy.mean()
        won += ours.nll.mean() < theirs.nll.mean()
        won += ours.ece.mean() < theirs.ece.mean()
    return Measured(float(won), "==", 6.0, "dense, pruned at 3/4", f"{len(SEEDS)} seeds")


@claim("Shuffled digits are told from real ones by predictive entropy", system=_SYSTEM, quick=False)
def entropy_tells_shuffled_digits(context: Context) -> Measured:
    """Area under the ROC curve at 2%, mean over seeds; RigL is the same network without a posterior."""
    areas = {way: _areas(way) for way in ("SSVI", "RigL")}
    detail = f"± {standard_error(areas['SSVI']):.3f}; RigL {areas['RigL'].mean():.3f}, {_FORM} {_digits('RigL', 0.02)}"
    return Measured(float(areas["SSVI"].mean()), ">=", 0.9, "1", detail)


@claim("Shuffled digits: a posterior tells no worse than a plain network", system=_SYSTEM, quick=False)
def posterior_tells_no_worse(context: Context) -> Measured:
    """Area under the ROC curve of RigL less that of SSVI, both at 2%."""
    less = _areas("RigL") - _areas("SSVI")
    return Measured(float(less.mean()), "<=", 0.02, "RigL", f"± {standard_error(less):.3f}, {len(SEEDS)} seeds")


@cache
def _areas(way: str) -> np.ndarray:
    scores = _digits(way, 0.02)
    clean = entropy(scores.probabilities)
    labels = np.r_[np.zeros(clean.shape[1]), np.ones(clean.shape[1])]
    return np.array([roc_auc_score(labels, np.r_[a, b]) for a, b in zip(clean, scores.entropy_shuffled, strict=True)])


# Signals, where no network of this size is near the ceiling.


def _gain(density: float, bound: float) -> Measured:
    ours, theirs = study("signals", "SSVI", density), study("signals", "static", density)
    gain = 100 * (ours.accuracy - theirs.accuracy)
    detail = f"± {standard_error(gain):.1f}; {_FORM}: SSVI {ours}, static {theirs}, dense {study('signals', 'dense')}"
    return Measured(float(gain.mean()), ">=", bound, "static", f"{detail}; {_SETUP}")


@claim("Signals, 10%: trades gain two points of accuracy over a support that stays", system=_SYSTEM, quick=False)
def trades_gain_on_signals(context: Context) -> Measured:
    """A perceptron with two hidden layers of 100 on MNIST-1D."""
    return _gain(0.1, 2.0)


@claim("Signals, 5%: they gain six", system=_SYSTEM, quick=False)
def trades_gain_more_where_fewer_are_left(context: Context) -> Measured:
    """The same at half the weights."""
    return _gain(0.05, 6.0)


def _by_criterion() -> dict[str, Scores]:
    return {name: study("signals", "SSVI", 0.05, name) for name in CRITERIA}


@claim("The method's criterion and the signal-to-noise ratio train the same network", system=_SYSTEM, quick=False)
def two_criteria_are_one(context: Context) -> Measured:
    """Entries of masks and probabilities that differ, 5% of the weights on signals."""
    one, other = (study("signals", "SSVI", 0.05, name) for name in ("snr", "SNR_mean_abs"))
    pairs = zip(jax.tree.leaves(one.masks), jax.tree.leaves(other.masks), strict=True)
    differ = sum(int((a != b).sum()) for a, b in pairs) + int((one.probabilities != other.probabilities).sum())
    return Measured(float(differ), "==", 0.0, "0", f"{len(SEEDS)} seeds")


@claim("Four criteria are within two points of each other", system=_SYSTEM, quick=False)
def criteria_agree(context: Context) -> Measured:
    """Spread of mean accuracies in points: |mu|, E|w|, their ratio to the spread, E exp |w|; 5% on signals."""
    found = _by_criterion()
    means = [100 * found[name].accuracy.mean() for name in ("mean", "E_mean_abs", "snr", "E_exp_mean_abs")]
    detail = "; ".join(f"{name} {scores}" for name, scores in found.items())
    return Measured(
        float(max(means) - min(means)), "<=", 2.0, "0", f"{_FORM}: {detail}", pictures=(criterion_points(found),)
    )


@claim("The ratio of exponential moments is no better than any of them", system=_SYSTEM, quick=False)
def exponential_ratio_is_no_better(context: Context) -> Measured:
    """Its mean accuracy less the lowest of the others', in points."""
    found = {name: 100 * scores.accuracy.mean() for name, scores in _by_criterion().items()}
    odd = found.pop("SNR_exp_mean_abs")
    return Measured(float(odd - min(found.values())), "<=", 0.0, "the others", f"lam = 1, {len(SEEDS)} seeds")


def _by_beta(way: str) -> dict[float, Scores]:
    return {beta: study("signals", way, 0.1 if way == "SSVI" else 1.0, beta=beta) for beta in (0.01, 0.1, 1.0)}


@claim("Accuracy hardly depends on the weight of the prior", system=_SYSTEM, quick=False)
def accuracy_is_robust_to_beta(context: Context) -> Measured:
    """Spread of mean accuracies over beta = 0.01, 0.1, 1 in points; 10% on signals."""
    means = [100 * scores.accuracy.mean() for scores in _by_beta("SSVI").values()]
    detail = "; ".join(f"beta {beta:g}: {scores}" for beta, scores in _by_beta("SSVI").items())
    return Measured(float(max(means) - min(means)), "<=", 2.0, "0", f"{_FORM}: {detail}")


@claim("Nor does calibration", system=_SYSTEM, quick=False)
def calibration_is_robust_to_beta(context: Context) -> Measured:
    """The largest expected calibration error over beta = 0.01, 0.1, 1."""
    worst = max(scores.ece.mean() for scores in _by_beta("SSVI").values())
    dense = ", ".join(f"{scores.ece.mean():.3f}" for scores in _by_beta("dense").values())
    return Measured(float(worst), "<=", 0.08, "0", f"dense: {dense}; {len(SEEDS)} seeds")
