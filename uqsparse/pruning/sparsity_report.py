"""What a report of a sparse network holds, what it has to hold to be published, and how it is printed.

Source: Liu & Wang (2023), Ten lessons we have learned in the new "Sparseland", for the list.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from uqsparse.pruning.flops import Flops, TrainingFlops

# Networks that a sparse one has to be compared with, trained with the same recipe and for as long.
BASELINES = {
    "dense": "the dense network",
    "small dense": "a smaller dense network of as many weights",
    "equal-FLOP dense": "a dense network of as many multiply-adds",
    "random mask": "a random mask with the same share of each leaf",
}


class LeafAccount(NamedTuple):
    """One weight of a network.

    Args:
        path: where it stands.
        size: entries.
        nnz: entries that the mask keeps.
        bits: values and positions, by the name of the format.
        macs: multiply-adds of a forward pass with the kept entries; None if no input was given.
    """

    path: str
    size: int
    nnz: int
    bits: dict[str, int]
    macs: int | None

    @property
    def density(self) -> float:
        """Share that is kept."""
        return self.nnz / self.size

    @property
    def best(self) -> str:
        """The format that takes the fewest bits."""
        return min(self.bits, key=self.bits.__getitem__)


@dataclass(frozen=True)
class Evidence:
    """What a published result rests on; all scores are one number a seed.

    Args:
        scores: of the sparse network.
        baselines: scores of the networks named in `BASELINES`.
        metrics: at least one beside the score: calibration error, log-likelihood, accuracy under shift.
        speed: where no time was measured, the statement why, such as "masked dense, no speed-up".
    """

    scores: Sequence[float]
    baselines: Mapping[str, Sequence[float]]
    metrics: Mapping[str, Sequence[float]]
    speed: str = ""


@dataclass(frozen=True)
class Report:
    """What a sparse network costs; made by `report`.

    "Sparsity" is that of the leaves listed. Biases and norms are never pruned: they count in `n_parameters`, and are
    stored dense in every format.

    Args:
        leaves: the prunable weights.
        n_parameters: entries of all parameters, prunable or not; a weight with a mean and a spread counts once.
        other_bits: of the parameters that are not prunable.
        inference: multiply-adds of one example's forward pass, if an input was given.
        training: FLOPs of the recorded run, if one was given.
        training_bits: the most that weights, gradients and moments took, "sparse" if only active weights are stored,
            "masked" as a program stores them that keeps all.
        explored: share of the prunable weights that were active at any time.
        milliseconds: measured, by name.
        machine: on which.
        evidence: what the result rests on.
    """

    leaves: tuple[LeafAccount, ...]
    n_parameters: int
    other_bits: int
    inference: Flops | None = None
    training: TrainingFlops | None = None
    training_bits: dict[str, int] | None = None
    explored: float | None = None
    milliseconds: dict[str, float] | None = None
    machine: str = ""
    evidence: Evidence | None = None

    @property
    def size(self) -> int:
        """Prunable weights."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def nnz(self) -> int:
        """Prunable weights that the mask keeps."""
        return sum(leaf.nnz for leaf in self.leaves)

    @property
    def density(self) -> float:
        """Of the prunable weights."""
        return self.nnz / self.size

    @property
    def density_of_all(self) -> float:
        """Of all parameters."""
        return (self.n_parameters - self.size + self.nnz) / self.n_parameters

    @property
    def bits(self) -> dict[str, int]:
        """Of all parameters, by the format of the prunable ones; "best" takes the best format of each leaf."""
        totals = {name: self.other_bits + sum(leaf.bits[name] for leaf in self.leaves) for name in self.leaves[0].bits}
        return totals | {"best": self.other_bits + sum(min(leaf.bits.values()) for leaf in self.leaves)}

    def with_evidence(self, evidence: Evidence) -> "Report":
        """The report of a result that was compared with others."""
        return dataclasses.replace(self, evidence=evidence)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the report lacks to be published."""
        lacks = []
        if self.inference is None:
            lacks.append("inference FLOPs")
        elif self.inference.uncounted:
            lacks.append(f"inference FLOPs of {'; '.join(self.inference.uncounted)}")
        if self.training is None:
            lacks.append("training steps and FLOPs, searches and rounds included")
        if self.training_bits is None:
            lacks.append("peak memory of training")
        seen = self.evidence or Evidence((), {}, {})
        if not seen.speed and (not self.milliseconds or len(self.milliseconds) < 2 or not self.machine):
            lacks.append("milliseconds of dense and sparse on a named machine, or a statement why there are none")
        if not seen.metrics:
            lacks.append("a metric beside the score")
        named = {"scores": seen.scores} | {name: seen.baselines.get(name, ()) for name in BASELINES}
        for name, scores in named.items():
            if len(scores) < 3 or not np.isfinite(scores).all():
                what = f" of {BASELINES[name]}" if name in BASELINES else ""
                lacks.append(f"finite scores{what} for at least 3 seeds (got {len(scores)})")
        return tuple(lacks)

    def validate(self) -> None:
        """Raise ValueError, listing what is missing, unless the report is complete."""
        if lacks := self.missing:
            raise ValueError("the report lacks " + "; ".join(lacks))

    def to_markdown(self) -> str:
        """Tables for a reader."""
        formats = list(self.leaves[0].bits)
        lines = [
            "FLOPs are two for each multiply-add, of one example; bytes are of values and positions.",
            "",
            "| weight | entries | kept | density | FLOPs | " + " | ".join(f"bytes, {name}" for name in formats) + " |",
            "|---" * (5 + len(formats)) + "|",
        ]
        total = LeafAccount("all prunable", self.size, self.nnz, {}, None)
        totals = {name: sum(leaf.bits[name] for leaf in self.leaves) for name in formats}
        macs = None if self.inference is None else sum(self.inference.active.values())
        for leaf in (*self.leaves, total._replace(bits=totals, macs=macs)):
            cost = "" if leaf.macs is None else f"{2 * leaf.macs:,}"
            row = [leaf.path, f"{leaf.size:,}", f"{leaf.nnz:,}", f"{leaf.density:.4g}", cost]
            lines.append("| " + " | ".join([*row, *(f"{leaf.bits[name] // 8:,}" for name in formats)]) + " |")
        lines += ["", *self._sentences()]
        return "\n".join(lines)

    def _sentences(self) -> list[str]:
        said = [
            f"- Density {self.density:.4g} of {self.size:,} prunable weights, {self.density_of_all:.4g} of all "
            f"{self.n_parameters:,} parameters."
        ]
        if (cost := self.inference) is not None:
            at_least = "at least " if cost.uncounted else ""
            said.append(
                f"- Inference: {at_least}{cost.flops:,} FLOPs, dense {cost.dense_flops:,}; products of activations "
                f"included, {cost.other:,} other operations not."
            )
            said += [f"- Uncounted: {one}." for one in cost.uncounted]
        if (run := self.training) is not None:
            said.append(
                f"- Training, {run.steps:,} steps: {run.sparse:.3e} FLOPs if zeros cost nothing, {run.masked:.3e} "
                f"masked; {run.selection:.1e} operations to choose masks."
            )
        if self.training_bits is not None:
            peak = ", ".join(f"{bits // 8:,} bytes {name}" for name, bits in self.training_bits.items())
            said.append(f"- Most memory of weights, gradients and moments in training: {peak}.")
        if self.explored is not None:
            said.append(f"- Share of the weights that were ever active: {self.explored:.4g}.")
        if self.milliseconds:
            times = ", ".join(f"{name} {value:.3g} ms" for name, value in self.milliseconds.items())
            said.append(f"- Measured{f' on {self.machine}' if self.machine else ''}: {times}.")
        if (seen := self.evidence) is not None:
            named = {"score": seen.scores, **seen.baselines, **seen.metrics}
            said += [f"- {name}: {_spread(values)}." for name, values in named.items()]
            said += [f"- Speed: {seen.speed}."] if seen.speed else []
        return said


def _spread(values: Sequence[float]) -> str:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.4g} ± {deviation:.2g} ({len(values)} seeds)"
