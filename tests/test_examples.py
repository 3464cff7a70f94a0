"""Every example runs as a user would run it, and says something."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout.lower()


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
        "irs_channel",
        "logistic_regression",
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
