"""Sparse polynomials in several variables, and rings in which some powers are rewritten by a rule."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

Monomial = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial with real coefficients. Make one from `variables(n)` with `+`, `-`, `*` and `**`.

    Args:
        terms: coefficients by exponents; all exponents have the length of the number of variables.

    >>> x, y = variables(2)
    >>> print((x + y) ** 2 - 1)
    -1 + 1 x1^2 + 2 x0 x1 + 1 x0^2
    """

    terms: Mapping[Monomial, float]
    n_variables: int

    def __post_init__(self):
        kept = {}
        for powers, coefficient in self.terms.items():
            if len(powers) != self.n_variables or any(power < 0 or power != int(power) for power in powers):
                raise ValueError(f"exponents must be {self.n_variables} integers of at least 0, got {powers}")
            if not np.isfinite(coefficient):
                raise ValueError(f"coefficients must be finite, got {coefficient}")
            if coefficient != 0:
                kept[tuple(int(power) for power in powers)] = float(coefficient)
        object.__setattr__(self, "terms", dict(sorted(kept.items())))

    @property
    def degree(self) -> int:
        """Largest total degree of a term; 0 for constants."""
        return max((sum(powers) for powers in self.terms), default=0)

    def __call__(self, points: Float[ArrayLike, "*m n"]) -> Float[np.ndarray, "*m"]:
        """Values at points of shape (..., n)."""
        points = np.asarray(points, dtype=np.float64)
        if points.shape[-1:] != (self.n_variables,):
            raise ValueError(f"points must have shape (..., {self.n_variables}), got {points.shape}")
        total = np.zeros(points.shape[:-1])
        for powers, coefficient in self.terms.items():
            total = total + coefficient * np.prod(points ** np.array(powers, dtype=int), axis=-1)
        return total

    def _other(self, other: Any) -> "Polynomial | None":
        if isinstance(other, Polynomial):
            if other.n_variables != self.n_variables:
                raise ValueError(f"polynomials in {self.n_variables} and {other.n_variables} variables do not mix")
            return other
        if isinstance(other, int | float | np.integer | np.floating):
            return Polynomial({(0,) * self.n_variables: float(other)}, self.n_variables)
        return None

    def __add__(self, other: Any) -> "Polynomial":
        if (other := self._other(other)) is None:
            return NotImplemented
        terms = dict(self.terms)
        for powers, coefficient in other.terms.items():
            terms[powers] = terms.get(powers, 0.0) + coefficient
        return Polynomial(terms, self.n_variables)

    def __mul__(self, other: Any) -> "Polynomial":
        if (other := self._other(other)) is None:
            return NotImplemented
        terms: dict[Monomial, float] = {}
        for (a, one), (b, two) in itertools.product(self.terms.items(), other.terms.items()):
            powers = tuple(map(sum, zip(a, b, strict=True)))
            terms[powers] = terms.get(powers, 0.0) + one * two
        return Polynomial(terms, self.n_variables)

    def __pow__(self, exponent: int) -> "Polynomial":
        if not isinstance(exponent, int) or exponent < 0:
            raise ValueError(f"exponent must be an integer of at least 0, got {exponent!r}")
        power = Polynomial({(0,) * self.n_variables: 1.0}, self.n_variables)
        for _ in range(exponent):
            power = power * self
        return power

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> "Polynomial":
        return self * -1.0

    def __sub__(self, other: Any) -> "Polynomial":
        if (other := self._other(other)) is None:
            return NotImplemented
        return self + other * -1.0

    def __rsub__(self, other: Any) -> "Polynomial":
        return -self + other

    def __str__(self) -> str:
        def named(powers: Monomial) -> str:
            return " ".join(f"x{i}" if p == 1 else f"x{i}^{p}" for i, p in enumerate(powers) if p)

        return " + ".join(f"{c:g} {named(powers)}".strip() for powers, c in self.terms.items()) or "0"


