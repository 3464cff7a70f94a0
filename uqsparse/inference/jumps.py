"""Jumps between models of different dimension: what a user states, and the maps on vectors that it amounts to.

`reversible_jump` in `involutive` makes a Markov kernel of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from uqsparse.inference.populations import Density, distributions_in, is_distribution, log_prob


class Model(NamedTuple):
    """One of the models a reversible jump moves between.

    Args:
        dim: number of its parameters, at least 0.
        log_density: maps parameters (dim,) to log(p(data, parameters | model) p(model)), a scalar, up to a constant
            that all models share; minus infinity outside the support.
    """

    dim: int
    log_density: Callable[[Float[Array, " dim"]], Float[Array, ""]]


@dataclass(frozen=True)
class Jump:
    """A pair of moves between two models, each the way back of the other: split and merge, birth and death.

    Dimensions must match: the source's parameters and u have together as many reals as the target's parameters and
    u'. Integer entries of u and u', such as which component is split, do not count.

    Args:
        source: index of the model it starts in.
        target: index of the model it leads to. If it is the source, `forward` must be an involution (x, u) -> (x', u').
        auxiliary: maps source parameters to the distribution of u: a NumPyro distribution, a `Density`, or a pytree of
            them. None if there is no u.
        forward: maps (parameters, u), or the parameters alone if there is no u, to the target's parameters; with
            `reverse_auxiliary` to the pair (parameters, u').
        inverse: the way back: maps the target's parameters, with `reverse_auxiliary` also u', to the pair (parameters,
            u), or to the parameters alone if there is no u. None if `forward` is affine: then it is solved for.
        reverse_auxiliary: maps target parameters to the distribution of u'. None if there is no u'.
        probability: of choosing this move in the source, in (0, 1].
        reverse_probability: of choosing the way back in the target; None for the same.
    """

    source: int
    target: int
    auxiliary: Callable[[Float[Array, " d"]], PyTree] | None
    forward: Callable[..., Any]
    inverse: Callable[..., Any] | None = None
    reverse_auxiliary: Callable[[Float[Array, " d"]], PyTree] | None = None
    probability: float = 0.5
    reverse_probability: float | None = None


def random_walk(model: int, dim: int, scale: Any = 1.0, probability: float = 0.5) -> Jump:
    """A Gaussian random walk within one model, as a move of `reversible_jump`.

    Args:
        model: index of the model.
        dim: number of its parameters.
        scale: standard deviations, positive, a scalar or (dim,).
        probability: of choosing this move in that model.
    """

    def step(x):
        # Up to a constant, which is the same at both ends.
        return Density(
            lambda key: scale * jax.random.normal(key, (dim,), x.dtype), lambda v: -0.5 * jnp.sum((v / scale) ** 2)
        )

    return Jump(model, model, step, lambda x, v: (x + v, -v), probability=probability)


class JumpState(NamedTuple):
    """A model and its parameters, padded with zeros to those of the largest model.

    Attributes:
        model: index of the model, an integer scalar.
        position: parameters, then zeros, shape (max_dim,).
    """

    model: Int[Array, ""]
    position: Float[Array, " max_dim"]


class JumpAuxiliary(NamedTuple):
    """What a reversible jump draws.

    Attributes:
        move: index of the jump chosen, an integer scalar; the number of jumps if none was.
        reals: real entries of u, then zeros.
        labels: integer entries of u, then zeros.
    """

    move: Int[Array, ""]
    reals: Float[Array, " n_reals"]
    labels: Int[Array, " n_labels"]


class Direction(NamedTuple):
    """One way of a jump: its map on vectors, and the law of what it draws. Sizes count reals."""

    source: int
    target: int
    d_in: int
    n_reals: int
    n_labels: int
    d_out: int
    apply: Callable[..., Any]  # (point, labels) -> (image, labels)
    draw: Callable[..., Any]  # (key, parameters) -> (reals, labels)
    log_prob: Callable[..., Any]  # (parameters, reals, labels) -> scalar


def directions_of(jump: Jump, dims, number):
    """The directions of a jump with their probabilities: both, or one within a model."""
    d_from, d_to = dims[jump.source], dims[jump.target]
    within = jump.source == jump.target
    behind = jump.auxiliary if within else jump.reverse_auxiliary
    ahead_u, back_u = _Packing(jump.auxiliary, d_from), _Packing(behind, d_to)
    name = f"jump {number} ({jump.source} -> {jump.target})"
    if d_from + ahead_u.n_reals != d_to + back_u.n_reals:
        raise ValueError(
            f"{name}: dimensions must match, but {d_from} parameters and {ahead_u.n_reals} reals of u go in, "
            f"{d_to} parameters and {back_u.n_reals} reals of u' come out"
        )
    forward = _on_vectors(jump.forward, d_from, ahead_u, d_to, back_u, f"{name}: forward")
    ahead = Direction(
        jump.source,
        jump.target,
        d_from,
        ahead_u.n_reals,
        ahead_u.n_labels,
        d_to,
        forward,
        ahead_u.draw,
        ahead_u.log_prob,
    )
    if within:
        return [(ahead, jump.probability)]
    if jump.inverse is None:
        _check_affine(forward, d_from + ahead_u.n_reals, ahead_u.n_labels + back_u.n_labels, name)
        backward = _affine_inverse(forward)
    else:
        backward = _on_vectors(jump.inverse, d_to, back_u, d_from, ahead_u, f"{name}: inverse")
    back = Direction(
        jump.target, jump.source, d_to, back_u.n_reals, back_u.n_labels, d_from, backward, back_u.draw, back_u.log_prob
    )
    chance = jump.probability if jump.reverse_probability is None else jump.reverse_probability
    return [(ahead, jump.probability), (back, chance)]


class _Packing:
    """The values of one auxiliary distribution as a vector of reals and a vector of labels."""

    def __init__(self, auxiliary, dim: int):
        self.auxiliary = auxiliary
        self.template: Any = ()
        if auxiliary is not None:
            parameters = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))
            self.template = jax.eval_shape(lambda key, x: draw_tree(key, auxiliary(x)), jax.random.key(0), parameters)
        leaves = jax.tree.leaves(self.template)
        self.is_real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
        self.n_reals = sum(math.prod(leaf.shape) for leaf, real in zip(leaves, self.is_real, strict=True) if real)
        self.n_labels = sum(math.prod(leaf.shape) for leaf in leaves) - self.n_reals

    def pack(self, u):
        leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.structure(self.template).flatten_up_to(u)]
        reals = [leaf for leaf, real in zip(leaves, self.is_real, strict=True) if real]
        labels = [leaf.astype(jnp.int32) for leaf, real in zip(leaves, self.is_real, strict=True) if not real]
        return (
            jnp.concatenate(reals) if reals else jnp.zeros(0),
            jnp.concatenate(labels) if labels else jnp.zeros(0, jnp.int32),
        )

    def unpack(self, reals, labels):
        leaves, structure = jax.tree.flatten(self.template)
        values, at = [], {True: 0, False: 0}
        for leaf, real in zip(leaves, self.is_real, strict=True):
            size = math.prod(leaf.shape)
            part = (reals if real else labels)[at[real] : at[real] + size].reshape(leaf.shape)
            values.append(part if real else part.astype(leaf.dtype))
            at[real] += size
        return jax.tree.unflatten(structure, values)

    def draw(self, key, x):
        return self.pack(() if self.auxiliary is None else draw_tree(key, self.auxiliary(x)))

    def log_prob(self, x, reals, labels):
        if self.auxiliary is None:
            return jnp.zeros((), x.dtype)
        return log_prob(self.auxiliary(x), self.unpack(reals, labels))


def _on_vectors(function, d_in: int, u: _Packing, d_out: int, new_u: _Packing, name: str):
    """A user's map between parameters and u, as a map of vectors; its shapes are checked once."""

    def apply(point, labels):
        arguments = () if u.auxiliary is None else (u.unpack(point[d_in:], labels),)
        out = function(point[:d_in], *arguments)
        parameters, rest = (out, ()) if new_u.auxiliary is None else out
        parameters = jnp.ravel(jnp.asarray(parameters))
        reals, new_labels = new_u.pack(rest)
        if parameters.size != d_out or reals.size != new_u.n_reals:
            raise ValueError(
                f"{name} must return {d_out} parameters and {new_u.n_reals} reals beside them, "
                f"got {parameters.size} and {reals.size}"
            )
        return jnp.concatenate([parameters, reals]).astype(point.dtype), new_labels

    point = jax.ShapeDtypeStruct((d_in + u.n_reals,), jnp.result_type(float))
    jax.eval_shape(apply, point, jax.ShapeDtypeStruct((u.n_labels,), jnp.int32))
    return apply


def _affine_inverse(forward):
    def backward(image, labels):
        zero = jnp.zeros_like(image)
        shift = forward(zero, labels)[0]
        matrix = jax.jacfwd(lambda p: forward(p, labels)[0])(zero)
        return jnp.linalg.solve(matrix, image - shift), labels

    return backward


def _check_affine(forward, size: int, n_labels: int, name: str) -> None:
    if n_labels:
        raise ValueError(f"{name}: inverse must be given, since u holds labels")
    # A kernel may be made while something else is traced; this look at forward is not part of that.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        points = jnp.asarray(np.random.default_rng(0).normal(size=(3, size)) * 3)
        labels = jnp.zeros(0, jnp.int32)
        shift = forward(jnp.zeros(size), labels)[0]
        matrix = jax.jacfwd(lambda p: forward(p, labels)[0])(jnp.zeros(size))
        images = jax.vmap(lambda p: forward(p, labels)[0])(points)
        error = jnp.max(jnp.abs(images - points @ matrix.T - shift), initial=0.0)
        if isinstance(error, Tracer):
            raise ValueError(f"{name}: inverse must be given, since forward depends on traced values")
        linear = float(error) < 1e-5 * (1 + float(jnp.max(jnp.abs(matrix), initial=0.0)))
        if not (linear and np.linalg.matrix_rank(np.asarray(matrix)) == size):
            raise ValueError(f"{name}: inverse must be given, since forward is not affine and invertible")


def check_jumps(models, jumps) -> None:
    if not models or not jumps:
        raise ValueError("models and jumps must each hold at least one")
    for i, model in enumerate(models):
        if not (isinstance(model.dim, int) and model.dim >= 0):
            raise ValueError(f"models[{i}].dim must be an integer of at least 0, got {model.dim}")
    total = np.zeros(len(models))
    for i, jump in enumerate(jumps):
        for name, index in (("source", jump.source), ("target", jump.target)):
            if not 0 <= index < len(models):
                raise ValueError(f"jumps[{i}].{name} must be an index below {len(models)}, got {index}")
        chance = jump.probability if jump.reverse_probability is None else jump.reverse_probability
        for name, value in (("probability", jump.probability), ("reverse_probability", chance)):
            if not 0 < value <= 1:
                raise ValueError(f"jumps[{i}].{name} must lie in (0, 1], got {value}")
        if jump.source == jump.target:
            if jump.inverse is not None or jump.reverse_auxiliary is not None or jump.reverse_probability is not None:
                raise ValueError(f"jumps[{i}] stays in model {jump.source}: it is its own way back, so give it none")
        else:
            total[jump.target] += chance
        total[jump.source] += jump.probability
    if np.any(total > 1 + 1e-9):
        worst = int(np.argmax(total))
        raise ValueError(f"the probabilities of the jumps that leave model {worst} sum to {total[worst]:g}, above 1")


def draw_tree(key, tree):
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_distribution)
    distributions_in(tree)  # names a leaf that is none
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(structure, [one.sample(k) for one, k in zip(leaves, keys, strict=False)])
