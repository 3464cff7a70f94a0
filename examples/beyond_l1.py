"""Sparse coding beyond l1: patches of a photograph with the same number of active units, coded with three penalties.

A dictionary is learned from whitened patches. Then l1, l1/2 and CEL0 (a continuous relaxation of counting) code other
patches, each at the strength that leaves 6 of 128 units active. What l1 loses to the others is mostly shrinkage: least
squares on the units that it chose gives most of it back. With a file name as argument the trade-off is drawn there:

    python beyond_l1.py trade_off.png
"""

import sys

import numpy as np

from uqsparse.data.images import natural_patches
from uqsparse.kernels.sparseness import lifetime_sparseness, population_sparseness
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner
from uqsparse.solvers.matched_sparsity import debias, matched_sparsity

SIDE, UNITS, ACTIVE = 8, 128, 6


def relative_error(X: np.ndarray, reconstruction: np.ndarray) -> float:
    return float(np.mean((X - reconstruction) ** 2) / np.var(X))


def main(file: str | None = None) -> None:
    patches = natural_patches(seed=0, n=4000, side=SIDE, images=(0,)).patches.astype(np.float32)
    X = natural_patches(seed=0, n=256, side=SIDE, images=(1,)).patches.astype(np.float32)
    learner = DictionaryLearner(
        UNITS, "cel0", active_target=ACTIVE, max_iter=3, tol=None, batch_size=500, random_state=0
    ).fit(patches)
    dictionary = learner.dictionary_

    print(f"256 patches of 8 x 8, {UNITS} units, sparseness by Treves and Rolls\n")
    heads = f"{'penalty':8s}{'strength':>9s}{'active':>8s}{'error':>8s}{'refitted':>10s}"
    print(f"{heads}{'of patches':>12s}{'of units':>10s}")
    errors = {}
    for name in ("l1", "l1/2", "cel0"):
        found = matched_sparsity(X, dictionary, name, ACTIVE)
        codes = found.codes.codes
        refitted = debias(X, dictionary, codes)
        errors[name] = [relative_error(X, each @ dictionary.T) for each in (codes, refitted)]
        per_patch = UNITS * found.active_fraction
        over_units, over_patches = population_sparseness(codes).mean(), lifetime_sparseness(codes).mean()
        numbers = f"{found.strength:9.3f}{per_patch:8.2f}{errors[name][0]:8.4f}{errors[name][1]:10.4f}"
        print(f"{name:8s}{numbers}{over_units:12.3f}{over_patches:10.3f}")
    raw, refit = (errors["l1"][k] / errors["cel0"][k] for k in (0, 1))
    print(f"\nl1 leaves {raw:.1f} times the error of CEL0, and {refit:.1f} times after least squares on its units")
    if file is not None:
        draw(X, dictionary, file)


def draw(X: np.ndarray, dictionary: np.ndarray, file: str) -> None:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name, colour in (("l1", "tab:gray"), ("l1/2", "tab:green"), ("cel0", "tab:blue")):
        line = []
        for active in (2, 4, 8, 12):
            found = matched_sparsity(X, dictionary, name, active, relative_tolerance=0.05)
            codes = found.codes.codes
            both = [relative_error(X, each @ dictionary.T) for each in (codes, debias(X, dictionary, codes))]
            line.append((UNITS * found.active_fraction, *both))
        active, error, refitted = np.array(line).T
        axes.plot(active, error, "-o", color=colour, label=name)
        axes.plot(active, refitted, "--o", color=colour, label=f"{name}, refitted")
    axes.set(xlabel="active units a patch", ylabel="mean squared error / variance", yscale="log")
    axes.legend(frameon=False)
    plt.savefig(file, dpi=150)
    print(f"drawn to {file}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
