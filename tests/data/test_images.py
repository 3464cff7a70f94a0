"""Bars follow their probabilities and superpositions; patches are where they say, and white."""

import numpy as np
import pytest
from scipy import stats
from sklearn import datasets

from uqsparse.data import images
from uqsparse.data.images import bar_dictionary, bars, natural_patches


def test_same_seed_same_bars():
    one, two, other = (bars(seed, 6) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).all()
    assert one.images.shape == (6, 25)
    assert one.dictionary.shape == (25, 10)
    assert one.source
    assert one.licence


def test_bars_are_the_rows_and_columns_of_a_square():
    square = bar_dictionary(4).T.reshape(8, 4, 4)
    for i in range(4):
        row, column = np.zeros((4, 4)), np.zeros((4, 4))
        row[i], column[:, i] = 1, 1
        np.testing.assert_array_equal(square[i], row)
        np.testing.assert_array_equal(square[4 + i], column)


def test_states_follow_their_probabilities_and_pixels_their_noise():
    """False alarms 1e-5 a test, 4 tests."""
    data = bars(3, 2000, values=(1, 2), probability=(0.15, 0.05), noise_scale=2.0)
    for value, share in ((1, 0.15), (2, 0.05), (0, 0.8)):
        count = int((data.states == value).sum())
        assert stats.binomtest(count, data.states.size, share).pvalue > 1e-5
    noise = data.images - data.states @ data.dictionary.T
    low, high = stats.chi2.ppf([5e-6, 1 - 5e-6], noise.size)
    assert low < (noise**2).sum() / 4 < high
    assert data.probability == pytest.approx(0.2)


@pytest.mark.parametrize("superposition", ["max", "max-magnitude"])
def test_maximum_of_bars(superposition):
    data = bars(2, 40, superposition=superposition, noise_scale=0.0, probability=0.4)
    shown = data.states[:, None, :] * data.dictionary
    if superposition == "max":
        expected = shown.max(axis=2)
    else:
        assert data.dictionary.min() < 0
        expected = np.take_along_axis(shown, abs(shown).argmax(axis=2)[..., None], axis=2)[..., 0]
        assert expected.min() < 0
    crossed = abs(expected) != 0
    np.testing.assert_array_equal(abs(data.images), abs(expected))
    # Two bars of opposite sign and equal size: either sign will do, so compare signs where there is one bar only.
    alone = crossed & ((shown != 0).sum(axis=2) == 1)
    np.testing.assert_array_equal(data.images[alone], expected[alone])


def test_slab_multiplies_states():
    """False alarm 1e-5."""
    data = bars(0, 2000, slab=(1.0, 0.5), noise_scale=1.0)
    drawn = data.coefficients[data.states == 1]
    assert stats.kstest(drawn, stats.norm(1.0, 0.5).cdf).pvalue > 1e-5
    assert not data.coefficients[data.states == 0].any()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"side": 1}, "side must be"),
        ({"amplitude": -1.0}, "amplitude must be"),
        ({"noise_scale": np.nan}, "noise_scale must be"),
        ({"superposition": "sum"}, "superposition must be one of"),
        ({"values": (0.0, 1.0)}, "values must be distinct"),
        ({"probability": 1.0}, "probability must be"),
        ({"probability": (0.5, 0.6), "values": (1, 2)}, "probability must be"),
        ({"slab": (0.0, -1.0)}, "slab must be"),
        ({"superposition": "max", "values": (-1, 1)}, "superposition 'max' needs"),
    ],
)
def test_bars_refuse_bad_arguments(argument, message):
    with pytest.raises(ValueError, match=message):
        bars(0, **{"n": 5, **argument})


@pytest.fixture(scope="module")
def photographs():
    return np.stack([image.mean(axis=2) / 255 for image in datasets.load_sample_images().images])


def test_raw_patches_are_cut_from_where_they_say(photographs):
    data = natural_patches(5, 30, side=9, whitening=None)
    assert set(data.image) == {0, 1}
    for patch, image, (row, column) in zip(data.patches, data.image, data.corner, strict=True):
        np.testing.assert_allclose(patch.reshape(9, 9), photographs[image, row : row + 9, column : column + 9])
    assert len({(i, *c) for i, c in zip(data.image, map(tuple, data.corner), strict=True)}) == 30


def test_filter_is_the_stated_one(photographs):
    """The same filter by the complex transform over the full plane."""
    data = natural_patches(1, 20, side=8, images=(1,))
    rows, columns = np.meshgrid(*(np.fft.fftfreq(k) for k in photographs[1].shape), indexing="ij")
    f = np.sqrt(rows**2 + columns**2)
    white = np.fft.ifft2(np.fft.fft2(photographs[1]) * f * np.exp(-((f / 0.4) ** 4))).real
    white /= white.std()
    for patch, (row, column) in zip(data.patches, data.corner, strict=True):
        np.testing.assert_allclose(patch.reshape(8, 8), white[row : row + 8, column : column + 8], atol=1e-10)


def test_whitened_patches_are_nearly_white():
    raw = np.linalg.eigvalsh(np.cov(natural_patches(0, 4000, side=6, whitening=None).patches.T))
    zca = np.linalg.eigvalsh(np.cov(natural_patches(0, 4000, side=6, whitening="zca").patches.T))
    filtered = natural_patches(0, 4000, side=6).patches
    neighbours = np.corrcoef(filtered[:, 0], filtered[:, 1])[0, 1]
    assert raw[-1] / np.median(raw) > 200
    assert zca[-1] / np.median(zca) < 30
    assert abs(neighbours) < 0.6
    assert abs(filtered.mean()) < 0.1


def test_same_seed_same_patches():
    one, two, other = (natural_patches(seed, 10, side=5).patches for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any(axis=1).all()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 10**6}, "have only"),
        ({"side": 1}, "side must be"),
        ({"side": 65}, "at most 64"),
        ({"images": ()}, "images must be"),
        ({"images": (2,)}, "images must be"),
        ({"whitening": "pca"}, "whitening must be"),
    ],
)
def test_patches_refuse_bad_arguments(argument, message):
    with pytest.raises(ValueError, match=message):
        natural_patches(0, **{"n": 5, "side": 60, "images": (0,), **argument})


@pytest.mark.parametrize("whitening", [None, "filter"])
def test_patches_without_contrast_are_left_out(monkeypatch, whitening):
    """All but a stripe of the picture is one grey, before or after the filter."""
    flat = np.full((2, 40, 60), 0.5)
    flat[:, :, 50:] = np.random.default_rng(0).uniform(size=(2, 40, 10))
    monkeypatch.setattr(
        images, "_filtered" if whitening else "_grey", (lambda i: flat[i]) if whitening else lambda: flat
    )
    data = natural_patches(0, 60, side=8, whitening=whitening)
    assert np.ptp(data.patches, axis=1).min() > 0
    assert data.corner[:, 1].min() > 42
    with pytest.raises(ValueError, match="have only 660 patches of side 8 with contrast"):
        natural_patches(0, 700, side=8, whitening=whitening)
