"""The verdict on ranks that are uniform if an algorithm is right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from uqsparse.inference.checks.eprocess import log_mean, rank_eprocess
from uqsparse.inference.checks.verdict import Counterexample, Verdict


@dataclass(frozen=True, eq=False)
class RankVerdict(Verdict):
    """A verdict with the ranks that it rests on.

    Args:
        ranks: rank of each statistic in each simulation, from 0 to n_ranks - 1, shape (n, s).
        n_ranks: number of values that a rank may take.
        names: of the statistics.
        log_e_values: log e-value against each statistic's ranks being uniform, shape (s,); their mean decides.
        ess: effective sample size of the draws that a value was ranked among, the average over simulations, shape (s,);
            empty where the states of a chain may depend on each other.
    """

    ranks: Int[np.ndarray, "n s"] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    n_ranks: int = 2
    names: tuple[str, ...] = ()
    log_e_values: Float[np.ndarray, " s"] = field(default_factory=lambda: np.zeros(0))
    ess: Float[np.ndarray, " s"] = field(default_factory=lambda: np.zeros(0))

    def plot(self) -> Any:
        """Draw the histograms of the ranks and their distribution functions; a Matplotlib figure."""
        from uqsparse.inference.checks.rank_plots import plot_ranks  # Matplotlib comes in only when asked for

        return plot_ranks(self)


def log_evidence_of_ranks(ranks: Int[np.ndarray, "n s"], n_ranks: int) -> Float[np.ndarray, "n s"]:
    """Log e-value against each statistic's ranks being uniform, after each simulation.

    Bets are placed on the ranks and on coarser ones, which join neighbours to as many bins as divide their number: few
    wide bins show a tilt in few simulations, many narrow ones a heap at the end. The mean of the e-values is taken.

    Args:
        ranks: from 0 to n_ranks - 1, the rows independent.
        n_ranks: number of values, at least 2.
    """
    bins = [k for k in range(2, n_ranks + 1) if n_ranks % k == 0]
    return log_mean(np.stack([rank_eprocess(ranks * k // n_ranks, k) for k in bins]), axis=0)


def rank_among(
    rng: np.random.Generator, values: Float[np.ndarray, "n s"], draws: Float[np.ndarray, "n d s"]
) -> Int[np.ndarray, "n s"]:
    """Rank of a value among d others, from 0 to d; ties are broken at random.

    >>> rank_among(np.random.default_rng(0), np.array([[2.5]]), np.array([[[1.0], [2.0], [3.0]]]))
    array([[2]])
    """
    less = np.sum(draws < values[:, None], axis=1)
    ties = np.sum(draws == values[:, None], axis=1)
    return less + rng.integers(0, ties + 1)


def judge_ranks(
    ranks: Int[np.ndarray, "n s"],
    n_ranks: int,
    names: Sequence[str],
    alpha: float,
    *,
    subject: str,
    assumptions: Sequence[str] = (),
    notes: Sequence[str] = (),
    ess: Float[np.ndarray, " s"] | None = None,
    blame: str = "",
) -> RankVerdict:
    """Decide whether ranks are uniform, at level alpha at any stopping time.

    Args:
        ranks: from 0 to n_ranks - 1, the rows independent, at least one; rows after the first rejection are left out.
        n_ranks: number of values that a rank may take.
        names: of the s statistics.
        alpha: most probability of rejecting uniform ranks.
        subject: what is checked.
        assumptions: what the verdict takes for granted.
        notes: what else has been seen.
        ess: effective sample size of each statistic's draws.
        blame: what a failure says, added to the counter-example.
    """
    each = log_evidence_of_ranks(ranks, n_ranks)
    path = log_mean(each, axis=1)
    crossings = np.flatnonzero(path >= -math.log(alpha))
    ok = not crossings.size
    n = len(ranks) if ok else int(crossings[0]) + 1
    ranks, each = ranks[:n], each[n - 1]
    counterexample = None
    if not ok:
        worst = int(np.argmax(each))
        counterexample = Counterexample(
            f"rank of {names[worst]}",
            f"uniform on 0, ..., {n_ranks - 1}",
            f"{describe_ranks(ranks[:, worst], n_ranks)}{f' ({blame})' if blame else ''}",
        )
    return RankVerdict(
        ok=ok,
        subject=subject,
        method="statistical",
        evidence=float(path[n - 1]),
        n=n,
        alpha=alpha,
        bias_bound=_largest_bias(ranks, n_ranks, alpha) if ok else None,
        bias_unit="in the probability that a value lies below a quantile of the draws" if ok else "",
        counterexample=counterexample,
        assumptions=tuple(assumptions),
        notes=tuple(notes),
        ranks=ranks,
        n_ranks=n_ranks,
        names=tuple(names),
        log_e_values=each,
        ess=np.zeros(0) if ess is None else np.asarray(ess),
    )


def describe_ranks(ranks: Int[np.ndarray, " n"], n_ranks: int) -> str:
    """Say in words how ranks differ from uniform ones: by their mean, or by how many are extreme.

    >>> describe_ranks(np.array([0, 3, 0, 3, 0, 3]), 4)
    'too many extreme ranks: their variance is 1.8 times that of uniform ones'
    """
    shares = (np.asarray(ranks) + 0.5) / n_ranks
    uniform = (1 - n_ranks**-2.0) / 12
    shift = (shares.mean() - 0.5) / math.sqrt(uniform)
    spread = np.var(shares) / uniform
    # In units of their standard errors: a uniform number's squared deviation has a variance of 4/5 of its square.
    if abs(shift) >= abs(spread - 1) / math.sqrt(0.8):
        side = "high" if shift > 0 else "low"
        return f"ranks too {side}: {shares.mean():.3f} of the way up on average, instead of 0.5"
    few = "many" if spread > 1 else "few"
    return f"too {few} extreme ranks: their variance is {spread:.2g} times that of uniform ones"


def _largest_bias(ranks: Int[np.ndarray, "n s"], n_ranks: int, alpha: float) -> float:
    """Largest error of a rank's distribution function that is not excluded.

    Source: Massart (1990), The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality.
    """
    n, s = ranks.shape
    steps = np.arange(1, n_ranks)
    seen = np.mean(ranks[:, :, None] < steps, axis=0)
    radius = math.sqrt(math.log(2 * s / alpha) / (2 * n))
    return float(min(1.0, np.max(np.abs(seen - steps / n_ranks)) + radius))
