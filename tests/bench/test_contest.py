"""Timing two programs, with a clock that the test turns by hand."""

import gc

import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse import bench
from uqsparse.bench import contest


class Clock:
    """Stands still but for what the programs under test add to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(contest.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(contest.time, "process_time", lambda: 2 * self.now)

    def program(self, name: str, seconds):
        def run(i: int) -> int:
            self.calls.append((name, i, gc.isenabled()))
            self.now += seconds(i)
            return i

        return run


def test_ratio_quartiles_first_run_and_work(monkeypatch):
    clock = Clock(monkeypatch)
    race = bench.Contest(
        ours=clock.program("ours", lambda i: 10.0 if i == 0 else 1.0),
        peer=clock.program("peer", lambda i: 20.0 if i == 0 else float(i)),
        rounds=5,
        work=lambda results: 3.0 if results == [1, 2, 3, 4, 5] else np.nan,
        error=lambda results: sum(results),
    )
    measured = contest.hold_contest(race, at_least=3.0)
    assert measured["ratios"] == [1, 2, 3, 4, 5]
    assert (measured["ratio_low"], measured["ratio"], measured["ratio_high"]) == (2, 3, 4)
    assert measured["reached"]
    assert measured["first_seconds"] == {"ours": 10, "peer": 20}
    assert measured["seconds"] == {"ours": 1, "peer": 3}
    assert measured["cpu_ratio"] == 3
    assert measured["errors"] == {"ours": 15, "peer": 15}
    assert not contest.hold_contest(race, at_least=3.01)["reached"]


def test_our_extra_work_counts_for_us(monkeypatch):
    clock = Clock(monkeypatch)
    results = {"ours": "a", "peer": "b"}
    race = bench.Contest(
        ours=lambda i: clock.program("ours", lambda _: 1.0)(i) and results["ours"],
        peer=lambda i: clock.program("peer", lambda _: 1.0)(i) and results["peer"],
        rounds=3,
        work=lambda made: 200.0 if made[0] == "a" else 100.0,
    )
    assert contest.hold_contest(race, at_least=1)["ratio"] == 2


def test_rounds_alternate_with_the_collector_off(monkeypatch):
    clock = Clock(monkeypatch)
    seconds = {"seconds": lambda i: 1.0}
    race = bench.Contest(clock.program("A", **seconds), clock.program("B", **seconds), rounds=4)
    contest.hold_contest(race, at_least=1)
    assert gc.isenabled()
    order = "".join(name for name, _, _ in clock.calls)
    assert order == "AB" + "AB" + "BA" + "AB" + "BA"
    assert [i for _, i, _ in clock.calls] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert not any(collecting for _, i, collecting in clock.calls if i > 0)


def test_the_collector_is_on_again_after_an_error(monkeypatch):
    race = bench.Contest(ours=lambda i: 1 // (2 - i), peer=lambda i: i)
    with pytest.raises(ZeroDivisionError):
        contest.hold_contest(race, at_least=1)
    assert gc.isenabled()


def test_jax_results_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr("jax.block_until_ready", waited.append)
    contest.hold_contest(bench.Contest(ours=jnp.asarray, peer=jnp.asarray, rounds=3), at_least=1)
    assert len(waited) == 8


@pytest.mark.parametrize("units", [0.0, np.nan, -1.0, np.inf])
def test_work_must_be_a_positive_number(units):
    race = bench.Contest(ours=abs, peer=abs, rounds=3, work=lambda results: units)
    with pytest.raises(ValueError, match="the work of ours is"):
        contest.hold_contest(race, at_least=1)