def variables(n: int) -> tuple[Polynomial, ...]:
    """The n coordinates, as polynomials.

    >>> x, y = variables(2)
    >>> float((x * y - 1)([2.0, 3.0]))
    5.0
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    return tuple(Polynomial({tuple(int(i == j) for j in range(n)): 1.0}, n) for i in range(n))


@dataclasses.dataclass(frozen=True)
class PolynomialRing:
    """Polynomials in which some powers are rewritten and some monomials count as odd.

    Args:
        n_variables: how many variables.
        rules: what a power of one variable is replaced by, such as `{(2, 0): 1 - y * y}` for x^2 -> 1 - y^2 on the
            circle. No rule may lead back to a power that it removes, and at most one is given for each variable.
        even: variables such that the problem stays the same when all of them change sign together. The moments of
            monomials of odd degree in them may then be taken as zero.
        weights: degree of each variable; all ones if not given.

    Raises:
        ValueError: a rule's left side is not a power of one variable, its right side holds a power that some rule
            removes, or the rules do not agree with the evenness.
    """

    n_variables: int
    rules: Mapping[Monomial, Polynomial] = dataclasses.field(default_factory=dict)
    even: tuple[int, ...] = ()
    weights: tuple[float, ...] | None = None
    _cache: dict[Monomial, dict[Monomial, float]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        powers = {}
        for left in self.rules:
            used = [i for i, power in enumerate(left) if power]
            if len(left) != self.n_variables or len(used) != 1 or used[0] in powers:
                raise ValueError(f"rules must each rewrite a power of one variable, one rule a variable, got {left}")
            powers[used[0]] = left[used[0]]
        for left, right in self.rules.items():
            for term in right.terms:
                if any(term[i] >= power for i, power in powers.items()):
                    raise ValueError(f"the rule for {left} leads to {term}, which a rule rewrites again")
                if self._is_odd(term) != self._is_odd(left):
                    raise ValueError(f"the rule for {left} mixes monomials even and odd in the variables {self.even}")
        if self.weights is not None and (len(self.weights) != self.n_variables or min(self.weights) <= 0):
            raise ValueError(f"weights must be {self.n_variables} positive numbers, got {self.weights}")

    def _is_odd(self, monomial: Monomial) -> bool:
        return sum(monomial[i] for i in self.even) % 2 == 1

    def weight(self, monomial: Monomial) -> float:
        """Weighted degree of a monomial."""
        return sum(power * (self.weights[i] if self.weights else 1.0) for i, power in enumerate(monomial))

    def is_odd(self, monomial: Monomial) -> bool:
        """Whether the monomial changes sign with the variables of `even`."""
        return self._is_odd(monomial)

    def normal_form(self, monomial: Monomial) -> dict[Monomial, float]:
        """A monomial rewritten by the rules, as coefficients by exponents."""
        if (known := self._cache.get(monomial)) is not None:
            return known
        form: dict[Monomial, float] = {monomial: 1.0}
        for left, right in self.rules.items():
            if all(a >= b for a, b in zip(monomial, left, strict=True)):
                rest = tuple(a - b for a, b in zip(monomial, left, strict=True))
                form = {}
                for term, coefficient in right.terms.items():
                    raised = tuple(map(sum, zip(rest, term, strict=True)))
                    _accumulate(form, self.normal_form(raised), coefficient)
                break
        self._cache[monomial] = form
        return form

    def reduce(self, polynomial: Polynomial) -> Polynomial:
        """A polynomial rewritten by the rules."""
        form: dict[Monomial, float] = {}
        for monomial, coefficient in polynomial.terms.items():
            _accumulate(form, self.normal_form(monomial), coefficient)
        return Polynomial(form, self.n_variables)

    def is_reduced(self, monomial: Monomial) -> bool:
        """Whether no rule applies to the monomial."""
        return not any(all(a >= b for a, b in zip(monomial, left, strict=True)) for left in self.rules)

    def monomials(self, order: float, odd: bool = False) -> list[Monomial]:
        """Monomials of at most some weighted degree to which no rule applies, by degree.

        Args:
            order: largest weighted degree.
            odd: those that change sign with the variables of `even`, instead of those that do not.

        >>> circle = PolynomialRing(2, {(2, 0): 1 - variables(2)[1] ** 2})
        >>> circle.monomials(1)
        [(0, 0), (0, 1), (1, 0)]
        """
        tops = [
            int(np.floor(order / (self.weights[i] if self.weights else 1.0) + 1e-9)) for i in range(self.n_variables)
        ]
        found: list[Monomial] = [()]
        for top in tops:
            found = [(*one, p) for one in found for p in range(top + 1) if self._fits((*one, p), order)]
        kept = [one for one in found if self._is_odd(one) == odd and self.is_reduced(one)]
        return sorted(kept, key=lambda one: (self.weight(one), one))

    def _fits(self, start: Sequence[int], order: float) -> bool:
        padded = (*start, *([0] * (self.n_variables - len(start))))
        return self.weight(padded) <= order + 1e-9


def _accumulate(form: dict[Monomial, float], terms: Mapping[Monomial, float], factor: float) -> None:
    for monomial, coefficient in terms.items():
        form[monomial] = form.get(monomial, 0.0) + factor * coefficient


def products(left: Iterable[Monomial], right: Iterable[Monomial]) -> list[list[Monomial]]:
    """Sums of exponents, each of `left` with each of `right`."""
    right = list(right)
    return [[tuple(map(sum, zip(a, b, strict=True))) for b in right] for a in left]
