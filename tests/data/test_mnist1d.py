"""MNIST-1D has the published shape, and making it disturbs nobody's random numbers."""

import random
import sys

import numpy as np
import pytest

from uqsparse.data.mnist1d import mnist1d


def test_signals_and_random_states():
    pytest.importorskip("mnist1d")
    mnist1d.cache_clear()
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    numpy_before, python_before = np.random.get_state(), random.getstate()  # noqa: NPY002
    data = mnist1d()
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert random.getstate() == python_before
    assert all(np.array_equal(one, other) for one, other in zip(numpy_before, numpy_after, strict=True))

    x, y, x_test, y_test = data
    assert (x.shape, y.shape, x_test.shape, y_test.shape) == ((4000, 40), (4000,), (1000, 40), (1000,))
    assert (x.dtype, y.dtype, x_test.dtype, y_test.dtype) == (np.float32, np.int32, np.float32, np.int32)
    np.testing.assert_array_equal(np.bincount(np.r_[y, y_test]), np.full(10, 500))
    together = np.r_[x, x_test].astype(float)
    assert together.mean() == pytest.approx(0, abs=1e-5)
    assert together.std() == pytest.approx(1, abs=1e-5)
    assert data.source
    assert data.licence == "Apache-2.0"
    assert mnist1d() is data
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 1.0


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(ImportError, match=r"pip install 'uqsparse\[bench\]'"):
        mnist1d.__wrapped__()
