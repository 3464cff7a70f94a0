"""Right algorithms on finite problems, each with a check of it: exact, in fractions, against sums over all paths."""

import functools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from uqsparse.bench.entries.finite_algorithms import (
    POPULATION,
    Chain,
    Parameters,
    Tempered,
    chain_program,
    conditional_multinomial,
    conditional_smc,
    conditional_systematic,
    filter_output,
    guided_program,
    pmmh_step,
    pmmh_target,
    resample_move_filter,
    runs_program,
    smoothing_measure,
    tempered_smc,
    waste_free_smc,
    weighted_filter,
)
from uqsparse.inference.checks import Verdict
from uqsparse.inference.checks.exact import Measure, check_invariance, check_valid
from uqsparse.inference.representations import Enumeration, Program, Sample, Steps, Traced, Weighted
from uqsparse.inference.transformations import (
    Resampling,
    collapse,
    marginal,
    mh_step,
    multinomial,
    pmmh,
    proper,
    push_evidence,
    resample_move_smc,
    residual,
    smc,
    smc2,
    stratified,
    systematic,
)

F = Fraction
EXACT = Enumeration()

# Problems without symmetries that could hide a bug, and with small denominators.

CHAINS = (
    Chain((F(1, 4), F(3, 4)), ((F(1, 2), F(1, 2)), (F(1, 8), F(7, 8))), ((F(3, 4), F(1, 4)), (F(1, 4), F(3, 4)))),
    Chain((F(1, 2), F(1, 2)), ((F(1, 2), F(1, 2)), (F(3, 4), F(1, 4))), ((F(1, 4), F(3, 4)), (F(3, 4), F(1, 4)))),
)
DATA = (0, 1, 1)
GUIDES = ((F(2, 3), F(1, 3)), (F(1, 5), F(4, 5)))
PRIOR = (F(1, 3), F(2, 3))
JUMPS = ({0: F(1, 2), 1: F(1, 2)}, {0: F(2, 3), 1: F(1, 3)})  # not symmetric: the ratio of proposals matters
FOUR_POINTS = Tempered((F(1, 2), F(1, 4), F(1, 8), F(1, 8)), (F(1, 2), F(1), F(1, 3), F(2)))
WALK = (
    {0: F(1, 2), 1: F(1, 2)},
    {0: F(1, 3), 1: F(1, 3), 2: F(1, 3)},
    {1: F(1, 2), 3: F(1, 2)},
    {2: F(2, 3), 3: F(1, 3)},
)
LADDER = (1, 2, 3)
HEADS, SCORES = F(1, 3), (F(1, 2), F(1, 3), F(2))
RUNS: Measure = {1: F(1, 3) * F(1, 2), 2: F(2, 9) * F(1, 3), 3: F(4, 9) * F(2)}


def _paths(length: int) -> Measure:
    return smoothing_measure(CHAINS[0], DATA[:length])


def _with_parameters(length: int) -> Measure:
    return {
        (theta, path): PRIOR[theta] * mass
        for theta, chain in enumerate(CHAINS)
        for path, mass in smoothing_measure(chain, DATA[:length]).items()
    }


def _tempered(power: int) -> Measure:
    return {x: FOUR_POINTS.prior[x] * FOUR_POINTS.root[x] ** power for x in range(4)}


def _prior_program() -> Steps:
    return (yield Sample(PRIOR))


def _model_program(length: int) -> Callable[[int], Steps]:
    return lambda theta: chain_program(CHAINS[theta], DATA[:length])


# Checks. Each runs the code as it then is, and compares with sums written out above.


def _filter(scheme: Resampling, ess_threshold: Any = None) -> Iterator[Verdict]:
    for length, n in ((3, 2), (2, 3)):
        program = Program(chain_program, (CHAINS[0], DATA[:length]))
        options = {"n_particles": n, "steps": length - 1, "scheme": scheme, "ess_threshold": ess_threshold}
        obtained = POPULATION.meaning(smc(EXACT, program, **options))
        when = "" if ess_threshold is None else ", when the ESS is low"
        yield check_valid(obtained, _paths(length), subject=f"filter, {scheme.__name__}{when}, T={length} N={n}")


def _pushed_evidence() -> Measure:
    program = Program(chain_program, (CHAINS[0], DATA[:2]))
    return push_evidence(POPULATION, smc(EXACT, program, n_particles=2, steps=1))


def _filter_with_pushed_evidence() -> Iterator[Verdict]:
    yield check_valid(POPULATION.meaning(_pushed_evidence()), _paths(2), subject="filter, evidence pushed out")


def _mass_of_pushed_evidence() -> Iterator[Verdict]:
    masses = ({"evidence": sum(measure.values())} for measure in (_pushed_evidence(), _paths(2)))
    yield check_valid(*masses, subject="evidence that a filter has pushed out")


def _weighted_filter() -> Iterator[Verdict]:
    obtained = POPULATION.meaning(weighted_filter(CHAINS[0], DATA, 2, F(8, 5), systematic))
    yield check_valid(obtained, _paths(3), subject="filter, normalised weights, when the ESS is low")


def _guided() -> Iterator[Verdict]:
    program = Program(guided_program, (CHAINS[0], DATA, GUIDES))
    obtained = POPULATION.meaning(smc(EXACT, program, n_particles=2, steps=2))
    yield check_valid(obtained, _paths(3), subject="filter with a proposal")


