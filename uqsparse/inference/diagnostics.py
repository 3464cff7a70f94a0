"""Can these draws be believed? Convergence in numbers and in words, and the Stein check of a density.

Chains are compared by ArviZ, one scalar at a time on plain (chain, draw) arrays, which every ArviZ since 0.22
reads alike. The replicates of a sequential Monte Carlo run count as chains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from uqsparse.inference.arviz_io import attributes, dataset, group_names
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.kernels.arguments import require_fraction

# Limits of Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021) and, for E-BFMI, Betancourt (2016).
MAX_R_HAT = 1.01
MIN_ESS_PER_CHAIN = 100
MIN_E_BFMI = 0.3
MIN_DRAWS = 8


class SteinCheck(NamedTuple):
    """How far draws are from satisfying two identities that hold for draws of the stated density.

    Args:
        mean_z: z-score of `E[d_i log p(u)] = 0` for each coordinate i, shape (d,).
        identity_z: z-score of `E[(u_i - mean_i) d_i log p(u)] = -1`, shape (d,).
        max_abs_z: the largest of them in size.
        n_draws: number of draws they rest on.
    """

    mean_z: Float[np.ndarray, " d"]
    identity_z: Float[np.ndarray, " d"]
    max_abs_z: float
    n_draws: int

    def ok(self, threshold: float = 5.0) -> bool:
        """Tell whether all z-scores are within the threshold; 5 raises a false alarm once in 10^6 a score."""
        return self.max_abs_z <= threshold


def stein_check(target: Any, draws: Float[ArrayLike, "*chain n d"]) -> SteinCheck:
    """Check that draws and a log density belong together, through the density's gradient alone.

    It needs no normalising constant and finds wrong densities as well as wrong draws. It holds for densities
    on the whole of R^d that vanish at infinity: check unconstrained draws against the unconstrained density.
    Each coordinate is looked at by itself, so independence where there is correlation passes if the marginals
    are right.

    Args:
        target: a function from u (d,) to the log density, up to a constant; or an object with such a method
            `log_density`, as a `TemperedTarget` has.
        draws: independent draws (n, d), or chains (chain, n, d), whose standard errors then rest on the
            effective sample size. At least 8 draws.

    Returns:
        The z-scores. Gradients are taken in double precision.

    Raises:
        ValueError: if `draws` has another shape, too few draws or non-finite entries, or a gradient is not
            finite.

    Source: Stein (1972); Gorham & Mackey (2015), Measuring sample quality with Stein's method.

    >>> draws = np.random.default_rng(0).normal(size=(1000, 1))
    >>> stein_check(lambda u: -0.5 * (u**2).sum(), draws).ok()
    True
    >>> stein_check(lambda u: -0.5 * (u**2).sum() / 4, draws).ok()
    False
    """
    log_density = getattr(target, "log_density", target)
    if not callable(log_density):
        raise TypeError(f"target must be a log density or have a method log_density, got {type(target).__name__}")
    u = np.asarray(draws, dtype=np.float64)
    if u.ndim not in (2, 3) or u.shape[-1] < 1:
        raise ValueError(f"draws must have shape (n, d) or (chain, n, d), got {u.shape}")
    if u.shape[-2] < MIN_DRAWS:
        raise ValueError(f"draws must hold at least {MIN_DRAWS} draws (per chain), got {u.shape[-2]}")
    if not np.isfinite(u).all():
        raise ValueError("draws hold NaN or infinite numbers")
    flat = u.reshape(-1, u.shape[-1])
    n = len(flat)
    gradient = retry_after_precision_clash(lambda: _gradients(log_density, flat))
    if not np.isfinite(gradient).all():
        row, i = (int(k) for k in np.argwhere(~np.isfinite(gradient))[0])
        raise ValueError(
            f"the gradient of the log density is {gradient[row, i]} in coordinate {i} at draw {row}: "
            "the density must be positive and smooth at every draw"
        )
    # The factor n / (n - 1) makes up for the mean being estimated from the same draws.
    identity = (flat - flat.mean(axis=0)) * gradient * (n / (n - 1)) + 1.0
    mean_z = _z_scores(gradient.reshape(u.shape))
    identity_z = _z_scores(identity.reshape(u.shape))
    largest = float(max(np.abs(mean_z).max(), np.abs(identity_z).max()))
    return SteinCheck(mean_z, identity_z, largest, n)


def _gradients(log_density: Callable, u: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    with jax.enable_x64(True):
        gradient = jax.grad(lambda v: log_density(v).squeeze())
        return np.asarray(jax.jit(lambda v: jax.lax.map(gradient, v, batch_size=min(len(u), 1024)))(u))


def _z_scores(values: Float[np.ndarray, "*chain n d"]) -> Float[np.ndarray, " d"]:
    """Mean over draws of something whose expectation is 0, in units of its standard error."""
    import arviz

    flat = values.reshape(-1, values.shape[-1])
    n = np.full(flat.shape[1], float(len(flat)))
    if values.ndim == 3:
        # Never more than the number of draws: antithetic chains would overstate what is known of the spread.
        n = np.minimum(n, [float(arviz.ess(values[:, :, i], method="mean")) for i in range(flat.shape[1])])
    mean, error = flat.mean(axis=0), flat.std(axis=0, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / error)


class ScalarSummary(NamedTuple):
    """What the draws say about one scalar, and how well they say it.

    Args:
        name: variable, with its index if it is an array.
        mean: posterior mean.
        sd: posterior standard deviation.
        low: lower end of the central interval.
        high: upper end of the central interval.
        mcse_mean: Monte Carlo standard error of the mean.
        ess_bulk: effective sample size for the centre.
        ess_tail: effective sample size for the 5 % and 95 % quantiles.
        r_hat: rank-normalised split R-hat; a single chain is compared with itself, quarter by quarter.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    mcse_mean: float
    ess_bulk: float
    ess_tail: float
    r_hat: float


