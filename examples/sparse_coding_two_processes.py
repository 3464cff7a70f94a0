"""Two processes learn bars together, each from rows that only it has, and find what one process finds with all rows.

The parent starts both, as a scheduler would on two machines, fits all rows itself, and compares. Run it with

    python examples/sparse_coding_two_processes.py

On real machines every process calls `jax.distributed.initialize` with the address of the first one, loads its own
rows, and calls `fit(rows, mesh=mesh)`; nothing else changes.
"""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from uqsparse.data.images import Bars, bars
from uqsparse.models.sparse_coding.bsc import BinarySparseCoding

N_IMAGES = 500
# the machines need not have equally many rows
ROWS = (slice(0, 310), slice(310, N_IMAGES))


def problem() -> tuple[Bars, BinarySparseCoding]:
    """Images of 10 bars, and what is to learn them."""
    return bars(0, N_IMAGES), BinarySparseCoding(n_causes=10, n_candidates=7, gamma=3, n_iter=40, random_state=0)


def work(address: str, number: int, out: Path) -> None:
    """What one of the two processes does."""
    jax.distributed.initialize(address, num_processes=2, process_id=number)
    data, coder = problem()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    coder.fit(data.images[ROWS[number]], mesh=mesh)
    if number == 0:
        np.savez(out, dictionary=coder.dictionary_, noise=coder.noise_scale_, prior=coder.prior_probability_)


def main() -> None:
    """Start the two, fit alone, compare."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # one device each, whatever the flags around us say
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "together.npz"
        workers = [
            subprocess.Popen([sys.executable, __file__, address, str(number), str(out)], env=environment)
            for number in range(2)
        ]
        data, coder = problem()
        coder.fit(data.images)
        codes = [worker.wait(timeout=120) for worker in workers]
        if any(codes):
            raise RuntimeError(f"a worker failed: {codes}")
        together = dict(np.load(out))
    print(f"rows of the two processes: {', '.join(str(rows.stop - rows.start) for rows in ROWS)}")
    alone = {"dictionary": coder.dictionary_, "noise": coder.noise_scale_, "prior": coder.prior_probability_}
    for name, value in alone.items():
        print(f"{name:>10}: largest difference to one process {np.max(np.abs(together[name] - value)):.0e}")
    print(f"noise {together['noise']:.2f} (true {data.noise_scale}), activity {together['prior']:.2f} (true 0.20)")
    if not all(np.allclose(together[name], value, rtol=0, atol=1e-8) for name, value in alone.items()):
        raise RuntimeError("the two processes found something else than one")
    print("the parameters equal those of one process")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