def _one_particle(step: Callable, meaning: Callable) -> Iterator[Verdict]:
    m = step(POPULATION, smc(EXACT, Program(chain_program, (CHAINS[0], DATA[:2])), n_particles=2, steps=1))
    yield check_valid(meaning(m), _paths(2), subject=f"{step.__name__} after a filter")


def _resample_move() -> Iterator[Verdict]:
    obtained = POPULATION.meaning(resample_move_filter(CHAINS[0], DATA, 2, JUMPS.__getitem__))
    yield check_valid(obtained, _paths(3), subject="resample-move SMC, Metropolis-Hastings on paths")


def _resample_move_traces(whole_suffix: bool) -> Iterator[Verdict]:
    program = Program(chain_program, (CHAINS[0], DATA))
    m = resample_move_smc(EXACT, program, n_particles=2, steps=2, whole_suffix=whole_suffix)
    yield check_valid(POPULATION.meaning(m), _paths(3), subject="resample-move SMC, moves of traces")


def _trace_moves(whole_suffix: bool) -> Iterator[Verdict]:
    rep = Traced(Weighted(EXACT))
    m = mh_step(rep, rep.interpret(Program(runs_program, (HEADS, SCORES))), whole_suffix=whole_suffix)
    yield check_valid(rep.inner.meaning(marginal(rep, m)), RUNS, subject="moves of traces of varying length")


def _tempering() -> Iterator[Verdict]:
    obtained = POPULATION.meaning(tempered_smc(FOUR_POINTS, LADDER, 2, systematic, WALK.__getitem__))
    yield check_valid(obtained, _tempered(3), subject="tempered SMC, fixed ladder")


def _waste_free() -> Iterator[Verdict]:
    obtained = POPULATION.meaning(waste_free_smc(FOUR_POINTS, LADDER[:2], 2, 2, multinomial, WALK.__getitem__))
    yield check_valid(obtained, _tempered(2), subject="waste-free SMC, 2 chains of 2")


def _extended_pmmh() -> Iterator[Verdict]:
    filters = tuple(filter_output(chain, DATA[:2], 2) for chain in CHAINS)
    parameters = Parameters(PRIOR, JUMPS, filters)
    target = pmmh_target(parameters)
    kernel = functools.partial(pmmh_step, parameters=parameters)
    yield check_invariance(target, kernel, subject="PMMH, extended target")
    posterior: Measure = {}
    for (theta, _, path), mass in target.items():
        posterior[theta, path] = posterior.get((theta, path), F(0)) + mass
    yield check_valid(posterior, _with_parameters(2), subject="PMMH, marginal of the extended target")


def _pmmh_traces() -> Iterator[Verdict]:
    m = pmmh(EXACT, _prior_program, _model_program(2), n_particles=2, steps=1)
    yield check_valid(Weighted(EXACT).meaning(m), _with_parameters(2), subject="PMMH by moves of traces")


def _smc2() -> Iterator[Verdict]:
    m = smc2(EXACT, _prior_program, _model_program(1), n_parameters=2, n_particles=2, steps=0)
    yield check_valid(POPULATION.meaning(m), _with_parameters(1), subject="SMC2, T=1 N=2x2")


def _particle_gibbs(ancestors: Callable) -> Iterator[Verdict]:
    for length, n in ((2, 2), (3, 2), (2, 3)):
        options = {"chain": CHAINS[0], "data": DATA[:length], "n": n, "ancestors": ancestors}
        subject = f"particle Gibbs, {ancestors.__name__}, T={length} N={n}"
        yield check_invariance(_paths(length), functools.partial(conditional_smc, **options), subject=subject)


CHECKS: dict[str, Callable[[], Iterator[Verdict]]] = {
    **{f"filter, {one.__name__}": functools.partial(_filter, one) for one in (multinomial, stratified, residual)},
    "filter, systematic": functools.partial(_filter, systematic),
    **{
        f"filter, {one.__name__}, when the ESS is low": functools.partial(_filter, one, F(4, 5))
        for one in (multinomial, stratified, residual, systematic)
    },
    "filter, evidence pushed out": _filter_with_pushed_evidence,
    "evidence pushed out": _mass_of_pushed_evidence,
    "filter, normalised weights": _weighted_filter,
    "filter with a proposal": _guided,
    "one particle drawn, weighted": functools.partial(_one_particle, proper, Weighted(EXACT).meaning),
    "one particle drawn, scored": functools.partial(_one_particle, collapse, EXACT.meaning),
    "resample-move SMC": _resample_move,
    "resample-move SMC by traces": functools.partial(_resample_move_traces, False),
    "resample-move SMC by traces, suffix redrawn": functools.partial(_resample_move_traces, True),
    "moves of traces": functools.partial(_trace_moves, False),
    "moves of traces, suffix redrawn": functools.partial(_trace_moves, True),
    "tempered SMC": _tempering,
    "waste-free SMC": _waste_free,
    "PMMH": _extended_pmmh,
    "PMMH by traces": _pmmh_traces,
    "SMC2": _smc2,
    "particle Gibbs": functools.partial(_particle_gibbs, conditional_multinomial),
    "particle Gibbs, systematic": functools.partial(_particle_gibbs, conditional_systematic),
}
SLOW = {
    "resample-move SMC",
    "resample-move SMC by traces, suffix redrawn",
    "waste-free SMC",
    "PMMH",
    "PMMH by traces",
    "SMC2",
    "particle Gibbs",
    "particle Gibbs, systematic",
}
