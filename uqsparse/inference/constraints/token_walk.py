"""All tokens of a vocabulary walked through an automaton at once."""

import numpy as np
from jaxtyping import Int32

from uqsparse.inference.constraints.automata import DFA, distances
from uqsparse.inference.constraints.vocabulary import Vocabulary


class TokenWalk:
    """The tokens of a vocabulary as a tree of common beginnings, level by level, for one automaton.

    Bytes that the automaton never tells apart count as equal, and tokens with a byte that it never reads are left out,
    so that the tree is often very much smaller than the vocabulary.

    Args:
        dfa: the automaton.
        vocabulary: the tokens; those without text, and the end, lead nowhere.
    """

    def __init__(self, dfa: DFA, vocabulary: Vocabulary):
        self._n_states = dfa.n_states
        self._accepting = dfa.accepting
        columns, classes = np.unique(dfa.table, axis=1, return_inverse=True)
        classes = classes.ravel()
        # One more row, which -1 finds: behind the dead state is the dead state.
        self._table = np.vstack([columns, np.full((1, columns.shape[1]), -1)]).astype(np.int32)
        n_classes = columns.shape[1]
        read = np.any(columns >= 0, axis=0).reshape(n_classes)

        spelled = [(i, t) for i, t in enumerate(vocabulary.tokens) if t is not None and i != vocabulary.end]
        tokens = np.array([token for token, _ in spelled], int)
        lengths = np.array([len(text) for _, text in spelled], int)
        letters = np.frombuffer(b"".join(text for _, text in spelled), np.uint8)
        offsets = np.cumsum(lengths) - lengths
        self.single_bytes = np.unique(letters[offsets[lengths == 1]])

        # The node of each token; the one behind the last answers for tokens that lead nowhere.
        self._node_of_token = np.full(len(vocabulary), -1)
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []  # parents in the level before, classes of bytes
        self._n_nodes = 0
        going = np.arange(len(tokens))
        parents = np.zeros(len(tokens), int)
        for depth in range(lengths.max(initial=0)):
            symbols = classes[letters[offsets[going] + depth]]
            going, parents, symbols = (x[read[symbols]] for x in (going, parents, symbols))
            keys, nodes = np.unique(parents * n_classes + symbols, return_inverse=True)
            if not len(keys):
                break
            self._levels.append((keys // n_classes, keys % n_classes))
            ends = lengths[going] == depth + 1
            self._node_of_token[tokens[going[ends]]] = self._n_nodes + nodes[ends]
            self._n_nodes += len(keys)
            going, parents = going[~ends], nodes[~ends]
        self._ends = np.unique(self._node_of_token[self._node_of_token >= 0])

    def next_states(self, state: int) -> Int32[np.ndarray, " v"]:
        """The state of the automaton after each token, -1 where it is dead."""
        return self._walk(state)[self._node_of_token]

    def fewest_tokens(self) -> Int32[np.ndarray, " s"]:
        """Count, for each state, the fewest tokens that lead to acceptance; -1 if none do."""
        met = np.zeros(self._n_states + 1, bool)
        reached = []
        for state in range(self._n_states):
            met[self._walk(state)[self._ends]] = True
            reached.append(np.flatnonzero(met[:-1]))
            met[:] = False
        sources = np.repeat(np.arange(self._n_states), [len(r) for r in reached])
        fewest = distances(np.concatenate(reached), sources, self._n_states, np.flatnonzero(self._accepting))
        return np.where(np.isfinite(fewest), fewest, -1).astype(np.int32)

    def _walk(self, state: int) -> Int32[np.ndarray, " nodes"]:
        """The state at each node of the tree, and -1 at one more behind."""
        found = np.full(self._n_nodes + 1, -1, np.int32)
        level, first = np.array([state], np.int32), 0
        for parents, symbols in self._levels:
            level = self._table[level[parents], symbols]
            found[first : first + len(level)] = level
            first += len(level)
            if (level < 0).all():
                break
        return found
