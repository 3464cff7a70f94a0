"""The command line, one file a command: `sample`, `check`, `generate`, `conformal`, `pose`, `multiplicity`, ..."""

from uqsparse.cli import benchmarks, checking, conformal, generation, listing, multiplicity, pose, sampling
from uqsparse.cli.application import app, main

__all__ = [
    "app",
    "benchmarks",
    "checking",
    "conformal",
    "generation",
    "listing",
    "main",
    "multiplicity",
    "pose",
    "sampling",
]
