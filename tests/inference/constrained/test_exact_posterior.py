"""The dynamic programme against enumeration of all strings in Fractions, against rejection, and what it refuses."""

import importlib
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uqsparse.inference.constrained.exact_posterior import exact_posterior
from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constraints.automata import TokenAutomaton
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

# The package offers a function of the same name.
module = importlib.import_module("uqsparse.inference.constrained.exact_posterior")

N_TOKENS, END = 4, 3
LETTERS = Vocabulary.of(["a", "b", "c"])


class Table(Constraint):
    """A constraint by the table of its token automaton, which it offers or keeps to itself."""

    def __init__(self, next_state, accepting, *, offers_table, vocabulary=LETTERS):
        self.vocabulary = vocabulary
        self.table = TokenAutomaton(np.asarray(next_state, np.int32), np.asarray(accepting, bool), 0)
        if offers_table:
            self.token_automaton = lambda: self.table

    def start(self):
        return ("state", 0)

    def step(self, state, token):
        after = int(self.table.next_state[state[1], token])
        return None if after < 0 else ("state", after)

    def is_complete(self, state):
        return bool(self.table.accepting[state[1]])


class Walk(Constraint):
    """Strings of "a" (up) and "b" (down) that end on the ground and stay above it: no finite automaton."""

    vocabulary = LETTERS

    def start(self):
        return 0

    def step(self, state, token):
        assert token != END, "the end is never a step"
        after = state + {0: 1, 1: -1}.get(token, -99)
        return after if after >= 0 else None

    def is_complete(self, state):
        return state == 0

    def steps_to_complete(self, state):
        return state


def fractions_row(weights):
    return [Fraction(w, sum(weights)) for w in weights]


ROWS = st.lists(st.integers(0, 5), min_size=N_TOKENS, max_size=N_TOKENS).filter(any).map(fractions_row)


@st.composite
def problems(draw):
    """A model of one to three contexts with zeros in its rows, and an automaton with dead ends."""
    n_contexts, n_states = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows = draw(st.lists(ROWS, min_size=n_contexts, max_size=n_contexts))
    contexts = draw(st.lists(st.lists(st.integers(0, n_contexts - 1), min_size=4, max_size=4), min_size=n_contexts,
                             max_size=n_contexts))  # fmt: skip
    after = draw(st.lists(st.lists(st.integers(-1, n_states - 1), min_size=3, max_size=3), min_size=n_states,
                          max_size=n_states))  # fmt: skip
    accepting = draw(st.lists(st.booleans(), min_size=n_states, max_size=n_states))
    return rows, contexts, [[*row, -1] for row in after], accepting, draw(st.integers(1, 4))


def enumerated(rows, contexts, next_state, accepting, max_length):
    """p(x) of every member, string by string."""
    members = {}
    for length in range(max_length + 1):
        for string in itertools.product(range(N_TOKENS - 1), repeat=length):
            probability, context, state = Fraction(1), 0, 0
            for token in string:
                probability *= rows[context][token]
                context = contexts[context][token]
                state = next_state[state][token] if state >= 0 else -1
            probability *= rows[context][END]
            if probability and state >= 0 and accepting[state]:
                members[string] = probability
    return members


def make(problem, *, offers_table):
    rows, contexts, next_state, accepting, max_length = problem
    model = NgramLM(np.array(rows, float), np.array(contexts), 0, END)
    return model, Table(next_state, accepting, offers_table=offers_table), max_length


def disagreement(problem, *, offers_table=True):
    """What differs between the dynamic programme and enumeration; None if nothing does."""
    members = enumerated(*problem)
    model, constraint, max_length = make(problem, offers_table=offers_table)
    if not members:
        with pytest.raises(ValueError, match=f"max_length = {max_length} .* satisfies the Table"):
            exact_posterior(model, constraint, max_length)
        return None
    exact = exact_posterior(model, constraint, max_length)
    total = sum(members.values())

    def close(obtained, expected):
        return np.allclose(np.asarray(obtained), np.array(expected, float), rtol=1e-11, atol=1e-13)

    if not close(math.exp(exact.log_evidence), total):
        return "evidence"
    lengths = [sum(p for s, p in members.items() if len(s) == n) / total for n in range(max_length + 1)]
    if not close(exact.length_distribution, lengths):
        return "lengths"
    for length in range(max_length + 1):
        for prefix in itertools.product(range(N_TOKENS - 1), repeat=length):
            begins = {s: p for s, p in members.items() if s[:length] == prefix}
            if not begins:
                with pytest.raises(ValueError, match="no member of at most max_length"):
                    exact.next_token(prefix)
                continue
            here = sum(begins.values())
            continued = [sum(p for s, p in begins.items() if s[length : length + 1] == (v,)) / here for v in range(3)]
            if not close(exact.next_token(prefix), [*continued, begins.get(prefix, 0) / here]):
                return "next token"
            log_probability = exact.log_probability(prefix)
            if not close(math.exp(log_probability), begins.get(prefix, 0) / total):
                return "probability"
    if not close(members.get(exact.most_probable(), 0), max(members.values())):
        return "most probable"
    return None


