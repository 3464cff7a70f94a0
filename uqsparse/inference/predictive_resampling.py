"""Predictive resampling: posterior samples from simulated futures, without a prior or a likelihood.

What is not known about a parameter is what is not known about the observations still to come: with all of them it could
be computed. So each sample continues the data by a long future, drawn one observation at a time from a predictive that
learns from every draw, and evaluates the parameter as a functional of the law at the end:

    for each sample:   state = init(data)
                       N times:  y ~ sample(state),  state = update(state, y)
                       theta = functional(state)

For the predictive of a Bayesian model this is its posterior. It makes sense for every predictive that is a martingale,
E[p_{i+1}(y) | y_1, ..., y_i] = p_i(y), which `check_martingale` tests.

Sources: Fong, Holmes & Walker (2023), Martingale posterior distributions; Doob (1949), Application of the theory of
martingales.
"""

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from uqsparse.inference.martingale_result import MartingalePosterior, collect, exact
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.predictive_rules import (
    Predictive,
    advance,
    count_observations,
    generator,
    is_compiled,
    observation,
    require_predictive,
    settled,
    step,
    traceable,
)
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction

Law = Literal["predictive", "empirical"]

# Numbers in the states of the samples that run together, unless a batch size is given.
_BATCH_NUMBERS = 2**22
_MIN_FIRST_HORIZON = 8
_MAX_HORIZONS = 12


def martingale_posterior(
    key: Array,
    predictive: Predictive,
    data: Any,
    functional: Callable[..., PyTree],
    n_forward: float = 2000,
    n_samples: int = 1000,
    *,
    law: Law = "predictive",
    tail_correction: bool = False,
    tolerance: float = 0.05,
    batch_size: int | None = None,
    progress: bool = False,
) -> MartingalePosterior:
    """Sample a functional of the law behind the data, by simulating the observations that are missing.

    Runs in double precision whatever JAX's flag says and returns NumPy arrays. Sample b is the same for every number
    of samples and batch size, and its future starts with the same draws for every horizon.

    Args:
        key: random key, typed or legacy.
        predictive: one-step predictive with `init`, `sample` and `update`, such as `BayesianBootstrap()`,
            `ConjugatePredictive.normal_normal(...)`, `PlugInPredictive(...)`, `CopulaPredictive(...)`,
            `IncrementalPredictive(...)` or your own: see `Predictive`.
        data: observations, an array or a pytree of arrays with leading axis n. None where the predictive starts from
            a prior alone.
        functional: function of the state to a pytree of numbers; or, with `law="empirical"`, of the atoms and their
            weights.
        n_forward: length N of each future, at least 1; `math.inf` for the limit itself, where the predictive can draw
            it (`BayesianBootstrap`, `DirichletProcess`, `ConjugatePredictive`).
        n_samples: number B of samples, at least 2.
        law: "predictive" hands the last state to the functional. "empirical" hands it all observations, given and
            drawn, with weights that add up to one (zero for those yet to come); a sample then keeps its n + N
            observations.
        tail_correction: add a Gaussian draw of what the functional would still move behind the horizon. It can leave
            the functional's range a little.
        tolerance: largest share by which the standard deviation may be too small, in (0, 1), before it is warned about.
        batch_size: samples that run together; bounds memory. Chosen by the size of a state if left out.
        progress: show a bar.

    Returns:
        A `MartingalePosterior`: samples of the functional, and its convergence along the horizon.

    Raises:
        TypeError: `predictive` lacks a method, or `functional` is no function.
        ValueError: an argument is out of range, the data are not finite, the predictive has no limit or no
            observations to return, or the functional is not finite.

    Warns:
        UserWarning: if the horizon is too short for the tolerance, and no correction was asked for.

    Source: Fong, Holmes & Walker (2023), predictive resampling.

    >>> from uqsparse.inference.conjugate_predictives import ConjugatePredictive
    >>> coin = ConjugatePredictive.beta_bernoulli(1.0, 1.0)
    >>> found = martingale_posterior(jax.random.key(0), coin, np.array([1, 1, 0]), lambda s: s.mean, 500, 400)
    >>> bool(abs(found.samples.mean() - 0.6) < 0.05)  # the posterior is Beta(3, 2)
    True
    """
    key = typed(key)
    require_predictive(predictive)
    if not callable(functional):
        raise TypeError(f"functional must be a function, got {type(functional).__name__}")
    is_limit = isinstance(n_forward, float) and math.isinf(n_forward) and n_forward > 0
    if not is_limit:
        require_count("n_forward", n_forward, 1)
    require_count("n_samples", n_samples, 2)
    require_fraction("tolerance", tolerance)
    if batch_size is not None:
        require_count("batch_size", batch_size, 1)
    if law not in ("predictive", "empirical"):
        raise ValueError(f"law must be 'predictive' or 'empirical', got {law!r}")
    if law == "empirical" and not getattr(predictive, "draws_are_data", True):
        raise ValueError(f"law='empirical' needs draws of observations; {type(predictive).__name__} draws ranks")
    if is_limit and not callable(getattr(predictive, "limit", None)):
        raise ValueError(f"n_forward must be finite: {type(predictive).__name__} has no method limit(key, state)")
    if is_limit and law == "empirical" and not callable(getattr(predictive, "empirical", None)):
        raise ValueError("law='empirical' needs a finite n_forward with this predictive")
    n_data = count_observations(data)
    horizons = np.zeros(0, int) if is_limit else _horizons(int(n_forward))

    with jax.enable_x64(True), progress_bar(progress, "predictive resampling", 1.0):
        run = _run if is_compiled(predictive) else _run_on_host
        arguments = (predictive, data, functional, horizons, n_samples, law, batch_size, progress)
        start, path = retry_after_precision_clash(lambda: run(key, *arguments))
    _require_finite(start, path)
    if is_limit:
        return exact(jax.tree.map(lambda values: values[0], path), start, n_data)
    tail_noise = generator(key, n_samples) if tail_correction else None
    result = collect(path, start, horizons, n_data, tail_noise, tolerance)
    if not result.converged:
        warnings.warn(
            f"futures of {n_forward} draws are short for {n_data} observations: standard deviations are about "
            f"{result.sd_shortfall:.0%} too small. Take more draws, or tail_correction=True",
            stacklevel=2,
        )
    return result


