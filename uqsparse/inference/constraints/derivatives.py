"""An algebra of regular expressions over bytes, and the automaton that differentiating one of them gives.

The derivative of a language by a byte is what may follow that byte in it. An expression is a state of the automaton,
and its derivatives are the states that its bytes lead to. Equal expressions are one and the same number here, so that
comparing two takes no time and a repetition that is counted to a thousand is as small as one to two.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from uqsparse.inference.constraints.automata import DFA

Expression = int  # its number in the table of expressions


class Expressions:
    """All expressions that have been built so far, each once.

    Args:
        max_nodes: most expressions to hold.
        refuse: called when there are more, and never returns.

    Source: Brzozowski (1964), Derivatives of regular expressions; Owens, Reppy & Turon (2009), Regular-expression
    derivatives re-examined (simplification, classes of characters).

    >>> build = Expressions()
    >>> a, b = build.byte_range(97, 97), build.byte_range(98, 98)
    >>> build.dfa(build.repeat(build.sequence([a, b]), 2, 3)).accepts(b"abab")
    True
    """

    NOTHING: Expression = 0  # the empty language
    EMPTY: Expression = 1  # the language of the empty text alone

    def __init__(self, max_nodes: int = 1_000_000, refuse: Callable[[], None] | None = None):
        self._max_nodes, self._refuse = max_nodes, refuse
        self._nodes: list[tuple] = []
        self._nullable: list[bool] = []
        self._numbers: dict[tuple, Expression] = {}
        self._moves: dict[Expression, dict[int, Expression]] = {}
        self._size = 0
        self._node(("nothing",), False)
        self._node(("empty",), True)

    def byte_range(self, low: int, high: int) -> Expression:
        """One byte from `low` to `high`, both included."""
        return self._bytes((1 << (high + 1)) - (1 << low))

    def sequence(self, parts: Sequence[Expression]) -> Expression:
        """One expression after the other."""
        result = self.EMPTY
        for part in reversed(parts):
            result = self._then(part, result)
        return result

    def union(self, options: Iterable[Expression]) -> Expression:
        """Any of some expressions."""
        members: set[Expression] = set()
        mask = 0
        for option in options:
            kind, *content = self._nodes[option]
            flat = content[0] if kind == "union" else (option,)
            for member in flat:
                if self._nodes[member][0] == "bytes":
                    mask |= self._nodes[member][1]
                elif member != self.NOTHING:
                    members.add(member)
        if mask:
            members.add(self._bytes(mask))
        if self.EMPTY in members and any(self._nullable[m] for m in members if m != self.EMPTY):
            members.discard(self.EMPTY)
        if len(members) < 2:
            return members.pop() if members else self.NOTHING
        ordered = tuple(sorted(members))
        return self._node(("union", ordered), any(self._nullable[m] for m in ordered), len(ordered))

    def repeat(self, body: Expression, least: int, most: int | None) -> Expression:
        """An expression `least` to `most` times in a row; None for no upper limit."""
        if body == self.EMPTY or most == 0 or (body == self.NOTHING and least == 0):
            return self.EMPTY
        if body == self.NOTHING or (least == 1 and most == 1):
            return body
        kind, *content = self._nodes[body]
        if least <= 1 and most is None and kind == "repeat" and content[1] <= 1 and content[2] is None:
            return self.repeat(content[0], min(least, content[1]), None)  # (r+)* is r*
        if self._nullable[body]:
            least = 0  # the empty text may stand for any of them
        return self._node(("repeat", body, least, most), least == 0)

    def dfa(self, expression: Expression, max_states: int = 1_000_000) -> DFA:
        """Build the automaton of an expression, the smallest there is.

        Args:
            expression: whose texts it accepts.
            max_states: most states before it is made smaller; `refuse` is called when there are more.
        """
        classes, examples = self._byte_classes()
        states = {expression: 0}
        pending, rows = [expression], []
        for current in pending:  # grows while it is walked
            moves = self._derivatives(current, examples)
            row = [-1] * len(examples)
            for column, after in moves.items():
                if after not in states:
                    if len(states) >= max_states:
                        self._give_up()
                    states[after] = len(states)
                    pending.append(after)
                row[column] = states[after]
            rows.append(row)
        accepting = np.array([self._nullable[e] for e in pending])
        return DFA(np.array(rows, np.int32)[:, classes], 0, accepting).minimal()

    def _derivatives(self, expression: Expression, examples: Sequence[int]) -> dict[int, Expression]:
        """What may follow a byte of each class; classes that lead to nothing are left out."""
        known = self._moves.get(expression)
        if known is not None:
            return known
        options: dict[int, list[Expression]] = {}
        tail: Expression | None = expression
        while tail is not None:  # down the parts of a sequence, as long as the ones before may be empty
            kind, *content = self._nodes[tail]
            head, behind = (content[0], content[1]) if kind == "sequence" else (tail, None)
            for column, after in self._head_derivatives(head, examples).items():
                whole = after if behind is None else self._then(after, behind)
                options.setdefault(column, []).append(whole)
            tail = behind if self._nullable[head] else None
        moves = {column: self.union(several) for column, several in options.items()}
        self._moves[expression] = moves
        return moves

    def _head_derivatives(self, head: Expression, examples: Sequence[int]) -> dict[int, Expression]:
        kind, *content = self._nodes[head]
        if kind == "bytes":
            return {column: self.EMPTY for column, byte in enumerate(examples) if content[0] >> byte & 1}
        if kind == "repeat":
            body, least, most = content
            rest = self.repeat(body, max(least - 1, 0), None if most is None else most - 1)
            return {column: self._then(d, rest) for column, d in self._derivatives(body, examples).items()}
        if kind == "union":
            options: dict[int, list[Expression]] = {}
            for member in content[0]:
                for column, after in self._derivatives(member, examples).items():
                    options.setdefault(column, []).append(after)
            return {column: self.union(several) for column, several in options.items()}
        return {}

    def _byte_classes(self) -> tuple[np.ndarray, list[int]]:
        """Number the classes of bytes that no expression tells apart, and give one byte of each."""
        masks = [node[1] for node in self._nodes if node[0] == "bytes"]
        as_bits = [np.unpackbits(np.frombuffer(m.to_bytes(32, "little"), np.uint8), bitorder="little") for m in masks]
        table = np.array(as_bits, np.uint8).reshape(len(masks), 256)
        _, first, classes = np.unique(table, axis=1, return_index=True, return_inverse=True)
        return classes.ravel(), first.tolist()

    def _bytes(self, mask: int) -> Expression:
        return self._node(("bytes", mask), False) if mask else self.NOTHING

    def _then(self, first: Expression, second: Expression) -> Expression:
        """A sequence of two, with the parts of the first one in a row, so that equal sequences are one expression."""
        if self.NOTHING in (first, second):
            return self.NOTHING
        if second == self.EMPTY:
            return first
        parts = []
        while self._nodes[first][0] == "sequence":
            _, head, first = self._nodes[first]
            parts.append(head)
        if first != self.EMPTY:
            parts.append(first)
        for part in reversed(parts):
            second = self._node(("sequence", part, second), self._nullable[part] and self._nullable[second])
        return second

    def _node(self, node: tuple, nullable: bool, size: int = 1) -> Expression:
        number = self._numbers.get(node)
        if number is None:
            self._size += size
            if self._size > self._max_nodes:
                self._give_up()
            number = self._numbers[node] = len(self._nodes)
            self._nodes.append(node)
            self._nullable.append(nullable)
        return number

    def _give_up(self) -> None:
        if self._refuse is not None:
            self._refuse()
        raise ValueError(f"the expression has more than {self._max_nodes} derivatives or parts")
