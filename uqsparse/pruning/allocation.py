"""How one budget of weights is spread over the layers: exact counts, on the host."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from uqsparse.kernels.namespaces import is_traced
from uqsparse.kernels.selection import top_mask
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.masks import Prunable, at_pruned, full_mask, prunable_leaves, pruned_leaves, with_masks

Shapes = Mapping[str, tuple[int, ...]]
Counts = dict[str, int]


@dataclass(frozen=True)
class Allocation:
    """A rule that says how many weights each leaf keeps.

    Args:
        name: what it is called.
        counts: from the shapes by path, in the order of the network, and a density in (0, 1], the number of weights
            each leaf keeps. They sum to `round(density * N)` exactly.
        by_score: whether one threshold over all leaves decides, so that there are no counts without scores.
        criterion: what ranks the weights if `by_score`; None takes the criterion that removes weights.
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights.
    """

    name: str
    counts: Callable[[Shapes, float], Counts]
    by_score: bool = False
    criterion: Criterion | None = None
    dense: tuple[str, ...] = ()
    allow_empty: bool = False


def uniform(*, dense: Sequence[str] = (), allow_empty: bool = False) -> Allocation:
    """Every leaf has the same density.

    Args:
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights.

    >>> uniform().counts({"first": (30, 10), "second": (10, 10)}, 0.1)
    {'first': 30, 'second': 10}
    """
    return _by_densities("uniform", lambda shapes: np.ones(len(shapes)), dense, allow_empty)


def uniform_plus(*, last: float = 0.2, allow_empty: bool = False) -> Allocation:
    """The first leaf is dense, the last has density `last` if the whole has less, and the others share what is left.

    Args:
        last: smallest density of the last leaf, in (0, 1].
        allow_empty: whether a leaf may lose all of its weights.

    Source: Gale, Elsen & Hooker (2019), The state of sparsity in deep neural networks, section 4; Liu et al. (2022),
    The unreasonable effectiveness of random pruning, section 3.1.

    >>> uniform_plus().counts({"first": (10, 4), "second": (20, 10), "third": (10, 20)}, 0.19)
    {'first': 40, 'second': 4, 'third': 40}
    """
    if not 0 < last <= 1:
        raise ValueError(f"last must lie in (0, 1], got {last!r}")

    def counts(shapes: Shapes, density: float) -> Counts:
        sizes, budget = _sizes_and_budget(shapes, density)
        densities = np.ones(len(sizes))
        lifted = density < last and len(sizes) > 2
        if lifted:
            densities[-1] = last
        shared = slice(1, -1 if lifted else None)
        left = density * sizes.sum() - (densities * sizes).sum() + sizes[shared].sum()
        if left < 0 or (len(sizes) == 1 and density < 1):
            raise ValueError(
                f"uniform_plus keeps {next(iter(shapes))!r} dense, and density {density:g} of {sizes.sum()} weights, "
                f"{budget}, does not suffice for that"
            )
        densities[shared] = left / max(sizes[shared].sum(), 1)
        return _exact(list(shapes), densities, sizes, budget, allow_empty)

    return Allocation("uniform+", counts, allow_empty=allow_empty)


def er(*, channel_axes: tuple[int, int] = (0, 1), dense: Sequence[str] = (), allow_empty: bool = False) -> Allocation:
    """Densities proportional to (n_in + n_out) / (n_in n_out), as in random graphs: small layers are denser.

    Args:
        channel_axes: axes of outputs and inputs; Equinox has (0, 1), and kernels stored as (height, width, in, out)
            have (-1, -2).
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity,
    eq. 3, with the layers that would exceed 1 made dense.

    >>> er().counts({"first": (40, 40), "second": (10, 40)}, 0.3)
    {'first': 369, 'second': 231}
    """

    def weights(shapes: Shapes) -> Float[np.ndarray, " leaves"]:
        channels = [(shape[channel_axes[0]], shape[channel_axes[1]]) for shape in shapes.values()]
        return np.array([(a + b) / (a * b) for a, b in channels])

    return _by_densities("er", weights, dense, allow_empty)


def erk(*, dense: Sequence[str] = (), allow_empty: bool = False) -> Allocation:
    """Densities proportional to sum(shape) / prod(shape), kernel sizes included; for matrices the same as `er`.

    Args:
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights.

    Source: Evci, Gale, Menick, Castro & Elsen (2020), Rigging the lottery, section 3 (1).

    >>> erk().counts({"first": (64, 3, 3, 3), "second": (64, 64, 3, 3)}, 0.1)
    {'first': 1361, 'second': 2498}
    """
    return _by_densities("erk", _erk_weights, dense, allow_empty)


def erk_plus(*, dense: Sequence[str] = (), allow_empty: bool = False) -> Allocation:
    """`erk` with the last matrix dense: for classifiers with many classes.

    Args:
        dense: paths that are kept dense as well.
        allow_empty: whether a leaf may lose all of its weights.

    Source: Liu et al. (2022), The unreasonable effectiveness of random pruning, section 4.3.

    >>> erk_plus().counts({"first": (100, 100), "last": (10, 100)}, 0.2)
    {'first': 1200, 'last': 1000}
    """

    def counts(shapes: Shapes, density: float) -> Counts:
        matrices = [path for path, shape in shapes.items() if len(shape) == 2]
        if not matrices:
            raise ValueError(f"erk_plus keeps the last matrix dense, and there is none among {', '.join(shapes)}")
        return erk(dense=(*dense, matrices[-1]), allow_empty=allow_empty).counts(shapes, density)

    return Allocation("erk+", counts, dense=tuple(dense), allow_empty=allow_empty)


def fixed(densities: Mapping[str, float], *, allow_empty: bool = False) -> Allocation:
    """Densities by path; leaves that are not named share what is left evenly.

    Args:
        densities: density in [0, 1] by path. If all leaves are named, the densities must agree with the whole.
        allow_empty: whether a leaf may lose all of its weights.

    >>> fixed({"first": 0.5}).counts({"first": (10, 10), "second": (10, 10)}, 0.3)
    {'first': 50, 'second': 10}
    """
    for path, value in densities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"densities[{path!r}] must lie in [0, 1], got {value!r}")
    given = dict(densities)

    def counts(shapes: Shapes, density: float) -> Counts:
        _require_known(given, shapes)
        sizes, budget = _sizes_and_budget(shapes, density)
        named = np.array([path in given for path in shapes])
        wanted = np.array([given.get(path, 0.0) for path in shapes])
        left = density * sizes.sum() - (wanted * sizes).sum()
        rest = sizes[~named].sum()
        # Half a weight a layer is what rounding the single counts may shift.
        if not -0.5 * len(sizes) <= left <= rest + 0.5 * len(sizes):
            raise ValueError(
                f"the densities of {', '.join(given)} keep {(wanted * sizes).sum():g} weights, and density "
                f"{density:g} of the whole asks for {budget} with {rest} left to share"
            )
        if rest:
            wanted[~named] = np.clip(left / rest, 0, 1)
        return _exact(list(shapes), wanted, sizes, budget, allow_empty)

    return Allocation("fixed", counts, allow_empty=allow_empty)


def global_by(
    criterion: Criterion | None = None, *, dense: Sequence[str] = (), allow_empty: bool = False
) -> Allocation:
    """One threshold over all leaves: each keeps what is among the best of all.

    It compares scores between layers, so it changes when one layer is multiplied by a number and the next divided by
    it, which leaves a network of rectified units as it is.

    Args:
        criterion: what ranks the weights; None takes the criterion that removes them.
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights; if not, its best weight stays.
    """

    def counts(shapes: Shapes, density: float) -> Counts:
        raise ValueError("a global allocation has no counts without scores; call allocate(..., scores=...)")

    return Allocation("global", counts, True, criterion, tuple(dense), allow_empty)


def ratio_of(scores: PyTree, *, dense: Sequence[str] = (), allow_empty: bool = False) -> Allocation:
    """The counts, leaf by leaf, of a global selection by scores; which weights they are is left open.

    With the scores of `snip` these are the SNIP ratios, and with those of `grasp` the GraSP ratios.

    Args:
        scores: tree of scores as a criterion returns it, for all leaves that are pruned later.
        dense: paths that are kept dense; the others share what is left.
        allow_empty: whether a leaf may lose all of its weights.

    Source: Liu et al. (2022), The unreasonable effectiveness of random pruning, section 3.1.
    """
    by_path = {path: np.asarray(leaf) for path, leaf in prunable_leaves(scores, lambda path, leaf: True)}

    def counts(shapes: Shapes, density: float) -> Counts:
        for path, shape in shapes.items():
            if path not in by_path or by_path[path].shape != shape:
                got = by_path[path].shape if path in by_path else "nothing"
                raise ValueError(f"scores of {path!r} must have shape {shape}, got {got}")
        return _best_of_all({path: by_path[path] for path in shapes}, density, dense, allow_empty)

    return Allocation("ratio", counts, dense=tuple(dense), allow_empty=allow_empty)


def allocate(
    params: PyTree,
    density: float,
    allocation: Allocation,
    *,
    scores: PyTree | None = None,
    prunable: Prunable | None = None,
) -> PyTree:
    """How many weights each leaf keeps.

    Args:
        params: parameters, as `eqx.filter(model, eqx.is_inexact_array)` gives them; only shapes are read.
        density: share of the prunable weights that is kept, in (0, 1].
        allocation: the rule.
        scores: scores as a criterion returns them, if one threshold over all leaves decides.
        prunable: from path and leaf, whether a leaf is pruned; see `prunable_leaves`.

    Returns:
        Tree of the parameters' structure with an integer, or None for a leaf that is not pruned. The integers sum to
        `round(density * N)`.

    Raises:
        ValueError: the density is out of range or too small, nothing is prunable, a path is unknown, a leaf would
            lose all its weights, or scores are missing or NaN.
    """
    mask = full_mask(params, prunable)
    paths, leaves, _ = pruned_leaves(params, mask)
    if allocation.by_score:
        if scores is None:
            raise ValueError(f"the allocation {allocation.name!r} needs scores")
        by_path = dict(zip(paths, at_pruned(scores, params, mask), strict=True))
        for path, score in by_path.items():
            if score is None:
                raise ValueError(f"scores of {path!r} are missing")
        counts = _best_of_all(by_path, density, allocation.dense, allocation.allow_empty)
    else:
        counts = allocation.counts({path: tuple(leaf.shape) for path, leaf in zip(paths, leaves, strict=True)}, density)
    kept: list[Any] = list(counts.values())
    return with_masks(params, mask, kept)


def erk_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Densities of `erk` before they are rounded to counts: min(1, eps p) with one eps for all leaves.

    Args:
        shapes: shape of each leaf, by path.
        density: density of the whole, in (0, 1].

    >>> erk_densities({"first": (40, 40), "second": (10, 40)}, 0.25)
    {'first': 0.19230769230769232, 'second': 0.4807692307692308}
    """
    sizes, _ = _sizes_and_budget(shapes, density)
    found = _scaled(_erk_weights(shapes), sizes, density, np.zeros(len(sizes), bool))
    return dict(zip(shapes, found.tolist(), strict=True))


