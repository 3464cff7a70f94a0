"""Synthetic pose problems: what they promise about themselves."""

import numpy as np
import pytest

from uqsparse.data.pose_problems import pose_problem


@pytest.mark.parametrize("options", [{}, {"semi_axes": ((8.0, 20.0), (1.5, 4.0)), "n_keypoints": 6, "is_planar": True}])
def test_true_keypoints_lie_in_their_regions_uniformly(options):
    """Under the uniform law on an ellipse the quadratic form is uniform on [0, 1]; mean 1/2 within five errors."""
    forms = []
    for seed in range(60):
        p = pose_problem(seed, **options)
        pixels = (p.points3d @ p.R.T + p.t) @ p.intrinsics.T
        apart = pixels[:, :2] / pixels[:, 2:] - p.centres
        forms += list(np.einsum("ki,kij,kj->k", apart, p.information, apart))
        np.testing.assert_allclose(p.R @ p.R.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(p.R) > 0
        assert np.linalg.matrix_rank(p.points3d) == (2 if options else 3)
        axes = np.linalg.eigvalsh(p.information) ** -0.5
        np.testing.assert_allclose(axes.prod(1), p.radii**2)
        if not options:
            np.testing.assert_allclose(axes[:, 0], p.radii)
            assert (p.radii >= 3).all()
            assert (p.radii <= 12).all()
    assert max(forms) <= 1
    assert abs(np.mean(forms) - 0.5) < 5 / np.sqrt(12 * len(forms))


def test_the_seed_decides():
    first, again, other = pose_problem(1), pose_problem(1), pose_problem(2)
    np.testing.assert_array_equal(first.centres, again.centres)
    assert not np.array_equal(first.centres, other.centres)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_keypoints": 2}, "n_keypoints"),
        ({"semi_axes": ((3.0, 1.0),)}, "semi_axes"),
        ({"semi_axes": ()}, "semi_axes"),
        ({"object_radius": 2.0}, "in front of the camera"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pose_problem(0, **options)
