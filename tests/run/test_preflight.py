"""Networks, promptable models and patches that do not fit the number of axes."""

import contextlib

import pytest
from tiny_runs import settings_of

from semisam.core.errors import InputError, UnservedHeads
from semisam.data.loading.store import VolumeStore
from semisam.networks import precision
from semisam.plugins import registry
from semisam.run import preflight
from semisam.run.build import make_framework, open_dataset
from semisam.run.preflight import check_axes, check_run, saved_bytes
from semisam.run.request import settings
from semisam.testing.plugins import check_plugin


@pytest.mark.parametrize(
    ("kind", "name", "axes", "said"),
    [
        ("network", "vnet", 2, "--network must be for a patch of 2 axes, got vnet, .* unet2d"),
        ("network", "unet2d", 3, "got unet2d, which is for 2. Choose .*vnet"),
        ("backend", "sam-med3d", 2, "--sam must be for a patch of 2 axes, .* Choose synthsam"),
    ],
)
def test_what_does_not_fit_names_what_does(kind, name, axes, said):
    with pytest.raises(InputError, match=said):
        check_axes(kind, name, axes)


def test_what_fits_or_states_no_axes_is_taken(monkeypatch):
    check_axes("network", "unet2d", 2)
    check_axes("network", "unet", 2)
    check_axes("backend", "geodesic", 2)
    monkeypatch.setattr(registry, "load", lambda kind, name: object)
    check_axes("network", "foreign", 2)


def test_a_model_of_slices_is_for_two_axes_unless_it_states_them(install):
    code = "class Slices:\n    ndim, accepts = 2, frozenset({'box'})\n    encode = segment = None\n"
    code += "class Both(Slices):\n    axes = (2, 3)\n"
    points = {"of-slices": "slices_module:Slices", "of-both": "slices_module:Both"}
    install("slices-dist", {"semisam.backends": points}, modules={"slices_module": code})
    check_axes("backend", "of-slices", 2)
    check_axes("backend", "of-both", 3)
    with pytest.raises(InputError, match=r"patch of 3 axes, got of-slices, which is for 2\."):
        check_axes("backend", "of-slices", 3)


@pytest.fixture(scope="module")
def store():
    data = open_dataset(settings(iterations=1))
    split = data.split()
    return VolumeStore(data, labeled=split.train[:1], unlabeled=split.train[1:], test=())


def test_one_labeled_volume_fills_several_rows_with_its_slices(store):
    for patch, rows in (((48, 48), 2), ((32, 32, 32), 1)):
        chosen = settings(labels=1, patch=patch, device="cpu")
        framework = make_framework(chosen, 1, 2)
        assert check_run(chosen, store, framework, 1, 15, here=False).labeled == rows


def test_a_control_that_exchanges_rows_needs_two_of_them(store):
    for batch, fits in ((3, True), (2, False)):
        chosen = settings(
            labels=1, batch=batch, patch=(32, 32, 32), sam="geodesic", sam_control="shuffled"
        )
        with contextlib.nullcontext() if fits else pytest.raises(InputError, match="two unlabel"):
            check_run(chosen, store, make_framework(chosen, 1, 2), 1, 15, here=False)


@pytest.mark.parametrize("control", ["shuffled", "moved"])
@pytest.mark.parametrize("patch", [(32, 32, 32), (48, 48)])
def test_a_control_that_exchanges_rows_needs_two_cases(store, control, patch):
    chosen = settings(labels=1, batch=4, patch=patch, sam="geodesic", sam_control=control)
    framework = make_framework(chosen, 1, 2)
    check_run(chosen, store, framework, 1, 2, here=False)
    with pytest.raises(InputError, match=r"two unlabeled cases, got 1\. Add"):
        check_run(chosen, store, framework, 1, 1, here=False)


def test_a_patch_of_one_axis_or_four_is_refused(store):
    for patch in ((48,), (16, 16, 16, 16)):
        chosen = settings_of(labels=1, patch=patch, network="unet2d")
        with pytest.raises(InputError, match=r"must have one size per axis .* 3, or two"):
            check_run(chosen, store, make_framework(chosen, 1, 2), 1, 15, here=False)


def test_a_study_of_folds_has_test_cases_only(store):
    """Each of its cases is scored in one fold, so none is only for training."""
    chosen = settings(labels=1, patch=(32, 32, 32))
    tested = VolumeStore(store.dataset, labeled=[], unlabeled=[], test=store.labeled)
    assert check_run(chosen, tested, make_framework(chosen, 1, 2), 1, 1, here=False).labeled