@settings(max_examples=100, deadline=None)
@given(problem=problems(), offers_table=st.booleans())
def test_it_agrees_with_enumeration(problem, offers_table):
    assert disagreement(problem, offers_table=offers_table) is None


SKEWED = (
    [fractions_row([4, 1, 2, 1]), fractions_row([1, 3, 1, 2])],
    [[0, 1, 1, 0], [1, 0, 1, 0]],
    [[0, 1, 2, -1], [1, 2, 0, -1], [2, 0, -1, -1]],
    [False, True, False],
    4,
)


def forget_the_end(pairs):
    return replace(pairs, end_probability=(pairs.end_probability > 0).astype(float))


def end_anywhere(pairs):
    return replace(pairs, end_probability=pairs.model.rows[pairs.codes % pairs.model.n_contexts, END])


def lose_a_step(pairs):
    return replace(pairs, probability=np.where(np.arange(len(pairs.token)) == 3, 1e-300, pairs.probability))


@pytest.mark.parametrize("bug", [forget_the_end, end_anywhere, lose_a_step])
def test_planted_bugs_are_seen(bug, monkeypatch):
    assert disagreement(SKEWED) is None
    explore = module.product_states
    monkeypatch.setattr(module, "product_states", lambda *problem: bug(explore(*problem)))
    assert disagreement(SKEWED) is not None


@pytest.mark.parametrize("shift", [-1, 1])
def test_one_step_too_few_or_too_many_is_seen(shift, monkeypatch):
    explore = module.product_states
    monkeypatch.setattr(
        module, "product_states", lambda model, constraint, max_length: explore(model, constraint, max_length + shift)
    )
    # Pairs that are reached with the last token alone have no steps to go on with.
    assert (disagreement(SKEWED) is None) == (shift == 1)


def test_small_blocks_change_nothing(monkeypatch):
    monkeypatch.setattr("uqsparse.inference.constrained.product_states._BLOCK", 1)
    assert disagreement(SKEWED) is None
    assert disagreement(SKEWED, offers_table=False) is None


def test_a_constraint_without_finite_automaton():
    """Dyck words: the walks of length 2 k are counted by the Catalan numbers."""
    model = NgramLM(np.array([[0.3, 0.3, 0.3, 0.1]]), np.zeros((1, 4), int), 0, END)
    exact = exact_posterior(model, Walk(), 12)
    weights = np.zeros(13)
    weights[::2] = [math.comb(2 * k, k) / (k + 1) * 0.3 ** (2 * k) for k in range(7)]
    np.testing.assert_allclose(exact.length_distribution, weights / weights.sum(), rtol=1e-12)
    assert math.exp(exact.log_evidence) == pytest.approx(0.1 * weights.sum())


def test_it_agrees_with_rejection():
    """Chi-square on the lengths of 20 000 strings of the model that are members by `re`; false alarm 1e-4."""
    import re

    model = NgramLM.fit([[0, 1, 2, 0, 0, 1, 1, 2, 0]], LETTERS, order=3, pseudo_count=2.0, end_probability=0.2)
    exact = exact_posterior(model, RegexConstraint("(ab|c)*a?", LETTERS), 6)
    generator = np.random.default_rng(0)
    state, texts = model.start(20_000), np.full(20_000, "", dtype="<U7")
    done = np.zeros(20_000, bool)
    for _ in range(7):
        drawn = (generator.random((20_000, 1)) > np.cumsum(np.exp(model.log_probabilities(state)), axis=1)).sum(axis=1)
        done |= drawn == END
        texts = np.where(done, texts, np.char.add(texts, np.array(["a", "b", "c", ""])[np.minimum(drawn, 3)]))
        state = model.advance(state, np.minimum(drawn, 3), None)
    members = [text for text, ended in zip(texts, done, strict=True) if ended and re.fullmatch("(ab|c)*a?", text)]
    evidence = math.exp(exact.log_evidence)
    assert stats.binomtest(len(members), 20_000, evidence).pvalue > 1e-4
    counts = np.bincount([len(text) for text in members], minlength=7)
    assert stats.chisquare(counts, exact.length_distribution * len(members)).pvalue > 1e-4


