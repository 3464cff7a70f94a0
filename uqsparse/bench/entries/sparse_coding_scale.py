"""Claims about sparse coding over devices and processes, and about its time and memory on large data.

Devices, threads and peak memory belong to a process, so each measurement is a Python program of its own.
"""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np

from uqsparse.bench.records import Context, Measured, NotMeasured
from uqsparse.bench.registry import claim

_SYSTEM = "Sparse coding models"

# Bars on four virtual devices: meshes of 1, 2 and 4 of them, and none; 503 rows fill no mesh evenly.
_SHARDS = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from uqsparse.data.images import bars
from uqsparse.models.sparse_coding.bsc import BinaryModel
from uqsparse.solvers.truncated_em import Annealing, fit_truncated_em

seed = int(sys.argv[1])
Y = bars(seed, 503).images
model = BinaryModel(n_causes=10, n_candidates=5, gamma=3)
with jax.enable_x64(True):
    first = model.initial(jax.random.key(seed), Y.mean(axis=0), Y.std(axis=0).mean())
found = []
for n in (0, 1, 2, 4):
    mesh = Mesh(np.array(jax.devices()[:n]), ("data",)) if n else None
    run = fit_truncated_em(model, first, Y, Annealing(2.0, 5), key=jax.random.key(0), mesh=mesh)
    found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.parameters)]))
print(json.dumps([float(abs(one - found[0]).max()) for one in found[1:]]))
"""

# Binary causes among noise, drawn in pieces so that the drawing does not set the peak; then a fit, timed by iteration.
_LARGE = """
import json, os, resource, sys, time
n, D, H, n_candidates, gamma, n_iter, cores, number, address = json.loads(sys.argv[1])
if cores:
    os.sched_setaffinity(0, cores)
import jax, numpy as np
if address:
    jax.distributed.initialize(address, num_processes=2, process_id=number)
from uqsparse.models.sparse_coding.bsc import BinaryModel
from uqsparse.solvers.truncated_em import Annealing, fit_truncated_em

truth = np.random.default_rng(0).normal(size=(D, H))
rng = np.random.default_rng(1 + number)
Y = np.empty((n, D))
for begin in range(0, n, 2000):
    rows = Y[begin : begin + 2000]
    rows[:] = (rng.random((len(rows), H)) < 2 / H) @ truth.T + rng.normal(size=rows.shape)
model = BinaryModel(n_causes=H, n_candidates=n_candidates, gamma=gamma)
with jax.enable_x64(True):
    first = model.initial(jax.random.key(0), np.zeros(D), np.float64(1.5))
mesh = jax.make_mesh((2,), ("data",)) if address else None
wall, cpu = [], []

def clock(state=None):
    wall.append(time.perf_counter())
    cpu.append(time.process_time())

schedule = Annealing(2.0, n_iter, cut_ramp=None)
run = fit_truncated_em(model, first, Y, schedule, key=jax.random.key(0), mesh=mesh, on_iteration=clock)
clock()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "entries": run.parameters.dictionary.size}))
"""

# How much of a core a process gets that does nothing but count for half a second.
_SPIN = """
import os, sys, time
os.sched_setaffinity(0, [int(sys.argv[1])])
wall, cpu = time.perf_counter(), time.process_time()
while time.perf_counter() - wall < 0.5:
    pass