def test_a_broken_network_does_not_hide_those_that_fit(install):
    install("torn-dist", {"semisam.networks": {"torn": "no_such_module:Net"}})
    with pytest.raises(InputError, match="Choose unet or unet2d, or another"):
        check_axes("network", "vnet", 2)


OWN = """
from torch import nn
from semisam.core.framework import Framework
from semisam.core.types import Step

class Net(nn.Module):
    stride, axes = 12, (3,)

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv3d(channels, 2, 3, padding=1)

    def forward(self, image):
        return self.conv(image)

class Own(Framework):
    def __init__(self, build, num_classes):
        super().__init__(build, num_classes)
        assert (build.channels, build.stride) == (1, 16)
        self.axes = build.axes
        self.nets = nn.ModuleList([Net(build.channels)])

    def forward(self, image):
        return self.nets[0](image).softmax(1)

    def training_step(self, batch, clock): ...

class NeedsVNet(Own):
    networks = ("vnet",)
"""


@pytest.fixture
def own(install):
    points = {"own": "own_module:Own", "needs-vnet": "own_module:NeedsVNet"}
    install("own-dist", {"semisam.frameworks": points}, modules={"own_module": OWN})


def test_the_network_that_the_method_has_built_is_asked(own, store):
    for patch, said in (
        ((24, 24, 24), None),
        ((32, 32, 32), "multiple of 12 for the network Net of method 'own', got 32x32x32"),
        ((48, 48), "must have 3 axes for the network Net of method 'own', got 48x48"),
    ):
        network = "vnet" if len(patch) == 3 else "unet2d"
        chosen = settings_of(method="own", labels=1, patch=patch, network=network)
        framework = make_framework(chosen, 1, 2)
        assert framework.axes == len(patch)
        told = pytest.raises(InputError, match=said) if said else contextlib.nullcontext()
        with told:
            check_run(chosen, store, framework, 1, 15)


def test_the_memory_is_that_of_the_network_that_is_deployed(own, store):
    chosen = settings_of(method="own", labels=1, patch=(24, 24, 24), network="vnet")
    framework = make_framework(chosen, 1, 2)
    image = 2 * 24**3  # rows and voxels
    need = saved_bytes(framework, (2, 1, 24, 24, 24))
    # The image for the convolution's weights, and the probabilities for the softmax.
    assert need == 4 * (image + 2 * image)
    assert all(p.device.type == "cpu" for p in framework.parameters())
    chosen = settings_of(method="own", labels=1, patch=(6000, 6000, 6000), network="vnet")
    with pytest.raises(InputError, match=r"must fit into memory.*GiB"):
        check_run(chosen, store, framework, 1, 15)


def test_what_surely_fits_is_not_measured(own, store, monkeypatch):
    measured = []
    monkeypatch.setattr(preflight, "saved_bytes", lambda *about: measured.append(about) or 0)
    chosen = settings_of(method="own", labels=1, patch=(24, 24, 24), network="vnet")
    framework = make_framework(chosen, 1, 2)
    for free, passes in ((2**40, 0), (2**20, 1)):
        monkeypatch.setattr(preflight, "available_bytes", lambda device, free=free: free)
        check_run(chosen, store, framework, 1, 15)
        assert len(measured) == passes


@pytest.mark.parametrize(("computes", "fits"), [(True, True), (False, False)])
def test_emulated_bfloat16_needs_four_bytes_a_value(own, store, monkeypatch, computes, fits):
    monkeypatch.setattr(precision, "computes_bf16", lambda device: computes)
    monkeypatch.setattr(preflight, "saved_bytes", lambda *about: 2**30)
    monkeypatch.setattr(preflight, "available_bytes", lambda device: 2**29)
    chosen = settings_of(
        method="own", labels=1, patch=(240, 240, 240), network="vnet", precision="bf16"
    )
    framework = make_framework(chosen, 1, 2)
    told = contextlib.nullcontext() if fits else pytest.raises(InputError, match="fit into memory")
    with told:
        check_run(chosen, store, framework, 1, 15)


def test_a_method_may_need_one_network(own):
    made = settings_of(method="needs-vnet", labels=1, network="vnet")
    assert make_framework(made, 1, 2).networks == ("vnet",)
    found = check_plugin(registry.find("framework", "needs-vnet"))
    assert found == "ok, not constructed: it is for the network vnet"
    other = settings_of(method="needs-vnet", labels=1, network="unet")
    with pytest.raises(UnservedHeads, match="must be vnet for method 'needs-vnet', got unet"):
        make_framework(other, 1, 2)
