"""The UQ benchmarks: claims, leaderboards and speed, and the report that shows them."""

from uqsparse.bench.console import print_results
from uqsparse.bench.records import Contest, Context, Episodes, GaussianMixture, Measured, NotMeasured, Picture, Split
from uqsparse.bench.registry import claim, method, speed, task
from uqsparse.bench.results import EntryResult, RunResult
from uqsparse.bench.runner import RunInterrupted, run

__all__ = [
    "Contest",
    "Context",
    "EntryResult",
    "Episodes",
    "GaussianMixture",
    "Measured",
    "NotMeasured",
    "Picture",
    "RunInterrupted",
    "RunResult",
    "Split",
    "claim",
    "method",
    "print_results",
    "run",
    "speed",
    "task",
]
