"""A posterior with two separate modes: a chain stays in one, a population finds both and their weights.

The likelihood is a mixture of two Gaussians and the prior is Gaussian, so the evidence and the posterior
weight of each mode are known in closed form.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from scipy.stats import norm

from uqsparse.inference import TemperedTarget, convergence, nuts, tempered_smc

DIMENSION = 5
PRIOR_SD = 3.0
MODE_SD = 0.3
WEIGHTS = np.array([0.7, 0.3])
CENTRES = np.array([2.0, -2.0])


def two_modes():
    u = numpyro.sample("u", dist.Normal(0.0, PRIOR_SD).expand([DIMENSION]).to_event(1))
    log_modes = dist.Normal(CENTRES[:, None], MODE_SD).log_prob(u).sum(axis=1)
    numpyro.factor("likelihood", logsumexp(np.log(WEIGHTS) + log_modes))


def exact() -> tuple[float, np.ndarray]:
    """Log evidence and the posterior weight of each mode: a convolution of Gaussians is a Gaussian."""
    each = WEIGHTS * norm.pdf(CENTRES, 0.0, np.hypot(PRIOR_SD, MODE_SD)) ** DIMENSION
    return float(np.log(each.sum())), each / each.sum()


def main() -> None:
    log_evidence, weights = exact()

    draws = nuts(jax.random.key(0), two_modes, n_warmup=500, n_samples=500)
    report = convergence(draws)
    first = np.asarray(draws["posterior"]["u"].values)[..., 0]
    in_first_mode = (first > 0).mean(axis=1)
    print(f"Share of draws in the first mode; exactly {weights[0]:.3f}")
    print(f"  NUTS, chain by chain   {'  '.join(f'{share:.2f}' for share in in_first_mode)}")
    print(f"  largest R-hat          {max(scalar.r_hat for scalar in report.scalars):.2f}")

    result = tempered_smc(jax.random.key(1), TemperedTarget.from_numpyro(two_modes), n_particles=2000, n_replicates=4)
    print(f"  tempered SMC           {(result.particles[:, 0] > 0).mean():.3f}")
    print(f"Log evidence; exactly {log_evidence:.2f}")
    print(f"  tempered SMC           {result.log_evidence:.2f} +- {result.log_evidence_se:.2f}")


if __name__ == "__main__":
    main()
