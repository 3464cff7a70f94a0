"""The decoder as a next-token model over a population."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_llama import TINY, reference_logits, some_tokens, tiny_llama
from scipy.special import log_softmax, logsumexp

from uqsparse.nn import llama_decoding
from uqsparse.nn.llama_decoding import LlamaDecoder

PROMPT = [3, 1, 4, 1, 5, 9, 2]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def decoder(llama):
    return LlamaDecoder(llama, PROMPT, max_length=6, end=[0])


def expected(llama, strings, temperature=1.0):
    rows = [reference_logits(llama, PROMPT + list(s))[-1] / temperature for s in strings]
    return log_softmax(np.stack(rows), axis=1)


def test_strings_are_copied_and_extended(llama, decoder):
    state, strings = decoder.start(3), [(), (), ()]
    history = [([7, 8, 2], None), ([1, 1, 6], [2, 0, 0]), ([5, 4, 3], [0, 1, 2]), ([9, 9], [1, 1]), ([2, 3], None)]
    np.testing.assert_allclose(decoder.log_probabilities(state), expected(llama, strings), **CLOSE)
    for tokens, ancestors in history:
        parents = strings if ancestors is None else [strings[i] for i in ancestors]
        strings = [(*s, t) for s, t in zip(parents, tokens, strict=True)]
        given = None if ancestors is None else np.array(ancestors)
        state = decoder.advance(state, np.array(tokens), given)
        np.testing.assert_allclose(decoder.log_probabilities(state), expected(llama, strings), **CLOSE)


def test_rows_are_distributions_in_double_precision(decoder):
    rows = decoder.log_probabilities(decoder.start(2))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(logsumexp(rows, axis=1), 0, atol=1e-12)


def test_a_prompt_in_pieces(llama, decoder, monkeypatch):
    """The prompt spans several pieces, and the last one does not fit into the cache with its padding."""
    whole = decoder.log_probabilities(decoder.start(1))
    for chunk in (3, 4, 7):
        monkeypatch.setattr(llama_decoding, "_CHUNK", chunk)
        pieces = LlamaDecoder(llama, PROMPT, max_length=1, end=[0])
        np.testing.assert_allclose(pieces.log_probabilities(pieces.start(1)), whole, **CLOSE)


def test_temperature_divides_the_logits(llama):
    cold = LlamaDecoder(llama, PROMPT, max_length=6, end=[0], temperature=0.5)
    np.testing.assert_allclose(cold.log_probabilities(cold.start(1)), expected(llama, [()], 0.5), **CLOSE)


def test_several_ends_count_as_the_first(llama, decoder):
    folded = LlamaDecoder(llama, PROMPT, max_length=6, end=[4, 2, 2, 7])
    plain, rows = (d.log_probabilities(d.start(1))[0] for d in (decoder, folded))
    np.testing.assert_allclose(rows[4], logsumexp(plain[[2, 4, 7]]))
    assert np.isneginf(rows[[2, 7]]).all()
    others = np.delete(np.arange(TINY.n_tokens), [2, 4, 7])
    np.testing.assert_array_equal(rows[others], plain[others])


def test_a_prompt_may_fill_the_context_to_the_last_token(llama):
    decoder = LlamaDecoder(llama, some_tokens(22), max_length=2, end=[0])
    state = decoder.start(1)
    for _ in range(2):
        state = decoder.advance(state, np.array([5]), None)
    tokens = [*np.asarray(some_tokens(22)), 5, 5]
    np.testing.assert_allclose(
        decoder.log_probabilities(state)[0], log_softmax(reference_logits(llama, tokens)[-1]), **CLOSE
    )
    with pytest.raises(ValueError, match="the strings have 2 tokens; max_length is 2"):
        decoder.advance(state, np.array([5]), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "prompt must be a sequence of integers with at least one"),
        ({"prompt": [19]}, "prompt must lie between 0 and 18, got 19 to 19"),
        ({"prompt": "text"}, "prompt must be a sequence of integers"),
        ({"prompt": [1] * 30}, "a prompt of 30 tokens and strings of 6 do not fit into the context of the model, 24"),
        ({"max_length": 18}, "a prompt of 7 tokens and strings of 18 do not fit"),
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"end": []}, "end must be a sequence"),
        ({"end": [-1]}, "end must lie between 0 and 18"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number above 0"),
    ],
    ids=["empty", "token", "text", "long", "strings", "none", "no-end", "end", "zero", "nan"],
)
def test_bad_arguments_are_refused_at_the_door(llama, changes, message):
    arguments = {"prompt": PROMPT, "max_length": 6, "end": [0], **changes}
    with pytest.raises(ValueError, match=message):
        LlamaDecoder(llama, **arguments)


def test_bad_steps_are_refused(decoder):
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        decoder.start(0)
    state = decoder.start(2)
    with pytest.raises(ValueError, match="tokens must have 2 entries, one a string; got 3"):
        decoder.advance(state, np.array([1, 2, 3]), None)
    with pytest.raises(ValueError, match="tokens must lie between 0 and 18, got 1 to 19"):
        decoder.advance(state, np.array([1, 19]), None)
    with pytest.raises(ValueError, match="ancestors must lie between 0 and 1, got 0 to 2"):
        decoder.advance(state, np.array([1, 2]), np.array([0, 2]))
    decoder.advance(state, np.array([1, 2]), None)
    with pytest.raises(ValueError, match="this state was advanced before"):
        decoder.advance(state, np.array([1, 2]), None)


def test_logits_that_are_no_numbers_are_refused(llama):
    broken = jax.tree.map(lambda a: a * jnp.nan, llama)
    decoder = LlamaDecoder(broken, PROMPT, max_length=6, end=[0])
    with pytest.raises(ValueError, match="the logits of string 0 after 0 tokens are not finite"):
        decoder.log_probabilities(decoder.start(2))
