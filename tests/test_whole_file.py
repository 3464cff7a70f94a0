"""Files that appear whole or not at all."""

import os

import pytest

from uqsparse.whole_file import whole_file


def test_an_interrupted_write_leaves_the_older_file_and_no_other(tmp_path):
    path = tmp_path / "answer"
    path.write_text("old")

    def interrupted():
        with whole_file(path) as draft:
            draft.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answer"]


def test_a_complete_write_replaces_it_with_the_permissions_of_a_new_file(tmp_path):
    path, plain = tmp_path / "answer", tmp_path / "plain"
    path.write_text("old")
    plain.write_text("")
    with whole_file(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_missing_folder_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "answer"):
        raise AssertionError("the block must not run")
