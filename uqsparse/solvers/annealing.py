"""A schedule for expectation maximisation: temperature, share of the data, and noise on the parameters."""

import dataclasses
import math

from uqsparse.kernels.arguments import require_count

# Share of the iterations in which a cut grows to its full size.
CUT_RAMP = 2 / 3


@dataclasses.dataclass(frozen=True)
class Annealing:
    """How temperature, cut and parameter noise change from iteration to iteration.

    Args:
        start: temperature of the first iteration, at least 1.
        n_iter: number of iterations, at least 1.
        fraction: share of the iterations in which the temperature falls linearly to 1, in [0, 1].
        cut_ramp: share of the iterations in which the cut grows linearly to its full size, in (0, 1]. A full cut keeps
            the share of the data that the prior expects to have at most gamma active causes: the best explained
            ones, since the others are explained wrongly. None cuts nothing.
        parameter_noise: standard deviation of the noise added to the dictionary after the first iteration, as a share
            of the root mean square of its entries; it falls to 0 as the temperature falls to 1.

    Raises:
        ValueError: an argument is out of range.

    Source: Lücke & Eggert (2010), Expectation truncation and the benefits of preselection in training generative
    models, JMLR 11; Ueda & Nakano (1998), Deterministic annealing EM algorithm.

    >>> round(Annealing(3.0, 10, fraction=0.5).temperature(4), 3)
    1.4
    """

    start: float = 1.0
    n_iter: int = 100
    fraction: float = 0.8
    cut_ramp: float | None = CUT_RAMP
    parameter_noise: float = 0.0

    def __post_init__(self):
        require_count("n_iter", self.n_iter, 1)
        if not 1 <= self.start < math.inf:
            raise ValueError(f"start must be a temperature of at least 1, got {self.start!r}")
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction!r}")
        if self.cut_ramp is not None and not 0 < self.cut_ramp <= 1:
            raise ValueError(f"cut_ramp must be None or lie in (0, 1], got {self.cut_ramp!r}")
        if not 0 <= self.parameter_noise < math.inf:
            raise ValueError(f"parameter_noise must be at least 0, got {self.parameter_noise!r}")

    def temperature(self, iteration: int) -> float:
        """Temperature of an iteration, counted from 0."""
        return self.start + (1 - self.start) * self._cooled(iteration)

    def cut(self, iteration: int) -> float:
        """Size of the cut in an iteration, from 0 for none to 1 for full."""
        return 0.0 if self.cut_ramp is None else min(1.0, iteration / (self.cut_ramp * self.n_iter))

    def noise(self, iteration: int) -> float:
        """Size of the noise added to the dictionary after an iteration."""
        return self.parameter_noise * (1 - self._cooled(iteration))

    def revives(self, iteration: int) -> bool:
        """Whether dead causes are started again after an iteration: while the temperature is above 1."""
        return self.temperature(iteration) > 1

    def _cooled(self, iteration: int) -> float:
        return min(1.0, iteration / (self.fraction * self.n_iter)) if self.fraction else 1.0
