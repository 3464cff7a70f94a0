"""The drift test: a kernel that leaves the posterior invariant moves the joint law of parameters and data nowhere.

Draw parameters from the prior and data given them; then the parameters are a draw from the posterior given these data,
and so they are after a step of a correct kernel. Whatever the function, its values before and after differ by zero on
average: exactly, with no burn-in and no long chain. Before and after share nearly all of their noise, which makes the
test sharp.

Sources: Geweke (2004), Getting it right: joint distribution tests of posterior simulators; Gandy & Scott (2020), Unit
testing for MCMC and other Monte Carlo methods; Shafer (2021), Testing by betting.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from uqsparse.inference.checks.drift_pairs import Batch, Kernel, Simulate, State, Sweep, run_batch
from uqsparse.inference.checks.drift_statistics import Statistic, TestFunctions, fit_test_functions
from uqsparse.inference.checks.eprocess import Wealth, combine, log_mean, mean_radius, no_bets, stop_at_crossing
from uqsparse.inference.checks.host_randomness import refuse_host_randomness
from uqsparse.inference.checks.verdict import Counterexample, Verdict
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction

# Draws that fix the scales of the statistics; the test itself never sees them.
N_PILOT = 1000


def drift_test(
    key: Array,
    simulate: Simulate,
    kernel: Kernel,
    statistics: Any = None,
    *,
    log_likelihood: Statistic | None = None,
    n_steps: int = 1,
    alpha: float = 1e-5,
    budget: int = 400_000,
    batch_size: int = 4096,
    subject: str = "",
) -> Verdict:
    """Test that a Markov kernel leaves the posterior invariant, on data simulated from the model.

    It stops as soon as it rejects and passes once the budget is spent. All functions are of one element; they are
    vectorised, compiled and run in double precision here. If a function is an Equinox module its arrays are passed as
    arguments: variants of a kernel that differ in such numbers alone are compiled once.

    Args:
        key: random key.
        simulate: `simulate(key)` draws one pair (theta, y) from the joint law: theta from the prior, y given theta.
            Both are pytrees of numbers, integers included.
        kernel: `kernel(key, theta, y)` makes one step and returns the new theta.
        statistics: functions of (theta, y) to a pytree of numbers: one, a sequence, or a dictionary by name. None for
            each number in theta, its square, and its products with the numbers of y (with signed sums of y if there
            are more than 8). Some have to depend on y: by theta alone a kernel that keeps the prior passes.
        log_likelihood: function of (theta, y) to a number, taken as one more statistic.
        n_steps: steps of the kernel between before and after. More of them show weaker errors.
        alpha: probability of rejecting a correct kernel, in (0, 1).
        budget: most pairs to simulate.
        batch_size: pairs at a time; it looks at the evidence in between.
        subject: what the verdict is about; by default it names the kernel.

    Returns:
        The verdict; `n` is the number of pairs it took. `bias_bound` is the largest drift that is not excluded for
        some statistic, squashed into [-1/2, 1/2]. The counter-example is the statistic that drifts most clearly.

    Raises:
        ValueError: an option is out of range; the kernel returns NaN, or something of another shape than theta; a
            function draws random numbers on the host.
        TypeError: a function is not callable.

    >>> def simulate(key):
    ...     noise = jax.random.normal(key, 2)
    ...     return noise[0], noise[0] + noise[1]
    >>> drift_test(jax.random.key(0), simulate, lambda key, theta, y: y / 2 + jax.random.normal(key)).ok
    False
    """
    return run_drift(
        key,
        simulate,
        {"": Sweep(kernel, n_steps)},
        statistics,
        log_likelihood,
        Limits(alpha, budget, batch_size),
        subject or f"{getattr(kernel, '__name__', type(kernel).__name__)} leaves the posterior invariant",
        assumptions=("simulate draws theta from the prior, and y from the likelihood, that the kernel is meant for",),
    )


class Limits(NamedTuple):
    """Level of the test, most pairs, and pairs at a time."""

    alpha: float
    budget: int
    batch_size: int


def run_drift(
    key: Array,
    simulate: Simulate,
    sweeps: Mapping[str, Sweep],
    statistics: Any,
    log_likelihood: Statistic | None,
    limits: Limits,
    subject: str,
    assumptions: tuple[str, ...],
) -> Verdict:
    """Test several sweeps from the same starts; the evidence is averaged over them and the statistics.

    Args:
        key: random key.
        simulate: draws a start (theta, y) from the joint law.
        sweeps: by name; each leaves the joint law invariant if it is right. The empty name stands for "the kernel".
        statistics: as in `drift_test`.
        log_likelihood: as in `drift_test`.
        limits: level and effort.
        subject: what the verdict is about.
        assumptions: what it takes for granted.
    """
    key, (alpha, budget, batch_size) = typed(key), limits
    require_fraction("alpha", alpha)
    counts = {"budget": budget, "batch_size": batch_size, "n_steps": min(s.n_steps for s in sweeps.values())}
    for name, value in counts.items():
        require_count(name, value, 1)
    for name, function in {
        "simulate": simulate,
        **{f"kernel {k}".strip(): s.kernel for k, s in sweeps.items()},
    }.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")

    def run() -> Verdict:
        pilot_key, test_key = jax.random.split(key)
        tests, names = _prepare(pilot_key, simulate, sweeps, statistics, log_likelihood)
        state, size, moved, largest = no_bets(len(names)), min(batch_size, budget), 0, 0.0
        done = count = 0
        for i, done in enumerate(range(0, budget, size)):
            count = min(size, budget - done)
            routes = tuple(sweeps.values())
            batch = run_batch(jax.random.fold_in(test_key, i), np.asarray(count), simulate, routes, tests, size)
            _raise_faults(batch, list(sweeps), names)
            before, state = state, combine(state, batch.wealth)
            moved = moved + np.asarray(batch.moved)
            largest = max(largest, float(log_mean(state.log_wealth)))
            if largest >= -math.log(alpha):
                state = stop_at_crossing(before, np.asarray(batch.differences)[:count], alpha)
                break
        notes = (*_mobility(sweeps, moved / (done + count), state, names), f"largest log e-value seen: {largest:.3g}")
        return _judge(state, names, alpha, subject, assumptions, notes)

    with jax.enable_x64(True):
        return retry_after_precision_clash(run)


def _prepare(
    key: Array, simulate: Simulate, sweeps: Mapping[str, Sweep], statistics: Any, log_likelihood: Statistic | None
) -> tuple[TestFunctions, list[str]]:
    """Look at every function before any work: what it returns, and that its randomness comes from its key."""
    refuse_host_randomness("simulate", simulate, key)
    pair = jax.eval_shape(simulate, key)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"simulate must return a pair (theta, y), got {type(pair).__name__}")
    theta, y = jax.tree.map(np.asarray, _simulate_pilot(simulate, jax.random.split(key, N_PILOT)))
    if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(theta) if np.issubdtype(leaf.dtype, np.inexact)):
        raise ValueError("simulate returned NaN in theta")
    one_theta, one_y = jax.tree.map(lambda a: a[0], (theta, y))
    for label, sweep in sweeps.items():
        refuse_host_randomness(label or "kernel", sweep.kernel, key, one_theta, one_y)
        _require_same_form(label or "kernel", jax.eval_shape(sweep.kernel, key, one_theta, one_y), one_theta, "theta")
        if sweep.refresh is not None:
            refuse_host_randomness("simulate_data", sweep.refresh, key, one_theta)
            _require_same_form("simulate_data", jax.eval_shape(sweep.refresh, key, one_theta), one_y, "y")
    tests, names = fit_test_functions(statistics, log_likelihood, theta, y)
    refuse_host_randomness("statistics", tests, one_theta, one_y)
    return tests, [f"{name} ({label})" if label else name for label in sweeps for name in names]


@eqx.filter_jit
def _simulate_pilot(simulate: Simulate, keys: Array) -> tuple[Any, Any]:
    return jax.vmap(simulate)(keys)


def _require_same_form(name: str, result: Any, model: Any, like: str) -> None:
    def form(tree: Any) -> tuple[Any, ...]:
        leaves = jax.tree.leaves(tree)
        kinds = ["float" if np.issubdtype(leaf.dtype, np.floating) else "other" for leaf in leaves]
        return jax.tree.structure(tree), [leaf.shape for leaf in leaves], kinds

    if form(result) != form(model):
        raise ValueError(
            f"{name} must return something of the form of {like}, {_form(model)}; it returns {_form(result)}"
        )


def _form(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")


def _raise_faults(batch: Batch, labels: list[str], names: list[str]) -> None:
    for name, fault in [("simulate", batch.start_fault), *zip(labels, batch.faults, strict=True)]:
        if fault.found:
            what = "simulate returned NaN:" if name == "simulate" else f"{name or 'the kernel'} returned NaN from"
            raise ValueError(f"{what} {_place(fault.before)}")
    if (i := int(batch.nan_statistic)) >= 0:
        raise ValueError(f"the statistic {names[i]} is NaN in a pair that starts from {_place(batch.nan_at)}")


def _place(state: State) -> str:
    theta, y = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), tuple(state))
    return f"theta = {theta}, y = {y}"


def _mobility(sweeps: Mapping[str, Sweep], shares: Any, state: Wealth, names: list[str]) -> Iterator[str]:
    """A kernel that never moves is invariant too, and it passes: say how often each has moved, and its z-scores."""
    mean, error = _drift(state)
    z = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    per_sweep = len(z) // len(sweeps)
    for k, (label, share) in enumerate(zip(sweeps, np.asarray(shares), strict=True)):
        i = k * per_sweep + int(np.argmax(np.abs(z[k * per_sweep :][:per_sweep])))
        yield (
            f"{label or 'the kernel'} changed theta in {share:.1%} of the pairs; of {per_sweep} statistics "
            f"{names[i]} has the largest z-score, {z[i]:+.2f}"
        )


def _drift(state: Wealth) -> tuple[np.ndarray, np.ndarray]:
    """Mean drift of each statistic and its standard error."""
    n, mean = int(state.n), np.asarray(state.total) / int(state.n)
    return mean, np.sqrt(np.maximum(np.asarray(state.squares) / n - mean**2, 0.0) / n)


def _judge(
    state: Wealth, names: list[str], alpha: float, subject: str, assumptions: tuple[str, ...], notes: tuple[str, ...]
) -> Verdict:
    n, evidence = int(state.n), float(log_mean(state.log_wealth))
    mean, error = _drift(state)
    bounds = np.abs(mean) + mean_radius(state.squares, n, alpha / (2 * len(names)))
    found = None
    if evidence >= -math.log(alpha):
        i = int(np.argmax(log_mean(state.log_wealth, axis=1)))
        obtained = f"{mean[i]:+.4g} (standard error {error[i]:.2g})"
        found = Counterexample(f"mean drift of the statistic {names[i]}, squashed into [-1/2, 1/2]", 0.0, obtained)
    return Verdict(
        ok=found is None,
        subject=subject,
        method="statistical",
        evidence=evidence,
        n=n,
        alpha=alpha,
        bias_bound=float(bounds.max()),
        bias_unit="in the mean of a statistic squashed into [-1/2, 1/2]",
        counterexample=found,
        assumptions=assumptions,
        notes=notes,
    )
