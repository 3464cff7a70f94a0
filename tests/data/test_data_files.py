"""Arrays from files: what goes in comes out, and what cannot be used is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from uqsparse.data import read_arrays

NUMBERS = st.floats(-1e300, 1e300, allow_nan=False)
ARRAYS = arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=4), elements=NUMBERS)


@given(x=ARRAYS, k=st.integers(-(2**40), 2**40))
def test_json_and_npz_round_trip(tmp_path_factory, x, k):
    folder = tmp_path_factory.mktemp("files")
    (folder / "d.json").write_text(json.dumps({"x": x.tolist(), "k": k}))
    np.savez(folder / "d.npz", x=x, k=k)
    for name in ("d.json", "d.npz"):
        entries = read_arrays(folder / name)
        np.testing.assert_array_equal(entries["x"], x)
        assert entries["k"] == k
        assert isinstance(entries["k"], int)  # a size, say, has to be a Python number


@given(table=arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=NUMBERS))
def test_csv_columns_and_stacked_columns(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("files") / "d.csv"
    rows = [f"{float(a)!r},{float(b)!r},{float(c)!r},{i}" for i, (a, b, c) in enumerate(table)]
    path.write_text("\n".join(["x[1],y , x[0],group", *rows]) + "\n\n", encoding="utf-8-sig")
    entries = read_arrays(path)
    assert set(entries) == {"x", "y", "group"}
    np.testing.assert_array_equal(entries["x"], table[:, [2, 0]])
    np.testing.assert_array_equal(entries["y"], table[:, 1])
    assert entries["group"].dtype.kind == "i"


def test_booleans_stay_booleans(tmp_path):
    (tmp_path / "d.json").write_text('{"a": [true, false], "b": true}')
    assert read_arrays(tmp_path / "d.json")["a"].dtype == bool
    assert read_arrays(tmp_path / "d.json")["b"] is True


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", "[1, 2]", "must hold one object"),
        ("d.json", "{}", "no entries"),
        ("d.json", '{"x": [[1, 2], [3]]}', "'x'.*ragged"),
        ("d.json", '{"x": [1, null]}', "'x'.*null"),
        ("d.json", '{"x": ["a"]}', "'x'.*must be numbers"),
        ("d.json", '{"x": []}', "'x'.*empty"),
        ("d.json", '{"x": [[1, 2], [3, NaN]]}', r"'x'.*1 NaN or infinite.*\[1, 1\]"),
        ("d.json", '{"x": Infinity}', "'x'.*NaN or infinite"),
        ("d.json", '{"x": 1', "not valid JSON"),
        ("d.json", b"\xff\xfe\x00", "not UTF-8"),
        ("d.npz", b"PK nothing", "not a readable NPZ"),
        ("d.npz", b"", "not a readable NPZ"),
        ("d.csv", "x,y\n", "header line and at least one row"),
        ("d.csv", "x,x\n1,2\n", "'x' twice"),
        ("d.csv", "x,\n1,2\n", "empty name"),
        ("d.csv", "x,y\n1,2\n3\n", "row 3.*1 fields, the header has 2"),
        ("d.csv", "x,sex\n1,2\n3,M\n", "column 'sex'.*'M' in row 3"),
        ("d.csv", "x,y\n1,\n", "column 'y'.*is empty in row 2"),
        ("d.csv", "x\n1\nnan\n", "'x'.*NaN"),
        ("d.csv", "x[0],x[2]\n1,2\n", r"x\[1\] lacks"),
        ("d.csv", "x,x[0]\n1,2\n", r"both a column 'x' and columns x\[...\]"),
        ("d.txt", "1", "must end in .json, .npz, .csv"),
    ],
)
def test_unusable_files_are_named_with_the_entry(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_arrays(path)
    assert name in str(caught.value)


def test_missing_numbers_are_nan_where_they_are_allowed(tmp_path):
    (tmp_path / "d.json").write_text('{"x": [1, null, 3], "z": [[1.5, null]]}')
    (tmp_path / "d.csv").write_text("x,y\n1,\n2,nan\n3,4\n")
    from_json = read_arrays(tmp_path / "d.json", allow_missing=True)
    np.testing.assert_array_equal(from_json["x"], [1, np.nan, 3])
    np.testing.assert_array_equal(from_json["z"], [[1.5, np.nan]])
    from_csv = read_arrays(tmp_path / "d.csv", allow_missing=True)
    np.testing.assert_array_equal(from_csv["y"], [np.nan, np.nan, 4])
    assert from_csv["x"].dtype == int
    (tmp_path / "d.json").write_text('{"x": [1, "a", null]}')
    with pytest.raises(ValueError, match=r"'x'.*must be numbers"):
        read_arrays(tmp_path / "d.json", allow_missing=True)
    (tmp_path / "d.json").write_text('{"x": [1, Infinity, NaN]}')
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_arrays(tmp_path / "d.json", allow_missing=True)


def test_pickles_and_missing_files(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"'x'.*Python objects"):
        read_arrays(tmp_path / "d.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_arrays(tmp_path / "none.json")
