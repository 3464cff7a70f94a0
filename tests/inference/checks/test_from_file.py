"""Checks of what stands in a file: each kind of thing finds its check, and the rest is refused."""

import pytest

from uqsparse.inference.checks.from_file import Options, check_from_file

FILE = """
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import ExpTransform

from uqsparse.inference.checks import check_valid
from uqsparse.kernels import systematic

masses = jnp.array([1.0, 2.0, 4.0])
target = {0: 1.0, 1: 2.0, 2: 4.0}
flat = {0: 1.0, 1: 1.0, 2: 1.0}


def kernel(key, state):
    step, accept = jax.random.split(key)
    proposal = (state + jnp.where(jax.random.uniform(step) < 0.5, 1, -1)) % 3
    return jnp.where(jax.random.uniform(accept) < masses[proposal] / masses[state], proposal, state)


def turn(chance, state):
    return (state + 1) % 3


def resample(weights, uniforms, n):
    return systematic(weights, 0.5 * uniforms, n)


def simulate(key):
    noise = jax.random.normal(key, (2,))
    return noise[0], noise[0] + noise[1]


def gibbs(key, theta, y):
    return y / 2 + jax.random.normal(key)


def points(key):
    return jax.random.normal(key, (2,)), jax.random.normal(jax.random.fold_in(key, 1), (2,))


def flip(x, v):
    return x + v, -v


def two():
    return [check_valid({0: 1}, {0: 1}), check_valid({0: 1}, {0: 2})]


def nothing():
    return 3


def coin(heads=2):
    bias = numpyro.sample("bias", dist.Beta(2.0, 2.0))
    numpyro.sample("heads", dist.Binomial(5, bias), obs=heads)


exp = ExpTransform()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("checks") / "mine.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "ok", "options"),
    [
        ("kernel", True, Options()),
        ("kernel", False, Options(against="flat")),
        ("turn", True, Options(against="flat")),
        ("turn", False, Options()),
        ("resample", False, Options()),
        ("gibbs", False, Options(budget=20_000)),
        ("flip", True, Options()),
        ("exp", True, Options()),
    ],
    ids=["kernel", "kernel-flat", "turn-flat", "turn", "resample", "gibbs", "flip", "exp"],
)
def test_every_kind_finds_its_check(file, name, ok, options):
    (verdict,) = check_from_file(f"{file}:{name}", options)
    assert verdict.ok == ok
    assert name in verdict.subject


def test_functions_that_return_verdicts_are_called(file):
    assert [verdict.ok for verdict in check_from_file(f"{file}:two")] == [True, False]


@pytest.mark.slow
def test_models_are_calibrated_by_simulation(file, tmp_path):
    options = Options(budget=60, plot=tmp_path / "ranks.png")
    (verdict,) = check_from_file(f"{file}:coin", options)
    assert verdict.ok
    assert verdict.n == 60
    assert options.plot.stat().st_size > 5_000


def test_what_cannot_be_checked_is_refused(file):
    with pytest.raises(ValueError, match="no 'missing'; it defines kernel, turn"):
        check_from_file(f"{file}:missing")
    with pytest.raises(ValueError, match=r"checked against 'posterior', which .* does not define"):
        check_from_file(f"{file}:kernel", Options(against="posterior"))
    with pytest.raises(TypeError, match=r"nothing\(\) returned 3"):
        check_from_file(f"{file}:nothing")
    with pytest.raises(TypeError, match="target is a dict; expected a function"):
        check_from_file(f"{file}:target")
    with pytest.raises(TypeError, match="dictionary from states to masses"):
        check_from_file(f"{file}:kernel", Options(against="masses"))
    with pytest.raises(FileNotFoundError, match="check file"):
        check_from_file("no_such_file.py:kernel")