print((time.process_time() - cpu) / (time.perf_counter() - wall))
"""


def _started(code: str, argument: str, **environment: str) -> subprocess.Popen:
    environ = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", code, argument]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def _answers(processes: list[subprocess.Popen]) -> list[Any]:
    """What each process printed last; if one fails the others, which may wait for it, are ended."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=3600)
            if process.returncode:
                raise RuntimeError(f"a measuring process failed: {err.strip()[-500:]}")
            found.append(json.loads(out.strip().splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return found


@claim("One, two and four devices learn the same parameters", system=_SYSTEM, quick=False)
def devices_agree(context: Context) -> Measured:
    """Largest difference of a parameter after five iterations to a fit without mesh, in one process."""
    process = _started(_SHARDS, str(context.seed), XLA_FLAGS="--xla_force_host_platform_device_count=4")
    (differences,) = _answers([process])
    detail = "BSC on bars, D = 25, H = 10, N = 503, float64, virtual devices: " + ", ".join(
        f"{n} {difference:.0e}" for n, difference in zip((1, 2, 4), differences, strict=True)
    )
    return Measured(max(differences), "<=", 1e-8, "no mesh", detail)


@cache
def _large(n: int, D: int, H: int, n_iter: int) -> dict[str, Any]:
    return _answers([_started(_LARGE, json.dumps([n, D, H, 8, 3, n_iter, None, 0, None]))])[0]


def _per_iteration(clock: list[float]) -> float:
    """Median seconds between iterations; the first one, which compiles, ends at the first entry."""
    return float(np.median(np.diff(clock)))


@claim("Time per row does not depend on the number of rows", system=_SYSTEM, quick=False)
def time_is_linear_in_rows(context: Context) -> Measured:
    """CPU time per row and iteration of BSC at N = 50,000 over that at N = 5,000, or its inverse if that is larger."""
    few, many = _large(5_000, 400, 300, 10), _large(50_000, 400, 300, 10)
    per_row = [_per_iteration(run["cpu"]) / n for run, n in ((few, 5_000), (many, 50_000))]
    ratio = per_row[1] / per_row[0]
    return Measured(
        max(ratio, 1 / ratio),
        "<=",
        1.3,
        "N = 5,000",
        f"BSC, D = 400, H = 300, H' = 8, gamma = 3, 10 iterations; per row {1e6 * per_row[0]:.0f} and "
        f"{1e6 * per_row[1]:.0f} microseconds of CPU; an iteration at N = 50,000 took "
        f"{_per_iteration(many['wall']):.1f} s with {_per_iteration(many['cpu']):.1f} s of CPU",
    )


@claim("Twenty million numbers and 120,000 parameters fit into 6 GiB", system=_SYSTEM, quick=False)
def memory_is_bounded(context: Context) -> Measured:
    """Peak memory of the process that learns BSC from 50,000 rows, in GiB."""
    run = _large(50_000, 400, 300, 10)
    detail = f"BSC, D = 400, H = 300, N = 50,000, float64: the data are {50_000 * 400 * 8 / 2**30:.2f} GiB"
    return Measured(run["peak"] / 2**30, "<", 6.0, "6 GiB", f"{detail}; {run['entries']:,} entries of the dictionary")


@claim("Two processes share the work of an iteration", system=_SYSTEM, quick=False)
def two_processes_share_the_work(context: Context) -> Measured:
    """Time of an iteration on one core over twice that of two processes, a core and half of the rows each.

    Each core is tried first, and again afterwards: where a process that only counts does not get it, other programs
    have it, and the ratio would be theirs.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise NotMeasured("two processes need a core each, and a way to be bound to it")
    _require_free(cores[:2])
    one_thread = "--xla_cpu_multi_thread_eigen=false"
    task = [400, 300, 8, 3, 4]
    (alone,) = _answers([_started(_LARGE, json.dumps([10_000, *task, cores[:1], 0, None]), XLA_FLAGS=one_thread)])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [
        _started(
            _LARGE,
            json.dumps([5_000, *task, [cores[number]], number, address]),
            XLA_FLAGS=one_thread,
            JAX_NUM_CPU_DEVICES="1",
        )
        for number in range(2)
    ]
    together = _answers(pair)
    _require_free(cores[:2])
    one, two = _per_iteration(alone["wall"]), max(_per_iteration(run["wall"]) for run in together)
    return Measured(
        one / (2 * two),
        ">=",
        0.9,
        "half the time",
        f"BSC, D = 400, H = 300, 10,000 rows: {one:.2f} s on one core, {two:.2f} s on two, median of 4 iterations",
    )


def _require_free(cores: list[int]) -> None:
    shares = _answers([_started(_SPIN, str(core)) for core in cores])
    if min(shares) < 0.95:
        raise NotMeasured(f"other programs run here: of two cores a process gets {shares[0]:.0%} and {shares[1]:.0%}")
