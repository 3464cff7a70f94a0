"""Is a resampling scheme unbiased? By all its outcomes, for weights that are chosen to be awkward."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from uqsparse.inference.checks.boxes import level_sets
from uqsparse.inference.checks.verdict import Counterexample, Verdict, worst

TOLERANCE = 1e-9
# Equal and unequal, sums other than one, zeros at either end and between, expected counts that are integers.
WEIGHTS = (
    (1.0, 1.0, 1.0),
    (0.1, 0.2, 0.7),
    (0.0, 5.0, 1.0),
    (3.0, 0.0, 0.4),
    (2.0, 2.0, 0.0),
    (0.0, 0.0, 2.0),
    (0.5, 0.25, 0.25),
)
N_ANCESTORS = (2, 3, 4)


def check_resampler(
    resampler: Callable[[Any, Any, int], Any],
    *,
    weights: Iterable[Sequence[float]] = WEIGHTS,
    n_ancestors: Sequence[int] = N_ANCESTORS,
    subject: str = "",
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Check that a resampling scheme picks particle j on average n w_j times, and never one of weight zero.

    Its uniform numbers are enumerated by the cells between the thresholds at which its ancestors change; these are
    found by bisection, so the scheme may be any function that compares its numbers with something.

    Args:
        resampler: `resampler(weights, uniforms, n)` returns n indices into `weights`, like those of
            `uqsparse.kernels`. The uniforms have shape (n,), or () if it takes a single one. JAX or NumPy.
        weights: vectors of nonnegative weights to try, of any sum.
        n_ancestors: numbers of ancestors to try.
        subject: what is checked, for the report.
        tolerance: largest error of an expected count.

    Returns:
        An exact verdict with the largest error of an expected count. Its notes compare the mean squared error of the
        counts with that of independent draws: a valid scheme may be wasteful.

    Raises:
        ValueError: weights are not weights; the scheme returns something else than n indices, or draws randomness of
            its own.

    >>> from uqsparse.kernels import systematic
    >>> check_resampler(systematic, n_ancestors=[3]).ok
    True
    """
    name = subject or f"resampling by {getattr(resampler, '__name__', type(resampler).__name__)}"
    vectors = [np.asarray(one, float) for one in weights]
    for one in vectors:
        if one.ndim != 1 or not np.all(np.isfinite(one)) or not np.all(one >= 0) or not one.sum() > 0:
            raise ValueError(f"weights: {one.tolist()}; expected a vector of finite nonnegative numbers, not all zero")
    if not vectors or not len(n_ancestors) or any(n < 1 for n in n_ancestors):
        raise ValueError("weights and n_ancestors must each hold something, and numbers of ancestors be at least 1")
    with jax.enable_x64(True):
        found = []
        for n, m in itertools.product(n_ancestors, {len(one): None for one in vectors}):
            same_size = [one for one in vectors if len(one) == m]
            run, k = _rows(resampler, same_size[0], n)
            found += [_check(run, k, one, n, name, tolerance) for one in same_size]
    verdicts, spreads = zip(*found, strict=True)
    decided = worst(verdicts)
    ratio = np.sum([ours for ours, _ in spreads]) / np.sum([independent for _, independent in spreads])
    notes = (f"mean squared error of the counts: {ratio:.3g} of that of independent draws",)
    return Verdict(
        ok=decided.ok,
        subject=name,
        method="exact",
        evidence=max(one.evidence for one in verdicts),
        n=sum(one.n for one in verdicts),
        counterexample=decided.counterexample,
        assumptions=("its numbers are independent and uniform on [0, 1)",),
        notes=notes,
    )


def _check(run, k: int, weights, n: int, name: str, tolerance: float) -> tuple[Verdict, tuple[float, float]]:
    """Verdict for one vector of weights, with the mean squared errors of the counts, the scheme's and independent."""
    results, volumes, n_boxes = level_sets(lambda rows: run(weights, rows), k, {}, 1_000_000, 0)
    where = f"weights {weights.tolist()}, {n} ancestors"
    counts = np.stack([(results == j).sum(axis=1) for j in range(len(weights))], axis=1)
    if not np.all(counts.sum(axis=1) == n):
        bad = results[np.argmax(counts.sum(axis=1) != n)]
        raise ValueError(
            f"the resampler returned {bad.tolist()} for {where}; expected {n} indices below {len(weights)}"
        )
    share = weights / weights.sum()
    expected, obtained = n * share, volumes @ counts
    errors = np.abs(obtained - expected)
    ruled_out = (weights == 0) & (obtained > 0)
    worst_at = int(np.argmax(np.where(ruled_out, np.inf, errors)))
    ok = bool(errors.max() <= tolerance and not ruled_out.any())
    verdict = Verdict(
        ok,
        name,
        "exact",
        float(errors.max()),
        n_boxes,
        counterexample=None
        if ok
        else Counterexample(
            f"expected number of copies of particle {worst_at}, {where}",
            float(expected[worst_at]),
            float(obtained[worst_at]),
        ),
    )
    squared = float(volumes @ ((counts - expected) ** 2).sum(axis=1))
    return verdict, (squared, float(n * np.sum(share * (1 - share))))


def _rows(resampler, weights: np.ndarray, n: int) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]:
    """The scheme for rows of uniforms, compiled if it can be, and how many uniforms a row holds."""
    shape = _shape_of_uniforms(resampler, weights, n)
    k = n if shape else 1

    def call(weights, row):
        return resampler(weights, row if shape else row[0], n)

    def one_by_one(weights, rows):
        return np.stack([np.asarray(call(weights, row)) for row in rows]).astype(float)

    compiled = jax.jit(jax.vmap(call, (None, 0)))

    def batched(weights, rows):
        size = max(1024, 1 << (len(rows) - 1).bit_length())  # few sizes, so that little is compiled
        padded = np.concatenate([rows, np.full((size - len(rows), k), 0.5)])
        return np.asarray(compiled(weights, padded))[: len(rows)].astype(float)

    trial = np.random.default_rng(1).random((4, k))
    try:
        run, first = batched, batched(weights, trial)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError, TypeError):
        run, first = one_by_one, one_by_one(weights, trial)
    if not np.array_equal(first, one_by_one(weights, trial)):
        raise ValueError("the resampler gives different ancestors for the same uniforms: it has randomness of its own")
    return run, k


def _shape_of_uniforms(resampler, weights: np.ndarray, n: int) -> tuple[int, ...]:
    refusals = []
    for shape in ((n,), ()):
        try:
            ancestors = np.asarray(resampler(weights, np.full(shape, 0.5), n))
        except (ValueError, TypeError, IndexError) as error:
            refusals.append(error)
            continue
        if ancestors.shape != (n,):
            raise ValueError(f"the resampler returned an array of shape {ancestors.shape}; expected ({n},)")
        return shape
    raise ValueError(f"the resampler takes uniforms neither of shape ({n},) nor of shape (): {refusals[0]}")
