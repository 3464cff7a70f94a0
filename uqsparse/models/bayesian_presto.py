"""PRESTO with a posterior: how sure can one be of the probability of a rare event?

Each boundary between ordered classes has weights of its own; a prior pulls the changes from one boundary to the next
towards zero. NUTS starts at the penalised fit.
"""

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import ArrayLike, Float, Shaped
from numpyro.distributions import constraints
from scipy.special import expit

from uqsparse.inference.arviz_io import attributes, dataset, group_names, to_arviz
from uqsparse.inference.diagnostics import Convergence, convergence
from uqsparse.inference.nuts import PRNGKey, nuts
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.models.cumulative_logit import Prior, presto_model
from uqsparse.models.ordinal_labels import coded
from uqsparse.models.ordinal_path import moments
from uqsparse.models.presto import PrestoClassifier
from uqsparse.models.presto_start import horseshoe_start, penalised_start, started_model
from uqsparse.models.shrinkage_priors import horseshoe_global_scale, laplace, regularised_horseshoe

# Least distance of the intercepts at which chains start.
_LEAST_INCREMENT = 1e-3


class RareProbability(NamedTuple):
    """Posterior of the probability of the last class, row by row.

    Args:
        mean: posterior mean, shape (n,), in (0, 1).
        lower: lower end of the central credible interval, shape (n,).
        upper: its upper end, shape (n,).
        r_hat: rank-normalised split R-hat, shape (n,).
        ess_bulk: effective sample size for the centre, shape (n,).
        ess_tail: effective sample size for the 5 % and 95 % quantiles, shape (n,).
        interval: probability content of the intervals.
    """

    mean: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    r_hat: Float[np.ndarray, " n"]
    ess_bulk: Float[np.ndarray, " n"]
    ess_tail: Float[np.ndarray, " n"]
    interval: float


@dataclass(frozen=True)
class PrestoPosterior:
    """Draws of the model's weights, with the evidence of how well they were drawn.

    Args:
        data: ArviZ data. `posterior` holds `intercepts` (K - 1,) and `coefs` (K - 1, p) in the units of X, `psi`
            (K - 1, p), the first weights and the differences per standard deviation of a column, and the parameters
            of a horseshoe; `sample_stats`, `log_likelihood` and `observed_data` are as from `nuts`.
        classes: the K labels in order, the rare one last.
        penalty: the penalty that the Laplace prior stands for; the one of the start under a horseshoe.
        start_intercepts: the penalised fit at which the chains started, in the units of X, shape (K - 1,).
        start_coefs: the same, shape (K - 1, p).
        convergence: summaries and warnings of all scalars of the posterior.
        converged: whether there is nothing to warn about.
    """

    data: Any
    classes: np.ndarray
    penalty: float
    start_intercepts: Float[np.ndarray, " boundaries"]
    start_coefs: Float[np.ndarray, "boundaries p"]
    convergence: Convergence
    converged: bool

    def rare_draws(self, X: Float[ArrayLike, "n p"]) -> Float[np.ndarray, "chain draw n"]:
        """Draws of the probability of the last class.

        Args:
            X: features, shape (n, p), in the units of the training rows.

        Returns:
            Probabilities of shape (chain, draw, n).

        Raises:
            ValueError: if X has another number of columns, or entries that are not finite.
        """
        p = self.start_coefs.shape[1]
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != p:
            raise ValueError(f"X must have shape (n, {p}), got {X.shape}")
        if not np.isfinite(X).all():
            raise ValueError("X holds NaN or infinite numbers")
        posterior = dataset(self.data, "posterior")
        intercept = posterior["intercepts"].values[..., -1]
        return expit(-(intercept[..., None] + posterior["coefs"].values[..., -1, :] @ X.T))

    def rare_probability(self, X: Float[ArrayLike, "n p"], interval: float = 0.9) -> RareProbability:
        """Posterior mean, central credible interval, R-hat and effective sample sizes of the rare probability.

        Args:
            X: features, shape (n, p), in the units of the training rows.
            interval: probability content, in (0, 1).

        Returns:
            One of each for each row.

        Raises:
            ValueError: if X does not fit, or `interval` is out of range.

        Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization.
        """
        import arviz

        require_fraction("interval", interval)
        draws = self.rare_draws(X)
        rows = [draws[:, :, i] for i in range(draws.shape[2])]
        lower, upper = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2], axis=(0, 1))
        return RareProbability(
            mean=draws.mean(axis=(0, 1)),
            lower=lower,
            upper=upper,
            r_hat=np.array([float(arviz.rhat(row)) for row in rows]),
            ess_bulk=np.array([float(arviz.ess(row)) for row in rows]),
            ess_tail=np.array([float(arviz.ess(row, method="tail", prob=(0.05, 0.95))) for row in rows]),
            interval=interval,
        )


