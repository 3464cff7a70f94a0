"""Linear regression with a Gaussian posterior on few weights, where a search finds the best support.

The loss is the exact negative evidence lower bound, so training is free of noise and every number has a closed form.
"""

import itertools
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from uqsparse.nn.gaussian_layers import GaussianWeight
from uqsparse.pruning.recipes.ssvi import ssvi

D, S, N_ROWS, TAU = 12, 4, 40, 1.0
STEPS, EVERY = 3000, 75


class Problem(NamedTuple):
    """Regressions with noise of variance 1 and the prior N(0, TAU^2), one along the first axis."""

    X: Float[np.ndarray, "p n d"]
    y: Float[np.ndarray, "p n"]


class Found(NamedTuple):
    """What training found: supports and losses before each change and at the end, and the final posterior."""

    supports: Bool[np.ndarray, "p stretches d"]
    losses: Float[np.ndarray, "p stretches"]
    mu: Float[np.ndarray, "p d"]
    sigma: Float[np.ndarray, "p d"]

    @property
    def support(self) -> Bool[np.ndarray, "p d"]:
        """The final supports."""
        return self.supports[:, -1]

    @property
    def best(self) -> Bool[np.ndarray, "p d"]:
        """The supports of the lowest loss on the way."""
        return np.take_along_axis(self.supports, self.losses.argmin(1)[:, None, None], 1)[:, 0]


def problems(seed: int, n: int, correlation: float = 0.0) -> Problem:
    """Inputs of equal length, orthogonal unless a correlation is given, and outputs at weights from N(0, 1 / 4)."""
    rng = np.random.default_rng(seed)
    X = np.stack([np.linalg.qr(rng.normal(size=(N_ROWS, D)))[0] for _ in range(n)]) * np.sqrt(N_ROWS)
    mix = np.linalg.cholesky((1 - correlation) * np.eye(D) + correlation).T
    X = X @ mix
    theta = rng.normal(0, 0.5, (n, D))
    return Problem(X, np.einsum("pnd,pd->pn", X, theta) + rng.normal(size=(n, N_ROWS)))


def bound(X: np.ndarray, y: np.ndarray, support: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The best loss on a support, the mean and the standard deviations there: coordinates have variances 1 / A_ii."""
    Z = X[:, support]
    A = Z.T @ Z + np.eye(len(support)) / TAU**2
    mean = np.linalg.solve(A, Z.T @ y)
    # E|y - Z w|^2 / 2 + KL at the optimum; sigma^2 = 1 / A_ii is where its derivative vanishes.
    fit = 0.5 * (y @ y - mean @ (Z.T @ y))
    return fit + 0.5 * np.log(np.diag(A) * TAU**2).sum(), mean, 1 / np.sqrt(np.diag(A))


def search(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The best support of S weights of each problem and its loss, over all of them."""
    supports = [np.array(s) for s in itertools.combinations(range(D), S)]
    best, losses = np.zeros((len(problem.y), D), bool), np.zeros(len(problem.y))
    for p, (X, y) in enumerate(zip(problem.X, problem.y, strict=True)):
        values = [bound(X, y, s)[0] for s in supports]
        best[p, supports[int(np.argmin(values))]] = True
        losses[p] = min(values)
    return best, losses


def train(problem: Problem, seed: int, *, guarded: bool) -> Found:
    """Train all problems at once, each from its own random support."""
    keys = jax.random.split(jax.random.key(seed), len(problem.y))
    found = _trainer(guarded)(keys, jnp.asarray(problem.X, jnp.float32), jnp.asarray(problem.y, jnp.float32))
    return Found(*map(np.asarray, found))


@cache
def _trainer(guarded: bool):
    inner = optax.adam(optax.cosine_decay_schedule(0.03, STEPS))

    def one(key: Array, X: Array, y: Array) -> tuple[Array, ...]:
        hook = ssvi(
            inner,
            density=S / D,
            steps=STEPS,
            key=key,
            every=EVERY,
            alpha=0.6,
            guard=1.0 if guarded else None,
        )

        def loss(weight: GaussianWeight) -> Array:
            spread = (X**2).sum(0) @ weight.sigma[0] ** 2
            return 0.5 * (((y - X @ weight.mu[0]) ** 2).sum() + spread) + weight.kl()

        def step(carry: Any, _: None) -> tuple[Any, None]:
            weight, state = carry
            updates, state = hook.update(jax.grad(loss)(weight), state, weight)
            return (optax.apply_updates(weight, updates), state), None

        def stretch(carry: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
            # Changes come before a step, so that a stretch ends with its support.
            carry, _ = jax.lax.scan(step, carry, None, EVERY)
            weight, state = carry
            return carry, (state.mask[0], loss(weight))

        start: Any = GaussianWeight.from_sigma(jnp.zeros((1, D)), 0.1, TAU)
        carry: Any = start, hook.init(start)
        (weight, _), (supports, losses) = jax.lax.scan(stretch, carry, None, STEPS // EVERY)
        return supports, losses, weight.mu[0], weight.sigma[0]

    return jax.jit(jax.vmap(one))
