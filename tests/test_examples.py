"""Every example runs as a user would run it, and says something."""

import ast
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

# They start processes of their own, which is part of what they show.
WITH_CHILDREN = {"bring_your_own_method", "sparse_coding_two_processes"}

# Importing what others wrote takes most of five seconds, as long as many an example. A server imports it once, and
# each example runs in a fork of it: a process of its own, where JAX has not started and the package is not imported.
_PEERS = ["pytest", "arviz", "equinox", "jax.numpy", "matplotlib.pyplot", "numpyro", "optax", "scipy.stats"]
_PEERS += ["sklearn.linear_model", "sklearn.pipeline"]


@pytest.fixture(scope="module")
def server():
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PEERS)
    return context


def _run(path, folder, out, err):
    for name, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    sys.argv[:] = [str(path)]
    sys.path.insert(0, str(path.parent))
    assert "uqsparse" not in sys.modules, "an example starts without the package"
    runpy.run_path(str(path), run_name="__main__")


def _in_a_fork(server, path, tmp_path):
    folder, out, err = tmp_path / "run", tmp_path / "out", tmp_path / "err"
    folder.mkdir()
    process = server.Process(target=_run, args=(path, folder, out, err))
    process.start()
    process.join(600)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{path.name} took more than ten minutes")
    return process.exitcode, out.read_text(), err.read_text()


def _in_a_fresh_process(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, server):
    alone = path.stem in WITH_CHILDREN
    code, out, err = _in_a_fresh_process(path, tmp_path) if alone else _in_a_fork(server, path, tmp_path)
    assert code == 0, err
    assert out.strip()
    assert "nan" not in out.lower()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_can_be_imported_and_read(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "an example starts by saying what it shows"
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_the_examples_are_there():
    assert {path.stem for path in EXAMPLES} >= {
        "beyond_l1",
        "bimodal_evidence",
        "bring_your_own_method",
        "calibrated_probabilities",
        "conformal_bayes",
        "constrained_generation",
        "coreset",
        "covariate_shift",
        "eight_schools",
        "few_shot",
        "irs_channel",
        "logistic_regression",
        "martingale_posterior",
        "neural_process",
        "pose_end_to_end",
        "presto",
        "reversible_jump",
        "sparse_bayes",
        "sparse_coding",
        "sparse_coding_two_processes",
        "sparse_inference",
        "state_space",
        "validated_inference",
    }
