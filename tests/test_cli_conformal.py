"""`uqsparse conformal` as a user meets it: what it writes, checked by hand, and how it refuses."""

import json
import math
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import assert_one_error_line, read_csv, succeeded, write_csv

RNG = np.random.default_rng(0)


def run(*arguments):
    return command_line.run("conformal", *arguments)


def report(folder="out"):
    return json.loads((Path(folder) / "report.json").read_text())


def threshold(scores, alpha):
    """By the definition: the ceil((n + 1)(1 - alpha))-th smallest."""
    rank = math.ceil(round((len(scores) + 1) * (1 - alpha), 6))
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def regression(n, n_unlabelled=0):
    mean, sd = RNG.normal(size=n), RNG.uniform(0.5, 2, n)
    y = (mean + sd * RNG.normal(size=n)).tolist()
    return {"y": y[: n - n_unlabelled] + [""] * n_unlabelled, "mean": mean.tolist(), "sd": sd.tolist()}


def classification(n, labels):
    probabilities = RNG.dirichlet(np.ones(len(labels)), size=n)
    y = [labels[RNG.choice(len(labels), p=row)] for row in probabilities]
    return {"y": y, **{f"p_{label}": probabilities[:, k].tolist() for k, label in enumerate(labels)}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_half_of_the_labelled_rows_calibrates_and_the_rest_is_covered():
    columns = regression(120)
    result = succeeded(
        run("intervals", write_csv(Path("p.csv"), columns), "--alpha", 0.1, "--alpha", 0.3, "--out", "out")
    )
    assert "60 calibration rows, drawn at random; 60 test rows, 60 of them labelled" in result.stdout
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "coverage.png",
        "intervals.csv",
        "intervals.png",
        "report.json",
        "report.md",
    ]
    rows = read_csv("out/intervals.csv")
    test = sorted({int(row["row"]) - 2 for row in rows})
    known = [i for i in range(120) if i not in test]
    y, mean, sd = (np.array(columns[name]) for name in ("y", "mean", "sd"))
    scores = abs(y - mean) / sd
    found = report()
    assert (found["score"], found["calibration_rows"], found["random_split"]) == ("normalised", 60, True)
    for alpha, level in zip((0.1, 0.3), found["levels"], strict=True):
        assert level["threshold"] == pytest.approx(threshold(scores[known], alpha), rel=1e-12)
        some = [row for row in rows if float(row["alpha"]) == alpha]
        assert [int(row["row"]) - 2 for row in some] == test
        for row, i in zip(some, test, strict=True):
            assert float(row["lower"]) == pytest.approx(mean[i] - level["threshold"] * sd[i], rel=1e-12)
            assert float(row["upper"]) == pytest.approx(mean[i] + level["threshold"] * sd[i], rel=1e-12)
            assert float(row["y"]) == y[i]
            assert int(row["covered"]) == (scores[i] <= level["threshold"])
            assert float(row["pvalue"]) == pytest.approx((1 + (scores[known] >= scores[i]).sum()) / 61, rel=1e-5)
        assert level["coverage"]["value"] == pytest.approx(np.mean([int(row["covered"]) for row in some]))
        assert level["coverage"]["expected"]["low"] < 1 - alpha < level["coverage"]["expected"]["high"]
        assert level["guarantee"]["kind"] == "marginal"
        assert level["size"]["mean"] == pytest.approx(2 * level["threshold"] * sd[test].mean())
    text = Path("out/report.md").read_text()
    assert "| 0.9 |" in text
    assert "covers at least 0.9, 0.7 of new observations" in text


def test_rows_without_a_label_are_predicted_from_all_that_have_one():
    columns = regression(50, n_unlabelled=10)
    path = write_csv(Path("p.csv"), columns)
    succeeded(run("intervals", path, "--score", "absolute", "--out", "out"))
    rows = read_csv("out/intervals.csv")
    assert [int(row["row"]) for row in rows] == list(range(42, 52))
    assert {row[name] for row in rows for name in ("y", "covered", "pvalue")} == {""}
    scores = [abs(y - mean) for y, mean in zip(columns["y"][:40], columns["mean"][:40], strict=True)]
    assert float(rows[0]["upper"]) == pytest.approx(columns["mean"][40] + threshold(scores, 0.1))
    assert report()["levels"][0]["coverage"] is None
    assert not Path("out/coverage.png").exists()

    # The same folder, now with a share to evaluate on: files are replaced, and others stay.
    Path("out/mine.txt").write_text("kept")
    succeeded(run("intervals", path, "--evaluate", 0.25, "--out", "out"))
    assert (report()["calibration_rows"], report()["labelled_test_rows"], report()["test_rows"]) == (30, 10, 20)
    assert Path("out/coverage.png").exists()
    succeeded(run("intervals", path, "--out", "out"))
    assert not Path("out/coverage.png").exists()
    assert Path("out/mine.txt").read_text() == "kept"
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_quantiles_are_calibrated_by_default_where_they_are_given():
    columns = regression(100)
    columns["lower"] = [mean - 1 for mean in columns["mean"]]
    columns["upper"] = [mean + 1 for mean in columns["mean"]]
    succeeded(run("intervals", write_csv(Path("p.csv"), columns), "--out", "out"))
    assert report()["score"] == "quantile"
    width = 2 + 2 * report()["levels"][0]["threshold"]
    assert report()["levels"][0]["size"]["mean"] == pytest.approx(width)


