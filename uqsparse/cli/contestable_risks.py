"""Whose risk is contestable: ranges over near-optimal models for the persons of a table."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from uqsparse.bounds.multiplicity.loss_level import Tolerance
from uqsparse.bounds.multiplicity.rashomon_set import RashomonSet
from uqsparse.bounds.multiplicity.results import Ambiguity, Discrepancy, ViableRange
from uqsparse.cli.person_tables import PersonTable

# Shifts of risk at which the curve of ambiguity is drawn.
_CURVE = np.round(np.linspace(0.01, 0.99, 99), 2)


@dataclass(frozen=True)
class GroupSummary:
    """Persons of one group: how many, and means over them; `either` is the share with both decisions possible."""

    name: str
    n: int
    risk: float
    width: float
    contestable: float
    either: float


@dataclass(frozen=True, eq=False)
class ContestableRisks:
    """All that a run found.

    Args:
        table: the persons.
        ranges: of their risks.
        capacity: two to the power of the Rashomon capacity, shape (n,).
        delta: shift of risk from which on one is contestable.
        decision: risk from which on something is decided.
        l2: ridge penalty.
        mass: posterior probability that chose the tolerance; None if it was given.
        curve: ambiguity at many shifts.
        ambiguity: at `delta`.
        discrepancy: at `delta`; None if it was not asked for.
    """

    table: PersonTable
    ranges: ViableRange
    capacity: Float[np.ndarray, " n"]
    delta: float
    decision: float
    l2: float
    mass: float | None
    curve: Ambiguity
    ambiguity: Ambiguity
    discrepancy: Discrepancy | None

    @property
    def change(self) -> Float[np.ndarray, " n"]:
        """The farthest that a model moves each risk, shape (n,)."""
        return np.maximum(self.ranges.upper - self.ranges.risk, self.ranges.risk - self.ranges.lower)

    @property
    def contestable(self) -> Bool[np.ndarray, " n"]:
        """Whose risk some model moves by `delta` or more, shape (n,)."""
        return self.change >= self.delta

    @property
    def either(self) -> Bool[np.ndarray, " n"]:
        """For whom some models decide one way and some the other, shape (n,)."""
        return (self.ranges.lower < self.decision) & (self.ranges.upper >= self.decision)

    def groups(self, by: str) -> tuple[GroupSummary, ...]:
        """A summary of each group of a column, in the order of their names."""
        members = np.array(self.table.groups[by])
        found = []
        for name in np.unique(members):
            inside = members == name
            means = (
                float(values[inside].mean())
                for values in (self.ranges.risk, self.ranges.width, self.contestable, self.either)
            )
            found.append(GroupSummary(str(name), int(inside.sum()), *means))
        return tuple(found)


def contestable_risks(
    table: PersonTable,
    *,
    epsilon: float,
    tolerance: Tolerance,
    mass: float | None,
    l2: float,
    delta: float,
    decision: float,
    time_limit: float,
) -> ContestableRisks:
    """Fit the best model and find what the near-optimal ones say.

    Args:
        table: the persons.
        epsilon: tolerance, positive.
        tolerance: "relative" or "absolute".
        mass: posterior probability of the set of models, in (0, 1), which then decides the tolerance.
        l2: ridge penalty, at least 0.
        delta: shift of risk, in (0, 1).
        decision: risk, in (0, 1).
        time_limit: seconds for the discrepancy; 0 leaves it out.

    Raises:
        ValueError: an argument is out of range, or no best model exists.
    """
    models = RashomonSet(l2=l2, epsilon=epsilon, tolerance=tolerance).fit(table.X, table.y)
    if mass is not None:
        epsilon = models.epsilon_for_mass(mass).absolute
        models = RashomonSet(l2=l2, epsilon=epsilon, tolerance="absolute").fit(table.X, table.y)
    return ContestableRisks(
        table=table,
        ranges=models.viable_range(),
        capacity=models.capacity().lower,
        delta=delta,
        decision=decision,
        l2=l2,
        mass=mass,
        curve=models.ambiguity(_CURVE),
        ambiguity=models.ambiguity(delta),
        discrepancy=models.discrepancy(delta, time_limit) if time_limit > 0 else None,
    )
