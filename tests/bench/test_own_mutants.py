"""The library's own inference code passes its exact checks, and every planted fault can be planted."""

import pytest

from uqsparse.bench.entries import own_checks as checks
from uqsparse.bench.entries.own_faults import FAULTS
from uqsparse.bench.entries.own_mutants import CHECKS, check_fault
from uqsparse.bench.mutants import Mutant, mutation_score, planted


def test_every_fault_has_its_line_and_its_checks():
    assert len(FAULTS) >= 40
    assert len({str(fault.mutant) for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.checks
        assert set(fault.checks) <= set(CHECKS)
        with planted(fault.mutant):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("resampling", ["multinomial", "stratified", "systematic", "residual"])
def test_filters_are_unbiased_exactly(resampling):
    verdict = checks.check_filter_exactly("bootstrap", resampling, 0.75)
    assert verdict.ok, verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["guided filter", "auxiliary filter", "ancestor sampling", "tempered SMC", "waste-free SMC", "PMMH"]
)
def test_production_code_is_exact(name):
    verdict = CHECKS[name]()
    assert verdict.ok, verdict


@pytest.mark.parametrize("name", ["random walk", "sums over paths", "many weights"])
def test_a_planted_fault_is_found_and_the_code_is_restored(name):
    fault = next(fault for fault in FAULTS if fault.checks == (name,))
    (outcome,) = mutation_score([fault.mutant], check_fault)
    assert outcome.killed
    assert CHECKS[name]().ok


def test_a_change_that_keeps_the_measure_survives():
    valid = Mutant(
        "ancestors sorted",
        "uqsparse.kernels.resampling:multinomial",
        "weights, uniforms)",
        "weights, jnp.sort(uniforms))",
    )
    with planted(valid):
        assert CHECKS["multinomial"]().ok
