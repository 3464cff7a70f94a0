"""Schedules: formulas and refusals."""

import numpy as np
import pytest

from uqsparse.pruning.schedules import Constant, CosineChurn, Cubic, Geometric, OneShot


def test_cubic_follows_its_formula_and_reaches_the_end() -> None:
    schedule = Cubic(100, 1000, 100, initial=0.8, final=0.05)
    for step in (0, 100, 300, 700, 900):
        s = min(max((step - 100) / 900, 0), 1)
        assert schedule.density(step) == pytest.approx(0.05 + 0.75 * (1 - s) ** 3)
    assert schedule.density(1000) == schedule.density(5000) == 0.05


def test_the_last_change_reaches_the_final_density_wherever_it_falls() -> None:
    assert Cubic(0, 250, 100, 1.0, 0.1).density(200) == 0.1


def test_geometric_prunes_the_same_share_of_what_is_left() -> None:
    schedule = Geometric(4, 10, 0.1)
    densities = np.array([schedule.density(step) for step in (0, 9, 10, 20, 30, 40, 99)])
    assert densities[0] == densities[1] == 1
    np.testing.assert_allclose(densities[2:6], 0.1 ** np.array([0.25, 0.5, 0.75, 1]))
    assert densities[6] == 0.1


def test_one_shot_and_constant() -> None:
    assert [OneShot(5, 0.2).density(step) for step in (0, 4, 5, 9)] == [1, 1, 0.2, 0.2]
    assert Constant(0.3).density(7) == 0.3


def test_churn_falls_as_a_cosine_to_its_floor() -> None:
    churn = CosineChurn(0.5, 1000, floor=0.1)
    assert churn.rate(0) == 0.5
    assert churn.rate(500) == pytest.approx(0.3)
    assert churn.rate(1000) == churn.rate(2000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), r"density must lie in \(0, 1\], got 0.0"),
        (lambda: Constant(1.5), "density must lie in"),
        (lambda: Constant(0.5, every=0), "every must be an integer"),
        (lambda: OneShot(0, 0.5), "at must be an integer of at least 1"),
        (lambda: Cubic(10, 10, 1, 1.0, 0.5), "start must be before end, got 10 and 10"),
        (lambda: Cubic(0, 10, 1, 0.5, 0.9), "final density must be at most the initial one, 0.5, got 0.9"),
        (lambda: Cubic(0, 50, 100, 1.0, 0.5), "no multiple of every = 100 lies after 0, up to 50"),
        (lambda: Cubic(0, 10, 1, 1.0, float("nan")), "final density must lie"),
        (lambda: Geometric(0, 10, 0.5), "rounds must be"),
        (lambda: CosineChurn(1.0, 10), r"churn must lie in \[0, 1\), got 1.0"),
        (lambda: CosineChurn(0.2, 10, floor=0.3), "floor of the churn"),
        (lambda: CosineChurn(0.2, 0), "end of the churn"),
    ],
)
def test_refusals_name_the_argument(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
