"""Moment relaxations: bounds on a polynomial over a set given by polynomial inequalities, proved by semidefinite duals.

A point x of the set is replaced by the moments y_a = E[x^a] of a distribution on it. The set's inequalities become
linear matrix inequalities on y, and the largest E[p] is an upper bound on the largest p(x).

Source: Lasserre (2001), Global optimization with polynomials and the problem of moments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import ArrayLike, Float

from uqsparse.solvers.conic import Cone, ConicProblem, ConicSolution, Status, solve_conic, triangle
from uqsparse.solvers.dual_polish import search_emptiness, tightest_bound
from uqsparse.solvers.polynomials import Monomial, Polynomial, PolynomialRing
from uqsparse.solvers.safe_bound import EmptinessCertificate

Constraint = Polynomial | Sequence[Sequence[Polynomial]]
Index = dict[Monomial, int]


@dataclasses.dataclass(frozen=True)
class LocalisingPattern:
    """Where the coefficients of a matrix of polynomials G go in the block E[G (x) b b^T].

    Args:
        n_rows: rows of the block's triangle.
        rows: row of each nonzero entry.
        columns: column of each nonzero entry, that is, its moment; 0 is the constant.
        values: entries as linear maps of the coefficients, shape (n_entries, n_coefficients).
    """

    n_rows: int
    rows: np.ndarray
    columns: np.ndarray
    values: sp.csr_array

    def maps(self, coefficients: Float[np.ndarray, " n_coefficients"], n_columns: int) -> sp.csr_array:
        """The block's affine map for these coefficients, shape (n_rows, n_columns)."""
        data = self.values @ coefficients
        return sp.csr_array((data, (self.rows, self.columns)), shape=(self.n_rows, n_columns))


