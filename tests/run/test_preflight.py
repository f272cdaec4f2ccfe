"""Networks, promptable models and patches that do not fit the number of axes."""

import pytest
from tiny_runs import settings_of

from semisam.core.errors import InputError
from semisam.plugins import registry
from semisam.run.build import make_framework, open_dataset
from semisam.run.preflight import check_axes, check_run
from semisam.run.request import settings


@pytest.mark.parametrize(
    ("kind", "name", "axes", "said"),
    [
        ("network", "vnet", 2, "--network must be for a patch of 2 axes, got vnet, .* unet2d"),
        ("network", "unet", 2, "got unet, which is for 3. Choose unet2d"),
        ("network", "unet2d", 3, "got unet2d, which is for 2. Choose .*vnet"),
        ("backend", "synthsam", 2, "--sam must be for a patch of 2 axes, .* Choose geodesic"),
    ],
)
def test_what_does_not_fit_names_what_does(kind, name, axes, said):
    with pytest.raises(InputError, match=said):
        check_axes(kind, name, axes)


def test_what_fits_or_states_no_axes_is_taken(monkeypatch):
    check_axes("network", "unet2d", 2)
    check_axes("backend", "geodesic", 2)
    monkeypatch.setattr(registry, "load", lambda kind, name: object)
    check_axes("network", "foreign", 2)


@pytest.fixture(scope="module")
def store():
    from semisam.data.loading.store import VolumeStore

    data = open_dataset(settings(iterations=1))
    split = data.split()
    return VolumeStore(data, labeled=split.train[:1], unlabeled=split.train[1:], test=())


def test_one_labeled_volume_fills_several_rows_with_its_slices(store):
    for patch, rows in (((48, 48), 2), ((32, 32, 32), 1)):
        chosen = settings(labels=1, patch=patch, device="cpu")
        framework = make_framework(chosen, 1, 2)
        assert check_run(chosen, store, framework, 1, 15, here=False).labeled == rows


def test_a_patch_of_one_axis_or_four_is_refused(store):
    for patch in ((48,), (16, 16, 16, 16)):
        chosen = settings_of(labels=1, patch=patch, network="unet2d")
        with pytest.raises(InputError, match=r"must have one size per axis .* 3, or two"):
            check_run(chosen, store, make_framework(chosen, 1, 2), 1, 15, here=False)


def test_a_broken_network_does_not_hide_those_that_fit(install):
    install("torn-dist", {"semisam.networks": {"torn": "no_such_module:Net"}})
    with pytest.raises(InputError, match="Choose unet2d, or another"):
        check_axes("network", "unet", 2)
