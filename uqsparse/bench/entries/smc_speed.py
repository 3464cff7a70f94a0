"""Speed of the samplers against their peers, each used as its own users would, side by side in one process.

Effective samples of a posterior mean are measured, not estimated from autocorrelations: for each coefficient, the
posterior variance over the mean squared error of the runs' posterior means around a long reference run; then the
median over the coefficients. One independent draw is worth 1.
"""

import functools
import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from uqsparse import bench
from uqsparse.bench.entries.smc_problems import bimodal, logistic_data, logistic_regression, logistic_target
from uqsparse.inference import HMC, RandomWalk, nuts, tempered_smc

N_PARTICLES = 1000


def _peer(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise bench.NotMeasured(f"{name} is not installed (pip install 'uqsparse[bench]'): {error}") from None


class _BimodalRace:
    """Both programs on one target: dimension 5, 1000 particles, 10 random-walk moves, ESS fraction 0.5, x64."""

    def __init__(self) -> None:
        blackjax = _peer("blackjax")
        systematic = importlib.import_module("blackjax.smc.resampling").systematic
        problem = bimodal(5)
        random_walk = blackjax.additive_step_random_walk.build_kernel()

        def scaled_covariance(particles):
            return 2.38**2 / 5 * jnp.cov(particles.T)

        def mcmc_step(key, state, log_density, covariance):
            def propose(key, position):
                return jax.random.multivariate_normal(key, jnp.zeros(5), covariance)

            return random_walk(key, state, log_density, propose)

        @jax.jit
        def run_blackjax(key):
            key_prior, key_run = jax.random.split(key)
            particles = problem.sample_prior(key_prior, N_PARTICLES)
            algorithm = blackjax.inner_kernel_tuning(
                smc_algorithm=blackjax.adaptive_tempered_smc,
                logprior_fn=problem.log_prior,
                loglikelihood_fn=problem.log_likelihood,
                mcmc_step_fn=mcmc_step,
                mcmc_init_fn=blackjax.rmh.init,
                resampling_fn=systematic,
                mcmc_parameter_update_fn=lambda _, state, info: {
                    "covariance": scaled_covariance(state.particles)[None]
                },
                initial_parameter_value={"covariance": scaled_covariance(particles)[None]},
                target_ess=0.5,
                num_mcmc_steps=10,
            )

            def one_round(carry):
                state, key, log_evidence = carry
                key, key_step = jax.random.split(key)
                state, info = algorithm.step(key_step, state)
                return state, key, log_evidence + info.log_likelihood_increment

            start = (algorithm.init(particles), key_run, jnp.zeros(()))
            return jax.lax.while_loop(lambda c: c[0].sampler_state.tempering_param < 1, one_round, start)[2]

        self._run_blackjax = run_blackjax
        self._target = problem.target

    def ours(self, i: int) -> float:
        return tempered_smc(jax.random.key(i), self._target, N_PARTICLES, RandomWalk()).log_evidence

    def peer(self, i: int) -> float:
        with jax.enable_x64(True):
            return float(self._run_blackjax(jax.random.key(i)))


_bimodal_race = functools.cache(_BimodalRace)


def _bimodal_rmse(results) -> float:
    return float(np.sqrt(np.mean((np.asarray(results) - bimodal(5).log_evidence) ** 2)))


@bench.speed(
    "tempered SMC against blackjax, all cores", ours="uqsparse", peer="blackjax", at_least=2.0, unit="run", quick=False
)
def smc_against_blackjax(context: bench.Context) -> bench.Contest:
    """With the thread pool that XLA makes for itself."""
    race = _bimodal_race()
    return bench.Contest(race.ours, race.peer, rounds=40, error=_bimodal_rmse)


def _race(side: str, i: int) -> float:
    return getattr(_bimodal_race(), side)(i)


@bench.speed(
    "tempered SMC against blackjax, one core", ours="uqsparse", peer="blackjax", at_least=2.0, unit="run", quick=False
)
def smc_against_blackjax_on_one_core(context: bench.Context) -> bench.Contest:
    """Both sides in one child process that is bound to one core, so that no thread pool is measured."""
    _peer("blackjax")
    if not hasattr(os, "sched_setaffinity") or multiprocessing.current_process().daemon:
        raise bench.NotMeasured("a child process bound to one core cannot be started here")
    core = {min(os.sched_getaffinity(0))}
    # Bound before it imports anything: XLA counts the processors when it starts.
    child = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), os.sched_setaffinity, (0, core))
    ours, peer = (lambda i, side=side: child.submit(_race, side, i).result() for side in ("ours", "peer"))
    return bench.Contest(ours, peer, rounds=15 if context.quick else 60, error=_bimodal_rmse)


