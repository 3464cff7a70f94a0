"""Speed of the particle filter against its peer, and of a batch against as many calls, side by side in one process."""

import functools
import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from uqsparse import bench
from uqsparse.bench.entries.state_space_problems import NOISE, START, STEP, autoregression
from uqsparse.inference import StateSpaceModel, particle_filter, simulate

N_PARTICLES, N_STEPS, DIMENSION = 10_000, 1000, 10


def _particles() -> ModuleType:
    try:
        found = version("particles")
    except PackageNotFoundError:
        raise bench.NotMeasured("particles is not installed: pip install --no-deps particles==0.4") from None
    if found < "0.4":
        raise bench.NotMeasured("particles 0.3 does not run with NumPy 2: pip install --no-deps particles==0.4")
    return importlib.import_module("particles")


def _contest(model: StateSpaceModel, y: np.ndarray, peer_model, is_double: bool, rounds: int) -> bench.Contest:
    """Bootstrap filters with systematic resampling below half, evidence and effective sample sizes on both sides."""
    particles = _particles()
    spaces = importlib.import_module("particles.state_space_models")

    def ours(i):
        with jax.enable_x64(is_double):
            return float(particle_filter(jax.random.key(i), model, y, n_particles=N_PARTICLES).log_evidence)

    def peer(i):
        np.random.seed(i)  # noqa: NPY002 - the generator that this package draws from
        bootstrap = spaces.Bootstrap(ssm=peer_model(), data=list(y))
        algorithm = particles.SMC(fk=bootstrap, N=N_PARTICLES, resampling="systematic", ESSrmin=0.5)
        algorithm.run()
        return algorithm.logLt

    return bench.Contest(ours, peer, rounds, error=lambda found: float(np.std(found, ddof=1)))


def _one_dimension(is_double: bool, rounds: int) -> bench.Contest:
    problem = autoregression(N_STEPS)
    _particles()
    distributions = importlib.import_module("particles.distributions")
    spaces = importlib.import_module("particles.state_space_models")

    class Peer(spaces.StateSpaceModel):
        def PX0(self):
            return distributions.Normal(scale=START)

        def PX(self, t, xp):
            return distributions.Normal(loc=0.9 * xp, scale=STEP)

        def PY(self, t, xp, x):
            return distributions.Normal(loc=x, scale=NOISE)

    return _contest(problem.model, problem.y, Peer, is_double, rounds)


@functools.cache
def _vector_model() -> tuple[StateSpaceModel, np.ndarray, np.ndarray]:
    """A mixing matrix couples ten coordinates (Guarniero, Johansen & Lee 2017), seen with unit noise."""
    i = np.arange(DIMENSION)
    mixing = 0.42 ** (np.abs(i[:, None] - i) + 1)
    matrix = jnp.asarray(mixing)
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0).expand([DIMENSION]).to_event(1),
        transition=lambda p, x, u: dist.Normal(matrix.astype(x.dtype) @ x, 1.0).to_event(1),
        observation=lambda p, x, u: dist.Normal(x, 1.0).to_event(1),
    )
    _, y = simulate(jax.random.key(2), model, N_STEPS)
    return model, np.asarray(y, float), mixing


def _ten_dimensions(is_double: bool, rounds: int) -> bench.Contest:
    model, y, mixing = _vector_model()
    _particles()
    distributions = importlib.import_module("particles.distributions")
    spaces = importlib.import_module("particles.state_space_models")

    def independent(loc):
        return distributions.IndepProd(*[distributions.Normal(loc=loc[..., i]) for i in range(DIMENSION)])

    class Peer(spaces.StateSpaceModel):
        def PX0(self):
            return independent(np.zeros(DIMENSION))

        def PX(self, t, xp):
            return independent(xp @ mixing.T)

        def PY(self, t, xp, x):
            return independent(x)

    return _contest(model, y, Peer, is_double, rounds)


@bench.speed(
    "bootstrap filter against particles, one dimension", ours="uqsparse", peer="particles", at_least=3.0, quick=False
)
def filter_in_one_dimension(context: bench.Context) -> bench.Contest:
    """N = 10 000, T = 1000, each in the precision of its defaults: single here, double there."""
    return _one_dimension(is_double=False, rounds=9)


@bench.speed(
    "bootstrap filter against particles, one dimension, double precision",
    ours="uqsparse",
    peer="particles",
    at_least=3.0,
    quick=False,
)
def filter_in_one_dimension_double(context: bench.Context) -> bench.Contest:
    """The same with both sides in double precision."""
    return _one_dimension(is_double=True, rounds=9)


@bench.speed(
    "bootstrap filter against particles, ten dimensions", ours="uqsparse", peer="particles", at_least=3.0, quick=False
)
def filter_in_ten_dimensions(context: bench.Context) -> bench.Contest:
    """N = 10 000, T = 1000; single precision here, double there."""
    return _ten_dimensions(is_double=False, rounds=3)


@bench.speed(
    "bootstrap filter against particles, ten dimensions, double precision",
    ours="uqsparse",
    peer="particles",
    at_least=3.0,
    quick=False,
)
def filter_in_ten_dimensions_double(context: bench.Context) -> bench.Contest:
    """The same with both sides in double precision."""
    return _ten_dimensions(is_double=True, rounds=3)


def _batch(n_particles: int, n_steps: int) -> bench.Contest:
    """64 values of a parameter by `vmap`, and by as many calls."""
    y = autoregression(n_steps).y
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, START),
        transition=lambda p, x, u: dist.Normal(p * x, STEP),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )
    values = jnp.linspace(0.5, 0.99, 64)

    def log_evidence(key, value):
        return particle_filter(key, model, y, value, n_particles=n_particles).log_evidence

    batch = jax.jit(jax.vmap(log_evidence, (None, 0)))
    return bench.Contest(
        ours=lambda i: batch(jax.random.key(i), values),
        peer=lambda i: [log_evidence(jax.random.key(i), value) for value in values],
        rounds=15,
    )


@bench.speed("64 parameter values: one vmap against 64 calls, N = 100", ours="vmap", peer="64 calls", at_least=5.0)
def batch_of_small_filters(context: bench.Context) -> bench.Contest:
    """N = 100, T = 100: the calls are bound by what a call costs."""
    return _batch(100, 100)


@bench.speed(
    "64 parameter values: one vmap against 64 calls, N = 1000", ours="vmap", peer="64 calls", at_least=5.0, quick=False
)
def batch_of_larger_filters(context: bench.Context) -> bench.Contest:
    """N = 1000, T = 100: both sides are bound by arithmetic."""
    return _batch(1000, 100)
