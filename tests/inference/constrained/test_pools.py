"""The pool of production: its law on a grid of uniform numbers, its masses against sums in fractions, its repeats."""

import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.bench.mutants import Mutant, planted
from uqsparse.inference.constrained.pools import Pool, SampledPool, generator_of


class Numbers:
    """A generator that gives out prepared numbers."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    standard_exponential = random


def grid_law(log_p, removed, cells=64):
    """Tokens by their share of a grid of uniform numbers; a number that meets a removed token is passed over."""
    counts: dict[int | None, int] = dict.fromkeys(range(len(log_p)), 0)
    for i in range(cells):
        generator = Numbers((i + 0.5) / cells, *[math.nan] * 100)
        pool = SampledPool(log_p, generator)  # pyright: ignore[reportArgumentType]
        for token in removed:
            pool.remove(token)
        pool.mass_left()
        generator.numbers[1] = -1.0  # marks a second draw: the first token of the sum
        token = pool.draw()
        if len(generator.numbers) == 100:
            counts[token] += 1
    return counts


def test_draws_are_exact_on_a_grid():
    """Masses that are multiples of 1/64: every midpoint of 64 cells meets its own token, removed ones are passed over,
    and after a new sum the rest has all of the grid."""
    p = np.array([8, 0, 32, 16, 4, 4]) / 64
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    assert list(grid_law(log_p, []).values()) == [8, 0, 32, 16, 4, 4]
    assert list(grid_law(log_p, [3]).values()) == [8, 0, 32, 0, 4, 4]
    assert list(grid_law(log_p, [2, 0]).values()) == [0, 0, 0, 64 * 16 // 24 + 1, 64 * 4 // 24, 64 * 4 // 24 + 1]


def test_draws_without_replacement_have_the_law_of_sampling_without_replacement():
    """Orders of four tokens, 24 of them, against p_a p_b / (1 - p_a) ...; chi-square, level 1e-6."""
    p, counts, rng = np.array([0.55, 0.3, 0.1, 0.05]), {}, np.random.default_rng(0)
    n = 6000
    for _ in range(n):
        pool, order = SampledPool(np.log(p), rng), []
        while (token := pool.draw()) is not None:
            pool.remove(token)
            order.append(token)
        counts[tuple(order)] = counts.get(tuple(order), 0) + 1

    def probability(order):
        left, result = 1.0, 1.0
        for token in order:
            result, left = result * p[token] / left, left - p[token]
        return result

    orders = list(itertools.permutations(range(4)))
    expected = np.array([n * probability(order) for order in orders])
    seen = np.array([counts.get(order, 0) for order in orders])
    assert scipy.stats.chisquare(seen, expected).pvalue > 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_mass_left_is_right_to_rounding_whatever_is_removed(data):
    """Against sums in fractions of masses from 1e-300 to 1e300, any of them removed in any order."""
    exponents = data.draw(st.lists(st.integers(-300, 300), min_size=1, max_size=12))
    masses = [Fraction(data.draw(st.integers(1, 9))) * Fraction(10) ** e for e in exponents]
    pool = SampledPool(np.array([_log(mass) for mass in masses]), np.random.default_rng(0))
    order = data.draw(st.permutations(range(len(masses))))
    left = set(order)
    for token in order:
        assert pool.mass_left() == pytest.approx(_log(sum(masses[t] for t in left)), abs=1e-11)
        assert pool.mass(token) == pytest.approx(_log(masses[token]))
        assert pool.draw() in left
        assert pool.repeats(at_most=7) in range(8)
        pool.remove(token)
        left.remove(token)
    assert pool.draw() is None
    assert pool.mass_left() == -math.inf


def _log(mass):
    return math.log(mass.numerator) - math.log(mass.denominator)


def test_many_removals_do_not_add_up_errors():
    """Half of 20 000 tokens removed one by one; the sum of the rest by math.fsum."""
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=20_000) * 3
    pool = SampledPool(log_p, rng)
    for token in range(10_000):
        pool.remove(token)
    assert pool.mass_left() == pytest.approx(math.log(math.fsum(np.exp(log_p[10_000:]))), abs=1e-12)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53, 0.5])
@pytest.mark.parametrize("p", [[0.0, 0.3, 0.0], [0.1] * 10, [1e-320, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3, 0.0]], ids=str)
def test_no_uniform_number_meets_a_token_without_mass_or_the_end(uniform, p):
    with np.errstate(divide="ignore"):
        pool = SampledPool(np.log(p), Numbers(uniform))  # pyright: ignore[reportArgumentType]
    token = pool.draw()
    assert token is not None
    assert p[token] > 0


def test_removed_tokens_that_are_met_again_and_again_end_in_a_new_sum():
    generator = Numbers(*[0.2] * 65)
    pool = SampledPool(np.log([0.4, 0.3, 0.3]), generator)  # pyright: ignore[reportArgumentType]
    pool.remove(0)
    assert pool.draw() == 1
    assert generator.numbers == []


@pytest.mark.parametrize("share", [0.9, 0.3, 1e-3])
def test_repeats_are_geometric(share):
    """By inversion: j repeats where r^(j + 1) < u <= r^j, r the removed share, for u = e^-E."""
    for u in np.linspace(0.013, 0.997, 41):
        pool = SampledPool(np.log([share, 1 - share]), Numbers(*[-math.log(u)] * 2))  # pyright: ignore
        assert pool.repeats() == 0  # nothing is removed
        pool.remove(0)
        j = pool.repeats()
        assert share ** (j + 1) < u * (1 + 1e-9)
        assert u <= share**j * (1 + 1e-9)
        assert pool.repeats(at_most=1) == min(j, 1)


def test_astronomic_numbers_of_repeats_are_right_to_relative_rounding():
    """E = 1 at a share left of e^-800: the number is e^800."""
    pool = SampledPool(np.array([0.0, -800.0]), Numbers(1.0, 1.0))  # pyright: ignore[reportArgumentType]
    pool.remove(0)
    assert math.log(pool.repeats()) == pytest.approx(800, abs=1e-9)
    pool.remove(1)
    assert pool.repeats(at_most=5) == 5
    with pytest.raises(ValueError, match="give at_most"):
        pool.repeats()


def test_restriction_is_removal_of_all_that_is_not_allowed():
    log_p = np.log(np.arange(1, 9) / 36)
    allowed = np.array([True, False] * 4)
    fast, slow = (SampledPool(log_p, np.random.default_rng(0)) for _ in range(2))
    fast.restrict(allowed)
    Pool.restrict(slow, allowed)
    assert fast.mass_left() == pytest.approx(slow.mass_left(), abs=1e-12)
    assert {fast.draw() for _ in range(100)} == {0, 2, 4, 6}
    fast.restrict(~allowed)
    assert fast.draw() is None


def test_removing_twice_changes_nothing():
    pool = SampledPool(np.log([0.5, 0.25, 0.25]), np.random.default_rng(0))
    for _ in range(3):
        pool.remove(1)
    assert pool.mass_left() == pytest.approx(math.log(0.75))


def test_generators_are_functions_of_the_key():
    draws = [generator_of(key).random(4) for key in (*jax.random.split(jax.random.key(0), 2), jax.random.key(0))]
    assert len({tuple(draw) for draw in draws}) == 3
    assert np.array_equal(draws[2], generator_of(jax.random.key(0)).random(4))
    with pytest.raises(ValueError, match=r"one random key, got an array of them of shape \(2,\)"):
        generator_of(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        generator_of(3)  # pyright: ignore[reportArgumentType]


def test_one_of_ten_tiny_masses_beside_a_spike():
    pool = SampledPool(np.log([0.999999999999999, *[1e-16] * 10]), np.random.default_rng(0))
    for token in range(10):
        pool.remove(token)
    assert pool.mass_left() == pytest.approx(math.log(1e-16), abs=1e-12)
    assert pool.draw() == 10


def test_masses_that_underflow_beside_the_largest():
    pool = SampledPool(np.array([0.0, -800.0, -801.0]), np.random.default_rng(0))
    pool.remove(0)
    assert pool.draw() in (1, 2)
    assert pool.mass_left() == pytest.approx(-800 + math.log1p(math.exp(-1)), abs=1e-9)


_POOL = "uqsparse.inference.constrained.pools:SampledPool."
_RATE = "_log(-_log1p(-math.exp(log_share)))"


@pytest.mark.parametrize(
    ("name", "function", "line", "replacement", "check"),
    [
        ("never summed anew", "_renew", "< 0.5 *", "< -1 *", test_one_of_ten_tiny_masses_beside_a_spike),
        ("never exponentiated anew", "_sum", "< _LEAST_SHARE", "< 0", test_masses_that_underflow_beside_the_largest),
        ("removed ones drawn again", "draw", "not self._is_out[token]", "True", test_draws_are_exact_on_a_grid),
        ("rate is the share left", "repeats", _RATE, "log_share", lambda: test_repeats_are_geometric(0.3)),
    ],
    ids=["never-summed-anew", "never-exponentiated-anew", "removed-ones-drawn-again", "rate-is-the-share-left"],
)
def test_planted_faults_are_found(name, function, line, replacement, check):
    failures = (AssertionError, ValueError, IndexError)
    with planted(Mutant(name, _POOL + function, line, replacement)), pytest.raises(failures):
        check()
