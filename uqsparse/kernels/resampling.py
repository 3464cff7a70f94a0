"""Resampling: from weights and explicit uniforms to ancestor indices.

Every scheme is a pure function `f(weights, uniforms, n)` of its randomness, so that it can be enumerated, replayed
and differentiated around. All are unbiased: ancestor `i` is picked `n * weights[i] / sum(weights)` times on average
when the uniforms are independent and uniform on `[0, 1)`. A particle of weight zero is never picked.

Weights need not be normalised. Precision follows the input; with more than about 1e5 particles use float64.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def _cumulative(weights: Float[Array, " m"]) -> Float[Array, " m"]:
    """Cumulative weights, up to a common factor, that never decrease and do not grow at a weight of zero.

    Sums of floats in blocks have neither property; integers in fixed point have both. What is below 2**-52 (double) or
    2**-30 (single) of the sum counts as zero.
    """
    is_double = weights.dtype == jnp.float64
    _, exponent = jnp.frexp(jnp.sum(weights))
    scale = jnp.ldexp(jnp.ones((), weights.dtype), (52 if is_double else 30) - exponent)
    fixed = (weights * scale).astype(jnp.int64 if is_double else jnp.int32)
    return _block_cumsum(fixed).astype(weights.dtype)


def _block_cumsum(x: Int[Array, " m"], block: int = 16) -> Int[Array, " m"]:
    """Cumulative sum in unrolled blocks: a third of the time that XLA's takes on a CPU.

    Only the first level is unrolled: every further one costs memory in the compiler, and gains nothing.
    """
    m = x.shape[0]
    n_blocks = -(-m // block)
    rows = jnp.pad(x, (0, n_blocks * block - m)).reshape(n_blocks, block)
    columns = [rows[:, 0]]
    for j in range(1, block):
        columns.append(columns[-1] + rows[:, j])
    sums = jnp.stack(columns, axis=1)
    if n_blocks > 1:
        totals = columns[-1]
        sums = sums + (jnp.cumsum(totals) - totals)[:, None]
    return sums.reshape(-1)[:m]


def _invert_cdf(weights: Float[Array, " m"], positions: Float[Array, " n"]) -> Int[Array, " n"]:
    """First index whose normalised cumulative weight exceeds each position in `[0, 1]`."""
    cumulative = _cumulative(weights)
    # side="right" skips leading zero weights at u = 0.
    found = jnp.searchsorted(cumulative / cumulative[-1], positions, side="right")
    # A position may round up to 1, and the last quotient down below it: the last particle of positive weight answers.
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(found, last)


def _expand(cumulative: Float[Array, " m"], ends: Int[Array, " m"], n: int) -> Int[Array, " n"]:
    """Ancestors of n slots, of which those below `ends[i]` belong to the particles up to i."""
    # Every position lies below the whole of the weight, whatever the rounding of its product with n.
    ends = jnp.where(cumulative == cumulative[-1], n, jnp.clip(ends, 0, n))
    marks = jnp.zeros(n + 1, jnp.int32).at[ends].add(1, indices_are_sorted=True, mode="promise_in_bounds")
    return _block_cumsum(marks[:n])


def multinomial(weights: Float[Array, " m"], uniforms: Float[Array, " n"], n: int) -> Int[Array, " n"]:
    """Draw `n` ancestors independently.

    Args:
        weights: nonnegative weights, shape (m,), not all zero.
        uniforms: numbers in [0, 1), shape (n,).
        n: number of ancestors to draw.

    Returns:
        Ancestor indices into `weights`, shape (n,).

    Source: Gordon, Salmond & Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation.

    >>> multinomial(jnp.array([0.0, 1.0, 3.0]), jnp.array([0.1, 0.3, 0.9]), 3).tolist()
    [1, 2, 2]
    """
    _check(uniforms, (n,))
    return _invert_cdf(weights, uniforms)


def stratified(weights: Float[Array, " m"], uniforms: Float[Array, " n"], n: int) -> Int[Array, " n"]:
    """Draw one ancestor from each of `n` equal strata of the cumulative weight.

    Args:
        weights: nonnegative weights, shape (m,), not all zero.
        uniforms: numbers in [0, 1), shape (n,), one for each stratum.
        n: number of ancestors to draw.

    Returns:
        Ancestor indices in increasing order, shape (n,).

    Source: Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.

    >>> stratified(jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5, 0.5, 0.5]), 4).tolist()
    [0, 0, 1, 1]
    """
    _check(uniforms, (n,))
    cumulative = _cumulative(weights)
    place = n * cumulative / cumulative[-1]
    whole = jnp.floor(place).astype(jnp.int32)
    ends = whole + (uniforms[jnp.minimum(whole, n - 1)] < place - whole)
    return _expand(cumulative, ends, n)


def systematic(weights: Float[Array, " m"], uniforms: Float[Array, ""], n: int) -> Int[Array, " n"]:
    """Draw `n` ancestors at equally spaced positions with one common offset.

    Args:
        weights: nonnegative weights, shape (m,), not all zero.
        uniforms: one number in [0, 1), shape ().
        n: number of ancestors to draw.

    Returns:
        Ancestor indices in increasing order, shape (n,). Particle i is picked
        `floor(n w_i)` or `ceil(n w_i)` times for normalised weights w.

    Source: Kitagawa (1996); Carpenter, Clifford & Fearnhead (1999), Improved particle filter for nonlinear problems.

    >>> systematic(jnp.array([0.25, 0.75]), jnp.array(0.5), 4).tolist()
    [0, 1, 1, 1]
    """
    _check(uniforms, ())
    cumulative = _cumulative(weights)
    ends = jnp.ceil(n * cumulative / cumulative[-1] - uniforms).astype(jnp.int32)
    return _expand(cumulative, ends, n)


def residual(weights: Float[Array, " m"], uniforms: Float[Array, " n"], n: int) -> Int[Array, " n"]:
    """Copy each particle `floor(n w_i)` times, then fill up by multinomial draws from what is left.

    Args:
        weights: nonnegative weights, shape (m,), not all zero.
        uniforms: numbers in [0, 1), shape (n,). Only those of the slots that the copies leave open are used.
        n: number of ancestors to draw.

    Returns:
        Ancestor indices, shape (n,): the copies in increasing order, then the random ones.

    Source: Liu & Chen (1998), Sequential Monte Carlo methods for dynamic systems.

    >>> residual(jnp.array([0.25, 0.75]), jnp.array([0.5, 0.5, 0.5, 0.5]), 4).tolist()
    [0, 1, 1, 1]
    """
    _check(uniforms, (n,))
    expected = n * (weights / jnp.sum(weights))
    # A product that should be an integer may fall just short of it; without the slack its copy would become random.
    slack = 4 * jnp.finfo(expected.dtype).eps * jnp.maximum(expected, 1)
    copies = jnp.floor(expected + slack)
    left_over = jnp.maximum(expected - copies, 0)
    end_of_copies = jnp.cumsum(copies)
    slots = jnp.arange(n)
    copied = jnp.searchsorted(end_of_copies, slots, side="right")
    # Where no slot is open the left-overs may all be zero; any positive weights will do, since none is used.
    open_weights = jnp.where(jnp.sum(left_over) > 0, left_over, weights)
    drawn = _invert_cdf(open_weights, uniforms)
    return jnp.where(slots < end_of_copies[-1], copied, drawn)


def effective_sample_size(weights: Float[Array, " m"]) -> Float[Array, ""]:
    """Effective sample size `(sum w)^2 / sum w^2` of nonnegative weights.

    Args:
        weights: nonnegative weights, shape (m,), normalised or not.

    Returns:
        A scalar between 1 and m, or 0 if all weights are zero.

    Source: Kong, Liu & Wong (1994), Sequential imputations and Bayesian missing data problems.

    >>> float(effective_sample_size(jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    largest = jnp.max(weights)
    scaled = weights / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(scaled**2)
    return jnp.where(squares > 0, jnp.sum(scaled) ** 2 / jnp.where(squares > 0, squares, 1), 0)


def conditional_effective_sample_size(
    weights: Float[Array, " m"], log_increments: Float[Array, " m"]
) -> Float[Array, ""]:
    """Effective sample size of an importance step from weighted particles: `m (sum W g)^2 / sum W g^2`.

    Args:
        weights: current weights W, shape (m,), nonnegative, normalised or not.
        log_increments: log of the incremental weights g, shape (m,); -inf where the new target is zero.

    Returns:
        A scalar between 0 and m; equal to the effective sample size of g when the weights are equal.

    Source: Zhou, Johansen & Aston (2016), Toward automatic model comparison, eq. 3.16.

    >>> float(conditional_effective_sample_size(jnp.array([0.5, 0.5]), jnp.array([0.0, -jnp.inf])))
    1.0
    """
    peak = jnp.max(jnp.where(weights > 0, log_increments, -jnp.inf))
    increments = jnp.exp(log_increments - jnp.where(jnp.isfinite(peak), peak, 0))
    weights = weights / jnp.sum(weights)
    second = jnp.sum(weights * increments**2)
    first = jnp.sum(weights * increments)
    return weights.shape[0] * jnp.where(second > 0, first**2 / jnp.where(second > 0, second, 1), 0)


def _check(uniforms, shape: tuple[int, ...]) -> None:
    if jnp.shape(uniforms) != shape:
        raise ValueError(f"uniforms has shape {jnp.shape(uniforms)}, this scheme with n ancestors wants {shape}")
