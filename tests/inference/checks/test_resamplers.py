"""The check of resampling schemes: ours pass, wrong ones are found, and other things are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse import kernels
from uqsparse.inference.checks import check_resampler

FEW = {"weights": [(0.1, 0.2, 0.7), (2.0, 0.0, 1.0)], "n_ancestors": [3]}


@pytest.mark.parametrize("name", ["multinomial", "stratified", "systematic", "residual"])
def test_our_schemes_are_unbiased_and_spread_no_more_than_independent_draws(name):
    verdict = check_resampler(getattr(kernels, name))
    assert verdict.ok
    assert verdict.evidence < 1e-12
    ratio = float(verdict.notes[0].split(": ")[1].split()[0])
    assert ratio == 1 if name == "multinomial" else ratio < 0.5


WRONG = {
    "offset in half of the cell": lambda w, u, n: kernels.systematic(w, 0.5 * u, n),
    "constant offset": lambda w, u, n: kernels.systematic(w, 0 * u + 0.5, n),
    "ancestors off by one": lambda w, u, n: (kernels.multinomial(w, u, n) + 1) % 3,
    "weights flattened": lambda w, u, n: kernels.multinomial(jnp.sqrt(w), u, n),
    "zero weights smoothed": lambda w, u, n: kernels.multinomial(w + 1e-10, u, n),
    "numbers below one half are lost": lambda w, u, n: kernels.stratified(w, jnp.maximum(u, 0.5), n),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_schemes_are_found(name):
    verdict = check_resampler(WRONG[name], subject=name, **FEW)
    assert not verdict.ok
    assert "expected number of copies of particle" in str(verdict.counterexample)


def test_plain_numpy_schemes_can_be_checked():
    def by_searching(weights, uniforms, n):
        return np.searchsorted(np.cumsum(weights) / np.sum(weights), np.asarray(uniforms), side="right")

    assert check_resampler(by_searching, **FEW).ok
    first = check_resampler(lambda w, u, n: np.minimum(by_searching(w, u, n), 1), **FEW)
    assert not first.ok


def test_other_things_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="randomness of its own"):
        check_resampler(lambda w, u, n: rng.integers(0, 3, n), **FEW)
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3,\)"):
        check_resampler(lambda w, u, n: jnp.zeros(n - 1, int), **FEW)
    with pytest.raises(ValueError, match="indices below 3"):
        check_resampler(lambda w, u, n: jnp.full(n, 3), **FEW)
    with pytest.raises(ValueError, match="weights"):
        check_resampler(kernels.systematic, weights=[(1.0, -1.0)])
    with pytest.raises(ValueError, match="n_ancestors"):
        check_resampler(kernels.systematic, n_ancestors=[])
