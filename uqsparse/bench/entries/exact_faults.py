"""One-line bugs of right algorithms that the exact checker has to find, and valid changes that it has to let pass.

A bug counts only if the algorithm is wrong with it. Left out, since they keep the mean measure and so are right:

- old weights kept with independent ancestors: slot i has weight w_i and an ancestor drawn by W, so the mean is
  (sum_i w_i) sum_j W_j delta_j, as it should be (with systematic resampling the slots are not alike, and it is a bug);
- ancestors sorted or permuted: every new weight is the same;
- resampling triggered by another function of the population: the decision is made before anything is drawn;
- weights divided by their maximum, or any number, that is also what is scored;
- the whole suffix of a trace redrawn; another acceptance rule in balance, as Barker's;
- for two particles, conditional systematic resampling without the conditional law of its offset: the position of slot 1
  is uniform then, its ancestor drawn by W, as in conditional multinomial resampling. With three it is a bug.

They stand below as valid changes, on which a verdict against the code is a false alarm.
"""

from uqsparse.bench.mutants import Mutant

# Bugs, by the check that has to see them.

_STEPS = "uqsparse.inference.transformations:"
_HELD = "uqsparse.inference.representations:"
_FINITE = "uqsparse.bench.entries.finite_algorithms:"
_OLD_WEIGHTS = "(particles[j][0], particles[i][1]) for i, j in enumerate(chosen)"
_STAGES = "stages = list(zip((0, *ladder[:-1]), ladder, strict=True))"

BUGS: dict[str, tuple[Mutant, ...]] = {
    "filter, multinomial": (
        Mutant("multinomial: shares ignored", _STEPS + "multinomial", "share for", "Fraction(1, len(shares)) for"),
        Mutant("spawn without 1/N", _STEPS + "spawn", "Fraction(1, n)", "Fraction(1)"),
        Mutant("weights of what follows not multiplied in", _HELD + "Population.bind", "w * v", "v"),
    ),
    "filter, stratified": (
        Mutant(
            "stratified: every ancestor from the first stratum",
            _STEPS + "stratified",
            "n * overlap(i, j)",
            "n * overlap(0, j)",
        ),
    ),
    "filter, residual": (
        Mutant("residual: rest drawn by the shares", _STEPS + "residual", "(n * share - copies[j]) / n_left", "share"),
    ),
    "filter, systematic": (
        Mutant("systematic: fixed u = 1/2", _STEPS + "systematic", "*(end % 1 for end in ends)", ""),
        Mutant(
            "systematic: u in [0, 1/2)",
            _STEPS + "systematic",
            "(high - low)",
            "2 * max(min(high, Fraction(1, 2)) - low, Fraction(0))",
        ),
        Mutant("ancestor's weight kept", _STEPS + "resample", "z / n) for", "particles[j][1]) for"),
        Mutant(
            "old weights kept with systematic",
            _STEPS + "resample",
            "(particles[j][0], z / n) for j in chosen",
            _OLD_WEIGHTS,
        ),
        Mutant("weights reset to 1/N, evidence lost", _STEPS + "resample", "z / n) for", "Fraction(1, n)) for"),
        Mutant("weights reset to their sum", _STEPS + "resample", "z / n) for", "z) for"),
        Mutant("ancestor off by one", _STEPS + "resample", "particles[j][0]", "particles[j - 1][0]"),
    ),
    "filter, systematic, when the ESS is low": (
        Mutant(
            "weights made equal without resampling",
            _STEPS + "resample",
            "inner.unit(particles)",
            "inner.unit(tuple((x, z / n) for x, _ in particles))",
        ),
    ),
    "filter, evidence pushed out": (
        Mutant(
            "evidence pushed out as the largest weight",
            _STEPS + "extract_evidence",
            "particles), z",
            "particles), max(w for _, w in particles)",
        ),
        Mutant("evidence not scored", _STEPS + "push_evidence", "rep.inner.score(z)", "rep.inner.score(1)"),
    ),
    "filter, normalised weights": (
        Mutant("evidence by max", _FINITE + "weighted_filter", "score(evidence)", "score(max(increments))"),
        Mutant("evidence by sum", _FINITE + "weighted_filter", "score(evidence)", "score(sum(increments))"),
        Mutant(
            "evidence not multiplied by incoming weights",
            _FINITE + "weighted_filter",
            "score(evidence)",
            "score(sum(increments) / n)",
            "MacroEconometricModels.jl, issue 131",
        ),
    ),
    "filter with a proposal": (Mutant("proposal density forgotten", _FINITE + "guided_program", "correction * ", ""),),
    "one particle drawn, weighted": (Mutant("particle drawn evenly", _STEPS + "proper", "w / z if z else ", ""),),
    "one particle drawn, scored": (
        Mutant("total weight not scored", _STEPS + "collapse", "rep.inner.score(z)", "rep.inner.score(1)"),
    ),
    "resample-move SMC": (
        Mutant(
            "move: q-ratio forgotten",
            _FINITE + "metropolis",
            "density(there) * proposal(there)[here] / (density(here) * options[there])",
            "density(there) / density(here)",
        ),
        Mutant(
            "move: target one observation behind",
            _FINITE + "_moved_path",
            "chain.joint((*path[:-1], x), data)",
            "chain.after(path[:-1])[x]",
        ),
        Mutant("move: always accept", _FINITE + "metropolis", "min(F(1), ratios[there])", "F(1)"),
        Mutant(
            "move: retry until accepted",
            _FINITE + "metropolis",
            "return there if chance.choose([1 - accepted, accepted]) else here",
            "return draw(chance, {x: q * min(F(1), ratios[x]) for x, q in options.items()})",
        ),
    ),
    "tempered SMC": (
        Mutant(
            "ladder: first increment twice",
            _FINITE + "tempered_smc",
            _STAGES,
            f"{_STAGES}; stages = stages[:1] + stages",
        ),
        Mutant("ladder: last increment skipped", _FINITE + "tempered_smc", _STAGES, f"{_STAGES}[:-1]"),
        Mutant("kernel at the old temperature", _FINITE + "tempered_smc", "power=after", "power=before"),
        Mutant("prior dropped from the kernel", _FINITE + "Tempered.density", "self.prior[x] * ", ""),
    ),
    "waste-free SMC": (
        Mutant("waste-free with lagged kernel", _FINITE + "waste_free_smc", "power=after", "power=before"),
    ),
    "PMMH": (
        Mutant("PMMH: q-ratio dropped", _FINITE + "pmmh_step", "proposal[new][theta] / proposal[theta][new]", "1"),
        Mutant("PMMH: prior ratio dropped", _FINITE + "pmmh_step", "prior[new] / prior[theta]", "1"),
        Mutant(
            "PMMH: estimate of the current state recomputed",
            _FINITE + "pmmh_step",
            "new_estimate / estimate",
            "new_estimate / draw(chance, parameters.filters[theta])[0]",
        ),
    ),
    "PMMH by traces": (
        Mutant("stage of the inner filter not scored", _STEPS + "filtered", "yield Score(evidence)", "yield Score(1)"),
    ),
    "particle Gibbs": (
        Mutant(
            "particle Gibbs: reference not fixed",
            _FINITE + "conditional_smc",
            "reference[: t + 1]",
            "(*reference[:t], chance.choose(chain.after(reference[:t])))",
        ),
        Mutant(
            "particle Gibbs: ancestor of the reference free",
            _FINITE + "conditional_smc",
            "reference[: t + 1]",
            "(*(paths[chance.choose(shares)] if t else ()), reference[t])",
        ),
        Mutant(
            "particle Gibbs: uniform final choice",
            _FINITE + "conditional_smc",
            "paths[chance.choose(shares)]",
            "paths[chance.choose([F(1, n)] * n)]",
        ),
        Mutant(
            "particle Gibbs: reference excluded",
            _FINITE + "conditional_smc",
            "paths[chance.choose(shares)]",
            "draw(chance, dict(zip(paths[1:], shares[1:])))",
        ),
    ),
    "particle Gibbs, systematic": (
        Mutant(
            "conditional systematic without the conditional offset law",
            _FINITE + "conditional_systematic",
            "shares[0] * chance.uniform(point / shares[0] for point in breaks)",
            "chance.uniform(breaks)",
        ),
    ),
    "moves of traces": (
        Mutant(
            "trace MH: n/n' dropped",
            _STEPS + "_acceptance",
            "new.weight * len(old.free_sites()) / (old.weight * len(new.free_sites()))",
            "new.weight / old.weight",
        ),
        Mutant(
            "trace MH: n/n' inverted",
            _STEPS + "_acceptance",
            "new.weight * len(old.free_sites()) / (old.weight * len(new.free_sites()))",
            "new.weight * len(new.free_sites()) / (old.weight * len(old.free_sites()))",
        ),
    ),
    "resample-move SMC by traces": (
        Mutant(
            "trace MH: choices kept where their law has changed",
            _STEPS + "_propose",
            " or old[position][0] != request",
            "",
        ),
        Mutant(
            "trace MH: always accept", _STEPS + "_acceptance", "min(Fraction(1), ", "max(Fraction(1), Fraction(0) * "
        ),
    ),
}

