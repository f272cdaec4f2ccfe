"""Spacing, patch and single slices, from sizes of scans."""

import pytest

from semisam.core.errors import InputError
from semisam.data.datasets.grids import Grid, common_spacing, fitting_patch, flat_axis
from semisam.data.images.preprocessing import Recipe

GRIDS = [Grid((200, 90, 40), (1.0, 1.0, 3.0)), Grid((100, 80, 50), (2.0, 1.0, 2.5))]


def test_a_spacing_is_given_for_all_axes_or_each_of_them():
    assert common_spacing((2.0,), GRIDS) == (2.0, 2.0, 2.0)
    assert common_spacing((2.0, 1.0, 4.0), GRIDS) == (2.0, 1.0, 4.0)
    assert common_spacing(None, GRIDS) == (1.5, 1.0, 2.75)
    with pytest.raises(InputError, match=r"each of the 3 axes of the scans, got \(1.0, 1.0\)"):
        common_spacing((1.0, 1.0), GRIDS)


@pytest.mark.parametrize(
    ("sizes", "axis"),
    [
        ([(9, 8, 1), (7, 8, 1)], 2),
        ([(1, 8, 9)], 0),
        ([(1, 8, 1)], 2),
        ([(9, 8, 1), (9, 1, 8)], None),
        ([(9, 8, 1), (9, 8, 2)], None),
        ([(9, 8, 1), (9, 8)], None),
        ([(9, 1)], None),
        ([], None),
    ],
)
def test_single_slices_are_known_if_every_scan_is_one(sizes, axis):
    assert flat_axis(sizes) == axis


def test_a_patch_fits_the_median_scan():
    assert fitting_patch(GRIDS, Recipe(None, ("mr",))) == (96, 80, 32)
    flat = [Grid((200, 1, 40), (1.0, 5.0, 1.0))]
    assert fitting_patch(flat, Recipe(None, ("mr",), flat=1)) == (192, 32)
    assert fitting_patch(flat, Recipe(None, ("mr",), longest=100, flat=1)) == (96, 16)
