"""The command line, one file a command: `sample`, `check`, `generate`, `conformal`, `pose`, `bench`, `list`."""

from uqsparse.cli import benchmarks, checking, conformal, generation, listing, pose, sampling
from uqsparse.cli.application import app, main

__all__ = ["app", "benchmarks", "checking", "conformal", "generation", "listing", "main", "pose", "sampling"]