def localising_pattern(
    ring: PolynomialRing,
    index: Index,
    support: Sequence[Monomial],
    basis: Sequence[Monomial],
    entries: Any = ((0,),),
) -> LocalisingPattern:
    """The pattern of E[G (x) b b^T] for matrices G of polynomials over one common support.

    Args:
        ring: how monomials are rewritten; odd ones are dropped.
        index: columns of the moments; those that are new are added to it.
        support: monomials of the polynomials, in the order of their coefficients.
        basis: the monomials b.
        entries: number of the polynomial at each place of G, shape (d, d), symmetric, -1 for zero. The coefficients of
            polynomial k are those from `k len(support)` on.
    """
    entries = np.asarray(entries, dtype=int)
    d, n, width = len(entries), len(basis), len(support)
    side = d * n
    # expansions of b_i b_j m_s, which all places of G share
    found: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for j in range(n):
        for i in range(j + 1):
            pair = tuple(map(sum, zip(basis[i], basis[j], strict=True)))
            terms = []
            for s, monomial in enumerate(support):
                if ring.is_odd(raised := tuple(map(sum, zip(pair, monomial, strict=True)))):
                    continue
                for term, factor in ring.normal_form(raised).items():
                    if factor:
                        terms.append((index.setdefault(term, len(index)), s, factor))
            found[i, j] = found[j, i] = terms
    places: dict[tuple[int, int], int] = {}
    triples: list[tuple[int, int, float]] = []
    upper_rows, upper_columns = triangle(side)
    for row, (left, right) in enumerate(zip(upper_rows.tolist(), upper_columns.tolist(), strict=True)):
        (a, i), (b, j) = divmod(left, n), divmod(right, n)
        if (polynomial := int(entries[a, b])) < 0:
            continue
        for column, s, factor in found[i, j]:
            place = places.setdefault((row, column), len(places))
            triples.append((place, polynomial * width + s, factor))
    n_coefficients = (int(entries.max()) + 1) * width
    at, which, factors = np.array(triples).reshape(-1, 3).T if triples else np.zeros((3, 0))
    values = sp.csr_array((factors, (at.astype(int), which.astype(int))), shape=(len(places), n_coefficients))
    rows, columns = np.array(list(places), dtype=int).reshape(-1, 2).T
    return LocalisingPattern(side * (side + 1) // 2, rows, columns, values)


def moment_vector(ring: PolynomialRing, index: Index, polynomial: Polynomial) -> Float[np.ndarray, " columns"]:
    """Coefficients of E[p] on the moments, the constant first.

    Raises:
        ValueError: p has a monomial that is no moment of the relaxation.
    """
    vector = np.zeros(len(index))
    for monomial, coefficient in ring.reduce(polynomial).terms.items():
        if ring.is_odd(monomial):
            continue
        if monomial not in index:
            raise ValueError(f"the relaxation has no moment for the monomial {monomial}: its order is too low")
        vector[index[monomial]] += coefficient
    return vector


@dataclasses.dataclass(frozen=True)
class MomentBound:
    """A proved bound on a polynomial over the set.

    Args:
        bound: above the largest value (below the least, for `minimise`) of the polynomial on the set.
        solver_value: what the solver reports, not a bound.
        correction: `bound - solver_value`.
        moments: the solver's E[x^a], by exponents.
        status: how the solver stopped; "infeasible" with `empty` set means that the set is proved empty.
        empty: proof that the set has no point in the box, if that was found.
        solution: all that the solver returned.
    """

    bound: float
    solver_value: float
    correction: float
    moments: Mapping[Monomial, float]
    status: Status
    empty: EmptinessCertificate | None
    solution: ConicSolution


@dataclasses.dataclass(frozen=True)
class EnclosingBall:
    """A ball proved to hold the image of the set.

    Args:
        centre: shape (k,).
        radius: inf if nothing was proved; 0 if the set is empty.
        bound: its square.
        solver_value: the solver's squared radius, not a bound.
        correction: `bound - solver_value`.
        status: how the solver stopped.
        empty: proof that the set has no point in the box, if that was found.
        solution: all that the solver returned.
    """

    centre: Float[np.ndarray, " k"]
    radius: float
    bound: float
    solver_value: float
    correction: float
    status: Status
    empty: EmptinessCertificate | None
    solution: ConicSolution


@dataclasses.dataclass(frozen=True)
class MomentSDP:
    """The moment relaxation of a set, `{x : g(x) >= 0, h(x) = 0}`, for bounds on polynomials over it.

    Args:
        n_variables: how many variables x has.
        order: half the largest (weighted) degree of the moments.
        at_least_zero: polynomials g, or symmetric matrices of polynomials that have to be positive semidefinite.
        equal_zero: polynomials h. An equation such as x^2 = 1 - y^2 is better given as a rule.
        rules: powers that are rewritten, see `PolynomialRing`.
        even: variables that may all change sign together without changing the set, see `PolynomialRing`.
        weights: degree of each variable; all ones if not given.
        moment_bases: monomials b of the blocks E[b b^T]; by default all up to the order, even and odd ones apart.
        localising_bases: for each of `at_least_zero` the bases of its blocks; None stands for the default, all
            monomials up to the degree that the order leaves.

    Raises:
        ValueError: numbers of variables differ, a constraint's degree exceeds twice the order, a matrix is not
            symmetric, or a constraint is odd in the variables of `even`.

    Source: Lasserre (2001), Global optimization with polynomials and the problem of moments, section 4; matrices:
    Henrion & Lasserre (2006), Convergent relaxations of polynomial matrix inequalities and static output feedback.

    >>> from uqsparse.solvers.polynomials import variables
    >>> x, y = variables(2)
    >>> disc = MomentSDP(2, order=1, at_least_zero=(1 - x * x - y * y,))
    >>> round(disc.maximise(x + y, box=[1.0, 1.0]).bound, 5)
    1.41421
    """

    n_variables: int
    order: float
    at_least_zero: Sequence[Constraint] = ()
    equal_zero: Sequence[Polynomial] = ()
    rules: Mapping[Monomial, Polynomial] = dataclasses.field(default_factory=dict)
    even: tuple[int, ...] = ()
    weights: tuple[float, ...] | None = None
    moment_bases: Sequence[Sequence[Monomial]] | None = None
    localising_bases: Sequence[Sequence[Sequence[Monomial]] | None] | None = None
    ring: PolynomialRing = dataclasses.field(init=False, repr=False)
    cones: tuple[Cone, ...] = dataclasses.field(init=False, repr=False)
    index: Index = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        ring = PolynomialRing(self.n_variables, self.rules, self.even, self.weights)
        object.__setattr__(self, "ring", ring)
        index: Index = {(0,) * self.n_variables: 0}
        blocks = []
        moment_bases = self.moment_bases if self.moment_bases is not None else self._bases(self.order)
        one = [(0,) * self.n_variables]
        blocks += [(localising_pattern(ring, index, one, basis), np.ones(1)) for basis in moment_bases]
        localising = self.localising_bases or [None] * len(self.at_least_zero)
        if len(localising) != len(self.at_least_zero):
            raise ValueError(f"localising_bases must have {len(self.at_least_zero)} entries, got {len(localising)}")
        for number, (constraint, bases) in enumerate(zip(self.at_least_zero, localising, strict=True)):
            entries, polynomials = self._matrix(f"at_least_zero[{number}]", constraint)
            if bases is None:
                bases = self._bases(self.order - self._weight(f"at_least_zero[{number}]", polynomials) / 2)
            support = sorted({term for polynomial in polynomials for term in polynomial.terms})
            coefficients = np.array([[one.terms.get(term, 0.0) for term in support] for one in polynomials]).ravel()
            blocks += [(localising_pattern(ring, index, support, basis, entries), coefficients) for basis in bases]
        equations = self._equations(index)
        cones = []
        for pattern, coefficients in blocks:
            maps = pattern.maps(coefficients, len(index))
            cones.append(Cone("nonnegative" if pattern.n_rows == 1 else "semidefinite", maps))
        if equations:
            maps = sp.lil_array((len(equations), len(index)))
            for row, terms in enumerate(equations):
                for column, value in terms.items():
                    maps[row, column] = value
            cones.append(Cone("zero", sp.csr_array(maps)))
        object.__setattr__(self, "cones", tuple(cones))
        object.__setattr__(self, "index", index)

    @property
    def n_moments(self) -> int:
        """How many moments are free, the constant one left out."""
        return len(self.index) - 1

    def maximise(self, polynomial: Polynomial, box: Float[ArrayLike, " n"], **options: Any) -> MomentBound:
        """A proved upper bound on a polynomial over the points of the set with `|x_i| <= box[i]`.

        Args:
            polynomial: what to bound.
            box: bounds on the variables, shape (n_variables,). If the set is known to lie in the box, the bound is one
                over the set. They enter only through the solver's residuals: a coarse box costs little.
            **options: of `solve_conic`.

        Raises:
            ValueError: the order is too low for the polynomial, or the box is wrong.
        """
        return self._bound(polynomial, box, True, options)

    def minimise(self, polynomial: Polynomial, box: Float[ArrayLike, " n"], **options: Any) -> MomentBound:
        """A proved lower bound, otherwise as `maximise`."""
        return self._bound(polynomial, box, False, options)

    def enclosing_ball(self, image: Sequence[Polynomial], box: Float[ArrayLike, " n"], **options: Any) -> EnclosingBall:
        """A small ball that holds the image of the set under a polynomial map, proved.

        Args:
            image: polynomials P = (P_1, ..., P_k).
            box: bounds on the variables, as for `maximise`.
            **options: of `solve_conic`.

        Raises:
            ValueError: the order is too low for |P|^2, or the box is wrong.

        Source: Tang, Lasserre & Yang (2023), Uncertainty quantification of set-membership estimation in control and
        perception: revisiting the minimum enclosing ellipsoid: max_y E|P|^2 - |E P|^2.
        """
        largest = self.largest_moments(box)
        image = [self.ring.reduce(one) for one in image]
        squares = sum((one * one for one in image), start=Polynomial({}, self.n_variables))
        square = moment_vector(self.ring, self.index, squares)
        means = np.stack([moment_vector(self.ring, self.index, one) for one in image])
        return ball_of_moments(self.cones, square, means, largest, options)

    def largest_moments(self, box: Float[ArrayLike, " n"]) -> Float[np.ndarray, " n_moments"]:
        """Bounds on the moments that follow from `|x_i| <= box[i]`."""
        box = np.asarray(box, dtype=np.float64)
        if box.shape != (self.n_variables,) or not (box >= 0).all():
            raise ValueError(f"box must be {self.n_variables} nonnegative numbers, got {box!r}")
        exponents = np.array(list(self.index), dtype=int)[1:]
        return (np.where(exponents > 0, box, 1.0) ** exponents).prod(axis=1) * (1 + 1e-14)

    def _bound(self, polynomial: Polynomial, box: Any, maximise: bool, options: dict[str, Any]) -> MomentBound:
        largest = self.largest_moments(box)
        vector = moment_vector(self.ring, self.index, polynomial)
        problem = ConicProblem(vector[1:], self.cones, float(vector[0]), maximise)
        solution = solve_conic(problem, **options)
        empty, duals = None, solution.duals
        if solution.status not in ("solved", "inaccurate"):
            empty = search_emptiness(problem, duals, largest)
        if solution.status == "infeasible":
            duals = [np.zeros_like(dual) for dual in duals]
        bound = tightest_bound(problem, duals, largest)
        if empty is not None:
            bound = -np.inf if maximise else np.inf
        value = solution.value
        correction = bound - value if np.isfinite(value) and np.isfinite(bound) else float("nan")
        moments = dict(zip(self.index, [1.0, *solution.y.tolist()], strict=True))
        return MomentBound(bound, value, correction, moments, solution.status, empty, solution)

    def _bases(self, order: float) -> list[list[Monomial]]:
        bases = [self.ring.monomials(order)]
        if self.even and (odd := self.ring.monomials(order, odd=True)):
            bases.append(odd)
        return bases

    def _weight(self, name: str, polynomials: Sequence[Polynomial]) -> float:
        weight = max((self.ring.weight(term) for one in polynomials for term in one.terms), default=0.0)
        if weight > 2 * self.order + 1e-9:
            raise ValueError(f"{name} has degree {weight:g}, more than twice the order {self.order:g}")
        return weight

    def _reduced(self, name: str, polynomial: Any) -> Polynomial:
        if not isinstance(polynomial, Polynomial) or polynomial.n_variables != self.n_variables:
            raise ValueError(f"{name} must be a polynomial in {self.n_variables} variables, got {polynomial!r}")
        reduced = self.ring.reduce(polynomial)
        if any(self.ring.is_odd(term) for term in reduced.terms):
            raise ValueError(f"{name} changes under a change of sign of the variables {self.even}")
        return reduced

    def _matrix(self, name: str, constraint: Constraint) -> tuple[np.ndarray, list[Polynomial]]:
        if isinstance(constraint, Polynomial):
            return np.zeros((1, 1), int), [self._reduced(name, constraint)]
        rows = [[self._reduced(name, one) for one in row] for row in constraint]
        d = len(rows)
        if not d or any(len(row) != d for row in rows):
            raise ValueError(f"{name} must be a square matrix of polynomials")
        entries, polynomials = np.full((d, d), -1), []
        for a in range(d):
            for b in range(a, d):
                if (rows[a][b] - rows[b][a]).terms:
                    raise ValueError(f"{name} must be symmetric, but entries ({a}, {b}) and ({b}, {a}) differ")
                entries[a, b] = entries[b, a] = len(polynomials)
                polynomials.append(rows[a][b])
        return entries, polynomials

    def _equations(self, index: Index) -> list[dict[int, float]]:
        equations = []
        for number, polynomial in enumerate(self.equal_zero):
            name = f"equal_zero[{number}]"
            reduced = self._reduced(name, polynomial)
            rest = 2 * self.order - self._weight(name, [reduced])
            for multiplier in self.ring.monomials(rest):
                product = self.ring.reduce(reduced * Polynomial({multiplier: 1.0}, self.n_variables))
                if product.terms:
                    terms = product.terms.items()
                    equations.append({index.setdefault(term, len(index)): value for term, value in terms})
        return equations


def ball_of_moments(
    cones: Sequence[Cone],
    square: Float[np.ndarray, " columns"],
    means: Float[np.ndarray, "k columns"],
    largest: Float[np.ndarray, " m"],
    options: Mapping[str, Any],
) -> EnclosingBall:
    """The enclosing ball of P over a relaxation that is given by its cones.

    Args:
        cones: with maps of 1 + m columns.
        square: E|P|^2 on (1, moments), shape (1 + m,).
        means: E[P], shape (k, 1 + m).
        largest: bounds on the moments, shape (m,).
        options: of `solve_conic`.
    """
    k, width = means.shape
    # One unknown more, r >= |E P|^2, as |(2 E P, r - 1)| <= r + 1.
    wide = [Cone(one.kind, sp.csr_array(sp.hstack([one.maps, sp.csr_array((one.n_rows, 1))]))) for one in cones]
    lifted = np.zeros((k + 2, width + 1))
    lifted[:2, -1] = 1.0
    lifted[:2, 0] = 1.0, -1.0
    lifted[2:, :-1] = 2 * means
    problem = ConicProblem(
        np.append(square[1:], -1.0), (*wide, Cone("second_order", sp.csr_array(lifted))), float(square[0])
    )
    solution = solve_conic(problem, **options)
    if solution.status not in ("solved", "inaccurate"):
        inner = ConicProblem(square[1:], tuple(cones))
        if (empty := search_emptiness(inner, solution.duals[:-1], largest)) is not None:
            return EnclosingBall(np.zeros(k), 0.0, 0.0, -np.inf, float("nan"), solution.status, empty, solution)
    # The duals certify the ball around the centre that the second-order cone's dual names: around any a,
    # |P - a|^2 = |P|^2 - 2 a P + |a|^2, and the dual of that cone stands for -2 a.
    centre = -solution.duals[-1][2:]
    around = square - 2 * centre @ means
    around[0] += centre @ centre
    linear = ConicProblem(around[1:], tuple(cones), float(around[0]))
    bound = max(0.0, tightest_bound(linear, solution.duals[:-1], largest))
    correction = bound - solution.value if np.isfinite(solution.value) else float("nan")
    return EnclosingBall(
        centre, float(np.sqrt(bound)) * (1 + 1e-15), bound, solution.value, correction, solution.status, None, solution
    )
