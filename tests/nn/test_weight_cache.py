"""The cache of converted weights: kept, checked, and made anew when damaged."""

import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from uqsparse.nn.weight_cache import cached_weights, checksum, default_cache_dir

pytest.importorskip("safetensors", reason="needs the extra lm")

WEIGHTS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], ml_dtypes.bfloat16),
    "t": np.arange(6.0).reshape(2, 3).T,  # not contiguous
}


class Converter:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return '{"sizes": 3}', dict(WEIGHTS)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.gguf"
    path.write_bytes(b"some weights")
    return path


def assert_right(result):
    description, weights = result
    assert description == '{"sizes": 3}'
    assert weights.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        assert weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)


def test_the_second_time_nothing_is_converted(source, tmp_path):
    convert = Converter()
    for _ in range(2):
        assert_right(cached_weights(source, "v1", convert, tmp_path / "cache"))
    assert convert.calls == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and no temporary file


def test_another_source_or_label_is_another_entry(source, tmp_path):
    convert = Converter()
    cached_weights(source, "v1", convert, tmp_path)
    cached_weights(source, "v2", convert, tmp_path)
    source.write_bytes(b"other weights")
    cached_weights(source, "v2", convert, tmp_path)
    assert convert.calls == 3


def _flip(place):
    def damage(content):
        content = bytearray(content)
        content[place] ^= 1
        return bytes(content)

    return damage


def _without_checksum(content):
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["checksum"]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _other_description(content):
    return content.replace(rb"sizes\": 3", rb"sizes\": 4")


DAMAGES = {
    "last": _flip(-1),
    "number": _flip(-40),
    "length": _flip(0),
    "header": _flip(20),
    "cut": lambda content: content[:-5],
    "cut-header": lambda content: content[:30],
    "nothing": lambda content: b"",
    "longer": lambda content: content + b"x",
    "no-checksum": _without_checksum,
    "description": _other_description,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_anew_with_a_warning(source, tmp_path, damage):
    convert = Converter()
    cached_weights(source, "v1", convert, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    before = entry.read_bytes()
    assert damage(before) != before
    entry.write_bytes(damage(before))
    with pytest.warns(UserWarning, match="are damaged"):
        assert_right(cached_weights(source, "v1", convert, tmp_path / "cache"))
    assert convert.calls == 2
    assert_right(cached_weights(source, "v1", convert, tmp_path / "cache"))
    assert convert.calls == 2


def test_a_folder_that_cannot_be_written_is_told(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept in"):
        assert_right(cached_weights(source, "v1", Converter(), tmp_path / "file" / "cache"))


def test_a_writer_that_fails_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="no space left"):
        cached_weights(source, "v1", Converter(), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "uqsparse" / "weights"
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert default_cache_dir() == Path.home() / ".cache" / "uqsparse" / "weights"


def test_the_checksum_sees_names_types_and_shapes():
    a = np.zeros((2, 3), np.float32)
    variants = [("", {"a": a}), ("x", {"a": a}), ("", {"b": a}), ("", {"a": a.T}), ("", {"a": a.astype(np.int32)})]
    variants += [("", {"a": a, "b": a}), ("", {"a": a + 1})]
    assert len({checksum(*variant) for variant in variants}) == len(variants)