def test_draws_have_the_posterior_law():
    """Chi-square over all members of 5 000 draws; false alarm 1e-4."""
    model, constraint, max_length = make(SKEWED, offers_table=True)
    exact = exact_posterior(model, constraint, max_length)
    members = enumerated(*SKEWED)
    draws = exact.sample(jax.random.key(0), 5000)
    assert draws == exact.sample(jax.random.key(0), 5000)
    assert draws != exact.sample(jax.random.key(1), 5000)
    assert set(draws) <= set(members)
    counts = np.array([draws.count(string) for string in members])
    expected = np.array([float(p / sum(members.values())) for p in members.values()]) * 5000
    assert expected.min() > 3
    assert stats.chisquare(counts, expected * (5000 / expected.sum())).pvalue > 1e-4


def test_nothing_underflows():
    """One member of 400 tokens, each of probability 0.001, alone and beside a likely one."""
    rows = np.array([[0.001, 0.899, 0.1]])
    model = NgramLM(rows, np.zeros((1, 3), int), 0, 2)
    vocabulary = Vocabulary.of(["a", "b"])
    exact = exact_posterior(model, RegexConstraint("a{400}", vocabulary), 400)
    assert exact.log_evidence == pytest.approx(400 * math.log(0.001) + math.log(0.1))
    assert exact.next_token([0] * 7).tolist() == [1, 0, 0]
    assert exact.sample(jax.random.key(0), 2) == [(0,) * 400] * 2
    assert exact.most_probable() == (0,) * 400
    # Two branches of the same length, whose probabilities differ by a factor of 1e1100.
    both = exact_posterior(model, RegexConstraint("b{400}|a{400}", vocabulary), 400)
    assert both.log_evidence == pytest.approx(400 * math.log(0.899) + math.log(0.1))
    assert both.next_token([0]).tolist() == [1, 0, 0]


def test_certain_models_and_empty_strings():
    model = NgramLM(np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]), np.array([[1] * 4, [1] * 4]), 0, END)
    exact = exact_posterior(model, RegexConstraint("a*", LETTERS), 5)
    assert exact.log_evidence == 0
    assert exact.length_distribution.tolist() == [0, 1, 0, 0, 0, 0]
    empty = exact_posterior(NgramLM.fit([[0]], LETTERS), RegexConstraint("", LETTERS), 1)
    assert empty.sample(jax.random.key(0), 3) == [()] * 3
    assert empty.next_token().tolist() == [0, 0, 0, 1]


def test_bad_input(monkeypatch):
    model = NgramLM.fit([[0, 1, 2]], LETTERS, uniform_count=0.0)
    constraint = RegexConstraint("a+", LETTERS)
    with pytest.raises(ValueError, match="max_length must be an integer of at least 1"):
        exact_posterior(model, constraint, 0)
    with pytest.raises(TypeError, match="model must be an NgramLM, got a list"):
        exact_posterior([], constraint, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the constraint has 3 tokens and the end 2, the model 4 and the end 3"):
        exact_posterior(model, RegexConstraint("a+", Vocabulary.of(["a", "b"])), 3)
    with pytest.raises(ValueError, match="max_length = 3 tokens that the model can say satisfies the RegexConstraint"):
        exact_posterior(model, RegexConstraint("a{4}", LETTERS), 3)
    exact = exact_posterior(model, constraint, 3)
    for prefix in ([1], [0] * 4):
        with pytest.raises(ValueError, match=r"no member of at most max_length = 3 tokens begins with \("):
            exact.next_token(prefix)
        assert exact.log_probability(prefix) == -math.inf
    with pytest.raises(ValueError, match="place 1 of the string is 3, which is the end"):
        exact.next_token([0, 3])
    with pytest.raises(ValueError, match="n must be an integer"):
        exact.sample(jax.random.key(0), 0)
    products = "uqsparse.inference.constrained.product_states"
    monkeypatch.setattr(f"{products}._MOST_CONSTRAINT_STATES", 4)
    with pytest.raises(ValueError, match="more than 4 states within max_length tokens"):
        exact_posterior(model, Walk(), 12)
    monkeypatch.setattr(f"{products}._MOST_STEPS", 4)
    with pytest.raises(ValueError, match="more than 4 steps between their states"):
        exact_posterior(model, RegexConstraint("[abc]*", LETTERS), 12)
