"""Evidence maximisation over hyper-parameters: one loop with a monitor, for any update and any structure.

An update is a function that looks at the current hyper-parameters, says what they cost (minus the log evidence, or
twice that) and proposes the next ones. Expectation-maximisation and majorisation-minimisation never raise the cost,
fixed-point iterations may; the monitor records which happened.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from uqsparse.kernels.arguments import require_count

State = TypeVar("State")

# A rise of the cost below this share of its size is rounding.
RISE_TOLERANCE = 1e-8


class Step(NamedTuple, Generic[State]):
    """What an update says of a state.

    Args:
        cost: cost of the state it was given (not of the next one).
        state: the next hyper-parameters.
        change: how far apart the two are, for the stopping rule: usually `relative_change`.
    """

    cost: float
    state: State
    change: float


@dataclasses.dataclass(frozen=True)
class EvidenceRun(Generic[State]):
    """Where evidence maximisation arrived, and how.

    Args:
        state: the last hyper-parameters.
        cost: their cost, the last entry of `cost_trace`.
        cost_trace: cost of every state visited, the start first, shape (n_iter + 1,).
        largest_rise: largest rise of the cost in one iteration (update and pruning), as a share of max(1, |cost|);
            0 if it never rose.
        is_monotone: whether no iteration raised the cost by more than `RISE_TOLERANCE` of its size.
        change: what the last update changed.
        converged: whether that was below the tolerance.
        n_iter: number of updates.
    """

    state: State
    cost: float
    cost_trace: Float[np.ndarray, " n_iter_plus_1"] = dataclasses.field(repr=False)
    largest_rise: float
    is_monotone: bool
    change: float
    converged: bool
    n_iter: int


def maximise_evidence(
    start: State,
    step: Callable[[State], Step[State]],
    *,
    tolerance: float = 1e-4,
    max_iter: int = 150,
    prune: Callable[[State], State] | None = None,
    cost: Callable[[State], float] | None = None,
) -> EvidenceRun[State]:
    """Repeat an update until it changes little, and watch the cost.

    Args:
        start: hyper-parameters to start from, in any form.
        step: the update.
        tolerance: stop when `change` of a step is below it, positive.
        max_iter: most updates, at least 1.
        prune: drops components of a state after an update. Dropping may raise the cost, so that monotone updates are
            monotone for certain only without it.
        cost: the cost alone, for the last state; if left out, `step` is called once more.

    Returns:
        The last state with its record. Reaching `max_iter` is reported there (`converged`), not raised.

    Raises:
        ValueError: `tolerance` or `max_iter` is out of range.
        FloatingPointError: a cost or a change is not finite.

    Source: Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm; the evidence
    as cost: MacKay (1992), Bayesian interpolation; stopping rule: He & Joseph (2024), Bayesian algorithms for
    Kronecker-structured sparse vector recovery.

    >>> halve = lambda x: Step(x * x, x / 2, x / 2)
    >>> maximise_evidence(1.0, halve, tolerance=1e-3).is_monotone
    True
    """
    if not (isinstance(tolerance, (int, float)) and 0 < tolerance < math.inf):
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    require_count("max_iter", max_iter, 1)
    state, costs, change, converged = start, [], math.inf, False
    while not converged and len(costs) < max_iter:
        before, following, change = _checked(step(state), len(costs))
        costs.append(before)
        state = following if prune is None else prune(following)
        converged = change < tolerance
    last = step(state) if cost is None else Step(cost(state), state, 0.0)
    costs.append(_checked(last, len(costs)).cost)
    trace = np.array(costs)
    rise = largest_rise(trace)
    return EvidenceRun(state, costs[-1], trace, rise, rise <= RISE_TOLERANCE, change, converged, len(costs) - 1)


def largest_rise(cost_trace: Float[np.ndarray, " n"]) -> float:
    """Largest rise between neighbours of a cost trace, as a share of max(1, |cost|); 0 if none."""
    before, after = cost_trace[:-1], cost_trace[1:]
    return float(np.max((after - before) / np.maximum(1.0, abs(before)), initial=0.0))


def relative_change(old: Float[np.ndarray, " n"], new: Float[np.ndarray, " n"]) -> float:
    """`|new - old| / |old|` in the Euclidean norm, with 0 / 0 = 0."""
    distance, size = float(np.linalg.norm(new - old)), float(np.linalg.norm(old))
    return distance / size if size > 0 else (0.0 if distance == 0 else math.inf)


def _checked(step: Step[State], iteration: int) -> Step[State]:
    cost, change = float(step.cost), float(step.change)
    if not (math.isfinite(cost) and not math.isnan(change)):
        raise FloatingPointError(f"the cost is {cost} and the change {change} at iteration {iteration}")
    return Step(cost, step.state, change)
