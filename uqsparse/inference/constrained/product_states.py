"""The pairs (constraint state, context of an n-gram model) that short strings reach, and the steps between them."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constraints.constraint import Constraint

_MOST_CONSTRAINT_STATES = 100_000
_MOST_STEPS = 50_000_000
_BLOCK = 2_000_000  # entries of one table of next states, to bound memory


class _Automaton(Protocol):
    """A constraint with numbered states; -1 stands for no completion."""

    start: int

    def next_states(
        self, states: Int[np.ndarray, " k"], tokens: Bool[np.ndarray, "k v"], steps_left: int
    ) -> Int[np.ndarray, "k v"]:
        """The states after each token asked for, if `steps_left` more may follow; called with falling `steps_left`."""
        ...

    def is_complete(self, states: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
        """Whether a string may end in each state."""
        ...


class _Table:
    """The token automaton that a constraint offers: `next_state` (s, v), `accepting` (s,) and `start`."""

    def __init__(self, automaton: Any):
        self.start = int(automaton.start)
        self._next, self._accepting = np.asarray(automaton.next_state), np.asarray(automaton.accepting, dtype=bool)

    def next_states(
        self, states: Int[np.ndarray, " k"], tokens: Bool[np.ndarray, "k v"], steps_left: int
    ) -> Int[np.ndarray, "k v"]:
        return np.where(tokens, self._next[states], -1)

    def is_complete(self, states: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
        return self._accepting[states]


class _Explored:
    """Any other constraint: its states are numbered as they are met, and every test is made once."""

    def __init__(self, constraint: Constraint):
        self._constraint = constraint
        self._states: list[Any] = [constraint.start()]
        self._numbers: dict[Any, int] = {self._states[0]: 0}
        self._tested: dict[int, tuple[Bool[np.ndarray, " v"], Int[np.ndarray, " v"]]] = {}
        self.start = 0

    def next_states(
        self, states: Int[np.ndarray, " k"], tokens: Bool[np.ndarray, "k v"], steps_left: int
    ) -> Int[np.ndarray, "k v"]:
        after = np.full(tokens.shape, -1)
        for row, state in enumerate(states.tolist()):
            after[row] = np.where(tokens[row], self._row(state, tokens[row], steps_left), -1)
        return after

    def is_complete(self, states: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
        distinct, which = np.unique(states, return_inverse=True)
        return np.array([self._constraint.is_complete(self._states[state]) for state in distinct.tolist()])[which]

    def _row(self, state: int, wanted: Bool[np.ndarray, " v"], steps_left: int) -> Int[np.ndarray, " v"]:
        if state not in self._tested:
            self._tested[state] = np.zeros(len(wanted), dtype=bool), np.full(len(wanted), -1)
        known, after = self._tested[state]
        for token in np.flatnonzero(wanted & ~known).tolist():
            reached = self._constraint.step(self._states[state], token)
            # A test made earlier left more steps, so that what it kept is enough for later.
            if reached is not None and self._constraint.steps_to_complete(reached) <= steps_left:
                after[token] = self._number(reached)
        known |= wanted
        return after

    def _number(self, state: Any) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            if number == _MOST_CONSTRAINT_STATES:
                raise ValueError(
                    f"the constraint has more than {_MOST_CONSTRAINT_STATES} states within max_length tokens: an exact "
                    "answer needs a constraint with few states (a regular expression), or a smaller max_length"
                )
            self._states.append(state)
        return number


@dataclass(frozen=True, eq=False)
class ProductStates:
    """The pairs that strings of at most `max_length` tokens reach and that may still become a member.

    The steps are sorted by the pair they leave; pairs that are only reached with the last token have none.

    Args:
        model: the n-gram model.
        automaton: the constraint, its states numbered.
        codes: sorted codes, state times the number of contexts plus context, shape (p,).
        start: number of the pair of the empty string.
        end_probability: p(end | context) where the string may end, else 0, shape (p,).
        source: pair that each step leaves, shape (m,).
        target: pair that it enters, shape (m,).
        token: that it appends, shape (m,).
        probability: of that token, positive, shape (m,).
    """

    model: NgramLM
    automaton: _Automaton
    codes: Int[np.ndarray, " p"]
    start: int
    end_probability: Float[np.ndarray, " p"]
    source: Int[np.ndarray, " m"]
    target: Int[np.ndarray, " m"]
    token: Int[np.ndarray, " m"]
    probability: Float[np.ndarray, " m"]

    def steps_of(self, pair: int) -> slice:
        """Where the steps that leave a pair stand."""
        first, last = np.searchsorted(self.source, [pair, pair + 1])
        return slice(int(first), int(last))

    def after(self, tokens: Any) -> int | None:
        """The pair after a prefix; None if the prefix is impossible, or has no completion.

        Raises:
            ValueError: a number is no token, or the end.
        """
        self.model.context_after(tokens)
        pair: int | None = self.start
        for token in tokens:
            steps = self.steps_of(pair)
            found = np.flatnonzero(self.token[steps] == token)
            if not len(found):
                return None
            pair = int(self.target[steps][found[0]])
        return pair


def product_states(model: NgramLM, constraint: Constraint, max_length: int) -> ProductStates:
    """Explore the pairs breadth first.

    Args:
        model: the n-gram model.
        constraint: over the same tokens.
        max_length: most tokens of a string.

    Raises:
        ValueError: the vocabularies differ, or there are too many pairs for an exact answer.
    """
    vocabulary = constraint.vocabulary
    if (len(vocabulary), vocabulary.end) != (model.n_tokens, model.end):
        raise ValueError(
            f"the constraint has {len(vocabulary)} tokens and the end {vocabulary.end}, the model {model.n_tokens} and "
            f"the end {model.end}"
        )
    make = getattr(constraint, "token_automaton", None)
    automaton: _Automaton = _Explored(constraint) if make is None else _Table(make())
    n_contexts = model.n_contexts
    code = np.array([automaton.start * n_contexts + model.start_context], dtype=np.int64)
    known, frontier = code, code
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_steps = 0
    for steps_left in reversed(range(max_length)):
        reached = []
        for block in np.array_split(frontier, max(1, len(frontier) * model.n_tokens // _BLOCK)):
            states, contexts = np.divmod(block, n_contexts)
            possible = model.rows[contexts] > 0
            possible[:, model.end] = False
            after = automaton.next_states(states, possible, steps_left)
            row, token = np.nonzero(after >= 0)
            target = after[row, token].astype(np.int64) * n_contexts + model.next_context[contexts[row], token]
            n_steps += len(token)
            if n_steps > _MOST_STEPS:
                raise ValueError(
                    f"constraint and model together have more than {_MOST_STEPS} steps between their states: an exact "
                    "answer needs a lower order, fewer tokens or a constraint with fewer states"
                )
            found.append((block[row], target, token))
            reached.append(target)
        frontier = np.setdiff1d(np.concatenate(reached), known)  # sorted, each once
        known = np.union1d(known, frontier)
        if not len(frontier):
            break
    source, target, token = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(source, kind="stable")
    source, target, token = source[order], target[order], token[order]
    states, contexts = np.divmod(known, n_contexts)
    return ProductStates(
        model,
        automaton,
        codes=known,
        start=int(np.searchsorted(known, code[0])),
        end_probability=np.where(automaton.is_complete(states), model.rows[contexts, model.end], 0.0),
        source=np.searchsorted(known, source),
        target=np.searchsorted(known, target),
        token=token,
        probability=model.rows[source % n_contexts, token],
    )
