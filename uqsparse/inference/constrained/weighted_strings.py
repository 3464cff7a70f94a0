"""What sequential Monte Carlo under a constraint returns: weighted strings, the evidence, and what it took."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.constrained.pools import generator_of
from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.kernels.arguments import require_count


class StringProbability(NamedTuple):
    """A text with its share of the weight, and the tokens that spell it; of several spellings the heaviest."""

    tokens: tuple[int, ...]
    text: str
    probability: float


class WeightedStrings(NamedTuple):
    """A weighted sample of the strings of a language model that satisfy a constraint.

    Args:
        strings: N strings of tokens, without the end; what a dead particle had become is there with weight zero.
        log_weights: (N,) log weights; the mean weight estimates p(L), the probability of the constraint, without bias.
            All zero or -inf for masked decoding.
        log_evidence: log of the mean weight, -inf if no particle lives; None for masked decoding, which has none.
        log_evidence_error: standard error of `log_evidence`, from the genealogy of this run; 0 where no particle lives,
            which is no evidence of accuracy. It never exceeds 1, and says nothing where `n_ancestors` is 1. None where
            `log_evidence` is.
        n_ancestors: how many particles of the first population the living ones descend from.
        ess: effective sample size of the weights, between 1 and N; 0 if no particle lives.
        n_tests: constraint tests evaluated; answers are kept for equal prefixes of one step.
        n_tests_requested: constraint tests asked for, repeated ones included.
        n_resampled: steps that ended in resampling.
        n_steps: steps taken.
        vocabulary: spells the tokens.
    """

    strings: tuple[tuple[int, ...], ...]
    log_weights: Float[np.ndarray, " n"]
    log_evidence: float | None
    log_evidence_error: float | None
    n_ancestors: int
    ess: float
    n_tests: int
    n_tests_requested: int
    n_resampled: int
    n_steps: int
    vocabulary: Vocabulary

    @property
    def probabilities(self) -> Float[np.ndarray, " n"]:
        """Weights normalised to sum one, shape (N,); all zero if no particle lives."""
        top = self.log_weights.max()
        if top == -math.inf:
            return np.zeros(len(self.log_weights))
        weights = np.exp(self.log_weights - top)
        return weights / weights.sum()

    @property
    def texts(self) -> list[str]:
        """Text of each string."""
        return [self.vocabulary.decode(tokens) for tokens in self.strings]

    def posterior(self) -> list[StringProbability]:
        """Different texts with their estimated posterior probabilities, the most probable first.

        A text that several sequences of tokens spell is one; strings with tokens that stand for no text count as
        different if their tokens are.
        """
        spellings: dict[bytes | tuple[int, ...], dict[tuple[int, ...], float]] = {}
        for tokens, probability in zip(self.strings, self.probabilities, strict=True):
            if probability > 0:
                has_text = all(self.vocabulary.tokens[token] is not None for token in tokens)
                shares = spellings.setdefault(self.vocabulary.spell(tokens) if has_text else tokens, {})
                shares[tokens] = shares.get(tokens, 0.0) + float(probability)
        found = []
        for shares in spellings.values():
            heaviest = max(shares, key=lambda tokens: shares[tokens])
            found.append(StringProbability(heaviest, self.vocabulary.decode(heaviest), sum(shares.values())))
        return sorted(found, key=lambda string: -string.probability)

    def expectation(self, function: Callable[[str], float]) -> float:
        """Estimated posterior mean of a number computed from the text.

        Raises:
            ValueError: if no particle lives.
        """
        self._require_alive()
        return float(sum(share * function(text) for _, text, share in self.posterior()))

    def sample(self, key: Array, n: int) -> list[str]:
        """Draw n texts by their weights, with replacement.

        Raises:
            ValueError: if no particle lives.
        """
        require_count("n", n, 1)
        self._require_alive()
        texts = self.texts
        return [texts[i] for i in generator_of(key).choice(len(texts), size=n, p=self.probabilities)]

    def _require_alive(self) -> None:
        if not self.probabilities.any():
            raise ValueError("no particle reached a member of the constraint: take more particles or a longer length")


def genealogical_error(roots: np.ndarray, probabilities: Float[np.ndarray, " n"]) -> float:
    """Standard error of the log evidence of one run, from how much weight each first ancestor has.

    Too small where few ancestors are left: with one, it says 1.

    Source: Chan & Lai (2013), A general theory of particle filters in hidden Markov models and some applications.
    """
    shares = np.bincount(roots, weights=probabilities, minlength=len(roots))
    n = len(roots)
    return math.sqrt(max(float(np.sum(shares**2)) - 1 / n, 0.0)) if probabilities.any() else 0.0
