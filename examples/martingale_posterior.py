"""How is a disease likely to progress, and how sure is that? Bands from simulated futures, without a prior.

A density and a regression are learned by copula updates, which need no kernels and no clusters. What is not known about
them is what is not known about the observations still to come: 50 futures of 600 draws each continue the data, and the
spread of what is learned from them makes the bands. The same machine gives the posterior of a textbook model, and says
of a rule that shrinks its mean that its futures mean nothing.

    python examples/martingale_posterior.py [folder for the plot]
"""

import math
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from uqsparse import data
from uqsparse.inference import (
    BayesianBootstrap,
    ConjugatePredictive,
    CopulaPredictive,
    check_martingale,
    martingale_posterior,
    urn_quantile,
)
from uqsparse.inference.conjugate_predictives import MeanState

N_FORWARD, N_SAMPLES = 600, 50


class ShrunkenMean:
    """Predicts from N(0.8 mean, 1): it pulls to zero with every draw."""

    def init(self, data):
        return MeanState(np.mean(data), float(len(data)))

    def sample(self, key, state):
        return 0.8 * state.mean + jax.random.normal(key)

    def update(self, state, y):
        return MeanState(state.mean + (y - state.mean) / (state.strength + 1), state.strength + 1)


def textbook_model(y: np.ndarray) -> None:
    model = ConjugatePredictive.normal_normal(prior_mean=0.0, prior_scale=2.0, noise_scale=1.0)
    found = martingale_posterior(jax.random.key(0), model, y, lambda s: s.mean, n_forward=1000, n_samples=1000)
    precision = 1 / 4 + len(y)
    print("mean of ten normal observations")
    print(f"  by futures {found.samples.mean():6.3f} +- {found.samples.std():.3f}")
    print(f"  by Bayes   {y.sum() / precision:6.3f} +- {precision**-0.5:.3f}")
    for name, rule in (("the model", model), ("a rule that shrinks its mean", ShrunkenMean())):
        verdict = check_martingale(jax.random.key(1), rule, y, lambda s: s.mean, budget=4000)
        drift = verdict.counterexample
        print(f"  {name} {'is a martingale' if drift is None else f'drifts: {drift.obtained}'}")


def main(folder: str = ".") -> None:
    rng = np.random.default_rng(0)
    textbook_model(rng.normal(0.8, 1.0, 10))

    table = data.diabetes()
    progress = table.y[:100] + rng.uniform(-0.5, 0.5, 100)  # it was rounded to integers
    index = table.X[:100, table.feature_names.index("bmi")]
    median = martingale_posterior(
        jax.random.key(0), BayesianBootstrap(), progress, lambda urn: urn_quantile(urn, 0.5), math.inf, 1000
    )
    low, high = np.quantile(median.samples, [0.05, 0.95])
    print(f"progression in {len(progress)} patients: median {median.start:.0f}, 90% in {low:.0f} to {high:.0f}")

    warnings.filterwarnings("ignore", message="futures of")  # the bands are short by the few per cent printed below
    grid = np.linspace(-60, 450, 103)
    density = martingale_posterior(
        jax.random.key(1), CopulaPredictive(grid, n_permutations=4), progress, lambda s: s.density, N_FORWARD, N_SAMPLES
    )
    at = np.linspace(np.quantile(index, 0.02), np.quantile(index, 0.98), 10)
    rule = CopulaPredictive.regression(at, np.linspace(-150, 550, 51), n_permutations=4)
    curve = martingale_posterior(
        jax.random.key(2), rule, (index, progress),
        lambda s: {"mean": s.mean, "low": s.quantile(0.05), "high": s.quantile(0.95)}, N_FORWARD, N_SAMPLES,
    )  # fmt: skip
    print(f"bands too narrow by {density.sd_shortfall:.1%} (density) and {curve.sd_shortfall:.1%} (curve)")
    rise = curve.samples["mean"][:, -1] - curve.samples["mean"][:, 0]
    print(f"from the leanest to the heaviest the mean rises by {rise.mean():.0f} +- {rise.std():.0f}")

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    band = np.quantile(density.samples, [0.025, 0.975], axis=0)
    left.fill_between(grid, *band, color="C0", alpha=0.25, label="pointwise 95 %")
    left.plot(grid, density.start, color="C0", label="predictive density")
    left.plot(progress, np.zeros_like(progress), "|", color="0.4", markersize=10)
    left.set(xlabel="progression after a year", ylabel="density", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(index, progress, ".", color="0.6")
    right.fill_between(at, curve.start["low"], curve.start["high"], color="0.9", label="90 % of patients", zorder=0)
    band = np.quantile(curve.samples["mean"], [0.025, 0.975], axis=0)
    right.fill_between(at, *band, color="C0", alpha=0.35, label="95 % of the mean")
    right.plot(at, curve.start["mean"], color="C0")
    right.set(xlabel="body mass index", ylabel="progression after a year")
    right.legend(frameon=False)
    path = Path(folder) / "martingale_posterior.png"
    figure.savefig(path, dpi=120)
    print(f"{path.name} written")


if __name__ == "__main__":
    main(*sys.argv[1:])
