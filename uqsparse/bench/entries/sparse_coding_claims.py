"""Claims about sparse coding with discrete causes: exact evidence, bars, superpositions and calibrated posteriors."""

import dataclasses
import itertools
import math
import warnings
from functools import cache
from typing import Any, Literal

import jax
import numpy as np
import scipy.stats
from matplotlib.figure import Figure
from scipy.special import logsumexp
from sklearn.decomposition import NMF, DictionaryLearning, FastICA

from uqsparse.bench.entries.v1_pictures import draw_fields
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, Picture
from uqsparse.bench.registry import claim
from uqsparse.bounds.calibration.metrics import expected_calibration_error
from uqsparse.data.images import Bars, bars
from uqsparse.models.sparse_coding.bsc import ActivityParameters, BinaryModel, BinarySparseCoding
from uqsparse.models.sparse_coding.dsc import DiscreteModel, DiscreteParameters, DiscreteSparseCoding
from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.gsc import SpikeSlabModel, SpikeSlabParameters, SpikeSlabSparseCoding
from uqsparse.models.sparse_coding.max_superposition import MaxParameters
from uqsparse.models.sparse_coding.mca import MaximalCauses, MaximalModel
from uqsparse.models.sparse_coding.mmca import MaximumMagnitudeCauses, MaximumMagnitudeModel
from uqsparse.models.sparse_coding.posteriors import row_posteriors
from uqsparse.models.sparse_coding.tsc import TernaryModel, TernarySparseCoding
from uqsparse.solvers.dictionary_matching import match_dictionaries
from uqsparse.solvers.truncated_em import Annealing, TruncatedModel, fit_truncated_em

_SYSTEM = "Sparse coding models"
_NMF: Any = NMF  # its stub wants a string for the number of components
_VALUES = {"BSC": (1.0,), "TSC": (-1.0, 1.0), "DSC": (1.0, 2.0), "MCA": (1.0,), "MMCA": (1.0,), "GSC": (1.0,)}


def _fitted(estimator: SparseCodingEstimator, X: np.ndarray) -> Any:
    """Fit without warnings: whether a run has settled shows in what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X)


def _small(name: str, seed: int) -> tuple[TruncatedModel, Any, np.ndarray, np.ndarray]:
    """A model with H = 4 and no truncation, parameters, the probabilities of a cause's values (0 first), and data."""
    rng = np.random.default_rng(seed)
    W, sigma, H = rng.normal(size=(6, 4)), np.array(0.8), 4
    if name == "MCA":
        W = np.abs(W) + 0.1
    Y = 1.5 * rng.normal(size=(20, 6))
    pi = np.array(0.3)
    sizes: dict[str, Any] = {"n_causes": H, "n_candidates": H, "gamma": H}
    if name == "BSC":
        return BinaryModel(**sizes), ActivityParameters(W, sigma, pi), np.array([0.7, 0.3]), Y
    if name == "TSC":
        return TernaryModel(**sizes), ActivityParameters(W, sigma, pi), np.array([0.7, 0.15, 0.15]), Y
    if name == "DSC":
        model = DiscreteModel(**sizes, values=_VALUES["DSC"])
        return model, DiscreteParameters(W, sigma, np.array([0.2, 0.1])), np.array([0.7, 0.2, 0.1]), Y
    if name == "GSC":
        parameters = SpikeSlabParameters(W, sigma, np.full(H, 0.3), rng.normal(size=H), rng.uniform(0.3, 1.5, H))
        return SpikeSlabModel(**sizes), parameters, np.array([0.7, 0.3]), Y
    model = MaximalModel(**sizes) if name == "MCA" else MaximumMagnitudeModel(**sizes)
    return model, MaxParameters(W, sigma, pi), np.array([0.7, 0.3]), Y


def _soft_maximum(shown: np.ndarray) -> np.ndarray:
    """The signed power mean of exponent 21 over the last axis, without its 1 / n: what temperature 1 takes for max."""
    total = np.sum(np.sign(shown) * np.abs(shown) ** 21.0, axis=-1)
    return np.sign(total) * np.abs(total) ** (1 / 21.0)


