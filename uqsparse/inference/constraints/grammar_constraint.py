"""Strings of a context-free grammar, for example JSON, as a constraint."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.earley import Column, Recogniser
from uqsparse.inference.constraints.grammar import read_grammar
from uqsparse.inference.constraints.json_grammar import JSON, json_object_grammar
from uqsparse.inference.constraints.token_trie import TokenTrie
from uqsparse.inference.constraints.vocabulary import Vocabulary


class GrammarConstraint(Constraint):
    r"""The strings of a context-free grammar.

    A prefix of tokens lives exactly as long as its bytes begin some string of the grammar. (Whether the tokens can
    spell the rest is not looked at: a vocabulary without `}` cannot finish what it began with `{`.)

    Args:
        grammar: rules in the notation of `read_grammar`, such as `root ::= "(" root ")" | [a-z]+`.
        vocabulary: the tokens.
        start: name of the rule of whole strings; None for `root`, or the first rule if there is no `root`.

    Raises:
        ValueError: the grammar cannot be read, or its start derives no string; with line and symbol.

    >>> nested = GrammarConstraint('root ::= "(" root ")" | [a-z]+', Vocabulary.of(["(", "ab", ")", "))"]))
    >>> nested.allowed(nested.state_of([0, 1])).tolist()  # "(ab"
    [False, True, True, False, False]
    """

    def __init__(self, grammar: str, vocabulary: Vocabulary, start: str | None = None):
        self.vocabulary = vocabulary
        self._recogniser = Recogniser(read_grammar(grammar, start))
        classes = self._recogniser.byte_classes
        self._texts = [text.translate(classes) if text else None for text in vocabulary.tokens]
        self._texts[vocabulary.end] = None
        self._longest = max((len(text) for text in self._texts if text), default=1)

    @classmethod
    def json(cls, vocabulary: Vocabulary, fields: Mapping[str, Any] | None = None) -> "GrammarConstraint":
        """Constrain to JSON texts with little white space (see `JSON`), or to objects with given fields.

        Args:
            vocabulary: the tokens.
            fields: types of the fields of an object, as for `json_object_grammar`; None for any JSON value.
        """
        return cls(JSON if fields is None else json_object_grammar(fields), vocabulary)

    @cached_property
    def _trie(self) -> TokenTrie:
        return TokenTrie(self._texts)

    def start(self) -> Column:
        """The state of the empty prefix."""
        return self._recogniser.start

    def step(self, state: Column, token: int) -> Column | None:
        """The state after one more token, or None if no string of the grammar begins so."""
        after: Column | None = state
        for byte_class in self._texts[token] or b"":
            after = self._recogniser.advance(after, byte_class)
            if after is None:
                return None
        return after if self._texts[token] else None

    def is_complete(self, state: Column) -> bool:
        """Whether the prefix is a string of the grammar."""
        return state.complete

    def steps_to_complete(self, state: Column) -> int:
        """Return the fewest bytes that complete the prefix, spelt by the longest tokens: a lower bound."""
        return -(-state.bytes_left // self._longest)

    def allowed(self, state: Column, steps_left: int | None = None) -> Bool[np.ndarray, " v"]:
        """`accepts` of every token; tokens with a common beginning are tested together."""
        allowed = np.zeros(len(self.vocabulary), bool)
        if steps_left is None or steps_left >= 1:
            for tokens, after in self._trie.walk(state, self._recogniser.advance, self._recogniser.loops):
                if steps_left is None or self.steps_to_complete(after) <= steps_left - 1:
                    allowed[tokens] = True
        allowed[self.vocabulary.end] = state.complete
        return allowed
