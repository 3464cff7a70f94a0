"""Processor seconds of sparse and dense products, side by side on one thread, in a process of its own.

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
from typing import Any, NamedTuple

# Names of what is timed; a sparse product is named by its program and its group.
DENSE, OPENBLAS, SCIPY, ONNXRUNTIME = "XLA dense", "OpenBLAS", "SciPy CSR", "onnxruntime dense"
_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}


class Job(NamedTuple):
    """Rows (B, K) times square matrices (K, K), of which `densities` are kept in groups.

    Args:
        size: K.
        rows: B.
        densities: shares that are kept.
        groups: outputs that share their inputs.
        what: "product", "gradients" for those of the rows and of the values, or "layer" for what `pack_network`
            makes of a linear layer, beside that layer.
        backend: of `matmul`; layers take "auto".
        peers: which of the peers to time.
        rounds: interleaved rounds, of which the fastest counts.
    """

    size: int
    rows: int
    densities: tuple[float, ...]
    groups: tuple[int, ...] = (16,)
    what: str = "product"
    backend: str = "native"
    peers: tuple[str, ...] = (DENSE,)
    rounds: int = 7


def timings(jobs: list[Job], seed: int) -> list[dict[str, Any]]:
    """Seconds of each job, by name of the peer, or by "group density" for the sparse products.

    A peer that is not installed is left out.

    Raises:
        RuntimeError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "uqsparse.bench.entries.sparse_product_timing"],
        input=json.dumps({"seed": seed, "jobs": jobs}),
        capture_output=True,
        text=True,
        env={**os.environ, **_ONE_THREAD},
    )
    if done.returncode:
        raise RuntimeError(f"timing failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def key(group: int, density: float) -> str:
    """The name of a sparse product among the timings."""
    return f"{group} {density:g}"


def interleaved_seconds(calls: dict[str, Callable[[], Any]], rounds: int, least: float = 0.01) -> dict[str, float]:
    """Processor seconds of each call: the least of rounds in which each is repeated for about `least` seconds."""
    repeats, best = {}, dict.fromkeys(calls, float("inf"))
    for name, call in calls.items():
        call()  # compiles
        start = time.process_time()
        call()
        repeats[name] = max(1, round(least / max(time.process_time() - start, 1e-6)))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], (time.process_time() - start) / repeats[name])
    return best


def run(job: Job, seed: int) -> dict[str, float]:
    """Time one job here."""
    import dataclasses

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from uqsparse.kernels.group_sparsity import pack, project_group
    from uqsparse.kernels.sparse_products import Backend, matmul
    from uqsparse.nn.packed_networks import pack_network

    rng = np.random.default_rng(seed)
    backend: Backend = job.backend  # type: ignore[assignment]
    W = rng.normal(size=(job.size, job.size)).astype(np.float32)
    x, dy = (rng.normal(size=(job.rows, job.size)).astype(np.float32) for _ in range(2))
    rows, matrix, cotangent = jnp.asarray(x), jnp.asarray(W), jnp.asarray(dy)

    if job.what == "layer":
        linear = eqx.nn.Linear(job.size, job.size, use_bias=False, key=jax.random.key(0))
        linear = eqx.tree_at(lambda one: one.weight, linear, jnp.asarray(W.T))
        layers = {DENSE: linear}
        for density in job.densities:
            (layers[key(16, density)],) = pack_network((linear,), density=density)
        batch = jax.jit(lambda layer, x: jax.vmap(layer)(x))
        # A layer left dense is the dense program, and differs from it only by where its weight lies in memory.
        timed = {name: layer for name, layer in layers.items() if name == DENSE or not isinstance(layer, eqx.nn.Linear)}
        seconds = interleaved_seconds(
            {name: lambda layer=layer: jax.block_until_ready(batch(layer, rows)) for name, layer in timed.items()},
            job.rounds,
        )
        return {name: seconds.get(name, seconds[DENSE]) for name in layers}

    def gradients_of(product):
        return lambda x, w, dy: jax.vjp(product, x, w)[1](dy)

    def sparse_product(x, gs):
        return matmul(x, gs, backend)

    def sparse_gradients(x, gs, dy):
        return gradients_of(lambda x, val: matmul(x, dataclasses.replace(gs, val=val), backend))(x, gs.val, dy)

    is_product = job.what == "product"
    dense = jax.jit(jnp.matmul if is_product else gradients_of(jnp.matmul))
    sparse = jax.jit(sparse_product if is_product else sparse_gradients)
    rest = () if is_product else (cotangent,)
    calls: dict[str, Callable[[], Any]] = {}
    if DENSE in job.peers:
        calls[DENSE] = lambda: jax.block_until_ready(dense(rows, matrix, *rest))
    if OPENBLAS in job.peers:
        calls[OPENBLAS] = (lambda: x @ W) if is_product else (lambda: (dy @ W.T, x.T @ dy))
    if ONNXRUNTIME in job.peers and (session := _onnx_session(W)) is not None:
        calls[ONNXRUNTIME] = lambda: session.run(None, {"x": x})
    for group in job.groups:
        for density in job.densities:
            mask = project_group(np.abs(W), density=density, group=group)
            gs = pack(W, mask, group)
            calls[key(group, density)] = lambda gs=gs: jax.block_until_ready(sparse(rows, gs, *rest))
            if SCIPY in job.peers and group == 1:
                from scipy.sparse import csr_array

                csr, columns = csr_array(np.where(mask, W, 0).T), np.ascontiguousarray(x.T)
                calls[f"{SCIPY} {density:g}"] = lambda csr=csr, columns=columns: csr @ columns
    return interleaved_seconds(calls, job.rounds)


def _onnx_session(W: Any) -> Any:
    """An inference session that multiplies by W, on one thread; None where the packages are missing."""
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
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps([run(Job(*job), asked["seed"]) for job in asked["jobs"]]))
