"""Eight schools: the same NumPyro model sampled by NUTS and by tempered SMC.

The data are the effects of coaching in eight schools (Rubin, 1981). The model is written non-centred, so that
the scale `tau` and the effects can move independently.
"""

import jax
import numpyro
import numpyro.distributions as dist

from uqsparse import data
from uqsparse.inference import HMC, TemperedTarget, convergence, nuts, tempered_smc


def eight_schools(standard_error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(standard_error)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("effect", dist.Normal(theta, standard_error), obs=effect)


def main() -> None:
    schools = data.eight_schools()
    chains = nuts(
        jax.random.key(0), eight_schools, schools.standard_error, effect=schools.effect, n_warmup=500, n_samples=500
    )
    by_nuts = convergence(chains)

    target = TemperedTarget.from_numpyro(eight_schools, schools.standard_error, effect=schools.effect)
    result = tempered_smc(jax.random.key(1), target, n_particles=500, move=HMC(), n_moves=3, n_replicates=4)
    by_smc = convergence(result.to_arviz())

    print("Posterior mean and standard deviation")
    print(f"{'':10s}{'NUTS':>16s}{'tempered SMC':>16s}")
    smc_scalars = {scalar.name: scalar for scalar in by_smc.scalars}
    for scalar in by_nuts.scalars:
        if scalar.name.startswith("z"):
            continue
        other = smc_scalars[scalar.name]
        print(f"{scalar.name:10s}{scalar.mean:8.2f} ({scalar.sd:4.2f}) {other.mean:8.2f} ({other.sd:4.2f})")
    print(f"\nLog evidence {result.log_evidence:.2f} +- {result.log_evidence_se:.2f}")
    for name, report in (("NUTS", by_nuts), ("tempered SMC", by_smc)):
        print(f"{name}: {'converged' if report.converged else ' '.join(report.warnings)}")


if __name__ == "__main__":
    main()
