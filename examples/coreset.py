"""A million rows to a few hundred: scores in seconds, a robust fit on a weighted sample, the posterior compared.

Delays of a million deliveries: Laplace noise, and one feature that is zero for all but 40 of them. A uniform sample of
600 rows never sees it; a sample by leverage cannot miss it.
"""

import time

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

from uqsparse.inference import nuts
from uqsparse.models import regression_coreset, weighted_plate

N, SIZE = 1_000_000, 600
NAMES = ("base", "distance", "load", "rain", "ferry")


def deliveries(seed=0):
    """Features (n, 5), delays (n,) and the true coefficients."""
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [np.ones(N), rng.exponential(size=N), rng.normal(size=N), rng.uniform(size=N) < 0.2, np.zeros(N)]
    )
    X[rng.choice(N, 40, replace=False), 4] = 1.0
    truth = np.array([1.0, 2.0, 0.5, 1.5, 8.0])
    return X, X @ truth + rng.laplace(size=N), truth


def delays(X, y, weights):
    """Linear regression with Laplace noise; rows count by their weights."""
    w = numpyro.sample("w", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5))
    with weighted_plate("rows", weights):
        numpyro.sample("y", dist.Laplace(X @ w, scale), obs=y)


def cost(X, y, w):
    """Mean absolute error on all rows."""
    return np.abs(y - X @ w).mean()


def main():
    X, y, truth = deliveries()
    print(f"{N:,} rows; mean absolute error of the true coefficients {cost(X, y, truth):.4f}")
    for scheme in ("uniform", "root-leverage"):
        start = time.perf_counter()
        few = regression_coreset(jax.random.key(1), X, y, SIZE, likelihood="laplace", scheme=scheme)
        seconds = time.perf_counter() - start
        seen = np.count_nonzero(X[few.rows, 4])
        print(f"{scheme}: {len(few.rows)} rows in {seconds:.1f} s, {seen} of the 40 by ferry")
    data = X[few.rows], y[few.rows], few.weights
    posterior = nuts(jax.random.key(2), delays, *data, n_warmup=300, n_samples=300, n_chains=1)["posterior"]["w"]
    mean, sd = (np.asarray(found(("chain", "draw"))) for found in (posterior.mean, posterior.std))
    for name, m, s, t in zip(NAMES, mean, sd, truth, strict=True):
        print(f"  {name:9s} {m:6.2f} ± {s:.3f}   (true {t:g})")
    print(f"mean absolute error on all rows {cost(X, y, mean):.4f}")
    print("Widths are those of the posterior on all rows; means are off by what 600 rows leave open: see the guide.")


if __name__ == "__main__":
    main()
