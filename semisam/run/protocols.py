"""Named protocols, as data: the settings and options that a paper or its code prescribes.

A protocol beats what the data suggest, and never what a user set explicitly. Every row of a table
records its name and what departs from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semisam.inference.stride import published_stride, third_stride

BRANCH = "semisam"
"""The name under which options reach the SemiSAM branch."""

EVERY = ""
"""The key of `Protocol.unlike` that stands for every method."""


@dataclass(frozen=True)
class Protocol:
    """Settings and options by their place.

    Attributes:
        note: its description in a sentence.
        usual: run settings for data that suggest no others.
        run: run settings of every method.
        stride: that of the test window, from the patch, if ``run`` prescribes no stride for it.
        runs: run settings by method name, which override ``run``. They hold for the method both
            bare and with SemiSAM, so that a gain compares equal settings.
        methods: constructor options by method name; those not named keep their defaults.
        semisam: options of the SemiSAM branch.
        backends: constructor options by promptable model.
        prompters: constructor options by prompter.
        listed_only: True if it describes only the methods in ``methods``.
        unlike: what of its source it does not reproduce, by method: a name and what is done
            instead. ``EVERY`` is every method, ``semisam`` the branch. Each is a departure of every
            row, and the docstrings give the reasons.
        flat: the protocol that holds in its place for patches of two axes; ``None``: itself.
    """

    note: str
    usual: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    stride: Callable[[Sequence[int]], tuple[int, ...]] = published_stride
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    semisam: Mapping[str, Any] = field(default_factory=dict)
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prompters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listed_only: bool = False
    unlike: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    flat: Protocol | None = None

    @property
    def of_single_methods(self) -> set[str]:
        """The run settings that it prescribes for some methods only, or that depend on these."""
        names = {name for settings in self.runs.values() for name in settings}
        return names | {"stride"} if "patch" in names else names

    def run_settings(self, method: str) -> dict[str, Any]:
        """Return the run settings that it prescribes for a method."""
        return {**self.run, **self.runs.get(method, {})}

    def not_reproduced(self, method: str, *, branch: bool) -> dict[str, str]:
        """Return its departures from its source, by name.

        Args:
            method: of the run.
            branch: the run has the SemiSAM branch.
        """
        found = dict(self.unlike.get(EVERY, {}))
        for place in (method, "semisam") if branch else (method,):
            found |= {f"{place}.{name}": how for name, how in self.unlike.get(place, {}).items()}
        return found

    def for_axes(self, axes: int) -> Protocol:
        """Return the protocol for patches of this many axes."""
        return self.flat if axes == 2 and self.flat is not None else self

    def describes(self, method: str) -> bool:
        """Return whether it describes this method."""
        return not self.listed_only or method in self.methods


# exp(-5 (1 - t'/40)^2) with t' = floor(t / 150): 40 steps in the published 6000 iterations.
_PUBLISHED_RAMP = {"ramp_power": 2.0, "ramp_every": 150}

# SemiSAM gives SAM-Med3D the unscaled patch, padded with zeros.
_PATCH_AS_IT_IS = {"sam-med3d": {"resample": False, "normalise": False}}

# The branch as it worked best, of the protocols that no paper prescribes.
_BRANCH: Mapping[str, Any] = {"weight": 0.5, "loss": "dice", "ramp_rate": 0.0}
_CLICKS: Mapping[str, Any] = {"center-points": {"points": 3, "max_uncertainty": 1.0}}

# The published SAM term is halved.
_PUBLISHED_BRANCH: Mapping[str, Any] = {"weight": 0.05, "target": "hard", **_PUBLISHED_RAMP}

# Options of the methods whose published code is SSL4MIS's: a 3-D U-Net and at least 30,000
# iterations.
_HALVED: Mapping[str, Any] = {
    "supervised_weight": 0.5,
    "dice_classes": "all",
    "consistency_weight": 0.1,
    **_PUBLISHED_RAMP,
}
_SSL4MIS: Mapping[str, Mapping[str, Any]] = {
    "ent-mini": _HALVED,
    "cps": {**_HALVED, "consistency_rows": "unlabeled"},
    "ict": {**_HALVED, "alpha": 0.2},
    "urpc": {**_HALVED, "divergence_of": "average"},
}
_PORTED = {"script": "for other scans, network and length"}

# Published: of the label, ten clicks; a logit above 0.5.
_UNLIKE_BRANCH = {"prompts": "of the method's map", "mask": "probability above 0.5"}

# The 2-D scripts of SSL4MIS for ACDC. Its ramp has 200 steps of 150 in the 30000 iterations.
_ACDC = Protocol(
    note="SSL4MIS in 2-D for ACDC",
    run={
        "network": "unet2d",
        "iterations": 30000,
        "patch": (256, 256),
        "batch": 24,
        "labeled_rows": 12,
        "lr": 0.01,
        "schedule": "poly",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "clip": None,
        "precision": "fp32",
        "prompter": "uncertainty-points",
    },
    # All rows of its batch are labeled.
    runs={"supervised": {"batch": 48, "labeled_rows": 24}},
    methods={
        "supervised": {"supervised_weight": 0.5},
        "mt": {"supervised_weight": 0.5, "consistency_weight": 0.1, **_PUBLISHED_RAMP},
        # It divides the sum over its 4 classes by 2.
        "ua-mt": {"supervised_weight": 0.5, "consistency_weight": 0.2, **_PUBLISHED_RAMP},
        **_SSL4MIS,
    },
    semisam=_PUBLISHED_BRANCH,
    listed_only=True,
    unlike={
        # Published: each slice is resized to the patch, half of them are turned by up to 20 degrees
        # instead of mirrored, and the weights are the best on validation.
        EVERY: {
            "scale": "crops of slices",
            "turns": "by quarters",
            "weights": "the last",
            "rows": "of images, one labeled row per labeled image at most",
        },
        "supervised": {"dice": "of the foreground"},
        "mt": {
            "dice": "of the foreground",
            "teacher": "starts as the student",
            "consistency": "from the first iteration",  # published: from iteration 1000
        },
        "ua-mt": {
            "dice": "of the foreground",
            "teacher": "starts as the student",
            "threshold": "of ln K",  # published: of ln 2 for any number of classes
            "consistency": "weighted as for 4 classes",  # published: K / 2 times 0.1
        },
        "ict": {"mixes": "one per row", "teacher": "all rows in one pass"},
        "urpc": {"dropout": "of the network"},
        "semisam": _UNLIKE_BRANCH,
    },
)

_KEEP_LARGEST = {"components": "largest"}
_KEEP_ALL = {"components": "all"}

PROTOCOLS: Mapping[str, Protocol] = {
    # benchmarks/README.md, "The default recipe", has the measurements.
    "default": Protocol(
        note="a modern recipe: a U-Net that starts from the synthetic pretraining of SynthSAM, "
        "AdamW, a rate that rises and falls, averaged weights, zoom, bends and "
        "contrast instead of quarter turns and mirrors, and foreground in every labeled patch; "
        "the branch corrects the method's own target, with a model adapted to the labeled scans",
        usual={"iterations": 1000},
        run={
            "prompter": "center-points",
            "sam_adapt": 300,
            "network": "unet",
            "optimizer": "adamw",
            "schedule": "fall",
            "lr": 3e-4,
            "weight_decay": 0.02,
            "clip": 1.0,
            "averaged": 0.98,
            "augment": "strong",
            "foreground": 0.003,
            "norm_batches": 16,
            "components": "as-labeled",
        },
        stride=third_stride,
        methods={"fixmatch": {"ema_decay": 0.99}, "ad-mt": {"deploy": "student"}},
        # With a gate that is half open where the model is as good as the method, weight 1 is
        # that of `classic`.
        semisam={**_BRANCH, "role": "target", "gated": True, "weight": 1.0, "several": False},
        backends=_PATCH_AS_IT_IS,
        prompters=_CLICKS,
    ),
    # benchmarks/README.md, "What makes the branch work in the classic recipe", explains it.
    "classic": Protocol(
        note="the methods as their authors train them, a V-Net by SGD; the branch as it worked "
        "best with them on held-out training scans: clicks at the deepest points of the "
        "proposal, a Dice loss, a constant weight; BatchNorm's statistics computed again with the "
        "trained network",
        run={"prompter": "center-points", "norm_batches": 16},
        semisam=_BRANCH,
        backends=_PATCH_AS_IT_IS,
        prompters=_CLICKS,
    ),
    "paper": Protocol(
        note="the equations of the SemiSAM paper: lambda_c = 0.1 exp(-5 (1 - t/T)), "
        "lambda_s = 0.1 exp(-5 t/T)",
        run={"prompter": "uncertainty-points"},
        backends=_PATCH_AS_IT_IS,
    ),
    "published": Protocol(
        note="each repository's own code for the Left Atrium (ent-mini, cps, ict, urpc: SSL4MIS in "
        "3D, on the others' patch and iterations): squared ramps advancing once in 150 iterations, "
        "its loss weights, patch, batch and post-processing; for supervised, mt and the branch the "
        "SemiSAM scripts, without their prompts from the labels of unlabeled cases. For a patch of "
        f"two axes: {_ACDC.note}",
        run={
            "iterations": 6000,
            "patch": (112, 112, 80),
            # 2 labeled + 2 unlabeled; supervised uses the 2 labeled rows, its batch of 2.
            "batch": 4,
            "lr": 0.01,
            "lr_step": 2500,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "clip": None,
            "augment": "mirrored",
            "precision": "fp32",
            "stride": (18, 18, 4),
            "prompter": "uncertainty-points",
        },
        runs={
            "supervised": {"iterations": 12000, **_KEEP_LARGEST},
            "mt": {"patch": (128, 128, 128), "labeled_rows": 1, **_KEEP_LARGEST},
            "ua-mt": _KEEP_ALL,
            "dtc": _KEEP_LARGEST,
            "dtml": _KEEP_LARGEST,
            **{name: {"schedule": "poly", **_KEEP_ALL} for name in _SSL4MIS},
            # 2,000 + 15,000 iterations of 4 labeled + 4 unlabeled rows.
            "bcp": {"iterations": 17000, "batch": 8, **_KEEP_LARGEST},
            # Its rate is constant.
            "mc-net": {"iterations": 15000, "lr_step": 15000, **_KEEP_ALL},
        },
        methods={
            "supervised": {"supervised_weight": 0.5},
            # CE + Dice unhalved; the mean over all rows, halved.
            "mt": {
                "supervised_weight": 1.0,
                "consistency_weight": 0.05,
                "consistency_rows": "all",
                **_PUBLISHED_RAMP,
            },
            "ua-mt": {"supervised_weight": 0.5, "consistency_weight": 0.1, **_PUBLISHED_RAMP},
            "dtc": {
                "background_channel": False,
                "beta": 0.3,
                "consistency_weight": 1.0,
                **_PUBLISHED_RAMP,
            },
            "dtml": {
                "background_channel": False,
                "supervised_weight": 0.5,
                "consistency_weight": 1.0,
                # Both backward calls send the shared consistency into both networks.
                "consistency_count": 2,
                **_PUBLISHED_RAMP,
            },
            **_SSL4MIS,
            "bcp": {"alpha": 0.5, "pretrain": 2 / 17, "supervised_weight": 0.5},
            "mc-net": {
                "target_gradient": True,
                "supervised_weight": 0.5,
                "consistency_weight": 1.0,
                "rise": 0.4,  # 40 steps of 150 iterations
                **_PUBLISHED_RAMP,
            },
        },
        semisam=_PUBLISHED_BRANCH,
        backends={"sam-med3d": {**_PATCH_AS_IT_IS["sam-med3d"], "precision": "fp32"}},
        listed_only=True,
        unlike={
            # Published: 3 voxels more per side and axis, and no crop at an axis' last position;
            # 2 labeled rows, 4 in bcp, 1 in mt.
            EVERY: {"padding": "least", "rows": "one labeled row per labeled case at most"},
            "supervised": {"test_patch": "training patch"},  # published: 128x128x128
            "mt": {"teacher": "starts as the student"},  # published: from other random weights
            "ua-mt": {"teacher": "starts as the student"},
            "ent-mini": _PORTED,
            "cps": {**_PORTED, "initialisation": "of one kind"},
            "ict": {**_PORTED, "mixes": "one per row", "teacher": "all rows in one pass"},
            "urpc": {**_PORTED, "dropout": "of the network", "rate": "a tenth"},
            "bcp": {
                "dice": "squares of the foreground, over the batch",
                "passes": "of all rows together",
                "stages": "with one schedule, from the last network",
            },
            # Published: no squares, over all voxels of the batch; the best on the test list.
            "mc-net": {"dice": "with squares", "weights": "the last"},
            "semisam": _UNLIKE_BRANCH,
        },
        flat=_ACDC,
    ),
}


DEFAULT = "default"
"""The protocol of runs that do not name one."""
