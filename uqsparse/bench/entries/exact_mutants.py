"""Does the exact checker tell right algorithms from wrong ones? Bugs found, false alarms, and seconds."""

import functools
import time
from dataclasses import dataclass

from uqsparse import bench
from uqsparse.bench.entries.exact_checks import CHECKS, SLOW, F
from uqsparse.bench.entries.exact_faults import BUGS, VALID_CHANGES
from uqsparse.bench.entries.finite_algorithms import (
    POPULATION,
    Tempered,
    adaptive_smc,
)
from uqsparse.bench.mutants import Outcome, mutation_score, mutation_table, share_killed
from uqsparse.inference.checks import Verdict
from uqsparse.inference.checks.exact import Measure, check_valid
from uqsparse.inference.transformations import (
    multinomial,
)

SYSTEM = "validated inference"


@dataclass(frozen=True)
class Report:
    """What the exact checker said: on bugs, on valid algorithms as they stand, on valid changes; and CPU seconds."""

    bugs: list[Outcome]
    valid: list[Verdict]
    changes: list[Outcome]
    seconds: float

    @property
    def false_alarms(self) -> list[str]:
        """What is right and was called wrong."""
        return [str(one.subject) for one in self.valid if not one.ok] + [
            one.mutant.name for one in self.changes if one.killed
        ]


def _until_wrong(check: str) -> list[Verdict]:
    verdicts = []
    for verdict in CHECKS[check]():
        verdicts.append(verdict)
        if not verdict.ok:
            break
    return verdicts


@functools.cache
def run_exact_suite(quick: bool) -> Report:
    """Run the checks on the code as it stands, on every bug and on every valid change; quick leaves slow ones out."""
    started = time.process_time()
    names = [name for name in CHECKS if not (quick and name in SLOW)]
    valid = [verdict for name in names for verdict in CHECKS[name]()]
    bugs, changes = (
        [one for name in names for one in mutation_score(table.get(name, ()), lambda _, name=name: _until_wrong(name))]
        for table in (BUGS, VALID_CHANGES)
    )
    return Report(bugs, valid, changes, time.process_time() - started)


def exact_tables(quick: bool = False) -> str:
    """What happened to the bugs and to the valid changes, as two Markdown tables; run it to see where a bug shows.

    >>> print(exact_tables())  # doctest: +SKIP
    """
    report = run_exact_suite(quick)
    bugs, changes = mutation_table(report.bugs), mutation_table(report.changes)
    return f"Bugs\n\n{bugs}\n\nValid changes, which should survive\n\n{changes}"


@bench.claim("exact checker: one-line bugs found", system=SYSTEM)
def bugs_found(context: bench.Context) -> bench.Measured:
    report = run_exact_suite(context.quick)
    survivors = [str(one.mutant) for one in report.bugs if not one.killed]
    smallest = min(report.bugs, key=lambda one: one.evidence)
    detail = (
        f"{len(report.bugs)} bugs, smallest total variation {smallest.evidence:.2g} ({smallest.mutant.name}); "
        f"survivors: {', '.join(survivors) or 'none'}"
    )
    return bench.Measured(share_killed(report.bugs), "==", 1, "100 %", detail)


@bench.claim("exact checker: false alarms on right algorithms", system=SYSTEM)
def no_false_alarms(context: bench.Context) -> bench.Measured:
    report = run_exact_suite(context.quick)
    detail = (
        f"{len(report.valid)} verdicts on algorithms as they stand, {len(report.changes)} on valid changes of a line"
    )
    named = ", ".join(report.false_alarms)
    return bench.Measured(len(report.false_alarms), "==", 0, "none", f"{detail}: {named}" if named else detail)


@bench.claim("exact checker: CPU seconds for all bugs and right algorithms", system=SYSTEM, quick=False)
def seconds_of_the_suite(context: bench.Context) -> bench.Measured:
    report = run_exact_suite(False)
    detail = f"{len(report.bugs)} bugs, {len(report.valid)} + {len(report.changes)} right, in Fractions, on one core"
    return bench.Measured(report.seconds, "<=", 90, "90 s", detail)


@bench.claim("exact checker: sees the bias of evidence with adaptive temperatures, E Zhat / Z", system=SYSTEM)
def bias_of_adaptation(context: bench.Context) -> bench.Measured:
    problem = Tempered((F(1, 4),) * 4, (F(1), F(2), F(4), F(8)))
    walk = ({0: F(1, 2), 1: F(1, 2)}, {0: F(1, 2), 2: F(1, 2)}, {1: F(1, 2), 3: F(1, 2)}, {2: F(1, 2), 3: F(1, 2)})
    obtained = POPULATION.meaning(adaptive_smc(problem, 2, 2, multinomial, walk.__getitem__, F(6, 5)))
    expected: Measure = {x: F(1, 4) * F(4) ** x for x in range(4)}
    ratio = sum(obtained.values()) / sum(expected.values())
    verdict = check_valid(obtained, expected, subject="tempered SMC, adaptive ladder with moves")
    detail = f"exactly {ratio}; 4 points, N = 2, ESS kept at 0.6 N; total variation {verdict.evidence:.3f}"
    return bench.Measured(1.0 if verdict.ok else float(ratio), "<=", 0.98, "sum over the points", detail)
