"""Constrained SMC: bookkeeping, baselines, bad input; its law is proved in test_constrained_exact."""

import itertools
import math

import jax
import numpy as np
import pytest

from uqsparse.bench.entries.constrained_exact import END, ROWS, EndsInTwo, expected_measure
from uqsparse.inference.constrained.populations import Particle
from uqsparse.inference.constrained.smc import (
    Population,
    constrained_smc,
    constrained_smc_steps,
    masked_decoding,
    sample_and_rerank,
    twisted_smc,
    weighted_strings,
)
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

# With few particles it is common that none gets there, or that only one has offspring.
pytestmark = [
    pytest.mark.filterwarnings("ignore:none of .* particles reached:UserWarning"),
    pytest.mark.filterwarnings("ignore:all strings descend from one:UserWarning"),
]
KEY = jax.random.key(5)
POSTERIOR = {tokens: float(mass) for tokens, mass in expected_measure(3).items()}
EVIDENCE = sum(POSTERIOR.values())


def bigram(prefix):
    assert END not in prefix, "asked about a string that has ended"
    with np.errstate(divide="ignore"):
        return np.log([float(p) for p in ROWS[prefix[-1] if prefix else None]])


class Nothing(Constraint):
    """No string at all, and a prefix test that does not know."""

    vocabulary = EndsInTwo.vocabulary

    def start(self):
        return 0

    def step(self, state, token):
        return 0

    def is_complete(self, state):
        return False


class Strange(EndsInTwo):
    """Answers by a number."""

    def accepts(self, state, token, steps_left=None):
        return 0.5


def run(method=constrained_smc, **options):
    return method(KEY, bigram, EndsInTwo(), max_length=3, **options)


@pytest.mark.parametrize("method", [constrained_smc, sample_and_rerank, twisted_smc])
def test_evidence_and_posterior_are_right(method):
    """5 standard errors on two means of 300 runs each, and on the mass of the most probable string: false alarm 2e-6
    a comparison."""
    count = "n_samples" if method is sample_and_rerank else "n_particles"
    results = [method(key, bigram, EndsInTwo(), max_length=3, **{count: 8}) for key in jax.random.split(KEY, 300)]
    evidence = np.array([np.exp(result.log_evidence) for result in results])
    assert abs(evidence.mean() - EVIDENCE) < 5 * evidence.std() / math.sqrt(len(results))
    top = max(POSTERIOR, key=lambda tokens: POSTERIOR[tokens])
    masses = np.array(
        [
            sum(np.exp(w) for tokens, w in zip(r.strings, r.log_weights, strict=True) if tokens == top) / 8
            for r in results
        ]
    )
    assert abs(masses.mean() - POSTERIOR[top]) < 5 * masses.std() / math.sqrt(len(results))


@pytest.mark.parametrize("local", ["two-loop", "recursive", "geometric", "mask", "twist"])
@pytest.mark.parametrize("resampling", ["systematic", "residual"])
def test_every_string_with_weight_is_a_member(local, resampling):
    result = run(n_particles=20, local=local, resampling=resampling, ess_threshold=1.0)
    for string in result.posterior():
        assert string.tokens in POSTERIOR
    assert math.isclose(sum(string.probability for string in result.posterior()), 1)
    assert math.isclose(math.log(np.exp(result.log_weights).mean()), result.log_evidence)


def test_masked_decoding_is_biased_and_claims_no_evidence():
    result = run(masked_decoding, n_samples=3000)
    assert result.log_evidence is None
    assert result.log_evidence_error is None
    assert result.n_resampled == 0
    shares = {string.tokens: string.probability for string in result.posterior()}
    distance = 0.5 * sum(abs(shares.get(tokens, 0) - mass / EVIDENCE) for tokens, mass in POSTERIOR.items())
    assert distance > 0.15  # 0.25, and 3000 draws move it by about 0.01


