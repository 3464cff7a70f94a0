"""What weighted conformal prediction claims: coverage where test inputs follow another law than calibration inputs."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqsparse import bench, data
from uqsparse.bounds import SplitConformal, WeightedConformal, conformal_quantile, density_ratio
from uqsparse.bounds.scores import AbsoluteResidual

SYSTEM = "Conformal prediction"
ALPHA = 0.1
SHIFT = 1.5
SCORE = AbsoluteResidual()
N_NEW = 20
KNOWN = "test inputs shifted by 1.5 sd, heteroscedastic heavy-tailed noise, true weights"


class Coverages(NamedTuple):
    """Coverage of each repeat, and the share of infinite sets."""

    weighted: Float[np.ndarray, " r"]
    plain: Float[np.ndarray, " r"]
    infinite: Float[np.ndarray, " r"]


@functools.cache
def known_shift(n: int, repeats: int, seed: int) -> Coverages:
    """Calibrate on n inputs from N(0, 1), cover 20 from N(1.5, 1); noise grows with the input, 3 degrees of freedom."""
    rng = np.random.default_rng(seed)
    rows = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a threshold is infinite")
        for _ in range(repeats):
            x, x_new = rng.normal(size=n), rng.normal(SHIFT, 1.0, size=N_NEW)
            y, y_new = (np.exp(at / 2) * rng.standard_t(3, size=len(at)) for at in (x, x_new))
            scores, new_scores = abs(y), abs(y_new)
            thresholds = conformal_quantile(scores, ALPHA, np.exp(SHIFT * x), test_weight=np.exp(SHIFT * x_new))
            hits = (new_scores <= thresholds).mean(), (new_scores <= conformal_quantile(scores, ALPHA)).mean()
            rows.append((*hits, np.isinf(thresholds).mean()))
    return Coverages(*np.array(rows).T)


def _known(n: int, seed: int) -> bench.Measured:
    found = known_shift(n, 2000, seed)
    error = found.weighted.std() / np.sqrt(len(found.weighted))
    detail = (
        f"n = {n}, 2000 repeats, {N_NEW} test points each, standard error {error:.4f}; {found.infinite.mean():.1%} of "
        f"the sets are infinite; split conformal without weights covers {found.plain.mean():.3f}"
    )
    return bench.Measured(found.weighted.mean(), ">=", 0.895, f"level {1 - ALPHA}", detail)


@bench.claim(f"weighted conformal, n = 50: coverage under {KNOWN}", system=SYSTEM)
def known_shift_50(context: bench.Context) -> bench.Measured:
    return _known(50, context.seed)


@bench.claim(f"weighted conformal, n = 200: coverage under {KNOWN}", system=SYSTEM, quick=False)
def known_shift_200(context: bench.Context) -> bench.Measured:
    return _known(200, context.seed)


@functools.cache
def tilted_diabetes(strength: float, repeats: int, seed: int) -> Float[np.ndarray, "r 3"]:
    """Coverage of plain, weighted and estimated-weight intervals for patients drawn by exp(strength x scaled bmi)."""
    rng, table = np.random.default_rng(seed), data.diabetes()
    bmi = table.X[:, table.feature_names.index("bmi")]
    tilt = np.exp(strength * (bmi - bmi.mean()) / bmi.std())
    rows = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*thresholds are infinite")
        for _ in range(repeats):
            train, known, rest = np.split(rng.permutation(len(table.y)), [100, 270])
            new = rng.choice(rest, size=200, p=tilt[rest] / tilt[rest].sum())
            model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(table.X[train], table.y[train])
            predicted, wanted, y = model.predict(table.X[known]), model.predict(table.X[new]), table.y[known]
            ratio = density_ratio(table.X[known], table.X[new])
            weighted = WeightedConformal(SCORE, ALPHA)
            regions = (
                SplitConformal(SCORE, ALPHA).calibrate(predicted, y).predict(wanted),
                weighted.calibrate(predicted, y, tilt[known]).predict(wanted, tilt[new]),
                weighted.calibrate(predicted, y, ratio).predict(wanted, ratio),
            )
            rows.append([region.contains(table.y[new]).mean() for region in regions])
    return np.array(rows)


@bench.claim(
    "weighted conformal, diabetes tilted by body mass index: farthest coverage from 0.9", system=SYSTEM, quick=False
)
def diabetes_tilts(context: bench.Context) -> bench.Measured:
    tilts = {"leaner": tilted_diabetes(-1.0, 200, context.seed), "heavier": tilted_diabetes(1.0, 200, context.seed)}
    means = {name: rows.mean(axis=0) for name, rows in tilts.items()}
    farthest = max(abs(one[1] - (1 - ALPHA)) for one in means.values())
    detail = "200 splits, 170 calibration patients; " + "; ".join(
        f"{name}: plain {one[0]:.3f}, weighted {one[1]:.3f}, weights estimated {one[2]:.3f}"
        for name, one in means.items()
    )
    return bench.Measured(farthest, "<=", 0.02, f"level {1 - ALPHA}", detail)
