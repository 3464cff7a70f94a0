"""The registry: decorators, duplicates, users' files."""

import runpy

import pytest

from uqsparse import bench
from uqsparse.bench import loading, registry

pytestmark = pytest.mark.usefixtures("empty_registry")


def ids() -> list[str]:
    return [entry.id for entry in registry.entries()]


def test_decorators_return_the_function_and_register_it():
    @bench.claim("two is even", system="arithmetic")
    def even(context):
        return bench.Measured(0, "==", 0, "division")

    assert even(bench.Context(0, True)).holds
    assert ids() == ["claim/two is even"]


def test_tasks_meet_all_methods_of_their_kind_whoever_registers_them(write):
    built_in = write(
        """
        @bench.task("t", kind="regression")
        def t(context): ...
        @bench.method("m", kind="regression")
        def m(context, X_train, y_train, X_test): ...
        @bench.method("m", kind="classification", quick=False)
        def m2(context, X_train, y_train, X_test): ...
        """,
        "built_in.py",
    )
    user = write(
        """
        @bench.task("mine", kind="regression")
        def mine(context): ...
        @bench.method("my method", kind="regression", quick=False)
        def my_method(context, X_train, y_train, X_test): ...
        """,
        "user.py",
    )
    loading.load(built_in)
    loading.load(user)
    pairs = ["score/mine/m", "score/mine/my method", "score/t/m", "score/t/my method"]
    assert sorted(ids()) == sorted([*pairs, *(f"{one} + conformal" for one in pairs)])
    quick = {entry.id for entry in registry.entries() if entry.quick and not entry.conformal}
    assert quick == {"score/mine/m", "score/t/m"}


def test_a_name_is_used_once():
    @bench.claim("a", system="s")
    def one(context): ...

    def other(context): ...

    with pytest.raises(ValueError, match=r"claim 'a' is registered already, at line \d+ of test_registry.py"):
        bench.claim("a", system="s")(other)
    with pytest.raises(ValueError, match="claim 'a' is registered already"):
        bench.claim("a", system="s")(one)


def test_a_script_that_is_run_and_loaded_does_not_clash_with_itself(write):
    path = write("@bench.claim('a', system='s')\ndef f(c): ...\n")
    runpy.run_path(str(path), run_name="__main__")
    loading.load(path)
    assert ids() == ["claim/a"]


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: bench.task("t", kind="ranking"), "kind is 'ranking'"),
        (lambda: bench.method("a/b", kind="regression"), "must not contain '/'"),
        (lambda: bench.claim("  ", system="s"), "one line of text"),
        (lambda: bench.speed("s", ours="a", peer="b", at_least=0), "at_least is 0"),
        (lambda: bench.speed("s", ours="a", peer="b", at_least=float("nan")), "at_least is nan"),
    ],
)
def test_wrong_arguments_are_named(register, message):
    with pytest.raises(ValueError, match=message):
        register()


def test_decorating_something_else_is_refused():
    with pytest.raises(TypeError, match="expected a function"):
        bench.claim("a", system="s")(3)


def test_loading_a_bad_file_is_one_clear_line_and_leaves_nothing_behind(write, tmp_path):
    raising = write("@bench.claim('half', system='s')\ndef half(c): ...\n1 / 0\n", "raising.py")
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in [
        (tmp_path / "absent.py", "there is no file .*absent.py"),
        (tmp_path / "notes.txt", "notes.txt is not a Python file"),
        (tmp_path, "there is no file"),
        (raising, "raising.py: ZeroDivisionError: division by zero"),
        (write("def f(:\n", "syntax.py"), "syntax.py: SyntaxError"),
        (write("raise SystemExit(3)", "leaving.py"), "leaving.py: SystemExit: 3"),
        (write("", "empty.py"), "empty.py: registers no claim, task, method or speed contest"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            loading.load(path)
        assert "\n" not in str(caught.value)
    assert ids() == []


def test_a_changed_file_replaces_what_it_registered(write):
    path = write("@bench.claim('old', system='s')\ndef f(c): ...\n")
    loading.load(path)
    loading.load(path)
    assert ids() == ["claim/old"]
    write("@bench.claim('new', system='s')\ndef f(c): ...\n")
    loading.load(path)
    assert ids() == ["claim/new"]


def test_another_runs_files_do_not_mix_in(write):
    """What a long-lived worker or notebook loaded for an earlier run is gone in the next."""
    old = write("@bench.claim('same name', system='old')\ndef f(c): ...\n", "old.py")
    new = write("@bench.claim('same name', system='new')\ndef f(c): ...\n", "new.py")
    for path, system in [(old, "old"), (new, "new"), (old, "old")]:
        entry = loading.find("claim/same name", [str(path)])
        assert entry.parts[0].options["system"] == system
    loading.load_only([])
    assert ids() == []
    with pytest.raises(LookupError, match="knows no entry 'claim/same name'"):
        loading.find("claim/same name", [])


def test_a_file_may_import_its_neighbours(write):
    write("NAME = 'from the neighbour'\n", "neighbour_of_entries.py")
    path = write("import neighbour_of_entries\n@bench.claim(neighbour_of_entries.NAME, system='s')\ndef f(c): ...\n")
    loading.load(path)
    assert ids() == ["claim/from the neighbour"]


def test_entries_of_a_running_script_are_found_by_file():
    @bench.claim("a", system="s")
    def a(context): ...

    assert [path.name for path in loading.user_files()] == ["test_registry.py"]


def test_interactive_entries_are_refused_with_advice():
    namespace = {"bench": bench, "__name__": "__main__"}
    exec("@bench.claim('typed in', system='s')\ndef f(context): ...", namespace)
    with pytest.raises(ValueError, match="'typed in' was defined interactively; put it in a file"):
        loading.user_files()
