"""The command line as a user meets it: what it prints, what it leaves behind, and how it ends."""

import json
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import uqsparse
from uqsparse.cli import app
from uqsparse.inference.arviz_io import attributes, dataset, load
from uqsparse.systems import SYSTEMS

MODEL = '''
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from uqsparse.inference import StateSpaceModel

def line(x, y=None, n_samples=1):
    """`n_samples` is also the name of an option of the samplers."""
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(n_samples * slope * x, 1.0), obs=y)

def unobserved(x):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    numpyro.deterministic("twice", 2 * slope)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, 1.0))

def discrete(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)

def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def impossible(y):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    numpyro.sample("lifetime", dist.Exponential(rate), obs=-jnp.abs(y))

def two_modes():
    mu = numpyro.sample("mu", dist.Normal(0, 20))
    numpyro.factor("modes", -8 * (jnp.abs(mu) - 10) ** 2)

NUMBER = 3

def walk_prior():
    numpyro.sample("step", dist.HalfNormal(1.0))

walk = StateSpaceModel(
    initial=lambda p, inputs: dist.Normal(0.0, 1.0),
    transition=lambda p, x, inputs: dist.Normal(x, p["step"]),
    observation=lambda p, x, inputs: dist.Normal(x, 0.5),
    prior=walk_prior,
)
'''
X = np.linspace(-1, 1, 12)
Y = 1.5 * X + np.array([0.3, -0.8, 0.1, 1.2, -0.4, 0.6, -1.1, 0.2, 0.9, -0.7, 0.05, -0.3])
# The posterior of the slope: prior variance 4, unit noise.
PRECISION = 1 / 4 + X @ X
MEAN, SD = X @ Y / PRECISION, PRECISION**-0.5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.json").write_text(json.dumps({"x": X.tolist(), "y": Y.tolist()}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def sample(*arguments, out="out.nc"):
    return run("sample", *arguments, "--out", out, "--no-progress")