def _enumerated(name: str, parameters: Any, shares: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood of each row and p(s_h != 0 | y), with dense Gaussian densities over all states."""
    W, sigma = parameters.dictionary, float(parameters.noise_scale)
    noise = sigma**2 * np.eye(len(W))
    values = np.array([0.0, *_VALUES[name]])
    log_joint, active = [], []
    for places in itertools.product(range(len(values)), repeat=4):
        s = values[list(places)]
        mean, covariance = W @ s, noise
        if name in ("MCA", "MMCA"):
            mean = _soft_maximum(W * s)
        elif name == "GSC":
            mean = W @ (s * parameters.slab_mean)
            covariance = noise + (W * (s * parameters.slab_variance)) @ W.T
        normal: Any = scipy.stats.multivariate_normal
        density = normal(mean, covariance).logpdf(Y)
        log_joint.append(density + sum(math.log(shares[place]) for place in places))
        active.append(s != 0)
    log_joint = np.array(log_joint)
    log_likelihood: Any = logsumexp(log_joint, axis=0)
    return log_likelihood, np.exp(log_joint - log_likelihood).T @ np.array(active, float)


@claim("Without truncation six models have the enumerated likelihood and posteriors", system=_SYSTEM)
def evidence_is_exact(context: Context) -> Measured:
    """Largest difference of a log likelihood, relative, or of p(s_h active | y), of 20 rows and six models."""
    worst = {}
    for name in _VALUES:
        model, parameters, shares, Y = _small(name, context.seed)
        log_likelihood, marginals = _enumerated(name, parameters, shares, Y)
        found = row_posteriors(model, parameters, Y)
        errors = np.abs(found.log_evidence / log_likelihood - 1).max(), np.abs(found.marginals - marginals).max()
        worst[name] = max(map(float, errors))
    detail = "; ".join(f"{name} {error:.0e}" for name, error in worst.items())
    return Measured(max(worst.values()), "<=", 1e-9, "SciPy's densities of all states", f"H = 4, D = 6: {detail}")


@claim("At temperature 1 the free energy never falls where the M-step is exact", system=_SYSTEM, quick=False)
def free_energy_never_falls(context: Context) -> Measured:
    """Largest fall of F in one of 60 iterations, relative, of BSC, TSC, DSC, GSC; of MCA and MMCA for the record."""
    falls = {}
    for name in _VALUES:
        model, parameters, _, _ = _small(name, context.seed)
        with jax.enable_x64(True):
            Y = np.array(model.sample(parameters, jax.random.key(context.seed), 200)[0])
            start = model.initial(jax.random.key(context.seed + 1), Y.mean(axis=0), np.float64(Y.std(axis=0).mean()))
        run = fit_truncated_em(model, start, Y, Annealing(1.0, 60, cut_ramp=None), key=jax.random.key(0))
        trace = run.free_energy
        falls[name] = float(np.max((trace[:-1] - trace[1:]) / np.abs(trace[:-1]), initial=0.0))
    exact = max(falls[name] for name in ("BSC", "TSC", "DSC", "GSC"))
    detail = "; ".join(f"{name} {fall:.0e}" for name, fall in falls.items())
    return Measured(exact, "<=", 1e-9, "0", f"H = 4, D = 6, 200 rows: {detail}")


def _bars_problem(name: str, seed: int) -> tuple[Bars, SparseCodingEstimator]:
    """500 images of ten bars under noise of 2, and the estimator with its settings."""
    settings: dict[str, Any] = {"n_causes": 10, "n_restarts": 8, "random_state": seed}
    if name == "BSC":
        return bars(seed, 500), BinarySparseCoding(n_candidates=8, gamma=5, temperature=5.0, **settings)
    if name == "TSC":
        found = TernarySparseCoding(n_candidates=6, gamma=3, temperature=2.0, n_iter=150, **settings)
        return bars(seed, 500, values=(-1.0, 1.0)), found
    if name == "DSC":
        data = bars(seed, 500, values=(1.0, 2.0), probability=(0.15, 0.05))
        return data, DiscreteSparseCoding(n_candidates=6, gamma=3, temperature=2.0, n_iter=150, **settings)
    if name == "MCA":
        return bars(seed, 500, superposition="max"), MaximalCauses(n_candidates=7, gamma=4, **settings)
    if name == "MMCA":
        data = bars(seed, 500, superposition="max-magnitude")
        return data, MaximumMagnitudeCauses(n_candidates=7, gamma=4, **settings)
    return bars(seed, 500, slab=(1.0, 1.0)), SpikeSlabSparseCoding(n_candidates=7, gamma=4, **settings)


def _bars_found(name: str, dictionary: np.ndarray, truth: np.ndarray) -> int:
    """Bars within 20%, up to sign for TSC; for GSC, whose scale is arbitrary, with a cosine above 0.95."""
    matching = match_dictionaries(dictionary, truth, sign=name == "TSC", scale=name == "GSC")
    return int(np.sum(matching.cosine > 0.95) if name == "GSC" else np.sum(matching.relative_error < 0.2))


@dataclasses.dataclass(frozen=True)
class _Recovered:
    """What the best run found, and how many bars each run found."""

    data: Bars
    dictionary: np.ndarray
    found: int
    found_by_run: tuple[int, ...]
    activity: float
    noise_scale: float


@cache
def _recovered(name: str, seed: int) -> _Recovered:
    data, estimator = _bars_problem(name, seed)
    model = _fitted(estimator, data.images)
    prior: Any = model.prior_probabilities_ if name == "DSC" else model.prior_probability_
    activity = float(np.sum(prior) if name == "DSC" else np.mean(prior))
    by_run = tuple(_bars_found(name, run.parameters.dictionary, data.dictionary) for run in model.restarts_)
    return _Recovered(data, model.dictionary_, by_run[0], by_run, activity, float(np.mean(model.noise_scale_)))


def _matched(name: str, one: _Recovered) -> np.ndarray:
    order = match_dictionaries(one.dictionary, one.data.dictionary, sign=name == "TSC", scale=name == "GSC").assignment
    return one.dictionary[:, order]


def _bars_picture(rows: dict[str, np.ndarray], caption: str) -> Picture:
    figure = Figure(figsize=(7, 0.75 * len(rows)), layout="constrained")
    for axes, (name, fields) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        draw_fields(axes, fields, 5, 10)
        axes.text(-0.5, 2.5, name, ha="right", va="center", size=11)
        axes.set_xlim(-14, 60)
    return picture(figure, caption)


@claim("Six models find all ten bars", system=_SYSTEM, quick=False)
def all_bars_are_found(context: Context) -> Measured:
    """Bars found in the run of largest free energy of eight, the fewest of six models; N = 500, noise 2, bars 10."""
    found = {name: _recovered(name, context.seed) for name in _VALUES}
    detail = "; ".join(f"{name} {' '.join(map(str, one.found_by_run))}" for name, one in found.items())
    drawn = _bars_picture(
        {name: _matched(name, one) for name, one in found.items()},
        "Dictionaries of six models, learned from 500 images each: dark is negative, each image in its own scale",
    )
    least = min(one.found for one in found.values())
    return Measured(least, "==", 10, "10 bars", f"bars by run, best free energy first: {detail}", pictures=(drawn,))


@claim("The share of active causes is learned to 0.04 from bars", system=_SYSTEM, quick=False)
def activity_is_learned(context: Context) -> Measured:
    """Largest distance, of six models, of the learned probability of an active cause from 0.2."""
    found = {name: _recovered(name, context.seed).activity for name in _VALUES}
    detail = ", ".join(f"{name} {activity:.3f}" for name, activity in found.items())
    return Measured(max(abs(activity - 0.2) for activity in found.values()), "<=", 0.04, "0.2", detail)


@claim("The noise is learned to 15% from bars", system=_SYSTEM, quick=False)
def noise_is_learned(context: Context) -> Measured:
    """Largest relative error of five models (the scale of GSC's noise is measured, and not counted)."""
    found = {name: _recovered(name, context.seed).noise_scale for name in _VALUES}
    worst = max(abs(scale / 2.0 - 1) for name, scale in found.items() if name != "GSC")
    return Measured(worst, "<=", 0.15, "2", ", ".join(f"{name} {scale:.3f}" for name, scale in found.items()))


@claim("Free energy ranks runs by the bars they find", system=_SYSTEM, quick=False)
def free_energy_ranks_runs(context: Context) -> Measured:
    """Spearman correlation over ten MCA runs that are cooled too fast to find all bars each time."""
    data = bars(context.seed, 500, superposition="max")
    model = _fitted(
        MaximalCauses(10, n_iter=40, temperature=1.0, parameter_noise=0.0, n_restarts=10, random_state=context.seed),
        data.images,
    )
    found = [_bars_found("MCA", run.parameters.dictionary, data.dictionary) for run in model.restarts_]
    free_energy = [run.final_free_energy / 500 for run in model.restarts_]
    detail = "; ".join(f"{k} bars {F:.1f}" for k, F in zip(found, free_energy, strict=True))
    correlation: Any = scipy.stats.spearmanr(found, free_energy)
    return Measured(float(correlation.statistic), ">=", 0.7, "1", detail)


def _peers(data: Bars, seed: int) -> dict[str, np.ndarray]:
    """Dictionaries of three methods without noise model; NMF sees the data's positive part."""
    methods: dict[str, Any] = {
        "NMF": _NMF(n_components=10, max_iter=1000, random_state=seed),
        "DictionaryLearning": DictionaryLearning(10, max_iter=50, fit_algorithm="cd", random_state=seed),
        "FastICA": FastICA(10, max_iter=1000, random_state=seed),
    }
    found = {}
    for name, method in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = method.fit(np.maximum(data.images, 0) if name == "NMF" else data.images)
        found[name] = fitted.mixing_ if isinstance(fitted, FastICA) else fitted.components_.T
    return found


def _near_truth(model: TruncatedModel, train: Bars, seed: int) -> Any:
    """Parameters after 40 iterations at temperature 1 from the true ones, with noise of 1 on each pixel of a bar."""
    noise = np.random.default_rng(seed).normal(size=train.dictionary.shape)
    of_model = MaxParameters if isinstance(model, MaximalModel) else ActivityParameters
    start = of_model(np.maximum(train.dictionary + noise, 0.1), np.array(train.noise_scale), np.array(0.3))
    return fit_truncated_em(model, start, train.images, Annealing(1.0, 40), key=jax.random.key(seed)).parameters


@cache
def _superposed(kind: Literal["linear", "max"], seed: int) -> tuple[dict[str, list[float]], dict[str, int], Picture]:
    """Held-out free energy per image of MCA and BSC, bars by direction of all five methods, and a picture.

    The free energy is that of the truncation that was learned with, and that of all states: the log likelihood.
    """
    train = bars(seed, 400, superposition=kind, probability=0.3)
    test = bars(seed + 1, 400, superposition=kind, probability=0.3).images
    scores, dictionaries = {}, {}
    kinds: dict[str, Any] = {"MCA": MaximalModel, "BSC": BinaryModel}
    for name, of_kind in kinds.items():
        model = of_kind(n_causes=10, n_candidates=7, gamma=4)
        parameters = _near_truth(model, train, seed)
        dictionaries[name] = parameters.dictionary
        whole = of_kind(n_causes=10, n_candidates=10, gamma=10)
        scores[name] = [float(row_posteriors(m, parameters, test).log_evidence.mean()) for m in (model, whole)]
    dictionaries |= _peers(train, seed)
    directions, rows = {}, {}
    for name, dictionary in dictionaries.items():
        matching = match_dictionaries(dictionary, train.dictionary, sign=name not in ("MCA", "BSC", "NMF"), scale=True)
        directions[name] = int(np.sum(matching.cosine > 0.97))
        rows[name] = dictionary[:, matching.assignment] * np.where(matching.factor < 0, -1, 1)
    how = "the largest" if kind == "max" else "the sum"
    drawn = _bars_picture(rows, f"Dictionaries learned from 400 images in which pixels show {how} of their bars")
    return scores, directions, drawn


def _superposition_wins(kind: Literal["linear", "max"], right: str, wrong: str, seed: int) -> Measured:
    scores, directions, drawn = _superposed(kind, seed)
    counts = ", ".join(f"{name} {count}" for name, count in directions.items())
    return Measured(
        scores[right][1] - scores[wrong][1],
        ">=",
        3.0,
        wrong,
        f"{right} {scores[right][1]:.1f}, {wrong} {scores[wrong][1]:.1f} nats; with H' = 7 and gamma = 4, as learned, "
        f"{scores[right][0]:.1f} and {scores[wrong][0]:.1f}; "
        f"directions of bars found (cosine above 0.97): {counts}",
        pictures=(drawn,),
    )


@claim("On maxima of bars MCA is 3 nats an image better than BSC", system=_SYSTEM, quick=False)
def maximum_wins_on_maxima(context: Context) -> Measured:
    """Held-out log likelihood over all states, 400 images with 3 bars on average, started near the truth."""
    return _superposition_wins("max", "MCA", "BSC", context.seed)


@claim("On sums of bars BSC is 3 nats an image better than MCA", system=_SYSTEM, quick=False)
def sum_wins_on_sums(context: Context) -> Measured:
    """Held-out log likelihood over all states, 400 images with 3 bars on average, started near the truth."""
    return _superposition_wins("linear", "BSC", "MCA", context.seed)


@cache
def _calibration(seed: int) -> dict[tuple[int, int], float]:
    """ECE of p(s_h = 1 | y) by H' and gamma, on 2,000 fresh images, all 10 causes pooled."""
    train, fresh = bars(seed, 1000), bars(seed + 1, 2000)
    model = _fitted(BinarySparseCoding(10, 8, 5, n_restarts=4, random_state=seed), train.images)
    order = match_dictionaries(model.dictionary_, train.dictionary).assignment
    found: dict[tuple[int, int], float] = {}
    of_kind: Any = BinaryModel
    for n_candidates, gamma in ((10, 6), (10, 4), (10, 2)):
        truncated = of_kind(n_causes=10, n_candidates=n_candidates, gamma=gamma)
        marginals = row_posteriors(truncated, model.parameters_, fresh.images).marginals[:, order]
        clipped = np.clip(marginals.ravel(), 0.0, 1.0)
        found[n_candidates, gamma] = expected_calibration_error(clipped, fresh.states.ravel(), binning="width").value
    return found


@claim("Posteriors of learned BSC are calibrated on fresh images", system=_SYSTEM, quick=False)
def posteriors_are_calibrated(context: Context) -> Measured:
    """ECE of p(s_h = 1 | y) with H' = 10 and gamma = 6: 15 bins of equal width, 20,000 probabilities."""
    found = _calibration(context.seed)
    return Measured(
        found[10, 6], "<=", 0.02, "0", "; ".join(f"gamma = {g}: {ece:.4f}" for (_, g), ece in found.items())
    )


@claim("Too few active causes in the states cost calibration", system=_SYSTEM, quick=False)
def short_states_cost_calibration(context: Context) -> Measured:
    """ECE with gamma = 2 over ECE with gamma = 6; 32% of the images have more than two bars."""
    found = _calibration(context.seed)
    return Measured(found[10, 2] / found[10, 6], ">", 1.5, "1", f"{found[10, 2]:.4f} against {found[10, 6]:.4f}")
