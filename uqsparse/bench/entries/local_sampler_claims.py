"""What the properly weighted samplers of one token claim: exact weights, their cost, and what each estimator trades."""

import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from uqsparse import bench
from uqsparse.bench.entries.local_sampler_checks import (
    ESTIMATORS,
    cases,
    check_estimators,
    closed_form_of_tests,
    expected_tests_of_search,
)
from uqsparse.bench.entries.local_sampler_faults import FAULTS, VALID_CHANGES
from uqsparse.bench.mutants import Outcome, mutation_score, share_killed
from uqsparse.inference.checks import Verdict
from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.local_samplers import LocalSettings, sample_locally
from uqsparse.inference.constrained.pools import SampledPool

SYSTEM = "constrained language models"
N_TOKENS = 200
ACCEPTED_MASSES = (0.9, 0.5, 0.1, 0.02)
N_CASES, N_DRAWS = 12, 600
METHODS = {
    "recursive": LocalSettings("recursive"),
    "two-loop": LocalSettings("two-loop"),
    "geometric": LocalSettings("geometric"),
}


class NextToken(NamedTuple):
    """Next-token probabilities p, (v,), and which tokens a constraint accepts, (v,)."""

    p: np.ndarray
    accepted: np.ndarray

    @property
    def accepted_mass(self) -> float:
        return float(self.p[self.accepted].sum())


class Cost(NamedTuple):
    """Standard deviation of the weight over p(A), and mean number of evaluated tests."""

    spread: float
    n_tests: float


@bench.claim("local weights of four estimators, all outcomes: largest total variation from p on A", system=SYSTEM)
def exact_local_weights(context: bench.Context) -> bench.Measured:
    n = 15 if context.quick else 200
    verdicts = list(check_estimators(n))
    worst = max(verdict.evidence for verdict in verdicts)
    detail = (
        f"{len(verdicts)} measures of the production code, {n} cases of at most 5 tokens for each estimator: equal as "
        "fractions, but for the geometric estimator without a limit of rejects, which is a series and an integral"
    )
    return bench.Measured(worst, "<=", 1e-9, "p_u 1[u in A]", detail)


def _until_wrong(estimator: str, n_cases: int = 40) -> list[Verdict]:
    verdicts = []
    for verdict in check_estimators(n_cases, (estimator,)):
        verdicts.append(verdict)
        if not verdict.ok:
            break
    return verdicts


def fault_outcomes(estimator: str) -> list[Outcome]:
    """What the exact check of an estimator says to its planted faults."""
    return mutation_score(FAULTS[estimator], lambda _: _until_wrong(estimator))


def false_alarms(estimator: str) -> list[str]:
    """The valid changes that the check calls wrong."""
    outcomes = mutation_score(VALID_CHANGES.get(estimator, ()), lambda _: _until_wrong(estimator, 20))
    return [outcome.mutant.name for outcome in outcomes if outcome.killed]


@bench.claim("mutation score of the local weights", system=SYSTEM, quick=False)
def local_mutation_score(context: bench.Context) -> bench.Measured:
    outcomes = [outcome for estimator in ESTIMATORS for outcome in fault_outcomes(estimator)]
    survivors = [str(outcome.mutant) for outcome in outcomes if not outcome.killed]
    alarms = [name for estimator in ESTIMATORS for name in false_alarms(estimator)]
    n_valid = sum(map(len, VALID_CHANGES.values()))
    detail = (
        f"{len(outcomes)} one-line faults; survivors: {survivors or 'none'}; false alarms on {n_valid} valid changes: "
        f"{alarms or 'none'}"
    )
    return bench.Measured(share_killed(outcomes) - len(alarms), "==", 1, "all faults, no false alarm", detail)


@bench.claim("tests of adaptive rejection sampling over min(|rejected| + 1, 1 / p(A)), largest", system=SYSTEM)
def search_bound(context: bench.Context) -> bench.Measured:
    worst, n_equal, made = 0.0, 0, cases(50 if context.quick else 200)
    for case in made:
        mean = expected_tests_of_search(case)
        n_equal += mean == closed_form_of_tests(case.masses, case.accepted)
        share = case.accepted_mass / sum(case.masses)
        bound = min(len(case.rejected) + 1, 1 / share) if share else len(case.rejected) + 1
        worst = max(worst, float(mean / bound))
    detail = f"{len(made)} cases in fractions; {n_equal} equal 1 + sum over rejected tokens of p_v / (p_v + p(A))"
    return bench.Measured(worst, "<=", 1, "the bound", detail)


