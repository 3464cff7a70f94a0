"""Metropolis-Hastings-Green from an involution, and reversible jump between models of different dimension.

A step from x draws auxiliary variables v from q(v | x), maps z = (x, v) by an involution f, f(f(z)) = z, to
z' = (x', v'), and accepts x' with probability

    min(1, pi(x') q(v' | x') / (pi(x) q(v | x)) * |det Df(z)|).

This leaves pi invariant. Hamiltonian Monte Carlo (leapfrog, then flip the momentum), the random walk
(x, v) -> (x + v, -v) and reversible jump are instances; `check_involution` tells whether an f is one.

x and v are pytrees. Their floating-point leaves are the continuous part, on which the Jacobian is taken; integer and
boolean leaves are labels, held fixed in it. A space of varying dimension is stored in arrays of fixed size: `active`
says which real entries count at a label, and all others are padding that no density may look at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from uqsparse.inference.jacobians import Map, log_abs_det
from uqsparse.inference.jumps import (
    Direction,
    Jump,
    JumpAuxiliary,
    JumpState,
    Model,
    check_jumps,
    directions_of,
    draw_tree,
    random_walk,
)
from uqsparse.inference.populations import Density, log_prob

__all__ = [
    "InvolutiveInfo",
    "InvolutiveKernel",
    "Jump",
    "JumpAuxiliary",
    "JumpState",
    "Model",
    "ReversibleJump",
    "involutive",
    "random_walk",
    "reversible_jump",
]


class InvolutiveInfo(NamedTuple):
    """What one step did.

    Attributes:
        accepted: whether the proposal was accepted, a boolean scalar.
        acceptance: the probability it was accepted with, a scalar; 0 where a density was NaN.
        log_ratio: log of the ratio in the acceptance probability, a scalar.
        log_det: log |det Df(z)|, a scalar.
        has_nan: whether the ratio was NaN because a density or the Jacobian was, a boolean scalar. Such a proposal
            is rejected, which is right for a density of zero, and hides an error otherwise.
        proposal: x', like x.
        auxiliary: v as drawn.
    """

    accepted: Bool[Array, ""]
    acceptance: Float[Array, ""]
    log_ratio: Float[Array, ""]
    log_det: Float[Array, ""]
    has_nan: Bool[Array, ""]
    proposal: PyTree
    auxiliary: PyTree


@dataclass(frozen=True)
class InvolutiveKernel:
    """A Markov kernel made from an involution; call it as `kernel(key, x)`. Made by `involutive`, which see."""

    f: Map
    log_target: Callable[[PyTree], Float[Array, ""]]
    auxiliary: Callable[[PyTree], PyTree]
    log_det: Callable[[PyTree, PyTree], Float[Array, ""]]
    active: Callable[[PyTree, PyTree], PyTree] | None = None

    @property
    def automatic(self) -> bool:
        """Whether the Jacobian is that of `f` by construction, not written by hand."""
        return isinstance(self.log_det, _AutomaticLogDet)

    def draw(self, key: Array, x: PyTree) -> PyTree:
        """Draw the auxiliary variables v given x."""
        return draw_tree(key, self.auxiliary(x))

    def __call__(self, key: Array, x: PyTree) -> tuple[PyTree, InvolutiveInfo]:
        """Move x once.

        Args:
            key: random key.
            x: a state; a batch of them through `jax.vmap`.

        Returns:
            The new state, and what happened.
        """
        key_draw, key_accept = jax.random.split(key)
        x = jax.tree.map(jnp.asarray, x)
        v = self.draw(key_draw, x)
        new_x, new_v = self.f(x, v)
        _check_like("x'", new_x, x)
        _check_like("v'", new_v, v)
        target, new_target = self.log_target(x), self.log_target(new_x)
        ahead, back = log_prob(self.auxiliary(x), v), log_prob(self.auxiliary(new_x), new_v)
        log_det = self.log_det(x, v)
        # From a state of density zero every proposal of positive density is taken, and none of density zero.
        current, proposed = target + ahead, new_target + back + log_det
        log_ratio = jnp.where(jnp.isneginf(proposed), -jnp.inf, proposed - current)
        has_nan = jnp.isnan(log_ratio)
        uniform = jax.random.uniform(key_accept, (), log_ratio.dtype)
        accepted = jnp.log(uniform) < log_ratio  # False for NaN
        probability = jnp.where(has_nan, 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
        # The proposal in x's own types, so that the step can be scanned.
        new_x = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), new_x, x)
        moved = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), new_x, x)
        return moved, InvolutiveInfo(accepted, probability, log_ratio, log_det, has_nan, new_x, v)


def involutive(
    f: Map,
    log_target: Callable[[PyTree], Float[Array, ""]],
    auxiliary: Callable[[PyTree], PyTree],
    *,
    log_det: Callable[[PyTree, PyTree], Float[Array, ""]] | None = None,
    active: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> InvolutiveKernel:
    """Make a Markov kernel that leaves a density invariant, from an involution.

    A step evaluates the target at x and at x', and f once; without `log_det` also d forward derivatives of f and a
    determinant of size d, the number of real entries of (x, v).

    Args:
        f: maps (x, v) to (x', v'), pytrees of the same structure and shapes; its own inverse.
        log_target: maps x to log pi(x) up to a constant, a scalar.
        auxiliary: maps x to the distribution of v: a NumPyro distribution, a `Density`, or a pytree of them.
        log_det: maps (x, v) to log |det Df|; None to have it computed by forward differentiation.
        active: maps (x, v) to booleans of the structure of (x, v): which real entries count, by the labels in it.
            What it says of labels is not looked at. None if all count.

    Returns:
        The kernel: `kernel(key, x)` gives the new state and an `InvolutiveInfo`. It works under `jit` and `scan`, and
        under `vmap` for many states.

    Source: Green (1995), Reversible jump Markov chain Monte Carlo computation, section 3; Tierney (1998), A note on
        Metropolis-Hastings kernels for general state spaces, section 2; Neklyudov, Welling, Egorov & Vetrov (2020),
        Involutive MCMC: a unifying framework.

    >>> import numpyro.distributions as dist
    >>> walk = involutive(lambda x, v: (x + v, -v), lambda x: -0.5 * x**2, lambda x: dist.Normal(0.0, 1.0))
    >>> x, info = jax.jit(walk)(jax.random.key(0), jnp.array(0.3))
    >>> float(info.log_det)
    0.0
    """
    for name, given in (("f", f), ("log_target", log_target), ("auxiliary", auxiliary)):
        if not callable(given):
            raise TypeError(f"{name} must be a function, got {type(given).__name__}")
    return InvolutiveKernel(f, log_target, auxiliary, log_det or _AutomaticLogDet(f, active), active)


@dataclass(frozen=True)
class _AutomaticLogDet:
    """log |det Df| by forward differentiation; a record, so that two kernels of the same parts are equal."""

    f: Map
    active: Callable[[PyTree, PyTree], PyTree] | None

    def __call__(self, x: PyTree, v: PyTree) -> Float[Array, ""]:
        return log_abs_det(self.f, x, v, self.active)


def _check_like(name, new, old):
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise ValueError(
            f"f must return {name} with the structure it gets: {jax.tree.structure(old)}, got {jax.tree.structure(new)}"
        )
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(f"f must return {name} with the shapes it gets: {jnp.shape(b)}, got {jnp.shape(a)}")


@dataclass(frozen=True)
class ReversibleJump(InvolutiveKernel):
    """A Markov kernel on several models; call it as `kernel(key, state)`. Made by `reversible_jump`, which see."""

    dims: tuple[int, ...] = ()

    def start(self, model: int, position: Float[Any, " dim"]) -> JumpState:
        """The state of a model with given parameters.

        Raises:
            ValueError: there is no such model, or it has another number of parameters.
        """
        if not 0 <= model < len(self.dims):
            raise ValueError(f"model must be an index below {len(self.dims)}, got {model}")
        position = jnp.asarray(position, float)
        if position.shape != (self.dims[model],):
            raise ValueError(f"position must have shape ({self.dims[model]},) in model {model}, got {position.shape}")
        return JumpState(jnp.asarray(model), jnp.pad(position, (0, max(self.dims) - self.dims[model])))


def reversible_jump(models: Sequence[Model], jumps: Sequence[Jump]) -> ReversibleJump:
    """Make a Markov kernel that moves between models of different dimension and leaves their joint law invariant.

    A step chooses one of the jumps that leave from the present model, with their probabilities, or none with the
    probability that is left. Jacobians are computed, over the parameters and the u of the jump alone. Moves within a
    model are jumps too (`random_walk`); any other kernel that leaves a model's density invariant may be run in turn.

    Args:
        models: at least one.
        jumps: at least one.

    Returns:
        The kernel: `kernel.start(model, position)` gives a state and `kernel(key, state)` moves it once. The share of
        time in each model estimates its posterior probability.

    Raises:
        ValueError: an index or a probability is out of range, the probabilities in a model exceed one, dimensions do
            not match, or an inverse is missing.

    Source: Green (1995), Reversible jump Markov chain Monte Carlo computation and Bayesian model determination,
        section 3.3 (dimension matching); Hastie & Green (2012), Model choice using reversible jump Markov chain Monte
        Carlo, section 2.
    """
    models, jumps = tuple(models), tuple(jumps)
    check_jumps(models, jumps)
    dims = tuple(model.dim for model in models)
    chances = np.zeros((len(models), len(jumps) + 1))
    # The last direction is to stay; `table` says which direction a move takes in a model.
    directions: list[Direction] = []
    table = np.full((len(jumps) + 1, len(models)), -1)
    for number, jump in enumerate(jumps):
        for direction, probability in directions_of(jump, dims, number):
            table[number, direction.source] = len(directions)
            chances[direction.source, number] = probability
            directions.append(direction)
    table[table < 0] = len(directions)
    chances[:, -1] = np.maximum(1 - chances.sum(axis=1), 0)
    chances[chances < 1e-12] = 0
    with np.errstate(divide="ignore"):
        log_chances = np.log(chances)
    n_reals = max(one.n_reals for one in directions)
    n_labels = max(one.n_labels for one in directions)
    counts = np.array([one.n_reals for one in directions] + [0])

    def choose(branches, x, v_move, *operands):
        return jax.lax.switch(jnp.asarray(table)[v_move, x.model], branches, *operands)

    def f(x, v):
        def along(one):
            def branch(position, reals, labels):
                point = jnp.concatenate([position[: one.d_in], reals[: one.n_reals]])
                image, new_labels = one.apply(point, labels[: one.n_labels])
                padding = jnp.concatenate([position[one.d_in :], reals[one.n_reals :]])
                spare = max(dims) - one.d_out
                return (
                    jnp.asarray(one.target, x.model.dtype),
                    jnp.concatenate([image[: one.d_out], padding[:spare]]),
                    jnp.concatenate([image[one.d_out :], padding[spare:]]),
                    jnp.pad(new_labels, (0, n_labels - new_labels.size)),
                )

            return branch

        def stay(position, reals, labels):
            return x.model, position, reals, labels

        x = JumpState(jnp.asarray(x.model), x.position)
        branches = [along(one) for one in directions] + [stay]
        model, position, reals, labels = choose(branches, x, v.move, x.position, v.reals, v.labels)
        return JumpState(model, position), JumpAuxiliary(v.move, reals, labels)

    def log_det(x, v):
        def along(one):
            def branch(position, reals, labels):
                point = jnp.concatenate([position[: one.d_in], reals[: one.n_reals]])
                matrix = jax.jacfwd(lambda p: one.apply(p, labels[: one.n_labels])[0])(point)
                return jnp.linalg.slogdet(matrix)[1] if matrix.size else jnp.zeros((), position.dtype)

            return branch

        branches = [*(along(one) for one in directions), lambda position, *_: jnp.zeros((), position.dtype)]
        return choose(branches, x, v.move, x.position, v.reals, v.labels)

    def log_target(x):
        def of(model):
            return lambda position: _scalar(model.log_density(position[: model.dim]), position.dtype)

        return jax.lax.switch(x.model, [of(model) for model in models], x.position)

    def auxiliary(x):
        def draws(one):
            def branch(key):
                reals, labels = one.draw(key, x.position[: one.d_in])
                reals = jnp.pad(reals.astype(x.position.dtype), (0, n_reals - reals.size))
                return reals, jnp.pad(labels, (0, n_labels - labels.size))

            return branch

        def nothing(key):
            return jnp.zeros(n_reals, x.position.dtype), jnp.zeros(n_labels, jnp.int32)

        def weighs(one):
            def branch(reals, labels):
                value = one.log_prob(x.position[: one.d_in], reals[: one.n_reals], labels[: one.n_labels])
                return _scalar(value, x.position.dtype)

            return branch

        def sample(key):
            key_move, key_u = jax.random.split(key)
            move = jax.random.categorical(key_move, jnp.asarray(log_chances, x.position.dtype)[x.model])
            return JumpAuxiliary(move, *choose([draws(one) for one in directions] + [nothing], x, move, key_u))

        def density(v):
            branches = [*(weighs(one) for one in directions), lambda reals, labels: jnp.zeros((), x.position.dtype)]
            chance = jnp.asarray(log_chances, x.position.dtype)[x.model, v.move]
            return chance + choose(branches, x, v.move, v.reals, v.labels)

        return Density(sample, density)

    def active(x, v):
        in_position = jnp.arange(max(dims)) < jnp.asarray(dims)[x.model]
        in_reals = jnp.arange(n_reals) < jnp.asarray(counts)[jnp.asarray(table)[v.move, x.model]]
        return JumpState(True, in_position), JumpAuxiliary(True, in_reals, True)  # pyright: ignore[reportArgumentType]

    return ReversibleJump(f, log_target, auxiliary, log_det, active, dims)


def _scalar(value, dtype):
    return jnp.asarray(value).astype(dtype).reshape(())
