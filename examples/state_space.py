"""Stochastic volatility: how restless a short interest rate has been, quarter by quarter, since 1959.

Quarterly changes of the treasury bill rate are nearly uncorrelated, but large ones come together. The logarithm of
their variance is a hidden autoregression. PMMH draws it together with its parameters, given the whole series; a
particle filter shows what could have been known at the time. The picture is written to `state_space.png`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist

from uqsparse import data
from uqsparse.inference import StateSpaceModel, convergence, particle_filter, pmmh
from uqsparse.inference.arviz_io import attributes, dataset
from uqsparse.inference.trace_plots import plot_bands

matplotlib.use("Agg")
from matplotlib import pyplot


def prior():
    numpyro.sample("level", dist.Normal(0.0, 1.5))
    numpyro.sample("persistence", dist.Beta(20.0, 1.5))
    numpyro.sample("volatility", dist.HalfNormal(0.5))


def stationary(p):
    return p["volatility"] / jnp.sqrt(1 - p["persistence"] ** 2)


model = StateSpaceModel(
    initial=lambda p, inputs: dist.Normal(p["level"], stationary(p)),
    transition=lambda p, h, inputs: dist.Normal(p["level"] + p["persistence"] * (h - p["level"]), p["volatility"]),
    observation=lambda p, h, inputs: dist.Normal(0.0, jnp.exp(h / 2)),
    prior=prior,
)


def main(folder: str = ".") -> None:
    series = data.treasury_bill()
    times, changes = series.times[1:], np.diff(series.values)

    draws = pmmh(jax.random.key(0), model, changes, n_particles=100, n_samples=1500)
    report = convergence(draws)
    print(f"{series.name}, {len(changes)} quarterly changes")
    for row in report.scalars[:3]:
        print(f"  {row.name:12s} {row.mean:6.2f} +- {row.sd:.2f}   R-hat {row.r_hat:.3f}")
    print(f"  {attributes(draws)['advice']}")

    posterior = dataset(draws)
    means = {name: float(posterior[name].mean()) for name in ("level", "persistence", "volatility")}
    filtered = particle_filter(jax.random.key(1), model, changes, means, n_particles=5000, quantiles=(0.05, 0.5, 0.95))
    print(f"  log evidence at the posterior mean {filtered.log_evidence:.1f} +- {filtered.log_evidence_se:.2f}")

    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    top.plot(times, changes, color="0.3", linewidth=0.8)
    top.set_ylabel("change of the rate\n(percentage points)")
    paths = posterior["states"].values.reshape(-1, len(times))
    plot_bands(bottom, times, np.exp(paths / 2), "given all quarters")
    for k, style in enumerate((":", "-", ":")):
        label = "given the past, 5, 50, 95 %" if k == 1 else None
        bottom.plot(times, np.exp(filtered.quantiles[:, k] / 2), "C1", linestyle=style, linewidth=0.8, label=label)
    bottom.set_ylabel("standard deviation\n(percentage points)")
    bottom.legend(frameon=False)
    path = Path(folder) / "state_space.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"  {path.name} written")


if __name__ == "__main__":
    main(*sys.argv[1:])
