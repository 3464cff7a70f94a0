"""The Python code in the documentation runs, page by page, as a reader would paste it."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "```python\n" in page.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_code_in_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    # A file, because entries of the benchmarks are known by the file they stand in.
    source = tmp_path / f"{page.stem.replace('-', '_')}.py"
    source.write_text("\n".join(blocks))
    exec(compile(source.read_text(), str(source), "exec"), {"__name__": "page"})


def test_pages_of_the_guide_have_code():
    pages = {"index", "tempered-smc", "nuts", "state-space", "checks", "diagnostics", "benchmarks"}
    assert {page.stem for page in PAGES} >= pages | {"conformal", "constrained", "llama", "pose"} | {
        "beyond-l1",
        "calibration",
        "coresets",
        "few-shot",
        "martingale-posteriors",
        "multiplicity",
        "neural-processes",
        "presto",
        "sparse-coding",
        "sparse_bayes",
        "sparse-kernels",
        "essential-sparsity",
        "iso-flop",
        "packed-training",
        "random-pruning",
        "sparse-accounting",
        "sparse-bayesian-networks",
        "sparse-training",
    }
