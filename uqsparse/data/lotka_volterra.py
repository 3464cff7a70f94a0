"""Populations of predators and their prey, simulated event by event, as regression tasks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from uqsparse.data.tasks import Tasks

# Rates of the four events, as in the source: predators are born and die, prey is born and eaten.
_RATES = (0.01, 0.5, 1.0, 0.01)
_CHANGES = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])
# So many tasks at a time bound the memory: 20,000 events of one take a third of a megabyte.
_CHUNK = 256


class Populations(NamedTuple):
    """Simulated populations, event by event.

    Args:
        times: of the events, from 0, shape (T, E); constant after the end.
        counts: predators and prey after each event, shape (T, E, 2); constant after the end.
        lengths: events until a population died out or E was reached, shape (T,).
    """

    times: Float[np.ndarray, "T E"]
    counts: Int[np.ndarray, "T E 2"]
    lengths: Int[np.ndarray, " T"]


def lotka_volterra_populations(seed: int, n_tasks: int, *, n_events: int = 20_000) -> Populations:
    """Simulate predators X and prey Y exactly, from X = 50 and Y = 100 (each plus a standard normal, truncated, >= 1).

    Events and their rates are a birth of a predator, 0.01 X Y, its death, 0.5 X, a birth of prey, Y, and its death,
    0.01 X Y. A simulation ends after `n_events`, or when one of the populations has died out.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same populations.
        n_tasks: T, at least 1.
        n_events: E, at least 2; the start counts as the first.

    Raises:
        ValueError: an argument is out of range.

    Source: Gillespie (1977), Exact stochastic simulation of coupled chemical reactions, J. of Physical Chemistry 81.

    >>> lotka_volterra_populations(0, 2, n_events=10).counts.shape
    (2, 10, 2)
    """
    for name, value, least in (("n_tasks", n_tasks, 1), ("n_events", n_events, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return _simulate(np.random.default_rng(seed), int(n_tasks), int(n_events))


def _simulate(rng: np.random.Generator, n_tasks: int, n_events: int) -> Populations:
    # Events first in memory, so that a step writes one stretch of it.
    times = np.zeros((n_events, n_tasks), np.float32)
    counts = np.zeros((n_events, 2, n_tasks), np.int32)
    now = np.maximum((np.array([[50], [100]]) + rng.standard_normal((2, n_tasks))).astype(np.int64), 1)
    clock, lengths = np.zeros(n_tasks), np.full(n_tasks, n_events)
    counts[0] = now
    alive = np.ones(n_tasks, bool)
    birth, death, prey_birth, prey_death = _RATES
    for event in range(1, n_events):
        predators, prey = now
        met = predators * prey
        born = birth * met
        died = born + death * predators
        prey_born = died + prey_birth * prey
        # Where a population has died out the clock stands still; the division is by 1.
        total = np.where(alive, prey_born + prey_death * met, 1.0)
        clock = clock + alive * rng.standard_exponential(n_tasks) / total
        u = rng.random(n_tasks) * total
        kind = (u >= born).astype(np.int64) + (u >= died) + (u >= prey_born)
        now = now + _CHANGES[:, kind] * alive
        times[event], counts[event] = clock, now
        if not now.all():
            ended = alive & (now == 0).any(axis=0)
            lengths[ended] = event + 1
            alive = alive & ~ended
            if not alive.any():
                times[event + 1 :], counts[event + 1 :] = clock, now
                break
    return Populations(times.T, counts.transpose(2, 0, 1), lengths)


def lotka_volterra_tasks(
    seed: int,
    n_tasks: int,
    *,
    max_points: int = 100,
    min_context: int = 15,
    min_target: int = 15,
    n_events: int = 20_000,
) -> Tasks:
    """Regression from time to the populations of predators and prey, of each task from a simulation of its own.

    A task's points are events drawn without replacement. The numbers of points are drawn as in `gp_tasks`, by default
    15 to 85 of context. Units are those of the simulation: times reach about a hundred, populations a few hundred; see
    `standardise_tasks`.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same tasks.
        n_tasks: T, at least 1; 256 of them take about three seconds.
        max_points: context and targets together have at most so many points.
        min_context: least number of points in a context, at least 0.
        min_target: least number of targets, at least 1.
        n_events: length of a simulation; those that end before `max_points` events are replaced by others.

    Returns:
        Tasks of NumPy arrays with dx = 1 and dy = 2, predators first.

    Raises:
        ValueError: an argument is out of range, or `n_events` is below `max_points`.

    Source: Gordon, Bruinsma, Foong, Requeima, Dubois & Turner (2020), Convolutional conditional neural processes, ICLR,
    section 5.3; rates and counts from Lee et al. (2020), Bootstrapping neural processes, NeurIPS 33, section 5.4.

    >>> lotka_volterra_tasks(0, 2, n_events=200).target_y.shape
    (2, 85, 2)
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("n_tasks", n_tasks, 1),
        ("min_context", min_context, 0),
        ("min_target", min_target, 1),
        ("max_points", max_points, min_context + min_target),
        ("n_events", n_events, max(max_points, 2)),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    rng = np.random.default_rng(seed)
    x, y = np.zeros((n_tasks, max_points, 1), np.float32), np.zeros((n_tasks, max_points, 2), np.float32)
    done = 0
    while done < n_tasks:
        found = _simulate(rng, min(_CHUNK, n_tasks - done), n_events)
        for i in np.flatnonzero(found.lengths >= max_points):
            rows = rng.choice(found.lengths[i], max_points, replace=False)
            x[done, :, 0], y[done] = found.times[i, rows], found.counts[i, rows]
            done += 1
    n_context = rng.integers(min_context, max_points - min_target + 1, size=(n_tasks, 1))
    n_target = rng.integers(min_target, max_points - n_context + 1)
    return _split(x, y, n_context, n_target, max_points - min_target, max_points - min_context)


def _split(x, y, n_context, n_target, N, M) -> Tasks:
    context_mask, target_mask = np.arange(N) < n_context, np.arange(M) < n_target
    rows = np.minimum(n_context + np.arange(M), x.shape[1] - 1)

    def take(values, rows, mask):
        return np.where(mask[..., None], np.take_along_axis(values, rows[..., None], axis=1), 0).astype(np.float32)

    first = np.broadcast_to(np.arange(N), context_mask.shape)
    context = take(x, first, context_mask), take(y, first, context_mask), context_mask
    # The arrays are NumPy's; whatever takes JAX arrays takes them.
    return Tasks(*context, take(x, rows, target_mask), take(y, rows, target_mask), target_mask)  # type: ignore[arg-type]
