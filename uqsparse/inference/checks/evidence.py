"""Unbiased evidence estimates: the mean of Z_hat is tested against a known Z, in both directions where it can be.

Bets on an upward bias need only that Z_hat is not negative. A downward bias may hide in values of any size that have
not come up yet, so bets on it need a bound on Z_hat.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtri

from uqsparse.inference.checks.eprocess import log_mean, mean_radius
from uqsparse.inference.checks.host_randomness import refuse_host_randomness
from uqsparse.inference.checks.verdict import Counterexample, Verdict
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction

# Stakes, as shares of the largest that cannot ruin the bettor.
STAKES = np.array([0.01, 0.03, 0.1, 0.3, 0.9])


def evidence_test(
    key: Array,
    estimate: Callable[[Array], Array],
    log_evidence: float,
    *,
    upper_bound: float | None = None,
    compiled: bool = True,
    alpha: float = 1e-5,
    budget: int = 10_000,
    batch_size: int = 250,
    subject: str = "",
) -> Verdict:
    """Test that an estimate of the evidence (the marginal likelihood) is unbiased: the mean of Z_hat is Z.

    Args:
        key: random key.
        estimate: `estimate(key)` returns log Z_hat, a number; -inf stands for an estimate of zero.
        log_evidence: log Z, known exactly.
        upper_bound: a number that log Z_hat never exceeds, above `log_evidence`: 0 if the likelihood is the probability
            of discrete data. Without it only an upward bias is tested. The tighter, the sharper.
        compiled: whether `estimate` is a JAX function, to be vectorised, compiled and run in double precision; if not,
            it is called once for each estimate as it is.
        alpha: probability of rejecting an unbiased estimate, in (0, 1).
        budget: most estimates to make.
        batch_size: estimates at a time.
        subject: what the verdict is about.

    Returns:
        The verdict. With an upper bound, `bias_bound` is the largest relative bias, up or down, that is not excluded;
        without, it is None, and an interval from the central limit theorem is among the notes.

    Raises:
        ValueError: an option is out of range; an estimate is NaN, infinite or above `upper_bound`; a compiled estimate
            draws random numbers on the host.
        TypeError: `estimate` is not callable.

    >>> def halves(key):  # the mean of two weights, each 1/2 or 3/2
    ...     return jax.numpy.log(jax.random.bernoulli(key, shape=2).mean() + 0.5)
    >>> evidence_test(jax.random.key(0), halves, 0.0, upper_bound=0.5).ok
    True
    >>> evidence_test(jax.random.key(0), halves, 0.1, upper_bound=0.5).ok
    False
    """
    key = typed(key)
    if not callable(estimate):
        raise TypeError(f"estimate must be a function of a key, got {type(estimate).__name__}")
    if not math.isfinite(log_evidence):
        raise ValueError(f"log_evidence must be finite, got {log_evidence!r}")
    if upper_bound is not None and not log_evidence < upper_bound < math.inf:
        raise ValueError(f"upper_bound must be finite and above log_evidence = {log_evidence}, got {upper_bound!r}")
    require_fraction("alpha", alpha)
    for name, value in {"budget": budget, "batch_size": batch_size}.items():
        require_count(name, value, 1)
    state, size = _Bets(np.zeros((1 if upper_bound is None else 2, len(STAKES))), 0, 0.0, 0.0), min(budget, batch_size)
    # Bets against an upward bias go up to 1, below which X >= 0 leaves something; those against a downward one up to
    # 1 / (B - 1), where X <= B does.
    room = np.array([1.0] if upper_bound is None else [1.0, -math.expm1(upper_bound - log_evidence)])
    for i, done in enumerate(range(0, budget, size)):
        keys = jax.random.split(jax.random.fold_in(key, i), size)[: budget - done]
        excess = _excess(_draw(estimate, keys, compiled, first=i == 0), log_evidence, upper_bound)
        state = _bet(state, excess, room, alpha)
        if log_mean(state.log_wealth) >= -math.log(alpha):
            break
    return _judge(state, room, alpha, subject or "the evidence estimate is unbiased")


class _Bets(NamedTuple):
    """Log wealth by direction (up, then down) and stake, number of draws, sums of X - 1 and of its square."""

    log_wealth: Float[np.ndarray, "side b"]
    n: int
    total: float
    squares: float


def _draw(estimate: Callable[[Array], Array], keys: Array, compiled: bool, first: bool) -> Float[np.ndarray, " n"]:
    if not compiled:
        values = [np.asarray(estimate(keys[i]), np.float64) for i in range(len(keys))]
    else:

        def run() -> np.ndarray:
            if first:
                refuse_host_randomness("estimate", estimate, keys[0])
            return np.asarray(_estimate_all(estimate, keys), np.float64)

        with jax.enable_x64(True):
            values = retry_after_precision_clash(run)
    if values[0].shape != ():
        raise ValueError(f"estimate must return one number, got shape {values[0].shape}")
    return np.asarray(values)


@eqx.filter_jit
def _estimate_all(estimate: Callable[[Array], Array], keys: Array) -> Float[Array, " n"]:
    return jax.vmap(estimate)(keys)


def _excess(
    log_estimates: Float[np.ndarray, " n"], log_evidence: float, upper_bound: float | None
) -> Float[np.ndarray, " n"]:
    """X - 1 = Z_hat / Z - 1."""
    wrong = np.isnan(log_estimates) | (log_estimates == np.inf)
    if wrong.any():
        raise ValueError(f"estimate returned {log_estimates[wrong][0]}, for {wrong.sum()} of {wrong.size} keys")
    if upper_bound is not None:
        # Leave room for rounding in single precision.
        above = log_estimates > upper_bound + 1e-5 * max(1.0, abs(upper_bound))
        if above.any():
            raise ValueError(f"estimate returned {log_estimates.max()}, above upper_bound = {upper_bound}")
        log_estimates = np.minimum(log_estimates, upper_bound)
    return np.expm1(np.minimum(log_estimates - log_evidence, 300.0))


def _bet(state: _Bets, excess: Float[np.ndarray, " n"], room: Float[np.ndarray, " side"], alpha: float) -> _Bets:
    """The state after these draws, or after the first of them at which the evidence suffices."""
    gains = np.log1p(STAKES * (excess[:, None] / room)[..., None])
    path = state.log_wealth + np.cumsum(gains, axis=0)
    reached = np.flatnonzero(log_mean(path.reshape(len(path), -1), axis=1) >= -math.log(alpha))
    used = excess[: reached[0] + 1] if reached.size else excess
    n = state.n + len(used)
    return _Bets(path[len(used) - 1], n, state.total + used.sum(), state.squares + float(np.sum(used**2)))


def _judge(state: _Bets, room: Float[np.ndarray, " side"], alpha: float, subject: str) -> Verdict:
    evidence, mean = float(log_mean(state.log_wealth)), state.total / state.n
    error = math.sqrt(max(state.squares / state.n - mean**2, 0.0) / state.n)
    rejected = evidence >= -math.log(alpha)
    where = f"mean of Z_hat / Z over {state.n} estimates"
    found = Counterexample(where, 1.0, f"{1 + mean:.6g} (standard error {error:.2g})") if rejected else None
    bound, assumptions, notes = None, ["log_evidence is the log of the evidence of the same model"], []
    if len(room) == 2:
        # For each direction in the unit in which the draws are at least -1.
        unit = np.abs(room)
        below, above = unit * mean_radius(state.squares / unit**2, state.n, alpha / 2)
        bound = max(abs(mean - below), abs(mean + above))
        assumptions.append("no estimate exceeds upper_bound")
    else:
        reach = -ndtri(alpha / 2) * error
        notes.append("without upper_bound a downward bias is not tested")
        notes.append(
            f"by the central limit theorem, which large weights delay, the mean of Z_hat / Z lies between "
            f"{1 + mean - reach:.4g} and {1 + mean + reach:.4g}"
        )
    return Verdict(
        ok=not rejected,
        subject=subject,
        method="statistical",
        evidence=evidence,
        n=state.n,
        alpha=alpha,
        bias_bound=bound,
        bias_unit="of the evidence" if bound is not None else "",
        counterexample=found,
        assumptions=tuple(assumptions),
        notes=tuple(notes),
    )
