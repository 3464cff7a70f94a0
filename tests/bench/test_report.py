"""The page and the terminal tables, from results made up for the purpose."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from uqsparse.bench import GaussianMixture, print_results
from uqsparse.bench.measure import run_entry
from uqsparse.bench.plots import picture
from uqsparse.bench.report import render, write_report
from uqsparse.bench.results import EntryResult, RunResult
from uqsparse.bench.scores import classification_scores, regression_scores

ABOUT = {
    "versions": {"python": "3.11", "uqsparse": "0.1.0"},
    "machine": {"processor": "a processor", "cores": 2, "system": "Linux", "architecture": "x86_64"},
    "date": "2025-01-02T03:04:05+00:00",
    "seed": 0,
    "suite": "quick",
    "only": [],
    "workers": "1 local process",
    "loaded": [],
    "fingerprint": "0123456789abcdef" * 4,
    "resumed": 0,
    "seconds": 61.0,
}
NASTY = "<script>alert('$x_1$ & more')</script>"


def entry(kind: str, name: str, status: str, details: dict, **more) -> EntryResult:
    return EntryResult(f"{kind}/{name}", kind, name, status, 1.0, details, **more)


def claim(name: str, status: str, value: float) -> EntryResult:
    details = {
        "value": value,
        "relation": "<=",
        "bound": 1.0,
        "comparator": "closed form",
        "detail": "20 seeds",
    }
    return entry("claim", name, status, {"system": "tempered SMC", **details})


def regression_row(method: str, draws: bool = False) -> EntryResult:
    rng = np.random.default_rng(len(method))
    prediction = rng.normal(size=(20, 30)) if draws else GaussianMixture(rng.normal(size=(2, 30)), 1.0)
    about = {"task": "diabetes", "method": method, "kind": "regression", "n_train": 9, "n_test": 30}
    about |= {"n_features": 1, "source": "somewhere", "licence": "free", "level": 0.9, "method_seconds": 0.5}
    return entry("score", f"diabetes / {method}", "measured", about | regression_scores(prediction, np.zeros(30)))


def class_row(method: str, certain: bool = False) -> EntryResult:
    rng = np.random.default_rng(len(method))
    p, y = rng.dirichlet([1, 1, 1], 30), rng.integers(3, size=30)
    if certain:
        p = np.eye(3)[(y + (np.arange(30) == 0)) % 3]
    about = {"task": "digits", "method": method, "kind": "classification", "n_train": 9, "n_test": 30}
    about |= {
        "n_features": 4,
        "n_classes": 3,
        "source": "",
        "licence": "",
        "level": 0.9,
        "method_seconds": 0.5,
    }
    return entry("score", f"digits / {method}", "measured", about | classification_scores(p, y, 3))


def contest(name: str, status: str, ratio: float) -> EntryResult:
    details = {
        "ours": "uqsparse",
        "peer": "peer",
        "at_least": 2.0,
        "unit": "run",
        "ratio": ratio,
        "ratio_low": ratio * 0.9,
        "ratio_high": ratio * 1.1,
        "ratios": [ratio * 0.8, ratio, ratio * 1.2],
        "cpu_ratio": None,
        "rounds": 3,
        "reached": status == "holds",
        "seconds": {"ours": 0.1, "peer": 0.1 * ratio},
        "first_seconds": {"ours": 1.0, "peer": 2.0},
        "work": None,
        "errors": {"ours": 0.01, "peer": 0.02},
    }
    return entry("speed", name, status, details)


def run_of(folder: Path, *entries: EntryResult) -> RunResult:
    return RunResult(entries, ABOUT, folder / "index.html", folder / "results.json")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_of(
        tmp_path_factory.mktemp("report"),
        claim("the evidence is right", "holds", 0.5),
        claim(f"nasty {NASTY}", "missed", 2.0),
        entry("claim", "broken", "failed", {"system": "NUTS"}, reason=f"ValueError: {NASTY}", traceback=NASTY),
        regression_row("NUTS"),
        regression_row("forest", draws=True),
        regression_row(NASTY),
        entry(
            "score",
            "diabetes / bad",
            "failed",
            {"task": "diabetes", "method": "bad", "kind": "regression"},
            reason="TypeError: no",
        ),
        class_row("ridge"),
        class_row("certain", certain=True),
        contest("faster", "holds", 3.0),
        contest("slower", "missed", 0.5),
        entry(
            "speed",
            "gpu",
            "not measured",
            {"ours": "a", "peer": "b", "at_least": 2.0, "unit": "run"},
            reason="no GPU here",
        ),
    )


@pytest.fixture(scope="module")
def source(everything: RunResult) -> str:
    return render(everything)


class Page(HTMLParser):
    """Collects what a browser would fetch or run, the ids, the text, and whether tags nest."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.fetched, self.ids, self.text, self.open, self.tags = [], [], "", [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_stands_alone(source):
    page = Page(source)
    assert page.open == []
    assert all(link == "results.json" or link.startswith("#") for link in page.fetched)
    assert "http" not in source
    assert "@import" not in source
    assert "url(http" not in source
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.fetched if link.startswith("#"))
    assert page.tags.count("svg") == 6  # CRPS, coverage, Brier, NLL, reliability, speed


