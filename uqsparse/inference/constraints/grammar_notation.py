"""The EBNF notation of grammars: from text to plain productions over bytes."""

import re
from typing import NamedTuple, NoReturn

from uqsparse.inference.constraints.utf8 import byte_ranges, complement, intervals

MOST_REPEATS = 1000
_DEEPEST = 100  # groups within groups, so that reading never meets Python's own limit
Symbol = str | frozenset[int]  # while reading: the name of a rule, or a set of bytes
Body = tuple[Symbol, ...]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|(?:\#|//)[^\n]*)
    |(?P<define>::=|:)
    |(?P<name>[A-Za-z_][A-Za-z0-9_-]*)
    |(?P<literal>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<class>\[(?:[^\]\\\n]|\\.)*\])
    |(?P<count>\{\s*\d*\s*,?\s*\d*\s*\})
    |(?P<mark>[()|?*+])""",
    re.VERBOSE,
)
_CHARACTER = re.compile(r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\.|.", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "b": "\b", "0": "\0"}


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class NotationReader:
    """Recursive descent over the notation; fills `rules` with plain productions, made-up ones included."""

    def __init__(self, text: str):
        self.rules: dict[str, list[Body]] = {}
        self.lines: dict[str, int] = {}
        self._uses: list[_Token] = []
        self._tokens = _tokens(text)
        self._at = 0
        self._n_made = 0
        self._depth = 0
        self._head = ""
        while self._peek().kind != "end":
            self._rule()
        if not self.rules:
            raise ValueError("the grammar has no rule; write for example: root ::= [0-9]+")
        for name in self._uses:
            if name.text not in self.rules:
                raise ValueError(f"line {name.line}: {name.text!r} is not defined; no rule begins {name.text} ::=")

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _next(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _rule(self) -> None:
        name, define = self._peek(), self._peek(1)
        if name.kind != "name" or define.kind != "define":
            _fail(define if name.kind == "name" else name, "a rule such as name ::= ...")
        if name.text in self.lines:
            raise ValueError(f"line {name.line}: {name.text!r} is defined already, in line {self.lines[name.text]}")
        self._at += 2
        self._head, self.lines[name.text] = name.text, name.line
        self.rules[name.text] = []  # keeps the order of definition; made-up rules come after their own
        self.rules[name.text] = self._choice()

    def _choice(self) -> list[Body]:
        alternatives = self._sequence()
        while self._peek().text == "|" and self._peek().kind == "mark":
            self._next()
            alternatives = alternatives + self._sequence()
        return alternatives

    def _sequence(self) -> list[Body]:
        """Read items up to the end of an alternative; a lone item keeps its alternatives apart."""
        items: list[list[Body]] = []
        while True:
            token = self._peek()
            ends = token.kind == "end" or (token.kind == "mark" and token.text in "|)")
            if ends or (token.kind == "name" and self._peek(1).kind == "define"):
                break
            items.append(self._item())
        if not items:
            _fail(self._peek(), 'a name, a literal, a class or a group (the empty string is written "")')
        if len(items) == 1:
            return items[0]
        return [tuple(symbol for item in items for symbol in (item[0] if len(item) == 1 else self._made(item)))]

    def _item(self) -> list[Body]:
        item = self._atom()
        while True:
            token = self._peek()
            if token.kind == "count":
                item = self._repeat(item, *_counts(self._next()))
            elif token.kind == "mark" and token.text in "?*+":
                self._next()
                item = self._repeat(item, *{"?": (0, 1), "*": (0, None), "+": (1, None)}[token.text])
            else:
                return item

    def _atom(self) -> list[Body]:
        token = self._next()
        if token.kind == "literal":
            text = "".join(chr(code) for code, _ in _characters(token))
            return [tuple(frozenset([byte]) for byte in text.encode())]
        if token.kind == "class":
            return _class(token)
        if token.kind == "name":
            self._uses.append(token)
            return [(token.text,)]
        if token.text == "(":
            self._depth += 1
            if self._depth > _DEEPEST:
                raise ValueError(f"line {token.line}: groups are nested more than {_DEEPEST} deep; name some as rules")
            alternatives = self._choice()
            self._depth -= 1
            if self._peek().text != ")" or self._peek().kind != "mark":
                _fail(self._peek(), f"the ) of the ( in line {token.line}")
            self._next()
            return alternatives
        _fail(token, "a name, a literal, a class or a group")

    def _made(self, alternatives: list[Body]) -> tuple[str]:
        """Name a group by a nonterminal of its own."""
        self._n_made += 1
        name = f"{self._head}/{self._n_made}"
        self.rules[name] = alternatives
        return (name,)

    def _repeat(self, item: list[Body], least: int, most: int | None) -> list[Body]:
        once = item[0] if len(item) == 1 and len(item[0]) == 1 else self._made(item)
        if most is None:
            # Left recursion: Earley's columns stay small, and repeat after a few rounds.
            name = self._made([])
            self.rules[name[0]] = [once if least else (), name + once]
            return [once * (least - 1) + name]
        tail: list[Body] = [()]
        for _ in range(most - least):
            tail = [(), once + (tail[0] if len(tail) == 1 else self._made(tail))]
        if least == 0:
            return tail
        return [once * least + (tail[0] if len(tail) == 1 else self._made(tail))]


def _tokens(text: str) -> list[_Token]:
    found, at, line = [], 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            rest = text[at:].split("\n")[0]
            closed = {'"': "a literal is not closed", "'": "a literal is not closed", "[": "a class is not closed"}
            raise ValueError(f"line {line}: {closed.get(rest[0], 'no symbol of the notation')}: {rest[:40]!r}")
        if match.lastgroup != "skip":
            found.append(_Token(match.lastgroup or "", match.group(), line))
        line += match.group().count("\n")
        at = match.end()
    return [*found, _Token("end", "", line)]


def _fail(token: _Token, expected: str) -> NoReturn:
    got = repr(token.text) if token.kind != "end" else "the end of the grammar"
    raise ValueError(f"line {token.line}: expected {expected}, got {got}")


def _characters(token: _Token) -> list[tuple[int, bool]]:
    """Code points between the delimiters of a literal or class, and whether each was escaped."""
    points = []
    for text in _CHARACTER.findall(token.text[1:-1]):
        escaped = len(text) > 1
        if len(text) > 2:
            code = int(text[2:], 16)
        elif escaped and text[1] in _ESCAPES:
            code = ord(_ESCAPES[text[1]])
        elif escaped and text[1].isalnum():
            raise ValueError(f"line {token.line}: unknown escape {text} in {token.text}")
        else:
            code = ord(text[-1])
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ValueError(f"line {token.line}: {text} in {token.text} is no character")
        points.append((code, escaped))
    return points


def _class(token: _Token) -> list[Body]:
    """Read a class of characters: one set of the bytes below 128, and sequences of sets for the longer ones."""
    points = _characters(token)
    negated = points[:1] == [(ord("^"), False)]
    points = points[negated:]
    if not points and not negated:
        raise ValueError(f"line {token.line}: the class [] is empty")
    ranges, at = [], 0
    while at < len(points):
        low = high = points[at][0]
        if at + 2 < len(points) and points[at + 1] == (ord("-"), False):
            high = points[at + 2][0]
            at += 2
        if low > high:
            raise ValueError(f"line {token.line}: the range {chr(low)}-{chr(high)} in {token.text} is empty")
        ranges.append((low, high))
        at += 1
    characters = intervals(ranges)
    sequences = list(byte_ranges(complement(characters) if negated else characters))
    single = frozenset(byte for s in sequences if len(s) == 1 for byte in range(s[0][0], s[0][1] + 1))
    longer: list[Body] = [tuple(frozenset(range(a, b + 1)) for a, b in s) for s in sequences if len(s) > 1]
    return [(single,), *longer] if single else longer


def _counts(token: _Token) -> tuple[int, int | None]:
    least, comma, most = (part.strip() for part in token.text[1:-1].partition(","))
    if not least and not most:
        _fail(token, "a count such as {3}, {2,}, {,4} or {2,4}")
    low = int(least or 0)
    high = (int(most) if most else None) if comma else low
    if max(low, high or 0) > MOST_REPEATS:
        raise ValueError(f"line {token.line}: {token.text} repeats more than {MOST_REPEATS} times")
    if high is not None and high < low:
        raise ValueError(f"line {token.line}: {token.text} allows no count")
    return low, high