def test_counts_of_tests():
    """Masking asks every token once for each prefix; sample and rerank once a string."""
    masked = run(n_particles=1, local="mask")
    assert masked.n_tests_requested == 4 * len(masked.strings[0]) + (1 if len(masked.strings[0]) == 3 else 4)
    rerank = run(sample_and_rerank, n_samples=50)
    assert rerank.n_tests_requested == 50
    free = run(n_particles=50)
    assert free.n_tests <= free.n_tests_requested
    # Fifty particles share their first prefix, whose four tokens are tested once.
    first = next(constrained_smc_steps(KEY, bigram, EndsInTwo(), max_length=3, n_particles=50))
    assert first.n_tests <= 4 < first.n_tests_requested


def test_same_key_same_strings():
    first, second = run(n_particles=30), run(n_particles=30)
    assert first.strings == second.strings
    np.testing.assert_array_equal(first.log_weights, second.log_weights)


def test_one_particle_never_resamples():
    assert run(n_particles=1, ess_threshold=1.0).n_resampled == 0


def test_steps_can_be_stopped_early():
    steps = constrained_smc_steps(KEY, bigram, EndsInTwo(), max_length=3, n_particles=6)
    population = next(steps)
    assert population.n_steps == 1
    result = weighted_strings(population, EndsInTwo())
    assert all(len(tokens) <= 1 for tokens in result.strings)


def test_results_can_be_used():
    result = run(n_particles=200)
    assert math.isclose(result.expectation(len), sum(s.probability * len(s.text) for s in result.posterior()))
    assert set(result.sample(KEY, 50)) <= {string.text for string in result.posterior()}
    assert 1 <= result.ess <= 200
    assert 0 <= result.log_evidence_error < 1


def test_spellings_of_one_text_are_one_string_of_the_posterior():
    result = run(n_particles=4)._replace(
        strings=((0, 1), (2,), (3,), (0,)),
        log_weights=np.log([0.25, 0.75, 0.5, 0.5]),
        vocabulary=Vocabulary((b"a", b"b", b"ab", None, None), 4),
    )
    assert result.posterior() == [
        ((2,), "ab", pytest.approx(0.5)),
        ((3,), "", pytest.approx(0.25)),
        ((0,), "a", pytest.approx(0.25)),
    ]


def test_results_are_shown_without_the_vocabulary():
    assert "vocabulary=<Vocabulary of 4 tokens, end 3>" in repr(run(n_particles=3))


def test_the_error_bar_of_the_evidence_matches_its_spread():
    """Within a factor 1.5 both ways over 200 runs: the spread of a spread there is about 5 %."""
    results = [run_with(key, n_particles=40) for key in jax.random.split(KEY, 200)]
    spread = np.std([result.log_evidence for result in results])
    stated = math.sqrt(np.mean([result.log_evidence_error**2 for result in results]))
    assert 1 / 1.5 < stated / spread < 1.5


def test_a_population_that_descends_from_one_particle_is_warned_about():
    """Two particles and resampling at every difference: most runs end with one ancestor."""
    with pytest.warns(UserWarning, match="all strings descend from one of 2 particles"):
        results = [run_with(key, n_particles=2, ess_threshold=1.0) for key in jax.random.split(KEY, 20)]
    assert {result.n_ancestors for result in results} >= {1}
    assert run(n_particles=200).n_ancestors > 20


def test_only_the_living_count_as_descendants():
    living = [Particle((2,), (0, 2), math.log(weight), True, 0) for weight in (0.1, 0.3)]
    dead = Particle((), None, -math.inf, True, 2)
    result = weighted_strings(Population((*living, dead), 2, 5, 6, 0), EndsInTwo())
    assert (result.n_ancestors, result.ess) == (1, pytest.approx(0.4**2 / (0.1**2 + 0.3**2)))
    assert result.log_evidence == pytest.approx(math.log(0.4 / 3))


