"""Schedules: when the mask may change, to what density, and how much of it is exchanged.

Steps are the optimiser's, from 0. A change falls before step t where t is a multiple of `every`, 0 < t <= `end`. All of
it is known before training, so that counts of weights are computed on the host, exactly.
"""

import math
from typing import Protocol

import equinox as eqx

from uqsparse.kernels.arguments import require_count


class Schedule(Protocol):
    """Densities over time; write your own if none of these will do."""

    @property
    def every(self) -> int:
        """Steps between changes."""
        ...

    @property
    def end(self) -> int:
        """The last step at which the density may change."""
        ...

    def density(self, step: int) -> float:
        """The density from a step on, once the change before it is made; that of step 0 is the initial one."""
        ...


class Constant(eqx.Module):
    """One density all along; a rule that exchanges weights does so every `every` steps."""

    value: float = eqx.field(static=True)
    every: int = eqx.field(static=True, default=100)
    end: int = eqx.field(static=True, default=0)

    def __post_init__(self) -> None:
        _require_density("density", self.value)
        require_count("every", self.every, 1)

    def density(self, step: int) -> float:
        """The value."""
        return self.value


class OneShot(eqx.Module):
    """Everything until step `at`, then one density."""

    at: int = eqx.field(static=True)
    final: float = eqx.field(static=True)

    def __post_init__(self) -> None:
        require_count("at", self.at, 1)
        _require_density("density", self.final)

    @property
    def every(self) -> int:
        """`at`."""
        return self.at

    @property
    def end(self) -> int:
        """`at`."""
        return self.at

    def density(self, step: int) -> float:
        """1 before, then the final density."""
        return self.final if step >= self.at else 1.0


class Cubic(eqx.Module):
    """Densities that fall fast at first: d(t) = d_f + (d_i - d_f) (1 - (t - start) / (end - start))^3.

    The last change is the last multiple of `every` up to `end`; it reaches d_f whether or not it falls on `end`.

    Source: Zhu & Gupta (2018), To prune, or not to prune, equation 1; Liu et al. (2021), Sparse training via boosting
    pruning plasticity with neuroregeneration, section 4.

    >>> schedule = Cubic(0, 400, 100, initial=1.0, final=0.2)
    >>> [round(schedule.density(step), 4) for step in (0, 100, 200, 300, 400)]
    [1.0, 0.5375, 0.3, 0.2125, 0.2]
    """

    start: int = eqx.field(static=True)
    end: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    initial: float = eqx.field(static=True)
    final: float = eqx.field(static=True)

    def __post_init__(self) -> None:
        require_count("start", self.start, 0)
        require_count("end", self.end, 1)
        require_count("every", self.every, 1)
        _require_density("initial density", self.initial)
        _require_density("final density", self.final)
        if self.start >= self.end:
            raise ValueError(f"start must be before end, got {self.start} and {self.end}")
        if self.final > self.initial:
            raise ValueError(f"final density must be at most the initial one, {self.initial}, got {self.final}")
        if self._last <= self.start:
            raise ValueError(f"no multiple of every = {self.every} lies after {self.start}, up to {self.end}")

    @property
    def _last(self) -> int:
        return self.end // self.every * self.every

    def density(self, step: int) -> float:
        """The formula, constant outside of [start, end]."""
        if step >= self._last:
            return self.final
        left = 1 - max(0, step - self.start) / (self.end - self.start)
        return self.final + (self.initial - self.final) * left**3


class Geometric(eqx.Module):
    """Rounds of training with the same share pruned after each: d_f^(r / R) after round r of R.

    Source: Frankle & Carbin (2019), The lottery ticket hypothesis, section 2.

    Args:
        rounds: changes, R.
        every: steps of a round.
        final: density after the last change.
    """

    rounds: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    final: float = eqx.field(static=True)

    def __post_init__(self) -> None:
        require_count("rounds", self.rounds, 1)
        require_count("every", self.every, 1)
        _require_density("density", self.final)

    @property
    def end(self) -> int:
        """After all rounds."""
        return self.rounds * self.every

    def density(self, step: int) -> float:
        """By the rounds that are over."""
        return self.final ** (min(step // self.every, self.rounds) / self.rounds)


class CosineChurn(eqx.Module):
    """The share of the weights that is exchanged at a change: p(t) = f + (p0 - f) (1 + cos(pi t / end)) / 2.

    It falls from p0 to the floor f. With f = 0 it ends with the last exchange. Exchanges never settle by themselves: at
    a good mask they keep trading weights, so they should end well before training does.

    Source: Dettmers & Zettlemoyer (2019), Sparse networks from scratch; Evci et al. (2020), Rigging the lottery,
    section 3.

    >>> [round(CosineChurn(0.4, 200).rate(step), 2) for step in (0, 100, 200)]
    [0.4, 0.2, 0.0]
    """

    initial: float = eqx.field(static=True)
    end: int = eqx.field(static=True)
    floor: float = eqx.field(static=True, default=0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.initial < 1:
            raise ValueError(f"churn must lie in [0, 1), got {self.initial!r}")
        if not 0 <= self.floor <= self.initial:
            raise ValueError(f"floor of the churn must lie in [0, {self.initial}], got {self.floor!r}")
        require_count("end of the churn", self.end, 1)

    def rate(self, step: int) -> float:
        """The share at a step."""
        share = (1 + math.cos(math.pi * min(step / self.end, 1))) / 2
        return self.floor + (self.initial - self.floor) * share


def _require_density(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
