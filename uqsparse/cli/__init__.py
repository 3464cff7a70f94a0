"""The command line, one file a command: `uqsparse sample`, `check`, `generate`, `conformal`, `bench`, `list`."""

from uqsparse.cli import benchmarks, checking, conformal, generation, listing, sampling
from uqsparse.cli.application import app, main

__all__ = ["app", "benchmarks", "checking", "conformal", "generation", "listing", "main", "sampling"]
