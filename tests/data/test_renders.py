"""Renders show what their poses say: against SciPy's hulls and rotations, and triangles met one by one."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from uqsparse.data.renders import cast_rays, rendered_poses, solid

SIZE = 64


@pytest.fixture(scope="module")
def renders():
    return rendered_poses(3, 80)


def test_shapes_and_ranges(renders):
    assert renders.images.shape == (80, SIZE, SIZE, 3)
    assert renders.images.dtype == np.float32
    assert 0 <= renders.images.min() < 0.05
    assert 0.95 < renders.images.max() <= 1
    assert renders.points3d.shape == (8, 3)
    assert np.linalg.norm(renders.points3d, axis=1).max() == pytest.approx(0.08)
    assert 0 <= renders.keypoints.min() <= renders.keypoints.max() <= SIZE
    assert 0.3 < renders.visible.mean() < 0.9


def test_the_same_seed_gives_the_same_images(renders):
    again, other = rendered_poses(3, 80), rendered_poses(4, 80)
    np.testing.assert_array_equal(again.images, renders.images)
    np.testing.assert_array_equal(again.keypoints, renders.keypoints)
    assert not np.array_equal(other.images, renders.images)


def test_keypoints_are_pinhole_projections(renders):
    f, c = 4.8 * SIZE, SIZE / 2
    for i in (0, 17, 79):
        turned = Rotation.from_matrix(renders.R[i]).apply(renders.points3d)
        for k, (x, y, z) in enumerate(turned + renders.t[i]):
            np.testing.assert_allclose(renders.keypoints[i, k], [f * x / z + c, f * y / z + c], rtol=1e-12)


def test_rotations_are_uniform(renders):
    many = rendered_poses(5, 4000, size=8).R
    np.testing.assert_allclose(np.linalg.det(many), 1, atol=1e-12)
    np.testing.assert_allclose(many @ many.swapaxes(1, 2), np.broadcast_to(np.eye(3), many.shape), atol=1e-12)
    # Every entry of a uniform rotation is uniform on [-1, 1]; three tests, false alarm 3e-5.
    for i, j in ((0, 0), (1, 2), (2, 1)):
        assert kstest(many[:, i, j], "uniform", args=(-1, 2)).pvalue > 1e-5
    near = Rotation.from_matrix(rendered_poses(6, 1000, size=8, turn=40).R @ _view().T).magnitude()
    # Within 40 degrees, a share (a - sin a) / (40 - sin 40) turns by less than a.
    assert np.degrees(near.max()) <= 40 + 1e-6

    def law(a):
        return (a - np.sin(a)) / (np.radians(40) - np.sin(np.radians(40)))

    assert kstest(near, law).pvalue > 1e-5


def _view():
    return rendered_poses(0, 1, size=8, turn=1e-6).R[0]


def test_the_solid_has_no_symmetry():
    corners = solid().corners
    distances = np.linalg.norm(corners[:, None] - corners, axis=-1)
    rows = np.sort(distances, axis=1)
    apart = np.abs(rows[:, None] - rows).max(-1)[~np.eye(8, dtype=bool)]
    assert apart.min() > 1e-3  # a symmetry would map a corner to one with the same distances
    assert len(ConvexHull(corners).vertices) == 8


def test_silhouette_is_the_hull_of_the_projected_corners(renders):
    hits = cast_rays(solid(), renders.R[:10], renders.t[:10], renders.intrinsics, SIZE)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    for i in range(10):
        hull = Delaunay(renders.keypoints[i])
        inside = hull.find_simplex(np.stack([column, row], -1).reshape(-1, 2)).reshape(SIZE, SIZE) >= 0
        assert np.count_nonzero(inside != (hits.face[i] >= 0)) <= 2  # pixels whose centre is on the edge
        assert inside.sum() > 100


def test_depth_and_face_are_those_of_the_nearest_triangle(renders):
    """Triangles of the hull, met by solving for the weights of their corners."""
    body = solid()
    i = 4
    hits = cast_rays(body, renders.R[i : i + 1], renders.t[i : i + 1], renders.intrinsics, SIZE)
    corners = body.corners @ renders.R[i].T + renders.t[i]
    triangles = corners[ConvexHull(body.corners).simplices]
    checked = 0
    for row in range(0, SIZE, 3):
        for column in range(0, SIZE, 3):
            ray = np.linalg.solve(renders.intrinsics, [column + 0.5, row + 0.5, 1])
            depths = []
            for triangle in triangles:
                weights = np.linalg.solve(triangle.T, ray)  # the ray is in the cone of the corners
                if (weights > 1e-9).all():
                    depths.append(1 / weights.sum())
            if depths and hits.face[0, row, column] >= 0:
                assert hits.depth[0, row, column] == pytest.approx(min(depths), rel=1e-5)
                place = renders.R[i].T @ (min(depths) * ray - renders.t[i])
                face = hits.face[0, row, column]
                assert abs(body.normals[face] @ place - body.distances[face]) < 1e-5
                checked += 1
    assert checked > 20


def test_visible_corners_differ_from_the_background(renders):
    """Just inside a visible corner is the solid, a little outside is not: the colours differ."""
    differences = []
    for keypoints, visible, image in zip(renders.keypoints, renders.visible, renders.images, strict=True):
        outwards = keypoints[visible] - keypoints.mean(0)
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        inner = np.floor(keypoints[visible] - 2 * outwards).astype(int)
        outer = np.floor(keypoints[visible] + 2.5 * outwards).astype(int)
        hull = Delaunay(keypoints)
        apart = (hull.find_simplex(outer + 0.5) < 0) & (hull.find_simplex(inner + 0.5) >= 0)
        apart &= ((outer >= 0) & (outer < SIZE)).all(1)
        away = image[inner[apart, 1], inner[apart, 0]] - image[outer[apart, 1], outer[apart, 0]]
        differences.extend(np.linalg.norm(away, axis=1))
    assert len(differences) > 200
    assert np.mean(np.array(differences) > 0.2) > 0.8


def test_colours_tell_the_faces_apart(renders):
    """The hues of the faces, as the median over their pixels in the images has them, are far apart."""
    body = solid()
    hits = cast_rays(body, renders.R, renders.t, renders.intrinsics, SIZE)
    means = []
    for face in range(6):
        pixels = renders.images[hits.face == face]
        unit = pixels / (np.linalg.norm(pixels, axis=1, keepdims=True) + 1e-6)
        means.append(np.median(unit, axis=0))
    apart = np.linalg.norm(np.array(means)[:, None] - means, axis=-1)[~np.eye(6, dtype=bool)]
    assert apart.min() > 0.3


def test_the_pattern_lies_where_the_rays_say(renders):
    """Squares of the chess board, worked out from depths: light and dark are most unlike with no shift of the image."""
    body = solid()
    others = np.array([[1, 2], [1, 2], [0, 2], [0, 2], [0, 1], [0, 1]])  # the coordinates along each face

    def contrast(shift):
        intrinsics = renders.intrinsics - np.array([[0, 0, shift[0]], [0, 0, shift[1]], [0, 0, 0]])
        hits = cast_rays(body, renders.R, renders.t, intrinsics, SIZE)
        which, row, column = np.nonzero(hits.face >= 0)
        face, depth = hits.face[which, row, column], hits.depth[which, row, column]
        rays = np.linalg.solve(intrinsics, np.stack([column + 0.5, row + 0.5, np.ones(len(row))]))
        place = Rotation.from_matrix(renders.R[which]).apply((depth * rays).T - renders.t[which], inverse=True)
        cells = np.floor(place[np.arange(len(face))[:, None], others[face]] / 0.022).astype(int)
        dark = cells.sum(1) % 2 == 1
        brightness = renders.images[which, row, column].sum(1)
        return np.mean(
            [brightness[~dark & (face == f)].mean() - brightness[dark & (face == f)].mean() for f in range(6)]
        )

    shifts = [(x, y) for x in (-0.75, 0, 0.75) for y in (-0.75, 0, 0.75)]
    found = {shift: contrast(shift) for shift in shifts}
    assert max(found, key=found.get) == (0, 0)
    assert found[0, 0] > 0.2


def test_hidden_corners_are_those_behind_the_solid(renders):
    """Points on the way from the camera to the corner, one by one: the solid hides it if one of them is inside."""
    body = solid()
    camera = -np.einsum("nij,ni->nj", renders.R, renders.t)[:, None]
    hidden = np.zeros(renders.visible.shape, bool)
    for share in np.linspace(0.8, 0.9999, 300):
        points = camera + share * (body.corners - camera)
        hidden |= (points @ body.normals.T < body.distances - 1e-9).all(-1)
    assert 0.1 < hidden.mean() < 0.4
    assert not (renders.visible & hidden).any()
    # The rest is hidden by what stands before the solid, in two images of three at most, and only a part of it.
    covered = ~renders.visible & ~hidden
    assert 0.02 < covered.mean() < 0.2
    assert 0.1 < covered.any(1).mean() < 0.7
    # The surroundings are less vivid than the solid: a little inside a covered corner the image shows it.
    inwards = renders.keypoints.mean(1, keepdims=True) - renders.keypoints
    inner = renders.keypoints + 1.5 * inwards / np.linalg.norm(inwards, axis=-1, keepdims=True)
    column, row = np.moveaxis(np.floor(inner).astype(int), -1, 0)
    vivid = np.ptp(renders.images[np.arange(80)[:, None], row, column], axis=-1)
    assert np.median(vivid[covered]) < 0.6 * np.median(vivid[renders.visible])


@pytest.mark.parametrize(
    ("arguments", "name"), [({"n": 0}, "n must"), ({"n": 1, "size": 4}, "size"), ({"n": 1, "turn": 200}, "turn")]
)
def test_bad_input_is_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        rendered_poses(0, **arguments)
