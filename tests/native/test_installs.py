"""Wheels built with a compiler and without one, and products computed by what they hold.

The wheels are built by the hooks that pip calls, from a copy of the sources. `installs.sh` installs with pip, editable
too, which takes minutes.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")
# Unoptimized code takes seconds to compile.
QUICKLY = {
    "cmake.build-type": "Debug",
    "cmake.define.CMAKE_CXX_FLAGS_DEBUG": "-O0",
    "cmake.define.UQSPARSE_OPTIMIZE": "-O0",
}

BUILD = f"""
import sys
from scikit_build_core.build import build_wheel
build_wheel(sys.argv[1], {QUICKLY!r})
"""

# Everything but the package comes from where this process has it. Without site-packages no editable installation of the
# package stands before it.
MULTIPLY = """
import sys
unpacked, *others = sys.argv[1:]
sys.path[:0] = [unpacked]
sys.path += others
import numpy as np
import uqsparse
from uqsparse.kernels.group_sparsity import pack
from uqsparse.kernels.native import library
from uqsparse.kernels.sparse_products import backend, matmul
assert uqsparse.__file__.startswith(unpacked), uqsparse.__file__
rng = np.random.default_rng(0)
W = rng.normal(size=(50, 40)) * (rng.uniform(size=(50, 40)) < 0.3)
x = rng.normal(size=(9, 50)).astype(np.float32)
for program in ("auto", "native" if library().kernels else "jax"):
    np.testing.assert_allclose(matmul(x, pack(W), program), x @ W, atol=1e-4)
print(backend(), library().reason, sep=": ")
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "uqsparse", folder / "uqsparse", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(program, *arguments, options=(), **settings):
    done = subprocess.run(
        [sys.executable, *options, "-c", program, *map(str, arguments)], capture_output=True, text=True, **settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def build_and_multiply(sources, folder, **environment):
    """The name of the wheel, the files in it, and what multiplied."""
    run(BUILD, folder, cwd=sources, env={**os.environ, **environment})
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
        names = archive.namelist()
    others = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    settings = {name: value for name, value in os.environ.items() if name not in ("UQSPARSE_KERNELS", "PYTHONPATH")}
    said = run(MULTIPLY, folder / "unpacked", *others, options=("-S", "-P"), cwd=folder, env=settings)
    return wheel.name, names, said


def compiled_or_not(names):
    """Compiled libraries, and sources of them."""
    return [name for name in names if name.endswith(".so")], [
        name for name in names if name.endswith((".cpp", ".h", "CMakeLists.txt"))
    ]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_with_a_compiler_the_wheel_holds_kernels_for_every_python(sources, tmp_path):
    wheel, names, said = build_and_multiply(sources, tmp_path)
    assert "-py3-none-" in wheel
    assert not wheel.endswith("-any.whl")
    assert compiled_or_not(names) == (["uqsparse/kernels/native/uqsparse_kernels.so"], [])
    assert said.startswith("native (") or "this machine cannot run" in said


def test_without_a_compiler_the_wheel_multiplies_in_jax(sources, tmp_path):
    wheel, names, said = build_and_multiply(sources, tmp_path, CC="/nonexistent/cc", CXX="/nonexistent/c++")
    assert wheel.endswith("-py3-none-any.whl")
    assert compiled_or_not(names) == ([], [])
    assert said == "jax: the package was installed without compiled kernels"
