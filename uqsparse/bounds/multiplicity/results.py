"""What a Rashomon set answers: ranges, ambiguity, discrepancy, capacity, models; each says which set it is about."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from uqsparse.bounds.multiplicity.discrepancy import Status
from uqsparse.bounds.multiplicity.loss_level import LossLevel
from uqsparse.inference.arviz_io import to_arviz


@dataclass(frozen=True, eq=False)
class ViableRange:
    """The risks that near-optimal models give n persons.

    The smallest risk of a person lies between `lower_certificate` and `lower`, the largest between `upper` and
    `upper_certificate`: the inner ends are given by a model of the set, the outer ones are proved by duality.

    Args:
        risk: of the best model, shape (n,): probabilities, or means for the squared and the Poisson loss.
        lower: risk under `lower_models`, shape (n,).
        upper: risk under `upper_models`, shape (n,).
        lower_certificate: no model of the set gives less, shape (n,).
        upper_certificate: no model of the set gives more, shape (n,).
        lower_models: coefficients of the model that attains each `lower`, shape (n, d), the intercept first.
        upper_models: the same for `upper`.
        score_gap: the larger of the two distances between an attained score x^T w and its bound, shape (n,); +inf
            where there is no bound.
        has_certificate: whether both outer ends are bounds other than the trivial ones, shape (n,).
        converged: whether both programs were solved to their tolerance, shape (n,).
        level: which models count.
    """

    risk: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    lower_certificate: Float[np.ndarray, " n"]
    upper_certificate: Float[np.ndarray, " n"]
    lower_models: Float[np.ndarray, "n d"] = field(repr=False)
    upper_models: Float[np.ndarray, "n d"] = field(repr=False)
    score_gap: Float[np.ndarray, " n"]
    has_certificate: Bool[np.ndarray, " n"]
    converged: Bool[np.ndarray, " n"]
    level: LossLevel

    @property
    def width(self) -> Float[np.ndarray, " n"]:
        """Largest attained risk minus the smallest."""
        return self.upper - self.lower

    @property
    def certificate_width(self) -> Float[np.ndarray, " n"]:
        """How much wider the proved range is, at the worse end, in units of the risk."""
        return np.maximum(self.lower - self.lower_certificate, self.upper_certificate - self.upper)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON or a table: `persons` is a dictionary of columns, `level` says which models count."""
        columns = {
            name: getattr(self, name).tolist()
            for name in ("risk", "lower", "upper", "lower_certificate", "upper_certificate", "width", "has_certificate")
        }
        return {"persons": columns, "level": self.level.to_dict()}


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """The share of persons whose risk some near-optimal model moves by delta or more.

    Args:
        delta: shift of the risk; a number, or several, shape (m,).
        lower: share moved by a model that was found, of the shape of `delta`.
        upper: share not proved to be immovable, of the same shape.
        level: which models count.
    """

    delta: Any
    lower: Any
    upper: Any
    level: LossLevel

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return _plain(self, "delta", "lower", "upper")


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """The largest share of persons whose risk a single near-optimal model moves by delta or more.

    Args:
        delta: shift of the risk; a number, or several, shape (m,).
        lower: share that `model` moves, of the shape of `delta`.
        upper: no model of the set moves a larger share, of the same shape.
        model: coefficients, the intercept first, shape (d,) or (m, d).
        status: "proved" where the two are equal, "time limit", or "tolerance" where the rest hangs on differences below
            the solver's tolerance; one word or a tuple of m.
        n_rounds: mixed-integer programs solved, all deltas together.
        n_cuts: tangents used, all deltas together.
        level: which models count.
    """

    delta: Any
    lower: Any
    upper: Any
    model: Float[np.ndarray, "... d"] = field(repr=False)
    status: Status | tuple[Status, ...]
    n_rounds: int
    n_cuts: int
    level: LossLevel

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**_plain(self, "delta", "lower", "upper", "model"), "status": self.status}


@dataclass(frozen=True, eq=False)
class RashomonCapacity:
    """Two to the power of the Rashomon capacity: 1 where all models agree, at most the number of classes.

    Args:
        lower: from models that were found, shape (n,).
        upper: no set of models within the proved ranges has more, shape (n,).
        level: which models count.
    """

    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    level: LossLevel

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return _plain(self, "lower", "upper")


@dataclass(frozen=True, eq=False)
class RashomonSample:
    """Models drawn from the set.

    Args:
        models: coefficients, the intercept first, shape (chain, draw, d).
        loss: training loss of each, at most the level, shape (chain, draw).
        method: "hit-and-run": uniform on the set of coefficients; "nuts": posterior, restricted to the set.
        acceptance: share of the candidates, or of the posterior draws, that lay in the set.
        level: which models count.
    """

    models: Float[np.ndarray, "chain draw d"] = field(repr=False)
    loss: Float[np.ndarray, "chain draw"] = field(repr=False)
    method: str
    acceptance: float
    level: LossLevel

    def to_arviz(self) -> Any:
        """ArviZ data with the variable `coefficients`, for diagnostics of the chains."""
        groups = {"posterior": {"coefficients": self.models}, "sample_stats": {"loss": self.loss}}
        return to_arviz(groups, {"algorithm": self.method, "level": str(self.level)})


@dataclass(frozen=True)
class EpsilonForMass:
    """The tolerance at which the set holds a given posterior probability.

    Args:
        absolute: epsilon for `tolerance="absolute"`.
        relative: epsilon for `tolerance="relative"`.
        mass: posterior probability of the set.
        how: "laplace": chi-squared quantile, right as n grows; "mcmc": quantile of posterior draws.
        standard_error: Monte Carlo standard error of `absolute`; 0 for "laplace", which has an error of another kind.
    """

    absolute: float
    relative: float
    mass: float
    how: str
    standard_error: float


def _plain(record: Any, *names: str) -> dict[str, Any]:
    plain = {name: np.asarray(getattr(record, name)).tolist() for name in names}
    return {**plain, "level": record.level.to_dict()}
