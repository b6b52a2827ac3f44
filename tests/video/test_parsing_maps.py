import numpy as np
import pytest
import torch

from unisync_loss.representations.face_topology import FACE_OVAL, INNER_LIPS, NOSE, OUTER_LIPS, RINGS
from unisync_loss.representations.parsing import mouth_of_maps
from unisync_loss.video.expressions import _tables
from unisync_loss.video.extraction import parsing_of_mesh
from unisync_loss.video.parsing_maps import area_and_middle, coverage, paint, paint_mouths

OTHER, SKIN, NOSE_GROUP, UPPER, LOWER, MOUTH = range(6)


def some_polygon(rng):
    """A star of 30 corners (30, 2) and its area by the shoelace formula."""
    angles, radius = np.sort(rng.uniform(0, 2 * np.pi, 30)), rng.uniform(0.2, 0.5, 30)
    x, y = 0.5 + radius * np.cos(angles), 0.5 + radius * np.sin(angles)
    return np.stack([x, y], 1), abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


class TestCoverage:
    def test_rectangle_to_the_pixel(self):
        square = np.array([[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]])
        expected = np.zeros((8, 8))
        expected[4:8, 2:6] = 1
        assert np.allclose(coverage(square[None], 8)[0], expected)

    def test_part_of_a_pixel(self):
        square = np.array([[0.3, 0.0], [0.8, 0.0], [0.8, 1.0], [0.3, 1.0]])
        assert np.allclose(coverage(square[None], 4)[0], np.array([0, 0.8, 1, 0.2])[None])
        assert np.allclose(coverage(square[None, ::-1], 4)[0], np.array([0, 0.8, 1, 0.2])[None])

    def test_concave(self):
        arrow = np.array([[0, 0], [1, 0], [0.5, 0.5], [1, 1], [0, 1]])
        filled = coverage(arrow[None], 32)[0]
        assert filled[16, :15].min() > 0.99
        assert filled[16, 17:].max() < 0.01
        assert filled.mean() == pytest.approx(0.75, abs=0.002)

    def test_area_of_any_polygon_is_the_shoelace_formulas(self):
        rng = np.random.default_rng(0)
        for _ in range(5):
            polygon, area = some_polygon(rng)
            assert coverage(polygon[None], 64).mean() == pytest.approx(area, abs=0.001)
            assert area_and_middle(polygon[None])[0] == pytest.approx(area)

    def test_middle_is_that_of_the_pixels(self):
        polygon, _ = some_polygon(np.random.default_rng(3))
        filled = coverage(polygon[None], 128)[0]
        centres = (np.arange(128) + 0.5) / 128
        pixels = [(filled.sum(0) * centres).sum() / filled.sum(), (filled.sum(1) * centres).sum() / filled.sum()]
        assert np.allclose(area_and_middle(polygon[None])[1], pixels, atol=1e-3)

    def test_nothing_of_a_line(self):
        line = np.array([[[0.2, 0.3], [0.5, 0.3], [0.7, 0.3]]])
        assert coverage(line, 16).max() < 1e-5
        assert np.allclose(area_and_middle(line)[1], 0.5)

    def test_outside_the_picture(self):
        assert np.allclose(coverage(np.array([[[-1.0, -1.0], [2, -1], [2, 2], [-1, 2]]]), 16), 1)
        assert not coverage(np.array([[[1.1, 0.0], [2, 0], [2, 1]]]), 16).any()
        assert not coverage(np.array([[[0.2, 1.1], [0.8, 1.1], [0.5, 2.0]]]), 16).any()


@pytest.fixture
def mesh():
    """The mean face in a picture, open by a tenth of the eyes' distance."""
    mesh = _tables()[0].unflatten(0, (468, 3))[:, :2].clone()
    lower = [*INNER_LIPS[1:10], *OUTER_LIPS[1:10]]
    mesh[lower, 1] += 0.1
    return (mesh * 0.4 + torch.tensor([0.5, 0.35])).numpy()[None].astype(np.float32)


class TestParsing:
    def test_groups_lie_where_they_should(self, mesh):
        maps = parsing_of_mesh(mesh, 256)[0]

        def at(point):
            x, y = (mesh[0, list(point)].mean(0) * 256).astype(int)
            return maps[:, y, x].argmax()

        assert at([13, 14]) == MOUTH
        assert at([0, 13]) == UPPER
        assert at([14, 17]) == LOWER
        assert at([4]) == NOSE_GROUP
        assert at([152, 17]) == SKIN
        assert at([50]) == SKIN
        assert maps[OTHER, 0, 0] == 1
        assert maps[OTHER, -1].min() == 1

    def test_areas(self, mesh):
        """The parts of the lips' ring fill it: nothing is painted twice, nothing is left out."""
        maps, rings = parsing_of_mesh(mesh)[0].mean((1, 2)), {}
        for name, ring in {"face": FACE_OVAL, "nose": NOSE, "outer": OUTER_LIPS, "inner": INNER_LIPS}.items():
            rings[name] = area_and_middle(mesh[:, list(ring)])[0][0]
        assert maps.sum() == pytest.approx(1)
        assert maps[UPPER:].sum() == pytest.approx(rings["outer"], rel=0.005)
        assert maps[MOUTH] == pytest.approx(rings["inner"], rel=0.005)
        assert maps[NOSE_GROUP] == pytest.approx(rings["nose"], rel=0.005)
        assert maps[SKIN:].sum() == pytest.approx(rings["face"], rel=0.005)

    def test_opening_shows(self, mesh):
        closed = mesh.copy()
        closed[:, list(INNER_LIPS[1:10])] = closed[:, list(reversed(INNER_LIPS[11:]))]
        assert parsing_of_mesh(closed)[:, MOUTH].sum() < 0.01
        assert parsing_of_mesh(mesh)[:, MOUTH].sum() > 50

    def test_mirrored_face_mirrored_map(self, mesh):
        mirrored = mesh * np.float32([-1, 1]) + np.float32([1, 0])
        assert np.allclose(parsing_of_mesh(mirrored), parsing_of_mesh(mesh)[..., ::-1], atol=1e-4)


class TestMouths:
    @pytest.mark.parametrize("place", [(0.0, 0.0), (0.1, 0.25)])
    def test_equal_to_the_cut_of_a_fine_map(self, mesh, place):
        """Also of a face whose chin is beyond the picture."""
        rings = mesh[:, list(RINGS)] + np.float32(place)
        cut = mouth_of_maps(torch.from_numpy(paint(rings, 384)), 48).numpy()
        painted = paint_mouths(rings, 48)
        assert painted.shape == (1, 6, 48, 48)
        assert np.abs(painted - cut).mean() < 0.004
        assert np.abs(np.roll(painted, 1, -1) - cut).mean() > 0.008

    def test_a_mouth_beyond_the_picture(self, mesh):
        """The cut is around the middle of the map, where nothing is known of lips."""
        rings = mesh[:, list(RINGS)] + np.array([0.0, 0.5], np.float32)
        cut = mouth_of_maps(torch.from_numpy(paint(rings, 384)), 48).numpy()
        assert np.abs(paint_mouths(rings, 48) - cut).mean() < 0.004

    def test_many_pictures_are_those_of_each(self, mesh):
        rings = np.concatenate([mesh[:, list(RINGS)] + np.float32(place) for place in np.linspace(0, 0.1, 130)])
        alone = np.concatenate([paint(rings[[number]], 32) for number in (0, 70, 129)])
        assert np.allclose(paint(rings, 32)[[0, 70, 129]], alone, atol=1e-3)
