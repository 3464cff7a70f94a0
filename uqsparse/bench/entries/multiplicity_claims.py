"""Predictive multiplicity: certified ranges, discrepancy with both bounds, and what makes models disagree."""

import functools
import importlib
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit, logit

from uqsparse import bench
from uqsparse.bench.plots import picture
from uqsparse.bounds.multiplicity.loss_level import Tolerance
from uqsparse.bounds.multiplicity.rashomon_set import RashomonSet
from uqsparse.data.tables import breast_cancer

SYSTEM = "Predictive multiplicity"
L2 = 1e-3
DELTAS = (0.01, 0.05, 0.1, 0.2, 0.5)


def tumours() -> tuple[np.ndarray, np.ndarray]:
    """569 tumours with 30 standardised measurements."""
    table = breast_cancer()
    return (table.X - table.X.mean(0)) / table.X.std(0), table.y


@functools.cache
def tumour_set(epsilon: float = 0.05) -> RashomonSet:
    """Logistic models of the tumours within a relative tolerance."""
    return RashomonSet(l2=L2, epsilon=epsilon).fit(*tumours())


def _listed(values: Any, digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


@bench.claim("ranges of 569 tumours' risks are certified: largest gap of a score at most 1e-7", system=SYSTEM)
def certified_ranges(context: bench.Context) -> bench.Measured:
    """1138 convex programs in 31 coefficients, relative tolerance of 5%, ridge 1e-3."""
    fitted = tumour_set()
    found, ambiguity = fitted.viable_range(), fitted.ambiguity(DELTAS)
    shares = (
        f"{_listed(ambiguity.lower)}, from both sides"
        if (ambiguity.lower == ambiguity.upper).all()
        else f"between {_listed(ambiguity.lower)} and {_listed(ambiguity.upper)}"
    )
    detail = (
        f"least loss {fitted.level_.minimum:.5f}; mean width {found.width.mean():.3f}, largest "
        f"{found.width.max():.3f}; certificates of the risks at most {found.certificate_width.max():.1g} wider; "
        f"ambiguity at {DELTAS}: {shares}"
    )
    order = np.argsort(found.risk)
    figure = Figure(figsize=(6.4, 2.6), dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.fill_between(np.arange(len(order)), found.lower[order], found.upper[order], color="#bbbbbb", linewidth=0)
    axes.plot(found.risk[order], linewidth=1)
    axes.set(xlabel="tumours, sorted by the best model's risk", ylabel="risk of being benign")
    caption = (
        "What all logistic models within 5% of the least loss say about each tumour (grey) and what the best one says"
    )
    gap = float(found.score_gap.max())
    return bench.Measured(gap, "<=", 1e-7, "dual bound minus attained score", detail, (picture(figure, caption),))


def _hessian(fitted: RashomonSet, X: np.ndarray) -> np.ndarray:
    """Of the loss at the best model."""
    design = np.column_stack([np.ones(len(X)), X])
    p = expit(design @ fitted.coef_)
    return (design.T * (p * (1 - p) / len(X))) @ design + np.diag(np.append(0.0, np.full(X.shape[1], L2)))


def _cvxpy() -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise bench.NotMeasured(f"CVXPY is missing: {error}") from None
    return cvxpy


class ParametrisedProgram:
    """The peer's form: one CVXPY problem whose direction is a parameter, solved with Clarabel.

    Args:
        X: features.
        y: 0 or 1.
        level: largest loss.
        centre: coefficients to measure from; 0 if left out.
        root: the map from the unknowns to coefficients; the identity if left out.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, level: float, centre: Any = None, root: Any = None):
        cp = _cvxpy()
        n, p = X.shape
        design = np.column_stack([np.ones(n), X])
        self.centre = np.zeros(p + 1) if centre is None else centre
        self.root = np.eye(p + 1) if root is None else root
        z, self.direction = cp.Variable(p + 1), cp.Parameter(p + 1)
        signs = 1.0 - 2 * y
        margins = (signs[:, None] * design) @ self.root @ z + signs * (design @ self.centre)
        penalty = cp.sum_squares(self.root[1:] @ z + self.centre[1:])
        level_set = [cp.sum(cp.logistic(margins)) / n + L2 / 2 * penalty <= level]
        self.problem = cp.Problem(cp.Maximize(self.direction @ z), level_set)

    def solve(self, direction: np.ndarray) -> float:
        """The largest score; NaN where the solver gives up, as it does in a few directions."""
        self.direction.value = self.root.T @ direction
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a solution may be inaccurate
                self.problem.solve(solver="CLARABEL")
        except _cvxpy().SolverError:
            return float("nan")
        return float(self.problem.value) + float(direction @ self.centre)


@bench.claim("20 of these ranges agree with CVXPY and Clarabel to 1e-6", system=SYSTEM, quick=False)
def spot_checks(context: bench.Context) -> bench.Measured:
    """Persons at random, both ends, until the peer has called 20 of its solutions optimal.

    Its unknowns are whitened around the best model, or it calls fewer so.
    """
    X, y = tumours()
    fitted = tumour_set()
    root = np.linalg.inv(np.linalg.cholesky(_hessian(fitted, X))).T * np.sqrt(2 * fitted.level_.height)
    program = ParametrisedProgram(X, y, fitted.level_.level, fitted.coef_, root)
    found = fitted.viable_range()
    apart: list[float] = []
    above, tried = [], 0
    for k in np.random.default_rng(context.seed).permutation(len(X)):
        direction = np.append(1.0, X[k])
        for sign, model in ((1.0, found.upper_models[k]), (-1.0, found.lower_models[k])):
            if len(apart) < 20:
                tried += 1
                difference = program.solve(sign * direction) - sign * float(model @ direction)
                above.append(difference)
                if program.problem.status == "optimal" and np.isfinite(difference):
                    apart.append(abs(difference))
        if len(apart) == 20:
            break
    detail = (
        f"distances of scores, median {np.median(apart):.1g}; the peer did not solve {tried - 20} others, "
        f"and where it had a value it exceeded ours by at most {np.nanmax(above):.1g}"
    )
    return bench.Measured(max(apart), "<=", 1e-6, "CVXPY with Clarabel", detail)


@bench.claim(
    "small tolerances follow the quadratic law: median half-width within 0.1% of its limit", system=SYSTEM, quick=False
)
def small_tolerance(context: bench.Context) -> bench.Measured:
    """Half-width of a score's range over sqrt(2 epsilon x^T H^-1 x), over all persons, relative tolerance .001."""
    X, _ = tumours()
    design = np.column_stack([np.ones(len(X)), X])
    ratios = {}
    for epsilon in (0.1, 0.01, 0.001, 0.0001):
        fitted = tumour_set(epsilon)
        found = fitted.viable_range()
        inverse = np.linalg.solve(_hessian(fitted, X), design.T).T
        limit = np.sqrt(2 * fitted.level_.height * (design * inverse).sum(1))
        ratios[epsilon] = ((found.upper_models - found.lower_models) * design).sum(1) / 2 / limit
    value = float(np.median(abs(ratios[0.001] - 1)))
    listed = (f"epsilon {e:g}: median {np.median(r):.5f}, {r.min():.4f} to {r.max():.4f}" for e, r in ratios.items())
    return bench.Measured(value, "<=", 1e-3, "distance to 1, exact in the limit", "; ".join(listed))


def _coins(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a logistic model with d coefficients."""
    X = rng.normal(size=(n, d - 1))
    w = rng.normal(size=d)
    return X, (rng.random(n) < expit(w[0] + X @ w[1:])).astype(int)


def _grid_discrepancy(fitted: RashomonSet, X: np.ndarray, y: np.ndarray, delta: float, points: int) -> float:
    """The best model of a dense grid over two coefficients."""
    design = np.column_stack([np.ones(len(X)), X])
    p = expit(design @ fitted.coef_)
    root = np.linalg.inv(np.linalg.cholesky(_hessian(fitted, X))).T * np.sqrt(2 * fitted.level_.height)
    axis = np.linspace(-1.2, 1.2, points)
    best = 0.0
    for first in axis:
        models = fitted.coef_ + np.column_stack([np.full(points, first), axis]) @ root.T
        scores = models @ design.T
        losses = np.logaddexp(0, (1 - 2 * y) * scores).mean(1) + L2 / 2 * models[:, 1] ** 2
        moved = (abs(expit(scores) - p) >= delta).mean(1)
        best = max(best, float(moved[losses <= fitted.level_.level].max(initial=0.0)))
    return best


@bench.claim(
    "discrepancy of 100 persons and two coefficients: lower bound = upper bound = dense grid",
    system=SYSTEM,
    quick=False,
)
def discrepancy_against_grid(context: bench.Context) -> bench.Measured:
    """Relative tolerance 2%, delta .1; the grid of 1201 x 1201 models is a lower bound only."""
    apart, parts = 0.0, []
    for n in (100, 60):
        X, y = _coins(np.random.default_rng(0), n, 2)
        fitted = RashomonSet(l2=L2, epsilon=0.02).fit(X, y)
        found = fitted.discrepancy(0.1)
        grid = _grid_discrepancy(fitted, X, y, 0.1, 1201)
        parts.append(f"n = {n}: {found.lower:.3f}, {found.upper:.3f}, grid {grid:.3f}")
        if n == 100:
            apart = max(found.upper - found.lower, abs(found.upper - grid))
    return bench.Measured(apart, "==", 0, "grid of 1,442,401 models", "; ".join(parts))


@bench.claim(
    "discrepancy of 150 persons and four coefficients is proved, and monotone in delta", system=SYSTEM, quick=False
)
def discrepancy_closes(context: bench.Context) -> bench.Measured:
    """Relative tolerance 2%, three deltas; also n = 60 with three coefficients."""
    gaps, parts = [], []
    for n, d in ((60, 3), (150, 4)):
        X, y = _coins(np.random.default_rng(0), n, d)
        fitted = RashomonSet(l2=L2, epsilon=0.02).fit(X, y)
        fitted.viable_range()
        start = time.process_time()
        found = fitted.discrepancy([0.05, 0.1, 0.2])
        seconds = time.process_time() - start
        if (np.diff(found.lower) > 0).any() or (np.diff(found.upper) > 0).any():
            raise ValueError(f"the bounds are not monotone in delta: {found.lower}, {found.upper}")
        gaps.append((found.upper - found.lower).max())
        parts.append(f"n = {n}, d = {d}: {_listed(found.lower)} in {seconds:.1f} s of processor time")
    return bench.Measured(float(max(gaps)), "==", 0, "upper minus lower bound", "; ".join(parts))


@bench.claim(
    "ambiguity falls strictly as two classes are pulled apart, at a relative tolerance", system=SYSTEM, quick=False
)
def separation(context: bench.Context) -> bench.Measured:
    """300 rows, four features, class means at -s and s in one of them, s = 0, .5, 1, 2, 4; three seeds, delta .05."""
    shares: dict[str, list[float]] = {}
    levels: tuple[tuple[Tolerance, float], ...] = (("relative", 0.01), ("absolute", 0.005))
    for tolerance, epsilon in levels:
        shares[tolerance] = []
        for shift in (0.0, 0.5, 1.0, 2.0, 4.0):
            found = []
            for seed in range(3):
                rng = np.random.default_rng(seed)
                y = np.arange(300) % 2
                X = rng.normal(size=(300, 4))
                X[:, 0] += shift * (2 * y - 1)
                found.append(RashomonSet(l2=L2, epsilon=epsilon, tolerance=tolerance).fit(X, y).ambiguity(0.05).lower)
            shares[tolerance].append(float(np.mean(found)))
    falls = -np.diff(shares["relative"])
    detail = f"1% relative: {_listed(shares['relative'])}; .005 absolute: {_listed(shares['absolute'])}"
    return bench.Measured(float(falls.min()), ">", 0, "least fall from one distance to the next", detail)


class _Widths(NamedTuple):
    minority: float
    majority: float


def _minority_widths(share: float) -> _Widths:
    """Mean widths of the ranges of a minority with its own slope, and of the others; three seeds."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        n = 500
        x = rng.normal(size=(n, 2))
        group = (np.arange(n) < share * n).astype(float)
        score = x[:, 0] + 0.5 * x[:, 1] - 1.5 * group * x[:, 0]
        y = (rng.random(n) < expit(score)).astype(int)
        X = np.column_stack([x, group, group[:, None] * x])
        width = RashomonSet(l2=L2, epsilon=0.01).fit(X, y).viable_range().width
        found.append((width[group == 1].mean(), width[group == 0].mean()))
    return _Widths(*np.mean(found, axis=0))


@bench.claim("the smaller a minority, the wider its ranges, and the others' do not widen", system=SYSTEM, quick=False)
def minority(context: bench.Context) -> bench.Measured:
    """500 rows, a group with its own slope and interactions for it in the model; 1% relative, three seeds."""
    shares = (0.5, 0.2, 0.1, 0.05)
    widths = [_minority_widths(share) for share in shares]
    rises = np.diff([one.minority for one in widths])
    widening = max(one.majority for one in widths[1:]) - widths[0].majority
    detail = (
        f"minority of {shares}: mean widths {_listed(one.minority for one in widths)}; majority "
        f"{_listed(one.majority for one in widths)}"
    )
    return bench.Measured(float(min(rises.min(), -widening)), ">", 0, "least rise, and fall of the others'", detail)


@bench.claim("five mislabelled rows of high leverage among 300 raise ambiguity", system=SYSTEM, quick=False)
def outliers(context: bench.Context) -> bench.Measured:
    """Four features, delta .1, 1% relative; the five rows lie far out on the wrong side; mean of five seeds."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(300, 4))
        y = (rng.random(300) < expit(X @ [1.5, -1.0, 0.5, 0.0])).astype(int)
        spoilt, labels = X.copy(), y.copy()
        spoilt[:5] = 4.0 * np.sign([1.5, -1.0, 0.5, 1.0]) + 0.3 * rng.normal(size=(5, 4))
        labels[:5] = 0
        pair = [RashomonSet(l2=L2, epsilon=0.01).fit(a, b).ambiguity(0.1).lower for a, b in ((X, y), (spoilt, labels))]
        found.append(pair)
    clean, dirty = np.mean(found, axis=0)
    detail = f"{clean:.3f} without, {dirty:.3f} with them; {sum(b > a for a, b in found)} of {len(found)} seeds rise"
    return bench.Measured(float(dirty - clean), ">", 0, "difference of the shares", detail)


@bench.claim("certified ranges of 10,000 persons by 30 features in less than 60 s", system=SYSTEM, quick=False)
def scale(context: bench.Context) -> bench.Measured:
    """Fit and 20,000 programs over 10,000 training rows, compilation included."""
    rng = np.random.default_rng(context.seed)
    X = rng.normal(size=(10_000, 30))
    y = (rng.random(10_000) < expit(X @ rng.normal(size=30) / 4)).astype(int)
    wall, processor = time.perf_counter(), time.process_time()
    found = RashomonSet(l2=L2, epsilon=0.01).fit(X, y).viable_range()
    seconds, busy = time.perf_counter() - wall, time.process_time() - processor
    detail = (
        f"{seconds:.0f} s of wall, {busy:.0f} s of processor time; largest score gap {found.score_gap.max():.1g}, mean "
        f"width {found.width.mean():.3f}"
    )
    if not found.has_certificate.all():
        raise ValueError("some ranges have no certificate")
    return bench.Measured(seconds, "<", 60, "seconds", detail)


@bench.claim("the gradient-ascent ranges of PyPI's multiplicity never leave ours", system=SYSTEM, quick=False)
def against_peer(context: bench.Context) -> bench.Measured:
    """Its `viable_prediction_range` on the same logistic model and loss, 20 persons, Adam with step .01."""
    try:
        torch: Any = importlib.import_module("torch")
        viable_prediction_range = importlib.import_module("multiplicity.torch").viable_prediction_range
    except ImportError as error:
        raise bench.NotMeasured(
            f"multiplicity is missing (pip install multiplicity; it needs torch): {error}"
        ) from None
    X, y = tumours()
    fitted = tumour_set()
    rows = np.random.default_rng(context.seed).choice(len(X), size=20, replace=False)
    fitted.viable_range(0.9 * X[rows])  # compiles
    start = time.process_time()
    ours = fitted.viable_range(X[rows])
    our_seconds = time.process_time() - start
    inputs, targets = torch.tensor(X), torch.tensor(y, dtype=torch.float64)

    def loss(model: Any) -> float:
        with torch.no_grad():
            mean = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets)
            return float(mean + L2 / 2 * (model.weight**2).sum())

    linear = torch.nn.Linear(X.shape[1], 1).double()
    with torch.no_grad():
        linear.weight[0] = torch.tensor(fitted.coef_[1:])
        linear.bias[0] = float(fitted.coef_[0])
    outside, shares = 0, []
    start = time.process_time()
    for k, row in enumerate(rows):
        low, _, high = viable_prediction_range(
            model=linear,
            target_example=inputs[row],
            robustness_criterion=loss,
            criterion_thresholds=fitted.level_.height,
            optimizer_class=torch.optim.Adam,
            step_size=0.01,
            max_steps=300,
        )
        # the scores are single numbers in double precision; what rounds is the loss
        lowest, highest = logit(ours.lower_certificate[k]), logit(ours.upper_certificate[k])
        outside += bool(low < lowest - 1e-6 or high > highest + 1e-6)
        shares.append((float(high) - float(low)) / (highest - lowest))
    peer_seconds = time.process_time() - start
    narrower = sum(share < 0.99 for share in shares)
    detail = (
        f"its ranges of scores are {np.mean(shares):.2f} of ours on average, {narrower} of 20 narrower by more than "
        f"1%; {peer_seconds:.1f} s of processor time against {our_seconds:.2f} s"
    )
    return bench.Measured(outside, "==", 0, "persons whose range leaves the certified one", detail)
