"""Probabilistic programming, uncertainty and sparse models on JAX.

Every answer comes with evidence that can be checked. Importing this package changes no global JAX flag.
"""

from importlib.metadata import version

__version__ = version("uqsparse")
__all__ = ["__version__"]