def grouped(n):
    columns = regression(n)
    columns["group"] = [["a", "b"][i % 2] for i in range(n)]
    # Their errors differ much, so that what is pooled shows.
    columns["y"] = [
        mean + (1, 9)[i % 2] * (y - mean) for i, (y, mean) in enumerate(zip(columns["y"], columns["mean"], strict=True))
    ]
    columns["split"] = ["calibration"] * (n // 2) + ["Test"] * (n - n // 2)
    return columns


def test_each_group_has_its_threshold_and_unseen_ones_infinite_intervals():
    columns = grouped(80)
    columns["group"][-1] = "new"
    result = succeeded(run("intervals", write_csv(Path("p.csv"), columns), "--score", "absolute", "--out", "out"))
    scores = abs(np.array(columns["y"]) - np.array(columns["mean"]))
    groups, level = np.array(columns["group"]), report()["levels"][0]
    assert list(level["threshold"]) == ["a", "b"]
    for name, found in level["threshold"].items():
        assert found == pytest.approx(threshold(scores[:40][groups[:40] == name], 0.1))
    rows = read_csv("out/intervals.csv")
    assert (rows[-1]["group"], rows[-1]["lower"], rows[-1]["upper"]) == ("new", "-inf", "inf")
    assert "no calibration observation in group(s) 'new'" in result.stdout.replace("\n", "")
    assert (level["size"]["n_infinite"], level["size"]["mean"]) == (1, "inf")
    parts = {part["name"]: part for part in level["coverage_by"]["group"]}
    assert {name: part["n"] for name, part in parts.items()} == {"a": 20, "b": 19, "new": 1}
    assert parts["a"]["expected"]["mean"] == pytest.approx(19 / 21)
    assert level["guarantee"]["kind"] == "group"
    for row in rows:
        assert int(row["covered"]) == (float(row["pvalue"]) > 0.1)


def test_marginal_uses_groups_in_the_report_only():
    succeeded(run("intervals", write_csv(Path("p.csv"), grouped(80)), "--marginal", "--out", "out"))
    level = report()["levels"][0]
    assert isinstance(level["threshold"], float)
    assert [part["name"] for part in level["coverage_by"]["group"]] == ["a", "b"]


def test_weights_count_as_in_the_definition():
    columns = {**grouped(80), "weight": RNG.exponential(size=80).tolist()}
    del columns["group"]
    path = write_csv(Path("p.csv"), columns)
    succeeded(run("intervals", path, "--score", "absolute", "--out", "out"))
    scores, weights = abs(np.array(columns["y"]) - np.array(columns["mean"])), np.array(columns["weight"])
    order = np.argsort(scores[:40])
    for row in read_csv("out/intervals.csv"):
        i = int(row["row"]) - 2
        share = np.cumsum(weights[:40][order]) / (weights[:40].sum() + weights[i])
        reached = scores[:40][order][share >= 0.9]
        upper = columns["mean"][i] + (reached[0] if len(reached) else math.inf)
        assert float(row["upper"]) == pytest.approx(upper)
        assert int(row["covered"]) == (float(row["pvalue"]) > 0.1)
    found = report()
    assert found["effective_sample_size"] == pytest.approx(weights[:40].sum() ** 2 / (weights[:40] ** 2).sum())
    assert found["levels"][0]["guarantee"]["kind"] == "marginal"
    succeeded(run("intervals", path, "--estimated-weights", "--out", "out"))
    assert report()["levels"][0]["guarantee"]["kind"] == "approximate"


def test_label_sets_hold_what_is_probable_enough():
    columns = classification(90, ["cat", "dog", "eel"])
    columns["y"][60:] = [""] * 30
    result = succeeded(run("sets", write_csv(Path("p.csv"), columns), "--alpha", 0.2, "--out", "out"))
    assert "unbounded" not in result.stdout
    probabilities = np.array([columns[f"p_{label}"] for label in ("cat", "dog", "eel")]).T
    y = np.array([["cat", "dog", "eel"].index(label) for label in columns["y"][:60]])
    limit = threshold(1 - probabilities[np.arange(60), y], 0.2)
    assert report()["levels"][0]["threshold"] == pytest.approx(limit)
    for row in read_csv("out/sets.csv"):
        i = int(row["row"]) - 2
        expected = [label for label, p in zip(("cat", "dog", "eel"), probabilities[i], strict=True) if 1 - p <= limit]
        assert row["labels"] == "|".join(expected)
        assert int(row["size"]) == len(expected)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "report.json",
        "report.md",
        "set_sizes.png",
        "sets.csv",
    ]