def _erk_weights(shapes: Shapes) -> Float[np.ndarray, " leaves"]:
    return np.array([sum(shape) / np.prod(shape) for shape in shapes.values()])


def _by_densities(
    name: str, weights: Callable[[Shapes], Float[np.ndarray, " leaves"]], dense: Sequence[str], allow_empty: bool
) -> Allocation:
    def counts(shapes: Shapes, density: float) -> Counts:
        sizes, budget = _sizes_and_budget(shapes, density)
        found = _scaled(weights(shapes), sizes, density, _dense(dense, shapes, sizes, density))
        return _exact(list(shapes), found, sizes, budget, allow_empty)

    return Allocation(name, counts, dense=tuple(dense), allow_empty=allow_empty)


def _scaled(
    weights: Float[np.ndarray, " leaves"], sizes: np.ndarray, density: float, dense: np.ndarray
) -> Float[np.ndarray, " leaves"]:
    """Densities min(1, eps * weight) that keep `density` of everything; leaves marked dense have density 1."""
    dense, eps = dense.copy(), 0.0
    while not dense.all():
        left = density * sizes.sum() - sizes[dense].sum()
        eps = left / (weights * sizes)[~dense].sum()
        largest = weights[~dense].max()
        if eps * largest <= 1:
            break
        dense |= weights == largest
    return np.where(dense, 1.0, eps * weights)


