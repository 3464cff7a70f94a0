"""What a constraint on strings has to tell: which prefixes can still become a member, and which strings are one."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
from jaxtyping import Bool

from uqsparse.inference.constraints.vocabulary import Vocabulary

State = Any  # hashable; equal states allow the same continuations


class Constraint(ABC):
    """A set L of strings of tokens, told token by token.

    The state after a prefix is all that the rest depends on. `step` may be generous: it may let a prefix live that has
    no completion in L, and weights see to it. It must never end a prefix that has one: that would leave out members.
    """

    vocabulary: Vocabulary

    @abstractmethod
    def start(self) -> State:
        """The state of the empty prefix."""

    @abstractmethod
    def step(self, state: State, token: int) -> State | None:
        """The state after one more token (never the end), or None if no completion in L exists. One constraint test."""

    @abstractmethod
    def is_complete(self, state: State) -> bool:
        """Whether the prefix itself is a member of L, so that the string may end. One constraint test."""

    def steps_to_complete(self, state: State) -> int:
        """Return a lower bound on the tokens (without the end) that still lead to a member; 0 if nothing is known."""
        return 0

    def accepts(self, state: State, token: int, steps_left: int | None = None) -> bool:
        """Whether the string may go on with a token, the end included: the constraint test of the samplers.

        Args:
            state: of the prefix.
            token: the next token.
            steps_left: tokens (without the end) that may still be appended, this one included; None without a limit.
        """
        if token == self.vocabulary.end:
            return self.is_complete(state)
        if steps_left is not None and steps_left < 1:
            return False
        after = self.step(state, token)
        return after is not None and (steps_left is None or self.steps_to_complete(after) <= steps_left - 1)

    def allowed(self, state: State, steps_left: int | None = None) -> Bool[np.ndarray, " v"]:
        """`accepts` of every token: what masking needs. Constraints that can be faster than one by one override it."""
        return np.array([self.accepts(state, token, steps_left) for token in range(len(self.vocabulary))])

    def state_of(self, tokens: Any) -> State | None:
        """The state after a whole prefix; None if it has no completion."""
        state: Hashable | None = self.start()
        for token in tokens:
            if state is None:
                return None
            state = self.step(state, token)
        return state
