"""What a result promises, under which assumptions, and on how many observations the promise rests."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["marginal", "group", "risk", "long-run", "false alarm", "approximate"]

EXCHANGEABLE = "calibration and test observations are exchangeable"
NOT_TUNED = "the model and the score were fixed before the calibration data were looked at"

_MEANINGS: dict[str, str] = {
    "marginal": "covers at least {level} of new observations, on average over calibration and test data",
    "group": "covers at least {level} of new observations within each group",
    "risk": "keeps the expected loss at or below {level}",
    "long-run": "misses so often that the share of hits tends to {level} along any sequence",
    "false alarm": "raises an alarm, at any time, with probability at most {level} if observations are exchangeable",
    "approximate": "aims at covering {level} of new observations, without a finite-sample guarantee",
}


@dataclass(frozen=True)
class Guarantee:
    """The promise of a prediction set, a threshold or a p-value.

    Args:
        kind: "marginal" (over calibration and test data), "group" (within each group), "risk" (an expected loss),
            "long-run" (along a sequence, whatever it is), "false alarm" (of a test that watches a stream), or
            "approximate" (no finite-sample guarantee).
        level: the coverage promised, such as 0.9; for "risk" the bound on the expected loss, for "false alarm" the
            bound on its probability. One number for each alpha if several were asked for.
        n: how many calibration observations it rests on; for "group" the least of any group.
        assumptions: what has to be true for it, each a sentence without its full stop.
        alpha: the alpha asked for, where it is not one minus the level.

    >>> print(Guarantee("marginal", 0.9, 99, (EXCHANGEABLE,)))
    covers at least 0.9 of new observations, on average over calibration and test data (n = 99), provided that
    calibration and test observations are exchangeable
    """

    kind: Kind
    level: float | tuple[float, ...]
    n: int
    assumptions: tuple[str, ...] = ()
    alpha: float | tuple[float, ...] | None = None

    def __post_init__(self):
        if self.kind not in _MEANINGS:
            raise ValueError(f"kind must be one of {', '.join(_MEANINGS)}, got {self.kind!r}")

    def __str__(self) -> str:
        levels = self.level if isinstance(self.level, tuple) else (self.level,)
        promise = _MEANINGS[self.kind].format(level=", ".join(f"{level:.6g}" for level in levels))
        provided = f", provided that {'; '.join(self.assumptions)}" if self.assumptions else ""
        return f"{promise} (n = {self.n}){provided}"

    def to_dict(self) -> dict[str, Any]:
        """The promise as plain data, for JSON, with its sentence."""
        return {
            "kind": self.kind,
            "level": self.level,
            "n": self.n,
            "assumptions": list(self.assumptions),
            "sentence": str(self),
        }