def _dense(dense: Sequence[str], shapes: Shapes, sizes: np.ndarray, density: float) -> np.ndarray:
    _require_known(dense, shapes)
    marked = np.array([path in dense for path in shapes])
    if sizes[marked].sum() > density * sizes.sum() + 0.5:
        raise ValueError(
            f"{', '.join(dense)}: kept dense these are {sizes[marked].sum()} weights, and density {density:g} keeps "
            f"{round(density * sizes.sum())} in all"
        )
    return marked


def _require_known(paths: Iterable[str], shapes: Shapes) -> None:
    for path in paths:
        if path not in shapes:
            raise ValueError(f"there is no prunable leaf {path!r}; there are {', '.join(shapes)}")


def _sizes_and_budget(shapes: Shapes, density: float) -> tuple[np.ndarray, int]:
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density!r}")
    sizes = np.array([int(np.prod(shape)) for shape in shapes.values()])
    return sizes, round(density * int(sizes.sum()))


def _exact(
    paths: list[str], densities: Float[np.ndarray, " leaves"], sizes: np.ndarray, budget: int, allow_empty: bool
) -> Counts:
    """Round counts down, and give what is missing to the largest fractions, so that they sum to the budget."""
    wanted = np.clip(densities * sizes, 0, sizes)
    counts = np.floor(wanted).astype(int)
    missing = budget - int(counts.sum())
    order = np.argsort(-(wanted - counts), kind="stable")[:: 1 if missing > 0 else -1]
    able = counts[order] < sizes[order] if missing > 0 else counts[order] > 0
    counts[order[able][: abs(missing)]] += np.sign(missing)
    return _refuse_empty(dict(zip(paths, counts.tolist(), strict=True)), allow_empty)


