"""Earley's recogniser, byte by byte, on states that are kept, shared and compared.

A state is what is left of an Earley column: its unfinished items behind a byte. Equal columns are one object, so that
particles that branch off one prefix share all of it, and a step that was made once is looked up from then on. Items
that a column predicts are not stored; they are worked out once for each set of nonterminals. Where an item began is
not told by a position but by what follows when its head is done (a `Return`), so that columns at different positions
can be equal: along a list, or inside a string, there are only a few.

Sources: Earley (1970), An efficient context-free parsing algorithm; Aycock & Horspool (2002), Practical Earley parsing
(nullable nonterminals: the dot passes over them when an item is made); Leo (1991), A general context-free parsing
algorithm running in linear time on every LR(k) grammar without using lookahead (right recursion: a nonterminal awaited
by one item only, at its end, returns to where that item returns).
"""

from collections.abc import Iterator
from weakref import WeakValueDictionary

from uqsparse.inference.constraints.grammar import Grammar

_MOST_COLUMNS = 20_000  # made before remembered steps are forgotten


class Return:
    """What goes on when a nonterminal that began behind some byte is done: the items of that column that await it."""

    __slots__ = ("after", "bytes_left", "column", "number", "symbol")

    def __init__(self, number: int, column: "Column | None", symbol: int, bytes_left: int):
        self.number = number  # never given twice by one recogniser
        self.column = column
        self.symbol = symbol
        self.bytes_left = bytes_left  # fewest bytes from the end of the nonterminal to the end of the string
        self.after: frozenset[_Item] | None = None if column else frozenset()  # worked out when first needed


_Item = tuple[int, Return]  # a dot, and where its head returns to


class Column:
    """The state behind a prefix: immutable for its users, equal only to itself; made by `Recogniser`.

    Args:
        items: dots, each with what follows its rule; none stands at the end of a rule.
        complete: whether the prefix is a string of the grammar.
        bytes_left: fewest bytes that complete the prefix.
    """

    __slots__ = ("__weakref__", "bytes_left", "complete", "items", "loops", "predicted", "returns", "steps")

    def __init__(self, items: frozenset[_Item], complete: bool, bytes_left: int, predicted: "_Predicted"):
        self.items = items
        self.complete = complete
        self.bytes_left = bytes_left
        self.predicted = predicted
        self.steps: dict[int, Column | None] = {}
        self.returns: dict[int, Return] = {}
        self.loops: int | None = None

    def __repr__(self) -> str:
        return f"Column({len(self.items)} items, complete={self.complete}, bytes_left={self.bytes_left})"


class _Predicted:
    """The dots that a set of awaited nonterminals predicts (left corners), by what they wait for."""

    def __init__(self, awaited: frozenset[int], dots: "_Dots"):
        self.dots = dots
        self.awaiting: dict[int, dict[int, tuple[set[int], bool]]] = {}  # nonterminal -> head -> where dots land
        self.scanning: dict[int, list[tuple[int, tuple[int, ...], bool]]] = {}  # byte class -> (head, landing)
        self._scanners: list[int] = []
        seen, todo = set(awaited), list(awaited)
        while todo:
            for dot in dots.first[todo.pop()]:
                symbol = dots.symbol[dot]
                if symbol is None:
                    self._scanners.append(dot)
                    continue
                self._land(self.awaiting.setdefault(symbol, {}), dot)
                if symbol not in seen:
                    seen.add(symbol)
                    todo.append(symbol)

    def _land(self, heads: dict[int, tuple[set[int], bool]], dot: int) -> None:
        active, ends = self.dots.landing[dot]
        before, ended = heads.get(self.dots.head[dot], (set(), False))
        heads[self.dots.head[dot]] = (before.union(active), ended or ends)

    def scans(self, byte_class: int) -> list[tuple[int, tuple[int, ...], bool]]:
        """Heads of predicted items that read a byte; the dots where they go on, and whether some are done."""
        if byte_class not in self.scanning:
            heads: dict[int, tuple[set[int], bool]] = {}
            for dot in self._scanners:
                if byte_class in self.dots.scans[dot]:
                    self._land(heads, dot)
            self.scanning[byte_class] = [(head, tuple(active), ends) for head, (active, ends) in heads.items()]
        return self.scanning[byte_class]


