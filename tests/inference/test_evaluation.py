"""Scores of a model on the grid of each case's file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from semisam.core.types import IGNORE
from semisam.data.datasets.dataset import Dataset, Image, Split
from semisam.data.datasets.scans import read_values
from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe
from semisam.data.loading.store import VolumeStore
from semisam.inference.components import OneComponent
from semisam.inference.evaluation import METRICS, evaluate, predict_probabilities, summarise

SHAPE, SPACING = (12, 10, 8), (3.0, 0.5, 1.25)
FOUND = (2, 3, 4)
"""The voxel of the file that the model finds."""
PERMUTED = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Cosines of a file whose axes run to the posterior, the inferior and the right."""


class OneVoxel(Dataset):
    """A case of one bright voxel and a label of one voxel, on an anisotropic grid."""

    name = "one-voxel"
    num_classes, channels, class_names = 2, 1, ("background", "spot")

    def __init__(self, drawn, direction=None):
        super().__init__()
        self.drawn, self.file = drawn, Geometry(SPACING, (0.0, 0.0, 0.0), direction)

    def split(self):
        return Split((), ("a",))

    def image(self, case):
        array = np.zeros((1, *SHAPE), np.float32)
        array[0][FOUND] = 1.0
        if self.file.direction is None:
            return Image(array, self.file, has_geometry=True)
        made, geometry, placement = Recipe(None, ("none",), crop="none").apply(array, self.file)
        return Image(made, geometry, has_geometry=True, placement=placement)

    def label(self, case):
        placement = self.image(case).placement
        return self.drawn if placement is None else placement.label(self.drawn)

    def drawn_label(self, case):
        return self.drawn

    def has_label(self, case):
        return True

    def source(self, case):
        return case


class Bright(torch.nn.Module):
    """Segments what is brighter than 0.5; in training mode it finds nothing."""

    def forward(self, image):
        inside = (image > 0.5).float() * (0.0 if self.training else 1.0)
        return torch.cat([1 - inside, inside], 1)


def spot(*places, ignored=()):
    label = np.zeros(SHAPE, np.uint8)
    for place in places:
        label[place] = 1
    for place in ignored:
        label[place] = IGNORE
    return label


def scores(dataset, **options):
    store = VolumeStore(dataset, labeled=(), unlabeled=(), test=("a",))
    cpu = torch.device("cpu")
    size = tuple(dataset.image("a").array.shape[1:])
    return evaluate(Bright(), store, ["a"], size, size, device=cpu, precision="fp32", **options)


@pytest.mark.parametrize("direction", [None, PERMUTED], ids=["as it lies", "turned"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distances_are_in_the_millimetres_of_the_files_axes(direction, axis):
    away = list(FOUND)
    away[axis] += 2
    (row,) = scores(OneVoxel(spot(tuple(away)), direction))
    assert row["dice"] == 0 and row["class"] == "spot"
    for metric in ("hd95", "asd", "assd"):
        assert row[f"{metric}_voxel"] == 2
        assert row[f"{metric}_mm"] == pytest.approx(2 * SPACING[axis])


@pytest.mark.parametrize("direction", [None, PERMUTED], ids=["as it lies", "turned"])
def test_a_prediction_returns_to_its_place_in_the_file(tmp_path, direction):
    dataset = OneVoxel(spot(FOUND), direction)
    (row,) = scores(dataset, predictions=tmp_path)
    assert row["dice"] == 1 and row["hd95_mm"] == 0
    mask = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.argwhere(sitk.GetArrayFromImage(mask).T).tolist() == [list(FOUND)]
    assert mask.GetSpacing() == pytest.approx(SPACING)
    if direction is not None:
        assert mask.GetDirection() == pytest.approx(direction)


def test_an_empty_reference_has_the_diagonal_in_millimetres():
    (row,) = scores(OneVoxel(spot()))
    assert row["empty_reference"] and not row["empty_prediction"]
    assert row["hd95_voxel"] == pytest.approx(math.hypot(*SHAPE))
    size = [n * mm for n, mm in zip(SHAPE, SPACING, strict=True)]
    assert row["assd_mm"] == pytest.approx(math.hypot(*size))


def test_ignored_voxels_are_not_scored():
    (row,) = scores(OneVoxel(spot((2, 3, 6), ignored=[FOUND])))
    assert row["empty_prediction"] and not row["empty_reference"]


def test_the_largest_component_is_kept_only_where_asked():
    class Two(OneVoxel):
        def image(self, case):
            image = super().image(case)
            image.array[0, 8:10, 8, 6] = 1.0
            return image

    both = spot(FOUND, (8, 8, 6), (9, 8, 6))
    (all_of_it,) = scores(Two(both))
    (largest,) = scores(Two(both), one_component=OneComponent((1,)))
    assert all_of_it["dice"] == 1 and largest["dice"] == pytest.approx(2 * 2 / (2 + 3))


def test_saved_masks_have_the_values_of_the_labels(tmp_path):
    data = OneVoxel(spot(FOUND))
    data.label_values = (0, 255)
    (row,) = scores(data, predictions=tmp_path)
    (path,) = tmp_path.iterdir()
    values = read_values(path)[0]
    assert np.unique(values).tolist() == [0, 255] and row["dice"] > 0


def _row(case, kind, value, empty=False, nothing=False):
    flags = {"empty_prediction": empty, "empty_reference": nothing}
    return {"case": case, "class": kind, **dict.fromkeys(METRICS, value), **flags}


def test_classes_are_averaged_within_a_case_before_the_cases():
    rows = [_row("a", "x", 1.0), _row("a", "y", 3.0), _row("b", "x", 6.0, empty=True)]
    summary = summarise(rows)
    assert summary["dice"] == pytest.approx((2.0 + 6.0) / 2)
    assert summary["dice_sd_cases"] == pytest.approx(math.sqrt(8))
    assert (summary["dice:x"], summary["dice:y"]) == (3.5, 3.0)
    assert summary["empty_predictions"] == 1
    rightly = _row("c", "x", 1.0, empty=True, nothing=True)
    assert summarise([*rows, rightly])["empty_predictions"] == 1
    assert (summary["rightly_empty"], summarise([*rows, rightly])["rightly_empty"]) == (0, 1)
    assert summarise(rows[:1])["dice_sd_cases"] == 0.0
    assert "dice:x" not in summarise(rows[:1]) and summarise([]) == {}


class Flat(torch.nn.Module):
    """A method that returns the image as probability, and accepts images of two axes only."""

    def forward(self, image):
        assert image.ndim == 4
        return torch.cat([1 - image, image], 1)


def test_a_window_of_two_axes_moves_over_every_slice():
    array = np.random.default_rng(0).random((1, 20, 18, 5), np.float32)
    for patch in ((16, 16), (32, 16)):
        probs = predict_probabilities(
            Flat(),
            Image(array, Geometry((1.0, 1.0, 3.0)), has_geometry=False),
            patch,
            (7, 5),
            device=torch.device("cpu"),
            precision="fp32",
        )
        assert probs.shape == (2, 20, 18, 5)
        torch.testing.assert_close(probs[1], torch.from_numpy(array[0]))