def zipf(rng: np.random.Generator, exponent: float, n_tokens: int = N_TOKENS) -> np.ndarray:
    """Zipf probabilities in random order."""
    p = np.arange(1, n_tokens + 1) ** -exponent
    return rng.permutation(p / p.sum())


def with_accepted_mass(rng: np.random.Generator, mass: float, least: int = 5) -> NextToken:
    """A Zipf distribution, and at least so many accepted tokens, at random, that hold about a given mass."""
    for _ in range(1000):
        p = zipf(rng, rng.uniform(0.8, 1.2))
        accepted, held = np.zeros(len(p), bool), 0.0
        for token in rng.permutation(len(p)):
            if held + p[token] <= 1.02 * mass:
                accepted[token] = True
                held += p[token]
        if held >= 0.95 * mass and accepted.sum() >= least:
            return NextToken(p, accepted)
    raise AssertionError(f"no accepted set of mass {mass} was found")


def with_one_accepted(rng: np.random.Generator) -> NextToken:
    """A Zipf distribution and one accepted token, of probability about 0.1."""
    p = zipf(rng, rng.uniform(0.8, 1.2))
    return NextToken(p, np.arange(len(p)) == np.argmin(abs(p - 0.1)))


def cost(problem: NextToken, settings: LocalSettings, n_draws: int, seed: int) -> Cost:
    """Run production's sampler; draw i has the same generator for all settings."""
    log_p, accepted = np.log(problem.p), problem.accepted
    weights, n_tests = np.empty(n_draws), 0
    for i in range(n_draws):
        tests = ConstraintTests(lambda token: accepted[token])
        pool = SampledPool(log_p, np.random.default_rng((seed, i)))
        weights[i] = math.exp(sample_locally(pool, tests, settings).log_weight)
        n_tests += tests.evaluated
    return Cost(float(weights.std(ddof=1)) / problem.accepted_mass, n_tests / n_draws)


@functools.cache
def trade_off() -> dict[str, list[dict[str, Cost]]]:
    """Spread and cost of the estimators in cases of four accepted masses, and of one accepted token."""
    rng = np.random.default_rng(5)
    problems = {f"{mass:g}": [with_accepted_mass(rng, mass) for _ in range(N_CASES)] for mass in ACCEPTED_MASSES}
    problems["one token"] = [with_one_accepted(rng) for _ in range(N_CASES)]
    return {
        name: [{m: cost(problem, s, N_DRAWS, i) for m, s in METHODS.items()} for i, problem in enumerate(group)]
        for name, group in problems.items()
    }


def trade_off_table() -> str:
    """Means over the cases: sd of the weight over p(A) / tests, by accepted mass and estimator."""
    rows = []
    for name, group in trade_off().items():
        means = {m: np.mean([case[m] for case in group], axis=0) for m in METHODS}
        label = name if name == "one token" else f"p(A) = {name}"
        rows.append(f"{label}: " + ", ".join(f"{m} {spread:.2f}/{n:.3g}" for m, (spread, n) in means.items()))
    return "; ".join(rows)


def _many_accepted() -> list[dict[str, Cost]]:
    return [case for name, group in trade_off().items() if name != "one token" for case in group]


@bench.claim("share of cases in which recursive tests less than two-loop", system=SYSTEM, quick=False)
def recursive_tests_less(context: bench.Context) -> bench.Measured:
    found = [case["recursive"].n_tests < case["two-loop"].n_tests for case in _many_accepted()]
    detail = f"{len(found)} cases of {N_TOKENS} tokens, {N_DRAWS} draws; sd over p(A) / tests: {trade_off_table()}"
    return bench.Measured(float(np.mean(found)), ">=", 0.9, "two-loop", detail)


@bench.claim("share of cases in which two-loop varies less than recursive, |A| >= 5", system=SYSTEM, quick=False)
def two_loop_varies_less(context: bench.Context) -> bench.Measured:
    found = [case["two-loop"].spread < case["recursive"].spread for case in _many_accepted()]
    flipped = [case["recursive"].spread for case in trade_off()["one token"]]
    detail = f"{len(found)} cases, {N_DRAWS} draws; with |A| = 1 the sd of recursive is {max(flipped):.1g} at most"
    return bench.Measured(float(np.mean(found)), ">=", 0.9, "recursive", detail)