# Changes that leave the algorithm right, by the checks that must let them pass.

VALID_CHANGES: dict[str, tuple[Mutant, ...]] = {
    "filter, systematic": (
        Mutant("sorted ancestors", _STEPS + "resample", "in chosen)", "in sorted(chosen))"),
        Mutant("ancestors in reverse order", _STEPS + "resample", "in chosen)", "in chosen[::-1])"),
    ),
    "filter, multinomial": (
        Mutant(
            "old weights kept with multinomial",
            _STEPS + "resample",
            "(particles[j][0], z / n) for j in chosen",
            _OLD_WEIGHTS,
        ),
    ),
    "filter, evidence pushed out": (
        Mutant(
            "weights divided by their maximum, which is scored",
            _STEPS + "extract_evidence",
            "z = sum(w for",
            "z = max(w for",
        ),
    ),
    "filter, normalised weights": (
        Mutant(
            "ESS of the increments alone",
            _FINITE + "weighted_filter",
            "_ess(shares)",
            "_ess(increments)",
            "MacroEconometricModels.jl, issue 133: wasteful, not wrong",
        ),
    ),
    "resample-move SMC": (
        Mutant(
            "Barker's acceptance",
            _FINITE + "metropolis",
            "min(F(1), ratios[there])",
            "ratios[there] / (1 + ratios[there])",
        ),
    ),
    "particle Gibbs": (
        Mutant(
            "ancestor of the reference sampled with backward weights",
            _FINITE + "conditional_smc",
            "reference[: t + 1]",
            "((*paths[draw(chance, {j: share * chain.after(paths[j])[reference[t]] "
            "for j, share in enumerate(shares)})], reference[t]) if t else reference[:1])",
            "Lindsten, Jordan & Schön (2014), Particle Gibbs with ancestor sampling",
        ),
    ),
}
