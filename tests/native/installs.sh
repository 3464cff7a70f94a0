#!/usr/bin/env bash
# Installs the package in fresh environments, with a compiler, without one and editable, and multiplies in each of them.
#
#   tests/native/installs.sh [PYTHON]     PYTHON: one that has what the package needs, .venv/bin/python if not named
#
# It takes a few minutes, of which building takes most; pip fetches what it builds with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${1:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Dependencies come from the given environment, by a .pth file; the .pth files in there do not count, so that its own
# editable installation of the package is not seen.
dependencies=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m venv "$work/builder"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/builder"

check() { # NAME EXPECTED: what the environment NAME uses for sparse products must match EXPECTED
  (cd "$work" && "$work/$1/bin/python" - "$1" "$2" <<'PYTHON'
import re, sys
import jax.numpy as jnp, numpy as np
import uqsparse
from uqsparse.kernels.group_sparsity import pack
from uqsparse.kernels.native import library
from uqsparse.kernels.sparse_products import backend, matmul

name, expected = sys.argv[1:]
rng = np.random.default_rng(0)
W = rng.normal(size=(50, 40)) * (rng.uniform(size=(50, 40)) < 0.3)
x = rng.normal(size=(9, 50)).astype(np.float32)
np.testing.assert_allclose(matmul(jnp.asarray(x), pack(W)), x @ W, atol=1e-4)
print(f"{name}: {backend()} from {uqsparse.__file__} {library().reason}")
if not re.fullmatch(expected, backend()):
    sys.exit(f"error: {name} should use {expected}")
PYTHON
  )
}

make() { # NAME OPTIONS...: a fresh environment with the package in it
  "$python" -m venv "$work/$1"
  "$work/$1/bin/pip" install --quiet --disable-pip-version-check --no-deps "${@:2}"
  "$work/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' |
    { read -r folder && echo "$dependencies" >"$folder/dependencies.pth"; }
}

make compiled "$work/builder"
check compiled 'native .*'
CXX=/nonexistent make plain --no-cache-dir "$work/builder"
check plain 'jax'
make editable --editable "$work/builder"
check editable 'native .*'
# Changes to Python files are seen without installing again.
echo 'CHANGED = True' >>"$work/builder/uqsparse/kernels/sparse_products.py"
(cd "$work" && editable/bin/python -c 'from uqsparse.kernels.sparse_products import CHANGED')
CXX=/nonexistent make editable-plain --editable "$work/builder"
check editable-plain 'jax'
echo "all installations work"