def bayesian_presto(
    key: PRNGKey,
    X: Float[ArrayLike, "n p"],
    y: Shaped[ArrayLike, " n"],
    *,
    prior: Literal["laplace", "horseshoe"] = "laplace",
    classes: Any = None,
    penalty: float | None = None,
    first_penalty: float | None = None,
    first_scale: float = 5.0,
    n_differing: float | None = None,
    slab_scale: float = 2.0,
    n_warmup: int = 1000,
    n_samples: int = 1000,
    n_chains: int = 4,
    target_accept: float = 0.9,
    dense_mass: bool = False,
    log_likelihood: bool = False,
    progress: bool = False,
) -> PrestoPosterior:
    """Draw the weights of an ordinal model whose boundaries are shrunk towards having the same ones.

    Columns are standardised (population standard deviation; constant ones keep theirs), as the priors speak of one
    standard deviation of a column. Intercepts have a flat prior on increasing vectors; the weights of the first
    boundary are Normal(0, `first_scale`) unless `first_penalty` is given.

    Args:
        key: typed key or legacy `PRNGKey`.
        X: features, shape (n, p), finite.
        y: labels, shape (n,), of at least 3 classes in an order, the rare one last.
        prior: of the differences: "laplace", whose mode is PRESTO, or "horseshoe", the regularised one, which leaves
            large differences alone.
        classes: the labels in their order, where they are neither numbers nor an ordered categorical of pandas.
        penalty: the lambda of PRESTO, positive. The Laplace scale is `1 / (n * penalty)`. None for the one that
            cross-validation chooses.
        first_penalty: None, or the relative penalty c_1 > 0 of the first boundary's weights, which then are Laplace
            with scale `1 / (n * penalty * c_1)`: with c_1 = 1 the mode is that of `PrestoClassifier`.
        first_scale: standard deviation of the first boundary's weights, positive; infinite for a flat prior.
        n_differing: under a horseshoe, how many of the `p * (K - 2)` differences are expected to be far from zero;
            None for a quarter of them.
        slab_scale: under a horseshoe, the scale of large differences, positive.
        n_warmup: adaptation steps per chain.
        n_samples: draws kept per chain.
        n_chains: chains, started around the penalised fit.
        target_accept: mean acceptance probability that the step size aims at, in (0, 1).
        dense_mass: adapt a full covariance. Chains start with that of the fit's Hessian, so it seldom pays.
        log_likelihood: add the log likelihood of each row at each draw.
        progress: show a bar.

    Returns:
        The posterior: ArviZ data, diagnostics, and methods for the rare probability at new rows.

    Raises:
        ValueError: if there are fewer than 3 classes, an entry is not finite, or an option is out of range.

    Source: Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds, ICML; Piironen &
    Vehtari (2017) for the horseshoe.
    """
    _require_options(
        penalty,
        first_penalty,
        {"n_warmup": n_warmup, "n_samples": n_samples, "n_chains": n_chains},
        prior=prior,
        first_scale=first_scale,
        slab_scale=slab_scale,
        n_differing=n_differing,
        target_accept=target_accept,
    )
    fit = PrestoClassifier(
        first_penalty=0.0 if first_penalty is None else first_penalty,
        lambdas=None if penalty is None else [penalty],
        cv=5 if penalty is None else None,
        monotone="ignore",
        classes=classes,
    ).fit(X, y)
    penalty, labels = fit.best_lambda_, fit.classes_
    X, codes = np.asarray(X, dtype=np.float64), coded(np.asarray(y), labels)
    (n, p), n_classes = X.shape, len(labels)
    centre, scale = moments(X, np.full(n, 1 / n))
    if first_penalty is None and math.isinf(first_scale) and (constant := np.ptp(X, axis=0) == 0).any():
        raise ValueError(f"first_scale is infinite, and column {int(constant.argmax())} of X is constant: drop it")
    psi = np.diff(fit.coef_, axis=0, prepend=0.0) * scale
    # Increasing at the mean row too, where the likelihood does not ask for it.
    increments = np.maximum(np.diff(fit.intercept_ + fit.coef_ @ centre), _LEAST_INCREMENT)
    intercepts = (fit.intercept_ + fit.coef_ @ centre)[0] + np.append(0.0, increments.cumsum())
    scaled = (X - centre) / scale

    precision = np.empty(psi.shape)
    if first_penalty is None:
        first_prior: Prior = functools.partial(_normal, scale=first_scale)
        precision[0] = 1 / first_scale**2
    else:
        first_prior = functools.partial(laplace, scale=1 / (n * penalty * first_penalty))
        precision[0] = (n * penalty * first_penalty) ** 2 / 2
    if prior == "horseshoe":
        n_differences = p * (n_classes - 2)
        tau = horseshoe_global_scale(n_differences, n_differences / 4 if n_differing is None else n_differing, n)
        difference_prior: Prior = functools.partial(regularised_horseshoe, global_scale=tau, slab_scale=slab_scale)
        local = np.maximum(1.0, abs(psi[1:]) / tau)
        scales = tau * local / np.hypot(1.0, tau * local / slab_scale)
        precision[1:] = 1 / scales**2
        start = penalised_start(scaled, codes, intercepts, psi, precision)
        start = horseshoe_start(start, scales, tau, local, slab_scale)
    else:
        difference_prior = functools.partial(laplace, scale=1 / (n * penalty))
        precision[1:] = (n * penalty) ** 2 / 2  # of a Laplace distribution
        start = penalised_start(scaled, codes, intercepts, psi, precision)
    model = functools.partial(
        presto_model, n_classes=n_classes, first_prior=first_prior, difference_prior=difference_prior
    )
    with jax.enable_x64(True):
        data = nuts(
            key,
            started_model(model, start),
            scaled,
            codes,
            n_warmup=n_warmup,
            n_samples=n_samples,
            n_chains=n_chains,
            target_accept=target_accept,
            dense_mass=dense_mass,
            log_likelihood=log_likelihood,
            progress=progress,
        )
    data = _in_units_of_X(data, centre, scale)
    report = convergence(data)
    for sentence in report.warnings:
        warnings.warn(f"bayesian_presto: {sentence}", stacklevel=2)
    return PrestoPosterior(
        data=data,
        classes=labels,
        penalty=penalty,
        start_intercepts=fit.intercept_,
        start_coefs=fit.coef_,
        convergence=report,
        converged=report.converged,
    )


