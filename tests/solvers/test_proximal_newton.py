"""Proximal Newton paths: a loss of scikit-learn's, and the ordinal loss against CVXPY, statsmodels and itself."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.scipy.special import xlogy
from jaxtyping import Array, Float
from sklearn.linear_model import LogisticRegression

from uqsparse.solvers.ordinal_box import minimise_in_box, order_margins
from uqsparse.solvers.ordinal_loss import null_point, ordinal_loss
from uqsparse.solvers.ordinal_working_set import working_set_path
from uqsparse.solvers.proximal_newton import SmoothLoss, largest_penalty, proximal_newton_path

N, P, K = 300, 4, 4


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def draw(seed, n=N, p=P, intercepts=(-0.5, 1.0, 2.0)):
    rng = np.random.default_rng(seed)
    psi = np.zeros((len(intercepts), p))
    psi[0] = rng.normal(size=p) / 2
    psi[1:, 0] = 0.3
    while True:
        X = rng.uniform(-1, 1, (n, p))
        eta = np.array(intercepts) + X @ psi.cumsum(0).T
        y = (rng.uniform(size=(n, 1)) > 1 / (1 + np.exp(-eta))).sum(1)
        if len(np.unique(y)) == len(intercepts) + 1:
            return (X - X.mean(0)) / X.std(0), y


def factors(first=1.0, p=P, k=K):
    table = np.ones((k - 1, p + 1))
    table[0] = first
    table[:, 0] = 0.0
    return jnp.asarray(table.ravel())


def loss_of(X, y, k=K):
    return ordinal_loss(jnp.asarray(X), jnp.asarray(y), jnp.full(len(y), 1 / len(y)), k)


@pytest.fixture(scope="module")
def loss():
    return loss_of(*draw(0))


value = eqx.filter_jit(lambda loss, w: loss.value(w))
derivatives = eqx.filter_jit(lambda loss, w: loss.derivatives(w))
lower_bound = eqx.filter_jit(lambda loss, w, l1, l2: loss.lower_bound(w, l1, l2))


def path_of(loss, strengths, first=1.0, ridge=0.0):
    """Three penalties relative to the largest, from the null fit; compiled once for the module."""
    start = null_point(loss)
    scale = factors(first)
    if first == 0:
        start = proximal_newton_path(loss, start, jnp.full(3, 1e8), scale, 0 * scale).w[-1]
    lambdas = largest_penalty(derivatives(loss, start)[1], scale) * jnp.asarray(strengths)
    return proximal_newton_path(loss, start, lambdas, (1 - ridge) * scale, ridge * scale)


class Logistic(SmoothLoss):
    """A loss that the solver has never seen: labels -1 and 1."""

    X: Float[Array, "n p"]
    y: Float[Array, " n"]

    def value(self, w):
        return jnp.mean(jax.nn.softplus(-self.y * (self.X @ w)))

    def derivatives(self, w):
        margin = self.y * (self.X @ w)
        slope, curvature = -jax.nn.sigmoid(-margin), jax.nn.sigmoid(margin) * jax.nn.sigmoid(-margin)
        return self.value(w), self.X.T @ (self.y * slope) / len(self.y), self.X.T * curvature @ self.X / len(self.y)

    def lower_bound(self, w, l1, l2):
        t = jax.nn.sigmoid(-self.y * (self.X @ w))
        gradient = jnp.abs(self.X.T @ (self.y * t)) / len(self.y)
        t = t * jnp.min(jnp.where(gradient > l1, l1 / gradient, 1.0))
        return -jnp.mean(xlogy(t, t) + xlogy(1 - t, 1 - t))


def test_any_smooth_loss_can_take_the_solver():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(100, 5)), rng.choice([-1.0, 1.0], 100)
    y[:50] = np.sign(X[:50, 0])
    path = proximal_newton_path(
        Logistic(jnp.asarray(X), jnp.asarray(y)), jnp.zeros(5), jnp.array([0.2, 0.03]), jnp.ones(5)
    )
    assert bool(path.converged.all())
    peer = LogisticRegression(
        l1_ratio=1.0, C=1 / (100 * 0.03), solver="saga", fit_intercept=False, tol=1e-9, max_iter=10**5
    )
    np.testing.assert_allclose(path.w[1], peer.fit(X, y).coef_[0], atol=1e-6)
    assert (np.asarray(path.w[0]) == 0).sum() > (np.asarray(path.w[1]) == 0).sum()


def test_derivatives_are_those_of_the_value(loss):
    w = null_point(loss) + 0.05 * jnp.asarray(np.random.default_rng(0).normal(size=(K - 1) * (P + 1)))
    found = derivatives(loss, w)
    np.testing.assert_allclose(found[1], jax.jit(jax.grad(loss.value))(w), atol=1e-14)
    np.testing.assert_allclose(found[2], jax.jit(jax.hessian(loss.value))(w), atol=1e-13)


def cvxpy_solution(X, y, strength, first, ridge=0.0):
    cp = pytest.importorskip("cvxpy")
    alpha, psi = cp.Variable(K - 1), [cp.Variable(X.shape[1]) for _ in range(K - 1)]
    eta = [alpha[k] + X @ sum(psi[: k + 1]) for k in range(K - 1)]
    total = 0
    for k in range(K):
        rows = np.flatnonzero(y == k)
        if k < K - 1:
            total += cp.sum(cp.logistic(-eta[k][rows]))
        if k > 0:
            total += cp.sum(cp.logistic(eta[k - 1][rows]))
        if 0 < k < K - 1:
            total -= cp.sum(cp.log(1 - cp.exp(eta[k - 1][rows] - eta[k][rows])))
    weights = [first] + [1.0] * (K - 2)
    cost = sum(
        c * ((1 - ridge) * cp.norm1(one) + ridge / 2 * cp.sum_squares(one)) for c, one in zip(weights, psi, strict=True)
    )
    return alpha, psi, total / len(y) + strength * cost


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(("first", "ridge"), [(1.0, 0.0), (0.0, 0.0), (1.0, 0.4)])
def test_it_agrees_with_an_interior_point_method(loss, first, ridge):
    cp = pytest.importorskip("cvxpy")
    X, y = draw(0)
    path = path_of(loss, [0.5, 0.1, 0.01], first, ridge)
    assert bool(path.converged.all())
    assert float(path.gap.max()) <= 1e-8
    _, psi, objective = cvxpy_solution(X, y, float(path.lambdas[1]), first, ridge)
    problem = cp.Problem(cp.Minimize(objective))
    problem.solve(solver=cp.CLARABEL)
    assert float(path.objective[1]) == pytest.approx(problem.value, abs=1e-7)
    ours = np.asarray(path.w[1]).reshape(K - 1, P + 1)[:, 1:]
    np.testing.assert_allclose(ours, np.array([one.value for one in psi]), atol=1e-5)


def test_the_largest_penalty_leaves_nothing_and_a_smaller_one_something(loss):
    path = path_of(loss, [1.5, 1.0, 0.99])
    psi = np.asarray(path.w).reshape(3, K - 1, P + 1)[:, :, 1:]
    assert (psi[:2] == 0).all()
    assert (psi[2] != 0).sum() == 1


def test_without_the_first_penalty_a_large_one_gives_proportional_odds(loss):
    models = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    X, y = draw(0)
    path = path_of(loss, [1.0, 0.5, 0.1], first=0.0)
    table = np.asarray(path.w[0]).reshape(K - 1, P + 1)
    peer = models.OrderedModel(y, X, distr="logit").fit(method="newton", disp=False)
    assert (table[1:, 1:] == 0).all()
    np.testing.assert_allclose(-table[0, 1:], np.asarray(peer.params)[:P], atol=1e-6)
    assert float(path.objective[0]) == pytest.approx(-peer.llf / N, abs=1e-9)
    assert float(path.gap.max()) <= 1e-8


def test_two_classes_are_the_lasso_logistic():
    X, y = draw(3)
    y = np.minimum(y, 1)
    found = proximal_newton_path(loss_of(X, y, 2), null_point(loss_of(X, y, 2)), jnp.array([0.02]), factors(k=2))
    peer = LogisticRegression(l1_ratio=1.0, C=1 / (N * 0.02), solver="saga", tol=1e-10, max_iter=10**5).fit(X, y)
    np.testing.assert_allclose(-found.w[0], [*peer.intercept_, *peer.coef_[0]], atol=1e-5)


@given(st.integers(0, 2**31), st.sampled_from([1e-5, 0.1, 1.0]), st.sampled_from([0.0, 0.5]), st.booleans())
def test_the_bound_is_below_the_optimum_from_anywhere(loss, seed, spread, ridge, first):
    """Also with coordinates of no penalty, where the dual point has to be balanced."""
    path = path_of(loss, [0.5, 0.1, 0.01], float(first), ridge)
    scale = factors(float(first))
    w = path.w[1] + spread * jnp.asarray(np.random.default_rng(seed).normal(size=path.w.shape[1]))
    l1, l2 = path.lambdas[1] * (1 - ridge) * scale, path.lambdas[1] * ridge * scale
    if np.isfinite(value(loss, w)):
        bound = float(lower_bound(loss, w, l1, l2))
        assert bound <= float(path.objective[1]) + 1e-12
        if spread == 1e-5:
            assert float(path.objective[1]) - bound < 1e-2


def test_the_loss_is_convex_along_feasible_chords(loss):
    rng = np.random.default_rng(2)
    points = [w for w in null_point(loss) + 0.1 * jnp.asarray(rng.normal(size=(60, 15))) if np.isfinite(value(loss, w))]
    assert len(points) > 20
    for a, b in itertools.pairwise(points):
        assert value(loss, (a + b) / 2) <= (value(loss, a) + value(loss, b)) / 2 + 1e-12


def test_permuted_columns_permute_the_differences(loss):
    X, y = draw(0)
    order = np.array([2, 0, 3, 1])
    ours = np.asarray(path_of(loss, [0.5, 0.1, 0.01]).w).reshape(3, K - 1, P + 1)
    permuted = np.asarray(path_of(loss_of(X[:, order], y), [0.5, 0.1, 0.01]).w).reshape(3, K - 1, P + 1)
    np.testing.assert_allclose(permuted[:, :, 1:], ours[:, :, 1:][:, :, order], atol=1e-7)


def test_reversing_the_classes_keeps_the_likelihood_but_not_the_penalised_fit(loss):
    X, y = draw(0)
    reverse = loss_of(-X, K - 1 - y)
    w = np.asarray(path_of(loss, [0.5, 0.1, 0.01]).w[1]).reshape(K - 1, P + 1)
    beta = w[:, 1:].cumsum(0)[::-1]
    mirrored = np.c_[-w[::-1, 0], np.diff(beta, axis=0, prepend=0.0)]
    assert float(value(reverse, jnp.asarray(mirrored.ravel()))) == pytest.approx(
        float(value(loss, jnp.asarray(w.ravel())))
    )
    other = path_of(reverse, [0.5, 0.1, 0.01])
    assert np.abs(np.asarray(other.w[1]) - mirrored.ravel()).max() > 1e-3


def test_rows_of_weight_zero_take_no_part(loss):
    """Not even rows outside the domain, whose loss is infinite."""
    X, y = draw(0)
    far = ordinal_loss(
        jnp.asarray(np.r_[X, 1e3 * np.ones((2, P))]),
        jnp.asarray(np.r_[y, 1, 2]),
        jnp.append(loss.weights, jnp.zeros(2)),
        K,
    )
    ours, theirs = path_of(loss, [0.5, 0.1, 0.01]), path_of(far, [0.5, 0.1, 0.01])
    assert np.isfinite(theirs.objective).all()
    np.testing.assert_allclose(theirs.w, ours.w, atol=1e-10)


def test_separable_classes_without_penalty_are_flagged_and_never_nan():
    X = np.linspace(-1, 1, N)[:, None] * np.ones((1, P)) + 1e-3 * np.random.default_rng(0).normal(size=(N, P))
    y = np.digitize(X.mean(1), [-0.5, 0.0, 0.5])
    separable = loss_of(X / X.std(0), y)
    path = proximal_newton_path(
        separable, null_point(separable), jnp.array([1e-2, 1e-3, 0.0]), factors(), 0 * factors()
    )
    assert np.asarray(path.converged).tolist()[0]
    assert not path.converged[2]
    assert np.isfinite(path.w).all()
    assert np.isfinite(path.gap).all()


def test_working_sets_find_the_same_path_and_the_same_gap():
    """The last column says nothing alone, but how much noise is in the first: it enters by violating its conditions."""
    X, y = draw(4, p=12)
    noise = np.random.default_rng(5).normal(size=N)
    X[:, -1] = noise - (np.bincount(y, noise) / np.bincount(y))[y]
    X[:, 0] += X[:, -1]
    X /= X.std(0)
    loss, scale = loss_of(X, y), factors(p=12)
    start = null_point(loss)
    lambdas = largest_penalty(derivatives(loss, start)[1], scale) * jnp.array([0.05, 0.04, 0.03])
    whole = proximal_newton_path(loss, start, lambdas, scale)
    parts = working_set_path(loss, start, lambdas, scale, 0 * scale)
    assert parts.converged.all()
    np.testing.assert_allclose(parts.w, whole.w, atol=1e-7)
    assert np.max(parts.gap) < 1e-8
    alone = np.abs(np.asarray(derivatives(loss, start)[1]).reshape(K - 1, 13)[:, -1]).max()
    assert alone < 1e-12
    assert (np.asarray(parts.w[0]).reshape(K - 1, 13)[:, -1] != 0).any()


@pytest.mark.parametrize("first", [1.0, 0.0])
def test_boundaries_stay_in_order_in_the_box_at_the_constrained_optimum(first):
    """Against CVXPY on a draw whose boundaries would cross."""
    cp = pytest.importorskip("cvxpy")
    X, y = draw(0, intercepts=(-0.3, 0.2, 0.6))
    loss = loss_of(X, y)
    least, most = X.min(0), X.max(0)
    centre, radius = (least + most) / 2, (most - least) / 2
    strength = 0.002
    free = proximal_newton_path(loss, null_point(loss), jnp.full(3, strength), factors(first), 0 * factors())
    assert (order_margins(np.asarray(free.w[0]), centre, radius) < 0).any()
    l1 = strength * np.asarray(factors(first))
    found = minimise_in_box(loss, np.asarray(null_point(loss)), l1, 0 * l1, centre, radius)
    assert found.converged
    assert (order_margins(found.w, centre, radius) >= -1e-12).all()
    alpha, psi, objective = cvxpy_solution(X, y, strength, first)
    rules = [alpha[k] - alpha[k - 1] + psi[k] @ centre >= cp.abs(psi[k]) @ radius for k in range(1, K - 1)]
    problem = cp.Problem(cp.Minimize(objective), rules)
    problem.solve(solver=cp.CLARABEL)
    assert found.objective == pytest.approx(problem.value, abs=1e-7)
    assert found.objective - found.gap <= problem.value + 1e-8
    assert found.gap < 1e-7
    with pytest.raises(ValueError, match="start is not admissible"):
        minimise_in_box(loss, np.asarray(free.w[0]), l1, 0 * l1, centre, radius)
