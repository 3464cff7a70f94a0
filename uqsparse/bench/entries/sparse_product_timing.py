"""Seconds of sparse and dense products, side by side on one thread or several, in a process of its own.

XLA and OpenBLAS read how many threads they may use when they start, hence the process:
`timings([...])` starts one, and this file run as a program is the other end.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCSR as JaxBCSR
from scipy.sparse import csr_array

from uqsparse.kernels.group_sparsity import GroupSparse, pack, project_group
from uqsparse.kernels.product_choice import median_seconds
from uqsparse.kernels.sparse_products import Backend, matmul
from uqsparse.nn.packed_networks import pack_network

Calls = dict[str, Callable[[], Any]]

# Names of what is timed; a sparse product is named by its program and its group.
DENSE, OPENBLAS, ONNXRUNTIME = "XLA dense", "OpenBLAS", "onnxruntime dense"
SCIPY, BCSR = "SciPy CSR", "JAX BCSR"  # of weights kept one by one; named with their density


class Job(NamedTuple):
    """Rows (B, K) times square matrices (K, K), of which `densities` are kept in groups.

    Args:
        size: K.
        rows: B.
        densities: shares that are kept.
        groups: outputs that share their inputs.
        what: "product", "gradients" for those of the rows and of the values, or "layer" for what `pack_network`
            makes of a linear layer, beside that layer; what it leaves dense is not timed again.
        backend: of `matmul`; layers take "auto".
        peers: what to time besides XLA's dense product; peers with sparse weights at every density.
        rounds: interleaved rounds, whose median counts.
    """

    size: int
    rows: int
    densities: tuple[float, ...]
    groups: tuple[int, ...] = (16,)
    what: str = "product"
    backend: Backend = "native"
    peers: tuple[str, ...] = ()
    rounds: int = 7


def timings(jobs: list[Job], seed: int, threads: int = 1) -> list[dict[str, Any]]:
    """Seconds of each job, by name of the peer, or by "group density" for the sparse products.

    They are seconds of the processor on one thread, and of the clock on several. A peer that is not installed is left
    out.

    Raises:
        RuntimeError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "uqsparse.bench.entries.sparse_product_timing"],
        input=json.dumps({"seed": seed, "jobs": jobs, "threads": threads}),
        capture_output=True,
        text=True,
        env={**os.environ, **_environment(threads)},
    )
    if done.returncode:
        raise RuntimeError(f"timing failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment(threads: int) -> dict[str, str]:
    eigen = "true" if threads > 1 else "false"
    return {
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}",
        "NPROC": str(threads),  # XLA makes as many threads as it names
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": "cpu",
    }


def key(group: int, density: float) -> str:
    """The name of a sparse product among the timings."""
    return f"{group} {density:g}"


def interleaved_seconds(calls: Calls, rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Seconds of each call, medians of rounds of about 20 ms."""
    return dict(zip(calls, median_seconds(list(calls.values()), rounds, 0.02, clock), strict=True))


def run(job: Job, seed: int, threads: int = 1) -> dict[str, float]:
    """Time one job here."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(job.size, job.size)).astype(np.float32)
    x, dy = (rng.normal(size=(job.rows, job.size)).astype(np.float32) for _ in range(2))
    if job.what == "layer":
        calls = _layers(job, x, W)
    elif job.what == "gradients":
        calls = _gradients(job, x, W, dy)
    else:
        calls = _products(job, x, W, threads)
    return interleaved_seconds(calls, job.rounds, clock=time.process_time if threads == 1 else time.perf_counter)


def _packed(job: Job, W: np.ndarray) -> dict[str, GroupSparse]:
    return {
        key(group, density): pack(W, project_group(np.abs(W), density=density, group=group), group)
        for density in job.densities
        for group in job.groups
    }


def _products(job: Job, x: np.ndarray, W: np.ndarray, threads: int) -> Calls:
    rows, matrix, columns = jnp.asarray(x), jnp.asarray(W), np.ascontiguousarray(x.T)
    dense = jax.jit(lambda x, W: x @ W)
    sparse = jax.jit(lambda x, gs: matmul(x, gs, job.backend))
    calls: Calls = {DENSE: lambda: jax.block_until_ready(dense(rows, matrix))}
    if OPENBLAS in job.peers:
        calls[OPENBLAS] = lambda: x @ W
    if ONNXRUNTIME in job.peers and (session := _onnx_session(W, threads)) is not None:
        calls[ONNXRUNTIME] = lambda: session.run(None, {"x": x})
    for name, gs in _packed(job, W).items():
        calls[name] = lambda gs=gs: jax.block_until_ready(sparse(rows, gs))
    for density in job.densities:
        single = np.where(project_group(np.abs(W), density=density, group=1), W, 0).T
        if SCIPY in job.peers:
            csr = csr_array(single)
            calls[f"{SCIPY} {density:g}"] = lambda csr=csr: csr @ columns
        if BCSR in job.peers:
            bcsr, turned = JaxBCSR.fromdense(jnp.asarray(single)), jnp.asarray(columns)
            calls[f"{BCSR} {density:g}"] = lambda bcsr=bcsr, turned=turned: jax.block_until_ready(dense(bcsr, turned))
    return calls


def _gradients(job: Job, x: np.ndarray, W: np.ndarray, dy: np.ndarray) -> Calls:
    """Those of the rows and of the weights together."""
    rows, matrix, cotangent = jnp.asarray(x), jnp.asarray(W), jnp.asarray(dy)

    def of_sparse(x, gs, dy):
        return jax.vjp(lambda x, val: matmul(x, replace(gs, val=val), job.backend), x, gs.val)[1](dy)

    dense = jax.jit(lambda x, W, dy: jax.vjp(jnp.matmul, x, W)[1](dy))
    sparse = jax.jit(of_sparse)
    calls: Calls = {DENSE: lambda: jax.block_until_ready(dense(rows, matrix, cotangent))}
    if OPENBLAS in job.peers:
        calls[OPENBLAS] = lambda: (dy @ W.T, x.T @ dy)
    for name, gs in _packed(job, W).items():
        calls[name] = lambda gs=gs: jax.block_until_ready(sparse(rows, gs, cotangent))
    return calls


def _layers(job: Job, x: np.ndarray, W: np.ndarray) -> Calls:
    """A dense layer, and what it is packed to. One that stays dense is the same program, and is not timed again."""
    linear = eqx.nn.Linear(job.size, job.size, use_bias=False, key=jax.random.key(0))
    linear = eqx.tree_at(lambda one: one.weight, linear, jnp.asarray(W.T))
    rows, apply = jnp.asarray(x), jax.jit(lambda layer, x: jax.vmap(layer)(x))
    calls: Calls = {DENSE: lambda: jax.block_until_ready(apply(linear, rows))}
    for density in job.densities:
        layer = pack_network(linear, density=density)
        if not isinstance(layer, eqx.nn.Linear):
            calls[key(16, density)] = lambda layer=layer: jax.block_until_ready(apply(layer, rows))
    return calls


def _onnx_session(W: Any, threads: int) -> Any:
    """An inference session that multiplies by W; None where the packages are missing."""
    try:
        onnx, onnxruntime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    except ImportError:
        return None
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, [None, W.shape[0]])],
        [helper.make_tensor_value_info("y", kind, [None, W.shape[1]])],
        [onnx.numpy_helper.from_array(W, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps([run(Job(*job), asked["seed"], asked["threads"]) for job in asked["jobs"]]))
