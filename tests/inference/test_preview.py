"""Previews: the letters at the edges, the slices and the scale."""

from __future__ import annotations

import numpy as np
import pytest

from semisam.data.images.files import Geometry
from semisam.inference import preview

NAMES = ("background", "atrium", "scar")


@pytest.fixture
def figures(monkeypatch):
    made = []

    class Kept(preview.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(preview, "Figure", Kept)
    return made


def _letters(ax):
    """Return the letters at the left, right, lower and upper edge."""
    by_place = {text.get_position(): text.get_text() for text in ax.texts}
    return "".join(by_place[at] for at in ((0.01, 0.5), (0.99, 0.5), (0.5, 0.01), (0.5, 0.99)))


def test_letters_and_slices_are_the_radiologists(tmp_path, figures):
    """Of a file whose axes run to the posterior, the inferior and the right."""
    direction = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    geometry = Geometry((2.0, 3.0, 0.5), (0.0, 0.0, 0.0), direction)
    image = np.random.default_rng(0).normal(size=(8, 10, 12)).astype(np.float32)
    labelmap = np.zeros(image.shape, np.uint8)
    labelmap[2, 3, 4] = 1
    preview.write_preview(tmp_path / "a.png", image[None], labelmap, geometry, NAMES)
    axes = figures[0].axes
    assert [_letters(ax) for ax in axes] == ["RLPA", "RLIS", "APIS"]
    assert [ax.yaxis_inverted() for ax in axes] == [True, False, False], "rows grow downwards"
    lps = np.flip(image.transpose(2, 0, 1), (0, 2))
    left, back, up = 12 - 1 - 4, 2, 10 - 1 - 3
    slices = (lps[:, :, up], lps[:, back], lps[left])
    for ax, want, spacing in zip(axes, slices, ((0.5, 2), (0.5, 3), (2, 3)), strict=True):
        (drawn,) = ax.images
        np.testing.assert_array_equal(drawn.get_array(), want.T)
        width, height = (n * mm for n, mm in zip(want.shape, spacing, strict=True))
        assert drawn.get_extent() == pytest.approx([0, width, height, 0])
    assert [len(ax.collections) for ax in axes] == [1, 1, 1], "no outline of the background"
    titles = [ax.get_title() for ax in axes]
    assert titles == ["axial, j = 3", "coronal, i = 2", "sagittal, k = 4"], (
        "voxel 2, 3, 4 of the file"
    )


@pytest.mark.parametrize(
    ("shape", "title", "letters"),
    [
        ((8, 10, 1), "axial, k = 0", "RLPA"),
        ((8, 1, 10), "coronal, j = 0", "RLIS"),
        ((1, 8, 10), "sagittal, i = 0", "APIS"),
    ],
)
def test_of_a_single_slice_only_its_own_plane_is_drawn(tmp_path, figures, shape, title, letters):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    labelmap = np.zeros(shape, np.uint8)
    labelmap[image > 0] = 1
    geometry = Geometry((2.0, 3.0, 0.5), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    preview.write_preview(tmp_path / "a.png", image[None], labelmap, geometry, NAMES)
    (ax,) = figures[0].axes
    assert ax.get_title() == title and _letters(ax) == letters
    np.testing.assert_array_equal(ax.images[0].get_array(), image.squeeze().T)


def test_two_axes_are_one_slice_without_letters(tmp_path, figures):
    image = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    labelmap = np.zeros(image.shape, np.uint8)
    labelmap[2:4, 5:8] = 2
    preview.write_preview(tmp_path / "a.png", image[None], labelmap, Geometry((2.0, 0.5)), NAMES)
    (ax,) = figures[0].axes
    (drawn,) = ax.images
    np.testing.assert_array_equal(drawn.get_array(), image.T)
    assert drawn.get_extent() == pytest.approx([0, 16, 5, 0])
    assert not ax.texts and ax.get_title() == "slice"


def test_the_legend_has_the_volume_of_each_class_that_is_there(tmp_path, figures):
    image = np.zeros((10, 10, 10), np.float32)
    labelmap = np.zeros(image.shape, np.uint8)
    labelmap[:5, :4, :2] = 2
    preview.write_preview(
        tmp_path / "a.png", image[None], labelmap, Geometry((2.0, 3.0, 5.0)), (*NAMES, "thrombus")
    )
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["scar: 1.2 ml"]
    preview.write_preview(
        tmp_path / "a.png", image[None], 0 * labelmap, Geometry((2.0, 3.0, 5.0)), NAMES
    )
    places = {text.get_text(): text.get_position() for text in figures[1].texts}
    assert all(0 < at < 1 for at in places["nothing was found"])


def test_a_name_with_dollar_signs_is_no_formula(tmp_path):
    image, names = np.zeros((1, 8, 8)), ("background", "$x")
    file = tmp_path / "a$\\frac$b.png"
    preview.write_preview(
        file, image, np.ones((8, 8), np.uint8), Geometry((1.0, 1.0)), (*names, "y$")
    )
    assert file.is_file()