def _normal(name: str, shape: tuple[int, ...], scale: float) -> Any:
    if math.isinf(scale):
        return numpyro.sample(name, dist.ImproperUniform(constraints.real, (), shape))
    return numpyro.sample(name, dist.Normal(jnp.zeros(shape), scale).to_event(len(shape)))


def _in_units_of_X(data: Any, centre: np.ndarray, scale: np.ndarray) -> Any:
    """The same ArviZ data with the weights of each boundary, in place of the sampler's own coordinates."""
    raw = dataset(data, "posterior")
    psi = np.concatenate([raw["first"].values, raw["differences"].values], axis=-2)
    coefs = psi.cumsum(axis=-2) / scale
    posterior = {"intercepts": raw["intercepts"].values - coefs @ centre, "coefs": coefs, "psi": psi}
    for name in ("differences_global", "differences_local", "differences_slab"):
        if name in raw:
            posterior[name] = raw[name].values
    groups: dict[str, Mapping[str, Any]] = {"posterior": posterior}
    for group in group_names(data):
        if group != "posterior":
            groups[group] = {str(name): one.values for name, one in dataset(data, group).data_vars.items()}
    notes = {name: value for name, value in attributes(data).items() if name != "deterministic_sites"}
    return to_arviz(groups, notes)


def _require_options(penalty: Any, first_penalty: Any, counts: Mapping[str, Any], **others: Any) -> None:
    if others["prior"] not in ("laplace", "horseshoe"):
        raise ValueError(f"prior must be 'laplace' or 'horseshoe', got {others['prior']!r}")
    for name, value in (("penalty", penalty), ("first_penalty", first_penalty)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be None or positive and finite, got {value!r}")
    for name in ("first_scale", "slab_scale"):
        if not others[name] > 0:
            raise ValueError(f"{name} must be positive, got {others[name]!r}")
    if others["n_differing"] is not None and not others["n_differing"] > 0:
        raise ValueError(f"n_differing must be None or positive, got {others['n_differing']!r}")
    for name, value in counts.items():
        require_count(name, value, 1)
    require_fraction("target_accept", others["target_accept"])
