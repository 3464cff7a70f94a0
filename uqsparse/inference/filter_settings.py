"""The choices of a particle filter, and their checks at the door."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from uqsparse.kernels import multinomial, residual, stratified, systematic
from uqsparse.kernels.arguments import require_count, require_fraction


class Proposal(NamedTuple):
    """Where a guided filter draws states from.

    Args:
        initial: `initial(parameters, inputs, observation)`, distribution of x_0 given y_0.
        transition: `transition(parameters, state, inputs, observation)`, distribution of x_t given x_{t-1} and y_t.

    Both must reach wherever the model can.
    """

    initial: Callable[..., Any]
    transition: Callable[..., Any]


class Scheme(NamedTuple):
    """A resampling scheme and the shape of the uniforms it takes for n ancestors.

    `rounds_evenly` tells that offspring counts differ from their means by rounding alone.
    """

    resample: Callable[..., Any]
    takes_one: bool
    rounds_evenly: bool

    def uniforms(self, n: int) -> tuple[int, ...]:
        """Shape of the uniforms."""
        return () if self.takes_one else (n,)


SCHEMES = {
    "systematic": Scheme(systematic, takes_one=True, rounds_evenly=True),
    "stratified": Scheme(stratified, takes_one=False, rounds_evenly=True),
    "multinomial": Scheme(multinomial, takes_one=False, rounds_evenly=False),
    "residual": Scheme(residual, takes_one=False, rounds_evenly=False),
}


def scheme_named(name: str) -> Scheme:
    """The resampling scheme of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in SCHEMES:
        raise ValueError(f"resampling must be one of {', '.join(SCHEMES)}, got {name!r}")
    return SCHEMES[name]


class FilterSettings(NamedTuple):
    """Static choices: a change recompiles."""

    n_particles: int
    scheme: Scheme
    ess_fraction: float
    proposal: Proposal | None
    lookahead: Callable[..., Any] | None


def check_filter(
    n_particles: int, resampling: str, ess_fraction: float, proposal: Any = None, lookahead: Any = None
) -> FilterSettings:
    """Check the options of a filter and put them together.

    Raises:
        ValueError: naming the option.
        TypeError: naming the option.
    """
    require_count("n_particles", n_particles, 2)
    scheme = scheme_named(resampling)
    if not 0 <= ess_fraction <= 1:
        raise ValueError(f"ess_fraction must lie between 0 and 1, got {ess_fraction}")
    if proposal is not None and not isinstance(proposal, Proposal):
        raise TypeError(f"proposal must be a Proposal(initial, transition), got a {type(proposal).__name__}")
    if lookahead is not None and not callable(lookahead):
        raise TypeError(f"lookahead must be a function, got a {type(lookahead).__name__}")
    return FilterSettings(int(n_particles), scheme, float(ess_fraction), proposal, lookahead)


def check_quantiles(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Raise unless every probability lies strictly between 0 and 1."""
    probabilities = tuple(float(q) for q in np.ravel(np.asarray(quantiles)))
    for q in probabilities:
        require_fraction("quantiles", q)
    return probabilities
