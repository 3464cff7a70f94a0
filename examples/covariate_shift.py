"""Covariate shift on the diabetes data: intervals calibrated on all patients, and used on leaner or heavier ones.

A ridge regression errs more on heavy patients. Split conformal intervals, calibrated on everybody, are therefore too
wide for a clinic of lean patients and too narrow for one of heavy patients. Weighting the calibration patients by how
likely they are in the clinic puts that right, whether the ratio of densities is known or estimated from inputs alone.
"""

import warnings

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqsparse import data
from uqsparse.bounds import SplitConformal, WeightedConformal, density_ratio
from uqsparse.bounds.scores import AbsoluteResidual

ALPHA, N_SPLITS = 0.1, 50
N_TRAIN, N_CALIBRATION, N_TEST = 100, 170, 200


def one_split(rng: np.random.Generator, strength: float) -> list[float]:
    """Coverage of the three ways, median width of the first two, and what the known weights are worth."""
    table = data.diabetes()
    bmi = table.X[:, table.feature_names.index("bmi")]
    tilt = np.exp(strength * (bmi - bmi.mean()) / bmi.std())
    order = rng.permutation(len(table.y))
    train, calibration, rest = np.split(order, [N_TRAIN, N_TRAIN + N_CALIBRATION])
    clinic = rng.choice(rest, size=N_TEST, p=tilt[rest] / tilt[rest].sum())

    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(table.X[train], table.y[train])
    predicted, y = model.predict(table.X[calibration]), table.y[calibration]
    wanted, truth = model.predict(table.X[clinic]), table.y[clinic]

    score = AbsoluteResidual()
    plain = SplitConformal(score, ALPHA).calibrate(predicted, y).predict(wanted)
    known = WeightedConformal(score, ALPHA).calibrate(predicted, y, weights=tilt[calibration])
    by_known = known.predict(wanted, test_weights=tilt[clinic])
    ratio = density_ratio(table.X[calibration], table.X[clinic])
    by_estimate = WeightedConformal(score, ALPHA).calibrate(predicted, y, ratio).predict(wanted, ratio)
    covered = [sets.contains(truth).mean() for sets in (plain, by_known, by_estimate)]
    widths = [np.median(sets.size()) for sets in (plain, by_known)]
    return [*covered, *widths, float(known.effective_sample_size)]


def main() -> None:
    # A patient far from all calibration patients has an infinite interval, each time with a warning.
    warnings.filterwarnings("ignore", message=".*thresholds are infinite")
    print(f"Coverage of {1 - ALPHA:.0%} intervals, mean of {N_SPLITS} splits; {N_CALIBRATION} calibration patients\n")
    heads = ("plain", "known ratio", "estimated", "plain width", "width", "effective")
    print(f"{'clinic':18s}" + "".join(f"{head:>13s}" for head in heads))
    errors = []
    for name, strength in (("lean patients", -1.0), ("as calibration", 0.0), ("heavy patients", 1.0)):
        rng = np.random.default_rng(0)
        splits = np.array([one_split(rng, strength) for _ in range(N_SPLITS)])
        *covered, plain_width, width, effective = splits.mean(axis=0)
        errors.append(splits[:, :3].std(axis=0).max() / np.sqrt(N_SPLITS))
        shares = "".join(f"{value:13.3f}" for value in covered)
        print(f"{name:18s}{shares}{plain_width:13.0f}{width:13.0f}{effective:13.0f}")
    print(f"\nStandard errors of the coverages are at most {max(errors):.3f}. Widths are medians.")


if __name__ == "__main__":
    main()
