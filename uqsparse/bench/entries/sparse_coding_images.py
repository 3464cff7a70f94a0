"""Claims about sparse coding of photographs: binary and ternary causes of whitened patches."""

from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from uqsparse.bench.entries.v1_pictures import draw_fields
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Context, Measured, Picture
from uqsparse.bench.registry import claim
from uqsparse.data.images import natural_patches
from uqsparse.models.sparse_coding.bsc import BinaryModel
from uqsparse.models.sparse_coding.posteriors import row_posteriors
from uqsparse.models.sparse_coding.receptive_fields import fit_gabors
from uqsparse.models.sparse_coding.tsc import TernaryModel
from uqsparse.solvers.chunked_rows import row_moments
from uqsparse.solvers.truncated_em import Annealing, TruncatedPosterior, fit_truncated_em, placed_rows

_SYSTEM = "Sparse coding models"
_SIDE, _H, _N_TRAIN, _N_TEST, _N_ITER = 12, 100, 20_000, 4_000, 40
# One seed for all three claims, which look at the same two fits of a minute each.
_SEED = 0
# Patches left of this column are learned from, those right of it are held out: none of the two overlap.
_SPLIT = 450
_MODELS = {
    "BSC": (BinaryModel(n_causes=_H, n_candidates=8, gamma=4), 3.0),  # pyright: ignore[reportCallIssue]
    "TSC": (TernaryModel(n_causes=_H, n_candidates=6, gamma=3), 2.0),  # pyright: ignore[reportCallIssue]
}
_HOW = f"12 x 12 patches, N = {_N_TRAIN:,}, H = {_H}, {_N_ITER} iterations, the last half at temperature 1, no cut"


class _Study(NamedTuple):
    """A model learned from patches, and what it makes of patches from another part of the photographs."""

    dictionary: np.ndarray
    held_out: np.ndarray
    test: TruncatedPosterior


@cache
def _patches() -> tuple[np.ndarray, np.ndarray]:
    drawn = natural_patches(_SEED, 2 * _N_TRAIN, side=_SIDE)
    column = drawn.corner[:, 1]
    return drawn.patches[column + _SIDE <= _SPLIT][:_N_TRAIN], drawn.patches[column >= _SPLIT][:_N_TEST]


@cache
def _study(name: str) -> _Study:
    """Held-out free energies per patch are those of all parameters reached at temperature 1."""
    train, test = _patches()
    model, temperature = _MODELS[name]
    rows = placed_rows(model, train)
    schedule = Annealing(temperature, _N_ITER, fraction=0.5, cut_ramp=None)
    with jax.enable_x64(True):
        mean, scale = row_moments(rows)
        first = model.initial(jax.random.key(_SEED), mean, np.float64(scale))
    held_out = []

    def on_iteration(state):
        # The parameters after iteration i - 1 were learned at its temperature.
        if schedule.temperature(len(state.free_energy) - 1) == 1:
            held_out.append(row_posteriors(model, state.parameters, test).log_evidence.mean())

    run = fit_truncated_em(model, first, rows, schedule, key=jax.random.key(_SEED), on_iteration=on_iteration)
    return _Study(run.parameters.dictionary, np.array(held_out), row_posteriors(model, run.parameters, test))


@claim("Held-out free energy of photographs rises to the end of learning", system=_SYSTEM, quick=False)
def held_out_free_energy_rises(context: Context) -> Measured:
    """Smallest step of the held-out free energy per patch between iterations at temperature 1, in nats."""
    studies = {name: _study(name).held_out for name in _MODELS}
    detail = "; ".join(
        f"{name} from {trace[0]:.2f} to {trace[-1]:.2f}, smallest step {np.diff(trace).min():.4f}"
        for name, trace in studies.items()
    )
    smallest = min(float(np.diff(trace).min()) for trace in studies.values())
    return Measured(smallest, ">=", 0.0, "0", f"{_HOW}; nats per patch: {detail}")


@claim("Few causes reconstruct photographs better than as many principal components", system=_SYSTEM, quick=False)
def few_causes_beat_principal_components(context: Context) -> Measured:
    """Larger ratio, of two models, of held-out squared errors: posterior mean to the leading principal components.

    As many components as causes are active in a patch on average, rounded up. The k largest of 100 components of each
    patch are a harder peer, and the Gaussian's log density another measure: both are in the detail.
    """
    train, test = _patches()
    pca = PCA(_H).fit(train)
    scores = pca.transform(test)
    order = np.argsort(-abs(scores), axis=1)
    ratios, parts = [], []
    for name in _MODELS:
        study = _study(name)
        active = float(study.test.marginals.sum(axis=1).mean())
        k = int(np.ceil(active))
        ours = np.mean((test - study.test.mean @ study.dictionary.T) ** 2)
        errors = []
        for kept in (np.arange(_H) < k, np.argsort(order, axis=1) < k):
            errors.append(float(np.mean((test - pca.inverse_transform(np.where(kept, scores, 0))) ** 2)))
        ratios.append(float(ours / errors[0]))
        parts.append(
            f"{name} with {active:.2f} active causes {ours:.4f}, {k} leading component{'s' * (k > 1)} {errors[0]:.4f}, "
            f"the {k} largest of {_H} in each patch {errors[1]:.4f}, free energy {study.test.log_evidence.mean():.1f}"
        )
    parts.append(f"log density of the Gaussian with {_H} components {pca.score(test):.1f}")
    return Measured(max(ratios), "<", 1.0, "PCA", f"{_HOW}; held-out variance {test.var():.4f}; " + "; ".join(parts))


@claim("Most fields learned from photographs are Gabor functions", system=_SYSTEM, quick=False)
def fields_are_gabor_functions(context: Context) -> Measured:
    """Smaller share, of two models, of fields of which a Gabor function explains half the variance or more."""
    shares, parts, pictures = [], [], []
    for name in _MODELS:
        study = _study(name)
        fits = fit_gabors(study.dictionary, _SIDE)
        shares.append(float(np.mean(fits.r_squared >= 0.5)))
        half, oriented = np.median(fits.r_squared), fits.share("oriented")
        parts.append(f"{name} {shares[-1]:.0%}, median R^2 {half:.2f}, {oriented:.0%} oriented")
        use = study.test.marginals.mean(axis=0)
        pictures.append(
            _fields(study.dictionary[:, np.argsort(-use)], f"{name}: the 45 fields used most, each in its own scale")
        )
    return Measured(min(shares), ">=", 0.5, "0.5", f"{_HOW}; {'; '.join(parts)}", tuple(pictures))


def _fields(dictionary: np.ndarray, caption: str, rows: int = 3, columns: int = 15) -> Picture:
    figure = Figure(figsize=(9, 9 * rows / columns), layout="constrained")
    draw_fields(figure.subplots(), dictionary[:, : rows * columns], _SIDE, columns)
    return picture(figure, caption)
