"""N-gram models against counting by hand in Fractions, and what they refuse."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constraints.vocabulary import Vocabulary

N_TOKENS = 4  # the end included
END = 3
TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=3).filter(any)


def next_probability(texts, history, token, *, order, pseudo_count, uniform_count, end_probability, mark_start):
    """The definition, by recursion over ever shorter contexts, without an automaton."""

    def events():
        for text in texts:
            marked = (["start"] if mark_start else []) + list(text) + ([END] if end_probability is None else [])
            for place in range(1 if mark_start else 0, len(marked)):
                yield marked[:place], marked[place]

    def probability(context):
        k = len(context)
        followers = [v for before, v in events() if len(before) >= k and before[len(before) - k :] == context]
        if not context:
            n_predictable = N_TOKENS if end_probability is None else N_TOKENS - 1
            uniform = Fraction(0 if end_probability is not None and token == END else 1, n_predictable)
            base = (followers.count(token) + uniform_count * uniform) / (len(followers) + uniform_count)
            if end_probability is None:
                return base
            return end_probability if token == END else base * (1 - end_probability)
        if not followers:
            return probability(context[1:])
        return (followers.count(token) + pseudo_count * probability(context[1:])) / (len(followers) + pseudo_count)

    full = (["start"] if mark_start else []) + list(history)
    return probability(full[max(0, len(full) - (order - 1)) :])


@settings(max_examples=120, deadline=None)
@given(
    texts=TEXTS,
    order=st.integers(1, 4),
    pseudo_count=st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(8)]),
    uniform_count=st.sampled_from([Fraction(0), Fraction(1)]),
    end_probability=st.sampled_from([None, Fraction(1, 16)]),
    mark_start=st.booleans(),
    history=st.lists(st.integers(0, 2), max_size=6),
)
def test_it_is_what_the_definition_says(
    texts, order, pseudo_count, uniform_count, end_probability, mark_start, history
):
    options = {
        "order": order,
        "pseudo_count": pseudo_count,
        "uniform_count": uniform_count,
        "end_probability": end_probability,
        "mark_start": mark_start,
    }
    plain = {name: float(value) if isinstance(value, Fraction) else value for name, value in options.items()}
    model = NgramLM.fit(texts, N_TOKENS, **plain)
    row = model.rows[model.context_after(history)]
    expected = [float(next_probability(texts, history, token, **options)) for token in range(N_TOKENS)]
    np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-15)


def test_contexts_are_those_that_something_follows():
    model = NgramLM.fit([[0, 1, 2]], N_TOKENS, order=3, end_probability=0.1)
    # (), 0, 1, (0, 1); 2 and (1, 2) end the text.
    assert (model.n_contexts, model.n_tokens, model.start_context) == (4, 4, 0)
    assert model.context_after([0, 1]) == 3
    assert model.context_after([1, 2]) == model.context_after([]) == 0


def test_it_is_a_language_model_over_a_batch():
    model = NgramLM.fit([[0, 1, 0, 2]], N_TOKENS, order=2)
    state = model.start(3)
    assert model.log_probabilities(state).shape == (3, 4)
    state = model.advance(state, np.array([0, 1, 2]), None)
    state = model.advance(state, np.array([1, 0, END]), np.array([2, 2, 0]))
    assert state.tolist() == [model.context_after([2, 1]), model.context_after([2, 0]), model.start_context]
    for row, history in zip(model.log_probabilities(state)[:2], ([2, 1], [2, 0]), strict=True):
        np.testing.assert_allclose(row, np.log(model.rows[model.context_after(history)]))


def test_log_probability_and_perplexity():
    rows = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    model = NgramLM(rows, np.array([[0, 1, 7], [0, 1, -1]]), 0, end=2)  # whatever stands in the column of the end
    assert model.log_probability([0, 1]) == pytest.approx(math.log(0.5 * 0.25 * 0.5))
    assert model.log_probability([0, 1], ended=False) == pytest.approx(math.log(0.5 * 0.25))
    assert model.log_probability([]) == pytest.approx(math.log(0.25))
    assert model.log_probability([1, 0]) == -math.inf
    assert model.perplexity([[0, 1], []]) == pytest.approx((0.0625 * 0.25) ** (-1 / 4))
    assert model.perplexity([[0, 1], []], ended=False) == pytest.approx(0.125 ** (-1 / 2))
    assert model.perplexity([[1, 0]]) == math.inf


def test_higher_orders_fit_a_text_better():
    text = [0, 1, 2, 0, 1, 1, 2, 0, 0, 1, 2] * 20
    perplexities = [NgramLM.fit([text], N_TOKENS, order=n).perplexity([text]) for n in (1, 2, 3, 4)]
    assert perplexities == sorted(perplexities, reverse=True)


def test_a_vocabulary_tells_the_end():
    vocabulary = Vocabulary((None, b"a", b"b"), end=0)
    model = NgramLM.fit([[1, 2, 1]], vocabulary, end_probability=0.25)
    assert model.end == 0
    assert model.rows[0, 0] == 0.25


def test_arrays_are_copied_and_cannot_be_written():
    rows = np.array([[0.5, 0.5]])
    model = NgramLM(rows, np.zeros((1, 2), int), 0, 1)
    rows[0, 0] = 3
    assert model.rows[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        model.rows[0, 0] = 1


@pytest.mark.parametrize(
    ("rows", "contexts", "start", "end", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.4]], [[0, 0], [1, 1]], 0, 1, "context 1 sum to 0.9"),
        ([[0.5, 0.5], [1.5, -0.5]], [[0, 0], [1, 1]], 0, 1, "token 1 in context 1 is -0.5"),
        ([[0.5, math.nan]], [[0, 0]], 0, 1, "token 1 in context 0 is nan"),
        ([[math.inf, 0.5]], [[0, 0]], 0, 1, "context 0 sum to inf"),
        ([[0.5, 0.5]], [[1, 0]], 0, 1, "next_context of context 0 and token 0 is 1, but there are 1"),
        ([[0.5, 0.5]], [[-1, 0]], 0, 1, "is -1"),
        ([[0.5, 0.5]], [[0, 0]], 1, 1, "start_context is 1"),
        ([[0.5, 0.5]], [[0, 0]], 0, 2, "end is 2"),
        ([[0.5, 0.5]], [[0, 0]], -1, 1, "start_context must be an integer"),
        ([[0.5, 0.5]], [[0, 0, 0]], 0, 1, "shapes"),
        ([0.5, 0.5], [0, 0], 0, 1, "shapes"),
        ([[0.5, 0.5]], [[0.0, 0.0]], 0, 1, "next_context must be an array of integers"),
        ([["a", "b"]], [[0, 0]], 0, 1, "rows must be an array of numbers"),
    ],
)
def test_bad_arrays(rows, contexts, start, end, message):
    with pytest.raises(ValueError, match=message):
        NgramLM(rows, contexts, start, end)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no tokens to count"),
        ([[], []], {}, "no tokens to count"),
        ([[0, 1], [0, 4]], {}, "token 1 of sequence 1 is 4, which is no token"),
        ([[0, -1]], {}, "token 1 of sequence 0 is -1"),
        ([[0, 3]], {}, "which is the end"),
        (["ab"], {}, "sequence 0 must be a list of token numbers"),
        ([[0.5, 1.0]], {}, "sequence 0 must be a list of token numbers"),
        ([[0]], {"order": 0}, "order must be an integer of at least 1"),
        ([[0]], {"pseudo_count": -1.0}, "pseudo_count must be"),
        ([[0]], {"uniform_count": math.nan}, "uniform_count must be"),
        ([[0]], {"end_probability": 1.0}, "end_probability must lie strictly between"),
        ([[0, 1, 2, 0, 1]], {"order": 3, "max_entries": 20}, "contexts of 4 tokens are .* more than max_entries = 20"),
    ],
)
def test_bad_fits(texts, options, message):
    with pytest.raises(ValueError, match=message):
        NgramLM.fit(texts, N_TOKENS, **options)


def test_bad_strings():
    model = NgramLM.fit([[0, 1]], N_TOKENS)
    with pytest.raises(ValueError, match="place 1 of the string is 3, which is the end"):
        model.log_probability([0, 3])
    with pytest.raises(ValueError, match="place 0 of the string is -1, which is no token"):
        model.context_after([-1])
    with pytest.raises(ValueError, match="no tokens to predict"):
        model.perplexity([[]], ended=False)
    with pytest.raises(ValueError, match="vocabulary must be an integer of at least 2"):
        NgramLM.fit([[0]], 1)
