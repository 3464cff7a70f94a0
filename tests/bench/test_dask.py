"""Runs on a real Dask cluster of two worker processes, one of which is killed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from uqsparse import bench
from uqsparse.bench.workers import DaskWorkers

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("empty_registry")

# The victim waits to be killed; when it runs again it returns at once.
SUITE = """
here = pathlib.Path(__file__).parent
@bench.claim("victim", system="s")
def victim(context):
    pid = here / "victim.pid"
    if not pid.exists():
        (here / "draft").write_text(str(os.getpid()))
        (here / "draft").rename(pid)
        time.sleep(120)
    return bench.Measured(0, "<=", 1, "one")
for name in ("a", "b", "c"):
    @bench.claim(name, system="s")
    def other(context):
        time.sleep(0.2)
        return bench.Measured(0, "<=", 1, "one")
@bench.speed("race", ours="x", peer="y", at_least=1e-9)
def race(context):
    return bench.Contest(ours=lambda i: i, peer=lambda i: i, rounds=3)
"""


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=60
    ) as started:
        yield started


def kill_when_it_appears(pid_file: Path) -> threading.Thread:
    def wait_and_kill() -> None:
        for _ in range(1200):
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    return killer


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("allowed_failures", [3, 0], ids=["Dask tries again", "Dask gives up, we try again"])
def test_a_killed_worker_does_not_lose_the_run(cluster, write, tmp_path, allowed_failures):
    cluster.scheduler.allowed_failures = allowed_failures
    killer = kill_when_it_appears(tmp_path / "victim.pid")
    result = bench.run(load=[write(SUITE)], scheduler=cluster.scheduler_address, out=tmp_path / "out", progress=True)
    killer.join()
    assert (tmp_path / "victim.pid").exists()
    assert {e.name: (e.status, e.reason) for e in result.entries if e.status != "holds"} == {}
    assert [entry.name for entry in result.entries] == ["victim", "a", "b", "c", "race"]
    assert result.all_hold
    assert result.about["workers"] == "Dask cluster"


def test_an_entry_that_always_kills_its_worker_is_reported(cluster, write, tmp_path):
    cluster.scheduler.allowed_failures = 0
    path = write(SUITE + "@bench.claim('guilty', system='s')\ndef guilty(c): os._exit(1)\n")
    result = bench.run(load=[path], only=["guilty", "a"], scheduler=cluster.scheduler_address, out=tmp_path / "out")
    outcome = {entry.name: (entry.status, entry.reason) for entry in result.entries}
    assert outcome["guilty"] == ("failed", "every Dask worker that ran it died, twice")
    assert outcome["a"][0] == "holds"


def test_a_cluster_without_workers_is_given_up_in_the_end(write, tmp_path, monkeypatch):
    monkeypatch.setattr(DaskWorkers, "patience", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=60) as empty,
        pytest.raises(ConnectionError, match="no worker for 0 s: 0 of 5 entries are finished"),
    ):
        bench.run(load=[write(SUITE)], scheduler=empty.scheduler_address, out=tmp_path / "out")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_cannot_be_reached_is_one_clear_line(write, tmp_path, monkeypatch, address):
    monkeypatch.setattr(DaskWorkers, "timeout", 0.5)
    with pytest.raises(ValueError, match="scheduler: cannot reach") as caught:
        bench.run(load=[write(SUITE)], scheduler=address, out=tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_clear_line(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'uqsparse\[distributed\]'"):
        bench.run(load=[write(SUITE)], scheduler="tcp://127.0.0.1:1", out=tmp_path / "out")
