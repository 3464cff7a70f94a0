"""Whole runs of tiny suites: failures, crashes, interruptions, resumption, seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uqsparse import bench
from uqsparse.bench import loading, machine, registry, runner
from uqsparse.bench.store import Store, slug

pytestmark = pytest.mark.usefixtures("empty_registry")

CLAIM = """
@bench.claim("{0}", system="s")
def {0}(context):
    {1}
    return bench.Measured({2}, "<=", 1, "one")
"""


def claims(**bodies: str) -> str:
    return "".join(CLAIM.format(name, body or "pass", "0") for name, body in bodies.items())


def statuses(result: bench.RunResult) -> dict[str, str]:
    return {entry.name: entry.status for entry in result.entries}


def test_one_of_each_kind_and_the_files_it_leaves(write, tmp_path):
    path = write(
        """
        @bench.claim("small", system="s")
        def small(context):
            print("noise that must not reach the terminal")
            return bench.Measured(0.5, "<=", 1, "one", detail="once")
        @bench.claim("large", system="s")
        def large(context):
            return bench.Measured(2, "<=", 1, "one")
        @bench.task("line", kind="regression")
        def line(context):
            x = np.random.default_rng(context.seed).normal(size=(30, 1))
            return bench.Split(x[:20], x[:20, 0], x[20:], x[20:, 0], source="drawn", licence="none")
        @bench.method("exact", kind="regression", conformal=None)
        def exact(context, X_train, y_train, X_test):
            X_train[:] = 0  # must not disturb anything
            return bench.GaussianMixture(X_test.T, 0.1)
        @bench.method("draws", kind="regression", conformal=None)
        def draws(context, X_train, y_train, X_test):
            return np.random.default_rng(context.seed).normal(size=(50, len(X_test)))
        @bench.speed("sums", ours="fast", peer="slow", at_least=1e-9)
        def sums(context):
            return bench.Contest(ours=lambda i: time.sleep(.001), peer=lambda i: time.sleep(.004), rounds=3,
                                 work=lambda results: len(results), error=lambda results: 0.25)
        @bench.speed("gpu", ours="a", peer="b", at_least=2)
        def gpu(context):
            raise bench.NotMeasured("no GPU here")
        """
    )
    out = tmp_path / "out"
    result = bench.run(load=[path], out=out)
    assert statuses(result) == {
        "small": "holds",
        "large": "missed",
        "line / exact": "measured",
        "line / draws": "measured",
        "sums": "holds",
        "gpu": "not measured",
    }
    assert not result.all_hold
    exact, draws = result.of_kind("score")
    assert exact.details["scores"]["rmse"] == 0
    assert exact.details["scores"]["coverage"] == 1
    assert draws.details["scores"]["nll"] is None
    assert [row.details["method"] for row in result.leaderboards()["line"]] == ["exact", "draws"]
    sums, gpu = result.of_kind("speed")
    assert sums.details["ratio_low"] <= sums.details["ratio"] <= sums.details["ratio_high"]
    assert sums.details["work"] == {"ours": 3.0, "peer": 3.0}
    assert gpu.reason == "no GPU here"
    assert "noise that must not" in (out / "workers.log").read_text()

    data = json.loads((out / "results.json").read_text())
    assert data["seed"] == 0
    assert [one["name"] for one in data["entries"]] == list(statuses(result))
    assert (out / "index.html").is_file()
    assert str(tmp_path) not in (out / "results.json").read_text()
    assert json.loads((out / "entries" / f"{slug('claim/small')}.json").read_text())["details"]["value"] == 0.5


def test_an_entry_that_raises_is_reported_and_the_others_go_on(write, tmp_path):
    path = write(
        claims(first="raise RuntimeError('two\\nlines')", second="return 3", third="raise SystemExit(4)", last="")
    )
    result = bench.run(load=[path], out=tmp_path / "out")
    assert statuses(result) == {"first": "failed", "second": "failed", "third": "failed", "last": "holds"}
    first, second, third, _ = result.entries
    assert first.reason == "RuntimeError: two lines"
    assert "entries.py:" in first.traceback
    assert str(tmp_path) not in first.traceback
    assert second.reason == "TypeError: 'second' returned int; expected bench.Measured"
    assert third.reason == "SystemExit: 4"
    assert not result.all_hold


def test_a_crash_is_blamed_on_the_guilty_entry_only(write, tmp_path):
    path = write(
        claims(
            crash="time.sleep(0.3); os._exit(7)",
            beside="time.sleep(0.6)",
            killed="os.kill(os.getpid(), signal.SIGKILL)",
        )
    )
    result = bench.run(load=[path], out=tmp_path / "out", jobs=2)
    assert statuses(result) == {"crash": "failed", "beside": "holds", "killed": "failed"}
    reasons = {entry.name: entry.reason for entry in result.entries}
    assert reasons["crash"] == "the worker process ended with exit code 7, twice"
    assert reasons["killed"] == "the worker process was killed by SIGKILL, perhaps out of memory, twice"


def test_an_entry_that_crashes_once_is_tried_again(write, tmp_path):
    mark = tmp_path / "mark"
    body = f"mark = pathlib.Path({str(mark)!r}); seen = mark.exists(); mark.touch(); seen or os._exit(1)"
    result = bench.run(load=[write(claims(flaky=body))], out=tmp_path / "out")
    assert statuses(result) == {"flaky": "holds"}


def test_results_depend_neither_on_jobs_nor_on_order_but_on_the_seed(write, tmp_path):
    source = """
        @bench.claim("{0}", system="s")
        def {0}(context):
            return bench.Measured(context.seed, "<", 2**31, "c")
    """
    names = ["a", "b", "c"]
    path = write("".join(source.format(name) for name in names))

    def values(**options) -> dict[str, float]:
        result = bench.run(load=[path], out=tmp_path / "out", **options)
        return {entry.name: entry.details["value"] for entry in result.entries}

    one = values()
    assert values(jobs=2) == one
    assert values(only="b") == {"b": one["b"]}
    assert len(set(one.values())) == 3
    assert values(seed=1)["a"] != one["a"]


def test_all_methods_of_a_task_see_the_same_split(write, tmp_path):
    path = write(
        """
        @bench.task("t", kind="regression")
        def t(context):
            x = np.random.default_rng(context.seed).normal(size=(6, 1))
            return bench.Split(x, x[:, 0], x, x[:, 0])
        for name in ("m1", "m2"):
            @bench.method(name, kind="regression", conformal=None)
            def m(context, X_train, y_train, X_test):
                return bench.GaussianMixture(np.zeros((1, 6)), 1.0)
        """
    )
    m1, m2 = bench.run(load=[path], out=tmp_path / "out", jobs=2).entries
    assert m1.details["scores"] == m2.details["scores"]


# A claim that counts its runs in a file beside its own, so that a test sees what was run again.
COUNTED = """
@bench.claim("{0}", system="s")
def {0}(context):
    here = pathlib.Path(__file__).parent
    with open(here / "{0}.count", "a") as file:
        file.write("x")
    {1}
    return bench.Measured(0, "<=", 1, "one")
