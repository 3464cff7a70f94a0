"""Leave-one-out predictions from one posterior, by Pareto-smoothed importance weights of its draws."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int, Num

from uqsparse.bounds.cross_calibrated import CrossCalibrated, in_blocks, rows_of
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.regions import Intervals
from uqsparse.bounds.scores.score import as_array
from uqsparse.inference.arviz_io import arviz_major, dataset
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray

# Above this shape of the tail the weighted means have errors that no number of draws mends in practice.
UNRELIABLE = 0.7

# The generalised Pareto distribution is fitted to a fifth of the draws, and needs five of them.
_LEAST_DRAWS = 25


class LeaveOneOut(eqx.Module):
    """The posterior without each of n observations, as weights of m draws from the posterior with all of them.

    Args:
        weights: weights of the draws, each row of sum 1, shape (n, m).
        khat: the shape of the Pareto tail of each observation's weights, shape (n,); above 0.7 they are unreliable.
    """

    weights: Float[np.ndarray, "n m"]
    khat: Float[np.ndarray, " n"]

    def mean(self, values: Num[AnyArray, "m b"]) -> Float[AnyArray, "n b"]:
        """The mean of b quantities without each observation, from their values under each draw."""
        return self.weights @ values

    def own_mean(self, values: Num[AnyArray, "m n"]) -> Float[AnyArray, " n"]:
        """The mean of each observation's own quantity without it."""
        return array_namespace(values).einsum("nm,mn->n", self.weights, values)

    def unreliable(self) -> Int[np.ndarray, " k"]:
        """The observations with k-hat above 0.7."""
        return np.flatnonzero(~(self.khat <= UNRELIABLE))


def leave_one_out(log_likelihood: Any, *, var_name: str | None = None, relative_efficiency: float = 1.0) -> LeaveOneOut:
    """Weigh posterior draws so that they stand for the posterior without each observation.

    The weights of observation i are proportional to 1 / f(y_i | theta_t); their largest are replaced by quantiles of a
    generalised Pareto distribution fitted to them.

    Args:
        log_likelihood: log f(y_i | theta_t), (draw, observation) or (chain, draw, observation); or ArviZ data with the
            group `log_likelihood`.
        var_name: the variable of ArviZ data; not needed if there is one.
        relative_efficiency: effective over actual number of draws, for the length of the tail.

    Raises:
        ValueError: the shape is another, there are fewer than 25 draws, a number is not finite, or ArviZ data have
            several variables and none is named.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling.

    >>> rng = np.random.default_rng(0)
    >>> theta = rng.standard_normal((4000, 1))  # draws of a mean; one observation, at 2, with sd 3
    >>> loo = leave_one_out(-((2.0 - theta) ** 2) / 18)
    >>> loo.weights.shape, bool(loo.mean(theta)[0, 0] < theta.mean())
    ((1, 4000), True)
    """
    if not relative_efficiency > 0:
        raise ValueError(f"relative_efficiency must be positive, got {relative_efficiency!r}")
    if not hasattr(log_likelihood, "ndim"):
        variables = dataset(log_likelihood, "log_likelihood")
        names = list(map(str, variables))
        if (var_name is None and len(names) != 1) or (var_name is not None and var_name not in names):
            raise ValueError(f"var_name is {var_name!r}; the group log_likelihood has {', '.join(names)}")
        values = variables[var_name or names[0]].values
        log_likelihood = values.reshape(*values.shape[:2], -1)
    draws = np.asarray(flat_draws("log_likelihood", log_likelihood), dtype=float)
    if draws.shape[0] < _LEAST_DRAWS:
        raise ValueError(f"log_likelihood has {draws.shape[0]} draws; at least {_LEAST_DRAWS} are needed")
    log_weights, khat = _smoothed(draws.T, float(relative_efficiency))
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return LeaveOneOut(weights / weights.sum(axis=1, keepdims=True), khat)


