"""The moment relaxations of a pose set: which blocks each level has, and how keypoints fill them.

A pose near a centre (Rbar, tbar) is R = dR(q) Rbar, t = tbar + S w with a unit quaternion q = (q0, v) and

    dR(q) = I - 2 (|v|^2 I - v v^T) + 2 q0 [v]_x,     |R - Rbar|_F^2 = 8 |v|^2,     angle = 2 asin |v|.

Monomials are reduced with q0^2 = 1 - |v|^2, and odd ones in q drop, since q and -q are one rotation. What depends
on the level only is worked out once; a problem's numbers enter through sparse matrix products.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from uqsparse.solvers.conic import Cone, triangle
from uqsparse.solvers.moments import Index, LocalisingPattern, localising_pattern
from uqsparse.solvers.polynomials import Monomial, PolynomialRing, variables

Level = Literal["order1", "q2", "q2p", "r2", "o2"]
LEVELS: tuple[Level, ...] = ("order1", "q2", "q2p", "r2", "o2")

# Variables: q0, then v (3), then w (3).
_N = 7
_V, _W = (1, 2, 3), (4, 5, 6)
# [[p, v1, v2], [v1, p, 0], [v2, 0, p]] is positive semidefinite exactly if |v| <= p.
_ARROW = np.array([[0, 1, 2], [1, 0, -1], [2, -1, 0]])
# Blocks by (degree in q, degree in w) of their monomials.
_MOMENTS: dict[Level, tuple[tuple[tuple[int, int], ...], ...]] = {
    "order1": (((0, 0), (2, 0), (0, 1)),),
    "q2": (((0, 0), (2, 0), (0, 1), (0, 2)), ((1, 0), (1, 1))),
    "q2p": (((0, 0), (2, 0), (0, 1), (0, 2)), ((1, 0), (1, 1))),
    "r2": (((0, 0), (2, 0), (0, 1), (2, 1), (0, 2)), ((1, 0), (1, 1))),
    "o2": (((0, 0), (2, 0), (0, 1), (4, 0), (2, 1), (0, 2)),),
}
_EVEN1, _ODD1 = ((0, 0), (0, 1)), ((1, 0),)
_ONE = ((0, 0),)
_FIRST = ((0, 0), (2, 0), (0, 1))
# What each keypoint adds: "quadratic" p^2 - |v|^2 and "depth" p as scalars, "cone" the arrow matrix.
_KEYPOINT: dict[Level, tuple[tuple[str, tuple[tuple[int, int], ...]], ...]] = {
    "order1": (("quadratic", _ONE), ("depth", _ONE)),
    "q2": (("quadratic", _ONE), ("cone", _EVEN1), ("cone", _ODD1)),
    "q2p": (("quadratic", _ONE), ("cone", _EVEN1), ("cone", _ODD1)),
    "r2": (("quadratic", _EVEN1), ("quadratic", _ODD1), ("cone", _EVEN1), ("cone", _ODD1)),
    "o2": (("quadratic", _FIRST), ("depth", _FIRST)),
}


def _power(*used: int) -> Monomial:
    return tuple(used.count(i) for i in range(_N))


@functools.cache
def pose_ring() -> PolynomialRing:
    """The ring of (q0, v, w) with q0^2 = 1 - |v|^2, even in q, where a quaternion counts for half a degree."""
    x = variables(_N)
    rules = {_power(0, 0): 1 - x[1] ** 2 - x[2] ** 2 - x[3] ** 2}
    return PolynomialRing(_N, rules, (0, *_V), (0.5,) * 4 + (1.0,) * 3)


# Monomials of the entries of a pose: 1, v v^T (6), q0 v (3), w (3).
SUPPORT: tuple[Monomial, ...] = (
    _power(),
    *(_power(a, b) for i, a in enumerate(_V) for b in _V[i:]),
    *(_power(0, a) for a in _V),
    *(_power(a) for a in _W),
)


def _turns() -> Float[np.ndarray, "3 3 13"]:
    turns = np.zeros((3, 3, len(SUPPORT)))
    at = {monomial: i for i, monomial in enumerate(SUPPORT)}
    turns[:, :, 0] = np.eye(3)
    for a in range(3):
        for b in range(3):
            turns[a, a, at[_power(_V[b], _V[b])]] -= 2.0
            turns[a, b, at[_power(_V[a], _V[b])]] += 2.0
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        # [v]_x has -v_c at (a, b) and v_c at (b, a)
        turns[a, b, at[_power(0, _V[c])]] -= 2.0
        turns[b, a, at[_power(0, _V[c])]] += 2.0
    return turns


# dR(q) on SUPPORT, shape (3, 3, 13).
TURNS = _turns()


@functools.cache
def _square() -> tuple[tuple[Monomial, ...], sp.csr_array]:
    """Monomials of products of two of SUPPORT, and the map from (13 x 13) coefficients to theirs."""
    ring = pose_ring()
    index: Index = {}
    rows, columns, factors = [], [], []
    for i, a in enumerate(SUPPORT):
        for j, b in enumerate(SUPPORT):
            for term, factor in ring.normal_form(tuple(map(sum, zip(a, b, strict=True)))).items():
                rows.append(index.setdefault(term, len(index)))
                columns.append(i * len(SUPPORT) + j)
                factors.append(factor)
    shape = (len(index), len(SUPPORT) ** 2)
    return tuple(index), sp.csr_array((factors, (rows, columns)), shape=shape)


def _basis(pairs: tuple[tuple[int, int], ...]) -> list[Monomial]:
    """Reduced monomials with the given (degree in q, degree in w)."""
    ring = pose_ring()
    top = max(q / 2 + w for q, w in pairs)
    both = ring.monomials(top) + ring.monomials(top, odd=True)
    return [one for pair in pairs for one in both if (sum(one[:4]), sum(one[4:])) == pair]


@dataclasses.dataclass(frozen=True)
class _Block:
    source: str  # "moment", "quadratic", "depth", "cone", "pair" or "sign"
    pattern: LocalisingPattern
    degrees: np.ndarray  # of each row in v, to undo the scaling of the basis


@dataclasses.dataclass(frozen=True)
class PoseLevel:
    """The structure of a level, the same for all problems.

    Args:
        level: its name.
        blocks: the patterns of its blocks.
        exponents: of the moments, the constant first, shape (1 + m, 7).
        first: columns of the monomials of SUPPORT.
        squares: columns of their products.
    """

    level: Level
    blocks: tuple[_Block, ...]
    exponents: np.ndarray
    first: np.ndarray
    squares: np.ndarray

    @property
    def n_columns(self) -> int:
        return len(self.exponents)

    def column_scales(self, rho: float) -> Float[np.ndarray, " columns"]:
        """What a moment in v is, in units of the moment in z = v / rho."""
        return rho ** self.exponents[:, 1:4].sum(axis=1).astype(float)

    def linear(self, coefficients: Float[np.ndarray, "*k 13"], rho: float) -> Float[np.ndarray, "*k columns"]:
        """E[p] on the moments in z, for p with coefficients on SUPPORT."""
        vector = np.zeros((*coefficients.shape[:-1], self.n_columns))
        vector[..., self.first] = coefficients
        return vector * self.column_scales(rho)

    def quadratic(self, coefficients: Float[np.ndarray, "13 13"], rho: float) -> Float[np.ndarray, " columns"]:
        """E[s^T C s] on the moments in z, where s are the monomials of SUPPORT."""
        vector = np.zeros(self.n_columns)
        vector[self.squares] = _square()[1] @ coefficients.ravel()
        return vector * self.column_scales(rho)

    def cones(self, keypoints: Float[np.ndarray, "K 3 13"], rho: float, sign: int = 0) -> tuple[Cone, ...]:
        """The cones of a problem.

        Args:
            keypoints: p, v1 and v2 of each keypoint on SUPPORT, shape (K, 3, 13).
            rho: scale of v, positive.
            sign: -1 or 1 to ask for `sign w_1 >= 0` too.
        """
        columns = self.column_scales(rho)
        K = len(keypoints)
        inner = np.einsum("kai,kaj->kaij", keypoints, keypoints)
        quadratics = (_square()[1] @ (inner[:, 0] - inner[:, 1] - inner[:, 2]).reshape(K, -1).T).T
        sources: dict[str, np.ndarray] = {
            "moment": np.ones((1, 1)),
            "quadratic": quadratics,
            "depth": keypoints[:, 0],
            "cone": keypoints.reshape(K, -1),
            "sign": np.full((1, 1), float(sign)),
        }
        if any(block.source == "pair" for block in self.blocks):
            i, j = np.triu_indices(K, 1)
            outer = np.einsum("kai,kbj->kabij", keypoints[i], keypoints[j]).reshape(len(i) * 9, -1)
            sources["pair"] = (_square()[1] @ outer.T).T.reshape(len(i), -1)
        cones = []
        for block in self.blocks:
            if block.source == "sign" and not sign:
                continue
            pattern = block.pattern
            scales = columns[pattern.columns] * rho ** -block.degrees[pattern.rows]
            shape = (pattern.n_rows, self.n_columns)
            kind = "nonnegative" if pattern.n_rows == 1 else "semidefinite"
            for values in (pattern.values @ sources[block.source].T).T:
                cones.append(Cone(kind, sp.csr_array((values * scales, (pattern.rows, pattern.columns)), shape=shape)))
        return tuple(cones)

    def largest_moments(self, sine: float, rho: float, widths: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " m"]:
        """Bounds on the moments in z where |v| <= sine and |w_j| <= widths_j."""
        powers = self.exponents[1:, 1:4].astype(float)
        total = powers.sum(axis=1)
        # the largest z^a on a ball of radius r is r^|a| prod (a_i / |a|)^(a_i / 2)
        shares = (powers / np.maximum(total, 1.0)[:, None]) ** (powers / 2)
        turned = np.prod(shares, axis=1) * (sine / rho) ** total
        moved = np.prod(np.where(self.exponents[1:, 4:] > 0, widths, 1.0) ** self.exponents[1:, 4:], axis=1)
        return turned * moved * (1 + 1e-13)


@functools.cache
def pose_level(level: Level) -> PoseLevel:
    """The structure of a level; worked out at the first call."""
    ring = pose_ring()
    squares, _ = _square()
    index: Index = {_power(): 0}
    blocks = []

    def add(source: str, support, pairs, entries=((0,),)):
        basis = _basis(pairs)
        pattern = localising_pattern(ring, index, support, basis, entries)
        degree = np.tile([sum(one[1:4]) for one in basis], len(entries))
        rows, columns = triangle(len(degree))
        blocks.append(_Block(source, pattern, (degree[rows] + degree[columns]).astype(float)))

    for pairs in _MOMENTS[level]:
        add("moment", (_power(),), pairs)
    for source, pairs in _KEYPOINT[level]:
        match source:
            case "quadratic":
                add(source, squares, pairs)
            case "depth":
                add(source, SUPPORT, pairs)
            case _:
                add(source, SUPPORT, pairs, _ARROW)
    if level == "q2p":
        # places (a, c), (b, d) of L_i (x) L_j hold entry (a, b) of one times entry (c, d) of the other
        left, right = np.repeat(np.repeat(_ARROW, 3, 0), 3, 1), np.tile(_ARROW, (3, 3))
        add("pair", squares, _ONE, np.where((left < 0) | (right < 0), -1, 3 * left + right))
    if level == "order1":
        add("sign", (_power(_W[0]),), _ONE)
    else:
        add("sign", (_power(_W[0]),), _EVEN1)
        add("sign", (_power(_W[0]),), _ODD1)
    return PoseLevel(
        level,
        tuple(blocks),
        np.array(list(index)),
        np.array([index[one] for one in SUPPORT]),
        np.array([index[one] for one in squares]),
    )
