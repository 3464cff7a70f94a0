"""Context-free grammars over bytes, read from a small EBNF notation, and reduced to what strings can use."""

from dataclasses import dataclass
from typing import NamedTuple

from uqsparse.inference.constraints.grammar_notation import Body, NotationReader


class Rule(NamedTuple):
    """A production: the number of its head, and a body of numbers (of nonterminals) and sets of bytes."""

    head: int
    body: tuple[int | frozenset[int], ...]


@dataclass(frozen=True)
class Grammar:
    """A reduced context-free grammar over bytes: each nonterminal occurs in a derivation of some string.

    Args:
        names: of the nonterminals, the start first; made-up names of groups and repeats hold a slash.
        rules: productions, without repeats.
    """

    names: tuple[str, ...]
    rules: tuple[Rule, ...]

    def shortest(self) -> tuple[int, ...]:
        """Return the fewest bytes that each nonterminal derives; 0 exactly for the nullable ones."""
        least: list[float] = [float("inf")] * len(self.names)
        changed = True
        while changed:
            changed = False
            for head, body in self.rules:
                length = sum(least[symbol] if isinstance(symbol, int) else 1 for symbol in body)
                if length < least[head]:
                    least[head], changed = length, True
        return tuple(int(length) for length in least)


def read_grammar(text: str, start: str | None = None) -> Grammar:
    r"""Read a grammar in a small EBNF notation, and reduce it.

    Rules are `name ::= ...` or `name: ...` in any order, over several lines if need be. A right-hand side is made of
    literals "..." or '...', classes of characters [a-z0-9_] and [^"\\], names of rules, sequences, alternatives `|`,
    groups `( )`, and repeats `?`, `*`, `+`, `{m}`, `{m,}`, `{,n}`, `{m,n}` (at most 1,000 times). Literals and classes
    know the escapes \n \t \r \f \b \0 \xHH \uHHHH \UHHHHHHHH and \ before punctuation. The empty string is "".
    Comments begin with # or //. White space between symbols means nothing. Rules may be recursive in any way.
    Characters are spelt in UTF-8.

    Args:
        text: the rules.
        start: name of the rule of whole strings; None for `root`, or the first rule if there is no `root`.

    Returns:
        The grammar without alternatives that no string of the start can use.

    Raises:
        TypeError: the grammar is no string.
        ValueError: a syntax error, a name that is defined twice or not at all, or a start that derives no string; with
            line and symbol.

    >>> read_grammar('root ::= "a" root "b" | ""').names
    ('root',)
    """
    if not isinstance(text, str):
        raise TypeError(f"the grammar must be a string of rules, got {type(text).__name__}")
    reader = NotationReader(text)
    if start is None:
        start = "root" if "root" in reader.rules else next(iter(reader.rules))
    elif start not in reader.rules:
        raise ValueError(f"the start {start!r} is not defined; the grammar defines {', '.join(reader.lines)}")
    return _reduce(reader, start)


def _reduce(reader: NotationReader, start: str) -> Grammar:
    """Keep the rules of productive, reachable nonterminals, and number them."""
    productive: set[str] = set()

    def is_productive(body: Body) -> bool:
        return all(symbol in productive if isinstance(symbol, str) else symbol for symbol in body)

    size = -1
    while len(productive) > size:
        size = len(productive)
        productive |= {head for head, bodies in reader.rules.items() if any(map(is_productive, bodies))}
    if start not in productive:
        raise ValueError(
            f"line {reader.lines[start]}: {start!r} derives no string: each of its alternatives needs a rule that "
            "never ends or an empty class"
        )
    kept: dict[str, list[Body]] = {}
    todo = [start]
    while todo:
        head = todo.pop()
        if head not in kept:
            # head -> head derives nothing new
            kept[head] = [b for b in dict.fromkeys(reader.rules[head]) if is_productive(b) and b != (head,)]
            todo += [symbol for body in kept[head] for symbol in body if isinstance(symbol, str)]
    number = {name: i for i, name in enumerate(kept)}
    return Grammar(
        tuple(kept),
        tuple(
            Rule(number[head], tuple(number[s] if isinstance(s, str) else s for s in body))
            for head, bodies in kept.items()
            for body in bodies
        ),
    )
