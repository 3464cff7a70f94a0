"""MNIST-1D: ten classes of short signals, made on the spot; small, and far from solved by a small network."""

import functools
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class Mnist1d(NamedTuple):
    """Training and test signals of MNIST-1D, in ten classes. The arrays are shared and cannot be written to.

    Args:
        x: training signals, standardised together with the test signals, shape (4000, 40).
        y: their classes, 0 to 9, shape (4000,).
        x_test: test signals, shape (1000, 40).
        y_test: their classes, shape (1000,).

    Attributes:
        source: who made the data and where they were published.
        licence: under which terms they are distributed.
    """

    x: Float32[np.ndarray, "4000 40"]
    y: Int32[np.ndarray, " 4000"]
    x_test: Float32[np.ndarray, "1000 40"]
    y_test: Int32[np.ndarray, " 1000"]

    # Not annotated, so that they are no fields: the record unpacks into its four arrays.
    source = "Greydanus & Kobak (2020, 2024), Scaling down deep learning with MNIST-1D, ICML; PyPI package mnist1d"
    licence = "Apache-2.0"


@functools.cache
def mnist1d() -> Mnist1d:
    """Make MNIST-1D with its standard settings (seed 42): 4000 training and 1000 test signals of length 40.

    It takes some seconds, once a process. The random states of NumPy and of Python are left as they were.

    Source: Greydanus & Kobak (2020, 2024), Scaling down deep learning with MNIST-1D, ICML. Licence: Apache-2.0.

    Raises:
        ImportError: the package `mnist1d` is not installed (extra `bench`).
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise ImportError("MNIST-1D is not installed; pip install 'uqsparse[bench]'") from error
    # The generator draws from the global states, and seeds both of them first.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        made = make_dataset(get_dataset_args())
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
    arrays = [made["x"].astype(np.float32), made["y"].astype(np.int32)]
    arrays += [made["x_test"].astype(np.float32), made["y_test"].astype(np.int32)]
    for array in arrays:
        array.setflags(write=False)
    return Mnist1d(*arrays)
