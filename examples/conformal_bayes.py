"""Conformal Bayes: intervals of a Bayesian model that cover although its prior is wrong, without fitting again.

A year's progression of diabetes is predicted from ten measurements. The model's prior says that measurements determine
it almost exactly (noise of scale 0.02, in standard deviations of the target), which is far from true, and so its
credible intervals are too narrow. Add-one-in weights of the same posterior draws give intervals with a guarantee; split
conformal prediction gives one too, but has to set half of the patients aside.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

from uqsparse import data
from uqsparse.bounds import ConformalBayes, PredictiveDraws, SplitConformal
from uqsparse.bounds.scores import AbsoluteResidual
from uqsparse.inference import nuts
from uqsparse.inference.arviz_io import dataset

ALPHA = 0.2
N_TRAIN, HALF = 310, 155


def progression(x, y=None):
    """Sparse linear regression, sure of itself: the noise is half-normal of scale 0.02."""
    scale = numpyro.sample("scale", dist.Gamma(1.0, 1.0))
    beta = numpyro.sample("beta", dist.Laplace(0.0, scale).expand([x.shape[1]]).to_event(1))
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
    noise = numpyro.sample("noise", dist.HalfNormal(0.02))
    with numpyro.plate("patients", len(x)):
        numpyro.sample("y", dist.Normal(intercept + x @ beta, noise), obs=y)


def fit(key, x, y):
    return nuts(key, progression, x, y=y, n_warmup=300, n_samples=400, n_chains=2, log_likelihood=False)


def main() -> None:
    table = data.diabetes()
    order = np.random.default_rng(0).permutation(len(table.y))
    x, y = table.X[order], table.y[order]
    x = (x - x[:N_TRAIN].mean(axis=0)) / x[:N_TRAIN].std(axis=0)
    y = (y - y[:N_TRAIN].mean()) / y[:N_TRAIN].std()
    x_test, y_test = x[N_TRAIN:], y[N_TRAIN:]

    posterior = fit(jax.random.key(0), x[:N_TRAIN], y[:N_TRAIN])
    samples = draws_of(posterior)
    credible = PredictiveDraws.from_numpyro(jax.random.key(1), progression, samples, x_test)
    low, high = credible.quantile(ALPHA / 2), credible.quantile(1 - ALPHA / 2)

    calibrated = ConformalBayes.from_numpyro(progression, posterior, ALPHA).calibrate(x[:N_TRAIN], y[:N_TRAIN])
    sets = calibrated.predict(x_test)

    half = draws_of(fit(jax.random.key(2), x[:HALF], y[:HALF]))
    mean = half["intercept"].mean() + x @ half["beta"].mean(axis=0)
    split = SplitConformal(AbsoluteResidual(), ALPHA).calibrate(mean[HALF:N_TRAIN], y[HALF:N_TRAIN])
    intervals = split.predict(mean[N_TRAIN:])

    print(f"80 % intervals for {len(y_test)} patients of one random split, widths in standard deviations")
    print(f"{'':34s}{'coverage':>10s}{'width':>8s}")
    for name, hit, width in (
        ("credible interval", (low <= y_test) & (y_test <= high), high - low),
        ("conformal Bayes, all patients", sets.contains(y_test), sets.size()),
        ("split conformal, half of them", intervals.contains(y_test), intervals.size()),
    ):
        print(f"{name:34s}{np.mean(hit):10.3f}{np.mean(width):8.2f}")

    pvalue = calibrated.pvalue(x_test, y_test)
    strangest = int(np.argmin(pvalue))
    print(f"\nStrangest patient: p-value {pvalue[strangest]:.3f}, progression {y_test[strangest]:.2f},")
    print(f"80 % set from {np.nanmin(sets.lower[strangest]):.2f} to {np.nanmax(sets.upper[strangest]):.2f}")
    print(f"\nThe guarantee: {sets.guarantee}")
    print(f"As ArviZ data: {sets.to_arviz(pvalue=pvalue)['conformal'].sizes}")


def draws_of(posterior):
    """Draws by site, chains joined."""
    return {
        str(name): value.values.reshape(-1, *value.shape[2:]) for name, value in dataset(posterior).data_vars.items()
    }


if __name__ == "__main__":
    main()
