"""What SMC under a constraint claims, on text models whose conditioned law is known exactly, beside masking.

Words: a bigram of scikit-learn's descriptions (654 tokens); digits only inside parentheses, and each pair holds one.
Characters: a 4-gram of the lines of Python's documentation (96 tokens); numbers such as 3 and 3.11.4, and dates.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from uqsparse import bench
from uqsparse.data.language import printable, python_topics, sklearn_descriptions, words
from uqsparse.inference.constrained.exact_posterior import ExactPosterior, exact_posterior
from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constrained.smc import constrained_smc
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

SYSTEM = "constrained language models"
PARENTHESES = r"([^()\d]|\([^()]*\d[^()]*\))*"
NUMBERS = r"\d+(\.\d+)*"
DATES = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"


class Runs(NamedTuple):
    """Independent runs of one method, against the exact law.

    Args:
        evidence_ratio: estimated over exact evidence of each run.
        length_distance: total variation distance between the lengths of all strings, weighted, and their exact law; 1
            if no run had a string of positive weight.
        tests_per_string: constraint tests evaluated, over the number of particles.
    """

    evidence_ratio: Float[np.ndarray, " r"]
    length_distance: float
    tests_per_string: float

    @property
    def standard_error(self) -> float:
        """Of the mean ratio."""
        return float(self.evidence_ratio.std(ddof=1) / np.sqrt(len(self.evidence_ratio)))

    @property
    def z_score(self) -> float:
        """Distance of the mean ratio from 1, in standard errors; infinite if all runs gave the same."""
        error = self.standard_error
        return abs(float(self.evidence_ratio.mean()) - 1) / error if error else float("inf")


@functools.cache
def word_problem() -> ExactPosterior:
    """Words under the constraint on parentheses, at most 12 of them; one end to 15 words."""
    tokens = [word for text in sklearn_descriptions().texts for word in words(text)]
    types = sorted(set(tokens))
    number = {word: i for i, word in enumerate(types)}
    vocabulary = Vocabulary.of([f" {word}" for word in types])
    model = NgramLM.fit([[number[word] for word in tokens]], vocabulary, end_probability=1 / 16)
    return exact_posterior(model, RegexConstraint(PARENTHESES, vocabulary), 12)


@functools.cache
def character_problem(pattern: str, max_length: int) -> ExactPosterior:
    """Lines of Python's documentation that match a pattern."""
    model, vocabulary = _character_model()
    return exact_posterior(model, RegexConstraint(pattern, vocabulary), max_length)


@functools.cache
def _character_model() -> tuple[NgramLM, Vocabulary]:
    characters = [chr(code) for code in range(32, 127)]
    number = {character: i for i, character in enumerate(characters)}
    lines = [line.strip() for text in python_topics().texts for line in printable(text).split("\n")]
    vocabulary = Vocabulary.of(characters)
    sequences = [[number[character] for character in line] for line in lines if line]
    return NgramLM.fit(sequences, vocabulary, order=4, mark_start=True), vocabulary


