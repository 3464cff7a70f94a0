"""The mutation score of this library's own inference code: what its checks find of planted one-line faults."""

from collections.abc import Callable, Sequence

from uqsparse import bench
from uqsparse.bench.entries import own_checks as checks
from uqsparse.bench.entries.own_faults import FAULTS
from uqsparse.bench.mutants import Mutant, Outcome, mutation_score, mutation_table, share_killed
from uqsparse.inference import HMC, IndependentProposal
from uqsparse.inference.checks import Verdict, check_resampler
from uqsparse.kernels import multinomial, residual, stratified, systematic

SYSTEM = "validated inference"


def _resampler(scheme) -> Callable[[], Verdict]:
    return lambda: check_resampler(scheme, weights=[(0.1, 0.2, 0.7), (2.0, 0.0, 1.0)], n_ancestors=[3])


CHECKS: dict[str, Callable[[], Verdict]] = {
    "multinomial": _resampler(multinomial),
    "stratified": _resampler(stratified),
    "systematic": _resampler(systematic),
    "residual": _resampler(residual),
    "many weights": checks.check_many_weights,
    "bootstrap filter": lambda: checks.check_filter_exactly("bootstrap", "systematic", 0.75),
    "guided filter": lambda: checks.check_filter_exactly("guided", "systematic", 1, (0, 1)),
    "auxiliary filter": lambda: checks.check_filter_exactly("auxiliary", "systematic", 0.75),
    "auxiliary filter at every step": lambda: checks.check_filter_exactly("auxiliary", "systematic", 1, (0, 1)),
    "trigger": checks.check_trigger,
    "conditional SMC": lambda: checks.check_conditional_exactly(ancestor_sampling=False),
    "ancestor sampling": lambda: checks.check_conditional_exactly(ancestor_sampling=True),
    "random walk": checks.check_random_walk_exactly,
    "independent proposal": lambda: checks.check_move_by_drift(IndependentProposal(degrees_of_freedom=4.0)),
    "HMC": lambda: checks.check_move_by_drift(HMC(max_leapfrog=4)),
    "tempered SMC": checks.check_tempered_exactly,
    "waste-free SMC": lambda: checks.check_tempered_exactly(waste_free=True, temperatures=(1.0,)),
    "temperature ladder": checks.check_ladder,
    "PMMH": lambda: checks.check_pmmh_exactly((1,)),
    "sums over paths": checks.check_smoothing_sums,
    "prior density": checks.check_prior_density,
}

# One of each kind, for the quick suite.
QUICK = ("offset always one half", "one position too few", "first state without its density")


def check_fault(mutant: Mutant) -> list[Verdict]:
    """Run the checks that a mutant has to get past, up to the first that fails."""
    names = next(fault.checks for fault in FAULTS if fault.mutant is mutant)
    verdicts = []
    for name in names:
        verdicts.append(CHECKS[name]())
        if not verdicts[-1].ok:
            break
    return verdicts


def run_mutants(mutants: Sequence[Mutant]) -> list[Outcome]:
    """Plant each fault in turn."""
    return mutation_score(mutants, check_fault)


def false_alarms() -> list[str]:
    """The checks that fail on the code as it is."""
    return [name for name, check in CHECKS.items() if not check().ok]


@bench.claim("resampling kernels, all outcomes: largest error of an expected count", system=SYSTEM, quick=False)
def resamplers_exactly(context: bench.Context) -> bench.Measured:
    schemes = ("multinomial", "stratified", "systematic", "residual")
    worst = max(CHECKS[name]().evidence for name in schemes)
    return bench.Measured(worst, "<=", 1e-12, "n w", "two vectors of three weights, three ancestors, four schemes")


@bench.claim("own inference code: false alarms of the checks", system=SYSTEM, quick=False)
def no_false_alarms(context: bench.Context) -> bench.Measured:
    found = false_alarms()
    return bench.Measured(len(found), "==", 0, "the code as it is", f"{len(CHECKS)} checks; alarms: {found or 'none'}")


def _score(mutants: Sequence[Mutant]) -> bench.Measured:
    outcomes = run_mutants(mutants)
    survivors = [str(one.mutant) for one in outcomes if not one.killed]
    seconds = sum(one.seconds for one in outcomes)
    detail = f"{len(outcomes)} one-line faults in {seconds:.0f} s; survivors: {survivors or 'none'}"
    return bench.Measured(share_killed(outcomes), ">=", 0.95, "one-line faults in the code that runs", detail)


@bench.claim("mutation score of the own inference code", system=SYSTEM, quick=False)
def own_mutation_score(context: bench.Context) -> bench.Measured:
    return _score([fault.mutant for fault in FAULTS])


@bench.claim("mutation score of resampling and of sums over paths", system=SYSTEM)
def quick_mutation_score(context: bench.Context) -> bench.Measured:
    return _score([fault.mutant for fault in FAULTS if fault.mutant.name in QUICK])


if __name__ == "__main__":  # the table of the documentation
    print(mutation_table(run_mutants([fault.mutant for fault in FAULTS])))