LIMIT = 16


@functools.cache
def limited() -> dict[str, list[dict[str, Cost]]]:
    """The same under a limit of rejects, over cases made as those of `trade_off`."""
    rng = np.random.default_rng(6)
    settings = {name: LocalSettings(name, LIMIT) for name in ("recursive", "two-loop")}
    return {
        f"{mass:g}": [
            {m: cost(problem, s, N_DRAWS, i) for m, s in settings.items()}
            for i, problem in enumerate(with_accepted_mass(rng, mass) for _ in range(N_CASES // 2))
        ]
        for mass in ACCEPTED_MASSES
    }


@bench.claim("variance x tests with a limit of rejects, two-loop over recursive", system=SYSTEM, quick=False)
def two_loop_under_a_limit(context: bench.Context) -> bench.Measured:
    def work(case: dict[str, Cost], method: str) -> float:
        return case[method].spread ** 2 * case[method].n_tests

    ratios = {
        name: [work(case, "two-loop") / work(case, "recursive") for case in group] for name, group in limited().items()
    }
    rows = ", ".join(f"p(A) = {name}: {np.median(found):.2f}" for name, found in ratios.items())
    value = float(np.median(np.concatenate(list(ratios.values()))))
    return bench.Measured(
        value, "<=", 1.0, "recursive", f"at most {LIMIT} rejects; medians of {N_CASES // 2} cases: {rows}"
    )


def random_prefix(rng: np.random.Generator) -> NextToken:
    """A Zipf distribution and a random set of accepted tokens, at least one."""
    p = zipf(rng, rng.uniform(0.5, 1.5))
    accepted = rng.random(len(p)) < rng.uniform(0.02, 0.98)
    accepted[rng.integers(len(p))] = True
    return NextToken(p, accepted)


@bench.claim(
    "rank correlation of tests with KL(p(. | A) || p) = -log p(A) over random prefixes", system=SYSTEM, quick=False
)
def cost_follows_divergence(context: bench.Context) -> bench.Measured:
    rng = np.random.default_rng(6)
    problems = [random_prefix(rng) for _ in range(200)]
    n_tests = [cost(problem, METHODS["recursive"], 100, i).n_tests for i, problem in enumerate(problems)]
    divergence = [-math.log(problem.accepted_mass) for problem in problems]
    closed = [closed_form_of_tests(list(q.p), frozenset(np.flatnonzero(q.accepted).tolist())) for q in problems]
    rank, exact = (float(scipy.stats.spearmanr(divergence, x)[0]) for x in (n_tests, closed))  # pyright: ignore
    detail = f"200 prefixes, recursive, means of 100 draws; {exact:.3f} with the closed form of the search's tests"
    return bench.Measured(rank, ">=", 0.8, "Spearman", detail)


@bench.claim("model sharpened toward the constraint: rises of the number of tests", system=SYSTEM, quick=False)
def sharper_is_cheaper(context: bench.Context) -> bench.Measured:
    rng = np.random.default_rng(7)
    problems: list[NextToken] = []
    while len(problems) < 20:
        problem = random_prefix(rng)
        if 0.05 < problem.accepted_mass < 0.5:
            problems.append(problem)
    shares = (0.0, 0.25, 0.5, 0.75)
    found = np.array(
        [
            [cost(_sharpened(problem, share), METHODS["recursive"], 300, i).n_tests for share in shares]
            for i, problem in enumerate(problems)
        ]
    )
    rises = int(np.sum(np.diff(found, axis=1) >= 0))
    steps = ", ".join(f"{share:g}: {n:.2f}" for share, n in zip(shares, found.mean(axis=0), strict=True))
    return bench.Measured(
        rises, "==", 0, "fewer at each step", f"20 prefixes, mean tests by share of p(. | A): {steps}"
    )


def _sharpened(problem: NextToken, share: float) -> NextToken:
    constrained = np.where(problem.accepted, problem.p, 0) / problem.accepted_mass
    return problem._replace(p=(1 - share) * problem.p + share * constrained)