@functools.cache
def runs(problem: ExactPosterior, local: str, n_particles: int, n_runs: int) -> Runs:
    """Run one local sampler with keys 0, 1, ... and compare.

    Args:
        problem: from `word_problem` or `character_problem`.
        local: of `constrained_smc`; "lcd" and "none" do not resample.
        n_particles: of each run.
        n_runs: independent runs.
    """
    ratios, mass = np.zeros(n_runs), np.zeros(problem.max_length + 1)
    n_tests = 0
    for run in range(n_runs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no particle got there: counted as zero; one ancestor is left
            result = constrained_smc(
                jax.random.key(run),
                problem.model,
                problem.constraint,
                max_length=problem.max_length,
                n_particles=n_particles,
                local=local,
                ess_threshold=0.0 if local in ("lcd", "none") else 0.5,
            )
        ratios[run] = 0.0 if result.log_evidence is None else np.exp(result.log_evidence - problem.log_evidence)
        lengths = [len(string) for string in result.strings]
        np.add.at(mass, lengths, np.exp(result.log_weights - problem.log_evidence))
        n_tests += result.n_tests
    shares = mass / mass.sum() if mass.any() else mass
    distance = 0.5 * float(np.abs(shares - problem.length_distribution).sum()) if mass.any() else 1.0
    return Runs(ratios, distance, n_tests / (n_runs * n_particles))


def _unbiased(problem: ExactPosterior, n_particles: int, n_runs: int) -> bench.Measured:
    ours = runs(problem, "auto", n_particles, n_runs)
    mean, error = ours.evidence_ratio.mean(), ours.standard_error
    detail = (
        f"mean estimate over exact evidence {mean:.3f} ± {error:.3f}; {n_runs} runs, N = {n_particles}, exact "
        f"log evidence {problem.log_evidence:.2f}"
    )
    return bench.Measured(ours.z_score, "<", 3.5, "dynamic programme, in standard errors", detail)


def _lengths(problem: ExactPosterior, local: str, n_particles: int, n_runs: int) -> tuple[float, str]:
    found = runs(problem, local, n_particles, n_runs)
    return found.length_distance, f"total variation distance, {n_runs} runs of {n_particles} strings, pooled"


def _fewer_tests(problem: ExactPosterior, n_particles: int, n_runs: int, bound: float) -> bench.Measured:
    ours = runs(problem, "auto", n_particles, n_runs).tests_per_string
    masking = runs(problem, "mask", n_particles, n_runs).tests_per_string
    detail = f"{masking:.0f} against {ours:.1f} evaluated for a string; {n_runs} runs, N = {n_particles}"
    return bench.Measured(masking / ours, ">=", bound, "SMC with masking, equal weights", detail)


@bench.claim("words: constraint tests of masking over those of adaptive rejection", system=SYSTEM)
def word_tests(context: bench.Context) -> bench.Measured:
    return _fewer_tests(word_problem(), 20, 10, 50)


@bench.claim("words: masked decoding misses the exact length distribution", system=SYSTEM)
def word_lengths_of_masked_decoding(context: bench.Context) -> bench.Measured:
    distance, detail = _lengths(word_problem(), "lcd", 20, 10 if context.quick else 100)
    return bench.Measured(distance, ">", 0.5, "dynamic programme", detail)


@bench.claim("words: adaptive rejection has the exact length distribution", system=SYSTEM, quick=False)
def word_lengths(context: bench.Context) -> bench.Measured:
    distance, detail = _lengths(word_problem(), "auto", 20, 100)
    return bench.Measured(distance, "<", 0.15, "dynamic programme", detail)


@bench.claim("words: evidence is unbiased with 5 particles", system=SYSTEM, quick=False)
def word_evidence_of_five(context: bench.Context) -> bench.Measured:
    return _unbiased(word_problem(), 5, 400)


@bench.claim("words: evidence is unbiased with 20 particles", system=SYSTEM, quick=False)
def word_evidence_of_twenty(context: bench.Context) -> bench.Measured:
    return _unbiased(word_problem(), 20, 100)


@bench.claim("words: evidence is unbiased with 100 particles", system=SYSTEM, quick=False)
def word_evidence_of_hundred(context: bench.Context) -> bench.Measured:
    return _unbiased(word_problem(), 100, 50)


@bench.claim("characters, numbers: evidence is unbiased with 100 particles", system=SYSTEM, quick=False)
def number_evidence(context: bench.Context) -> bench.Measured:
    return _unbiased(character_problem(NUMBERS, 16), 100, 100)


@bench.claim("characters, numbers: adaptive rejection has the exact length distribution", system=SYSTEM, quick=False)
def number_lengths(context: bench.Context) -> bench.Measured:
    distance, detail = _lengths(character_problem(NUMBERS, 16), "auto", 100, 100)
    return bench.Measured(distance, "<", 0.15, "dynamic programme", detail)


@bench.claim("characters, numbers: masked decoding misses the exact length distribution", system=SYSTEM, quick=False)
def number_lengths_of_masked_decoding(context: bench.Context) -> bench.Measured:
    distance, detail = _lengths(character_problem(NUMBERS, 16), "lcd", 100, 10)
    return bench.Measured(distance, ">", 0.5, "dynamic programme", detail)


@bench.claim("characters, dates: evidence below 1e-10 is unbiased with 100 particles", system=SYSTEM, quick=False)
def date_evidence(context: bench.Context) -> bench.Measured:
    return _unbiased(character_problem(DATES, 10), 100, 100)
