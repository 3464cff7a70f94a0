"""Mutation scores: plant a realistic bug in the code that runs, and see which check notices.

A mutant changes one piece of the source of one function. The changed source is compiled and put in place of the
function's code, so that every module that has imported the function runs the bug; the original comes back at the end.

Source: DeMillo, Lipton & Sayward (1978), Hints on test data selection: help for the practicing programmer.
"""

import contextlib
import functools
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

from uqsparse.inference.checks import Verdict


class MutantError(ValueError):
    """A mutant cannot be planted: its target or its line is not there, or the change changes nothing."""


@dataclass(frozen=True)
class Mutant:
    """One bug, as a change of one piece of source text.

    Args:
        name: what is wrong, in words.
        target: the function that is changed, as "module:qualified.name". A function inside another belongs to the
            source of the outer one.
        line: a piece of source text that occurs exactly once in the function, indented as in the file if it spans
            lines.
        replacement: what stands there instead.
        note: where the bug was seen, or why it matters.
    """

    name: str
    target: str
    line: str
    replacement: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.target.partition(':')[2]})"


@dataclass(frozen=True)
class Outcome:
    """What a check said about a mutant.

    Args:
        mutant: the bug.
        killed: whether the check failed, as it should.
        by: the subject of the verdict that failed, or the exception; empty if the mutant survived.
        evidence: the evidence of that verdict; of a survivor the largest that was seen, NaN if there is none.
        seconds: wall-clock time of planting and checking.
        counterexample: where the check failed, in words.
    """

    mutant: Mutant
    killed: bool
    by: str
    evidence: float
    seconds: float
    counterexample: str = ""


Check = Callable[[Mutant], Verdict | Sequence[Verdict]]
Item = TypeVar("Item")


@contextlib.contextmanager
def planted(mutant: Mutant) -> Iterator[FunctionType]:
    """Run the body with the bug in place, and restore the code at the end, also after an error.

    Programs that JAX has compiled are forgotten at both ends, and so is what `functools.cache` keeps on the target.
    What other functions have cached is theirs to clear.

    Args:
        mutant: the bug.

    Yields:
        The plain function whose code was exchanged.

    Raises:
        MutantError: the target is not a function with source text, uses variables of an enclosing function, or is
            planted already; the line does not occur exactly once; the change does not compile or has no effect on the
            code, as one of a default argument.
    """
    function, wrappers = _find(mutant.target)
    if id(function) in _planted:
        raise MutantError(f"{mutant}: the mutant {_planted[id(function)]} is planted in this function already")
    original = function.__code__
    changed = _changed_code(mutant, function)
    try:
        function.__code__ = changed
    except ValueError as error:  # the change has dropped or added `super()`
        raise MutantError(f"{mutant}: {error}") from None
    _planted[id(function)] = mutant
    _forget(wrappers)
    try:
        yield function
    finally:
        function.__code__ = original
        del _planted[id(function)]
        _forget(wrappers)


def mutation_score(mutants: Iterable[Mutant], check: Check) -> list[Outcome]:
    """Plant each mutant in turn and let the check judge the code.

    A mutant is killed if one of the verdicts is not ok, or if the mutated code raises. Call `false_alarms` too: a check
    that fails on right code kills every mutant.

    Args:
        mutants: the bugs.
        check: given the mutant, returns a verdict or several on the code as it then is.

    Returns:
        One outcome each, in the order given.

    Raises:
        MutantError: a mutant cannot be planted.
    """
    return [_outcome(mutant, check, plant=True) for mutant in mutants]


def false_alarms(mutants: Iterable[Mutant], check: Check) -> list[Outcome]:
    """The mutants whose check fails, or raises, on the code as it stands, nothing planted: should be none."""
    outcomes = [_outcome(mutant, check, plant=False) for mutant in mutants]
    return [outcome for outcome in outcomes if outcome.killed]


def share_killed(outcomes: Sequence[Outcome]) -> float:
    """Share of the mutants that were killed, in [0, 1].

    Raises:
        ValueError: there are no outcomes.
    """
    if not outcomes:
        raise ValueError("there are no outcomes to score")
    return sum(outcome.killed for outcome in outcomes) / len(outcomes)


