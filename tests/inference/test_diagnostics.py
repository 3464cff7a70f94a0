"""Convergence and the Stein check against formulas of their own, and against draws wrong in known ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.inference.arviz_io import to_arviz
from uqsparse.inference.diagnostics import convergence, stein_check


def log_normal_density(u):
    return -0.5 * jnp.sum(u**2)


def ar1(rng, rho, shape):
    """A stationary Gaussian chain with unit variance, along the last axis."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * x[..., t]
    return x


class TestStein:
    def test_scores_are_standard_normal_for_right_draws(self):
        # 600 scores of each identity: their standard deviation has standard error 0.029, so 0.15 is five of
        # them; the largest of 1200 exceeds 5 with probability 7e-4 * 1e-3.
        draws = np.random.default_rng(0).normal(size=(2000, 600))
        check = stein_check(log_normal_density, draws)
        for z in (check.mean_z, check.identity_z):
            assert z.shape == (600,)
            assert abs(z.std() - 1) < 0.15
            assert abs(z.mean()) < 5 / np.sqrt(600)
        assert check.ok(5.5)
        assert check.n_draws == 2000

    @pytest.mark.parametrize(
        ("density", "fault"),
        [
            (lambda u: log_normal_density(u / 1.1), "identity_z"),  # standard deviation 10 % off
            (lambda u: log_normal_density(u - 0.15), "mean_z"),  # shifted
            (lambda u: -log_normal_density(u), "identity_z"),  # a forgotten sign
        ],
    )
    def test_wrong_densities_are_found_by_the_right_identity(self, density, fault):
        check = stein_check(density, np.random.default_rng(1).normal(size=(4000, 2)))
        assert not check.ok()
        assert np.abs(getattr(check, fault)).min() > 5  # in each coordinate
        other = check.identity_z if fault == "mean_z" else check.mean_z
        assert np.abs(other).max() < 5

    def test_a_multivariate_normal_passes_and_one_with_a_wrong_covariance_does_not(self):
        rng = np.random.default_rng(2)
        covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
        draws = rng.multivariate_normal([1.0, -3.0], covariance, size=3000)

        def density(covariance):
            precision = np.linalg.inv(covariance)
            return lambda u: -0.5 * (u - jnp.array([1.0, -3.0])) @ precision @ (u - jnp.array([1.0, -3.0]))

        assert stein_check(density(covariance), draws).ok()
        flipped = covariance * np.array([[1, -1], [-1, 1]])
        assert not stein_check(density(flipped), draws).ok()

    def test_chains_are_judged_by_their_effective_sample_size(self):
        chains = ar1(np.random.default_rng(3), 0.95, (4, 1, 3000)).swapaxes(1, 2)
        assert stein_check(log_normal_density, chains).ok()
        as_if_independent = stein_check(log_normal_density, chains.reshape(-1, 1))
        with_ess = stein_check(log_normal_density, chains)
        # The effective size is n (1 - rho) / (1 + rho), so naive scores are sqrt(39) = 6.2 times as large.
        ratio = as_if_independent.mean_z[0] / with_ess.mean_z[0]
        assert 0.75 * np.sqrt(39) < ratio < 1.25 * np.sqrt(39)

    @given(shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
    def test_scores_do_not_depend_on_units(self, shift, scale):
        draws = np.random.default_rng(4).normal(size=(50, 1))
        plain = stein_check(log_normal_density, draws)
        moved = stein_check(lambda u: log_normal_density((u - shift) / scale), shift + scale * draws)
        np.testing.assert_allclose(moved.mean_z, plain.mean_z, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(moved.identity_z, plain.identity_z, rtol=1e-5, atol=1e-8)

    def test_object_with_a_log_density_runs_in_double_precision(self):
        seen = []

        class Target:
            def log_density(self, u):
                seen.append(u.dtype)
                return log_normal_density(u)

        assert stein_check(Target(), np.random.default_rng(5).normal(size=(100, 2)).astype(np.float32)).ok()
        assert seen == [jnp.float64]
        assert not jax.config.jax_enable_x64

    def test_bad_input_is_named(self):
        good = np.random.default_rng(6).normal(size=(20, 2))
        with pytest.raises(TypeError, match="target must be a log density"):
            stein_check("density", good)
        with pytest.raises(ValueError, match=r"shape \(n, d\) or \(chain, n, d\), got \(20,\)"):
            stein_check(log_normal_density, good[:, 0])
        with pytest.raises(ValueError, match="at least 8 draws"):
            stein_check(log_normal_density, good[:5])
        with pytest.raises(ValueError, match="NaN or infinite"):
            stein_check(log_normal_density, np.where(good > 1, np.nan, good))
        negative = np.abs(good)
        negative[3, 1] = -1.0
        with pytest.raises(ValueError, match="gradient of the log density is nan in coordinate 1 at draw 3"):
            stein_check(lambda u: jnp.sqrt(u[1]) + u[0], negative)


def rank_normalised_split_r_hat(draws):
    """R-hat of Vehtari et al. (2021), written down from equations 1 to 4, 14 and section 4.1."""

    def basic(x):
        n = x.shape[1]
        between = n * x.mean(1).var(ddof=1)
        within = x.var(axis=1, ddof=1).mean()
        return np.sqrt(((n - 1) / n * within + between / n) / within)

    def z_scale(x):
        return stats.norm.ppf((stats.rankdata(x).reshape(x.shape) - 3 / 8) / (x.size + 1 / 4))

    half = draws.shape[1] // 2
    split = np.concatenate([draws[:, :half], draws[:, -half:]])
    return max(basic(z_scale(split)), basic(z_scale(np.abs(split - np.median(split)))))


def posterior(draws, **groups):
    attributes = groups.pop("attributes", {})
    return to_arviz({"posterior": draws, **groups}, attributes)


RNG = np.random.default_rng(7)
GOOD = RNG.normal(size=(4, 500))


class TestConvergence:
    def test_good_chains_give_no_warning_and_the_right_numbers(self):
        report = convergence(posterior({"mu": GOOD, "w": RNG.normal(size=(4, 500, 2, 2))}), interval=0.9)
        assert report.converged
        assert report.warnings == ()
        names = [row.name for row in report.scalars]
        assert names == ["mu", "w[0, 0]", "w[0, 1]", "w[1, 0]", "w[1, 1]"]
        mu = report.scalars[0]
        assert mu.mean == pytest.approx(GOOD.mean())
        assert mu.sd == pytest.approx(GOOD.std(ddof=1))
        assert (mu.low, mu.high) == pytest.approx(tuple(np.quantile(GOOD, [0.05, 0.95])))
        assert mu.mcse_mean == pytest.approx(GOOD.std() / np.sqrt(2000), rel=0.15)
        assert (report.n_chains, report.n_draws) == (4, 500)
        assert report.n_divergent is report.e_bfmi is report.log_evidence is None

    @pytest.mark.parametrize("rho", [0.0, 0.8])
    def test_r_hat_and_ess_are_those_of_the_paper_and_of_theory(self, rho):
        draws = ar1(np.random.default_rng(8), rho, (4, 2000))
        row = convergence(posterior({"x": draws})).scalars[0]
        assert row.r_hat == pytest.approx(rank_normalised_split_r_hat(draws), abs=1e-6)
        assert row.ess_bulk == pytest.approx(8000 * (1 - rho) / (1 + rho), rel=0.2)

    def test_chains_apart_are_named_with_the_worst_entry(self):
        x = RNG.normal(size=(4, 500, 3))
        x[0, :, 1] += 1
        x[0, :, 2] += 3
        report = convergence(posterior({"tau": x, "mu": GOOD}))
        assert not report.converged
        r_hat = rank_normalised_split_r_hat(x[..., 2])
        expected = f"tau[2]: R-hat {r_hat:.3g} is above 1.01: the chains disagree; run longer or reparameterise"
        assert report.warnings[0] == f"{expected} (so for 2 entries of tau, this one the worst)."
        assert not any("mu" in text for text in report.warnings)

    def test_a_single_chain_is_compared_with_itself(self):
        assert convergence(posterior({"x": RNG.normal(size=(1, 1001))})).converged
        drifting = RNG.normal(size=(1, 1000)) + np.linspace(0, 3, 1000)
        report = convergence(posterior({"x": drifting}))
        assert any("the chain has not settled" in text for text in report.warnings)

    def test_stuck_and_broken_chains(self):
        stuck = np.broadcast_to(np.arange(4.0)[:, None], (4, 500))
        report = convergence(
            posterior({"each": stuck, "all": np.ones((4, 500)), "nan": np.where(GOOD > 2, np.nan, GOOD)})
        )
        text = " ".join(report.warnings)
        assert "each: R-hat inf" in text
        assert "all: all draws are the same" in text
        assert f"nan: {(GOOD > 2).sum()} of its draws are NaN or infinite" in text
        assert [row.name for row in report.scalars] == ["each", "all"]

    def test_structural_constants_and_constant_deterministics_are_no_fault(self):
        cholesky = np.zeros((4, 500, 2, 2))
        cholesky[..., 0, 0] = 1
        cholesky[..., 1, 0] = GOOD
        data = posterior({"L": cholesky, "c": np.ones((4, 500))}, attributes={"deterministic_sites": ["c"]})
        report = convergence(data)
        assert report.converged
        assert np.isnan(report.scalars[0].r_hat)

    def test_slow_chains_have_too_few_effective_draws(self):
        report = convergence(posterior({"x": ar1(np.random.default_rng(9), 0.98, (4, 1000))}))
        assert any("effective sample size" in text and "below 400 (100 a chain)" in text for text in report.warnings)

    def test_divergences_energy_and_tree_depth(self):
        diverging = np.zeros((4, 500), dtype=bool)
        diverging[1, :7] = True
        walk = np.cumsum(RNG.normal(size=(4, 500)), axis=1)
        stats_ = {"diverging": diverging, "energy": walk, "reached_max_treedepth": GOOD > 0}
        report = convergence(posterior({"x": GOOD}, sample_stats=stats_, attributes={"max_tree_depth": 6}))
        assert report.n_divergent == 7
        expected = (np.diff(walk, axis=1) ** 2).mean(1) / walk.var(1)
        np.testing.assert_allclose(report.e_bfmi, expected, rtol=0.01)
        assert "7 of 2000 transitions diverged" in report.warnings[0]
        assert "E-BFMI" in report.warnings[1]
        assert "reached tree depth 6" in report.notes[0]

    def test_sequential_monte_carlo(self):
        attributes = {
            "algorithm": "tempered SMC",
            "log_evidence": -3.5,
            "log_evidence_se": 0.1,
            "converged": True,
        }
        report = convergence(posterior({"x": GOOD}, attributes=attributes))
        assert report.converged
        assert report.log_evidence == (-3.5, 0.1)
        apart = GOOD + np.arange(4)[:, None]
        report = convergence(posterior({"x": apart}, attributes={**attributes, "converged": False}))
        assert "the replicates disagree; use more particles or moves" in report.warnings[0]
        assert "stopped before temperature 1" in report.warnings[-1]

    def test_bad_input(self):
        with pytest.raises(ValueError, match="interval"):
            convergence(posterior({"x": GOOD}), interval=1.0)
        with pytest.raises(ValueError, match="at least 8 draws"):
            convergence(posterior({"x": GOOD[:, :5]}))
        with pytest.raises(TypeError, match="InferenceData"):
            convergence({"x": GOOD})