def test_rows_that_are_off_by_rounding_are_normalised():
    """A model that ends at once, its logarithm off by 5e-4: the evidence of all strings is one."""

    class Anything(Nothing):
        def is_complete(self, state):
            return True

    row = np.array([-np.inf, -np.inf, -np.inf, 5e-4])
    result = constrained_smc(KEY, lambda prefix: row, Anything(), max_length=3, n_particles=2, local="mask")
    assert result.log_evidence == pytest.approx(0, abs=1e-12)


def run_with(key, **options):
    return constrained_smc(key, bigram, EndsInTwo(), max_length=3, **options)


# Bad input.


def test_a_constraint_that_nothing_satisfies_has_zero_evidence_and_says_so():
    with pytest.warns(UserWarning, match="none of 5 particles"):
        result = constrained_smc(KEY, bigram, Nothing(), max_length=3, n_particles=5)
    assert result.log_evidence == -math.inf
    assert result.posterior() == []
    assert result.ess == 0
    assert not np.isnan(result.probabilities).any()
    with pytest.raises(ValueError, match="no particle reached a member"):
        result.expectation(len)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_particles": 0}, "n_particles must be an integer of at least 1, got 0"),
        ({"ess_threshold": 1.5}, "ess_threshold must lie between 0 and 1, got 1.5"),
        ({"resampling": "fair"}, "resampling must be one of .* got 'fair'"),
        ({"local": "greedy"}, "greedy"),
        ({"max_rejects": 1}, "max_rejects"),
        ({"local": "twist", "max_rejects": 4}, "max_rejects"),
        ({"local": "geometric", "max_accepts": 1}, "max_accepts"),
    ],
)
def test_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_a_length_too_short_is_refused():
    class Long(EndsInTwo):
        def steps_to_complete(self, state):
            return 7

    with pytest.raises(ValueError, match="max_length is 3, but members of the constraint have at least 7 tokens"):
        constrained_smc(KEY, bigram, Long(), max_length=3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.log([0.5, 0.25, 0.125, 0.0625]), r"after the prefix \(\) sum to 0.9375, not to one"),
        ([0.0, -np.inf, np.nan, -np.inf], r"token 2 the log probability nan after the prefix \(\)"),
        ([-np.inf] * 4, r"after the prefix \(\) sum to 0"),
        (np.log([0.5, 0.5]), r"shape \(2,\) after the prefix \(\); expected \(4,\)"),
    ],
)
def test_a_row_that_is_no_distribution_is_refused_with_its_prefix(row, message):
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        constrained_smc(KEY, lambda prefix: row, EndsInTwo(), max_length=3)


def test_an_answer_that_is_no_boolean_is_refused():
    with pytest.raises(ValueError, match=r"0\.5"):
        constrained_smc(KEY, bigram, Strange(), max_length=3)


def test_a_model_of_another_vocabulary_is_refused():
    class Model:
        n_tokens = 7

        def advance(self, state, tokens, ancestors):
            raise AssertionError

    with pytest.raises(ValueError, match="model has 7 tokens, but the constraint's vocabulary has 4"):
        constrained_smc(KEY, Model(), EndsInTwo(), max_length=3)
    with pytest.raises(TypeError, match="model must be a LanguageModel or a function, got a int"):
        constrained_smc(KEY, 3, EndsInTwo(), max_length=3)


def test_vocabularies_refuse_empty_tokens_and_foreign_ends():
    with pytest.raises(ValueError, match="token 1 spells nothing"):
        Vocabulary((b"a", b""), 0)
    with pytest.raises(ValueError, match="end is 2, but the vocabulary has the tokens 0 to 1"):
        Vocabulary((b"a", None), 2)


def test_the_oracle_lists_what_it_should():
    assert set(POSTERIOR) == {
        tokens
        for length in (1, 2, 3)
        for tokens in itertools.product(range(3), repeat=length)
        if tokens[-1] == 2 and tokens.count(1) <= 1
    }
