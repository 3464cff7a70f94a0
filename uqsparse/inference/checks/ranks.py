"""The exact rank test: in a stationary chain of a reversible kernel no state can be told from the others by its place.

Parameters from the prior, and data given them, are a draw from the joint law, so a chain started there is stationary
from its first state on. Hide the start at a random place of a stretch of L states, the earlier ones reached by steps
backward, which for a reversible kernel are steps like any other. Then its rank among them is exactly uniform, whatever
the statistic and however slowly the chain mixes.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.inference.checks.drift_pairs import Kernel, Simulate
from uqsparse.inference.checks.drift_statistics import Statistic, TestFunctions, fit_test_functions
from uqsparse.inference.checks.host_randomness import refuse_host_randomness
from uqsparse.inference.checks.rank_verdict import RankVerdict, judge_ranks, rank_among
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction

# Draws that fix the scales of the default statistics; the test itself never sees them.
_N_PILOT = 1000


def rank_test(
    key: Array,
    simulate: Simulate,
    kernel: Kernel,
    statistics: Any = None,
    *,
    log_likelihood: Statistic | None = None,
    backward: Kernel | None = None,
    length: int = 8,
    n_steps: int = 1,
    alpha: float = 1e-5,
    budget: int = 20_000,
    batch_size: int = 1000,
    subject: str = "",
) -> RankVerdict:
    """Test a reversible Markov kernel by ranks that are uniform if it leaves the posterior invariant.

    It stops as soon as it rejects and passes once the budget is spent. All functions are of one element; they are
    vectorised, compiled and run in double precision here.

    Args:
        key: random key.
        simulate: `simulate(key)` draws one pair (theta, y) from the joint law: theta from the prior, y given theta.
            Both are pytrees of numbers.
        kernel: `kernel(key, theta, y)` makes one step and returns the new theta.
        statistics: functions of (theta, y) to a pytree of numbers: one, a sequence, or a dictionary by name. None for
            each number in theta, its square, and its products with the numbers of y, or with signed sums of them. Some
            have to depend on y: by theta alone a kernel that keeps the prior passes.
        log_likelihood: function of (theta, y) to a number, taken as one more statistic.
        backward: the kernel reversed in time, for one that is not reversible: for example a sweep over blocks in the
            opposite order. Default: the kernel itself.
        length: number L of states in a stretch, at least 2.
        n_steps: steps of the kernel from one state to the next, at least 1. More of them show weaker errors.
        alpha: probability of rejecting a correct kernel, in (0, 1).
        budget: most stretches to simulate.
        batch_size: stretches at a time; it looks at the evidence in between.
        subject: what the verdict is about; by default it names the kernel.

    Returns:
        The verdict with the ranks, from 0 to L - 1; `n` is the number of stretches it took. It rests on reversibility:
        a correct kernel that is not reversible may be rejected.

    Raises:
        ValueError: an option is out of range; theta or a statistic becomes NaN; a function draws random numbers on the
            host.
        TypeError: a function is not callable.

    Source: Gandy & Scott (2020), Unit testing for MCMC and other Monte Carlo methods, arXiv:2001.06465;
    after Besag & Clifford (1989), Generalized Monte Carlo significance tests.

    >>> def simulate(key):
    ...     noise = jax.random.normal(key, 2)
    ...     return noise[0], noise[0] + noise[1]
    >>> rank_test(jax.random.key(0), simulate, lambda key, theta, y: y / 2 + jax.random.normal(key)).ok
    False
    """
    key = typed(key)
    counts = {"length": (length, 2), "n_steps": (n_steps, 1), "budget": (budget, 1), "batch_size": (batch_size, 1)}
    for name, (value, least) in counts.items():
        require_count(name, value, least)
    require_fraction("alpha", alpha)
    given = {"simulate": simulate, "kernel": kernel} | ({} if backward is None else {"backward": backward})
    for name, function in given.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")

    def run() -> RankVerdict:
        key_pilot, key_test = jax.random.split(key)
        theta, y = jax.tree.map(np.asarray, _pairs(simulate, jax.random.split(key_pilot, _N_PILOT)))
        for name, function in given.items():
            pair = () if name == "simulate" else jax.tree.map(lambda leaf: leaf[0], (theta, y))
            refuse_host_randomness(name, function, key, *pair)
        tests, names = fit_test_functions(statistics, log_likelihood, theta, y)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key_pilot)))
        size, ranks, verdict = min(batch_size, budget), [], None
        for i, done in enumerate(range(0, budget, size)):
            keys = jax.random.split(jax.random.fold_in(key_test, i), size)
            places = rng.integers(0, length, size)
            stretch = _stretches(keys, places, simulate, kernel, backward, tests, length, n_steps)
            _raise_nan(stretch, names)
            ranks.append(rank_among(rng, np.asarray(stretch.start), np.asarray(stretch.others))[: budget - done])
            verdict = judge_ranks(
                np.concatenate(ranks),
                length,
                names,
                alpha,
                subject=subject
                or f"{getattr(kernel, '__name__', type(kernel).__name__)} leaves the posterior invariant",
                assumptions=_assumptions(reversible=backward is None),
                notes=(f"stretches of {length} states, {n_steps} step(s) of the kernel apart",),
            )
            if not verdict.ok:
                break
        assert verdict is not None
        return verdict

    with jax.enable_x64(True):
        return retry_after_precision_clash(run)


class _Stretch(NamedTuple):
    """Statistics of the start (s,) and of the other states (L - 1, s), and the pair that it started from."""

    start: Float[Array, " s"]
    others: Float[Array, "d s"]
    pair: Any


@eqx.filter_jit
def _pairs(simulate: Simulate, keys: Array) -> Any:
    return jax.vmap(simulate)(keys)


@eqx.filter_jit
def _stretches(
    keys: Array,
    places: Int[np.ndarray, " n"],
    simulate: Simulate,
    kernel: Kernel,
    backward: Kernel | None,
    tests: TestFunctions,
    length: int,
    n_steps: int,
) -> _Stretch:
    """One stretch for each key and place of the start. Statistics are not squashed: it would not change their ranks."""

    def one(key: Array, n_backward: Array) -> _Stretch:
        # One call: every call of the generator takes long to compile.
        keys = jax.random.split(key, 1 + (length - 1) * n_steps)
        start, y = jax.tree.map(jnp.asarray, simulate(keys[0]))

        def move(theta: Any, key: Array, is_backward: Array) -> Any:
            new = kernel(key, theta, y)
            if backward is not None:
                old = backward(key, theta, y)
                new = jax.tree.map(lambda a, b: jnp.where(is_backward, a, b), old, new)
            # As the types of the start, which a kernel may have promoted.
            return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, start)

        def step(theta: Any, inputs: tuple[Array, Array]) -> tuple[Any, Float[Array, " s"]]:
            i, keys = inputs
            # Backward states first; then forward from the start again.
            theta = jax.tree.map(lambda a, b: jnp.where(i == n_backward, a, b), start, theta)
            theta = jax.lax.scan(lambda t, k: (move(t, k, i < n_backward), None), theta, keys)[0]
            return theta, tests.raw(theta, y)

        steps = (jnp.arange(length - 1), keys[1:].reshape(length - 1, n_steps))
        return _Stretch(tests.raw(start, y), jax.lax.scan(step, start, steps)[1], (start, y))

    return jax.vmap(one)(keys, jnp.asarray(places))


def _raise_nan(stretch: _Stretch, names: tuple[str, ...]) -> None:
    for what, values in (("before any step", stretch.start), ("after steps of the kernel", stretch.others)):
        bad = np.argwhere(np.isnan(np.asarray(values)))
        if len(bad):
            theta, y = jax.tree.map(lambda leaf: np.asarray(leaf)[bad[0][0]].tolist(), stretch.pair)  # noqa: B023
            raise ValueError(f"{names[bad[0][-1]]} is NaN {what}, in a chain that starts at theta = {theta}, y = {y}")


def _assumptions(reversible: bool) -> tuple[str, ...]:
    return (
        "simulate draws theta from the prior, and y from the likelihood, that the kernel is meant for",
        "the kernel is reversible: it satisfies detailed balance, which invariance does not imply"
        if reversible
        else "backward is the kernel reversed in time",
    )