def _best_of_all(given: Mapping[str, Any], density: float, dense: Sequence[str], allow_empty: bool) -> Counts:
    """Counts by leaf of the best weights of all; traced where scores are, which cannot be looked at then."""
    scores = {path: jnp.asarray(score) for path, score in given.items()}
    shapes = {path: score.shape for path, score in scores.items()}
    sizes, budget = _sizes_and_budget(shapes, density)
    marked = _dense(dense, shapes, sizes, density)
    traced = is_traced(scores)
    if not traced:
        for path, score in scores.items():
            if np.isnan(score).any():
                raise ValueError(f"scores of {path!r} hold NaN")
        allowed = sum(int((np.asarray(score) > -np.inf).sum()) for score in scores.values())
        if allowed < budget:
            raise ValueError(f"density {density:g} keeps {budget} weights, and only {allowed} may be")
    counts: list[Any] = global_counts(list(scores.values()), budget, marked.tolist(), allow_empty)
    if traced:
        return dict(zip(scores, counts, strict=True))
    return _refuse_empty({path: int(count) for path, count in zip(scores, counts, strict=True)}, allow_empty)


def global_counts(
    scores: Sequence[Float[Array, "..."]],
    total: int | Int[Array, ""],
    dense: Sequence[bool] | None = None,
    allow_empty: bool = False,
) -> list[Int[Array, ""]]:
    """How many of the best scores of all leaves each leaf holds; ties go to the first.

    Args:
        scores: of each leaf, without NaN; may be traced.
        total: how many in all; may be traced.
        dense: which leaves are kept whole; none if not given.
        allow_empty: whether a leaf may hold none; otherwise its best is among those chosen.
    """
    flat = [score.reshape(-1) for score in scores]
    for i, score in enumerate(flat):
        if dense is not None and dense[i]:
            flat[i] = jnp.where(score > -jnp.inf, jnp.inf, score)
        elif not allow_empty:
            best = jnp.arange(len(score)) == score.argmax()
            flat[i] = jnp.where(best & (score > -jnp.inf), jnp.inf, score)
    chosen = top_mask(jnp.concatenate(flat), total)
    ends = np.cumsum([0, *map(len, flat)]).tolist()
    return [chosen[start:end].sum() for start, end in pairwise(ends)]


def _refuse_empty(counts: Counts, allow_empty: bool) -> Counts:
    for path, count in counts.items():
        if not count and not allow_empty:
            raise ValueError(f"{path!r} would lose all of its weights; raise the density, or pass allow_empty=True")
    return counts
