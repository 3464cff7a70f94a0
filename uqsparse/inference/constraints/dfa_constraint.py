"""Finite automata as constraints on the text of a string."""

from array import array
from collections import OrderedDict
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int32

from uqsparse.inference.constraints.automata import DFA, TokenAutomaton, distances
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.token_walk import TokenWalk
from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.kernels.arguments import require_count

_KEPT_ENTRIES = 2**24  # of rows of next states that are kept: 64 MB
_MOST_ENTRIES = 2**30  # of a dense table: 4 GB


class DFAConstraint(Constraint):
    """Strings whose text a finite automaton over bytes accepts.

    States are those of the automaton, as integers. A state from which no sequence of tokens leads to acceptance is
    dead even if some text would: no prefix that `step` lets live is a dead end.

    Args:
        dfa: the automaton.
        vocabulary: the tokens that spell the text; those without text are never allowed.
        name: what errors call the constraint.
        max_length: most tokens of a string, the end not counted; None if there is no limit. Only checked here, for
            whether anything is accepted.

    Raises:
        ValueError: no string of at most `max_length` tokens is accepted.

    >>> table = np.full((2, 256), -1)
    >>> table[0, ord("a")], table[1, ord("b")] = 1, 0
    >>> pairs = DFAConstraint(DFA(table, 0, np.array([True, False])), Vocabulary.of(["a", "b", "ba"]))
    >>> pairs.token_automaton().next_state
    array([[ 1, -1, -1, -1],
           [-1,  0,  1, -1]], dtype=int32)
    """

    def __init__(self, dfa: DFA, vocabulary: Vocabulary, *, name: str = "automaton", max_length: int | None = None):
        self.vocabulary = vocabulary
        self.dfa = dfa.trimmed()
        self.name = name
        self._walk = TokenWalk(self.dfa, vocabulary)
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._table = array("i", self.dfa.table.tobytes())  # faster than NumPy for single entries
        self._accepting = self.dfa.accepting.tolist()
        if self.dfa.is_empty:
            raise ValueError(f"{name}: no text at all matches it")
        self._alive_states = np.append(self._find_alive(), False)  # the last one answers for -1
        self._alive = self._alive_states.tolist()
        if not self._alive[self.dfa.start]:
            raise ValueError(f"{name}: no sequence of the vocabulary's tokens spells a text that matches it")
        if max_length is not None:
            require_count("max_length", max_length, 0)
            fewest = self.steps_to_complete(self.dfa.start)
            if fewest > max_length:
                raise ValueError(f"{name}: its shortest member has {fewest} tokens; max_length is {max_length}")

    def start(self) -> int:
        """The start of the automaton."""
        return self.dfa.start

    def step(self, state: int, token: int) -> int | None:
        """Walk the bytes of one token."""
        text = self.vocabulary.tokens[token]
        if text is None or token == self.vocabulary.end:
            return None
        table = self._table
        for byte in text:
            state = table[state << 8 | byte]
            if state < 0:
                return None
        return state if self._alive[state] else None

    def is_complete(self, state: int) -> bool:
        """Whether the automaton accepts."""
        return self._accepting[state]

    def steps_to_complete(self, state: int) -> int:
        """Return the fewest tokens that lead to acceptance, exactly."""
        return self._fewest_list[state]

    def allowed(self, state: int, steps_left: int | None = None) -> Bool[np.ndarray, " v"]:
        """Walk all tokens at once."""
        mask = np.zeros(len(self.vocabulary), bool)
        if steps_left is None or steps_left >= 1:
            row = self.next_states(state)
            mask = row >= 0
            if steps_left is not None:
                mask &= self.fewest_tokens[row] <= steps_left - 1
        mask[self.vocabulary.end] = self._accepting[state]
        return mask

    def next_states(self, state: int) -> Int32[np.ndarray, " v"]:
        """The state after each token, -1 where `step` returns None; read-only."""
        row = self._rows.get(state)
        if row is None:
            row = self._walk.next_states(state)
            row = np.where(self._alive_states[row], row, np.int32(-1))
            row.flags.writeable = False
            self._rows[state] = row
            if len(self._rows) > 1 and len(self._rows) * len(row) > _KEPT_ENTRIES:
                self._rows.popitem(last=False)
        else:
            self._rows.move_to_end(state)
        return row

    def token_automaton(self) -> TokenAutomaton:
        """The whole constraint as a dense table; its states are the constraint's.

        Raises:
            ValueError: the table would have more than 2^30 entries.
        """
        n, v = self.dfa.n_states, len(self.vocabulary)
        if n * v > _MOST_ENTRIES:
            raise ValueError(f"{self.name}: a table of {n} states by {v} tokens is too large; use next_states")
        table = np.stack([self.next_states(state) for state in range(n)])
        return TokenAutomaton(table, self.dfa.accepting, self.dfa.start)

    def is_member(self, tokens: tuple[int, ...]) -> bool:
        """Whether a whole string is accepted, told from its text alone."""
        if any(self.vocabulary.tokens[token] is None or token == self.vocabulary.end for token in tokens):
            return False
        return self.dfa.accepts(self.vocabulary.spell(tokens))

    @cached_property
    def fewest_tokens(self) -> Int32[np.ndarray, " s"]:
        """For each state the fewest tokens that lead to acceptance, -1 if none do."""
        return self._walk.fewest_tokens()

    @cached_property
    def _fewest_list(self) -> list[int]:
        return self.fewest_tokens.tolist()

    def _find_alive(self) -> Bool[np.ndarray, " s"]:
        """States from which tokens lead to acceptance; tokens of a single byte are nearly always enough to tell."""
        table = self.dfa.table[:, self._walk.single_bytes]
        sources, columns = np.nonzero(table >= 0)
        accepting = np.flatnonzero(self.dfa.accepting)
        alive = np.isfinite(distances(table[sources, columns], sources, self.dfa.n_states, accepting))
        return alive if alive.all() else self.fewest_tokens >= 0
