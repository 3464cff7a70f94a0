"""The packaged tables hold what their sources say; the generator has the truth it states."""

import numpy as np
import pytest

from uqsparse.data import breast_cancer, diabetes, digits, eight_schools, heteroscedastic_regression


def test_diabetes():
    table = diabetes()
    assert (table.X.shape, table.y.shape) == ((442, 10), (442,))
    assert table.feature_names[:4] == ("age", "sex", "bmi", "bp")
    assert table.y.sum() == 67243  # mean 152.13
    assert (table.X[:, 0].min(), table.X[:, 0].max()) == (19, 79)  # ages in years, not scaled


def test_breast_cancer():
    table = breast_cancer()
    assert (table.X.shape, len(table.feature_names)) == ((569, 30), 30)
    assert np.bincount(table.y).tolist() == [212, 357]  # malignant, benign
    assert table.X[:, 0].mean() == pytest.approx(14.127, abs=1e-3)


def test_digits():
    table = digits()
    assert table.X.shape == (1797, 64)
    assert (table.X.min(), table.X.max()) == (0, 16)
    assert np.bincount(table.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert table.X.sum() == 561718


def test_eight_schools():
    schools = eight_schools()
    assert schools.effect.sum() == 70
    assert schools.standard_error.sum() == 100
    # Rubin's pooled estimate and its standard error.
    weights = schools.standard_error**-2
    assert np.average(schools.effect, weights=weights) == pytest.approx(7.7, abs=0.05)
    assert weights.sum() ** -0.5 == pytest.approx(4.1, abs=0.05)


@pytest.mark.parametrize("load", [diabetes, breast_cancer, digits, eight_schools])
def test_every_table_says_where_it_is_from_and_hands_out_its_own_arrays(load):
    record = load()
    assert len(record.source) > 20
    assert record.licence
    first = record[0]
    first += 1
    assert not np.array_equal(load()[0], first)


def test_heteroscedastic_regression_is_reproducible_and_has_its_noise():
    data = heteroscedastic_regression(seed=3, n=20_000)
    assert data.X.shape == (20_000, 1)
    np.testing.assert_array_equal(data.y, heteroscedastic_regression(seed=3, n=20_000).y)
    assert not np.array_equal(data.y, heteroscedastic_regression(seed=4, n=20_000).y)
    np.testing.assert_allclose(data.mean, 2 * np.sin(2 * np.pi * data.X[:, 0]))
    residual = data.y - data.mean
    # Standard deviations of about 2000 normals: relative standard error 0.016, so 0.08 is five of them.
    left, right = data.X[:, 0] < 0.1, data.X[:, 0] > 0.9
    assert residual[left].std() == pytest.approx(0.55, rel=0.08)
    assert residual[right].std() == pytest.approx(1.45, rel=0.08)
    with pytest.raises(ValueError, match="n must be at least 1"):
        heteroscedastic_regression(seed=0, n=0)
