"""The bugs that the exact checker finds, and the algorithms that they are planted in, against sums made otherwise."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from uqsparse import bench
from uqsparse.bench.entries import exact_mutants
from uqsparse.bench.entries.exact_checks import CHAINS, CHECKS, DATA, SLOW
from uqsparse.bench.entries.exact_faults import BUGS, VALID_CHANGES
from uqsparse.bench.entries.finite_algorithms import conditional_systematic, smoothing_measure
from uqsparse.bench.mutants import planted
from uqsparse.inference.checks.exact import meaning

F = Fraction


def require_all_told_apart(report):
    assert [str(one.mutant) for one in report.bugs if not one.killed] == []
    assert report.false_alarms == []
    assert not [
        str(one.mutant) for one in report.bugs if one.by.startswith("raised")
    ]  # found by a measure, all of them
    assert all(one.evidence > 1e-4 for one in report.bugs)


def test_quick_suite_tells_right_from_wrong():
    report = exact_mutants.run_exact_suite(True)
    assert len(report.bugs) >= 28
    assert len(report.valid) >= 12
    require_all_told_apart(report)


@pytest.mark.slow
def test_full_suite_tells_right_from_wrong():
    report = exact_mutants.run_exact_suite(False)
    assert len(report.bugs) >= 40
    assert len(report.valid) + len(report.changes) >= 40
    require_all_told_apart(report)


def test_every_change_can_be_planted_and_has_a_name_of_its_own():
    mutants = [one for table in (BUGS, VALID_CHANGES) for group in table.values() for one in group]
    assert len({one.name for one in mutants}) == len(mutants)
    assert set(BUGS) | set(VALID_CHANGES) | SLOW <= set(CHECKS)
    for one in mutants:
        with planted(one):
            pass


def test_claims_and_table():
    context = bench.Context(seed=0, quick=True)
    for claim in (exact_mutants.bugs_found, exact_mutants.no_false_alarms, exact_mutants.bias_of_adaptation):
        assert claim(context).holds, claim(context)
    assert "survivors: none" in exact_mutants.bugs_found(context).detail
    table = exact_mutants.exact_tables(quick=True)
    assert table.count("| killed |") == len(exact_mutants.run_exact_suite(True).bugs)


def test_paths_have_the_masses_of_the_forward_algorithm():
    for chain in CHAINS:
        first, moves, emits = (np.array(table, float) for table in (chain.first, chain.moves, chain.emits))
        ahead = first * emits[:, DATA[0]]
        for y in DATA[1:]:
            ahead = ahead @ moves * emits[:, y]
        paths = smoothing_measure(chain, DATA)
        assert len(paths) == 8
        for x in (0, 1):
            assert float(sum(mass for path, mass in paths.items() if path[-1] == x)) == pytest.approx(
                ahead[x], rel=1e-14
            )


@pytest.mark.parametrize("shares", [(F(1, 2), F(1, 4), F(1, 4)), (F(1, 12), F(2, 3), F(1, 4)), (F(5, 6), F(1, 6))])
def test_conditional_systematic_is_systematic_given_its_first_slot(shares):
    """A fine grid of offsets and all rotations of the slots, of which those that fit are kept."""
    n, ends = len(shares), np.cumsum(np.array(shares, float))
    counts: dict[tuple, int] = {}
    for offset, turn in itertools.product((np.arange(240) + 0.5) / 240, range(n)):
        ancestors = tuple(int(j) for j in np.roll(np.searchsorted(ends, (np.arange(n) + offset) / n), turn))
        if ancestors[0] == 0:
            counts[ancestors] = counts.get(ancestors, 0) + 1
    expected = {ancestors: F(count, sum(counts.values())) for ancestors, count in counts.items()}
    assert meaning(lambda chance: conditional_systematic(chance, shares)) == expected


def test_bias_of_adaptive_temperatures_by_other_means():
    """The same algorithm on all pairs of points, with matrices of doubles. The first step goes to power 2 at once if
    that keeps the effective sample size, else to 1 and then to 2."""
    root = np.array([1.0, 2.0, 4.0, 8.0])

    def moved(power):
        density = root**power
        kernel = np.zeros((4, 4))
        for i in range(4):
            for j in {max(i - 1, 0), min(i + 1, 3)}:
                kernel[i, j] += 0.5 * min(1.0, density[j] / density[i])
            kernel[i, i] += 1 - kernel[i].sum()
        return kernel

    def share_of_first(pair, step):
        weights = root[list(pair)] ** step
        return weights / weights.sum(), weights.mean(), weights.sum() ** 2 / (weights**2).sum()

    total = 0.0
    for pair in itertools.product(range(4), repeat=2):
        _, evidence, ess = share_of_first(pair, 2)
        if ess >= 1.2:
            total += evidence / 16
            continue
        shares, evidence, _ = share_of_first(pair, 1)
        law = shares @ moved(1)[list(pair)]  # each of the two points after resampling and a move; they are independent
        total += evidence / 16 * (law @ root)
    assert exact_mutants.bias_of_adaptation(bench.Context(0, True)).value == pytest.approx(
        total / (root**2).mean(), rel=1e-12
    )