def test_labels_are_named_or_numbered():
    columns = classification(60, ["0", "1", "2"])
    decimal = {**columns, "y": [f"{label}.0" for label in columns["y"]]}
    place = {name.replace("p_", "p_label "): column for name, column in columns.items()}
    found = []
    for spelling in (columns, decimal, place):
        succeeded(run("sets", write_csv(Path("p.csv"), spelling), "--out", "out"))
        found.append([row["covered"] for row in read_csv("out/sets.csv")])
    assert found[0] == found[1] == found[2]


def test_a_threshold_a_label_and_randomised_scores():
    path = write_csv(Path("p.csv"), classification(200, ["a", "b"]))
    succeeded(run("sets", path, "--by-label", "--out", "out"))
    assert list(report()["levels"][0]["threshold"]) == ["a", "b"]
    assert report()["levels"][0]["guarantee"]["kind"] == "group"
    for row in read_csv("out/sets.csv"):
        assert int(row["covered"]) == (float(row["pvalue"]) > 0.1)
    for seed, out in ((1, "one"), (1, "again"), (2, "two")):
        succeeded(run("sets", path, "--score", "raps", "--lam", 0.1, "--k-reg", 1, "--seed", seed, "--out", out))
    one, again, two = (Path(out, "sets.csv").read_bytes() for out in ("one", "again", "two"))
    assert one == again != two


def test_rounded_probabilities_are_scaled_with_a_word():
    columns = classification(60, ["a", "b", "c"])
    for name in ("p_a", "p_b", "p_c"):
        columns[name] = [f"{value:.3f}" for value in columns[name]]
    result = succeeded(run("sets", write_csv(Path("p.csv"), columns), "--out", "out"))
    assert "sum to 1 only after rounding" in " ".join(result.stdout.split())


def test_test_rows_from_elsewhere_raise_an_alarm():
    columns = grouped(200)
    del columns["group"]
    columns["y"][100:] = [3 * y for y in columns["y"][100:]]
    result = succeeded(run("intervals", write_csv(Path("p.csv"), columns), "--out", "out"))
    assert "test rows differ from calibration rows" in " ".join(result.stdout.split())


def test_too_few_rows_give_infinite_intervals_and_a_warning():
    result = succeeded(run("intervals", write_csv(Path("p.csv"), regression(12)), "--out", "out"))
    assert "a threshold is infinite" in result.stdout
    assert report()["levels"][0]["threshold"] == "inf"
    assert {row["upper"] for row in read_csv("out/intervals.csv")} == {"inf"}


def test_it_is_written_whole_or_not_at_all(monkeypatch):
    path = write_csv(Path("p.csv"), regression(60))
    succeeded(run("intervals", path, "--out", "out"))
    before = {one.name: one.read_bytes() for one in Path("out").iterdir()}

    def fails(outcome):
        raise OSError(28, "No space left on device", "intervals.png")

    monkeypatch.setattr("uqsparse.cli.conformal_plots.intervals_figure", fails)
    result = run("intervals", path, "--seed", 5, "--out", "out")
    assert (result.exit_code, result.stderr) == (2, "error: No space left on device: intervals.png\n")
    assert {one.name: one.read_bytes() for one in Path("out").iterdir()} == before
    assert run("intervals", path, "--out", "other").exit_code == 2
    assert sorted(one.name for one in Path().iterdir()) == ["out", "p.csv"]


INTERVALS = "y,mean,sd\n1,1,1\n2,2,1\n3,3,1\n,3,1\n"
SETS = "y,p_a,p_b\na,0.5,0.5\nb,0.25,0.75\n,0.5,0.5\n"


