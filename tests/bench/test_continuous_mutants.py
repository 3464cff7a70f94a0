"""The mutants of continuous kernels: each is the correct kernel but for one number, and the quick claim holds."""

import pytest

from uqsparse.bench.entries.continuous_mutants import CORRECT, KERNELS, MUTANTS, random_walk_bugs
from uqsparse.bench.records import Context


def test_each_mutant_turns_one_knob_of_a_kernel():
    assert len(MUTANTS) == 18
    assert {mutant.kernel for mutant in MUTANTS.values()} == set(KERNELS)
    assert len({(mutant.kernel, mutant.knobs) for mutant in MUTANTS.values()}) == 18
    for mutant in MUTANTS.values():
        assert sum(a != b for a, b in zip(mutant.knobs, CORRECT, strict=True)) == 1


@pytest.mark.slow
def test_the_quick_claim_holds():
    measured = random_walk_bugs(Context(seed=0, quick=True))
    assert measured.value == 5
