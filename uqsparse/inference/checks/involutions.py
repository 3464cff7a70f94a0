"""Is a map an involution with the Jacobian it claims? What a Metropolis-Hastings-Green step rests on."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from uqsparse.inference.checks.verdict import Counterexample, Verdict
from uqsparse.inference.involutive import InvolutiveKernel
from uqsparse.inference.jacobians import Map, active_block, active_entries, continuous_part, jacobian
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.kernels.arguments import require_count

Active = Callable[[PyTree, PyTree], PyTree]

EPS = float(np.finfo(np.float64).eps)
# Rounding errors are taken to be at most this many units in the last place, times the condition of the map.
ULPS = 1e3
# Finite differences are taken at few points: they cost 4 evaluations of f an entry.
N_DIFFERENCES = 32
DIFFERENCE_TOLERANCE = 1e-3


def check_involution(
    f: Map | InvolutiveKernel,
    sampler: Callable[[Array], PyTree],
    *,
    key: Array,
    n: int = 1000,
    log_det: Callable[[PyTree, PyTree], Any] | None = None,
    active: Active | None = None,
    tolerance: float = 1e-9,
    subject: str = "",
) -> Verdict:
    """Check at random points that f(f(z)) = z, and that log |det Df| is what is claimed.

    At each point z = (x, v): f returns as many reals as it gets, in the same structure; f(f(z)) = z, labels exactly
    and reals to `tolerance`; Df(z) is invertible; log |det Df(z)| + log |det Df(f(z))| = 0; a `log_det` written by
    hand agrees with the derivatives of f; and, at 32 of the points, so do finite differences. All in double precision.

    Args:
        f: maps (x, v) to (x', v'); floating-point leaves are the continuous part, the others labels. Or a kernel made
            by `involutive` or `reversible_jump`, whose own log_det is then checked.
        sampler: maps a key to a point (x, v) of the support; for a kernel, to a state x, to which v is drawn. The
            points should reach all labels.
        key: random key.
        n: number of points, at least 1.
        log_det: a hand-written log |det Df(x, v)| to be checked; None if there is none.
        active: which real entries count, see `involutive`; None if all do.
        tolerance: largest error of a real, relative to one plus the largest entry of z and f(z), in (0, 1); rounding
            errors that the condition of f explains are allowed on top.
        subject: what is checked, in one line.

    Returns:
        A verdict, exact to rounding; its evidence is the largest relative error, infinite where dimensions or labels
        are wrong.

    Raises:
        ValueError: an argument is out of range, or the sampler returns no pair or something not finite.

    Source: Green (1995), Reversible jump Markov chain Monte Carlo computation, section 3; Cusumano-Towner, Lew &
        Mansinghka (2020), Automating involutive MCMC using probabilistic and differentiable programming, section 4.

    >>> def draw(key):
    ...     return jax.random.normal(key), jax.random.normal(jax.random.split(key)[0])
    >>> check_involution(lambda x, v: (x + v, -v), draw, key=jax.random.key(0)).ok
    True
    >>> check_involution(lambda x, v: (x + v, v), draw, key=jax.random.key(0)).ok
    False
    """
    require_count("n", n, 1)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie in (0, 1), got {tolerance}")
    for name, given in (("f", f), ("sampler", sampler)):
        if not callable(given):
            raise TypeError(f"{name} must be a function, got {type(given).__name__}")
    mapping: Map = f.f if isinstance(f, InvolutiveKernel) else f
    points = sampler
    if isinstance(f, InvolutiveKernel):
        active = active or f.active
        if log_det is None and not f.automatic:
            log_det = f.log_det
        points = _with_auxiliary(f, sampler)

    subject = subject or f"{getattr(mapping, '__name__', 'f')} as an involution"

    def check() -> Verdict:
        with jax.enable_x64(True):
            return _check(mapping, points, key, n, log_det, active, tolerance, subject)

    return retry_after_precision_clash(check)


def _with_auxiliary(kernel: InvolutiveKernel, sampler: Callable[[Array], PyTree]) -> Callable[[Array], PyTree]:
    def draw(key):
        key_x, key_v = jax.random.split(key)
        x = sampler(key_x)
        return x, kernel.draw(key_v, x)

    return draw


class _Seen(NamedTuple):
    """What was found at each point; arrays with a leading axis n."""

    start: np.ndarray  # (n, d), the reals of z
    image: np.ndarray  # of f(z)
    back: np.ndarray  # of f(f(z))
    same_labels: np.ndarray  # (n,)
    counting: np.ndarray  # (n, 2, d), which entries count at z and at f(z)
    log_dets: np.ndarray  # (n, 2), at z and at f(z)
    norms: np.ndarray  # (n, 2), of the Jacobians there
    given: np.ndarray | None  # (n,)


class _Finding(NamedTuple):
    """One property: its error at each point, the largest that is allowed, and what to say of a point."""

    what: str
    error: np.ndarray
    allowed: np.ndarray | float
    expected: Callable[[int], object]
    obtained: Callable[[int], object]


def _check(f, sampler, key, n, log_det, active, tolerance, subject) -> Verdict:
    def draw(one_key):
        z: Any = sampler(one_key)
        if not (isinstance(z, tuple | list) and len(z) == 2):
            raise ValueError(f"sampler must return a pair (x, v), got a {type(z).__name__}")
        return tuple(jax.tree.map(_in_double, tuple(z)))

    keys = jax.random.split(key, n)
    problem = _shape_problem(f, jax.eval_shape(draw, keys[0]))
    if problem is not None:
        return Verdict(False, subject, "exact", np.inf, 0, counterexample=problem)

    @jax.jit
    @jax.vmap
    def look(z):
        """f(z), and what there is to know at z."""
        vector, _ = continuous_part(z)
        counting = jnp.ones(vector.size, bool) if active is None else active_entries(active, z)
        image = jax.tree.map(_in_double, tuple(f(*z)))
        given = jnp.zeros(()) if log_det is None else jnp.asarray(log_det(*z), float).reshape(())
        return image, vector, counting, jacobian(f, z[0], z[1], active), given

    points = jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))
    image, start, counting, here, given = jax.tree.map(np.asarray, look(points))
    # In the types of the points, so that nothing is compiled twice.
    image = jax.tree.map(lambda new, old: new.astype(old.dtype), image, points)
    back, middle, image_counting, there, _ = jax.tree.map(np.asarray, look(image))
    reals = [leaf.reshape(n, -1) for leaf in jax.tree.leaves(back) if _is_real(leaf)]
    labels = [(a == b).reshape(n, -1).all(1) for a, b in zip(_labels(points), _labels(back), strict=True)]
    matrices = np.stack([here, there], axis=1)
    seen = _Seen(
        start,
        middle,
        np.concatenate([np.zeros((n, 0)), *reals], axis=1),
        np.all(labels, axis=0) if labels else np.ones(n, bool),
        np.stack([counting, image_counting], axis=1),
        _log_abs_dets(matrices),
        np.abs(matrices).sum(axis=-1).max(axis=-1, initial=0.0),
        None if log_det is None else given,
    )
    if not np.isfinite(seen.start).all():
        row = int(np.argwhere(~np.isfinite(seen.start))[0, 0])
        raise ValueError(f"sampler must return finite points, got {_describe(points, row)}")

    evidence = 0.0
    failures: list[Counterexample] = []
    for finding in (*_findings(seen, tolerance), _differences(f, points, seen)):
        error = np.where(np.isnan(finding.error), np.inf, finding.error)
        evidence = max(evidence, float(np.max(error, initial=0.0))) if "finite diff" not in finding.what else evidence
        excess = np.where(error > finding.allowed, error, -1.0)
        worst = int(np.argmax(excess))
        if excess[worst] >= 0:
            where = f"{finding.what} at {_describe(points, worst)}"
            failures.append(Counterexample(where, finding.expected(worst), finding.obtained(worst)))
            evidence = max(evidence, float(error[worst]))
    low, high = seen.log_dets[:, 0].min(), seen.log_dets[:, 0].max()
    notes = [f"log |det Df| from {low:.4g} to {high:.4g} over the points"]
    notes += [f"also wrong: {failure}" for failure in failures[1:]]
    return Verdict(
        not failures,
        subject,
        "exact",
        evidence,
        n,
        counterexample=failures[0] if failures else None,
        assumptions=("the sampler reaches every label and every piece on which f is smooth",),
        notes=tuple(notes),
    )


def _findings(seen: _Seen, tolerance: float) -> Iterator[_Finding]:
    """The properties in the order in which they should be mended."""
    finite = np.isfinite(seen.image).all(axis=1)
    yield _Finding("f(z)", np.where(finite, 0.0, np.inf), 0.0, lambda i: "finite numbers", lambda i: seen.image[i])
    counts = seen.counting.sum(axis=2)
    yield _Finding(
        "the continuous dimension of z and of f(z)",
        np.where(counts[:, 0] == counts[:, 1], 0.0, np.inf),
        0.0,
        lambda i: int(counts[i, 0]),
        lambda i: int(counts[i, 1]),
    )
    yield _Finding(
        "labels of f(f(z))",
        np.where(seen.same_labels, 0.0, np.inf),
        0.0,
        lambda i: "those of z",
        lambda i: "others",
    )
    largest = np.maximum(np.abs(seen.start).max(axis=1, initial=0.0), np.abs(seen.image).max(axis=1, initial=0.0))
    errors = np.where(seen.counting[:, 0], np.abs(seen.back - seen.start), 0.0) / (1 + largest)[:, None]

    def entry(i: int) -> int:
        return int(np.argmax(np.where(np.isnan(errors[i]), np.inf, errors[i])))

    yield _Finding(
        "f(f(z))",
        np.where(np.isnan(errors), np.inf, errors).max(axis=1, initial=0.0),
        tolerance + ULPS * EPS * (1 + seen.norms[:, 1]),
        lambda i: f"entry {entry(i)} to be {seen.start[i, entry(i)]:.10g}",
        lambda i: f"{seen.back[i, entry(i)]:.10g}",
    )
    finite = np.isfinite(seen.log_dets)
    yield _Finding(
        "the Jacobian Df(z)",
        np.where(finite.all(axis=1), 0.0, np.inf),
        0.0,
        lambda i: "an invertible matrix",
        lambda i: "a singular one" if np.isneginf(seen.log_dets[i]).any() else "NaN or infinite entries",
    )
    known = np.where(finite, seen.log_dets, 0.0)
    allowed = 10 * tolerance + ULPS * EPS * (1 + np.prod(seen.norms, axis=1))
    yield _Finding(
        "log |det Df(z)| + log |det Df(f(z))|",
        np.abs(known.sum(axis=1)),
        allowed,
        lambda i: 0.0,
        lambda i: float(known[i].sum()),
    )
    given = seen.given
    if given is not None:
        yield _Finding(
            "the given log_det",
            np.abs(given - known[:, 0]) / (1 + np.abs(known[:, 0])),
            allowed,
            lambda i: float(known[i, 0]),
            lambda i: float(given[i]),
        )


def _differences(f, points, seen: _Seen) -> _Finding:
    """log |det Df| by central differences against that by automatic ones, at the first points.

    A point may lie near a kink or a change of label, so that only a disagreement at two step sizes counts.
    """
    n, d = min(N_DIFFERENCES, len(seen.start)), seen.start.shape[1]
    spread = np.std(seen.start, axis=0)
    steps = np.array([[1e-5], [1e-7]]) * np.where(spread > 0, spread, 1.0)
    few = jax.tree.map(lambda leaf: leaf[:n], points)

    @jax.jit
    @jax.vmap
    def moved(z, moves):
        vector, rebuild = continuous_part(z)
        images = jax.vmap(lambda move: tuple(f(*rebuild(vector + move))))(moves)
        return jax.vmap(lambda image: continuous_part(image)[0])(images), _labels(images), _labels(tuple(f(*z)))

    # Two sizes, forth and back, d entries.
    moves = np.einsum("sj,m,jk->smjk", steps, [1.0, -1.0], np.eye(d)).reshape(4 * d, d)
    images, labels, unmoved = moved(few, jnp.broadcast_to(jnp.asarray(moves), (n, *moves.shape)))
    images = np.array(images)
    for other, own in zip(labels, unmoved, strict=True):
        images[np.any(np.asarray(other != own[:, None]).reshape(n, 4 * d, -1), axis=2)] = np.nan
    images = images.reshape(n, 2, 2, d, d)
    matrices = np.swapaxes((images[:, :, 0] - images[:, :, 1]) / (2 * steps[:, :, None]), -1, -2)
    before, after = np.moveaxis(seen.counting[:n], 1, 0)
    if not (before.all() and after.all()):
        block = jax.jit(jax.vmap(jax.vmap(active_block, (0, None, None))))
        matrices = np.asarray(block(matrices, before, after))
    found = _log_abs_dets(matrices)
    with np.errstate(invalid="ignore"):
        errors = np.abs(found - seen.log_dets[:n, :1])
    # Where a difference leaves the domain, or the Jacobian is singular, this opinion has nothing to say.
    closest = np.where(np.isfinite(errors).all(axis=1), errors.min(axis=1), 0.0)
    rounding = ULPS * 1e2 * EPS / 1e-5 * np.prod(seen.norms[:n], axis=1)
    return _Finding(
        "log |det Df(z)| by finite differences, which the derivatives of f should match,",
        closest,
        DIFFERENCE_TOLERANCE + rounding,
        lambda i: float(seen.log_dets[i, 0]),
        lambda i: float(found[i, 0]),
    )


def _log_abs_dets(matrices: np.ndarray) -> np.ndarray:
    """log |det| of a stack of matrices, by LU; NaN where an entry is not finite."""
    fine = np.asarray(np.isfinite(matrices).all(axis=(-1, -2)))
    safe = np.where(fine[..., None, None], matrices, np.eye(matrices.shape[-1]))
    return np.where(fine, np.linalg.slogdet(safe)[1], np.nan)


def _shape_problem(f, z) -> Counterexample | None:
    image = jax.eval_shape(lambda z: f(*z), z)
    before, after = jax.tree.structure(z), jax.tree.structure(image)
    n_before, n_after = _n_reals(z), _n_reals(image)
    if n_before != n_after:
        return Counterexample("the continuous dimension of z and of f(z)", n_before, n_after)
    if before != after:
        return Counterexample("the structure of f(z)", before, after)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (z, image)]
    if shapes[0] != shapes[1]:
        return Counterexample("the shapes of f(z)", shapes[0], shapes[1])
    kinds = [[_is_real(leaf) for leaf in jax.tree.leaves(tree)] for tree in (z, image)]
    if kinds[0] != kinds[1]:
        return Counterexample("which leaves of f(z) are reals", kinds[0], kinds[1])
    return None


def _n_reals(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree) if _is_real(leaf))


def _is_real(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _labels(tree) -> list:
    return [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if not _is_real(leaf)]


def _in_double(leaf):
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if _is_real(leaf) else leaf


def _describe(points, i: int) -> str:
    def show(leaf):
        leaf = np.asarray(leaf[i])
        return np.array2string(leaf, precision=6, threshold=12, separator=", ").replace("\n", "")

    parts = [jax.tree.map(show, part) for part in points]
    return ", ".join(f"{name} = {one}" for name, one in zip(("x", "v"), parts, strict=True)).replace("'", "")
