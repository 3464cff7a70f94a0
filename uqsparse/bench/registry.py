"""The one registry of benchmark entries, and the decorators that fill it."""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from uqsparse.bench.records import FEW_SHOT, TaskKind

# What the name of a method is followed by in its conformal version.
CONFORMAL = " + conformal"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Registered:
    """One decorated function.

    `sort` is "claim", "task", "method" or "speed"; `options` holds what its decorator was given beside the
    name.
    """

    sort: str
    name: str
    function: Callable[..., Any]
    quick: bool
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What must be unique: a method's name only among the methods of its kind."""
        return (self.sort, self.options["kind"], self.name) if self.sort == "method" else (self.sort, self.name)

    @property
    def module(self) -> str:
        """The name of the module that registered it."""
        return self.function.__module__

    @property
    def file(self) -> Path:
        """The file the function stands in."""
        return Path(self.place[0]).resolve()

    @property
    def place(self) -> tuple[str, int]:
        """The file and the line the function stands at."""
        code = inspect.unwrap(self.function).__code__
        return code.co_filename, code.co_firstlineno


@dataclass(frozen=True)
class Entry:
    """One unit of the suite: a claim, a method on a task, or a speed contest.

    `conformal` says that the method's sets are calibrated first, see `conformal_versions`.
    """

    id: str
    kind: str  # "claim", "score" or "speed"
    name: str
    quick: bool
    parts: tuple[Registered, ...]
    conformal: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names that a selection may ask for, beside the id."""
        return tuple(part.name for part in self.parts) + tuple(
            str(part.options[option])
            for part in self.parts
            for option in ("system", "ours", "peer")
            if option in part.options
        )


_registered: dict[tuple[str, ...], Registered] = {}
lock = threading.RLock()


def _register(sort: str, name: str, quick: bool, **options: Any) -> Callable[[Function], Function]:
    if not isinstance(name, str) or not name.strip() or "\n" in name:
        raise ValueError(f"{sort}: the name is {name!r}; expected one line of text")
    if sort in ("task", "method"):
        if "/" in name:
            raise ValueError(f"{sort} {name!r}: a name must not contain '/'")
        if sort == "method" and name.endswith(CONFORMAL):
            raise ValueError(
                f"method {name!r}: names that end in {CONFORMAL!r} belong to the versions made from others"
            )
        if options["kind"] not in get_args(TaskKind):
            known = ", ".join(map(repr, get_args(TaskKind)))
            raise ValueError(f"{sort} {name!r}: kind is {options['kind']!r}; expected one of {known}")

    def decorate(function: Function) -> Function:
        if not inspect.isfunction(inspect.unwrap(function)):
            raise TypeError(f"{sort} {name!r} decorates {function!r}; expected a function")
        new = Registered(sort, name, function, bool(quick), options)
        with lock:
            old = _registered.get(new.key)
            # A script that is both run and loaded defines each entry in two modules, at one place: no clash.
            again = old is not None and old.place == new.place and old.module != new.module
            if old is not None and not again:
                raise ValueError(
                    f"{sort} {name!r} is registered already, at line {old.place[1]} of {Path(old.place[0]).name}"
                )
            _registered[new.key] = new
        return function

    return decorate


def claim(statement: str, *, system: str, quick: bool = True) -> Callable[[Function], Function]:
    """Register a claim: a statement that a measurement can contradict.

    The decorated function takes a `Context` and returns a `Measured`.

    Args:
        statement: what is claimed, in one line.
        system: the part of the package it is about.
        quick: whether the quick suite runs it; the full suite runs everything.

    Raises:
        ValueError: a claim with this statement exists already.
    """
    return _register("claim", statement, quick, system=system)


def task(name: str, *, kind: TaskKind, quick: bool = True) -> Callable[[Function], Function]:
    """Register a task, on which all methods of its kind are scored.

    The decorated function takes a `Context` and returns a `Split`.

    Args:
        name: the task's name, without "/".
        kind: "regression", "classification", "forecast", which is of a series one step ahead, or one of the first two
            after "few-shot ", which is of many small tasks; those return `Episodes`.
        quick: whether the quick suite runs it.

    Raises:
        ValueError: a task with this name exists already, or the kind is unknown.
    """
    return _register("task", name, quick, kind=kind)


def method(
    name: str, *, kind: TaskKind, quick: bool = True, conformal: Literal["quick", "full"] | None = "quick"
) -> Callable[[Function], Function]:
    """Register a method, which is scored on all tasks of its kind, as it is and with conformal sets.

    The decorated function takes `(context, X_train, y_train, X_test)`. For regression it returns a
    `GaussianMixture` or an array (n_draws, n_test) of predictive draws; for classification an array
    (n_test, n_classes) of probabilities.

    For a forecast it takes `(context, X_train, y_train)` and returns a function of `(X_test, y_test)`, which returns
    what a regression method does. Column t may use the targets before row t, and no later ones; that is checked. All
    chance has to come from `context.seed`, so that the same past gives the same forecast.

    For few-shot kinds it takes `(context, sample, support_x, support_y, query_x)`, of an `Episodes`: it may train on
    what `sample` draws, and predicts the queries of T tasks from their supports. It returns what a method of the kind
    does for a table, for T Q queries, task by task.

    Args:
        name: the method's name, without "/". The same name may be used once for each kind.
        kind: one of the kinds of task.
        quick: whether the quick suite runs it.
        conformal: which suite runs its conformal version, for which it is fitted once more, to a part of the training
            data: "quick" where the quick suite runs the method, "full" the full suite only, None neither. Few-shot
            methods have none.

    Raises:
        ValueError: a method with this name and kind exists already, or the kind or `conformal` is unknown.
    """
    if conformal not in ("quick", "full", None):
        raise ValueError(f"method {name!r}: conformal is {conformal!r}; expected 'quick', 'full' or None")
    return _register("method", name, quick, kind=kind, conformal=None if kind in FEW_SHOT else conformal)


def speed(
    name: str, *, ours: str, peer: str, at_least: float, unit: str = "run", quick: bool = True
) -> Callable[[Function], Function]:
    """Register a speed contest between ours and a peer.

    The decorated function takes a `Context` and returns a `Contest`, or raises `NotMeasured`.

    Args:
        name: the contest's name, in one line.
        ours: what our side is called in the report.
        peer: what the other side is called.
        at_least: the ratio to reach, positive: 2.0 asks that the peer take at least twice our seconds per
            unit.
        unit: the unit of work, for example "run" or "effective sample".
        quick: whether the quick suite runs it.

    Raises:
        ValueError: a contest with this name exists already, or `at_least` is not a positive number.
    """
    if not 0 < at_least < float("inf"):
        raise ValueError(f"speed {name!r}: at_least is {at_least!r}; expected a positive ratio")
    return _register("speed", name, quick, ours=ours, peer=peer, at_least=float(at_least), unit=unit)


def registered() -> dict[tuple[str, ...], Registered]:
    """A copy of what is registered, by key."""
    with lock:
        return dict(_registered)


def restore(before: dict[tuple[str, ...], Registered]) -> None:
    """Go back to an earlier state."""
    with lock:
        _registered.clear()
        _registered.update(before)


def forget(path: Path) -> None:
    """Remove what the functions of one file have registered."""
    with lock:
        for key in [key for key, one in _registered.items() if one.file == path]:
            del _registered[key]


def entries() -> list[Entry]:
    """All entries that the registered functions make up: claims, tasks x methods (twice), speed contests."""
    everything = list(registered().values())
    tasks = [one for one in everything if one.sort == "task"]
    methods = [one for one in everything if one.sort == "method"]
    listed = [
        Entry(f"claim/{one.name}", "claim", one.name, one.quick, (one,)) for one in everything if one.sort == "claim"
    ]
    for t in tasks:
        for m in methods:
            if t.options["kind"] == m.options["kind"]:
                listed += _score_entries(t, m)
    listed += [
        Entry(f"speed/{one.name}", "speed", one.name, one.quick, (one,)) for one in everything if one.sort == "speed"
    ]
    return listed


def _score_entries(task: Registered, method: Registered) -> list[Entry]:
    """A method on a task, and its conformal version if it has one."""
    quick, id_, name = task.quick and method.quick, f"score/{task.name}/{method.name}", f"{task.name} / {method.name}"
    found = [Entry(id_, "score", name, quick, (task, method))]
    if (suite := method.options["conformal"]) is not None:
        also = quick and suite == "quick"
        found.append(Entry(id_ + CONFORMAL, "score", name + CONFORMAL, also, (task, method), conformal=True))
    return found
