"""What SMC under a constraint claims on SmolLM2, with 49,152 tokens: fewer tests than masking, and equal evidence.

Regular expressions: a date after a question for one, and a small JSON object after the wish for one.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from uqsparse import bench
from uqsparse.bench.entries.constrained_claims import SYSTEM
from uqsparse.data.language import load_tokenizer, smollm2
from uqsparse.inference.constrained.smc import constrained_smc
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.nn.gguf_files import load_gguf
from uqsparse.nn.llama_decoding import LlamaDecoder

N_PARTICLES = 16


class Problem(NamedTuple):
    """A prompt, and the pattern of its answer.

    Args:
        prompt: what the user says.
        pattern: regular expression of the whole answer.
        max_length: most tokens of the answer.
    """

    prompt: str
    pattern: str
    max_length: int


DATE = Problem(
    "On which day did people first land on the Moon? Answer with the date as YYYY-MM-DD only.",
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    12,
)
JSON = Problem(
    'Describe a cat as a JSON object with the keys "name" (a string) and "age" (a number).',
    r'\{"name": "[A-Za-z ]{1,20}", "age": \d{1,2}\}',
    24,
)


class Runs(NamedTuple):
    """Independent runs of one local sampler.

    Args:
        log_evidence: estimate of each run.
        tests_per_string: constraint tests evaluated, over the number of particles.
    """

    log_evidence: Float[np.ndarray, " r"]
    tests_per_string: float


@functools.cache
def _smollm2():
    try:
        path = smollm2().path
        return load_gguf(path), load_tokenizer(path)
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from error


@functools.cache
def _runs(problem: Problem, local: str, n_runs: int) -> Runs:
    llama, tokenizer = _smollm2()
    constraint = RegexConstraint(problem.pattern, Vocabulary(tokenizer.token_bytes, tokenizer.end))
    model = LlamaDecoder(llama, tokenizer.chat(problem.prompt), problem.max_length, tokenizer.ends)
    results = [
        constrained_smc(
            jax.random.key(run),
            model,
            constraint,
            max_length=problem.max_length,
            n_particles=N_PARTICLES,
            local=local,
        )
        for run in range(n_runs)
    ]
    n_tests = sum(result.n_tests for result in results)
    return Runs(np.array([result.log_evidence for result in results]), n_tests / (n_runs * N_PARTICLES))


def _fewer_tests(problem: Problem) -> bench.Measured:
    ours, masking = _runs(problem, "auto", 1), _runs(problem, "mask", 1)
    detail = f"{masking.tests_per_string:.0f} against {ours.tests_per_string:.1f} evaluated for a string; N = 16"
    factor = masking.tests_per_string / ours.tests_per_string
    return bench.Measured(factor, ">=", 100, "SMC with masking, 49,152 tokens", detail)


@bench.claim("SmolLM2, dates: constraint tests of masking over those of adaptive rejection", system=SYSTEM, quick=False)
def date_tests(context: bench.Context) -> bench.Measured:
    return _fewer_tests(DATE)


@bench.claim("SmolLM2, JSON: constraint tests of masking over those of adaptive rejection", system=SYSTEM, quick=False)
def json_tests(context: bench.Context) -> bench.Measured:
    return _fewer_tests(JSON)


@bench.claim("SmolLM2, JSON: adaptive rejection and masking agree on the evidence", system=SYSTEM, quick=False)
def json_evidence(context: bench.Context) -> bench.Measured:
    n_runs = 8
    estimates = {local: np.exp(_runs(JSON, local, n_runs).log_evidence) for local in ("auto", "mask")}
    means = {local: float(values.mean()) for local, values in estimates.items()}
    error = float(np.sqrt(sum(values.var(ddof=1) / n_runs for values in estimates.values())))
    detail = (
        f"{means['auto']:.5f} and {means['mask']:.5f}, standard error of the difference {error:.5f}; 8 runs, N = 16"
    )
    gap = abs(means["auto"] - means["mask"]) / error
    return bench.Measured(gap, "<", 3.5, "SMC with masking, in standard errors", detail)
