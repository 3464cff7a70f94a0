"""Penalties for sparse codes: what a number costs, and the proximal map of that cost.

A penalty is a frozen record, and a pytree whose leaves are its parameters: compiled functions that take one are
compiled once for its kind, not for each strength. Strengths of different kinds are not comparable: compare kinds at
equal measured sparsity.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace, is_traced
from uqsparse.kernels.thresholding import (
    cel0_as_mcp,
    cel0_threshold,
    half_threshold,
    hard_threshold,
    log_threshold,
    mcp_threshold,
    scad_threshold,
    soft_threshold,
    two_thirds_threshold,
)

Record = TypeVar("Record", bound=type)


@dataclass_transform(frozen_default=True)
def _penalty(record: Record) -> Record:
    kind = dataclasses.dataclass(frozen=True)(record)
    names = [field.name for field in dataclasses.fields(kind)]

    def flatten(penalty: Any) -> tuple[list[Any], type]:
        return [getattr(penalty, name) for name in names], kind

    def unflatten(_: type, leaves: Any) -> Any:
        penalty = object.__new__(kind)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(penalty, name, leaf)
        return penalty

    # Not `register_dataclass`: in JAX 0.10 structures of two classes with the same fields compare equal, so that a
    # compiled function may be handed another penalty's program.
    jax.tree_util.register_pytree_node(kind, flatten, unflatten)
    return kind


class Penalty:
    """What every penalty offers: a name, `value` and `prox`, both elementwise.

    The objective that codes minimise is `1/2 |x - dictionary r|^2 + sum_j value(r_j)`.
    """

    name: ClassVar[str]
    convex: ClassVar[bool] = False
    lambda_: Any

    def __post_init__(self):
        _require(self, "lambda_", lambda value: value >= 0, "nonnegative and finite")

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        """Cost of each number, strength included; the same shape."""
        raise NotImplementedError

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        """The minimiser of `1/2 (w - v)^2 + step value(w)`, elementwise; `step` positive."""
        raise NotImplementedError

    def require_step(self, step: float) -> None:
        """Raise ValueError where the proximal map with this step is not the stated one.

        Raises:
            ValueError: the step is not positive, or too large for the penalty's curvature.
        """
        if not 0 < step < np.inf:
            raise ValueError(f"step must be a positive number, got {step!r}")


@_penalty
class L1(Penalty):
    """`lambda_ |r|`, the only convex one; shrinks what it keeps.

    Args:
        lambda_: strength, nonnegative.

    >>> L1(0.5).prox(np.array([2.0, 0.3]), step=1.0).tolist()
    [1.5, 0.0]
    """

    name: ClassVar[str] = "l1"
    convex: ClassVar[bool] = True
    lambda_: Any

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        return self.lambda_ * abs(r)

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return soft_threshold(v, step * self.lambda_)


@_penalty
class L0(Penalty):
    """`lambda_ [r != 0]`: counts.

    Args:
        lambda_: price of a nonzero, nonnegative.
    """

    name: ClassVar[str] = "l0"
    lambda_: Any

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        return array_namespace(r, self.lambda_).where(r != 0, self.lambda_, 0.0 * r)

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return hard_threshold(v, step * self.lambda_)


@_penalty
class LHalf(Penalty):
    """`lambda_ |r|^(1/2)`.

    Args:
        lambda_: strength, nonnegative.
    """

    name: ClassVar[str] = "l1/2"
    lambda_: Any

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        xp = array_namespace(r, self.lambda_)
        return self.lambda_ * xp.where(r == 0, 0.0, xp.sqrt(xp.where(r == 0, 1.0, abs(r))))

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return half_threshold(v, step * self.lambda_)


@_penalty
class LTwoThirds(Penalty):
    """`lambda_ |r|^(2/3)`.

    Args:
        lambda_: strength, nonnegative.
    """

    name: ClassVar[str] = "l2/3"
    lambda_: Any

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        xp = array_namespace(r, self.lambda_)
        return self.lambda_ * xp.where(r == 0, 0.0, xp.cbrt(xp.where(r == 0, 1.0, abs(r))) ** 2)

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return two_thirds_threshold(v, step * self.lambda_)


@_penalty
class Log(Penalty):
    """`lambda_ log(1 + |r| / epsilon)`.

    Args:
        lambda_: strength, nonnegative.
        epsilon: size from which numbers count as large, positive.
    """

    name: ClassVar[str] = "log"
    lambda_: Any
    epsilon: Any = 0.1

    def __post_init__(self):
        super().__post_init__()
        _require(self, "epsilon", lambda value: value > 0, "positive and finite")

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        return self.lambda_ * array_namespace(r, self.lambda_, self.epsilon).log1p(abs(r) / self.epsilon)

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return log_threshold(v, step * self.lambda_, self.epsilon)


@_penalty
class SCAD(Penalty):
    """Smoothly clipped absolute deviation: slope `lambda_` up to `lambda_`, flat from `b lambda_` on.

    Args:
        lambda_: slope at zero, nonnegative.
        b: larger than 2 for the usual step of 1; larger than `1 + step` in general.
    """

    name: ClassVar[str] = "scad"
    lambda_: Any
    b: Any = 3.7

    def __post_init__(self):
        super().__post_init__()
        _require(self, "b", lambda value: value > 1, "larger than 1 and finite")

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        xp = array_namespace(r, self.lambda_, self.b)
        size, slope, b = abs(r), self.lambda_, self.b
        between = (2.0 * b * slope * size - size**2 - slope**2) / (2.0 * (b - 1.0))
        flat = slope**2 * (b + 1.0) / 2.0
        return xp.where(size <= slope, slope * size, xp.where(size <= b * slope, between, flat))

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return scad_threshold(v, self.lambda_, self.b, step)

    def require_step(self, step: float) -> None:
        super().require_step(step)
        if not np.all(np.asarray(self.b) > 1.0 + step):
            raise ValueError(f"b must be larger than 1 + step = {1 + step:g}, got {np.min(self.b):g}")


@_penalty
class MCP(Penalty):
    """Minimax concave penalty: slope `lambda_` at zero that falls to 0 at `gamma lambda_`, flat from there.

    Args:
        lambda_: slope at zero, nonnegative.
        gamma: positive, and larger than the step.
    """

    name: ClassVar[str] = "mcp"
    lambda_: Any
    gamma: Any = 3.0

    def __post_init__(self):
        super().__post_init__()
        _require(self, "gamma", lambda value: value > 0, "positive and finite")

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        return _mcp_value(r, self.lambda_, self.gamma)

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return mcp_threshold(v, self.lambda_, self.gamma, step)

    def require_step(self, step: float) -> None:
        super().require_step(step)
        if not np.all(np.asarray(self.gamma) > step):
            raise ValueError(f"gamma must be larger than step = {step:g}, got {np.min(self.gamma):g}")


@_penalty
class CEL0(Penalty):
    """Continuous exact relaxation of l0: the same global minimisers as `L0(lambda_)`, and fewer local ones.

    Args:
        lambda_: price of a nonzero, nonnegative.
        column_norm: norms of the dictionary's columns, positive; one number, or shape (M,). With other norms than the
            dictionary's the relaxation is not exact.

    Source: Soubies, Blanc-Feraud & Aubert (2015), A continuous exact l0 penalty (CEL0) for least squares regularized
    problem.
    """

    name: ClassVar[str] = "cel0"
    lambda_: Any
    column_norm: Any = 1.0

    def __post_init__(self):
        super().__post_init__()
        _require(self, "column_norm", lambda value: value > 0, "positive and finite")

    def value(self, r: Float[AnyArray, "*d"]) -> Float[AnyArray, "*d"]:
        return _mcp_value(r, *cel0_as_mcp(self.lambda_, self.column_norm))

    def prox(self, v: Float[AnyArray, "*d"], step: Any) -> Float[AnyArray, "*d"]:
        return cel0_threshold(v, self.lambda_, self.column_norm, step)


PENALTIES: dict[str, Callable[..., Penalty]] = {
    kind.name: kind for kind in (L1, L0, LHalf, LTwoThirds, Log, SCAD, MCP, CEL0)
}


def penalty_named(name: str, strength: Any, **options: Any) -> Penalty:
    """The penalty of a name.

    Args:
        name: "l1", "l0", "l1/2", "l2/3", "log", "scad", "mcp" or "cel0".
        strength: its `lambda_`, nonnegative.
        **options: its other parameters: `epsilon` of "log", `b` of "scad", `gamma` of "mcp", `column_norm` of "cel0".

    Raises:
        ValueError: the name is unknown, or a parameter is out of range.
        TypeError: the penalty has no such parameter.

    >>> penalty_named("mcp", 0.2, gamma=2.0)
    MCP(lambda_=0.2, gamma=2.0)
    """
    if name not in PENALTIES:
        raise ValueError(f"penalty must be one of {', '.join(map(repr, PENALTIES))}, got {name!r}")
    return PENALTIES[name](strength, **options)


def _mcp_value(r: AnyArray, strength: Any, gamma: Any) -> AnyArray:
    inner = array_namespace(r, strength, gamma).minimum(abs(r), gamma * strength)
    return strength * inner - inner**2 / (2.0 * gamma)


def _require(penalty: Penalty, field: str, holds: Callable[[Any], Any], words: str) -> None:
    """Refuse a parameter out of range; what is no number is a placeholder of JAX's, and passes."""
    value = getattr(penalty, field)
    if isinstance(value, bool | str) or value is None:
        raise TypeError(f"{field} of {type(penalty).__name__} must be {words}, got {value!r}")
    if isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not is_traced(value):
        numbers = np.asarray(value)
        if not (np.isfinite(numbers).all() and np.all(holds(numbers))):
            raise ValueError(f"{field} of {type(penalty).__name__} must be {words}, got {value!r}")
