"""The command line, one file a command: `uqsparse sample`, `check`, `generate`, `bench`, `list`."""

from uqsparse.cli import benchmarks, checking, generation, listing, sampling
from uqsparse.cli.application import app, main

__all__ = ["app", "benchmarks", "checking", "generation", "listing", "main", "sampling"]
