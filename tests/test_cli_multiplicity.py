"""`uqsparse multiplicity` as a user meets it: what it writes, checked by a constrained fit, and how it refuses."""

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import assert_one_error_line, read_csv, succeeded, write_csv
from scipy.optimize import minimize
from scipy.special import expit

N = 60


def run(*arguments):
    return command_line.run("multiplicity", *arguments)


def persons():
    rng = np.random.default_rng(5)
    income, place = rng.normal(3000, 800, N), rng.choice(["town", "country", "coast"], N)
    default = rng.uniform(size=N) < expit((2500 - income) / 800 + (place == "coast"))
    return {
        "name": [f"p{i}" for i in range(N)],
        "income": income.tolist(),
        "place": place.tolist(),
        "default": ["yes" if one else "no" for one in default],
    }


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def report():
    return json.loads(Path("out/report.json").read_text())


def features(columns):
    """The features as the documentation describes them: standardised, a category a column of its own."""
    place = np.array(columns["place"])
    X = np.column_stack([columns["income"], *(place == name for name in ("coast", "country", "town"))]).astype(float)
    return (X - X.mean(axis=0)) / X.std(axis=0)


def test_ranges_are_those_of_constrained_fits():
    columns = persons()
    path = write_csv("p.csv", columns)
    roles = ("--target", "default", "--positive", "yes", "--id", "name", "--group", "place")
    result = succeeded(run(path, *roles, "--time-limit", "1", "--out", "out"))
    rows = read_csv("out/persons.csv")
    assert [row["person"] for row in rows] == columns["name"]
    X, y = np.column_stack([np.ones(N), features(columns)]), np.array(columns["default"]) == "yes"

    def loss(w):
        return np.logaddexp(0, np.where(y, -1, 1) * (X @ w)).mean() + 5e-4 * (w[1:] ** 2).sum()

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    assert report()["level"]["level"] == pytest.approx(1.01 * best.fun, rel=1e-6)
    for i in (0, 17):
        assert float(rows[i]["risk"]) == pytest.approx(expit(X[i] @ best.x), abs=1e-4)
        for name, sign in (("lowest", 1), ("highest", -1)):
            constraint = {"type": "ineq", "fun": lambda w: 1.01 * best.fun - loss(w)}
            far = minimize(lambda w, i=i, s=sign: s * (X[i] @ w), best.x, constraints=constraint, method="SLSQP")
            assert float(rows[i][name]) == pytest.approx(expit(X[i] @ far.x), abs=1e-4)
    moved = [float(row["change"]) >= 0.1 for row in rows]
    assert [row["contestable"] == "1" for row in rows] == moved
    contestable = read_csv("out/contestable.csv")
    changes = [float(row["change"]) for row in contestable]
    assert len(contestable) == sum(moved) == report()["contestable"]
    assert changes == sorted(changes, reverse=True)
    groups = {one["name"]: one for one in report()["groups"]["place"]}
    inside = [m for m, place in zip(moved, columns["place"], strict=True) if place == "coast"]
    assert groups["coast"]["n"] == len(inside)
    assert groups["coast"]["contestable"] == pytest.approx(np.mean(inside))
    one = report()["discrepancy"]
    assert one["lower"] <= one["upper"] <= report()["ambiguity"]["upper"]
    for name in ("ranges", "ambiguity", "groups"):
        assert Path(f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{sum(moved)} of {N} persons" in result.stdout.replace("\n", " ")
    assert "## By place" in Path("out/report.md").read_text()


def test_a_mass_decides_the_tolerance_and_nothing_else_is_written():
    columns = persons()
    del columns["name"], columns["place"]
    write_csv("p.csv", columns)
    succeeded(run("p.csv", "--target", "default", "--mass", "0.9", "--time-limit", "0", "--out", "out"))
    assert report()["discrepancy"] is None
    # two coefficients: the 0.9 quantile of chi squared is 4.605
    assert report()["level"]["level"] == pytest.approx(report()["level"]["minimum"] + 4.60517 / (2 * N), rel=1e-6)
    assert not Path("out/groups.png").exists()
    assert report()["positive"] == min(("yes", "no"), key=columns["default"].count)


def test_incomplete_rows_are_refused_or_left_out_as_asked():
    columns = persons()
    columns["income"][3] = ""
    columns["place"][7] = "NA"
    write_csv("p.csv", columns)
    ask = ("p.csv", "--target", "default", "--ignore", "name", "--out", "out", "--time-limit", "0")
    assert_one_error_line(run(*ask), "'income'", "row 5", "2 rows", "--drop-incomplete")
    result = succeeded(run(*ask, "--drop-incomplete"))
    assert f"2 of {N} rows lack a value" in result.stdout.replace("\n", " ")
    rows = [int(row["row"]) for row in read_csv("out/persons.csv")]
    assert rows == [i + 2 for i in range(N) if i not in (3, 7)]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--target", "defalt"), ("no column 'defalt'", "'default'")),
        (("--target", "place"), ("'place'", "3 value(s)")),
        (("--target", "default", "--positive", "maybe"), ("--positive", "'maybe'", "'no', 'yes'")),
        (("--target", "default", "--delta", "1"), ("--delta", "between 0 and 1")),
        (("--target", "default", "--decision", "0"), ("--decision", "between 0 and 1")),
        (("--target", "default", "--ignore", "name", "--epsilon", "0"), ("epsilon", "positive")),
        (("--target", "default", "--epsilon", "0.1", "--mass", "0.9"), ("--mass", "one of the two")),
        (("--target", "default"), ("'name'", "60 different texts", "--id name")),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, parts):
    write_csv("p.csv", persons())
    assert_one_error_line(run("p.csv", *arguments, "--out", "out"), *parts)


def test_separable_outcomes_without_a_penalty_are_refused_with_the_reason():
    columns = persons()
    columns["default"] = ["yes" if income > 3000 else "no" for income in columns["income"]]
    write_csv("p.csv", columns)
    ask = ("p.csv", "--target", "default", "--ignore", "name", "--l2", "0", "--out", "out")
    assert_one_error_line(run(*ask), "separable")