class _Dots:
    """All places in all rules, numbered, with what can be worked out beforehand."""

    def __init__(self, grammar: Grammar):
        shortest = grammar.shortest()
        start = len(shortest)  # the rule start' -> start END, of which END is never read
        end: frozenset[int] = frozenset()
        rules = [*grammar.rules, (start, (0, end))]
        sets = {symbol for _, body in rules for symbol in body if isinstance(symbol, frozenset)}
        self.byte_classes = _byte_classes(sets)
        self.symbol: list[int | None] = []  # the nonterminal behind the dot; None for bytes and the end of the rule
        self.scans: list[frozenset[int]] = []  # the classes of bytes behind the dot
        self.head: list[int] = []
        self.rest: list[int] = []  # fewest bytes from the dot to the end of the rule
        self.landing: list[tuple[tuple[int, ...], bool]] = []  # dots behind the symbol; whether the rule can be done
        self.first: list[list[int]] = [[] for _ in range(start + 1)]  # dots at which a nonterminal can begin to read
        for head, body in rules:
            lengths = [shortest[symbol] if isinstance(symbol, int) else int(bool(symbol)) for symbol in body]
            # The dot passes over nullable nonterminals, and over the end of the string never.
            passes = [isinstance(symbol, int) and not shortest[symbol] for symbol in body]
            offset = len(self.symbol)

            def dots_from(at: int, offset: int = offset, passes: list[bool] = passes) -> tuple[tuple[int, ...], bool]:
                stop = next((i for i in range(at, len(passes)) if not passes[i]), len(passes))
                return tuple(range(offset + at, offset + min(stop + 1, len(passes)))), stop == len(passes)

            self.first[head] += dots_from(0)[0]
            for at, symbol in enumerate((*body, end)):
                self.symbol.append(symbol if isinstance(symbol, int) else None)
                self.scans.append(end if isinstance(symbol, int) else frozenset(self.byte_classes[b] for b in symbol))
                self.head.append(head)
                self.rest.append(sum(lengths[at:]))
                self.landing.append(dots_from(at + 1))
        self.start = self.first[start]
        self.end = len(self.symbol) - 2  # before END
        self._corners: dict[int, dict[int, int]] = {}

    def corners(self, symbol: int) -> dict[int, int]:
        """Left corners of a nonterminal, with the fewest bytes from the end of the corner to its own end."""
        if symbol not in self._corners:
            least, todo = {symbol: 0}, [symbol]
            while todo:
                outer = todo.pop()
                for dot in self.first[outer]:
                    inner = self.symbol[dot]
                    if inner is not None and least[outer] + self.rest[dot + 1] < least.get(inner, 1 << 60):
                        least[inner] = least[outer] + self.rest[dot + 1]
                        todo.append(inner)
            self._corners[symbol] = least
        return self._corners[symbol]


