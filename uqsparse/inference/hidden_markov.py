"""Forward-backward for finite hidden Markov models: states, transitions and evidence, exactly.

    p(x_0 = k) = initial[k],   p(x_{t+1} = j | x_t = i) = transition[i, j],   p(y_t | x_t = k) = likelihood[t, k]

Everything is carried in logarithms, so that neither long series nor very unlikely observations underflow.

Sources: Baum, Petrie, Soules & Weiss (1970), A maximization technique occurring in the statistical analysis of
probabilistic functions of Markov chains; Rabiner (1989), A tutorial on hidden Markov models, section III.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count


class HiddenMarkovResult(NamedTuple):
    """Probabilities of the states of a hidden Markov chain, and the evidence.

    Args:
        filtered: p(x_t = k | y_0, ..., y_t), shape (T, K).
        smoothed: p(x_t = k | y_0, ..., y_{T-1}), shape (T, K).
        pairwise: p(x_t = i, x_{t+1} = j | y_0, ..., y_{T-1}), shape (T - 1, K, K).
        log_evidence: log p(y_0, ..., y_{T-1}).
        log_evidence_increments: log p(y_t | y_0, ..., y_{t-1}), shape (T,). Under `jit` -inf marks an observation that
            no state can explain; it is then passed over.
    """

    filtered: Float[Array, "T K"]
    smoothed: Float[Array, "T K"]
    pairwise: Float[Array, "T-1 K K"]
    log_evidence: Float[Array, ""]
    log_evidence_increments: Float[Array, " T"]


def forward_backward(
    initial_probabilities: Float[Array, " K"],
    transition_matrix: Float[Array, "*steps K K"],
    log_likelihood: Float[Array, "T K"],
) -> HiddenMarkovResult:
    """Filter and smooth a hidden Markov chain with K states in O(T K^2).

    In the precision JAX is set to. It may be called inside `jit`, under `vmap` and `grad`: values that are traced are
    not checked, shapes are. Gradients take transitions of probability zero as impossible for good.

    Args:
        initial_probabilities: p(x_0 = k), non-negative with sum 1, shape (K,).
        transition_matrix: p(x_{t+1} = j | x_t = i) in row i and column j, rows with sum 1; shape (K, K), or
            (T - 1, K, K) with one matrix for each step, of which the matrix t leads from x_t to x_{t+1}.
        log_likelihood: log p(y_t | x_t = k), shape (T, K); -inf where a state cannot explain the observation, a row of
            zeros where nothing was observed.

    Returns:
        A `HiddenMarkovResult`.

    Raises:
        ValueError: shapes do not fit, probabilities are negative or do not sum to 1, a log likelihood is NaN or +inf,
            or no state that can be reached explains the observation at some time.

    Source: Rabiner (1989), section III; smoothing backwards in time from the filtered probabilities: Kitagawa (1987),
    Non-Gaussian state-space modeling of nonstationary time series, section 2.

    >>> loaded = jnp.log(jnp.array([[1 / 6, 1 / 2], [1 / 6, 1 / 2], [1 / 6, 1 / 10]]))  # six, six, one
    >>> result = forward_backward(jnp.array([0.5, 0.5]), jnp.array([[0.9, 0.1], [0.1, 0.9]]), loaded)
    >>> print(result.smoothed[:, 1].round(2))
    [0.84 0.82 0.71]
    """
    arrays = _check(initial_probabilities, transition_matrix, log_likelihood)
    result = _forward_backward(*arrays)
    if not isinstance(result.log_evidence, Tracer):
        dead = np.asarray(result.log_evidence_increments) == -np.inf
        if dead.any():
            raise ValueError(
                f"no state that can be reached has a positive likelihood at t = {int(np.argmax(dead))}: check "
                "log_likelihood there, and the zeros of initial_probabilities and transition_matrix"
            )
    return result


def sample_paths(key: Array, result: HiddenMarkovResult, n_paths: int = 1) -> Int[Array, "n T"]:
    """Draw paths of states given all observations.

    Args:
        key: random key, typed or legacy.
        result: what `forward_backward` returned.
        n_paths: number of independent paths n, at least 1.

    Returns:
        States 0, ..., K - 1, shape (n, T).

    Raises:
        ValueError: `n_paths` is below 1.

    Source: the chain with the smoothed transitions p(x_{t+1} | x_t, y_0, ..., y_{T-1}), which is the posterior.
    """
    require_count("n_paths", n_paths, 1)
    key_first, key_rest = jax.random.split(typed(key))
    first = jax.random.categorical(key_first, jnp.log(result.smoothed[0]), shape=(n_paths,))

    def step(states, x):
        key, pairs = x
        states = jax.random.categorical(key, jnp.log(pairs)[states])
        return states, states

    keys = jax.random.split(key_rest, len(result.pairwise))
    _, later = jax.lax.scan(step, first, (keys, result.pairwise))
    return jnp.concatenate([first[None], later]).T


@jax.jit
def _forward_backward(initial, transition, log_likelihood) -> HiddenMarkovResult:
    log_moves = _log(transition)
    rows, constant = (log_moves, None) if log_moves.ndim == 3 else (None, log_moves)

    def weigh(log_predicted, seen):
        joint = log_predicted + seen
        increment = _logsumexp(joint)
        is_alive = increment > -jnp.inf
        log_filtered = jnp.where(is_alive, joint - jnp.where(is_alive, increment, 0), log_predicted)
        return log_filtered, (log_predicted, log_filtered, jnp.where(is_alive, increment, -jnp.inf))

    def forward(log_filtered, x):
        log_move, seen = x
        log_move = log_move if constant is None else constant
        return weigh(_logsumexp(log_filtered[:, None] + log_move), seen)

    def backward(log_later, x):
        log_move, log_filtered, log_predicted = x
        log_move = log_move if constant is None else constant
        # A state that cannot be reached has no part in what comes before it.
        is_reached = log_predicted > -jnp.inf
        ratio = jnp.where(is_reached, log_later - jnp.where(is_reached, log_predicted, 0), -jnp.inf)
        log_pairs = jax.nn.log_softmax(log_filtered[:, None] + log_move + ratio, axis=(0, 1))
        log_smoothed = _logsumexp(log_pairs.T)
        return log_smoothed, (log_smoothed, jnp.exp(log_pairs))

    log_filtered, first = weigh(_log(initial), log_likelihood[0])
    _, rest = jax.lax.scan(forward, log_filtered, (rows, log_likelihood[1:]))
    predicted, filtered, increments = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, rest)
    before = (rows, filtered[:-1], predicted[1:])
    _, (smoothed, pairwise) = jax.lax.scan(backward, filtered[-1], before, reverse=True)
    smoothed = jnp.concatenate([smoothed, filtered[-1:]])
    return HiddenMarkovResult(jnp.exp(filtered), jnp.exp(smoothed), pairwise, jnp.sum(increments), increments)


def _log(probabilities: Array) -> Array:
    """Logarithm with -inf at zero and a zero derivative there."""
    is_positive = probabilities > 0
    return jnp.where(is_positive, jnp.log(jnp.where(is_positive, probabilities, 1)), -jnp.inf)


def _logsumexp(values: Array) -> Array:
    """Along the first axis; its derivative is zero, not NaN, where all values are -inf."""
    is_alive = jnp.any(values > -jnp.inf, axis=0)
    return jnp.where(is_alive, jax.nn.logsumexp(jnp.where(is_alive, values, 0), axis=0), -jnp.inf)


def _check(initial: Any, transition: Any, log_likelihood: Any) -> tuple[Array, Array, Array]:
    """Check shapes, and values that are not traced; convert to JAX's floating-point type."""
    if jnp.ndim(log_likelihood) != 2 or not jnp.size(log_likelihood):
        raise ValueError(
            f"log_likelihood has shape {jnp.shape(log_likelihood)}, expected (T, K) with T and K at least 1"
        )
    n_steps, n_states = jnp.shape(log_likelihood)
    if jnp.shape(initial) != (n_states,):
        raise ValueError(
            f"initial_probabilities has shape {jnp.shape(initial)}, expected ({n_states},): log_likelihood has "
            f"{n_states} columns"
        )
    one = (n_states, n_states)
    if jnp.shape(transition) not in (one, (n_steps - 1, *one)):
        raise ValueError(
            f"transition_matrix has shape {jnp.shape(transition)}, expected {one} or {(n_steps - 1, *one)}: "
            f"log_likelihood has T = {n_steps} rows and K = {n_states} columns"
        )
    for name, value in (("initial_probabilities", initial), ("transition_matrix", transition)):
        if not isinstance(value, Tracer):
            _check_probabilities(name, np.asarray(value))
    if not isinstance(log_likelihood, Tracer):
        array = np.asarray(log_likelihood)
        bad = (np.isnan(array) | (array == np.inf)).any(axis=1)
        if bad.any():
            raise ValueError(f"log_likelihood has NaN or +inf values, first at t = {int(np.argmax(bad))}")
    return jnp.asarray(initial, float), jnp.asarray(transition, float), jnp.asarray(log_likelihood, float)


def _check_probabilities(name: str, value: np.ndarray) -> None:
    if not np.isfinite(value).all() or value.min(initial=0) < 0:
        raise ValueError(f"{name} has values that are negative or not finite")
    off = np.abs(value.sum(axis=-1) - 1)
    # Single precision and printed digits are off by this much.
    if off.max(initial=0) > 1e-5:
        where = np.unravel_index(np.argmax(off), off.shape)
        raise ValueError(
            f"{name}{list(map(int, where)) if where else ''} must sum to 1, but sums to {value.sum(axis=-1)[where]:.6g}"
        )