"""


def counts(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in sorted(folder.glob("*.count"))}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Press Ctrl-C right after the entry has been kept."""
    keep = Store.keep

    def keep_then_interrupt(self, result):
        keep(self, result)
        if result.name == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "keep", keep_then_interrupt)


def test_an_interrupted_run_continues_and_a_completed_one_starts_anew(write, tmp_path, monkeypatch):
    path = write("".join(COUNTED.format(name, "pass") for name in "abc"))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_after(patch, "b")
        with pytest.raises(bench.RunInterrupted, match="2 of 3 entries are finished") as caught:
            bench.run(load=[path], out=out)
    assert (caught.value.finished, caught.value.total) == (2, 3)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert len(list((out / "entries").glob("*.json"))) == 2
    done = counts(tmp_path)
    assert done["a"] == done["b"] == 1

    result = bench.run(load=[path], out=out)
    assert result.about["resumed"] == 2
    assert statuses(result) == dict.fromkeys("abc", "holds")
    again = counts(tmp_path)
    assert again["a"] == again["b"] == 1

    assert bench.run(load=[path], out=out).about["resumed"] == 0
    assert counts(tmp_path)["a"] == 2


def test_a_damaged_entry_file_is_measured_again(write, tmp_path, monkeypatch):
    path, out = write("".join(COUNTED.format(name, "pass") for name in "ab")), tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_after(patch, "b")
        with pytest.raises(bench.RunInterrupted):
            bench.run(load=[path], out=out)
    (out / "entries" / f"{slug('claim/a')}.json").write_text('{"id": "claim/a", "sta')
    result = bench.run(load=[path], out=out)
    assert result.about["resumed"] == 1
    assert statuses(result) == {"a": "holds", "b": "holds"}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_control_c_ends_the_workers_and_keeps_what_has_finished(write, tmp_path):
    """A real process, a real SIGINT to its whole group, as a terminal sends it."""
    path = write(
        COUNTED.format("quick_one", "pass")
        + COUNTED.format("long_one", "(here / 'pid').write_text(str(os.getpid())); time.sleep(60)")
    )
    script = tmp_path / "script.py"
    script.write_text(
        "from uqsparse import bench\n"
        "from uqsparse.bench import loading\n"
        "if __name__ == '__main__':\n"
        "    loading.discover = lambda: None\n"
        "    try:\n"
        f"        bench.run(load=[{str(path)!r}], out={str(tmp_path / 'out')!r})\n"
        "    except bench.RunInterrupted as stop:\n"
        "        print(stop.finished, stop.total)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        pid_file = tmp_path / "pid"
        for _ in range(600):
            if pid_file.exists() and pid_file.read_text():
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output.split() == ["1", "2"]
    worker = int(pid_file.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    kept = [json.loads(file.read_text())["name"] for file in (tmp_path / "out" / "entries").glob("*.json")]
    assert kept == ["quick_one"]


def test_a_script_runs_the_entries_it_registers(tmp_path):
    script = tmp_path / "my_script.py"
    script.write_text(
        "from uqsparse import bench\n"
        "from uqsparse.bench import loading\n"
        "@bench.claim('from the script', system='s')\n"
        "def f(context):\n"
        "    return bench.Measured(0, '<=', 1, 'one')\n"
        "if __name__ == '__main__':\n"
        "    loading.discover = lambda: None\n"
        f"    print(bench.run(only='from the script', out={str(tmp_path / 'out')!r}).all_hold)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"], done.stderr


def test_progress_in_a_log_file_is_a_line_for_each_finished_entry(write, tmp_path, capsys):
    bench.run(load=[write(claims(a="", b="raise ValueError"))], out=tmp_path / "out", progress=True)
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == ["a: holds", "b: failed"]


def test_progress_on_a_terminal_names_what_is_running(write, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    loading.load(write(claims(long_entry="")))
    with runner._watched(3, 1, True) as (_, watch):
        watch(registry.entries())
        time.sleep(0.3)
    assert "long_entry" in capsys.readouterr().err


def test_nothing_is_printed_unless_asked(write, tmp_path, capfd):
    bench.run(load=[write(claims(a="print('noise')"))], out=tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_bad_arguments_are_one_clear_line(write, tmp_path):
    path = write(claims(tempered="") + "@bench.claim('rare', system='s', quick=False)\ndef rare(c): ...\n")
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    for options, message in [
        ({"only": "temperd"}, "only: 'temperd' matches no entry; near matches: 'tempered'"),
        ({"only": "rare"}, "matches entries of the full suite only"),
        ({"only": ["tempered", "zzz"]}, "only: 'zzz' matches no entry$"),
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": 1.5}, "jobs is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"load": [tmp_path / "absent.py"]}, "there is no file"),
        ({"out": occupied}, "occupied is a file; expected a folder"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            bench.run(**{"load": [path], "out": tmp_path / "out", **options})
        assert "\n" not in str(caught.value)


def test_a_missing_template_engine_is_told_before_the_work(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "uqsparse.bench.report", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'uqsparse\[bench\]'"):
        bench.run(load=[write(claims(a=""))], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_entries_at_all(tmp_path):
    with pytest.raises(ValueError, match="no entries to run"):
        bench.run(out=tmp_path / "out")


def test_patterns(write):
    loading.load(
        write(
            claims(alpha="")
            + """
@bench.task("sine", kind="regression")
def sine(c): ...
@bench.method("ridge", kind="regression", conformal=None)
def ridge(c, X_train, y_train, X_test): ...
@bench.method("kernel ridge", kind="regression")
def kernel(c, X_train, y_train, X_test): ...
"""
        )
    )
    everything = registry.entries()

    def chosen(*patterns: str) -> list[str]:
        return [entry.id for entry in runner.select(everything, patterns, quick=True)]

    assert chosen() == [entry.id for entry in everything]
    kernel_ridge = "score/sine/kernel ridge"
    assert chosen("RIDGE") == ["score/sine/ridge", kernel_ridge, f"{kernel_ridge} + conformal"]
    assert chosen("score/sine/ridge") == ["score/sine/ridge"]
    assert chosen("kernel*", "s") == [entry.id for entry in everything]
    assert chosen("kernel*") == [kernel_ridge, f"{kernel_ridge} + conformal"]
    assert chosen("*/ kernel ridge") == [kernel_ridge]
    assert chosen("*+ conformal") == [f"{kernel_ridge} + conformal"]
    assert chosen("claim/*") == ["claim/alpha"]


def test_the_fingerprint_follows_the_files(write):
    path = write("A = 1\n")
    first = machine.fingerprint([path])
    assert machine.fingerprint([path]) == first != machine.fingerprint()
    write("A = 2\n")
    assert machine.fingerprint([path]) != first
