"""Grammars of JSON: of any JSON text, and of objects with known fields."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uqsparse.kernels.arguments import require_count

_RULES = r"""
value ::= object | array | string | number | boolean | null
object ::= "{" ws (member ws ("," ws member ws)*)? "}"
member ::= string ws ":" ws value
array ::= "[" ws (value ws ("," ws value ws)*)? "]"
string ::= "\"" ([^"\\\x00-\x1F] | "\\" ["\\/bfnrt] | "\\u" [0-9A-Fa-f]{4})* "\""
number ::= integer ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
integer ::= "-"? ("0" | [1-9] [0-9]*)
boolean ::= "true" | "false"
null ::= "null"
ws ::= (" " | "\n" [ \t]{0,20})?
"""

JSON = "root ::= value" + _RULES
"""JSON texts as in RFC 8259 (any value at the top, repeated names of members allowed), but for white space: between two
tokens stands nothing, one space, or one line feed with up to 20 spaces and tabs behind it; none stands before the first
token and after the last. A language model can therefore not go on with blanks for ever."""

_SCALARS = {"string", "integer", "number", "boolean", "null", "value", "object", "array"}


@dataclass(frozen=True)
class ArrayOf:
    """The type of a JSON array in `json_object_grammar`.

    Args:
        item: type of the items.
        at_least: fewest items.
        at_most: most items; None for no limit.
    """

    item: Any
    at_least: int = 0
    at_most: int | None = None


def json_object_grammar(fields: Mapping[str, Any]) -> str:
    r"""Write the grammar of JSON objects with given fields, all of them, in the given order.

    Args:
        fields: type of each field by its name. A type is one of "string", "integer", "number", "boolean", "null",
            "value" (any JSON), "object" and "array" (of anything), a list of the literals that are allowed (strings,
            numbers, True, False, None), `ArrayOf(type)`, or a mapping for an object within the object.

    Returns:
        A grammar for `GrammarConstraint`, with white space as in `JSON`.

    Raises:
        TypeError, ValueError: a type that is none of these; with the path to it.

    >>> print(json_object_grammar({"age": "integer", "unit": ["days", "years"]}).splitlines()[0])
    root ::= "{" ws "\"age\"" ws ":" ws integer ws "," ws "\"unit\"" ws ":" ws ("\"days\"" | "\"years\"") ws "}"
    """
    return f"root ::= {_object(fields, 'fields')}{_RULES}"


def _object(fields: Mapping[str, Any], path: str) -> str:
    if not isinstance(fields, Mapping):
        raise TypeError(f"{path} must map names of fields to types, got {fields!r}")
    members = []
    for name, kind in fields.items():
        if not isinstance(name, str):
            raise TypeError(f"{path} has the name {name!r}; names of fields are strings")
        members.append(f'{_literal(name, path)} ws ":" ws {_type(kind, f"{path}[{name!r}]")} ws ')
    return '"{" ws ' + '"," ws '.join(members) + '"}"'


def _type(kind: Any, path: str) -> str:
    if isinstance(kind, str):
        if kind not in _SCALARS:
            raise ValueError(
                f"{path} must be one of {', '.join(sorted(_SCALARS))}, or a list of literals, got {kind!r}"
            )
        return kind
    if isinstance(kind, Mapping):
        return f"({_object(kind, path)})"
    if isinstance(kind, ArrayOf):
        return _array(kind, path)
    if isinstance(kind, list | tuple):
        if not kind:
            raise ValueError(f"{path} is an empty list: no literal is allowed")
        return f"({' | '.join(_literal(choice, path) for choice in kind)})"
    raise TypeError(f"{path} must be the name of a type, a list of literals, a mapping or ArrayOf, got {kind!r}")


def _array(array: ArrayOf, path: str) -> str:
    least, most = array.at_least, array.at_most
    require_count(f"{path}.at_least", least, 0)
    if most is not None:
        require_count(f"{path}.at_most", most, least)
    if most == 0:
        return '"[" ws "]"'
    item = _type(array.item, f"{path}.item")
    more = f'("," ws {item} ws){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    items = f"{item} ws {more}"
    return f'("[" ws {items if least else f"({items})?"} "]")'


def _literal(value: Any, path: str) -> str:
    """A JSON literal as a literal of the grammar."""
    if not (value is None or isinstance(value, str | int | float)) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise TypeError(f"{path} has the literal {value!r}; literals are strings, finite numbers, True, False and None")
    text = json.dumps(value, ensure_ascii=False)
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError(f"{path} has the literal {value!r} with half a surrogate pair, which UTF-8 cannot spell")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