def _smoothed(log_likelihood: Float[np.ndarray, "n m"], relative_efficiency: float) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed log weights of 1 / f and the shapes of their tails, by ArviZ 0.x or by the package of ArviZ 1.x."""
    import arviz

    if arviz_major() >= 1:
        smooth = importlib.import_module("arviz_stats.base").array_stats.psislw
        log_weights, khat = smooth(log_likelihood, r_eff=relative_efficiency)  # it changes the sign itself
    else:
        log_weights, khat = arviz.psislw(-log_likelihood, reff=relative_efficiency)
    return np.asarray(log_weights), np.asarray(khat)


def flat_draws(name: str, values: Any, *, n_draws: int | None = None) -> Any:
    """Draws of numbers as (draw, observation), chain after chain, finite.

    Raises:
        ValueError: there are other axes, other numbers, or another number of draws.
    """
    values = as_array(name, values)
    if values.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {values.shape}; expected (draw, observation) or (chain, draw, observation)")
    values = values.reshape(-1, values.shape[-1])
    if n_draws is not None and values.shape[0] != n_draws:
        raise ValueError(f"{name} has {values.shape[0]} draws; log_likelihood has {n_draws}")
    if not is_traced(values) and (bad := np.count_nonzero(~np.isfinite(np.asarray(values)))):
        raise ValueError(f"{name}: {bad} of {values.size} numbers are NaN or infinite")
    return values


def warn_unreliable(loo: LeaveOneOut, advice: str) -> None:
    """Say how many observations have weights that cannot be relied on."""
    if (bad := loo.unreliable()).size:
        named = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
        warnings.warn(
            f"importance weights are unreliable (k-hat > {UNRELIABLE}) for {bad.size} of {loo.khat.size} observations: "
            f"{named}; {advice}",
            stacklevel=3,
        )


class PosteriorCalibrated(eqx.Module):
    """Leave-one-out residuals of one posterior, ready to predict.

    Args:
        leave_one_out: the weights of the draws without each observation.
        calibrated: the residuals, one fold an observation, so that a row of its predictions is an observation.
        refitted: the observations that exact refits stand in for.
        refits: for each of them the function from inputs to means.
    """

    leave_one_out: LeaveOneOut
    calibrated: CrossCalibrated
    refitted: tuple[int, ...] = eqx.field(static=True, default=())
    refits: tuple[Callable[[Any], Any], ...] = eqx.field(static=True, default=())

    @property
    def guarantee(self) -> Guarantee:
        """What the intervals promise."""
        return self.calibrated.guarantee

    @property
    def khat(self) -> Float[np.ndarray, " n"]:
        """The shape of the tail of each observation's importance weights; above 0.7 they are unreliable."""
        return self.leave_one_out.khat

    def predict(self, means: Num[AnyArray, "m b"], X: Any = None) -> Intervals:
        """The interval of each test point, computed in blocks of them; see `CrossCalibrated.predict`.

        Args:
            means: the mean of each test observation under each draw, (draw, observation) or (chain, draw,
                observation), draws in the order of those calibrated with.
            X: the inputs of the b test points, where observations were refitted.

        Raises:
            ValueError: the draws are not as many as the weights, X is missing or of another length, or a number is
                not finite.
        """
        n, n_draws = self.leave_one_out.weights.shape
        means = flat_draws("means", means, n_draws=n_draws)
        if self.refits and (X is None or X.shape[0] != means.shape[1]):
            raise ValueError(f"X must hold the inputs of the {means.shape[1]} test points, for the refitted models")
        # Exact predictions are put below the weighted means, and picked instead of theirs.
        pick = np.arange(n)
        pick[list(self.refitted)] = n + np.arange(len(self.refitted))

        def of_block(block: slice) -> Intervals:
            centre = self.leave_one_out.mean(means[:, block])
            if self.refits:
                exact = np.stack([np.asarray(refit(rows_of(X, block))) for refit in self.refits])
                if exact.shape[1:] != centre.shape[1:]:
                    raise ValueError(f"a refitted model predicts shape {exact.shape[1:]} for {centre.shape[1]} points")
                centre = array_namespace(centre).concatenate([centre, exact])[pick]
            return self.calibrated.predict(centre)

        return in_blocks(means.shape[1], n, of_block)
