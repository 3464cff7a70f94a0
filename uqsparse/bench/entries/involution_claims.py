"""What the checks of involutions and bijectors say of maps known to be right or wrong, and of NumPyro's transforms."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.distributions.transforms import Transform, biject_to
from scipy.stats import multivariate_normal

from uqsparse import bench
from uqsparse.inference.checks import Verdict
from uqsparse.inference.checks.bijectors import check_bijector
from uqsparse.inference.checks.involutions import check_involution
from uqsparse.inference.involutive import Jump, JumpState, Model, ReversibleJump, random_walk, reversible_jump

SYSTEM = "validated inference"


class Case(NamedTuple):
    """A map, points of its support, a Jacobian by hand if there is one, and whether all of it is right."""

    f: Callable[..., Any]
    sampler: Callable[[jax.Array], Any]
    right: bool
    log_det: Callable[..., Any] | None = None


def _pair(key):
    x, v = jax.random.normal(key, (2, 2))
    return x, v


def _one_or_two(key):
    """A model with one mean or two, the second padding if there is one, and an auxiliary number."""
    k, rest = jax.random.split(key)
    a, b, u = jax.random.normal(rest, (3,))
    return {"k": jax.random.bernoulli(k).astype(jnp.int32), "mean": jnp.stack([a, b])}, u


def _split_merge(x, u, halve: float = 0.5):
    one, (a, b) = x["k"] == 0, x["mean"]
    mean = jnp.where(one, jnp.stack([a + u, a - u]), jnp.stack([(a + b) / 2, u]))
    return {"k": 1 - x["k"], "mean": mean}, jnp.where(one, b, halve * (a - b))


def _split_without_u(x, u):
    a, b = x["mean"]
    mean = jnp.where(x["k"] == 0, jnp.stack([a, a]), jnp.stack([(a + b) / 2, b]))
    return {"k": 1 - x["k"], "mean": mean}, u


def _leapfrog(x, v, flip: bool = True):
    def gradient(x):
        return jnp.stack([x[0] ** 3 + x[1], x[0] + jnp.sin(x[1])])

    for _ in range(3):
        v = v - 0.1 * gradient(x)
        x = x + 0.2 * v
        v = v - 0.1 * gradient(x)
    return x, -v if flip else v


def _by_hand(factor: float):
    return lambda x, u: factor * jnp.where(x["k"] == 0, np.log(2), -np.log(2))


CASES = {
    "leapfrog, then flip": Case(_leapfrog, _pair, True),
    "random walk": Case(lambda x, v: (x + v, -v), _pair, True),
    "split and merge": Case(_split_merge, _one_or_two, True),
    "split and merge, |J| = 2 by hand": Case(_split_merge, _one_or_two, True, _by_hand(1.0)),
    "leapfrog without flip": Case(functools.partial(_leapfrog, flip=False), _pair, False),
    "merge does not undo split": Case(functools.partial(_split_merge, halve=1.0), _one_or_two, False),
    "Jacobian with the wrong sign": Case(_split_merge, _one_or_two, False, _by_hand(-1.0)),
    "Jacobian with a wrong factor": Case(_split_merge, _one_or_two, False, _by_hand(2.0)),
    "split without an auxiliary number": Case(_split_without_u, _one_or_two, False),
    "another number of reals comes out": Case(lambda x, v: (x, v[:1]), _pair, False),
}


def _misjudged(names, seed: int, n: int) -> list[str]:
    def verdict(case: Case) -> Verdict:
        return check_involution(case.f, case.sampler, key=jax.random.key(seed), n=n, log_det=case.log_det)

    return [name for name in names if verdict(CASES[name]).ok != CASES[name].right]


@bench.claim(
    "a split with |J| = 2 by hand is an involution, with the sign turned it is none: wrong verdicts",
    system=SYSTEM,
    quick=False,
)
def split_and_merge(context: bench.Context) -> bench.Measured:
    names = [name for name, case in CASES.items() if case.log_det is not None][:2]
    wrong = _misjudged(names, context.seed, 200)
    return bench.Measured(len(wrong), "<=", 0, "known to be right or wrong", f"misjudged: {', '.join(wrong) or 'none'}")


@bench.claim("involutions, all kinds: wrong verdicts over 4 seeds", system=SYSTEM, quick=False)
def all_involutions(context: bench.Context) -> bench.Measured:
    wrong = [name for seed in range(4) for name in _misjudged(CASES, context.seed + seed, 1000)]
    detail = f"{len(CASES)} maps, 1000 points each; misjudged: {', '.join(sorted(set(wrong))) or 'none'}"
    return bench.Measured(len(wrong), "<=", 0, "maps known to be right or wrong", detail)


def numpyro_bijections() -> dict[str, Transform]:
    """One transform for each constraint that NumPyro's `biject_to` knows."""
    c = constraints
    known: dict[str, Any] = {
        "real": c.real,
        "real vector": c.real_vector,
        "real matrix": c.real_matrix,
        "positive": c.positive,
        "nonnegative": c.nonnegative,
        "greater than": c.greater_than(2.0),
        "greater than or equal": c.greater_than_eq(-1.0),
        "less than": c.less_than(3.0),
        "unit interval": c.unit_interval,
        "interval": c.interval(-2.0, 5.0),
        "open interval": c.open_interval(-2.0, 5.0),
        "circular": c.circular,
        "independent": c.independent(c.positive, 1),
        "softplus positive": c.softplus_positive,
        "ordered vector": c.ordered_vector,
        "positive ordered vector": c.positive_ordered_vector,
        "simplex": c.simplex,
        "l1 ball": c.l1_ball,
        "zero sum": c.zero_sum(1),
        "zero sum in two axes": c.zero_sum(2),
        "lower Cholesky": c.lower_cholesky,
        "softplus lower Cholesky": c.softplus_lower_cholesky,
        "scaled unit lower Cholesky": c.scaled_unit_lower_cholesky,
        "positive definite": c.positive_definite,
        "positive semidefinite": c.positive_semidefinite,
        "correlation Cholesky": c.corr_cholesky,
        "correlation matrix": c.corr_matrix,
        "complex": c.complex,
        "cat of scalars": c.cat([c.positive, c.unit_interval], dim=-1, lengths=[2, 2]),
        "cat of vectors": c.cat([c.real_vector, c.independent(c.positive, 1)], dim=-1, lengths=[2, 2]),
    }
    return {name: biject_to(constraint) for name, constraint in known.items()}


