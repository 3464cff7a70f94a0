"""Plain sparse Bayesian learning: posterior, evidence and updates against dense algebra, densities and optimisers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import multivariate_normal

from uqsparse.solvers.evidence import Step, maximise_evidence
from uqsparse.solvers.fast_evidence import FastMarginalLikelihood
from uqsparse.solvers.sparse_bayes import sparse_bayes

UPDATES = ("em", "mackay", "mm", "fast")
SHAPES = ((15, 30), (40, 12))


def problem(seed, shape, is_complex=False, noise=0.1, nonzero=3):
    rng = np.random.default_rng(seed)

    def draw(*size):
        return rng.normal(size=size) + 1j * rng.normal(size=size) if is_complex else rng.normal(size=size)

    H = draw(*shape)
    x = np.zeros(shape[1], H.dtype)
    x[rng.choice(shape[1], nonzero, replace=False)] = 2 * draw(nonzero)
    return H, H @ x + noise * draw(shape[0]), x


def dense(H, y, gammas, noise):
    """Mean, covariance and log evidence from the joint Gaussian, with the full covariance of y."""
    C = noise * np.eye(len(y)) + H @ np.diag(gammas) @ H.conj().T
    gain = np.diag(gammas) @ H.conj().T @ np.linalg.inv(C)
    each = -(y.conj() @ np.linalg.solve(C, y)).real - np.linalg.slogdet(C)[1]
    log_evidence = each - len(y) * np.log(np.pi) if np.iscomplexobj(H) else (each - len(y) * np.log(2 * np.pi)) / 2
    return gain @ y, np.diag(gammas) - gain @ H @ np.diag(gammas), log_evidence


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall"])
@pytest.mark.parametrize("update", UPDATES)
def test_posterior_and_evidence_are_those_of_the_joint_gaussian(update, shape, is_complex):
    # wide dictionaries that learn the noise end at its floor, where matrices are ill-conditioned on both sides
    learned = None if shape[0] > shape[1] else 0.05
    for seed, (noise, prune) in enumerate([(0.02, 0.0), (learned, 0.0), (learned, 1e-3)]):
        H, y, _ = problem(seed, shape, is_complex)
        found = sparse_bayes(H, y, update=update, noise_variance=noise, prune=prune, max_iter=30)
        mean, covariance, log_evidence = dense(H, y, found.gammas, found.noise_variance)
        size = abs(mean).max()
        np.testing.assert_allclose(found.mean, mean, atol=1e-7 * size)
        np.testing.assert_allclose(found.variance, np.diag(covariance).real, atol=1e-7 * size**2)
        assert found.log_evidence == pytest.approx(log_evidence, abs=1e-6)
        if not is_complex:
            C = found.noise_variance * np.eye(len(y)) + H * found.gammas @ H.T
            assert log_evidence == pytest.approx(multivariate_normal(cov=C).logpdf(y), abs=1e-6)
        rows = H[:5] if not is_complex else H[:5].conj() * 1j
        wanted = np.einsum("ij,jk,ik->i", rows, covariance, rows.conj()).real
        np.testing.assert_allclose(found.variance_of(rows), wanted, atol=1e-6 * size**2)


def test_moves_alone_reach_each_gammas_optimum_and_never_lower_the_evidence(monkeypatch):
    """Without the Newton steps, which would mend a wrong move; noise known. The optimum of one gamma: (q - s) / s^2."""
    monkeypatch.setattr(FastMarginalLikelihood, "_newton", lambda self, point: point)
    for shape in SHAPES:
        H, y, _ = problem(1, shape)
        found = sparse_bayes(H, y, noise_variance=0.02, max_iter=1000)
        assert found.converged
        assert found.is_monotone
        for j in found.support:
            without = np.where(np.arange(shape[1]) == j, 0.0, found.gammas)
            C = 0.02 * np.eye(shape[0]) + (H * without) @ H.T
            s, q = H[:, j] @ np.linalg.solve(C, H[:, j]), H[:, j] @ np.linalg.solve(C, y)
            assert found.gammas[j] == pytest.approx((q**2 - s) / s**2, rel=0.02)
    # Twenty copies of a column that pays a little: one may enter, together they would lower the evidence.
    H = np.eye(15)[:, [0] + 20 * [1]]
    found = sparse_bayes(H, 10 * H[:, 0] + 1.3 * H[:, 1], noise_variance=1.0, max_iter=1000)
    assert found.converged
    assert found.is_monotone


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(SHAPES),
    is_complex=st.booleans(),
    learn=st.booleans(),
    update=st.sampled_from(["em", "mm", "fast"]),
)
def test_evidence_never_falls(seed, shape, is_complex, learn, update):
    H, y, _ = problem(seed, shape, is_complex)
    found = sparse_bayes(H, y, update=update, noise_variance=None if learn else 0.02, max_iter=60)
    assert found.is_monotone
    assert np.all(np.diff(found.cost_trace) <= 1e-8 * np.maximum(1, abs(found.cost_trace[1:])))


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shape", [(10, 16), (30, 8)], ids=["wide", "tall"])
def test_fast_ends_where_no_gamma_alone_can_gain(shape, is_complex):
    """Each gamma in turn, by a scalar search from zero to infinity on the dense evidence; and the noise variance."""
    H, y, _ = problem(1, shape, is_complex)
    found = sparse_bayes(H, y, noise_variance=None if shape[0] > shape[1] else 0.02)
    assert found.converged
    for j in range(shape[1]):

        def lost(log_gamma, j=j):
            gammas = found.gammas.copy()
            gammas[j] = np.exp(log_gamma)
            return -dense(H, y, gammas, found.noise_variance)[2]

        best = min(minimize_scalar(lost, bounds=(a, a + 6), method="bounded").fun for a in (-9, -3, 3))
        assert -best <= found.log_evidence + 1e-5
    if shape[0] > shape[1]:
        noises = found.noise_variance * np.exp(np.linspace(-0.1, 0.1, 5))
        assert np.argmax([dense(H, y, found.gammas, noise)[2] for noise in noises]) == 2


@pytest.fixture(scope="module")
def best_evidence():
    """By a general optimiser, where columns are well separated and the maximum is one."""
    H, y, _ = problem(3, (40, 12), noise=0.5)

    def lost(log_parameters):
        return -dense(H, y, np.exp(log_parameters[:-1]), np.exp(log_parameters[-1]))[2]

    return H, y, -minimize(lost, np.zeros(13), method="L-BFGS-B", bounds=[(-14, 5)] * 13).fun


@pytest.mark.parametrize("update", UPDATES)
def test_updates_reach_the_evidence_of_a_general_optimiser(update, best_evidence):
    H, y, best = best_evidence
    found = sparse_bayes(H, y, update=update, max_iter=3000, tolerance=1e-6)
    # the slow updates' gammas fall towards zero without arriving
    assert found.log_evidence == pytest.approx(best, abs=0.05 if update == "em" else 5e-3)


def test_first_updates_are_the_formulas():
    H, y, _ = problem(4, (15, 30))
    noise, gamma = 0.3, y @ y / np.sum(H**2)
    mean, covariance, _ = dense(H, y, np.full(30, gamma), noise)
    variance = np.diag(covariance)
    C = noise * np.eye(15) + gamma * H @ H.T
    s = np.sum(H * np.linalg.solve(C, H), axis=0)
    wanted = {
        "em": mean**2 + variance,
        "mackay": mean**2 / (1 - variance / gamma),
        "mm": abs(mean) / np.sqrt(s),
    }
    for update, gammas in wanted.items():
        found = sparse_bayes(H, y, update=update, noise_variance=noise, max_iter=1)
        np.testing.assert_allclose(found.gammas, gammas, rtol=1e-9)


def test_first_noise_updates_are_the_formulas():
    H, y, _ = problem(4, (15, 30))
    noise, gamma = 0.1 * np.mean(y**2), y @ y / np.sum(H**2)
    mean, covariance, _ = dense(H, y, np.full(30, gamma), noise)
    determined = np.sum(1 - np.diag(covariance) / gamma)
    residual = np.sum((y - H @ mean) ** 2)
    C = noise * np.eye(15) + gamma * H @ H.T
    wanted = {
        "em": (residual + noise * determined) / 15,
        "mackay": residual / (15 - determined),
        "mm": np.sqrt(residual / np.trace(np.linalg.inv(C))),
    }
    for update, expected in wanted.items():
        found = sparse_bayes(H, y, update=update, max_iter=1)
        assert found.noise_variance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_a_sparse_vector_is_recovered(update, is_complex):
    H, y, x = problem(5, (15, 30), is_complex, noise=1e-3, nonzero=2)
    found = sparse_bayes(H, y, update=update, noise_variance=2e-6, max_iter=2000)
    assert np.linalg.norm(found.mean - x) < 0.01 * np.linalg.norm(x)


def test_pruning_drops_columns_and_keeps_one():
    H, y, x = problem(6, (15, 30))
    found = sparse_bayes(H, y, update="em", noise_variance=0.01, prune=1e-3)
    assert 0 < len(found.support) < 15
    assert set(np.flatnonzero(x)) <= set(found.support)
    assert len(sparse_bayes(H, y, update="em", noise_variance=0.01, prune=0.999).support) >= 1


def test_pure_noise_may_leave_the_model_empty():
    rng = np.random.default_rng(0)
    found = sparse_bayes(rng.normal(size=(50, 10)), rng.normal(size=50), noise_variance=10.0)
    assert found.support.size == 0
    assert found.converged
    assert not found.mean.any()
    assert not found.variance_of(np.ones((2, 10))).any()
    # the noise variance is still learned where columns say nothing: orthogonal to y
    H = np.zeros((4, 1))
    H[0] = 1.0
    found = sparse_bayes(H, np.array([1e-3, 1.0, -1.0, 1.0]))
    assert found.support.size == 0
    assert found.noise_variance == pytest.approx(3 / 4, rel=1e-4)


@pytest.mark.parametrize("update", UPDATES)
def test_repeated_columns_are_no_failure(update):
    H, y, _ = problem(7, (15, 10))
    found = sparse_bayes(np.hstack([H, H]), y, update=update)
    assert np.isfinite(found.log_evidence)
    assert np.isfinite(found.variance).all()


def test_data_without_noise_say_so():
    H, _, x = problem(8, (15, 30))
    found = sparse_bayes(H, H @ x, max_iter=300)
    assert found.noise_is_at_floor


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"y": np.zeros(4)}, "y is zero"),
        ({"dictionary": np.eye(4)[:, [0, 1]] * [1, 0]}, "dictionary has zero columns, the first at index 1"),
        ({"y": np.array([1, np.nan, 1, 1])}, "y has values that are NaN"),
        ({"dictionary": np.full((4, 2), np.inf)}, "dictionary has values that are NaN or infinite"),
        ({"y": np.ones(3)}, r"y has shape \(3,\)"),
        ({"dictionary": np.ones(4)}, r"dictionary must have shape \(n, p\)"),
        ({"noise_variance": 0.0}, "noise_variance must be positive.*1e-8 times"),
        ({"noise_variance": -1.0}, "noise_variance"),
        ({"noise_variance": 1e-20}, "noise_variance"),
        ({"update": "am"}, "update must be one of"),
        ({"prune": 1.0}, "prune must be"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"y": np.full(4, 1e200)}, "y is too large"),
    ],
)
def test_bad_input_is_refused(arguments, match):
    good = {"dictionary": np.random.default_rng(0).normal(size=(4, 2)), "y": np.array([1.0, 2.0, 0.0, 1.0])}
    with pytest.raises(ValueError, match=match):
        sparse_bayes(**(good | arguments))


def test_entries_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="dictionary has dtype"):
        sparse_bayes(np.array([["a"]]), np.ones(1))


def test_the_monitor_reports_rises_and_stops():
    costs = iter([3.0, 2.0, 2.5, 1.0])
    run = maximise_evidence(0, lambda i: Step(next(costs), i + 1, 1.0), max_iter=3)
    assert run.n_iter == 3
    assert not run.converged
    assert not run.is_monotone
    assert run.largest_rise == pytest.approx(0.25)
    np.testing.assert_array_equal(run.cost_trace, [3, 2, 2.5, 1])
    run = maximise_evidence(1.0, lambda x: Step(x, x / 2, x / 2), tolerance=0.2, prune=lambda x: x)
    assert run.converged
    assert run.is_monotone
    assert run.n_iter == 3
    assert run.cost == run.state == 1 / 8
    with pytest.raises(FloatingPointError, match="iteration 0"):
        maximise_evidence(0, lambda i: Step(np.nan, i, 1.0))
