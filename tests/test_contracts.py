"""Every built-in passes the contract tests that plugin authors get."""

from __future__ import annotations

import pytest
from pictures import write_pictures
from published_slices import write_published_slices
from scan_files import scan, with_other_labels, write, write_folder, write_msd

from semisam.data.datasets.phantom import Phantom
from semisam.data.tools.prepare import prepare
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.testing import (
    BackendContract,
    DatasetContract,
    FakeBackend,
    FrameworkContract,
    NetworkContract,
    PrompterContract,
)


def test_the_tests_below_miss_no_builtin():
    tested = {
        "framework": {
            *("supervised", "mt", "ua-mt", "dtc", "dtml", "ent-mini"),
            *("cps", "urpc", "ict", "mc-net", "bcp", "fixmatch", "ad-mt"),
            # Nothing is trained; in tests/frameworks/test_untrained.py.
            *("copied-mask", "center-ball"),
        },
        # sam-med3d: in tests/backends
        "backend": {"geodesic", "synthsam", "sam-med3d", "sam", "medsam", "sam2"},
        "prompter": {
            *("uncertainty-points", "random-points", "center-points", "corrective-points"),
            *("box", "mask", "box+points", "mask+points"),
        },
        "network": {"vnet", "unet", "unet2d", "monai", "resenc"},  # two: in tests/networks
        "dataset": {
            *("la", "la-raw", "folder", "images", "msd", "prepared", "phantom", "slices"),
        },
        # in tests/loggers
        "logger": {"tensorboard", "wandb", "mlflow", "trackio"},
    }
    builtin = {
        kind: {p.name for p in registry.list_plugins(kind).values() if p.builtin}
        for kind in registry.GROUPS
    }
    assert builtin == tested


class TestSupervised(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "supervised")(build, num_classes)


class TestMeanTeacher(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "mt")(build, num_classes)


class TestMeanTeacherAsPublished(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "mt")(
            build, num_classes, consistency_rows="all", ramp_power=2, ramp_every=150
        )


class TestMeanTeacherWithSemiSAM(FrameworkContract):
    def make(self, build, num_classes):
        inner = registry.load("framework", "mt")(build, num_classes)
        return SemiSAM(inner, FakeBackend(), UncertaintyPoints(max_uncertainty=1.0))


class TestSupervisedWithSemiSAM(FrameworkContract):
    def make(self, build, num_classes):
        inner = registry.load("framework", "supervised")(build, num_classes)
        return SemiSAM(inner, FakeBackend(), UncertaintyPoints(max_uncertainty=1.0))


class TestUncertaintyAwareMeanTeacher(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "ua-mt")(build, num_classes)


class TestDualTaskConsistency(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "dtc")(build, num_classes)


class TestDualTaskMutualLearning(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "dtml")(build, num_classes)


class TestEntropyMinimisation(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "ent-mini")(build, num_classes)


class TestCrossPseudoSupervision(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "cps")(build, num_classes)


class TestUncertaintyRectifiedPyramidConsistency(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "urpc")(build, num_classes)


class TestInterpolationConsistencyTraining(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "ict")(build, num_classes)


class TestMutualConsistency(FrameworkContract):
    def make(self, build, num_classes):
        return registry.load("framework", "mc-net")(build, num_classes)


class TestBidirectionalCopyPaste(FrameworkContract):
    probs_are_deployed = False  # put together from mixed images, of whose faces forward knows none

    def make(self, build, num_classes):
        return registry.load("framework", "bcp")(build, num_classes)


class TestBidirectionalCopyPasteWithSemiSAM(FrameworkContract):
    probs_are_deployed = False

    def make(self, build, num_classes):
        inner = registry.load("framework", "bcp")(build, num_classes)
        return SemiSAM(inner, FakeBackend(), UncertaintyPoints(max_uncertainty=1.0))


class TestFixMatch(FrameworkContract):
    probs_are_deployed = False  # put together from strong views

    def make(self, build, num_classes):
        return registry.load("framework", "fixmatch")(build, num_classes)


class TestAlternateDiverseMeanTeacher(FrameworkContract):
    probs_are_deployed = False  # the student's; a teacher is deployed

    def make(self, build, num_classes):
        return registry.load("framework", "ad-mt")(build, num_classes, longest_turn=2)


class TestFixMatchGuidedBySemiSAM(FrameworkContract):
    probs_are_deployed = False

    def make(self, build, num_classes):
        inner = registry.load("framework", "fixmatch")(build, num_classes, ema_decay=0.9)
        prompter = UncertaintyPoints(max_uncertainty=1.0)
        return SemiSAM(inner, FakeBackend(), prompter, role="target", weight=0.5)


class TestUncertaintyAwareMeanTeacherWithSemiSAM(FrameworkContract):
    def make(self, build, num_classes):
        inner = registry.load("framework", "ua-mt")(build, num_classes)
        return SemiSAM(inner, FakeBackend(), UncertaintyPoints(max_uncertainty=1.0))


