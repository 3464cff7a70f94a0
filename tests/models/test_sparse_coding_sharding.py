"""Rows divided over virtual devices and over two processes give the parameters of one device.

Run as a script this file is one of the two processes, with four virtual devices.
"""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

# uneven: neither devices nor processes have equally many rows, and the last chunks are padded
N, OF_FIRST = 103, 61


def fit(rows, mesh):
    """Five annealed iterations with a cut, parameter noise and a cause that starts dead."""
    from uqsparse.models.sparse_coding.bsc import ActivityParameters, BinaryModel
    from uqsparse.solvers.truncated_em import Annealing, fit_truncated_em

    rng = np.random.default_rng(0)
    W = 3 * rng.normal(size=(7, 5))
    Y = (rng.random((N, 5)) < 0.4) @ W.T + rng.normal(size=(N, 7))
    start = ActivityParameters(
        W + 0.5 * rng.normal(size=W.shape) + np.array([0, 0, 0, 0, 1e3]), np.float64(1.5), np.float64(0.3)
    )
    schedule = Annealing(2.0, 5, parameter_noise=0.05)
    key = jax.random.key(0)
    return fit_truncated_em(BinaryModel(5, 4, 2), start, Y[rows], schedule, key=key, mesh=mesh, chunk_size=16)


def record(run):
    return {
        "dictionary": run.parameters.dictionary,
        "noise": run.parameters.noise_scale,
        "prior": run.parameters.prior_probability,
        "free_energy": run.free_energy,
        "n_used": run.n_used,
        "revived": run.revived,
        "final": run.final_free_energy,
    }


def work(address, number, folder):
    jax.distributed.initialize(address, num_processes=2, process_id=number)
    # one device of the first process and all four of the second
    devices = [d for d in jax.devices() if d.process_index == 1 or d == jax.devices()[0]]
    together = jax.sharding.Mesh(np.array(devices), ("data",))
    mine = slice(0, OF_FIRST) if number == 0 else slice(OF_FIRST, N)
    found = {"processes": fit(mine, together)}
    if number == 0:
        for n in (2, 4):
            mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:n]), ("data",))
            found[f"devices{n}"] = fit(slice(None), mesh)
    values = {f"{name}-{key}": value for name, run in found.items() for key, value in record(run).items()}
    np.savez(os.path.join(folder, f"{number}.npz"), **values)
    jax.experimental.multihost_utils.sync_global_devices("done")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(number), str(folder)], env=environment, stderr=subprocess.PIPE
        )
        for number in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], b"\n".join(errors).decode()
    return [dict(np.load(folder / f"{number}.npz")) for number in range(2)]


@pytest.fixture(scope="module")
def alone():
    run = fit(slice(None), None)
    assert run.revived.tolist() == [[0, 4]]
    assert run.n_used[-1] < 95
    return record(run)


@pytest.mark.parametrize("name", ["devices2", "devices4", "processes"])
def test_parameters_are_those_of_one_device(found, alone, name):
    for key, value in alone.items():
        np.testing.assert_allclose(found[0][f"{name}-{key}"], value, rtol=0, atol=1e-8, err_msg=key)


def test_both_processes_end_with_the_same_bits(found):
    for key, value in found[1].items():
        np.testing.assert_array_equal(found[0][key], value)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
