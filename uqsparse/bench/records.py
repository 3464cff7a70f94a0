"""What the authors of benchmark entries receive and hand back."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

Relation = Literal["<", "<=", "==", ">=", ">"]
TaskKind = Literal["regression", "classification", "forecast", "few-shot regression", "few-shot classification"]
FEW_SHOT = ("few-shot regression", "few-shot classification")  # of many small tasks, which are `Episodes`

# What would fetch or run something when the report is opened.
_ACTIVE = re.compile(
    r"<\s*(script|foreignobject|image|iframe)|<[^>]*\s(on\w+)\s*=|(https?:)|(url\((?!#))|(@import)", re.IGNORECASE
)


class NotMeasured(Exception):
    """Raised by an entry that cannot be measured here, with the reason: a peer is not installed, no GPU.

    The report shows the reason. It counts neither as held nor as failed.
    """


@dataclass(frozen=True)
class Context:
    """What every entry is told.

    Args:
        seed: the entry's own seed, in [0, 2**31). The split of a task gets one seed for all its methods.
        quick: whether this is the quick suite (minutes in all) or the full one.
    """

    seed: int
    quick: bool


@dataclass(frozen=True)
class Picture:
    """A drawing that the report shows under a claim; `uqsparse.bench.plots.picture` makes one of a Matplotlib figure.

    Args:
        svg: one `<svg>` element that needs nothing from elsewhere. Colours may be the page's, for example
            `var(--ink)`.
        caption: what it shows, in a sentence without its full stop.
        wide: whether it takes the whole width of the page.

    Raises:
        ValueError: the text is no such element, or there is no caption.
    """

    svg: str
    caption: str
    wide: bool = True

    def __post_init__(self):
        if not (self.svg.startswith("<svg") and self.svg.rstrip().endswith("</svg>")):
            raise ValueError(f"Picture.svg must be one <svg> element, got {self.svg[:40]!r}")
        if (found := _ACTIVE.search(self.svg)) is not None:
            raise ValueError(f"Picture.svg must stand alone, and it holds {found[0][:40]!r}")
        if not self.caption.strip():
            raise ValueError("Picture.caption is empty")


@dataclass(frozen=True)
class Measured:
    """The number a claim rests on, and the bound it is held against.

    Args:
        value: the measured number; finite.
        relation: one of `<`, `<=`, `==`, `>=`, `>`, read as "value relation bound".
        bound: what the value is compared with; finite.
        comparator: what the reference is, for example "closed-form log Z".
        detail: how it was measured, for example "20 seeds, N = 2000".
        pictures: drawings that belong to it, shown below it in the report.

    Raises:
        ValueError: a number is not finite, or the relation is unknown.
        TypeError: something else than a `Picture` among the pictures.

    >>> Measured(value=0.03, relation="<=", bound=0.1, comparator="closed-form log Z").holds
    True
    """

    value: float
    relation: Relation
    bound: float
    comparator: str
    detail: str = ""
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self):
        for one in self.pictures:
            if not isinstance(one, Picture):
                raise TypeError(f"Measured.pictures holds {type(one).__name__}; expected bench.records.Picture")
        for name in ("value", "bound"):
            number = float(getattr(self, name))
            if not math.isfinite(number):
                raise ValueError(f"Measured.{name} is {number}; a claim needs a finite number")
            object.__setattr__(self, name, number)
        if self.relation not in get_args(Relation):
            raise ValueError(f"Measured.relation is {self.relation!r}; expected one of {', '.join(get_args(Relation))}")

    @property
    def holds(self) -> bool:
        """Whether the value stands in the stated relation to the bound."""
        value, bound = self.value, self.bound
        outcomes = {
            "<": value < bound,
            "<=": value <= bound,
            "==": value == bound,
            ">=": value >= bound,
            ">": value > bound,
        }
        return outcomes[self.relation]


def _finite_array(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValueError(f"{name} has {bad} values that are NaN or infinite")
    return array


@dataclass(frozen=True, eq=False)
class Split:
    """A task's data, split into what a method learns from and what it is scored on.

    Args:
        X_train: (n_train, d) finite inputs. For a forecast the first column is time, which increases through the
            training rows and on through the test rows; other columns hold what is known beforehand.
        y_train: (n_train,) targets; class labels 0, 1, ..., K - 1 for classification.
        X_test: (n_test, d) finite inputs.
        y_test: (n_test,) targets.
        source: where the data come from, shown in the report.
        licence: the licence of the data, shown in the report.

    Raises:
        ValueError: the shapes do not fit together, or a value is not finite.
    """

    X_train: Shaped[np.ndarray, "n_train d"]
    y_train: Shaped[np.ndarray, " n_train"]
    X_test: Shaped[np.ndarray, "n_test d"]
    y_test: Shaped[np.ndarray, " n_test"]
    source: str = ""
    licence: str = ""

    def __post_init__(self):
        for name in ("X_train", "y_train", "X_test", "y_test"):
            object.__setattr__(self, name, _finite_array(f"Split.{name}", getattr(self, name)))
        for part, inputs, targets in (
            ("train", self.X_train, self.y_train),
            ("test", self.X_test, self.y_test),
        ):
            if inputs.ndim != 2 or targets.ndim != 1 or len(inputs) != len(targets) or not len(targets):
                raise ValueError(
                    f"Split: X_{part} has shape {inputs.shape} and y_{part} {targets.shape}; "
                    "expected (n, d) and (n,) with n >= 1"
                )
        if self.X_train.shape[1] != self.X_test.shape[1]:
            raise ValueError(f"Split: X_train has {self.X_train.shape[1]} columns and X_test {self.X_test.shape[1]}")


@dataclass(frozen=True, eq=False)
class Episodes:
    """A few-shot task: a stream of small tasks to train on, and T others that a method learns and is scored on.

    Args:
        sample: `(key, n_tasks) -> tasks` with a JAX key, where tasks have `support_x` (n_tasks, S, d), `support_y`
            (n_tasks, S, 1) or classes (n_tasks, S), and `query_x` and `query_y` likewise. `uqsparse.data` has such
            samplers.
        test: T tasks of the same kind, as `sample` returns them.
        source: where the data come from, shown in the report.
        licence: the licence of the data, shown in the report.

    Raises:
        ValueError: the shapes of the test tasks do not fit together, or a value is not finite.
    """

    sample: Callable[[Any, int], Any]
    test: Any
    source: str = ""
    licence: str = ""

    def __post_init__(self):
        names = ("support_x", "support_y", "query_x", "query_y")
        arrays = {name: _finite_array(f"Episodes.test.{name}", getattr(self.test, name)) for name in names}
        (sx, sy, qx, qy), rows = (array.shape for array in arrays.values()), (len(array) for array in arrays.values())
        if len(sx) != 3 or len(qx) != 3 or sx[2] != qx[2] or sy[:2] != sx[:2] or qy[:2] != qx[:2] or 0 in (*sx, *qx):
            raise ValueError(f"Episodes.test: supports have shapes {sx} and {sy} and queries {qx} and {qy}")
        if len(set(rows)) != 1 or sy[2:] not in ((), (1,)) or qy[2:] != sy[2:]:
            raise ValueError(f"Episodes.test: targets have shapes {sy} and {qy}; expected one target a point")


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Predictive distributions of n test points, each a mixture of k equally weighted Gaussians.

    The components are posterior draws or ensemble members; k = 1 is a plain Gaussian.

    Args:
        mean: (k, n) component means; (n,) is read as k = 1.
        sd: component standard deviations, positive, in the target's unit; broadcast to the shape of `mean`.

    Raises:
        ValueError: a value is not finite, a standard deviation is not positive, or the shapes do not fit.
    """

    mean: Float[np.ndarray, "k n"]
    sd: Float[np.ndarray, "k n"]

    def __post_init__(self):
        mean = np.atleast_2d(_finite_array("GaussianMixture.mean", self.mean)).astype(np.float64)
        sd = _finite_array("GaussianMixture.sd", self.sd).astype(np.float64)
        if mean.ndim != 2 or not mean.size:
            raise ValueError(f"GaussianMixture.mean has shape {mean.shape}; expected (k, n)")
        try:
            sd = np.broadcast_to(sd, mean.shape)
        except ValueError:
            raise ValueError(
                f"GaussianMixture.sd has shape {sd.shape}, which does not fit mean's shape {mean.shape}"
            ) from None
        if sd.min() <= 0:
            raise ValueError(f"GaussianMixture.sd has the value {sd.min():g}; standard deviations are positive")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "sd", sd)


@dataclass(frozen=True)
class Contest:
    """Two programs that do the same work, to be timed side by side.

    `ours(i)` and `peer(i)` run once, with the round's index `i` (use it as a seed), and return a result.
    Round 0 warms up and is reported as the first run; it is not counted. JAX arrays in a result are waited
    for.

    Args:
        ours: our program.
        peer: the program it is measured against.
        rounds: how many timed rounds, at least 3.
        work: maps a side's list of results to the effective units of work in one run; 1 if not given.
        error: maps a side's list of results to an accuracy figure, shown for both sides.

    Raises:
        ValueError: fewer than 3 rounds.
    """

    ours: Callable[[int], Any]
    peer: Callable[[int], Any]
    rounds: int = 7
    work: Callable[[Sequence[Any]], float] | None = None
    error: Callable[[Sequence[Any]], float] | None = None

    def __post_init__(self):
        if self.rounds < 3:
            raise ValueError(f"Contest.rounds is {self.rounds}; quartiles need at least 3 rounds")
