"""Thresholding against a grid search, which shares nothing with closed forms; jumps, derivatives, and properties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels import thresholding
from uqsparse.kernels.penalties import CEL0, L0, L1, MCP, PENALTIES, SCAD, LHalf, Log, LTwoThirds, penalty_named

GRID = np.arange(-10_000, 10_001) * 6e-4
SPACING = GRID[1] - GRID[0]

# The penalties again, written from their definitions.
DEFINED = {
    "l1": lambda x, p: p.lambda_ * abs(x),
    "l0": lambda x, p: p.lambda_ * (x != 0),
    "l1/2": lambda x, p: p.lambda_ * abs(x) ** 0.5,
    "l2/3": lambda x, p: p.lambda_ * abs(x) ** (2 / 3),
    "log": lambda x, p: p.lambda_ * np.log(1 + abs(x) / p.epsilon),
    # SCAD and MCP by their derivatives, integrated in closed form piece by piece.
    "scad": lambda x, p: (
        p.lambda_ * np.minimum(abs(x), p.lambda_)
        + np.where(
            abs(x) > p.lambda_,
            ((p.b - 1) * p.lambda_) ** 2 / (2 * (p.b - 1))
            - np.maximum(p.b * p.lambda_ - abs(x), 0) ** 2 / (2 * (p.b - 1)),
            0,
        )
    ),
    "mcp": lambda x, p: np.where(
        abs(x) <= p.gamma * p.lambda_, p.lambda_ * abs(x) - x**2 / (2 * p.gamma), p.gamma * p.lambda_**2 / 2
    ),
    "cel0": lambda x, p: (
        p.lambda_ - p.column_norm**2 / 2 * np.maximum(np.sqrt(2 * p.lambda_) / p.column_norm - abs(x), 0) ** 2
    ),
}
# Five pairs of a penalty and a step each.
CASES = {
    "l1": [(L1(s), t) for s, t in ((0.1, 1.0), (0.5, 0.3), (1.0, 1.0), (2.0, 0.7), (0.0, 1.0))],
    "l0": [(L0(s), t) for s, t in ((0.1, 1.0), (0.5, 0.3), (1.0, 1.0), (2.0, 0.7), (0.0, 1.0))],
    "l1/2": [(LHalf(s), t) for s, t in ((0.1, 1.0), (0.5, 0.3), (1.0, 1.0), (2.0, 0.7), (0.0, 1.0))],
    "l2/3": [(LTwoThirds(s), t) for s, t in ((0.1, 1.0), (0.5, 0.3), (1.0, 1.0), (2.0, 0.7), (0.0, 1.0))],
    "log": [
        (Log(s, e), t) for s, e, t in ((0.1, 0.1, 1.0), (0.5, 0.5, 0.3), (1.0, 2.0, 1.0), (2.0, 0.2, 0.7), (0.0, 1, 1))
    ],
    "scad": [
        (SCAD(s, b), t) for s, b, t in ((0.1, 3.7, 1.0), (0.5, 2.5, 0.3), (1.0, 2.1, 1.0), (0.9, 3, 0.7), (0.0, 3, 1))
    ],
    "mcp": [
        (MCP(s, g), t) for s, g, t in ((0.1, 3, 1.0), (0.5, 0.5, 0.3), (1.0, 1.1, 1.0), (0.9, 2, 0.7), (0.0, 3, 1))
    ],
    "cel0": [
        (CEL0(s, c), t)
        for s, c, t in ((0.1, 1.0, 0.9), (0.5, 1.0, 0.3), (1.0, 0.7, 1.0), (2.0, 1.5, 0.7), (0.0, 1.0, 0.5))
    ],
}


@pytest.mark.parametrize("name", list(PENALTIES))
def test_the_proximal_map_is_the_minimiser_a_grid_search_finds(name):
    points = np.random.default_rng(1).uniform(-5.0, 5.0, 200)
    for penalty, step in CASES[name]:
        cost = step * DEFINED[name](GRID, penalty)
        objective = 0.5 * (GRID - points[:, None]) ** 2 + cost
        best = GRID[objective.argmin(axis=1)]
        found = penalty.prox(points, step)
        reached = 0.5 * (found - points) ** 2 + step * DEFINED[name](found, penalty)
        assert (reached <= objective.min(axis=1) + 1e-12).all()
        # A point within rounding of a jump has two minimisers: 200 random points have none of them.
        np.testing.assert_allclose(found, best, atol=SPACING)
        np.testing.assert_allclose(penalty.value(GRID) * step, cost, atol=1e-12)


# Weight 0.7 throughout; the size at which the map leaves zero, from its derivation.
JUMPS = {
    "l0": np.sqrt(1.4),
    "l1/2": 54 ** (1 / 3) / 4 * 1.4 ** (2 / 3),
    "l2/3": 2 / 3 * (3 * 1.4**3) ** 0.25,
}


@pytest.mark.parametrize("name", list(JUMPS))
def test_it_jumps_at_the_exact_threshold(name):
    penalty, jump = penalty_named(name, 0.7), JUMPS[name]
    below, above = penalty.prox(np.array([jump * (1 - 1e-12), jump * (1 + 1e-12)]), 1.0)
    assert below == 0.0
    # At the jump both are minimisers: 1/2 jump^2 = 1/2 (above - jump)^2 + value(above).
    assert above > 0.3
    assert 0.5 * (above - jump) ** 2 + DEFINED[name](above, penalty) == pytest.approx(0.5 * jump**2, rel=1e-9)


def test_the_log_penalty_jumps_only_where_it_is_not_convex_enough():
    x = np.linspace(0, 3, 3001)
    assert np.diff(Log(0.9, 1.0).prox(x, 1.0)).max() < 2e-2
    assert np.diff(Log(1.0, 0.1).prox(x, 1.0)).max() > 0.5


def test_cel0_is_the_minimax_concave_penalty():
    x = np.random.default_rng(2).uniform(-3, 3, 500)
    for strength, c, step in ((0.2, 1.0, 0.5), (1.3, 0.8, 0.9), (0.05, 1.4, 0.3)):
        a, edge = abs(x), np.sqrt(2 * strength)
        stated = np.sign(x) * np.minimum(a, np.maximum(a - edge * c * step, 0) / (1 - c**2 * step))
        same = MCP(c * edge, 1 / c**2)
        np.testing.assert_allclose(CEL0(strength, c).prox(x, step), stated, atol=1e-12)
        np.testing.assert_allclose(same.prox(x, step), stated, atol=1e-12)
        np.testing.assert_allclose(CEL0(strength, c).value(x), same.value(x), atol=1e-12)
    np.testing.assert_array_equal(CEL0(0.3, 2.0).prox(x, 0.5), L0(0.3).prox(x, 0.5))


def _edges(penalty):
    """Points where formulas meet, among them zero and both sides of each jump."""
    sizes = [0.0, 1e-12, 0.3, penalty.lambda_, 3.7 * penalty.lambda_, JUMPS.get(penalty.name, 1.0), 1e6]
    return np.array([sign * size * shift for size in sizes for sign in (1, -1) for shift in (1 - 1e-9, 1, 1 + 1e-9)])


@pytest.fixture(scope="module")
def compiled():
    """Values, proximal maps, and their derivatives in the point and in the strength; one program a kind."""

    def everything(kind, options):
        def both(v, strength):
            penalty = kind(strength, **options)
            return penalty.prox(v, 0.8), penalty.value(v)

        return jax.jit(
            lambda points, strength: (
                jax.vmap(both, (0, None))(points, strength),
                jax.vmap(jax.jacfwd(both, (0, 1)), (0, None))(points, strength),
            )
        )

    return {name: everything(kind, {}) for name, kind in PENALTIES.items()}


@pytest.mark.parametrize("name", list(PENALTIES))
def test_compiled_vectorised_and_differentiated_it_stays_finite_and_the_same(name, compiled):
    penalty = penalty_named(name, 0.7)
    points = _edges(penalty)
    with jax.enable_x64(True):
        for strength in (0.7, 0.0):
            (moved, value), slopes = jax.tree.map(np.asarray, compiled[name](jnp.asarray(points), strength))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((moved, value, slopes)))
        (moved, value), ((slope, _), (slope_of_value, _)) = compiled[name](jnp.asarray(points), 0.7)
        np.testing.assert_allclose(moved, penalty.prox(points, 0.8), rtol=1e-12)
        np.testing.assert_allclose(value, penalty.value(points), rtol=1e-12)
        # Away from edges derivatives are those of finite differences.
        smooth = np.linspace(-4.987, 4.987, len(points))
        h = 1e-6
        (_, _), ((slope, _), (slope_of_value, _)) = compiled[name](jnp.asarray(smooth), 0.7)
        for function, exact in ((lambda v: penalty.prox(v, 0.8), slope), (penalty.value, slope_of_value)):
            np.testing.assert_allclose(
                exact, (function(smooth + h) - function(smooth - h)) / (2 * h), rtol=1e-5, atol=1e-6
            )


@given(
    name=st.sampled_from(list(PENALTIES)),
    strength=st.floats(1e-3, 3.0),
    step=st.floats(0.05, 0.95),
    points=st.lists(st.floats(-20, 20), min_size=2, max_size=6),
)
def test_properties(name, strength, step, points):
    """Odd, towards zero, monotone; no point does better than the map's; the convex one is non-expansive."""
    penalty = penalty_named(name, strength)
    v = np.sort(np.array(points))
    found = penalty.prox(v, step)
    assert not np.signbit(found[found == 0]).any()
    np.testing.assert_array_equal(penalty.prox(-v, step), -found)
    assert (abs(found) <= abs(v) * (1 + 1e-12)).all()
    assert (np.diff(found) >= -1e-9).all()
    rivals = np.concatenate([np.linspace(-20, 20, 401), v, found * 0.999, found * 1.001, [0.0]])
    reached = 0.5 * (found - v) ** 2 + step * penalty.value(found)
    others = 0.5 * (rivals - v[:, None]) ** 2 + step * penalty.value(rivals)
    assert (reached <= others.min(axis=1) + 1e-10 * (1 + v**2)).all()
    if penalty.convex:
        assert (abs(np.diff(found)) <= abs(np.diff(v)) + 1e-12).all()