class TestDualTaskConsistencyWithSemiSAM(FrameworkContract):
    def make(self, build, num_classes):
        inner = registry.load("framework", "dtc")(build, num_classes)
        return SemiSAM(inner, FakeBackend(), UncertaintyPoints(max_uncertainty=1.0))


class TestGeodesic(BackendContract):
    def make(self):
        return registry.load("backend", "geodesic")()


class TestSynthSAM(BackendContract):
    def make(self):
        return registry.load("backend", "synthsam")()


class TestSam(BackendContract):
    trained = False

    @pytest.fixture(autouse=True)
    def _checkpoint(self, sam_checkpoints):
        self.checkpoint = sam_checkpoints["sam"]

    def make(self):
        return registry.load("backend", "sam")(checkpoint=self.checkpoint)


class TestMedSAM(BackendContract):
    trained = False

    @pytest.fixture(autouse=True)
    def _checkpoint(self, sam_checkpoints):
        self.checkpoint = sam_checkpoints["medsam"]

    def make(self):
        return registry.load("backend", "medsam")(checkpoint=self.checkpoint)


class TestSam2(BackendContract):
    trained = False

    @pytest.fixture(autouse=True)
    def _checkpoint(self, sam_checkpoints):
        self.checkpoint = sam_checkpoints["sam2"]

    def make(self):
        return registry.load("backend", "sam2")(checkpoint=self.checkpoint)


class TestUncertaintyPoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "uncertainty-points")()


class TestRandomPoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "random-points")()


class TestCenterPoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "center-points")()


class TestBoxAndPoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "box+points")()


class TestMaskAndPoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "mask+points")()


class TestCorrectivePoints(PrompterContract):
    def make(self):
        return registry.load("prompter", "corrective-points")()


class TestBox(PrompterContract):
    def make(self):
        return registry.load("prompter", "box")()


class TestMask(PrompterContract):
    def make(self):
        return registry.load("prompter", "mask")()


class TestVNet(NetworkContract):
    shape = (32, 16, 48)
    decoders = 3

    def make(self, in_channels, heads):
        return registry.load("network", "vnet")(in_channels, heads, filters=2)


class TestUNet(NetworkContract):
    shape = (16, 10, 24)
    levels = 4
    decoders = 3

    def make(self, in_channels, heads):
        return registry.load("network", "unet")(in_channels, heads, start="none")


class TestUNet2d(NetworkContract):
    shape = (32, 48)
    decoders = 3

    def make(self, in_channels, heads):
        return registry.load("network", "unet2d")(in_channels, heads, filters=2)


class TestPhantom(DatasetContract):
    def make(self):
        return Phantom(cases=3, test_cases=2, size=32)


class TestPhantomInTwoDimensions(DatasetContract):
    def make(self):
        return Phantom(cases=3, test_cases=2, size=32, ndim=2)


class TestImageFolder(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_pictures(tmp_path)

    def make(self):
        return registry.load("dataset", "images")(self.folder, longest=24)


class TestPublishedSlices(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_published_slices(tmp_path)

    def make(self):
        return registry.load("dataset", "slices")(self.folder)


class TestPhantomOfThreeClasses(DatasetContract):
    def make(self):
        return Phantom(cases=2, test_cases=1, size=32, classes=3)


class TestScanFolder(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_folder(tmp_path / "scans")
        self.other = with_other_labels(self.folder, "*_label.nii.gz", tmp_path / "other")

    def make(self):
        return registry.load("dataset", "folder")(self.folder, spacing=(1.2, 1.0, 1.4))

    def make_with_other_labels(self):
        return registry.load("dataset", "folder")(self.other, spacing=(1.2, 1.0, 1.4))


class TestPartlyAnnotatedFolder(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_folder(tmp_path)

    def make(self):
        return registry.load("dataset", "folder")(
            self.folder, spacing=(1.2, 1.0, 1.4), labels={1: 1}, ignore=2
        )


class TestDecathlon(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_msd(tmp_path / "scans")
        self.other = with_other_labels(self.folder, "labelsTr/*.nii.gz", tmp_path / "other")

    def make(self):
        return registry.load("dataset", "msd")(self.folder)

    def make_with_other_labels(self):
        return registry.load("dataset", "msd")(self.other)


class TestPrepared(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        prepare(registry.load("dataset", "msd")(write_msd(tmp_path / "scans")), {}, tmp_path / "x")
        self.folder = tmp_path / "x"

    def make(self):
        return registry.load("dataset", "prepared")(self.folder)


class TestRawLeftAtrium(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        for n in range(3):
            image, label = scan(n, classes=2)
            write(tmp_path / f"case{n}" / "lgemri.nrrd", image, (0.625,) * 3)
            write(tmp_path / f"case{n}" / "laendo.nrrd", 255 * label)
        self.folder = tmp_path

    def make(self):
        return registry.load("dataset", "la-raw")(self.folder)


class TestLeftAtrium(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, shared):
        self.folder = shared / "data" / "la_full_sample"

    def make(self):
        return registry.load("dataset", "la")(self.folder)