class Recogniser:
    """Tells after each byte whether a prefix can still become a string of a grammar, and whether it is one.

    A prefix is followed as long as some string of the grammar begins with it, and no longer. A byte that was met
    before in an equal column costs one look-up. A new column costs time in proportion to its items and those that they
    return to: a bounded number for grammars without ambiguity, a number that grows with the length of the prefix for
    some ambiguous ones, and for right recursion behind which something may be empty (list ::= item list blank?), where
    a Return for each open item has to be kept.

    >>> from uqsparse.inference.constraints.grammar import read_grammar
    >>> pairs = Recogniser(read_grammar('root ::= "a" root "b" | ""'))
    >>> column = pairs.after(b"aab")
    >>> column, pairs.after(b"abb")
    (Column(1 items, complete=False, bytes_left=1), None)
    """

    def __init__(self, grammar: Grammar):
        self._dots = _Dots(grammar)
        # By the numbers of their items: keys that held the items would keep the columns before alive.
        self._columns: WeakValueDictionary[frozenset[int], Column] = WeakValueDictionary()
        self._predictions: dict[frozenset[int], _Predicted] = {}
        self._n_made = 0
        self._n_returns = 1
        self.byte_classes = self._dots.byte_classes  # a table for bytes.translate
        top = Return(0, None, -1, 0)
        self.start = self._column(frozenset((dot, top) for dot in self._dots.start))

    def after(self, text: bytes) -> Column | None:
        """The column behind a whole prefix."""
        column: Column | None = self.start
        for byte_class in text.translate(self.byte_classes):
            if column is None:
                return None
            column = self.advance(column, byte_class)
        return column

    def advance(self, column: Column, byte_class: int) -> Column | None:
        """The column behind one more byte, given by its class; None if no string of the grammar begins so."""
        try:
            return column.steps[byte_class]
        except KeyError:
            after = self._scan(column, byte_class)
            column.steps[byte_class] = after
            return after

    def loops(self, column: Column) -> int:
        """Bits of the classes of bytes that lead back to the same column, as inside a string of characters."""
        if column.loops is None:
            classes = range(max(self.byte_classes) + 1)
            column.loops = sum(1 << c for c in classes if self.advance(column, c) is column)
        return column.loops

    def _scan(self, column: Column, byte_class: int) -> Column | None:
        dots = self._dots
        items: set[_Item] = set()
        done: list[Return] = []
        for dot, back in column.items:
            if byte_class in dots.scans[dot]:
                active, ends = dots.landing[dot]
                items.update((landed, back) for landed in active)
                if ends:
                    done.append(back)
        for head, active, ends in column.predicted.scans(byte_class):
            back = self._return(column, head)
            items.update((landed, back) for landed in active)
            if ends:
                done.append(back)
        for back in done:
            items |= self._continuations(back)
        return self._column(frozenset(items)) if items else None

    def _column(self, items: frozenset[_Item]) -> Column:
        dots = self._dots
        key = frozenset(back.number * len(dots.symbol) + dot for dot, back in items)
        column = self._columns.get(key)
        if column is None:
            awaited = frozenset(symbol for dot, _ in items if (symbol := dots.symbol[dot]) is not None)
            predicted = self._predictions.get(awaited)
            if predicted is None:
                predicted = self._predictions[awaited] = _Predicted(awaited, dots)
            complete = any(dot == dots.end for dot, _ in items)
            bytes_left = min(dots.rest[dot] + back.bytes_left for dot, back in items)
            column = self._columns[key] = Column(items, complete, bytes_left, predicted)
            self._n_made += 1
            if self._n_made > _MOST_COLUMNS:
                self._n_made = 0
                self._predictions.clear()
                for known in list(self._columns.values()):
                    known.steps.clear()
        return column

    def _waiting(self, column: Column, symbol: int) -> Iterator[tuple[tuple[int, ...] | set[int], bool, Return | int]]:
        """Where the items of a column that await a nonterminal land; their Return, or its nonterminal if predicted."""
        dots = self._dots
        for dot, back in column.items:
            if dots.symbol[dot] == symbol:
                yield *dots.landing[dot], back
        for head, (active, ends) in column.predicted.awaiting.get(symbol, {}).items():
            yield active, ends, head

    def _return(self, column: Column, symbol: int) -> Return:
        """What follows a nonterminal that begins behind a column, with Leo's short cut."""
        at = symbol
        while at not in column.returns:
            waiting = list(self._waiting(column, at))
            active, _, back = waiting[0]
            if len(waiting) > 1 or active:
                corners = self._dots.corners
                bytes_left = min(
                    corners(awaited)[at] + self._dots.rest[dot + 1] + outer.bytes_left
                    for dot, outer in column.items
                    if (awaited := self._dots.symbol[dot]) is not None and at in corners(awaited)
                )
                back = Return(self._n_returns, column, at, bytes_left)
                self._n_returns += 1
            if isinstance(back, Return):
                column.returns[at] = back
            else:
                at = back
        column.returns[symbol] = column.returns[at]
        return column.returns[at]

    def _continuations(self, back: Return) -> frozenset[_Item]:
        """The items that go on where a nonterminal is done, also those of heads that are done with it."""
        if back.after is not None:
            return back.after
        found: set[_Item] = set()
        seen, todo = {back}, [back]
        while todo:
            node = todo.pop()
            if node.after is not None or node.column is None:
                found |= node.after or frozenset()
                continue
            for active, ends, outer in self._waiting(node.column, node.symbol):
                target = outer if isinstance(outer, Return) else self._return(node.column, outer)
                found.update((landed, target) for landed in active)
                if ends and target not in seen:
                    seen.add(target)
                    todo.append(target)
        back.after = frozenset(found)
        return back.after


def _byte_classes(sets: set[frozenset[int]]) -> bytes:
    """Number the classes of bytes that no set tells apart."""
    ordered = sorted(sets, key=sorted)
    seen: dict[tuple[bool, ...], int] = {}
    return bytes(seen.setdefault(tuple(byte in members for members in ordered), len(seen)) for byte in range(256))