@functools.cache
def _logistic_reference() -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance of the coefficients from 12 000 particles, the error of the mean about 1 % of sd."""
    draws = tempered_smc(jax.random.key(2024), logistic_target(), 3000, HMC(), n_replicates=4).particles
    return draws.mean(axis=0), draws.var(axis=0)


def _effective_samples(posterior_means) -> float:
    mean, variance = _logistic_reference()
    squared_error = np.mean((np.asarray(posterior_means) - mean) ** 2, axis=0)
    return float(np.median(variance / squared_error))


def _smc_hmc(i: int) -> np.ndarray:
    return tempered_smc(jax.random.key(i), logistic_target(), N_PARTICLES, HMC(), n_moves=5).particles.mean(axis=0)


@bench.speed(
    "tempered SMC against particles, logistic regression",
    ours="uqsparse (HMC)",
    peer="particles",
    at_least=5.0,
    unit="effective sample",
    quick=False,
)
def smc_against_particles(context: bench.Context) -> bench.Contest:
    """`particles` with its defaults (waste-free, adaptive random walk) at its recommended size: 1000 resampled."""
    particles = _peer("particles")
    if version("particles") < "0.4":
        raise bench.NotMeasured("particles 0.3 does not run with NumPy 2: pip install --no-deps particles==0.4")
    distributions = importlib.import_module("particles.distributions")
    samplers = importlib.import_module("particles.smc_samplers")
    x, y = logistic_data()
    signed = x * (2 * y - 1)[:, None]

    class Logistic(samplers.StaticModel):
        def loglik(self, theta, t=None):
            return -np.logaddexp(0, -theta["beta"] @ signed.T).sum(axis=1)

    prior = distributions.StructDist({"beta": distributions.MvNormal(loc=np.zeros(31), cov=np.eye(31))})
    model = Logistic(data=y, prior=prior)

    def peer(i):
        np.random.seed(i)  # noqa: NPY002 - the generator that this package draws from
        algorithm = particles.SMC(fk=samplers.AdaptiveTempering(model=model), N=N_PARTICLES)
        algorithm.run()
        return algorithm.W @ algorithm.X.theta["beta"]

    return bench.Contest(_smc_hmc, peer, rounds=6, work=_effective_samples)


@bench.speed(
    "tempered SMC against PyMC, logistic regression",
    ours="uqsparse (HMC)",
    peer="PyMC",
    at_least=5.0,
    unit="effective sample",
    quick=False,
)
def smc_against_pymc(context: bench.Context) -> bench.Contest:
    """PyMC's `sample_smc` with its default independence moves, 1000 draws, one chain at a time."""
    pymc = _peer("pymc")
    x, y = logistic_data()
    with pymc.Model() as model:
        beta = pymc.Normal("beta", 0.0, 1.0, shape=31)
        pymc.Bernoulli("y", logit_p=pymc.math.dot(x, beta), observed=y)

    def peer(i):
        with model:
            trace = pymc.sample_smc(
                draws=N_PARTICLES, chains=1, cores=1, progressbar=False, random_seed=i, compute_convergence_checks=False
            )
        return trace.posterior["beta"].values.mean(axis=(0, 1))

    return bench.Contest(_smc_hmc, peer, rounds=4, work=_effective_samples)


@bench.speed(
    "NUTS against NumPyro, logistic regression",
    ours="uqsparse",
    peer="NumPyro called directly",
    at_least=0.95,
    unit="run",
    quick=False,
)
def nuts_against_numpyro(context: bench.Context) -> bench.Contest:
    """Four vectorised chains, 300 + 300 draws, which end on the host; neither side computes pointwise likelihoods."""
    data = tuple(array.astype(np.float32) for array in logistic_data())

    def ours(i):
        return nuts(jax.random.key(i), logistic_regression, *data, n_warmup=300, n_samples=300, log_likelihood=False)

    def peer(i):
        sampler = numpyro.infer.MCMC(
            numpyro.infer.NUTS(logistic_regression),
            num_warmup=300,
            num_samples=300,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(jax.random.key(i), *data)
        return jax.device_get(sampler.get_samples(group_by_chain=True))

    return bench.Contest(ours, peer, rounds=5)
