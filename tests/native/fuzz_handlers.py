"""Hands the compiled kernels good and bad input under AddressSanitizer and UndefinedBehaviorSanitizer.

    .venv/bin/python tests/native/fuzz_handlers.py [--shapes 60] [--seed 0]

Builds the library with the sanitizers (a minute). `harness.cpp` then calls its handlers without XLA and tries what XLA
would not hand over: shapes that are lies, threads that never come, callers on all threads of the pool. Last they are
called from JAX for random shapes, for some minutes: valid matrices, whose results are compared with NumPy, and matrices
and shapes in which something is wrong, which must be refused. All of it is done for every instruction set that the
machine has. Anything that is read or written out of bounds ends the process with a report. `pytest` does not collect
this file.

    .venv/bin/python tests/native/fuzz_handlers.py --threads

looks for data races instead: the harness alone, under ThreadSanitizer.
"""

import argparse
import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "uqsparse" / "kernels" / "native"
LARGEST = 2**31 - 1
COMPILER = os.environ.get("CXX", "g++")
REPORTS = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1"}


def build(folder: Path, sanitizers: str) -> Path:
    """The library with the sanitizers in it."""
    options = [f"-DUQSPARSE_SANITIZE={sanitizers}", "-DUQSPARSE_OPTIMIZE=-O1", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    options.append(f"-DPython_EXECUTABLE={sys.executable}")
    subprocess.run(["cmake", "-S", NATIVE, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder], check=True, stdout=subprocess.DEVNULL)
    return folder / "uqsparse_kernels.so"


def call_without_xla(library: Path, sanitizers: str, seed: int) -> int:
    """Build and run the harness, with the same sanitizers."""
    headers = Path(importlib.util.find_spec("jaxlib").origin).parent / "include"
    program = library.parent / "harness"
    options = ["-std=c++17", "-O1", "-g", f"-fsanitize={sanitizers}", "-isystem", headers]
    sources = [Path(__file__).with_name("harness.cpp"), "-o", program, "-ldl", "-pthread"]
    subprocess.run([COMPILER, *options, *sources], check=True)
    environment = {**os.environ, **REPORTS, "ASAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([program, library, str(seed)], env=environment).returncode


def run_under_sanitizers(library: Path, arguments: list[str]) -> int:
    """This script once more, in a process that loads AddressSanitizer before all else."""
    libraries = [
        subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        **REPORTS,
        "LD_PRELOAD": " ".join(libraries),
        # Python and JAX keep what they have until the end: leaks are not looked for.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.run([sys.executable, __file__, "--library", library, *arguments], env=environment).returncode


def changed(array, place, value):
    """A copy with one entry changed."""
    array = array.copy()
    array[place] = value
    return array


def check_everywhere(programs, x, dy, val, right_ptr, right_idx, right_by_input, check, **changes):
    """Hand a matrix in which something was changed to the three products."""
    ptr, idx = changes.get("ptr", right_ptr), changes.get("idx", right_idx)
    check(programs["backward"], (dy, ptr, idx, val, *changes.get("by_input", right_by_input)))
    if "by_input" not in changes:
        check(programs["forward"], (x, ptr, idx, val))
        check(programs["values"], (x, dy, ptr, idx))


def fuzz(library: Path, shapes: int, seed: int) -> None:
    """Call the handlers; raises AssertionError where a result is wrong or bad input is accepted."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    loaded = ctypes.CDLL(str(library))
    loaded.uqsparse_choose.restype = ctypes.c_char_p
    names = [name for name in ("avx2", "avx512", "neon") if loaded.uqsparse_choose(name.encode())]
    for handler in ("forward", "input_gradient", "value_gradient", "rows_product"):
        jax.ffi.register_ffi_target(handler, jax.ffi.pycapsule(getattr(loaded, f"uqsparse_{handler}")), platform="cpu")
    rng = np.random.default_rng(seed)
    counts = {"right": 0, "refused": 0, "in range": 0}

    def program(handler, shape, dtype=np.float32):
        result = jax.ShapeDtypeStruct(shape, dtype)
        return jax.jit(jax.ffi.ffi_call(handler, result)), result.size

    def right(call, arguments, expected):
        for name in names:
            loaded.uqsparse_choose(name.encode())
            found = np.asarray(call[0](*arguments))
            scale = 1 + np.abs(expected).max(initial=0)
            assert np.abs(found - expected).max(initial=0) < 1e-4 * scale, (name, [np.shape(a) for a in arguments])
            counts["right"] += 1

    def refused(call, arguments):
        call, size = call
        for name in names if size else ():  # XLA calls nobody for a result without entries
            loaded.uqsparse_choose(name.encode())
            try:
                np.asarray(call(*arguments))
            except (ValueError, jax.errors.JaxRuntimeError):
                counts["refused"] += 1
            else:
                raise AssertionError(f"accepted: {[(np.shape(a), np.asarray(a).dtype) for a in arguments]}")

    def survives(call, arguments):
        """What is in range but makes no sense may give any numbers."""
        for name in names:
            loaded.uqsparse_choose(name.encode())
            np.asarray(call[0](*arguments))
            counts["in range"] += 1

    for _ in range(shapes):
        group = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 33, 64]))
        rows, n_inputs = int(rng.integers(0, 71)), int(rng.integers(1, 71))
        n_outputs = int(rng.integers(1, 4 * group + 2))
        n_groups = -(-n_outputs // group)
        kept = rng.uniform(size=(n_inputs, n_groups)) < rng.choice([0.0, 0.05, 0.3, 0.7, 1.0])
        kept[:, rng.integers(n_groups)] = rng.integers(2)
        group_of, idx = (a.astype(np.int32) for a in np.nonzero(kept.T))
        ptr = np.concatenate([[0], np.cumsum(kept.sum(axis=0))]).astype(np.int32)
        n = len(idx)
        pos_t = np.argsort(idx, kind="stable").astype(np.int32)
        group_t = group_of[pos_t]
        ptr_t = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
        val = rng.normal(size=(n, group)).astype(np.float32)
        x = rng.normal(size=(rows, n_inputs)).astype(np.float32)
        dy = rng.normal(size=(rows, n_outputs)).astype(np.float32)
        dense = np.zeros((n_inputs, n_groups, group))
        dense[idx, group_of] = val
        dense = dense.reshape(n_inputs, -1)[:, :n_outputs]
        whole = np.zeros((rows, n_groups * group))
        whole[:, :n_outputs] = dy
        dval = np.einsum("bk,bgi->kgi", x.astype(float), whole.reshape(rows, n_groups, group))[idx, group_of]

        forward = program("forward", (rows, n_outputs))
        backward = program("input_gradient", (rows, n_inputs))
        values = program("value_gradient", (n, group))
        right(forward, (x, ptr, idx, val), x @ dense)
        right(backward, (dy, ptr, idx, val, ptr_t, group_t, pos_t), dy @ dense.T)
        right(values, (x, dy, ptr, idx), dval)

        programs = {"forward": forward, "backward": backward, "values": values}
        everywhere = functools.partial(check_everywhere, programs, x, dy, val, ptr, idx, (ptr_t, group_t, pos_t))
        if n:
            for wrong in (-1, n_inputs, LARGEST, -LARGEST - 1, int(rng.integers(n_inputs, 2**31))):
                everywhere(refused, idx=changed(idx, rng.integers(n), wrong))
            for other in (rng.integers(0, n_inputs, n), np.full(n, n_inputs - 1)):
                ascends = (np.diff(group_of * n_inputs + other) > 0).all()
                survives(forward, (x, ptr, other.astype(np.int32), val))
                survives(values, (x, dy, ptr, other.astype(np.int32)))
                check = survives if group < 8 or ascends else refused  # the gradient of large groups relies on it
                check(backward, (dy, ptr, other.astype(np.int32), val, ptr_t, group_t, pos_t))
            if group < 8:  # larger groups do not use the positions by input
                for place, bound in ((1, n_groups), (2, n)):
                    for wrong in (-1, bound, LARGEST):
                        positions = [ptr_t, group_t, pos_t]
                        positions[place] = changed(positions[place], rng.integers(n), wrong)
                        everywhere(refused, by_input=positions)
        for wrong in (-1, n + 1, LARGEST, -LARGEST - 1):
            everywhere(refused, ptr=changed(ptr, rng.integers(n_groups + 1), wrong))
        if n:
            everywhere(refused, ptr=np.zeros_like(ptr))
        if group < 8:
            everywhere(refused, by_input=(changed(ptr_t, rng.integers(n_inputs + 1), n + 1), group_t, pos_t))

        # Shapes and types, of which one is wrong.
        for bad in (
            (x, ptr[:-1], idx, val),
            (x, np.append(ptr, n).astype(np.int32), idx, val),
            (x, ptr, np.append(idx, 0).astype(np.int32), val),
            (x, ptr, idx, np.pad(val, ((0, 1), (0, 0)))),
            (x, ptr, idx, val[:, :0]),
            (x, ptr, idx, np.pad(val, ((0, 0), (0, n_outputs if n_outputs > group else 0)))[..., None]),
            (x, ptr, idx, val.reshape(-1)),
            (x, ptr[None], idx, val),
            (x, ptr, idx[None], val),
            (np.append(x, x, axis=0) if rows else np.zeros((1, n_inputs), np.float32), ptr, idx, val),
            (x[None], ptr, idx, val),
            (np.float32(0), ptr, idx, val),
            (x.astype(float), ptr, idx, val),
            (x, ptr.astype(np.int64), idx, val),
            (x, ptr, idx.astype(np.float32), val),
            (x, ptr, idx, val.astype(np.float16)),
            (x, ptr, idx),
            (x, ptr, idx, val, val),
        ):
            refused(forward, bad)
        if n and n_inputs > 1:
            refused(forward, (x[:, : int(idx.max())], ptr, idx, val))
            refused(values, (x[:, : int(idx.max())], dy, ptr, idx))
        refused(program("forward", (rows, n_outputs), np.float64), (x, ptr, idx, val))
        refused(program("forward", (rows, n_outputs + group)), (x, ptr, idx, val))
        refused(program("forward", (rows + 1, n_outputs)), (x, ptr, idx, val))
        refused(program("input_gradient", (rows + 1, n_inputs)), (dy, ptr, idx, val, ptr_t, group_t, pos_t))
        refused(program("input_gradient", (rows, n_inputs + 1)), (dy, ptr, idx, val, ptr_t, group_t, pos_t))
        refused(backward, (dy, ptr, idx, val, ptr_t[:-1], group_t, pos_t))
        refused(backward, (dy, ptr, idx, val, ptr_t, np.append(group_t, 0).astype(np.int32), pos_t))
        refused(values, (x, np.append(dy, dy[:1], axis=0) if rows else dy[None], ptr, idx))
        refused(program("value_gradient", (n + 1, group)), (x, dy, ptr, idx))
        if n_groups > 1:  # one group may be wider than the outputs
            refused(program("value_gradient", (n, group + n_outputs)), (x, dy, ptr, idx))

        chosen = rng.integers(0, n_inputs, size=(rows, int(rng.integers(0, 20)))).astype(np.int32)
        w = rng.normal(size=(n_inputs, n_outputs)).astype(np.float32)
        product = program("rows_product", (rows, n_outputs))
        expected = np.stack([x[r, chosen[r]].astype(float) @ w[chosen[r]] for r in range(rows)]) if rows else x @ w
        right(product, (x, w, chosen), expected)
        if chosen.size:
            refused(product, (x, w, changed(chosen, (0, 0), n_inputs)))
            refused(product, (x, w, changed(chosen, (0, 0), -1)))
        refused(product, (x, w[:-1], chosen))
        refused(product, (x, w[None], chosen))
        refused(product, (x, w, chosen[None]))
        refused(program("rows_product", (rows, n_outputs + 1)), (x, w, chosen))
        jax.clear_caches()
    print(f"{', '.join(names)}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def main() -> int:
    """Build, then fuzz in a second process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", action="store_true", help="look for data races instead, without JAX")
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library is not None:
        fuzz(options.library, options.shapes, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        sanitizers = "thread" if options.threads else "address,undefined"
        library = build(Path(folder), sanitizers)
        failed = call_without_xla(library, sanitizers, options.seed)
        if failed or options.threads:
            return failed
        return run_under_sanitizers(library, ["--shapes", str(options.shapes), "--seed", str(options.seed)])


if __name__ == "__main__":
    sys.exit(main())