def mutation_table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as a Markdown table: each mutant, whether it was killed, by which check, and the counter-example."""
    rows = [
        "| mutant | function | outcome | by | evidence | counter-example | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        cells = (
            one.mutant.name,
            f"`{one.mutant.target.partition(':')[2]}`",
            "killed" if one.killed else "**survived**",
            one.by,
            f"{one.evidence:.3g}",
            one.counterexample,
            f"{one.seconds:.2f}",
        )
        rows.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(rows)


_planted: dict[int, Mutant] = {}


def _outcome(mutant: Mutant, check: Check, plant: bool) -> Outcome:
    started = time.perf_counter()
    with planted(mutant) if plant else contextlib.nullcontext():
        try:
            answer = check(mutant)
        except Exception as error:  # mutated code may fail in any way
            elapsed = time.perf_counter() - started
            name = type(error).__name__
            return Outcome(mutant, True, f"raised {name}", float("nan"), elapsed, _shortened(str(error)))
    verdicts = list(answer) if isinstance(answer, Sequence) else [answer]
    if not verdicts or not all(isinstance(verdict, Verdict) for verdict in verdicts):
        raise TypeError(f"check returned {answer!r} for {mutant}; expected a Verdict or a list of them")
    elapsed = time.perf_counter() - started
    failed = next((verdict for verdict in verdicts if not verdict.ok), None)
    if failed is None:
        return Outcome(mutant, False, "", max(verdict.evidence for verdict in verdicts), elapsed)
    where = "" if failed.counterexample is None else str(failed.counterexample)
    return Outcome(mutant, True, failed.subject, failed.evidence, elapsed, _shortened(where))


def _shortened(text: str, most: int = 160) -> str:
    first = " ".join(text.split())
    return first if len(first) <= most else first[: most - 1] + "…"


def _find(target: str) -> tuple[FunctionType, list[Any]]:
    """The plain function under all wrappers, and the wrappers."""
    module_name, colon, path = target.partition(":")
    if not colon or not path:
        raise MutantError(f"target is {target!r}; expected 'module:function' or 'module:Class.method'")
    if "<locals>" in path:
        raise MutantError(f"target is {target!r}; name the outer function, whose source the inner one belongs to")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        try:
            found = vars(found)[name] if isinstance(found, ModuleType) else inspect.getattr_static(found, name)
        except (KeyError, AttributeError):
            raise MutantError(f"target is {target!r}; there is no {name!r} there") from None
    wrappers = []
    while not isinstance(found, FunctionType) or hasattr(found, "__wrapped__"):
        wrappers.append(found)
        found = _inner(found, target)
    return found, wrappers


def _inner(wrapper: Any, target: str) -> Any:
    """One layer less of jit, functools.wraps, partial, property, static and class methods, or Equinox's methods."""
    if isinstance(wrapper, functools.partial):
        return wrapper.func
    # `method` is how Equinox has kept the function of a module's method.
    for attribute in ("__wrapped__", "__func__", "fget", "func", "method", "fun"):
        inner = inspect.getattr_static(wrapper, attribute, None)
        inner = getattr(wrapper, attribute) if inner is not None else None
        if callable(inner):
            return inner
    raise MutantError(f"target is {target!r}, {wrapper!r}; expected a Python function")


def _changed_code(mutant: Mutant, function: FunctionType) -> CodeType:
    enclosing = [name for name in function.__code__.co_freevars if name != "__class__"]
    if enclosing:
        names = ", ".join(enclosing)
        raise MutantError(f"{mutant}: the function uses {names} of an enclosing function; give that one as the target")
    try:
        block, first = inspect.getsourcelines(function)
        lines, _ = inspect.findsource(function)
    except (OSError, TypeError):
        raise MutantError(f"{mutant}: the function has no source text") from None
    # The whole file is compiled, not run: how a name is looked up depends on imports and on the class around it.
    first = max(first - 1, 0)
    before, source, after = ("".join(part) for part in (lines[:first], block, lines[first + len(block) :]))
    found = source.count(mutant.line) if mutant.line else 0
    if found != 1:
        raise MutantError(f"{mutant}: {mutant.line!r} occurs {found} times in the source; expected exactly once")
    unchanged = _code_of(before + source + after, function)
    if unchanged is None or _instructions(unchanged) != _instructions(function.__code__):
        raise MutantError(f"{mutant}: the source file has been edited since the function was loaded")
    try:
        changed = _code_of(before + source.replace(mutant.line, mutant.replacement) + after, function)
    except SyntaxError as error:
        raise MutantError(f"{mutant}: the replacement does not compile, {error.msg}: {mutant.replacement!r}") from None
    if changed is None:
        raise MutantError(f"{mutant}: the function is gone after the replacement")
    if _instructions(changed) == _instructions(unchanged):
        raise MutantError(f"{mutant}: the replacement leaves the code as it was; a default argument cannot be changed")
    return changed


def _code_of(text: str, function: FunctionType) -> CodeType | None:
    """The function's code in the compiled text of its file."""
    code = function.__code__
    module = _compiled(text, code.co_filename)
    place = (code.co_qualname, code.co_firstlineno)
    return next((inner for inner in _nested(module) if (inner.co_qualname, inner.co_firstlineno) == place), None)


@functools.lru_cache(maxsize=8)
def _compiled(text: str, filename: str) -> CodeType:
    return compile(text, filename, "exec", dont_inherit=True)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _instructions(code: CodeType) -> tuple:
    """What the code does, without where it stands."""
    constants = tuple(_constant(value) for value in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars, constants


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _instructions(value)
    # By text, since 0.0 == -0.0 and 1 == True; a set has its members in any order.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _forget(wrappers: list[Any]) -> None:
    for wrapper in wrappers:
        clear = getattr(wrapper, "cache_clear", None)
        if callable(clear):
            clear()
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.clear_caches()
