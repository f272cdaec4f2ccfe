"""Named protocols, as data: the settings and options that a paper or its code prescribes.

A protocol beats what the data suggest, and never what a user set explicitly. Every row of a table
records its name and what departs from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """Settings and options by their place.

    Attributes:
        note: its description in a sentence.
        run: run settings of every method.
        runs: run settings by method name, which override ``run``. They hold for the method both
            bare and with SemiSAM, so that a gain compares equal settings.
        methods: constructor options by method name; those not named keep their defaults.
        semisam: options of the SemiSAM branch.
        backends: constructor options by promptable model.
        prompters: constructor options by prompter.
        listed_only: True if it describes only the methods in ``methods``.
        flat: the protocol that holds in its place for patches of two axes; ``None``: itself.
    """

    note: str
    run: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    semisam: Mapping[str, Any] = field(default_factory=dict)
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prompters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listed_only: bool = False
    flat: Protocol | None = None

    def run_settings(self, method: str) -> dict[str, Any]:
        """Return the run settings that it prescribes for a method."""
        return {**self.run, **self.runs.get(method, {})}

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
_BRANCH: Mapping[str, Any] = {
    "semisam": {"weight": 0.5, "loss": "dice", "ramp_rate": 0.0},
    "backends": _PATCH_AS_IT_IS,
    "prompters": {"center-points": {"points": 3, "max_uncertainty": 1.0}},
}

# The 2-D scripts of SSL4MIS for ACDC. Its ramp has 200 steps of 150 in the 30000 iterations.
_SSL4MIS = Protocol(
    note="SSL4MIS in 2-D for ACDC; unlike it: the last weights instead of the best on validation, "
    "crops instead of slices resized to 256x256, turns and mirrors without other angles, Dice over "
    "the foreground (ent-mini: over all classes), for ua-mt a threshold of ln K instead of ln 2",
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
        "urpc": {
            "supervised_weight": 0.5,
            "consistency_weight": 0.1,
            "divergence_of": "average",
            **_PUBLISHED_RAMP,
        },
        "cps": {
            "supervised_weight": 0.5,
            "consistency_weight": 0.1,
            "consistency_rows": "unlabeled",
            **_PUBLISHED_RAMP,
        },
        "ict": {
            "supervised_weight": 0.5,
            "consistency_weight": 0.1,
            "alpha": 0.2,
            **_PUBLISHED_RAMP,
        },
        "ent-mini": {
            "supervised_weight": 0.5,
            "dice_classes": "all",
            "consistency_weight": 0.1,
            **_PUBLISHED_RAMP,
        },
    },
    semisam={"weight": 0.05, "target": "hard", **_PUBLISHED_RAMP},
    listed_only=True,
)

_KEEP_LARGEST = {"largest_component": True}
_KEEP_ALL = {"largest_component": False}

PROTOCOLS: Mapping[str, Protocol] = {
    # benchmarks/README.md, "What makes the branch work", explains each choice.
    "default": Protocol(
        note="the methods of the paper; the branch as it worked best on held-out training scans: "
        "clicks at the deepest points of the proposal, a Dice loss, a constant weight; "
        "BatchNorm's statistics computed again with the trained network",
        run={"prompter": "center-points", "norm_batches": 16},
        **_BRANCH,
    ),
    # benchmarks/README.md, "The strong recipe", has the measurements.
    "strong": Protocol(
        note="as default, with a modern recipe: a U-Net that starts from the synthetic pretraining "
        "of SynthSAM, AdamW, a rate that rises and falls, averaged weights, zoom and contrast "
        "instead of turns and mirrors, and foreground in every labeled patch",
        run={
            "prompter": "center-points",
            "network": "unet",
            "optimizer": "adamw",
            "schedule": "fall",
            "lr": 3e-4,
            "weight_decay": 0.02,
            "clip": 1.0,
            "averaged": 0.98,
            "augment": "strong",
            "foreground": 0.003,
        },
        **_BRANCH,
    ),
    "paper": Protocol(
        note="the equations of the SemiSAM paper: lambda_c = 0.1 exp(-5 (1 - t/T)), "
        "lambda_s = 0.1 exp(-5 t/T)",
        run={"prompter": "uncertainty-points"},
        backends=_PATCH_AS_IT_IS,
    ),
    "published": Protocol(
        note="each repository's own code for the Left Atrium (ent-mini: SSL4MIS in 3D, on the "
        "others' schedule): squared ramps advancing once in 150 iterations, its loss weights, "
        "patch, batch and post-processing; for supervised, mt and the branch the SemiSAM scripts, "
        "without their prompts from the labels of unlabeled cases. For a patch of two axes: "
        f"{_SSL4MIS.note}",
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
            "ent-mini": _KEEP_ALL,
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
            "dtc": {"beta": 0.3, "consistency_weight": 1.0, **_PUBLISHED_RAMP},
            "dtml": {
                "supervised_weight": 0.5,
                "consistency_weight": 1.0,
                # Both backward calls send the shared consistency into both networks.
                "consistency_count": 2,
                **_PUBLISHED_RAMP,
            },
            "ent-mini": {
                "supervised_weight": 0.5,
                "dice_classes": "all",
                "consistency_weight": 0.1,
                **_PUBLISHED_RAMP,
            },
        },
        # The SAM term is halved.
        semisam={"weight": 0.05, "target": "hard", **_PUBLISHED_RAMP},
        backends={"sam-med3d": {**_PATCH_AS_IT_IS["sam-med3d"], "precision": "fp32"}},
        listed_only=True,
        flat=_SSL4MIS,
    ),
}


DEFAULT = "default"
"""The protocol of runs that do not name one."""