def _horizons(n_forward: int) -> np.ndarray:
    """The whole horizon, its half, its quarter, and so on."""
    found = [n_forward]
    while len(found) < _MAX_HORIZONS and found[-1] // 2 >= min(_MIN_FIRST_HORIZON, max(1, n_forward // 2)):
        found.append(found[-1] // 2)
    return np.array(found[::-1])


def _run(key, predictive, data, functional, horizons, n_samples, law, batch_size, progress):
    """The functional at the start, and its path with axes (horizon, sample), by compiled programs."""
    state = predictive.init(data)
    rule = traceable(predictive)
    records = law == "empirical" and getattr(rule, "empirical", None) is None
    if not len(horizons):
        state = jax.tree.map(jnp.asarray, state)
    elif records:
        state = (settled(rule, key, state), *_buffer(rule, key, state, data, int(horizons[-1])))
    else:
        state = settled(rule, key, state)
    read = _Reader(functional, law, records)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state))
    size = min(n_samples, batch_size or max(1, _BATCH_NUMBERS // max(numbers, 1)))
    start, paths, total = None, [], max([1, *horizons])
    chunk = -(-total // 32) if progress else total
    for batch, first in enumerate(range(0, n_samples, size)):
        # The last batch is filled up, so that one program serves all.
        keys, states = _keys(key, np.asarray(first), size), _spread(state, size)
        if start is None:
            start = jax.tree.map(lambda leaf: np.asarray(leaf)[0], jax.device_get(_evaluate(read, rule, states)))
        rows = [] if len(horizons) else [_evaluate(read, rule, _limits(rule, keys, states))]
        for low, high in zip(np.r_[0, horizons][:-1], horizons, strict=True):
            for begin in range(low, high, chunk):
                end = min(high, begin + chunk)
                states = _advance(rule, keys, states, np.asarray(begin), np.asarray(end), records)
                advance_bar((batch + end / total) * size / n_samples, f"{end} draws")
            rows.append(_evaluate(read, rule, states))
        paths.append(jax.tree.map(lambda *values: np.stack(values), *jax.device_get(rows)))
    joined = jax.tree.map(lambda *values: np.concatenate(values, axis=1)[:, :n_samples], *paths)
    return start, joined


class _Reader(eqx.Module):
    """Evaluates the functional on what a sample carries."""

    functional: Callable[..., PyTree]
    law: Law = eqx.field(static=True)
    records: bool = eqx.field(static=True)

    def __call__(self, rule: Any, carried: PyTree) -> PyTree:
        if self.law == "predictive":
            found = self.functional(carried)
        elif self.records:
            _, atoms, count = carried
            length = jax.tree.leaves(atoms)[0].shape[0]
            found = self.functional(atoms, jnp.where(jnp.arange(length) < count, 1.0 / count, 0.0))
        else:
            found = self.functional(*rule.empirical(carried))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), found)


@partial(jax.jit, static_argnums=2)
def _keys(key: Array, first: Any, size: int) -> Array:
    """Keys of a batch of samples."""
    return jax.vmap(lambda b: jax.random.fold_in(key, b))(first + jnp.arange(size))


@partial(jax.jit, static_argnums=1)
def _spread(state: PyTree, size: int) -> PyTree:
    """The first state, once for each sample of a batch."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), state)


@eqx.filter_jit
def _evaluate(read: _Reader, rule: Any, states: PyTree) -> PyTree:
    return jax.vmap(lambda state: read(rule, state))(states)


@eqx.filter_jit
def _limits(rule: Any, keys: Array, states: PyTree) -> PyTree:
    return jax.vmap(rule.limit)(keys, states)


@eqx.filter_jit
def _advance(rule: Any, keys: Array, states: PyTree, first: Any, last: Any, records: bool) -> PyTree:
    def keep(i, key, carried):
        state, atoms, count = carried
        draw, state = step(rule, key, state, i)
        draw = observation(rule, draw)
        atoms = jax.tree.map(lambda all_, one: all_.at[count].set(jnp.asarray(one).astype(all_.dtype)), atoms, draw)
        return state, atoms, count + 1

    def one(key, carried):
        if not records:
            return advance(rule, key, carried, first, last)
        return jax.lax.fori_loop(first, last, lambda i, now: keep(i, key, now), carried)

    return jax.vmap(one)(keys, states)


def _buffer(rule: Any, key: Array, state: PyTree, data: Any, n_forward: int) -> tuple[PyTree, Array]:
    """Room for all observations, those given in front, and their number."""
    draw = jax.eval_shape(lambda k, s: observation(rule, rule.sample(k, s)), key, jax.tree.map(jnp.asarray, state))
    given = jax.tree.map(np.asarray, data)
    same = jax.tree.structure(draw) == jax.tree.structure(given) and all(
        one.shape == all_.shape[1:] for one, all_ in zip(jax.tree.leaves(draw), jax.tree.leaves(given), strict=True)
    )
    if not same:
        raise ValueError("law='empirical' needs draws of the same form as one observation of the data")

    def room(one, all_):
        dtype = jnp.promote_types(one.dtype, all_.dtype)
        return jnp.concatenate([jnp.asarray(all_, dtype), jnp.zeros((n_forward, *one.shape), dtype)])

    return jax.tree.map(room, draw, given), jnp.asarray(count_observations(data))


def _run_on_host(key, predictive, data, functional, horizons, n_samples, law, batch_size, progress):
    """The same in Python, for predictives that cannot be compiled; one sample after the other."""
    first = predictive.init(data)
    keeps = law == "empirical" and not callable(getattr(predictive, "empirical", None))

    def evaluate(state, drawn):
        if law == "predictive":
            found = functional(state)
        elif not keeps:
            found = functional(*predictive.empirical(state))
        else:
            atoms = jax.tree.map(lambda all_, *more: np.concatenate([all_, np.asarray(more)]) if more else all_,
                                 jax.tree.map(np.asarray, data), *drawn)  # fmt: skip
            length = count_observations(data) + len(drawn)
            found = functional(atoms, np.full(length, 1.0 / length))
        return jax.tree.map(lambda leaf: np.array(leaf, float), found)

    start = evaluate(copy.deepcopy(first), [])
    samples = []
    for b in range(n_samples):
        state, rng, row, drawn = copy.deepcopy(first), generator(key, b), [], []
        if not len(horizons):
            row.append(evaluate(predictive.limit(rng, state), []))
        for i in range(horizons[-1] if len(horizons) else 0):
            draw = predictive.sample(rng, state)
            state = predictive.update(state, draw)
            if keeps:
                drawn.append(observation(predictive, draw))
            if i + 1 in horizons:
                row.append(evaluate(state, drawn))
        samples.append(jax.tree.map(lambda *values: np.stack(values), *row))
        advance_bar((b + 1) / n_samples, f"{b + 1} samples")
    return start, jax.tree.map(lambda *values: np.stack(values, axis=1), *samples)


def _require_finite(start: PyTree, path: PyTree) -> None:
    if any(not np.isfinite(leaf).all() for leaf in jax.tree.leaves(start)):
        raise ValueError("functional is NaN or infinite at the predictive that the data give")
    leaves = jax.tree.leaves(path)
    if not leaves or not sum(leaf.size for leaf in leaves):
        raise ValueError("functional must return at least one number, got none")
    good = np.all([np.isfinite(leaf).reshape(*leaf.shape[:2], -1).all(axis=(0, 2)) for leaf in leaves], axis=0)
    if n_bad := np.count_nonzero(~good):
        raise ValueError(f"functional is NaN or infinite in {n_bad} of {good.size} samples")