@pytest.mark.parametrize(
    ("kind", "content", "options", "parts"),
    [
        ("intervals", "mean\n1\n", [], ["no column 'y'; it has 'mean'"]),
        ("intervals", "y,mu\n1,1\n", [], ["no column 'mean' and no columns 'lower' and 'upper'"]),
        ("intervals", "y,lower\n1,1\n", [], ["lacks a column of 'lower' and 'upper'"]),
        ("intervals", "y,mean,prediction\n1,1,1\n", [], ["'mean' and a column 'prediction'"]),
        ("intervals", INTERVALS.replace("2,2,1", "2,two,1"), [], ["column 'mean'", "holds 'two' in row 3"]),
        ("intervals", INTERVALS.replace("2,2,1", "2,,1"), [], ["column 'mean'", "is empty in row 3"]),
        ("intervals", INTERVALS.replace("2,2,1", "x,2,1"), [], ["column 'y'", "holds 'x' in row 3"]),
        ("intervals", INTERVALS.replace("2,2,1", "2,inf,1"), [], ["holds 'inf' in row 3; it must be a finite number"]),
        ("intervals", INTERVALS.replace("2,2,1", "2,2,0"), [], ["column 'sd'", "holds '0' in row 3", "positive"]),
        ("intervals", INTERVALS.replace("2,2,1", "2,2"), [], ["row 3", "has 2 fields, the header has 3"]),
        ("intervals", "y,mean\n,1\n", [], ["no row", "has a label"]),
        ("intervals", "y,mean,mean\n1,1,1\n", [], ["'mean' twice"]),
        ("intervals", INTERVALS, ["--alpha", 1.5], ["alpha must lie strictly between 0 and 1, got 1.5"]),
        ("intervals", INTERVALS, ["--score", "quantile"], ["'lower' and 'upper', which quantile need"]),
        ("intervals", INTERVALS, ["--evaluate", 1], ["--evaluate must lie strictly between 0 and 1"]),
        ("intervals", INTERVALS, ["--evaluate", 0.01], ["3 labelled row(s) cannot be split"]),
        ("intervals", INTERVALS, ["--estimated-weights"], ["has no column 'weight'"]),
        ("intervals", "y,mean,weight\n1,1,1\n,1,-1\n", [], ["column 'weight'", "holds '-1' in row 3"]),
        ("intervals", "y,mean,weight\n1,1,1\n2,1,1\n", [], ["column 'weight'", "column 'split'"]),
        ("intervals", "y,mean,weight\n1,1,0\n,1,1\n", [], ["not all zero"]),
        ("intervals", "y,mean,group\n1,1,a\n2,1,\n", [], ["column 'group'", "is empty in row 3"]),
        ("intervals", "y,mean,split\n1,1,train\n2,1,test\n", [], ["column 'split'", "'train' in row 2"]),
        ("intervals", "y,mean,split\n,1,calibration\n2,1,test\n", [], ["row 2", "is to calibrate and has no y"]),
        ("intervals", "y,mean,split\n1,1,test\n", [], ["no row", "is to calibrate"]),
        ("intervals", "y,mean,split\n1,1,calibration\n", [], ["no row", "is to be predicted"]),
        ("intervals", "y,mean,split\n1,1,calibration\n2,1,test\n", ["--evaluate", 0.5], ["give one of them"]),
        ("intervals", "y,mean,group,weight\n1,1,a,1\n,1,a,1\n", [], ["'weight' and the column 'group'", "--marginal"]),
        ("sets", "y,p_a\na,1\n", [], ["has 1 columns of probabilities"]),
        ("sets", SETS.replace("0.75", "0.5"), [], ["sum to 0.75 in row 3; they must sum to 1"]),
        ("sets", SETS.replace("0.25,0.75", "-0.25,1.25"), [], ["column 'p_a'", "holds '-0.25' in row 3"]),
        ("sets", SETS.replace("b,0.25", "c,0.25"), [], ["column 'y'", "holds 'c' in row 3; the labels are a, b"]),
        ("sets", SETS.replace("b,0.25", "2,0.25"), [], ["holds '2' in row 3"]),
        ("sets", SETS.replace("p_a", "p_a|z"), [], ["label 'a|z'"]),
        ("sets", SETS, ["--k-reg", 1], ["--k-reg has no meaning for --score lac"]),
        ("sets", SETS, ["--score", "raps", "--lam", -1], ["lam must be at least 0"]),
        ("sets", SETS, ["--score", "hinge"], ["hinge"]),
        ("sets", "y,group,p_a,p_b\na,g,0.5,0.5\n,g,0.5,0.5\n", ["--by-label"], ["--by-label and the column 'group'"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(kind, content, options, parts):
    Path("p.csv").write_text(content)
    assert_one_error_line(run(kind, "p.csv", *options, "--out", "out"), *parts)
    assert [path.name for path in Path().iterdir()] == ["p.csv"]


def test_bad_places_are_refused():
    write_csv(Path("p.csv"), regression(20))
    assert_one_error_line(run("intervals", "no.csv", "--out", "out"), "'no.csv' does not exist")
    assert_one_error_line(run("intervals", "p.csv", "--out", "no/out"), "directory", "does not exist")
    Path("file").write_text("")
    result = run("intervals", "p.csv", "--out", "file")
    assert_one_error_line(result, "--out: 'file' is a file")
    assert_one_error_line(run("intervals", "p.csv"), "--out")


def test_the_group_of_commands_helps_itself():
    result = succeeded(run())
    assert "intervals" in result.stdout
    assert "sets" in result.stdout
