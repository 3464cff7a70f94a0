"""What is on disk: which run continues which, and that nothing of others is touched."""

import json

import pytest

from uqsparse.bench.results import EntryResult, write_json
from uqsparse.bench.store import Store, slug

WHAT = {"seed": 0, "quick": True, "fingerprint": "abc"}
IDS = ["claim/a", "claim/b", "claim/c"]


def result(entry_id: str) -> EntryResult:
    return EntryResult(entry_id, "claim", entry_id, "holds", 0.5, {"value": 1.0, "detail": "inf"})


@pytest.fixture
def store(tmp_path) -> Store:
    """A run of three entries of which two are finished."""
    store = Store(tmp_path / "deep" / "out")
    assert store.begin(WHAT, IDS, fresh=False) == {}
    store.keep(result("claim/a"))
    store.keep(result("claim/b"))
    return store


def test_the_same_run_continues(store):
    assert store.begin(WHAT, IDS, fresh=False) == {one: result(one) for one in ("claim/a", "claim/b")}
    assert len(store.begin(WHAT, IDS, fresh=False)) == 2


@pytest.mark.parametrize(
    ("what", "ids", "fresh"),
    [
        ({**WHAT, "seed": 1}, IDS, False),
        ({**WHAT, "quick": False}, IDS, False),
        ({**WHAT, "fingerprint": "abd"}, IDS, False),
        (WHAT, IDS[:2], False),
        (WHAT, IDS, True),
    ],
    ids=["seed", "mode", "program", "selection", "fresh"],
)
def test_another_run_starts_anew_and_clears_what_was_there(store, what, ids, fresh):
    assert store.begin(what, ids, fresh) == {}
    assert list((store.folder / "entries").iterdir()) == []


def test_after_a_complete_run_the_same_command_starts_anew(store):
    store.complete()
    assert store.begin(WHAT, IDS, fresh=False) == {}


def test_files_of_others_stay(store):
    other = store.folder / "entries" / "mine.json"
    other.write_text("{}")
    store.begin(WHAT, IDS, fresh=True)
    assert other.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"id": "claim/a"', '{"id": "claim/b"}', '{"id": "claim/a", "x": 1}'])
def test_a_damaged_file_counts_as_missing(store, content):
    (store.folder / "entries" / f"{slug('claim/a')}.json").write_text(content)
    assert list(store.finished(IDS)) == ["claim/b"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out: cannot write to"):
        Store(tmp_path / "file" / "out").begin(WHAT, IDS, fresh=False)


def test_slugs_of_similar_ids_differ():
    assert slug("claim/a b") != slug("claim/a-b")
    assert len(slug("claim/" + "very long " * 50)) < 100
