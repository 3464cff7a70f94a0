"""What the tests of the command line share: how they call it, and how it succeeds and refuses."""

import csv
from pathlib import Path

from typer.testing import CliRunner

from uqsparse.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def succeeded(result):
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


def assert_one_error_line(result, *parts):
    """It refuses, in one line that says these things, and leaves no folder `out` behind."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr
    assert result.stdout == ""
    assert not Path("out").exists()


def write_csv(path, columns):
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return Path(path)


def read_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))