def test_the_page_says_what_happened(source):
    text = " ".join(Page(source).text.split())
    for words in [
        "1 of 3 claims hold, 1 of 3 speed bars reached, 5 of 6 leaderboard rows measured. 2 entries failed.",
        "1 entry could not be measured here.",
        "the evidence is right",
        "✕ does not hold",
        "closed form",
        "≤ 1",
        "NUTS",
        "no GPU here",
        "TypeError: no",
        "3×",
        "∞",
        "without a finite value: certain",
        "a processor",
    ]:
        assert words in text


def test_text_of_users_is_shown_and_not_run(source):
    assert "<script" not in source
    assert NASTY in Page(source).text


def test_colours_follow_the_theme(source):
    assert "prefers-color-scheme: dark" in source
    plots = source[source.index("<svg") : source.rindex("</svg>")]
    assert "#0101" not in plots
    assert "var(--accent)" in plots


def test_a_run_of_one_kind_has_the_sections_of_that_kind_only(tmp_path):
    text = Page(render(run_of(tmp_path, claim("alone", "holds", 0.1)))).text
    assert "Leaderboards" not in text
    assert "Speed" not in text
    board = render(run_of(tmp_path, class_row("only one")))
    assert 'class="best"' not in board
    failed = entry("score", "t / m", "failed", {"task": "t", "method": "m", "kind": "regression"}, reason="E: e")
    assert "E: e" in Page(render(run_of(tmp_path, failed))).text


def test_results_json_holds_everything_in_standard_json(everything):
    write_report(everything)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads(everything.results.read_text(), parse_constant=refuse)
    assert data["all_hold"] is False
    assert data["seed"] == 0
    entries = [EntryResult.from_json(one) for one in data["entries"]]
    assert entries[8].details["scores"]["nll"] == float("inf")
    assert [one.to_json() for one in entries] == [one.to_json() for one in everything.entries]
    assert everything.report.read_text().startswith("<!doctype html>")
    assert not list(everything.report.parent.glob("*.part"))


def test_the_best_value_is_marked_without_colour(everything, source):
    rows = everything.leaderboards()["diabetes"]
    assert rows[-1].status == "failed"
    crps = [row.details["scores"]["crps"] for row in rows[:-1]]
    assert crps == sorted(crps)
    assert f'<span class="best" title="best of its column">{crps[0]:.3f}</span>' in source


def test_the_terminal_tables_fit_100_columns(everything):
    stream = io.StringIO()
    print_results(everything, Console(file=stream, width=100))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 100
    for words in [
        "✓ holds",
        "✕ does not hold",
        "NUTS",
        "✕ not reached",
        "no GPU here",
        "closed form",
        "2 entries failed",
    ]:
        assert words in text
    assert "<script>" in text  # shown as it is, not taken for markup


def test_names_in_square_brackets_are_no_markup(tmp_path):
    stream = io.StringIO()
    result = run_of(tmp_path, claim("[red]coverage[/red] of [0, 1]", "holds", 0.1))
    print_results(result, Console(file=stream, width=140))
    assert "[red]coverage[/red] of [0, 1]" in stream.getvalue()


def drawn_claim(name: str, *captions: str) -> EntryResult:
    pictures = []
    for caption in captions:
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1])
        axes.set_title("a title")
        pictures.append(vars(picture(figure, caption)))
    result = claim(name, "holds", 0.5)
    return entry("claim", name, "holds", {**result.details, "pictures": pictures})


def test_pictures_of_a_claim_stand_under_it(tmp_path):
    same = [drawn_claim("first", "how it looks", "how it looks"), drawn_claim("second", f"nasty {NASTY}")]
    result = run_of(tmp_path, *same, claim("third", "holds", 0.1))
    source = render(result)
    page = Page(source)
    assert page.open == []
    assert page.tags.count("svg") == 3
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.fetched if link.startswith("#"))
    for reference in re.findall(r"url\(#([^)]+)\)", source):
        assert reference in page.ids
    assert "http" not in source
    assert "<script" not in source
    text = " ".join(page.text.split())
    assert text.index("first") < text.index("how it looks") < text.index("second") < text.index("third")
    assert f"nasty {NASTY}." in page.text
    # Black, the first colour and text in black follow the page's theme.
    drawing = source[source.index("<svg") : source.rindex("</svg>")]
    assert not any(colour in drawing for colour in ("#000000", "#1f77b4", "#0101"))
    assert "fill: var(--ink)" in drawing
    write_report(result)
    again = [EntryResult.from_json(one) for one in json.loads(result.results.read_text())["entries"]]
    assert render(run_of(tmp_path, *again)) == source


def test_pictures_of_a_measured_claim_are_kept_as_data(empty_registry, write):
    path = write("""
    from uqsparse.bench.records import Picture

    @bench.claim("drawn", system="s")
    def drawn(context):
        return bench.Measured(0, "<=", 1, "c", pictures=(Picture("<svg><g/></svg>", "a caption", wide=False),))

    @bench.claim("plain", system="s")
    def plain(context):
        return bench.Measured(0, "<=", 1, "c")
    """)
    drawn = run_entry("claim/drawn", [str(path)], 0, True)
    assert drawn["status"] == "holds", drawn["reason"]
    assert drawn["details"]["pictures"] == [{"svg": "<svg><g/></svg>", "caption": "a caption", "wide": False}]
    assert "pictures" not in run_entry("claim/plain", [str(path)], 0, True)["details"]
