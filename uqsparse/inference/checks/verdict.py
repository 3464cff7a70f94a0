"""What every checker hands back: a verdict with its evidence, and what it rests on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Counterexample:
    """Where a check failed.

    Args:
        where: the value, statistic or piece of input, in words.
        expected: what should be there.
        obtained: what was found.
    """

    where: str
    expected: object
    obtained: object

    def __str__(self) -> str:
        return f"{self.where}: expected {_show(self.expected)}, obtained {_show(self.obtained)}"


@dataclass(frozen=True)
class Verdict:
    """Whether something is right, and why one should believe so. True in a condition if it is.

    Args:
        ok: whether the check passed.
        subject: what was checked, in one line.
        method: "exact" if every outcome was enumerated or compared to rounding, "statistical" if it rests on draws.
        evidence: for an exact check the largest discrepancy found (total variation distance between measures, or the
            largest relative error); for a statistical one the log of the e-value against correctness, which rejects at
            log(1 / alpha).
        n: what it rests on: enumerated outcomes, points, or independent simulations.
        alpha: most probability of rejecting something right, at any stopping time; 0 for an exact check, unless a part
            of it rests on draws.
        bias_bound: the largest bias that is not excluded at level alpha, in the unit that `bias_unit` names; None if
            none was bounded.
        bias_unit: what `bias_bound` is a bias of.
        counterexample: where it failed; None if it passed.
        assumptions: what the verdict takes for granted, a sentence each.
        notes: what else the check has seen, a sentence each; none of it decides.
    """

    ok: bool
    subject: str
    method: Literal["exact", "statistical"]
    evidence: float
    n: int
    alpha: float = 0.0
    bias_bound: float | None = None
    bias_unit: str = ""
    counterexample: Counterexample | None = None
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.method == "exact":
            how = f"largest discrepancy {self.evidence:.3g} over {self.n} outcomes"
            how += f"; a part rests on draws (alpha {self.alpha:.1g})" if self.alpha else ""
        else:
            limit = f"{-math.log(self.alpha):.3g} rejects (alpha {self.alpha:g})"
            how = f"log e-value {self.evidence:.3g} after {self.n} simulations; {limit}"
        lines = [f"{'ok' if self.ok else 'WRONG'}: {self.subject}", f"  {how}"]
        if self.counterexample is not None:
            lines.append(f"  counter-example: {self.counterexample}")
        if self.bias_bound is not None:
            lines.append(f"  not excluded: a bias up to {self.bias_bound:.3g} {self.bias_unit}".rstrip())
        lines += [f"  assumes: {sentence}" for sentence in self.assumptions]
        lines += [f"  note: {sentence}" for sentence in self.notes]
        return "\n".join(lines)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides for all: the first that failed, or the one with the most evidence against it.

    Raises:
        ValueError: there are none.
    """
    listed = list(verdicts)
    if not listed:
        raise ValueError("there are no verdicts to choose from")
    return next((one for one in listed if not one.ok), max(listed, key=lambda one: one.evidence))


def _show(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
