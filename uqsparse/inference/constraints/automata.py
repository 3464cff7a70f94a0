"""Deterministic finite automata over bytes, and the record of what they become over the tokens of a vocabulary.

A text is its UTF-8 bytes here, because the tokens of a language model may end in the middle of a character.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """A constraint as a table over tokens: what a dynamic programme over all strings needs.

    Args:
        next_state: the state after a token, -1 where the string can no longer become a member. The column of the end
            is -1 throughout: a string may end where `accepting` holds.
        accepting: states in which the string is a member.
        start: state of the empty string.
    """

    next_state: Int32[np.ndarray, "s v"]
    accepting: Bool[np.ndarray, " s"]
    start: int


@dataclass(frozen=True, eq=False)
class DFA:
    """A deterministic finite automaton over bytes.

    Args:
        table: the state after a byte, -1 where there is none.
        start: state of the empty text.
        accepting: states in which a text may end.

    Raises:
        ValueError: the table is not of shape (s, 256) with s >= 1, or names a state that does not exist.

    >>> table = np.full((2, 256), -1)
    >>> table[0, ord("a")], table[1, ord("b")] = 1, 0
    >>> pairs = DFA(table, 0, np.array([True, False]))
    >>> pairs.accepts(b"abab"), pairs.accepts(b"aba")
    (True, False)
    """

    table: Int32[np.ndarray, "s 256"]
    start: int
    accepting: Bool[np.ndarray, " s"]

    def __post_init__(self):
        table, accepting = np.asarray(self.table), np.asarray(self.accepting)
        n = len(table) if table.ndim else 0
        if n < 1 or table.shape != (n, 256) or not np.issubdtype(table.dtype, np.integer):
            raise ValueError(f"table must be integers of shape (s, 256) with s >= 1, got {table.dtype} {table.shape}")
        if table.min() < -1 or table.max() >= n:
            raise ValueError(f"table must hold -1 or states below {n}, got {table.min()} to {table.max()}")
        if accepting.shape != (n,) or accepting.dtype != bool:
            raise ValueError(f"accepting must be Booleans of shape ({n},), got {accepting.dtype} {accepting.shape}")
        if not 0 <= self.start < n:
            raise ValueError(f"start must be a state below {n}, got {self.start}")
        object.__setattr__(self, "table", np.ascontiguousarray(table, np.int32))
        object.__setattr__(self, "accepting", accepting)
        object.__setattr__(self, "start", int(self.start))

    @property
    def n_states(self) -> int:
        """Number of states; the dead one is not counted."""
        return len(self.table)

    @property
    def is_empty(self) -> bool:
        """Whether no text is accepted."""
        edges = _edges(self.table)
        return not (np.isfinite(distances(*edges, self.n_states, [self.start])) & self.accepting).any()

    def accepts(self, text: bytes) -> bool:
        """Whether a text is accepted."""
        state = self.start
        for byte in text:
            state = self.table[state, byte]
            if state < 0:
                return False
        return bool(self.accepting[state])

    def trimmed(self) -> "DFA":
        """Leave out the states that are never reached, and those that never lead to acceptance (the start stays)."""
        sources, targets = _edges(self.table)
        reached = np.isfinite(distances(sources, targets, self.n_states, [self.start]))
        useful = np.isfinite(distances(targets, sources, self.n_states, np.flatnonzero(self.accepting)))
        keep = reached & useful
        keep[self.start] = True
        number = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last one answers for -1
        number[:-1][~useful] = -1  # nothing leads to a start that is kept for form only
        start = int(np.cumsum(keep)[self.start] - 1)
        return DFA(number[self.table[keep]], start, self.accepting[keep])

    def minimal(self) -> "DFA":
        """Return the smallest automaton that accepts the same texts.

        Source: Hopcroft (1971), An n log n algorithm for minimizing states in a finite automaton; for automata without
        a dead state every class has to be a splitter once (Valmari & Lehtinen 2008).
        """
        dfa = self.trimmed()
        label = _classes(np.unique(dfa.table, axis=1), dfa.accepting)
        _, first = np.unique(label, return_index=True)
        table = np.append(label, -1)[dfa.table[first]]
        return DFA(table, int(label[dfa.start]), dfa.accepting[first])

    def intersect(self, other: "DFA", max_states: int = 20_000) -> "DFA":
        """Return the smallest automaton of the texts that both accept.

        Args:
            other: the other automaton.
            max_states: most pairs of states to visit.

        Raises:
            ValueError: more than `max_states` pairs are reached.
        """
        start = (self.start, other.start)
        numbers = {start: 0}
        pending, rows = [start], []
        for mine, others in pending:  # grows while it is walked
            after = np.stack([self.table[mine], other.table[others]], axis=1)
            pairs, which = np.unique(after, axis=0, return_inverse=True)
            row = np.full(len(pairs), -1)
            for i, pair in enumerate(map(tuple, pairs.tolist())):
                if min(pair) < 0:
                    continue
                if pair not in numbers:
                    if len(numbers) == max_states:
                        raise ValueError(f"the intersection has more than max_states = {max_states} states")
                    numbers[pair] = len(numbers)
                    pending.append(pair)
                row[i] = numbers[pair]
            rows.append(row[which.ravel()])
        accepting = np.array([bool(self.accepting[a] and other.accepting[b]) for a, b in pending])
        return DFA(np.array(rows), 0, accepting).minimal()


def _edges(table: Int[np.ndarray, "s k"]) -> tuple[np.ndarray, np.ndarray]:
    sources, columns = np.nonzero(table >= 0)
    return sources, table[sources, columns]


def distances(sources: np.ndarray, targets: np.ndarray, n: int, origins: Any) -> Float[np.ndarray, " n"]:
    """Fewest edges from any of the origins to each of n nodes; inf if there is no way."""
    if not len(origins):
        return np.full(n, np.inf)
    graph = coo_array((np.ones(len(sources)), (sources, targets)), shape=(n, n)).tocsr()
    return dijkstra(graph, indices=origins, unweighted=True, min_only=True)


def _classes(table: Int[np.ndarray, "s k"], accepting: Bool[np.ndarray, " s"]) -> Int[np.ndarray, " s"]:
    """Number the classes of states that accept the same continuations; every state leads to acceptance."""
    n = len(table)
    before = list(_predecessors(table))
    label = [int(a) for a in accepting]
    members = [{s for s in range(n) if label[s] == value} for value in (0, 1)]
    pending = {0, 1}
    while pending:
        splitter = list(members[pending.pop()])
        for predecessors in before:
            met: dict[int, list[int]] = {}
            for state in splitter:
                for source in predecessors[state]:
                    met.setdefault(label[source], []).append(source)
            for old, inside in met.items():
                if len(inside) == len(members[old]):
                    continue
                members[old].difference_update(inside)
                smaller = set(inside)
                if old not in pending and len(smaller) > len(members[old]):
                    smaller, members[old] = members[old], smaller
                new = len(members)
                members.append(smaller)
                for state in smaller:
                    label[state] = new
                pending.add(new)
    return np.unique(label, return_inverse=True)[1].ravel()


def _predecessors(table: Int[np.ndarray, "s k"]) -> Iterator[list[list[int]]]:
    """For each column, the states that lead to each state."""
    for column in table.T:
        order = np.argsort(column, kind="stable")
        cuts = np.searchsorted(column[order], np.arange(len(table) + 1))
        order = order.tolist()
        yield [order[a:b] for a, b in itertools.pairwise(cuts)]
