"""The exact law of the strings of an n-gram model that satisfy a constraint, by dynamic programming.

Let g_l(i) be the probability that a string which stands at i = (constraint state, model context) becomes a member
after exactly l more tokens:

    g_0(i) = p(end | i) 1[i may end],    g_{l+1}(i) = sum_v p(v | i) g_l(i v),

everything about the conditioned strings of at most T tokens follows: the evidence sum_l g_l(start), the law of the
length g_l(start), and the next token, whose odds are p(v | i) sum_{l < r} g_l(i v) with r tokens left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constrained.pools import generator_of
from uqsparse.inference.constrained.product_states import ProductStates, product_states
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.kernels.arguments import require_count


@dataclass(frozen=True, eq=False)
class ExactPosterior:
    """p(x | x in L, at most `max_length` tokens), exactly.

    Args:
        model: p.
        constraint: L.
        max_length: most tokens of a string, the end not counted.
        log_evidence: log p(x in L and at most `max_length` tokens).
        length_distribution: probability of each length 0, ..., `max_length`, given the constraint.
    """

    model: NgramLM
    constraint: Constraint
    max_length: int
    log_evidence: float
    length_distribution: Float[np.ndarray, " t"]
    _pairs: ProductStates
    _log_within: Float[np.ndarray, "t p"]  # [r, i]: log of the sum of g_l(i) over l <= r

    def next_token(self, prefix: Sequence[int] = ()) -> Float[np.ndarray, " v"]:
        """Probabilities of the token after a prefix, the end included, given that the whole string is a member.

        Raises:
            ValueError: no member that is short enough begins so, or the prefix holds the end or no token.

        >>> from uqsparse.inference.constraints import RegexConstraint, Vocabulary
        >>> coin = NgramLM(np.array([[0.4, 0.4, 0.2]]), np.zeros((1, 3), int), start_context=0, end=2)
        >>> exact = exact_posterior(coin, RegexConstraint("a*b", Vocabulary.of(["a", "b"])), max_length=3)
        >>> round(math.exp(exact.log_evidence), 6), exact.next_token([0]).round(3)
        (0.1248, array([0.286, 0.714, 0.   ]))
        """
        prefix = tuple(prefix)
        pair = self._pairs.after(prefix)
        left = self.max_length - len(prefix)
        if pair is None or left < 0 or self._log_within[left, pair] == -math.inf:
            raise ValueError(f"no member of at most max_length = {self.max_length} tokens begins with {_short(prefix)}")
        return self._next_token(pair, left)

    def log_probability(self, tokens: Sequence[int]) -> float:
        """Log posterior probability of a string; -inf if it is no member, or too long.

        Raises:
            ValueError: the string holds the end, or a number that is no token.
        """
        pair = self._pairs.after(tokens)
        if pair is None or len(tokens) > self.max_length or not self._pairs.end_probability[pair]:
            return -math.inf
        return self.model.log_probability(tokens) - self.log_evidence

    def sample(self, key: Array, n: int) -> list[tuple[int, ...]]:
        """Draw n independent strings.

        Args:
            key: typed random key.
            n: number of strings, at least 1.
        """
        require_count("n", n, 1)
        generator = generator_of(key)
        pairs, alive = np.full(n, self._pairs.start), np.arange(n)
        strings: list[list[int]] = [[] for _ in range(n)]
        for left in range(self.max_length, -1, -1):
            going_on, standing = [], pairs[alive]
            for pair in np.unique(standing).tolist():
                here = alive[standing == pair]
                drawn = generator.choice(self.model.n_tokens, size=len(here), p=self._next_token(pair, left))
                steps = self._pairs.steps_of(pair)
                target = dict(zip(self._pairs.token[steps].tolist(), self._pairs.target[steps].tolist(), strict=True))
                for string, token in zip(here.tolist(), drawn.tolist(), strict=True):
                    if token != self.model.end:
                        strings[string].append(token)
                        pairs[string] = target[token]
                        going_on.append(string)
            alive = np.array(going_on, dtype=int)
        return [tuple(string) for string in strings]

    def most_probable(self) -> tuple[int, ...]:
        """The string of highest posterior probability; of equal ones, one that is as short as any.

        Source: Viterbi (1967), Error bounds for convolutional codes and an asymptotically optimum decoding algorithm.
        """
        pairs = self._pairs
        log_p, log_end = _logs(pairs)
        best = [log_end]  # of going on for exactly l tokens
        for _ in range(self.max_length):
            best.append(_per_source(pairs, log_p + best[-1][pairs.target], np.maximum))
        length = int(np.argmax([scores[pairs.start] for scores in best]))
        pair, string = pairs.start, []
        for left in reversed(range(length)):
            steps = pairs.steps_of(pair)
            chosen = int(np.argmax(log_p[steps] + best[left][pairs.target[steps]]))
            string.append(int(pairs.token[steps][chosen]))
            pair = int(pairs.target[steps][chosen])
        return tuple(string)

    def _next_token(self, pair: int, left: int) -> Float[np.ndarray, " v"]:
        probabilities = np.zeros(self.model.n_tokens)
        whole = self._log_within[left, pair]
        end = self._pairs.end_probability[pair]
        probabilities[self.model.end] = math.exp(math.log(end) - whole) if end else 0.0
        if left:
            steps = self._pairs.steps_of(pair)
            after = self._log_within[left - 1, self._pairs.target[steps]]
            probabilities[self._pairs.token[steps]] = np.exp(np.log(self._pairs.probability[steps]) + after - whole)
        return probabilities / probabilities.sum()


def exact_posterior(model: NgramLM, constraint: Constraint, max_length: int) -> ExactPosterior:
    """Condition an n-gram model on a constraint, exactly.

    The work is the number of steps between reachable pairs of constraint state and model context, times `max_length`. A
    constraint that has no `token_automaton` is explored test by test, which takes long if it has many states.

    Args:
        model: the n-gram model.
        constraint: over the same tokens.
        max_length: most tokens of a string, the end not counted, at least 1.

    Returns:
        The posterior: its evidence, lengths, next tokens, probabilities and draws.

    Raises:
        ValueError: nothing of at most `max_length` tokens satisfies the constraint with positive probability, the
            vocabularies differ, or there are too many states.

    Source: Baum & Petrie (1966), Statistical inference for probabilistic functions of finite state Markov chains (the
        backward recursion); Lipkin et al. (2025), Fast Controlled Generation from Language Models with Adaptive
        Weighted Rejection Sampling (the target).
    """
    require_count("max_length", max_length, 1)
    if not isinstance(model, NgramLM):
        raise TypeError(f"model must be an NgramLM, got a {type(model).__name__}: only its contexts can be enumerated")
    pairs = product_states(model, constraint, max_length)
    log_p, log_now = _logs(pairs)
    log_lengths = [log_now[pairs.start]]
    log_within = [log_now]
    for _ in range(max_length):
        log_now = _log_sum_per_source(pairs, log_p + log_now[pairs.target])
        log_lengths.append(log_now[pairs.start])
        log_within.append(np.logaddexp(log_within[-1], log_now))
    log_evidence = float(log_within[-1][pairs.start])
    if log_evidence == -math.inf:
        name = type(constraint).__name__
        raise ValueError(
            f"no string of at most max_length = {max_length} tokens that the model can say satisfies the {name}: "
            "allow longer strings, or look for what the model gives probability zero"
        )
    lengths = np.exp(np.array(log_lengths) - log_evidence)
    return ExactPosterior(
        model, constraint, max_length, log_evidence, lengths / lengths.sum(), pairs, np.stack(log_within)
    )


def _logs(pairs: ProductStates) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " p"]]:
    with np.errstate(divide="ignore"):
        return np.log(pairs.probability), np.log(pairs.end_probability)


def _per_source(pairs: ProductStates, values: Float[np.ndarray, " m"], reduce: np.ufunc) -> Float[np.ndarray, " p"]:
    """Reduce the values of the steps that leave each pair; -inf where there are none."""
    reduced = np.full(len(pairs.codes), -math.inf)
    if len(values):
        firsts = np.flatnonzero(np.diff(pairs.source, prepend=-1))
        reduced[pairs.source[firsts]] = reduce.reduceat(values, firsts)
    return reduced


def _log_sum_per_source(pairs: ProductStates, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " p"]:
    # Pair by pair: their probabilities may differ by more than what a double can hold.
    top = _per_source(pairs, values, np.maximum)
    shift = np.where(np.isfinite(top), top, 0.0)
    total = _per_source(pairs, np.exp(values - shift[pairs.source]), np.add)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(total, 0.0)) + shift


def _short(prefix: Sequence[int]) -> str:
    text = str(tuple(prefix))
    return text if len(text) <= 60 else f"{text[:56]}...)"