@dataclass(frozen=True)
class Convergence:
    """Summary and verdict of a posterior.

    Args:
        scalars: one summary for each scalar of each variable.
        interval: probability content of the summaries' intervals.
        n_chains: chains (or replicates).
        n_draws: draws in each.
        n_divergent: divergent transitions, None if the sampler has none.
        e_bfmi: energy Bayesian fraction of missing information of each chain, None without energies.
        log_evidence: log marginal likelihood and its standard error, None if the sampler gives none.
        warnings: what keeps the draws from being trusted, as plain sentences.
        notes: what is worth knowing and casts no doubt on the draws.
    """

    scalars: tuple[ScalarSummary, ...]
    interval: float
    n_chains: int
    n_draws: int
    n_divergent: int | None
    e_bfmi: np.ndarray | None
    log_evidence: tuple[float, float] | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether there is nothing to warn about."""
        return not self.warnings


def convergence(data: Any, interval: float = 0.94) -> Convergence:
    """Summarise a posterior and say in words whether its chains can be trusted.

    Args:
        data: ArviZ data with a `posterior` of shape (chain, draw, ...), from `nuts`, from
            `SMCResult.to_arviz()` or from any other library.
        interval: probability content of the central intervals, in (0, 1).

    Returns:
        Summaries, diagnostics, and warnings in plain sentences; `converged` if there are none.

    Raises:
        ValueError: if `interval` is out of range or there are fewer than 8 draws a chain.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC; Betancourt (2016), Diagnosing
        suboptimal cotangent disintegrations
    in Hamiltonian Monte Carlo (E-BFMI).
    """
    require_fraction("interval", interval)
    posterior, run = dataset(data, "posterior"), attributes(data)
    n_chains, n_draws = posterior.sizes["chain"], posterior.sizes["draw"]
    if n_draws < MIN_DRAWS:
        raise ValueError(f"data must hold at least {MIN_DRAWS} draws a chain to be judged, got {n_draws}")
    is_smc = run.get("algorithm") == "tempered SMC"
    constants = set(np.atleast_1d(run.get("deterministic_sites", [])).tolist())
    scalars: list[ScalarSummary] = []
    warnings: list[str] = []
    for variable in posterior.data_vars:
        draws = np.asarray(posterior[variable].transpose("chain", "draw", ...).values, dtype=np.float64)
        if not np.isfinite(draws).all():
            warnings.append(f"{variable}: {int((~np.isfinite(draws)).sum())} of its draws are NaN or infinite.")
            continue
        if np.ptp(draws) == 0 and variable not in constants:
            warnings.append(f"{variable}: all draws are the same: the sampler never moved it.")
        rows = [_summary(name, x, interval) for name, x in _scalars(str(variable), draws)]
        warnings += _complaints(str(variable), rows, n_chains, is_smc)
        scalars += rows
    n_divergent, e_bfmi, sampler_warnings, notes = _sampler_report(data, run)
    evidence = (float(run["log_evidence"]), float(run["log_evidence_se"])) if "log_evidence" in run else None
    if not int(run.get("converged", 1)):
        warnings.append("The run stopped before temperature 1: its particles are not draws from the posterior.")
    return Convergence(
        scalars=tuple(scalars),
        interval=interval,
        n_chains=n_chains,
        n_draws=n_draws,
        n_divergent=n_divergent,
        e_bfmi=e_bfmi,
        log_evidence=evidence,
        warnings=(*warnings, *sampler_warnings),
        notes=notes,
    )


def _scalars(name: str, draws: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for index in np.ndindex(draws.shape[2:]):
        label = f"{name}[{', '.join(map(str, index))}]" if index else name
        yield label, draws[(slice(None), slice(None), *index)]


def _summary(name: str, draws: Float[np.ndarray, "chain draw"], interval: float) -> ScalarSummary:
    import arviz

    low, high = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2])
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    if np.ptp(draws) == 0:
        # A structural constant (the zeros of a Cholesky factor, say): nothing to compare.
        nan = float("nan")
        return ScalarSummary(name, mean, 0.0, mean, mean, 0.0, nan, nan, nan)
    several = draws if len(draws) > 1 else draws[0, : draws.shape[1] // 2 * 2].reshape(2, -1)
    # Chains that are each stuck at a value of their own have no variance within: an infinite R-hat.
    with np.errstate(divide="ignore", invalid="ignore"):
        stuck = bool((np.ptp(draws, axis=1) == 0).all())
        r_hat = np.inf if stuck else float(arviz.rhat(several))
        return ScalarSummary(
            name,
            mean,
            sd,
            float(low),
            float(high),
            float(np.asarray(arviz.mcse(draws, method="mean")).item()),
            float(arviz.ess(draws)),
            float(arviz.ess(draws, method="tail", prob=(0.05, 0.95))),
            r_hat,
        )


def _complaints(variable: str, rows: list[ScalarSummary], n_chains: int, is_smc: bool) -> Iterator[str]:
    """Say what is wrong with a variable, by its worst scalar, in one sentence a fault."""
    rows = [row for row in rows if row.sd > 0]
    apart = [row for row in rows if not row.r_hat <= MAX_R_HAT]
    if apart:
        worst = max(apart, key=lambda row: row.r_hat)
        who = "the replicates disagree" if is_smc else "the chains disagree"
        if n_chains == 1:
            who = "its parts disagree" if is_smc else "the chain has not settled"
        remedy = "use more particles or moves" if is_smc else "run longer or reparameterise"
        rest = _others(apart, variable)
        yield f"{worst.name}: R-hat {worst.r_hat:.3g} is above {MAX_R_HAT}: {who}; {remedy}{rest}."
    least = MIN_ESS_PER_CHAIN * n_chains
    few = [row for row in rows if min(row.ess_bulk, row.ess_tail) < least]
    if few:
        worst = min(few, key=lambda row: min(row.ess_bulk, row.ess_tail))
        kind, ess = min(("bulk", worst.ess_bulk), ("tail", worst.ess_tail), key=lambda pair: pair[1])
        remedy = "use more particles or moves" if is_smc else "draw more samples"
        yield (
            f"{worst.name}: {kind} effective sample size {ess:.0f} is below {least} "
            f"({MIN_ESS_PER_CHAIN} a {'replicate' if is_smc else 'chain'}); {remedy}{_others(few, variable)}."
        )


def _others(faulty: list[ScalarSummary], variable: str) -> str:
    return f" (so for {len(faulty)} entries of {variable}, this one the worst)" if len(faulty) > 1 else ""


def _sampler_report(
    data: Any, run: dict[str, Any]
) -> tuple[int | None, np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    import arviz

    if "sample_stats" not in group_names(data):
        return None, None, (), ()
    stats = dataset(data, "sample_stats")
    warnings: list[str] = []
    notes: list[str] = []
    n_divergent = e_bfmi = None
    if "diverging" in stats:
        n_divergent, n = int(stats["diverging"].sum()), stats["diverging"].size
        if n_divergent:
            warnings.append(
                f"{n_divergent} of {n} transitions diverged: parts of the posterior may be missed; "
                "raise the target acceptance or reparameterise."
            )
    # HMC of fixed length redraws its energy like NUTS does, so the statistic serves both.
    if "energy" in stats and stats["energy"].values.std() > 0:
        e_bfmi = np.atleast_1d(arviz.bfmi(stats["energy"].transpose("chain", "draw").values))
        if e_bfmi.min() < MIN_E_BFMI:
            warnings.append(
                f"E-BFMI {e_bfmi.min():.2g} is below {MIN_E_BFMI}: the sampler explores the tails poorly; "
                "reparameterise or warm up longer."
            )
    if "reached_max_treedepth" in stats and (share := float(stats["reached_max_treedepth"].mean())) > 0.01:
        depth = run.get("max_tree_depth", "its limit")
        notes.append(f"{share:.0%} of trajectories reached tree depth {depth}: sampling is slow, not wrong.")
    return n_divergent, e_bfmi, tuple(warnings), tuple(notes)
