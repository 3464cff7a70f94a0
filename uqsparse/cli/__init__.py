"""The command line, one file a command: `uqsparse sample`, `check`, `bench`, `list`."""

from uqsparse.cli import benchmarks, checking, listing, sampling
from uqsparse.cli.application import app, main

__all__ = ["app", "benchmarks", "checking", "listing", "main", "sampling"]
