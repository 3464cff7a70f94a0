"""Is the population of constrained SMC properly weighted, exactly; and would a wrong one be noticed?"""

import functools

from uqsparse import bench
from uqsparse.bench.entries.constrained_exact import CASES, masked_bias, population_verdict
from uqsparse.bench.mutants import Mutant, Outcome, mutation_score, share_killed
from uqsparse.inference.checks import Verdict

SYSTEM = "constrained language models"

RESAMPLING = (("multinomial", 0.0), ("multinomial", 0.9), ("systematic", 0.9))

_POPULATION = "uqsparse.inference.constrained.populations:"
_CONSTRAINT = "uqsparse.inference.constraints.constraint:Constraint."
_ESTIMATORS = "uqsparse.inference.constrained.weight_estimators:"

FAULTS: dict[str, tuple[Mutant, ...]] = {
    "two-loop, T = 2": (
        Mutant(
            "forced end without its probability",
            _POPULATION + "force_end",
            "float(log_p[end])",
            "0.0",
            "seen in genlm-control, mended there in 2026",
        ),
        Mutant("weights of the parents kept", _POPULATION + "resample", "._replace(log_weight=log_mean)", ""),
        Mutant("evidence lost at resampling", _POPULATION + "resample", "log_weight=log_mean", "log_weight=0.0"),
        Mutant("sum of weights for their mean", _POPULATION + "log_mean_weight", ".mean()", ".sum()"),
        Mutant("end accepted anywhere", _CONSTRAINT + "accepts", "return self.is_complete(state)", "return True"),
        Mutant(
            "one step less than there is",
            _CONSTRAINT + "accepts",
            "steps_left < 1",
            "steps_left < 2",
        ),
        Mutant(
            "two-loop: first rejects not counted",
            _ESTIMATORS + "two_loop",
            "first.n_rejected + second.n_rejected + second.accepted",
            "second.n_rejected + 1",
        ),
    ),
    "recursive, T = 3": (
        Mutant(
            "earlier weights forgotten",
            _POPULATION + "extend",
            "particle.log_weight + estimate.log_weight",
            "estimate.log_weight",
        ),
    ),
    "recursive, T = 2": (
        Mutant(
            "recursive: always q",
            _ESTIMATORS + "recursive",
            "left if certain else pool.mass(token)",
            "pool.mass(token)",
        ),
    ),
    "recursive, 2 rejects, T = 3": (
        Mutant(
            "truncated: q at the last test",
            _ESTIMATORS + "recursive",
            "return Estimate(token, left, Fraction(1))",
            "return Estimate(token, pool.mass(token), Fraction(1))",
        ),
    ),
    "geometric, 3 rejects, T = 2": (
        Mutant(
            "geometric: k / n",
            _ESTIMATORS + "geometric",
            "Fraction(others, n_accepted + n_rejected - 1)",
            "Fraction(n_accepted, n_accepted + n_rejected)",
        ),
    ),
    "model alone, T = 3": (Mutant("no test at the end", _POPULATION + "extend", "not tests(estimate.token)", "False"),),
}


def verdicts(case: str) -> list[Verdict]:
    """The verdicts on a case under each kind of resampling, up to the first that is wrong."""
    found = []
    for scheme, threshold in RESAMPLING:
        found.append(population_verdict(case, scheme, threshold))
        if not found[-1].ok:
            break
    return found


@functools.cache
def fault_outcomes() -> list[Outcome]:
    """What the exact check says to each fault."""
    return [
        outcome for case, faults in FAULTS.items() for outcome in mutation_score(faults, lambda _, c=case: verdicts(c))
    ]


@bench.claim("population of constrained SMC: discrepancy from p(x) 1[x in L]", system=SYSTEM, quick=False)
def population(context: bench.Context) -> bench.Measured:
    worst = max((verdict for case in CASES for verdict in verdicts(case)), key=lambda verdict: verdict.evidence)
    return bench.Measured(
        value=worst.evidence,
        relation="<=",
        bound=1e-9,
        comparator="sums over all strings, in fractions",
        detail=f"{len(CASES)} samplers and lengths x {len(RESAMPLING)} kinds of resampling, 2 particles, all "
        f"randomness enumerated; largest for {worst.subject}",
    )


@bench.claim("population of constrained SMC: one-line bugs found", system=SYSTEM, quick=False)
def population_faults(context: bench.Context) -> bench.Measured:
    outcomes = fault_outcomes()
    survivors = [str(outcome.mutant) for outcome in outcomes if not outcome.killed]
    return bench.Measured(
        value=share_killed(outcomes),
        relation=">=",
        bound=1.0,
        comparator="every one",
        detail=f"{len(outcomes)} bugs planted in the steps and samplers; survivors: {', '.join(survivors) or 'none'}",
    )


@bench.claim("masked decoding: distance from the posterior", system=SYSTEM)
def masked(context: bench.Context) -> bench.Measured:
    return bench.Measured(
        value=masked_bias(3),
        relation=">=",
        bound=0.05,
        comparator="the exact posterior",
        detail="total variation, computed exactly on the three-token problem; two tokens at most: "
        f"{masked_bias(2):.3f}",
    )
