"""The series hold what their sources say; generated ones have the law they state."""

import subprocess
import sys

import numpy as np
import pytest

from uqsparse.data import (
    inflation,
    linear_gaussian_series,
    nile,
    stochastic_volatility_series,
    sunspots,
    treasury_bill,
)


def test_nile():
    series = nile()
    assert (series.times[0], series.times[-1], len(series.values)) == (1871, 1970, 100)
    assert series.values.mean() == pytest.approx(919.35)
    # Cobb's change point.
    before, after = series.values[series.times < 1899], series.values[series.times >= 1899]
    assert before.mean() - after.mean() == pytest.approx(247.8, abs=0.1)


def test_inflation_is_the_growth_of_the_price_index():
    from statsmodels.datasets import macrodata

    series = inflation()
    assert (series.times[0], series.times[-1], len(series.values)) == (1959.25, 2009.5, 202)
    prices = macrodata.load_pandas().data["cpi"].to_numpy()
    np.testing.assert_allclose(series.values, 400 * np.diff(np.log(prices)), atol=0.006)  # two decimals


def test_treasury_bill():
    series = treasury_bill()
    assert (series.times[0], series.times[-1], len(series.values)) == (1959, 2009.5, 203)
    assert series.times[series.values.argmax()] == 1981.25
    assert (series.values.min(), series.values.max()) == (0.12, 15.33)
    np.testing.assert_allclose(np.diff(series.times), 0.25)
    # The changes are nearly uncorrelated, their sizes are not: twice and six times 1 / sqrt(n).
    changes = np.diff(series.values)
    assert abs(autocorrelation(changes)) < 2 / np.sqrt(202)
    assert autocorrelation(abs(changes)) > 6 / np.sqrt(202)


def test_sunspots():
    series = sunspots()
    assert (series.times[0], series.times[-1], len(series.values)) == (1700, 2008, 309)
    assert series.values.max() == 190.2
    assert series.times[series.values.argmax()] == 1957
    spectrum = abs(np.fft.rfft(series.values - series.values.mean()))
    assert 309 / spectrum.argmax() == pytest.approx(11, abs=0.1)


@pytest.mark.parametrize("load", [nile, inflation, treasury_bill, sunspots])
def test_every_series_says_what_it_is_and_hands_out_its_own_arrays(load):
    series = load()
    assert series.values.shape == series.times.shape
    assert series.values.dtype == series.times.dtype == np.float64
    assert np.isfinite(series.values).all()
    assert len(series.source) > 20
    assert series.name
    assert series.unit
    assert series.licence.startswith("public domain")
    first = series.values
    first += 1
    assert not np.array_equal(load().values, first)


def test_without_statsmodels_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(ImportError, match=r"pip install 'uqsparse\[bench\]'"):
        nile()


def test_importing_the_data_does_not_import_statsmodels():
    code = "import sys, uqsparse.data; sys.exit('statsmodels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_linear_gaussian_series_has_its_moments():
    """Standard errors at n = 100 000 are below 0.02 for every number; bounds of five."""
    data = linear_gaussian_series(seed=1, n=100_000, persistence=0.8, step_sd=0.5, noise_sd=2.0)
    assert data.states.std() == pytest.approx(0.5 / np.sqrt(1 - 0.8**2), abs=0.1)
    assert autocorrelation(data.states) == pytest.approx(0.8, abs=0.1)
    assert (data.values - data.states).std() == pytest.approx(2.0, abs=0.1)
    firsts = [linear_gaussian_series(seed=s, n=1, persistence=0.95, step_sd=1.0).states[0] for s in range(400)]
    assert np.std(firsts) == pytest.approx(1 / np.sqrt(1 - 0.95**2), rel=0.2)  # five standard errors of 0.035


def test_stochastic_volatility_series_has_its_moments():
    """Standard errors at n = 100 000: 0.02 of the mean of the states, 0.01 of their sd; bounds of five."""
    data = stochastic_volatility_series(seed=1, n=100_000, mean=-1.0, persistence=0.9, step_sd=0.4)
    assert data.states.mean() == pytest.approx(-1.0, abs=0.1)
    assert data.states.std() == pytest.approx(0.4 / np.sqrt(1 - 0.9**2), abs=0.05)
    scaled = data.values / np.exp(data.states / 2)
    assert scaled.std() == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(scaled, data.states)[0, 1]) < 0.02


@pytest.mark.parametrize("generate", [linear_gaussian_series, stochastic_volatility_series])
def test_generated_series_are_reproducible_and_name_bad_arguments(generate):
    np.testing.assert_array_equal(generate(seed=3, n=50).values, generate(seed=3, n=50).values)
    assert not np.array_equal(generate(seed=3, n=50).values, generate(seed=4, n=50).values)
    for name, value in (("n", 0), ("persistence", 1.0), ("step_sd", -0.1)):
        with pytest.raises(ValueError, match=f"{name} must"):
            generate(seed=0, **{name: value})
    with pytest.raises(ValueError, match="noise_sd must be at least 0"):
        linear_gaussian_series(seed=0, noise_sd=-1.0)


def autocorrelation(x):
    """At lag one."""
    centred = x - x.mean()
    return np.sum(centred[1:] * centred[:-1]) / np.sum(centred**2)
