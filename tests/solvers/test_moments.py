"""Moment relaxations against closed forms, CVXPY and points of the sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.solvers.moments import MomentSDP
from uqsparse.solvers.polynomials import Polynomial, PolynomialRing, variables

_POINT = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def _polynomial(seed, n=3, terms=5, degree=3):
    rng = np.random.default_rng(seed)
    return Polynomial({tuple(rng.integers(0, degree, n)): rng.normal() for _ in range(terms)}, n)


@settings(deadline=None)
@given(a=st.integers(0, 1000), b=st.integers(0, 1000), point=_POINT)
def test_polynomials_compute_like_their_values(a, b, point):
    p, q = _polynomial(a), _polynomial(b)
    assert (p * q - 2 * p + 1)(point) == pytest.approx(p(point) * q(point) - 2 * p(point) + 1, abs=1e-7)
    assert (3 - p)(point) == pytest.approx(3 - p(point), abs=1e-9)
    assert (p**2)(point) == pytest.approx(p(point) ** 2, abs=1e-7)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), angle=st.floats(0, 6.3), z=st.floats(-2, 2))
def test_normal_forms_agree_on_the_variety(seed, angle, z):
    x = variables(3)
    ring = PolynomialRing(3, {(2, 0, 0): 1 - x[1] ** 2})
    p = _polynomial(seed, degree=6)
    reduced = ring.reduce(p)
    point = [np.cos(angle), np.sin(angle), z]
    assert reduced(point) == pytest.approx(p(point), rel=1e-8, abs=1e-6)
    assert all(term[0] <= 1 for term in reduced.terms)


def test_the_least_ball_around_an_algebraic_set():
    """{sum x^4 <= 1} in R^3: the farthest points are (1, 1, 1) / 3^(1/4), at distance 3^(1/4)."""
    x = variables(3)
    quartic = MomentSDP(3, 2, at_least_zero=(1 - sum((one**4 for one in x[1:]), start=x[0] ** 4),))
    ball = quartic.enclosing_ball(x, box=[1.0, 1.0, 1.0])
    assert ball.radius == pytest.approx(3**0.25, abs=1e-5)
    assert ball.radius >= 3**0.25
    assert abs(ball.centre).max() < 1e-6
    assert ball.bound - ball.solver_value == pytest.approx(ball.correction)


def test_a_ball_off_the_origin_holds_its_points_also_when_stopped_early():
    x, y = variables(2)
    # a half disc: the least ball is the disc itself
    half = MomentSDP(2, 2, at_least_zero=(1 - (x - 3) ** 2 - y**2, x - 3))
    angles = np.linspace(-np.pi / 2, np.pi / 2, 50)
    points = np.stack([3 + np.cos(angles), np.sin(angles)], axis=1)
    for options in ({}, {"max_iterations": 4}, {"solver": "scs", "max_iterations": 40}):
        ball = half.enclosing_ball((x, y), box=[4.0, 1.0], **options)
        assert np.linalg.norm(points - ball.centre, axis=1).max() <= ball.radius
    assert half.enclosing_ball((x, y), box=[4.0, 1.0]).radius == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), iterations=st.integers(2, 40))
def test_no_point_of_the_set_is_beyond_a_bound(seed, iterations):
    rng = np.random.default_rng(seed)
    x, y = variables(2)
    p = Polynomial({(i, j): rng.normal() for i in range(4) for j in range(4 - i)}, 2)
    ring = 1 - (x**2 + y**2 - 1.0) ** 2
    domain = MomentSDP(2, 2, at_least_zero=(ring, y + 0.5))
    points = rng.uniform(-1.5, 1.5, (4000, 2))
    points = points[(ring(points) >= 0) & (points[:, 1] >= -0.5)]
    box = [1.4143, 1.4143]
    assert domain.maximise(p, box, max_iterations=iterations).bound >= p(points).max()
    assert domain.minimise(p, box, max_iterations=iterations).bound <= p(points).min()


def test_order_two_against_cvxpy():
    """The same relaxation written with a modelling language: max x y + x over the unit disc with x >= y^2."""
    cp = pytest.importorskip("cvxpy")
    x, y = variables(2)
    found = MomentSDP(2, 2, at_least_zero=(1 - x**2 - y**2, x - y**2)).maximise(x * y + x, [1.0, 1.0])
    m = {(i, j): cp.Variable() for i in range(5) for j in range(5 - i)}
    basis = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]

    def moment(*powers):
        return m[tuple(np.sum(powers, axis=0).tolist())]

    def block(terms, side):
        return cp.bmat(
            [[sum(c * moment(a, b, t) for t, c in terms.items()) for a in basis[:side]] for b in basis[:side]]
        )

    constraints = [m[0, 0] == 1, block({(0, 0): 1}, 6) >> 0]
    constraints += [block({(0, 0): 1, (2, 0): -1, (0, 2): -1}, 3) >> 0, block({(1, 0): 1, (0, 2): -1}, 3) >> 0]
    value = cp.Problem(cp.Maximize(m[1, 1] + m[1, 0]), constraints).solve(solver="CLARABEL")
    assert found.bound == pytest.approx(value, abs=1e-5)
    assert found.moments[1, 1] == pytest.approx(m[1, 1].value, abs=1e-3)


def test_matrices_of_polynomials_and_equations():
    x, y = variables(2)
    # [[1, x], [x, y]] >= 0 is y >= x^2; with x + y = 2 it holds for -2 <= x <= 1
    domain = MomentSDP(2, 1, at_least_zero=([[x * 0 + 1, x], [x, y]],), equal_zero=(x + y - 2,))
    assert domain.maximise(x, [3.0, 5.0]).bound == pytest.approx(1, abs=1e-4)
    assert domain.minimise(x, [3.0, 5.0]).bound == pytest.approx(-2, abs=1e-4)


def test_a_rule_and_an_equation_say_the_same():
    x, y = variables(2)
    p = x**3 - 2 * x * y + y
    by_rule = MomentSDP(2, 2, rules={(2, 0): 1 - y**2}).maximise(p, [1.0, 1.0])
    by_equation = MomentSDP(2, 2, equal_zero=(x**2 + y**2 - 1,)).maximise(p, [1.0, 1.0])
    angles = np.linspace(0, 2 * np.pi, 100001)
    truth = p(np.stack([np.cos(angles), np.sin(angles)], axis=1)).max()
    assert by_rule.bound == pytest.approx(truth, abs=1e-5)
    assert by_equation.bound == pytest.approx(truth, abs=1e-4)
    assert truth <= min(by_rule.bound, by_equation.bound)


def test_even_variables_drop_the_odd_moments():
    x, y = variables(2)
    bowl = (2 - x**2 - y**2, x**2 * y - 0.1)
    all_moments = MomentSDP(2, 2, at_least_zero=bowl)
    even = MomentSDP(2, 2, at_least_zero=bowl, even=(0,))
    assert even.n_moments < all_moments.n_moments == 14
    bounds = [one.maximise(x**2 + y, [1.5, 1.5]).bound for one in (all_moments, even)]
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-5)


def test_an_empty_set_is_proved_empty():
    x, y = variables(2)
    empty = MomentSDP(2, 1, at_least_zero=(1 - x**2 - y**2, x - 2))
    found = empty.maximise(x, [10.0, 10.0])
    assert found.bound == -np.inf
    assert found.empty is not None
    assert found.empty.value < 0
    assert empty.enclosing_ball((x, y), [10.0, 10.0]).empty is not None


def test_an_infinite_box_gives_no_false_bound():
    x, y = variables(2)
    found = MomentSDP(2, 1, at_least_zero=(1 - x**2 - y**2,)).maximise(x, [np.inf, np.inf], tolerance=1e-3)
    assert found.bound >= 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y: MomentSDP(2, 1, at_least_zero=(x**3,)), "more than twice the order"),
        (lambda x, y: MomentSDP(2, 1, at_least_zero=([[x, y]],)), "square matrix"),
        (lambda x, y: MomentSDP(2, 1, at_least_zero=([[x, y], [x, y]],)), "must be symmetric"),
        (lambda x, y: MomentSDP(2, 1, at_least_zero=(x,), even=(0,)), "change of sign"),
        (lambda x, y: MomentSDP(3, 1, at_least_zero=(x,)), "polynomial in 3 variables"),
        (lambda x, y: MomentSDP(2, 1, rules={(1, 1): y}), "power of one variable"),
        (lambda x, y: MomentSDP(2, 1, rules={(2, 0): x**2 * y}), "rewrites again"),
        (lambda x, y: MomentSDP(2, 1, rules={(2, 0): y}, even=(1,)), "mixes monomials even and odd"),
        (lambda x, y: MomentSDP(2, 1).maximise(x**3, [1, 1]), "order is too low"),
        (lambda x, y: MomentSDP(2, 1).maximise(x, [1, -1]), "nonnegative"),
        (lambda x, y: MomentSDP(2, 1).maximise(x, [1, np.nan]), "nonnegative"),
        (lambda x, y: x + variables(3)[0], "do not mix"),
        (lambda x, y: x * float("nan"), "finite"),
        (lambda x, y: x**-1, "exponent"),
        (lambda x, y: x([1.0, 2.0, 3.0]), "shape"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(*variables(2))