def other_numpyro_transforms() -> dict[str, Transform]:
    """NumPyro's transforms that no constraint leads to."""
    t = transforms
    return {
        "affine": t.AffineTransform(np.array([1.0, 2.0]), np.array([-2.0, 0.5])),
        "Cholesky": t.CholeskyTransform(),
        "correlation matrix to Cholesky": t.CorrMatrixCholeskyTransform(),
        "cosine": t.DiscreteCosineTransform(smooth=1.0),
        "Haar": t.HaarTransform(dim=-2, flip=True),
        "lower triangular affine": t.LowerCholeskyAffine(jnp.zeros(2), jnp.array([[0.3, 0.0], [1.0, 0.5]])),
        "permutation": t.PermuteTransform(jnp.array([2, 0, 1])),
        "power": t.PowerTransform(2.5),
        "negative power": t.PowerTransform(-1.5),
        "reshape": t.ReshapeTransform((2, 3), (6,)),
        "real Fourier": t.RealFastFourierTransform((5,)),
        "packed Fourier coefficients": t.PackRealFastFourierCoefficientsTransform((5,)),
        "recursive linear": t.RecursiveLinearTransform(jnp.array([[0.5, 0.1], [0.0, 0.9]])),
        "simplex to ordered": t.SimplexToOrderedTransform(0.0),
        "simplex to ordered, anchor 0.3": t.SimplexToOrderedTransform(0.3),
    }


def survey(transforms: dict[str, Transform], seed: int) -> dict[str, Verdict]:
    """What `check_bijector` says of each."""
    return {name: check_bijector(one, key=jax.random.key(seed), subject=name) for name, one in transforms.items()}


# Faults of NumPyro 0.22 that were confirmed by hand: by its densities, a log determinant that is complex, an error that
# the constraint raises on its own, and a log determinant of minus infinity at a point whose image is finite.
FAULTS = {
    "simplex to ordered, anchor 0.3",
    "complex",
    "cat of vectors",
    "correlation Cholesky",
    "correlation matrix",
}


def _unconfirmed(verdicts: dict[str, Verdict]) -> bench.Measured:
    rejected = {name: verdict.counterexample for name, verdict in verdicts.items() if not verdict.ok}
    said = "; ".join(f"{name} ({counterexample})" for name, counterexample in rejected.items())
    detail = f"{len(verdicts)} transforms; rejected: {said or 'none'}"
    return bench.Measured(len(rejected.keys() - FAULTS), "<=", 0, "faults of NumPyro 0.22 confirmed by hand", detail)


@bench.claim("NumPyro's bijections into its constraints: rejections that are false alarms", system=SYSTEM, quick=False)
def bijections_of_numpyro(context: bench.Context) -> bench.Measured:
    return _unconfirmed(survey(numpyro_bijections(), context.seed))


@bench.claim("NumPyro's other transforms: rejections that are false alarms", system=SYSTEM, quick=False)
def transforms_of_numpyro(context: bench.Context) -> bench.Measured:
    return _unconfirmed(survey(other_numpyro_transforms(), context.seed))


Y = np.array([0.3, 1.2, -0.4, 0.9])


def one_or_two_means() -> tuple[ReversibleJump, float]:
    """Reversible jump between one mean and two for four observations, and the exact probability of two."""

    def log_density(x):
        means = x[jnp.arange(4) * x.size // 4]
        return dist.Normal(0, 1).log_prob(x).sum() + dist.Normal(means, 1).log_prob(Y).sum()

    split = Jump(0, 1, lambda x: dist.Normal(0.0, 0.7), lambda x, u: jnp.stack([x[0] + u, x[0] - u]))
    kernel = reversible_jump(
        [Model(1, log_density), Model(2, log_density)], [split, random_walk(0, 1, 0.6), random_walk(1, 2, 0.6)]
    )
    blocks = (np.ones((4, 4)), np.kron(np.eye(2), np.ones((2, 2))))
    covariances: list[Any] = [np.eye(4) + block for block in blocks]
    one, two = (multivariate_normal.pdf(Y, np.zeros(4), covariance) for covariance in covariances)
    return kernel, float(two / (one + two))


@bench.claim("reversible jump: probability of two means, error in standard errors", system=SYSTEM, quick=False)
def probability_of_two_means(context: bench.Context) -> bench.Measured:
    kernel, exact = one_or_two_means()

    def share(key):
        def step(state: JumpState, key):
            state, _ = kernel(key, state)
            return state, state.model * 1.0

        return jnp.mean(jax.lax.scan(step, kernel.start(0, [0.0]), jax.random.split(key, 5500))[1][500:])

    shares = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(jax.random.key(context.seed), 100)))
    error = shares.std(ddof=1) / 10
    detail = f"100 chains of 5000 steps: {shares.mean():.4f} +- {error:.4f}, exactly {exact:.4f}"
    return bench.Measured(abs(shares.mean() - exact) / error, "<=", 4.0, "closed form", detail)
