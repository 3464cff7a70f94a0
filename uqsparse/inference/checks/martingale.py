"""Is a predictive a martingale, so that simulating its future makes sense?

A sequence of predictives is one if and only if the observations that it draws are conditionally identically
distributed: given the past, the next observation and every later one have the same law. So a bounded function of the
draw after next may not differ, on average, from that of the next draw, whatever the past; and a functional that is
linear in the predictive may not drift. Both are tested over many futures, also weighted by what a future has shown so
far, since a rule that pulls back to the centre drifts nowhere on average.

Sources: Berti, Pratelli & Rigo (2004), Limit theorems for a class of identically distributed random variables; Fong,
Holmes & Walker (2023), Martingale posterior distributions; Shafer (2021), Testing by betting.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.special import log_ndtr, ndtri

from uqsparse.inference.checks.eprocess import bet, combine, log_mean, mean_radius, no_bets, stop_at_crossing
from uqsparse.inference.checks.verdict import Counterexample, Verdict
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
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction

_HOST_BUDGET = 1000
_BUDGET = 20_000


def check_martingale(
    key: Array,
    predictive: Predictive,
    data: Any,
    functional: Callable[[Any], PyTree] | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    n_steps: int = 32,
    alpha: float = 1e-5,
    budget: int | None = None,
    batch_size: int = 2048,
    subject: str = "",
) -> Verdict:
    """Test that a predictive is a martingale (its draws are conditionally identically distributed), from given data.

    Without a functional it compares the first draw with the last one of each future, in squashed values of every
    number in a draw, and its square. This is an e-process: the level holds exactly, and it stops once it rejects.
    With a functional it tests the mean change of its values, which is far sharper. That needs a functional that is
    linear in the predictive: a mean, a probability, a density at a point; a median or a variance may drift.

    Args:
        key: random key.
        predictive: the one-step predictive.
        data: observations to start from, as for `martingale_posterior`.
        functional: function of the state, linear in the predictive, to a pytree of numbers; or None.
        bounds: lowest and highest value of the functional, e.g. (0, 1) for probabilities, if known. Then the level
            holds exactly, by an e-process. Without, it holds as far as mean changes are normal: leave out
            entries that hardly ever change, such as densities in far tails.
        n_steps: length of a future, at least 3. Longer ones show weaker drifts.
        alpha: probability of rejecting a martingale, in (0, 1).
        budget: most futures; 20,000 if left out, and 1,000 for a predictive that runs in Python.
        batch_size: futures at a time.
        subject: what the verdict is about.

    Returns:
        The verdict. Its evidence is the log of an e-value; of one over a Bonferroni-corrected p-value with a functional
        without bounds. The counter-example is the statistic that drifts most clearly.

    Raises:
        TypeError: `predictive` lacks a method, or `functional` is no function.
        ValueError: an argument is out of range, the predictive's draws are ranks and there is no functional, or values
            are not finite, or outside the bounds.

    Source: Berti, Pratelli & Rigo (2004), conditional identity in distribution.

    >>> from uqsparse.inference.conjugate_predictives import ConjugatePredictive
    >>> coin = ConjugatePredictive.beta_bernoulli(1.0, 1.0)
    >>> check_martingale(jax.random.key(0), coin, np.array([1, 1, 0]), lambda s: s.mean, budget=2000).ok
    True
    """
    key = typed(key)
    require_predictive(predictive)
    if functional is not None and not callable(functional):
        raise TypeError(f"functional must be a function or None, got {type(functional).__name__}")
    if functional is None and not getattr(predictive, "draws_are_data", True):
        raise ValueError(
            f"{type(predictive).__name__} draws ranks, which say nothing: give a functional, e.g. lambda s: s.density"
        )
    if bounds is not None and (functional is None or not bounds[0] < bounds[1]):
        raise ValueError(f"bounds must be an increasing pair of numbers for a functional, got {bounds}")
    require_count("n_steps", n_steps, 3)
    require_fraction("alpha", alpha)
    if budget is None:
        budget = _BUDGET if is_compiled(predictive) else _HOST_BUDGET
    require_count("budget", budget, 8)
    require_count("batch_size", batch_size, 8)
    batch_size = min(batch_size, budget)
    count_observations(data)
    subject = subject or f"{type(predictive).__name__} is a martingale"

    with jax.enable_x64(True):
        return retry_after_precision_clash(
            lambda: _test(key, predictive, data, functional, bounds, n_steps, alpha, budget, batch_size, subject)
        )


class _Futures(NamedTuple):
    """Three looks at each of n futures: at p numbers at its start, in between, and at its end, (n, p) each."""

    start: Float[np.ndarray, "n p"]
    middle: Float[np.ndarray, "n p"]
    end: Float[np.ndarray, "n p"]


def _test(key, predictive, data, functional, bounds, n_steps, alpha, budget, batch_size, subject) -> Verdict:
    simulate, names = _simulator(key, predictive, data, functional, n_steps, batch_size)
    names = [f"{kind} of {name}" for kind in ("change", "weighted change") for name in names]
    if functional is not None and bounds is None:
        looks = [simulate(first, min(batch_size, budget - first)) for first in range(0, budget, batch_size)]
        futures = _Futures(*(np.concatenate(parts) for parts in zip(*looks, strict=True)))
        _require_finite(futures)
        changes = _changes(futures, futures.start)
        return _by_normal(changes, names, alpha, subject)
    if functional is None:
        squash = _squashing(simulate(budget, batch_size))
        names = [name.replace(" of ", f" of {power}") for power in ("", "the square of ") for name in names]
    else:
        squash = _bounded(bounds)
    return _by_bets(simulate, squash, names, alpha, budget, batch_size, subject, functional is None)


def _simulator(key, predictive, data, functional, n_steps, batch_size):
    """A function of (first, count) to that many futures, and names of the numbers that it looks at."""
    state = predictive.init(data)
    if not is_compiled(predictive):
        shown = functional(copy.deepcopy(state)) if functional else _example(predictive, key, state)
        return partial(_on_host, key, predictive, state, functional, n_steps), _names(shown, functional)
    rule = traceable(predictive)
    state = settled(rule, key, state)
    shown = functional(state) if functional else jax.eval_shape(partial(_example, rule), key, state)

    def simulate(first, count):
        looks = _look(rule, functional, key, state, np.asarray(first), np.asarray(n_steps), batch_size)
        return _Futures(*(look[:count] for look in jax.device_get(looks)))

    return simulate, _names(shown, functional)


def _example(predictive, key, state):
    """One observation, for its form."""
    return observation(predictive, predictive.sample(key if is_compiled(predictive) else generator(key, 0), state))


@eqx.filter_jit
def _look(rule, functional, key, state, first, n_steps, size) -> list[Array]:
    """Three looks at futures from number `first` on; one loop for all, which saves compiling."""

    def at_values(key):
        def look(now, bounds):
            now = advance(rule, key, now, *bounds)
            return now, _flat(functional(now))

        ends = jnp.stack([0 * n_steps, n_steps // 2, n_steps])
        return jax.lax.scan(look, state, (jnp.pad(ends[:-1], (1, 0)), ends))[1]

    def at_draws(key):
        def look(i, carried):
            now, looks = carried
            draw, now = step(rule, key, now, i)
            # the first two draws, and every later one in the third place, where the last stays
            return now, looks.at[jnp.minimum(i, 2)].set(_flat(observation(rule, draw)))

        numbers = jax.eval_shape(lambda: _flat(_example(rule, key, state)))
        looks = jnp.zeros((3, *numbers.shape), numbers.dtype)
        return jax.lax.fori_loop(0, n_steps, look, (state, looks))[1]

    keys = jax.vmap(lambda b: jax.random.fold_in(key, b))(first + jnp.arange(size))
    looks = jax.vmap(at_draws if functional is None else at_values)(keys)
    return [looks[:, i] for i in range(3)]


def _on_host(key, predictive, state, functional, n_steps, first, count) -> _Futures:
    rows = []
    for b in range(first, first + count):
        now, rng, seen = copy.deepcopy(state), generator(key, b), []
        if functional is not None:
            seen.append(_host_flat(functional(now)))
        for i in range(n_steps):
            draw = predictive.sample(rng, now)
            if functional is None and i in (0, 1, n_steps - 1):
                seen.append(_host_flat(observation(predictive, draw)))
            now = predictive.update(now, draw)
            if functional is not None and i + 1 in (n_steps // 2, n_steps):
                seen.append(_host_flat(functional(now)))
        rows.append(seen)
    return _Futures(*(np.stack(look) for look in zip(*rows, strict=True)))


def _flat(tree: PyTree) -> Float[Array, " p"]:
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def _host_flat(tree: PyTree) -> Float[np.ndarray, " p"]:
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    if any(leaf.dtype.kind not in "biuf" for leaf in leaves):
        raise ValueError("draws must be numbers to be compared: give a functional, or code labels as numbers")
    return np.concatenate(leaves).astype(float)


def _names(tree: PyTree, functional: Any) -> list[str]:
    kind, names = "the functional" if functional else "the draw", []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = np.shape(leaf)
        label = f"{kind} {jax.tree_util.keystr(path, simple=True)}".strip()
        names += [f"{label}{list(at) if at else ''}" for at in np.ndindex(*shape)]
    return names


def _changes(values: _Futures, centre: Any) -> Float[np.ndarray, "n q"]:
    """Change over the whole future, and over its second part turned by the sign of what came before."""
    sign = np.sign(values.middle - centre)
    return np.concatenate([values.end - values.start, sign * (values.end - values.middle)], axis=1)


def _squashing(pilot: _Futures) -> Callable[[_Futures], Float[np.ndarray, "n q"]]:
    """Bets on draws: squashed values and their squares, by location and scale of futures that the test never sees."""
    _require_finite(pilot)
    centre, scale = pilot.start.mean(axis=0), pilot.start.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)

    def squash(futures: _Futures) -> Float[np.ndarray, "n q"]:
        found = []
        for power in (1, 2):
            # values in [-1/2, 1/2], so that changes lie in [-1, 1]
            start, middle, end = (0.5 * np.tanh((look - centre) / scale) ** power for look in futures)
            # the first draw is known when the second is made: its sign may weigh what comes after
            found += [end - start, np.sign(futures.start - centre) * (end - middle)]
        return np.concatenate(found, axis=1)

    return squash


def _bounded(bounds: tuple[float, float]) -> Callable[[_Futures], Float[np.ndarray, "n q"]]:
    """Bets on a functional between bounds."""
    low, high = bounds

    def squash(futures: _Futures) -> Float[np.ndarray, "n q"]:
        slack = 1e-6 * (high - low)
        if any((look < low - slack).any() or (look > high + slack).any() for look in futures):
            raise ValueError(f"bounds must contain all values of the functional, got {bounds}")
        changes = _changes(futures, futures.start) / (high - low)
        return np.clip(changes, -1, 1)

    return squash


def _require_finite(futures: _Futures) -> None:
    if not all(np.isfinite(look).all() for look in futures):
        raise ValueError("draws and values of the functional must be finite, got NaN or infinity in a future")


def _by_normal(changes, names, alpha, subject) -> Verdict:
    """Student's test of every mean, with Bonferroni's correction."""
    n, mean, sd = len(changes), changes.mean(axis=0), changes.std(axis=0, ddof=1)
    error = sd / math.sqrt(n)
    # what rounding leaves of a constant is no drift
    rounding = 1e-12 * np.abs(changes).max(axis=0, initial=0.0) + 1e-300
    z = np.where(np.abs(mean) > rounding, mean / np.maximum(error, rounding), 0.0)
    i = int(np.argmax(np.abs(z)))
    evidence = max(0.0, -float(math.log(2 * len(z)) + log_ndtr(-abs(z[i]))))
    rejected = evidence >= -math.log(alpha)
    critical = -ndtri(alpha / (2 * len(z)))
    obtained = f"{mean[i]:+.4g} (standard error {error[i]:.2g})"
    return Verdict(
        ok=not rejected,
        subject=subject,
        method="statistical",
        evidence=evidence,
        n=n,
        alpha=alpha,
        bias_bound=float((np.abs(mean) + critical * error).max()),
        bias_unit="in a mean change, in units of the functional",
        counterexample=Counterexample(names[i], 0.0, obtained) if rejected else None,
        assumptions=(
            "the functional is linear in the predictive",
            "mean changes are normal (approximation): many futures, and no entry that hardly ever changes",
        ),
        notes=("the evidence is the log of one over a p-value, by a normal approximation",),
    )


_bet = jax.jit(bet)


def _by_bets(simulate, squash, names, alpha, budget, batch_size, subject, on_draws) -> Verdict:
    """Bets on every mean being off, until the evidence or the budget is reached."""
    state = no_bets(len(names))
    for first in range(0, budget, batch_size):
        futures = simulate(first, min(batch_size, budget - first))
        _require_finite(futures)
        changes = squash(futures)
        before, state = state, combine(state, _bet(changes))
        if float(log_mean(state.log_wealth)) >= -math.log(alpha):
            state = stop_at_crossing(before, changes, alpha)
            break
    n, evidence = int(state.n), float(log_mean(state.log_wealth))
    mean = np.asarray(state.total) / n
    error = np.sqrt(np.maximum(np.asarray(state.squares) / n - mean**2, 0.0) / n)
    bounds = np.abs(mean) + mean_radius(state.squares, n, alpha / (2 * len(names)))
    found = None
    if evidence >= -math.log(alpha):
        i = int(np.argmax(log_mean(state.log_wealth, axis=1)))
        found = Counterexample(names[i], 0.0, f"{mean[i]:+.4g} (standard error {error[i]:.2g}), scaled to [-1, 1]")
    assumption = "draws are observations" if on_draws else "the functional is linear in the predictive"
    return Verdict(
        ok=found is None,
        subject=subject,
        method="statistical",
        evidence=evidence,
        n=n,
        alpha=alpha,
        bias_bound=float(bounds.max()),
        bias_unit="in a mean change, scaled to [-1, 1]",
        counterexample=found,
        assumptions=(assumption, "the state holds all that the predictive knows of its past"),
    )
