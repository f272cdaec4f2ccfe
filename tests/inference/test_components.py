"""The component that a mask keeps: the largest, or the one of which the network is surest."""

from __future__ import annotations

import numpy as np
import pytest

from semisam.data.images.files import Geometry
from semisam.data.images.preprocessing import Recipe
from semisam.inference.components import OneComponent, keep_surest
from semisam.inference.evaluation import class_map


def _two(sure=0.95, unsure=0.6):
    """Probabilities with a small sure cube and a larger, less certain one."""
    organ = np.full((12, 12, 12), 0.1, np.float32)
    organ[1:4, 1:4, 1:4] = sure
    organ[6:10, 6:10, 6:10] = unsure
    return np.stack([1 - organ, organ])


def test_the_surest_component_is_kept_where_asked():
    probs = _two()
    before = probs.copy()
    largest = class_map(probs, None, OneComponent((1,)))
    surest = class_map(probs, None, OneComponent((1,), surest=True))
    assert class_map(probs, None).sum() == 27 + 64
    assert largest.sum() == 64 and largest[7, 7, 7]
    assert surest.sum() == 27 and surest[2, 2, 2]
    assert np.array_equal(probs, before)


def test_of_equally_sure_components_the_larger_one_is_kept():
    """Where the network is certain, the rule is the one by size."""
    found = class_map(_two(1.0, 1.0), None, OneComponent((1,), surest=True))
    assert found.sum() == 64


def test_the_evidence_is_against_the_next_class():
    """With many classes a probability below a half is evidence, too."""
    probs = np.full((4, 9), 0.2, np.float32)
    probs[0] = 0.4
    probs[:, :4] = np.array([0.2, 0.4, 0.2, 0.2])[:, None]
    probs[:, 7] = np.array([0.2, 0.4, 0.2, 0.2])
    assert keep_surest(probs, [1]).argmax(0).tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_other_classes_stay():
    probs = np.full((3, 8), 0.05, np.float32)
    probs[0] = 0.9
    probs[:, [0, 1]] = np.array([0.0, 0.9, 0.1])[:, None]
    probs[:, 4] = [0.1, 0.6, 0.3]
    probs[:, [3, 6]] = np.array([0.1, 0.1, 0.8])[:, None]
    kept = keep_surest(probs, [1])
    assert kept.argmax(0).tolist() == [1, 1, 0, 2, 0, 0, 2, 0]
    assert keep_surest(probs, []) is probs


def test_a_mask_on_the_grid_of_the_file_has_the_component_of_the_image():
    image = np.zeros((1, 12, 12, 12), np.float32)
    image[0, 3:9] = 100.0
    recipe = Recipe((2.0, 2.0, 2.0), ("mr",), crop="none")
    whole = np.repeat(np.repeat(np.repeat(image, 2, 1), 2, 2), 2, 3)
    _, _, placement = recipe.apply(whole, Geometry(spacing=(1.0, 1.0, 1.0)))
    assert placement.shape == (24, 24, 24)
    found = class_map(_two(), placement, OneComponent((1,), surest=True))
    assert found.shape == (24, 24, 24) and found[5, 5, 5] and not found[16, 16, 16]
    assert found.sum() == pytest.approx(27 * 8, rel=0.5)