@pytest.mark.parametrize("name", list(PENALTIES))
def test_numpy_stays_numpy_in_its_own_precision(name):
    penalty, x = penalty_named(name, 0.3), np.linspace(-2, 2, 7, dtype=np.float32)
    for result in (penalty.prox(x, 0.5), penalty.value(x)):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: L1(-0.1), "lambda_ of L1 must be nonnegative"),
        (lambda: CEL0(float("nan")), "lambda_ of CEL0 must be nonnegative and finite"),
        (lambda: Log(0.1, 0.0), "epsilon of Log must be positive"),
        (lambda: MCP(0.1, -1.0), "gamma of MCP must be positive"),
        (lambda: SCAD(0.1, 1.0), "b of SCAD must be larger than 1"),
        (lambda: CEL0(0.1, 0.0), "column_norm of CEL0 must be positive"),
        (lambda: penalty_named("l3", 0.1), "penalty must be one of 'l1', 'l0'"),
        (lambda: thresholding.mcp_threshold(np.ones(2), 0.1, gamma=0.5, step=0.5), "gamma must be larger than step"),
        (lambda: thresholding.scad_threshold(np.ones(2), 0.1, b=1.5, step=0.5), "b must be larger than 1 . step"),
        (lambda: SCAD(0.1, 1.8).require_step(0.9), "b must be larger than 1 . step = 1.9, got 1.8"),
        (lambda: MCP(0.1, 0.9).require_step(0.9), "gamma must be larger than step = 0.9, got 0.9"),
        (lambda: L1(0.1).require_step(0.0), "step must be a positive number"),
    ],
)
def test_refusals(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()


def test_a_strength_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="lambda_ of L1"):
        L1(None)


def test_kinds_of_penalties_differ_as_pytrees():
    """Or a compiled function could run another kind's program: structures are the keys of JAX's caches."""
    structures = [jax.tree.structure(penalty_named(name, 0.5)) for name in PENALTIES]
    for one, other in itertools.combinations(structures, 2):
        assert one != other
    for name in PENALTIES:
        penalty = penalty_named(name, 0.5)
        leaves, structure = jax.tree.flatten(penalty)
        assert leaves[0] == 0.5
        assert jax.tree.unflatten(structure, leaves) == penalty
