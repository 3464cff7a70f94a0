"""Planting bugs: the change is seen through every reference and wrapper, and is gone afterwards."""

import importlib
import math
import sys

import pytest

from uqsparse.bench.mutants import (
    Mutant,
    MutantError,
    Outcome,
    false_alarms,
    mutation_score,
    mutation_table,
    planted,
    share_killed,
)
from uqsparse.inference.checks import Counterexample, Verdict

SOURCE = '''
from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp


def double(x: float, factor: float = 2) -> float:
    """Twice x, by an inner function."""

    def double(y):
        return y * 2

    return double(x) + 0 * factor


def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@logged
@logged
def wrapped(x):
    return x + 1


@functools.cache
def cached(x):
    return x + 1


partial = functools.partial(lambda a, b: a + b, 1)


@jax.jit
def jitted(x):
    return jnp.sum(x) + 1


@eqx.filter_jit
def filtered(x):
    return callee(x)


def callee(x):
    return jnp.sum(x) + 1


def make(a):
    def inner(x):
        return x + a

    return inner


inner = make(1)


class Base:
    def value(self):
        return 1


class Child(Base):
    __secret = 1

    def value(self):
        return super().value() + self.__secret + 1

    @property
    def size(self):
        return 1

    @staticmethod
    def still():
        return 1

    @classmethod
    def named(cls):
        return cls.__name__ + "1"


class Module(eqx.Module):
    scale: float

    def step(self, x):
        return self.scale * x + 1

    @eqx.filter_jit
    def fast(self, x):
        return self.scale * x + 1


constant = 3
'''


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("victim")
    (folder / "victim_of_mutants.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("victim_of_mutants")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["victim_of_mutants"]


def mutant(target, line, replacement):
    return Mutant("a bug", f"victim_of_mutants:{target}", line, replacement)


CALLS = {
    "double": ("y * 2", "y * 3", lambda v: v.double(4), 8, 12),
    "wrapped": ("x + 1", "x + 2", lambda v: v.wrapped(1), 2, 3),
    "cached": ("x + 1", "x + 2", lambda v: v.cached(1), 2, 3),
    "jitted": ("+ 1", "+ 2", lambda v: int(v.jitted(1.0)), 2, 3),
    "filtered": ("callee(x)", "callee(x) + 1", lambda v: int(v.filtered(1.0)), 2, 3),
    "callee": ("+ 1", "+ 2", lambda v: int(v.filtered(1.0)), 2, 3),  # compiled into its caller
    "Child.value": ("+ 1", "+ 2", lambda v: v.Child().value(), 3, 4),
    "Base.value": ("1", "2", lambda v: v.Child().value(), 3, 4),
    "Child.size": ("1", "2", lambda v: v.Child().size, 1, 2),
    "Child.still": ("1", "2", lambda v: v.Child.still(), 1, 2),
    "Child.named": ('"1"', '"2"', lambda v: v.Child.named(), "Child1", "Child2"),
    "Module.step": ("+ 1", "+ 2", lambda v: v.Module(2.0).step(1.0), 3, 4),
    "Module.fast": ("+ 1", "+ 2", lambda v: float(v.Module(2.0).fast(1.0)), 3, 4),
}


@pytest.mark.parametrize("target", CALLS)
def test_the_bug_is_there_inside_and_gone_outside(victim, target):
    line, replacement, call, right, wrong = CALLS[target]
    assert call(victim) == right
    with planted(mutant(target, line, replacement)):
        assert call(victim) == wrong
    assert call(victim) == right


def test_a_reference_taken_before_sees_the_bug(victim):
    taken = victim.double
    with planted(mutant("double", "y * 2", "y * 3")) as function:
        assert function is taken
        assert taken(1) == 3


def test_the_code_comes_back_after_an_error_in_the_body(victim):
    code = victim.double.__code__
    with pytest.raises(ZeroDivisionError), planted(mutant("double", "y * 2", "y / 0")):
        victim.double(1)
    assert victim.double.__code__ is code
    with planted(mutant("double", "y * 2", "y * 3")):  # and can be changed again
        assert victim.double(1) == 3


def test_a_replacement_may_span_lines_and_tracebacks_keep_their_lines(victim):
    with planted(mutant("double", "    return double(x)", "    x = x + 1\n    return double(x)")):
        assert victim.double(1) == 4
        assert victim.double.__code__.co_firstlineno == SOURCE[: SOURCE.index("def double")].count("\n") + 1


@pytest.mark.parametrize(
    ("target", "line", "replacement", "message"),
    [
        ("double", "y * 4", "y", "occurs 0 times"),
        ("double", "", "y", "occurs 0 times"),
        ("double", "return", "yield", "occurs 2 times"),
        ("double", "y * 2", "y * ", "does not compile"),
        ("double", "def double(x", "def other(x", "the function is gone"),
        ("double", "factor: float = 2", "factor: float = 3", "default argument cannot be changed"),
        ("double", "y * 2", "y * 2  # twice", "leaves the code as it was"),
        ("Child.value", "super().value()", "1", "free vars"),
        ("inner", "x + a", "x - a", "uses a of an enclosing function"),
        ("make.<locals>.inner", "x + a", "x - a", "name the outer function"),
        ("absent", "a", "b", "there is no 'absent' there"),
        ("Child.absent", "a", "b", "there is no 'absent' there"),
        ("constant", "a", "b", "expected a Python function"),
        ("Child", "a", "b", "expected a Python function"),
    ],
)
def test_what_cannot_be_planted_says_why(victim, target, line, replacement, message):
    with pytest.raises(MutantError, match=message), planted(mutant(target, line, replacement)):
        pass
    assert victim.double(4) == 8


def test_a_target_names_module_and_function():
    with pytest.raises(MutantError, match="expected 'module:function'"), planted(Mutant("a", "victim.f", "a", "b")):
        pass


def test_two_bugs_in_one_function_are_refused(victim):
    first = mutant("double", "y * 2", "y * 3")
    with planted(first), pytest.raises(MutantError, match="is planted in this function already"), planted(first):
        pass


def test_a_file_edited_since_the_import_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "edited_victim.py"
    path.write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("edited_victim")
    path.write_text("def f():\n    return 10\n\n")
    with pytest.raises(MutantError, match="edited since"), planted(Mutant("a", "edited_victim:f", "10", "2")):
        pass


def verdict(ok, evidence=0.5, subject="doubling"):
    where = None if ok else Counterexample("double(1)", 2, 3)
    return Verdict(ok, subject, "exact", evidence, 1, counterexample=where)


def test_scores_and_table(victim):
    mutants = [
        mutant("double", "y * 2", "y * 3"),
        mutant("double", "y * 2", "2 * y"),
        mutant("double", "y * 2", "y / 0"),
    ]

    def check(one):
        return [verdict(True), verdict(victim.double(1) == 2)]

    outcomes = mutation_score(mutants, check)
    assert [(one.killed, one.by) for one in outcomes] == [
        (True, "doubling"),
        (False, ""),
        (True, "raised ZeroDivisionError"),
    ]
    assert share_killed(outcomes) == 2 / 3
    assert outcomes[1].evidence == 0.5
    assert math.isnan(outcomes[2].evidence)
    assert false_alarms(mutants, check) == []
    assert len(false_alarms(mutants, lambda one: verdict(False))) == 3
    assert mutation_score(mutants[:1], lambda one: verdict(True))[0].evidence == 0.5  # one verdict, not a list
    table = mutation_table(outcomes).splitlines()
    assert len(table) == 5
    assert table[2].startswith("| a bug | `double` | killed | doubling | 0.5 | double(1): expected 2, obtained 3 |")
    assert "**survived**" in table[3]
    assert all(row.count("|") == 8 for row in table)


def test_a_mutant_that_cannot_be_planted_is_not_killed(victim):
    with pytest.raises(MutantError, match="occurs 0 times"):
        mutation_score([mutant("double", "y * 4", "y")], lambda one: verdict(False))


def test_a_check_returns_verdicts(victim):
    for answer in (True, [], [True]):
        with pytest.raises(TypeError, match="expected a Verdict"):
            mutation_score([mutant("double", "y * 2", "y * 3")], lambda one, answer=answer: answer)
    with pytest.raises(ValueError, match="no outcomes"):
        share_killed([])


def test_the_table_keeps_bars_and_lines_in_their_cells():
    outcome = Outcome(Mutant("p(y | x)\nforgotten", "m:f", "a", "b"), True, "x", 0.1, 0.0)
    assert "p(y \\| x) forgotten" in mutation_table([outcome])
