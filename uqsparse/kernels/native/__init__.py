"""Sparse products compiled for the vectors of the machine, called through XLA's foreign function interface."""

from uqsparse.kernels.native.library import Library, library

__all__ = ["Library", "library"]