def assert_one_error_line(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not Path("out.nc").exists()


def test_version_help_and_list():
    assert run("--version").stdout == f"{uqsparse.__version__}\n"
    for arguments in ([], ["--help"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "sample" in result.stdout
    listed = run("list")
    assert listed.exit_code == 0
    for system in SYSTEMS:
        assert system.name in listed.stdout


def test_list_needs_no_jax():
    code = "import sys; from uqsparse.cli import app; sys.exit('jax' in sys.modules or 'arviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


NUTS = ("--samples", 1000, "--warmup", 300)


def test_nuts_prints_a_summary_saves_the_posterior_and_plots(folder):
    result = sample("model.py:line", "--data", "data.json", *NUTS, "--seed", 1, "--plot", "plots")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    posterior = load("out.nc")
    slope = dataset(posterior)["slope"].values
    assert slope.shape == (4, 1000)
    assert slope.dtype == np.float64
    # 4000 draws of NUTS, a tenth of them effective at the least: five standard errors.
    assert abs(slope.mean() - MEAN) < 5 * SD / 20
    np.testing.assert_array_equal(dataset(posterior, "observed_data")["y"], Y)
    assert attributes(posterior)["algorithm"] == "NUTS"
    for text in ("slope", f"{slope.mean():.2f}", "R-hat", "MCSE", "Converged", "Posterior: out.nc"):
        assert text in result.stdout
    assert (folder / "plots" / "trace-slope.png").read_bytes()[:4] == b"\x89PNG"
    assert {p.name for p in folder.iterdir()} - {"__pycache__"} == {
        "model.py",
        "data.json",
        "out.nc",
        "plots",
    }


def test_data_may_condition_a_site_and_carry_the_name_of_an_option(folder):
    np.savez("data.npz", x=X, y=Y)
    result = sample("model.py:unobserved", "--data", "data.npz", *NUTS)
    assert result.exit_code == 0, result.output
    assert set(dataset(load("out.nc")).data_vars) == {"slope", "twice"}
    assert abs(dataset(load("out.nc"))["slope"].values.mean() - MEAN) < 5 * SD / 20

    rows = [f"{x},{y},2" for x, y in zip(X, Y, strict=True)]
    Path("data.csv").write_text("\n".join(["x,y,n_samples", *rows]))
    result = sample("model.py:line", "--data", "data.csv", *NUTS)
    assert result.exit_code == 0, result.output
    precision = 1 / 4 + 4 * X @ X
    assert abs(dataset(load("out.nc"))["slope"].values.mean() - 2 * X @ Y / precision) < 5 * SD / 20


def test_chains_that_disagree_end_with_1_and_words(folder):
    result = sample("model.py:two_modes", "--samples", 100, "--warmup", 100, "--seed", 3)
    assert result.exit_code == 1
    printed = " ".join(result.stdout.split())
    assert "warning mu: R-hat" in printed
    assert "the chains disagree; run longer or reparameterise" in printed
    assert "Converged" not in printed
    assert Path("out.nc").exists()


@pytest.mark.slow
def test_smc_prints_the_evidence_with_its_error(folder):
    arguments = ("--method", "smc", "--particles", 400, "--replicates", 2, "--moves", 5, "--seed", 2)
    result = sample("model.py:line", "--data", "data.json", *arguments)
    assert result.exit_code == 0, result.output
    # log N(y; 0, I + 4 x x'), by the determinant lemma.
    exact = -0.5 * (len(Y) * np.log(2 * np.pi) + np.log(4 * PRECISION) + Y @ Y - (X @ Y) ** 2 / PRECISION)
    notes = attributes(load("out.nc"))
    assert abs(notes["log_evidence"] - exact) < max(5 * notes["log_evidence_se"], 0.3)
    assert f"log evidence {notes['log_evidence']:.2f} ±" in result.stdout
    slope = dataset(load("out.nc"))["slope"].values
    assert slope.shape == (2, 400)
    assert abs(slope.mean() - MEAN) < 5 * SD / 10


CHAINS = ("--samples", 100, "--warmup", 50, "--particles", 20)


@pytest.mark.parametrize("method", ["particle-gibbs", "pmmh"])
def test_a_state_space_model_is_sampled_with_gaps_and_drawn_as_bands(folder, method):
    Path("series.csv").write_text("observations\n0.3\nnan\n-0.5\n0.1\nnan\n0.4\n")
    options = ("--data", "series.csv", "--missing", "skip", "--method", method, "--plot", "plots")
    result = sample("model.py:walk", *options, *CHAINS)
    assert result.exit_code in (0, 1), result.output
    assert "step" in result.stdout
    posterior = dataset(load("out.nc"))
    assert posterior["states"].shape == (4, 100, 6)
    assert sorted(path.name for path in Path("plots").iterdir()) == ["bands-states.png", "trace-step.png"]


def test_smc2_prints_the_evidence(folder):
    Path("series.json").write_text(json.dumps({"observations": [0.3, None, -0.5, 0.1]}))
    options = ("--data", "series.json", "--missing", "skip", "--method", "smc2", "--particles", 20)
    result = sample("model.py:walk", *options)
    assert result.exit_code in (0, 1), result.output
    assert "log evidence" in result.stdout


def test_options_reach_the_smc_sampler(folder, monkeypatch):
    import uqsparse.inference as inference
    from uqsparse.inference.arviz_io import to_arviz

    seen = {}

    def fake(key, target, **options):
        seen.update(options)
        draws = np.random.default_rng(0).normal(size=(3, 500))
        data = to_arviz({"posterior": {"slope": draws}}, {"algorithm": "tempered SMC"})
        return types.SimpleNamespace(to_arviz=lambda: data)

    monkeypatch.setattr(inference, "tempered_smc", fake)
    choices = ("--particles", 50, "--replicates", 3, "--moves", 7, "--waste-free", "--move", "independent")
    assert sample("model.py:line", "--data", "data.json", "--method", "smc", *choices).exit_code == 0
    assert isinstance(seen.pop("move"), inference.IndependentProposal)
    assert seen == {
        "n_particles": 50,
        "n_replicates": 3,
        "n_moves": 7,
        "waste_free": True,
        "progress": False,
    }


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model.py:nothing"], ["model.py", "'nothing'", "line, unobserved"]),
        (["model.py:NUMBER"], ["'NUMBER'", "int"]),
        (["missing.py:line"], ["missing.py", "does not exist"]),
        (["model.py"], ["FILE.py:FUNCTION"]),
        (["broken.py:f"], ["broken.py", "line 2", "ZeroDivisionError"]),
        (["syntax.py:f"], ["syntax.py", "line 1", "SyntaxError"]),
        (["model.py:line", "--data", "missing.json"], ["missing.json", "does not exist"]),
        (["model.py:line", "--data", "broken.json"], ["broken.json", "not valid JSON"]),
        (["model.py:line", "--data", "nan.json"], ["nan.json", "'y'", "NaN"]),
        (["model.py:line", "--data", "unknown.json"], ["'slopes'", "x, y, n_samples", "slope"]),
        (
            ["model.py:unobserved", "--data", "deterministic.json"],
            ["'twice'", "neither a parameter nor a latent"],
        ),
        (["model.py:unobserved", "--data", "shape.json"], ["'y'", "(3,)", "(12,)"]),
        (["model.py:line", "--data", "only_y.json"], ["lacks 'x'", "it has 'y'"]),
        (["model.py:line"], ["lacks 'x'"]),
        (["model.py:discrete", "--data", "only_y.json"], ["discrete", "z"]),
        (["model.py:discrete", "--data", "only_y.json", "--method", "smc"], ["discrete", "z"]),
        (["model.py:improper", "--data", "only_y.json", "--method", "smc"], ["mu"]),
        (["model.py:impossible", "--data", "only_y.json"], ["'lifetime'"]),
        (["model.py:line", "--data", "mismatch.json"], ["'y' of model 'line'", "(2,)", "(12,)"]),
        (["model.py:line", "--data", "data.json", "--method", "gibbs"], ["--method", "gibbs"]),
        (["model.py:walk", "--data", "data.json"], ["'x'", "neither observations nor inputs"]),
        (["model.py:walk"], ["the model call lacks 'observations'"]),
        (["model.py:walk", "--data", "series.json"], ["observations", "NaN"]),
        (["model.py:walk", "--data", "series.json", "--method", "nuts"], ["--method nuts", "particle-gibbs"]),
        (["model.py:line", "--data", "data.json", "--method", "pmmh"], ["--method pmmh", "nuts or smc"]),
        (["model.py:line", "--data", "data.json", "--samples", "few"], ["--samples", "integer"]),
        (["model.py:line", "--data", "data.json", "--chains", 0], ["--chains"]),
        (["model.py:line", "--data", "data.json", "--target-accept", 2], ["target_accept", "2.0"]),
        (["model.py:line", "--data", "data.json", "--plot", "model.py"], ["--plot", "is a file"]),
        (["model.py:line", "--frobnicate"], ["--frobnicate"]),
    ],
)
def test_bad_input_is_one_line(folder, arguments, parts):
    Path("broken.py").write_text("a = 1\nb = a / 0\n")
    Path("syntax.py").write_text("def f(:\n")
    Path("broken.json").write_text('{"x": [1, 2')
    for name, entries in {
        "nan": {"x": [1.0], "y": [float("nan")]},
        "series": {"observations": [0.1, float("nan")]},
        "unknown": {"x": [1.0], "slopes": [2.0]},
        "deterministic": {"x": X.tolist(), "twice": 2.0},
        "shape": {"x": X.tolist(), "y": [1.0, 2.0, 3.0]},
        "only_y": {"y": Y.tolist()},
        "mismatch": {"x": X.tolist(), "y": [1.0, 2.0]},
    }.items():
        Path(f"{name}.json").write_text(json.dumps(entries))
    assert_one_error_line(sample(*arguments), *parts)


def test_an_impossible_place_for_the_output_is_found_before_the_work(folder):
    assert_one_error_line(sample("model.py:line", out="nowhere/out.nc"), "--out", "nowhere")
    assert_one_error_line(sample("model.py:line", out=folder), "--out", "is a directory")
    assert_one_error_line(run("sample", "model.py:line"), "--out")
    assert_one_error_line(run("sampel"), "sampel")


def test_an_interrupted_run_says_what_is_kept(folder):
    Path("slow.py").write_text(MODEL + "\nfrom pathlib import Path\nPath('started').touch()\n")
    Path("out.nc").write_bytes(b"an older posterior")
    command = [
        sys.executable,
        "-m",
        "uqsparse",
        "sample",
        "slow.py:line",
        "--data",
        "data.json",
        "--out",
        "out.nc",
    ]
    process = subprocess.Popen(
        [*command, "--samples", "1000000", "--no-progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not Path("started").exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert error == "interrupted: nothing was written; out.nc from an earlier run is untouched\n"
    assert Path("out.nc").read_bytes() == b"an older posterior"


@pytest.fixture
def suite(monkeypatch):
    """The bench with a `run` that only records; what it returns or raises is set by the test."""
    pytest.importorskip("uqsparse.bench.console")
    record = types.SimpleNamespace(outcome=types.SimpleNamespace(all_hold=True), seen=None)

    def fake_run(**options):
        record.seen = options
        if isinstance(record.outcome, BaseException):
            raise record.outcome
        return record.outcome

    monkeypatch.setattr("uqsparse.bench.run", fake_run, raising=False)
    monkeypatch.setattr("uqsparse.bench.console.print_results", lambda result, console: console.print("results"))
    return record


def test_bench_passes_its_options_on(suite):
    result = run("bench")
    assert (result.exit_code, result.stdout) == (0, "results\n")
    plain = {"quick": True, "only": None, "jobs": 1, "seed": 0, "load": (), "scheduler": None, "fresh": False}
    assert suite.seen == {**plain, "out": Path("report"), "progress": True}
    choices = "--full --only a --only b --jobs 2 --seed 3 --load m.py --load n.py --scheduler tcp://h:1"
    assert run("bench", *choices.split(), "--out", "r", "--fresh", "--no-progress").exit_code == 0
    assert suite.seen == {
        "quick": False,
        "only": ["a", "b"],
        "jobs": 2,
        "seed": 3,
        "load": (Path("m.py"), Path("n.py")),
        "scheduler": "tcp://h:1",
        "out": Path("r"),
        "progress": False,
        "fresh": True,
    }


@pytest.mark.parametrize(
    ("outcome", "code", "error"),
    [
        (types.SimpleNamespace(all_hold=False), 1, ""),
        (ValueError("no entry\nmatches 'x'"), 2, "error: no entry matches 'x'\n"),
        (ImportError("the report needs jinja2"), 2, "error: the report needs jinja2\n"),
        (ConnectionError("all workers are gone"), 1, "error: all workers are gone\n"),
        (KeyboardInterrupt("interrupted: 3 of 9 kept"), 130, "interrupted: 3 of 9 kept\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: finished entries are kept in report; the same command continues\n",
        ),
    ],
)
def test_bench_ends_with_the_right_code(suite, outcome, code, error):
    suite.outcome = outcome
    result = run("bench")
    assert (result.exit_code, result.stderr) == (code, error)


CHECKED = """
target = {0: 1, 1: 2}

def right(chance, state):
    return 0 if state == 1 and chance.choose([0.5, 0.5]) else 1

def wrong(chance, state):
    return chance.choose([0.5, 0.5])

def unfair(chance, state):
    return chance.choose([0.5, 0.4])
"""


def test_check_prints_verdicts_and_ends_with_their_code(tmp_path):
    (tmp_path / "mine.py").write_text(CHECKED)

    def check(name):
        return CliRunner().invoke(app, ["check", f"{tmp_path / 'mine.py'}:{name}"])

    good, bad, broken, absent = map(check, ("right", "wrong", "unfair", "absent"))
    assert good.exit_code == 0
    assert good.output.startswith("ok: right leaves its target invariant")
    assert bad.exit_code == 1
    assert "counter-example: mass of 0: expected 1, obtained 1.5" in bad.output
    assert broken.exit_code == 2
    assert "error: at state 0: choice 1" in broken.output
    assert "sum to 0.9" in broken.output
    assert absent.exit_code == 2
    assert "no 'absent'; it defines right, wrong, unfair" in absent.output


def generate(*arguments):
    return run("generate", "--prompt", "Go:", "--no-progress", *arguments)


def test_generate_wants_one_constraint(folder):
    assert_one_error_line(generate(), "give one of --regex, --grammar, --fields, --predicate; got none")
    assert_one_error_line(generate("--regex", "a", "--grammar", "json"), "got --regex and --grammar")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--regex", "a", "--model", "nowhere.gguf"), ("nowhere.gguf",)),
        (("--regex", "a", "--model", "data.json"), ("data.json", "GGUF")),
        (("--regex", "a", "--out", "nowhere/out.json"), ("--out: directory 'nowhere' does not exist",)),
        (("--regex", "a", "--out", "."), ("--out: '.' is a directory",)),
    ],
)
def test_generate_refuses_bad_input_in_one_line(folder, arguments, parts):
    assert_one_error_line(generate(*arguments), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--regex", "(a"), ("'(a'", "regular expression")),
        (("--regex", "a{60}"), ("max_length is 4",)),
        (("--grammar", "nowhere.txt"), ("No such file or directory: nowhere.txt",)),
        (("--fields", "{"), ("--fields is no JSON",)),
        (("--fields", '{"age": "number of years"}'), ("fields['age']",)),
        (("--predicate", "model.py:line"), ("a pair of functions (prefix, complete)",)),
        (("--regex", "a", "--temperature", "0"), ("temperature",)),
    ],
)
def test_generate_refuses_bad_constraints_before_the_model_is_loaded(folder, smollm2_path, arguments, parts):
    assert_one_error_line(generate("--max-tokens", 4, *arguments), *parts)


CONSTRAINT = """
import re

def prefix(text):
    return re.fullmatch(r" ?\\d{0,4}", text) is not None

def complete(text):
    return re.fullmatch(r" \\d{4}", text) is not None

year = (prefix, complete)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--regex", r" \d{4}"), ("--predicate", "year.py:year")], ids=["regex", "predicate"])
def test_generate_prints_strings_evidence_and_tests_and_saves_them(folder, smollm2_path, how):
    Path("year.py").write_text(CONSTRAINT)
    limits = ("--particles", 8, "--max-tokens", 5, "--max-rejects", 200, "--out", "strings.json")
    result = run("generate", "--prompt", "The Berlin Wall fell in the year", *how, *limits, "--no-progress")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for part in ("probability", "log evidence of the constraint", "constraint tests", "8 particles"):
        assert part in result.stdout
    saved = json.loads(Path("strings.json").read_text())
    alive = [string for string in saved["strings"] if string["log_weight"] is not None]
    assert alive
    for string in alive:
        assert re.fullmatch(r" \d{4}", string["text"])
    weights = [np.exp(string["log_weight"]) for string in alive]
    assert np.log(sum(weights) / 8) == pytest.approx(saved["log_evidence"])
    assert not Path("strings.json.part").exists()


@pytest.mark.slow
def test_generate_ends_with_code_1_if_no_particle_gets_there(folder, smollm2_path):
    result = generate("--regex", "zqzqzq", "--local", "twist", "--particles", 2, "--max-tokens", 6)
    assert result.exit_code == 1, result.output
    assert "no particle reached a member of the constraint: the evidence is zero" in " ".join(result.stdout.split())
