"""The Llama decoder on SmolLM2-135M: its perplexity against the known one, its speed against memory and a peer.

One step of decoding has to read all weights once, 538 MB in float32, whatever the number of strings. So the time to
read as many bytes with all cores is a limit that no program with these weights beats.
"""

import functools
import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from uqsparse import bench
from uqsparse.data.language import load_tokenizer, python_topics, smollm2
from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.gguf_files import load_gguf
from uqsparse.nn.llama import Llama
from uqsparse.nn.llama_decoding import LlamaDecoder

SYSTEM = "constrained language models"
PROMPT = "The capital of France is"
CAPACITY = 128
ROUNDS = 40


def _path() -> Path:
    try:
        return smollm2().path
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None


@functools.cache
def _llama() -> Llama:
    try:
        return load_gguf(_path())
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None


@bench.claim("SmolLM2-135M from its GGUF file: distance to the known perplexity 17.2", system=SYSTEM, quick=False)
def perplexity(context: bench.Context) -> bench.Measured:
    text = "\n".join(python_topics().texts)
    if len(text) != 465_048:
        raise bench.NotMeasured("the articles of this version of Python are not those of the known figure")
    tokens = np.asarray(load_tokenizer(_path()).encode(text))[2000:2512]
    logits = np.asarray(compile_blocks(_llama())(tokens), np.float64)
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    found = np.exp(-log_probabilities[np.arange(511), tokens[1:]].mean())
    detail = f"tokens 2000 to 2511 of Python's help topics, joined by line breaks: {found:.3f}"
    return bench.Measured(abs(found - 17.2), "<=", 0.05, "17.2, measured with other code", detail)


@bench.claim("SmolLM2-135M, one token at a time against all at once: log probabilities", system=SYSTEM, quick=False)
def cache_is_exact(context: bench.Context) -> bench.Measured:
    tokens = np.asarray(load_tokenizer(_path()).encode(python_topics().texts[0]))[:96]
    whole = np.asarray(jax.nn.log_softmax(compile_blocks(_llama())(tokens)))
    decoder = LlamaDecoder(_llama(), tokens[:70].tolist(), max_length=26, end=[0])
    state, error = decoder.start(2), 0.0
    for i in range(70, 96):
        error = max(error, float(np.abs(decoder.log_probabilities(state) - whole[i - 1]).max()))
        state = decoder.advance(state, np.repeat(tokens[i], 2), None)
    detail = "a prompt of 70 tokens and 26 more, 2 strings; largest difference over 49,152 tokens"
    return bench.Measured(error, "<=", 1e-3, "the same model without a cache, float32", detail)


class _Race:
    """A step of decoding n strings, and reading as many bytes as the weights have with all cores."""

    def __init__(self, n: int):
        self.n, self.llama = n, compile_blocks(_llama(), in_place=True)
        self.cache = self.llama.empty_cache(n, CAPACITY)
        n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(_llama()))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.shares = np.array_split(np.ones(n_bytes // 4, np.float32), cores)
        self.threads = ThreadPoolExecutor(cores)

    def ours(self, i: int):
        logits, self.cache = self.llama.decode(np.arange(self.n), self.cache)
        return logits[0, 0]

    def peer(self, i: int) -> float:
        return sum(self.threads.map(np.sum, self.shares))


@bench.speed(
    "SmolLM2-135M, 1 string: decoding against reading the weights once",
    ours="decoding",
    peer="reading",
    at_least=0.4,
    unit="token",
    quick=False,
)
def decode_one(context: bench.Context) -> bench.Contest:
    """The ratio is the fraction of the limit that memory bandwidth sets."""
    race = _Race(1)
    return bench.Contest(race.ours, race.peer, rounds=ROUNDS)


@bench.speed(
    "SmolLM2-135M, 16 strings: decoding against reading the weights once",
    ours="decoding",
    peer="reading",
    at_least=0.25,
    unit="step of 16 tokens",
    quick=False,
)
def decode_sixteen(context: bench.Context) -> bench.Contest:
    """Sixteen products for each weight read: arithmetic counts too."""
    race = _Race(16)
    return bench.Contest(race.ours, race.peer, rounds=ROUNDS)


@bench.speed(
    "SmolLM2-135M, 1 string: decoding against llama.cpp",
    ours="uqsparse, float32 (538 MB a token)",
    peer="llama.cpp, Q4_1 (98 MB a token)",
    at_least=0.2,
    unit="token",
    quick=False,
)
def decode_against_llama_cpp(context: bench.Context) -> bench.Contest:
    """The same file. llama.cpp computes with the quantised weights, of which it reads 5.5 times fewer bytes."""
    try:
        llama_cpp = importlib.import_module("llama_cpp")
    except ImportError as error:
        raise bench.NotMeasured(f"llama.cpp is not installed (pip install llama-cpp-python): {error}") from None
    race = _Race(1)
    threads = len(race.shares)
    peer = llama_cpp.Llama(str(_path()), n_ctx=CAPACITY, n_threads=threads, n_threads_batch=threads, verbose=False)
    return bench.Contest(race.ours, lambda i: peer.eval([7042]), rounds=ROUNDS)
