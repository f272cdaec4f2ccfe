"""The settings of one run: everything that its result depends on, resolved and recorded.

`RunSettings` holds the resolved values; `semisam.run.resolve` makes them from the user's values,
the protocol and the data. A setting of a run is declared only here. Its command-line option, its
place in the identity and its record follow from the declaration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semisam.core.errors import InputError
from semisam.core.layout import SETTINGS
from semisam.run.protocols import DEFAULT

Options = dict[str, Any]

RESULTS_VERSION = 7
"""Part of every identity. Raise it when a change of semisam moves the numbers of a run."""

DEFAULT_BACKEND = "synthsam"
"""The promptable model of ``--sam`` that ships in the package."""


@dataclass(frozen=True)
class Flag:
    """The command-line option of a setting, which has the setting's name with hyphens.

    Attributes:
        help: of the option.
        default: text shown instead of the field's default.
    """

    help: str
    default: str | None = None


Count = Annotated[int, Field(ge=1)]
Size = tuple[Count, ...]
Components = Literal["as-labeled", "largest", "surest", "all"]


class RunSettings(BaseModel):
    """The settings of one run.

    Attributes:
        dataset: dataset plugin; ``data`` is the folder it reads, ``None`` for the phantoms.
        method: method plugin.
        init: run folder whose weights are the first ones; its digest is in ``sources``.
        sam: backend plugin, or ``none`` for the bare method.
        prompter: prompter plugin; ``none`` if ``sam`` is ``none``.
        sam_control: a control of the branch, see `semisam.frameworks.controls`.
        labels: number of labeled training cases.
        subset: 0: the first ``labels`` cases of the list, as published; k > 0: the k-th draw.
        seed: of weights, batches, dropout, noise and prompts.
        ranks: number of processes that share the run and its rows; ``None``: one.
        sources: ``results``, the version of the numbers; the distribution of each plugin that is
            not built in; the digest of each file that an option names or a plugin brings.
        sam_sources: the same for the branch's plugins.
        departures: departures of the run from its protocol, e.g. ``("iterations=1000",)``.
        choices: chosen values that no protocol prescribes, e.g. ``("phantom.size=32",)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: Annotated[str | None, Flag("Folder of scans.", "generated phantoms")] = None
    dataset: Annotated[str, Flag("Dataset plugin.", "the one that reads the folder")] = "phantom"
    dataset_options: Options = Field(default_factory=dict)
    method: str = "mt"
    method_options: Options = Field(default_factory=dict)
    network: Annotated[
        str, Flag("Network plugin.", "the protocol's, or unet2d where it is for volumes only")
    ] = "vnet"
    network_options: Options = Field(default_factory=dict)
    init: Annotated[
        str | None,
        Flag(
            "Finished run of the same method and network, whose weights this one starts from.",
            "the network's own first weights",
        ),
    ] = None
    sam: str = "none"
    sam_options: Options = Field(default_factory=dict)
    prompter: Annotated[str, Flag("Prompter plugin.", "the protocol's")] = "center-points"
    prompter_options: Options = Field(default_factory=dict)
    semisam_options: Options = Field(default_factory=dict)
    sam_control: Literal["oracle", "truth", "shuffled", "moved"] | None = None
    sam_adapt: Annotated[
        int,
        Field(ge=0),
        Flag(
            "Steps that adapt the promptable model to the labeled scans before the training. "
            "0 takes it as it is.",
            "300, at most half of --iterations; 0 with the other protocols",
        ),
    ] = 0
    protocol: Annotated[
        str,
        Flag(
            "default: a modern recipe, with a network that starts from synthetic pretraining; "
            "classic: a V-Net by SGD, with the branch as it worked best there; paper: the paper's "
            "equations; published: each method's own code."
        ),
    ] = DEFAULT

    test: Annotated[
        str,
        Flag(
            "auto: the test cases of the data, or a draw; none: all cases train, and nothing is "
            "scored; K-fold: each labeled case is scored once; or names of cases."
        ),
    ] = "auto"
    fold: Annotated[
        int | None, Field(ge=1), Flag("One fold of --test K-fold, from 1.", "all in bench")
    ] = None
    first: Annotated[
        str | None,
        Flag(
            "Training cases that are labeled before all others, in this order, separated by "
            "commas. `semisam data first` names some.",
            "the order of the list, or a draw of --subsets",
        ),
    ] = None
    labels: int = Field(ge=1)
    subset: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    iterations: Annotated[Count, Flag("Optimizer steps.", "1000, phantoms 300; by protocol")] = 6000
    patch: Annotated[
        Size,
        Flag(
            "Training patch and test window, in voxels. Two sizes on volumes train slice by slice.",
            "fitted to the data",
        ),
    ] = (128, 128, 128)
    batch: Annotated[Count, Flag("Rows of a batch, labeled and unlabeled.")] = 4
    labeled_rows: Annotated[Count | None, Flag("Labeled rows of a batch.", "half")] = None
    micro_batch: Annotated[
        Count | None,
        Flag(
            "Micro-batch size for gradient accumulation. BatchNorm and Dice are computed per "
            "micro-batch.",
            "whole batch",
        ),
    ] = None
    augment: Annotated[
        Literal["orientation", "mirrored", "strong", "none"],
        Flag(
            "orientation: turn and mirror training patches; mirrored: only the four mirrored "
            "orientations, as published; strong: zoom, small turns and "
            "bends, contrast, blur and noise, without mirrors."
        ),
    ] = "orientation"
    foreground: Annotated[
        float,
        Field(ge=0, lt=1),
        Flag(
            "Smallest fraction of a labeled patch that must be foreground; of several classes one "
            "is drawn, which the patch must show. 0: patches are anywhere."
        ),
    ] = 0.0
    optimizer: Annotated[Literal["sgd", "adamw"], Flag("Optimizer.")] = "sgd"
    schedule: Annotated[
        Literal["step", "poly", "cosine", "fall"],
        Flag("Learning rate: fall rises, stays and falls over the last 40 %."),
    ] = "step"
    lr: Annotated[float, Field(gt=0), Flag("Highest learning rate.")] = 0.01
    lr_step: Annotated[
        Count, Flag("Iterations between divisions of the rate by ten, of --schedule step.")
    ] = 2500
    momentum: Annotated[float, Field(ge=0, lt=1), Flag("Momentum of SGD.")] = 0.9
    weight_decay: Annotated[float, Field(ge=0), Flag("Weight decay.")] = 1e-4
    averaged: Annotated[
        float,
        Field(ge=0, lt=1),
        Flag("Decay of averaged weights, which are deployed. 0 deploys the last weights."),
    ] = 0.0
    clip: Annotated[
        float | None,
        Field(gt=0),
        Flag("Largest gradient norm.", "1.0; no clipping with the other protocols"),
    ] = None
    norm_batches: Annotated[
        int,
        Field(ge=0),
        Flag(
            "Batches from which BatchNorm's statistics are computed after training. 0 keeps the "
            "running averages.",
            "16; 0 with paper and published",
        ),
    ] = 0
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"],
        Flag(
            "Number format of the network's pass. bf16: bfloat16 where the device computes in it, "
            "else float32."
        ),
    ] = "bf16"
    stride: Annotated[
        Size | None,
        Flag(
            "Stride of the test window, in voxels.",
            "a third of the patch; 18x18x4 at 112x112x80, scaled, with the other protocols",
        ),
    ] = None
    components: Annotated[
        Components,
        Flag(
            "Components of a class that a mask keeps. as-labeled: the largest, if the class is one "
            "component in every labeled mask, else all. surest: that with the largest sum of log "
            "odds."
        ),
    ] = "all"
    validate_every: Annotated[
        Count | None,
        Flag("Iterations between validations on held-out labeled cases.", "no validation"),
    ] = None
    validate_cases: Annotated[
        Count, Flag("Labeled cases, the last of --labels, that validate and do not train.")
    ] = 1
    keep: Annotated[
        Literal["last", "best"],
        Flag("Weights that are deployed: the last, or the best validated."),
    ] = "last"
    patience: Annotated[
        Count | None,
        Flag("Stop the training after this many validations without a better Dice.", "never"),
    ] = None
    ranks: Annotated[int | None, Field(ge=2)] = None

    device: Annotated[
        str, Flag("Torch device: cpu, cuda, cuda:1 ...; auto: a GPU if there is one.", "auto")
    ] = "cpu"
    checkpoint_every: Annotated[Count, Flag("Iterations between checkpoints.")] = 100
    save_predictions: Annotated[bool, Flag("Write a NIfTI label per test case.")] = False
    logger: Annotated[str, Flag("Logger plugin, in addition to train.jsonl.")] = "none"
    logger_options: Options = Field(default_factory=dict)

    sources: dict[str, str] = Field(default_factory=dict)
    sam_sources: dict[str, str] = Field(default_factory=dict)
    departures: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def identity(self, data_key: str) -> str:
        """Return the run's hash, which equal settings on equal data share on any machine."""
        text = json.dumps([self.identifying(), data_key], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def identifying(self) -> dict[str, Any]:
        """Return the settings that identify the run, as plain values.

        A file counts by its digest, not by its path.
        """
        idle = OF_VALIDATION if self.validate_every is None else frozenset()
        kept = self.model_dump(mode="json", exclude=set(NOT_IDENTITY | idle))
        for place in PLUGINS:
            options = kept[f"{place}_options"]
            for name in [n for n in options if f"{place}.{n}" in self.sources | self.sam_sources]:
                del options[name]
        return kept

    @property
    def title(self) -> str:
        """The method and the promptable model, such as ``mt + geodesic (control: oracle)``."""
        return title_of(self.method, self.sam, self.sam_control)


def title_of(method: str, sam: str = "none", control: str | None = None) -> str:
    """Return the name of a run in a line of text.

    Example:
        >>> title_of("mt"), title_of("mt", "geodesic", "oracle")
        ('mt', 'mt + geodesic (control: oracle)')
    """
    if sam == "none":
        return method
    return f"{method} + {sam}" + (f" (control: {control})" if control else "")


NOT_IDENTITY = frozenset(
    {
        *("data", "device", "checkpoint_every", "save_predictions", "logger", "logger_options"),
        *("init", "departures", "choices"),
    }
)
"""Settings that no number depends on, such as the device, or that follow from the others."""

PLUGINS = {
    "dataset": "dataset",
    "method": "framework",
    "network": "network",
    "sam": "backend",
    "prompter": "prompter",
}
"""The settings that name a plugin, and its kind. Its options are in ``<setting>_options``."""

OF_THE_BRANCH = frozenset(
    {
        *("sam", "sam_options", "sam_control", "sam_adapt", "sam_sources"),
        *("prompter", "prompter_options", "semisam_options"),
    }
)
"""Settings that do not apply to a bare run."""

OF_VALIDATION = frozenset({"validate_every", "validate_cases", "keep", "patience"})
"""Settings that do not apply to a run without validation."""

AXES = ("method", "sam", "sam_control", "labels", "subset", "seed", "fold")
"""Settings that the runs of a grid differ in."""


GROUPS: Mapping[str, tuple[str, ...]] = {
    "Scans and test": ("data", "dataset", "test", "fold", "first"),
    "Protocol and network": ("protocol", "network", "init"),
    "Promptable model": ("prompter", "sam_adapt"),
    "Batches": (
        *("iterations", "patch", "batch", "labeled_rows", "micro_batch", "augment", "foreground"),
    ),
    "Optimizer": (
        *("optimizer", "schedule", "lr", "lr_step", "momentum", "weight_decay", "averaged"),
        *("clip", "norm_batches", "precision"),
    ),
    "Validation": ("validate_every", "validate_cases", "keep", "patience"),
    "Prediction": ("stride", "components", "save_predictions"),
    "Execution": ("device", "checkpoint_every", "logger"),
}
"""The settings that a command line offers, in the groups and the order of its help."""


def flags_of_settings() -> dict[str, Flag]:
    """Return the settings that a command line offers, in order, with their flags."""
    fields = RunSettings.model_fields
    return {
        name: next(item for item in fields[name].metadata if isinstance(item, Flag))
        for names in GROUPS.values()
        for name in names
    }


def validated(values: Mapping[str, Any]) -> RunSettings:
    """Return settings of plain values.

    Raises:
        InputError: a setting is wrong; the message lists every one by the name of its option.
    """
    try:
        return RunSettings.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(f"{faults(error)}. Correct these settings.") from None


def faults(error: ValidationError) -> str:
    """Return every setting that is wrong, by the name of its option."""
    return "; ".join(map(_fault, error.errors()))


def _fault(fault: Any) -> str:
    name, *where = (str(part) for part in fault["loc"] or ("settings",))
    rule = str(fault["msg"])
    for begin in ("Input should be ", "Value error, ", "Field "):
        rule = rule.removeprefix(begin)
    option = f"--{name.replace('_', '-')}" if name in RunSettings.model_fields else name
    what = f"{option} (value {int(where[0]) + 1})" if where and where[0].isdigit() else option
    if fault["type"] == "missing":
        return f"{option} must be given"
    if fault["type"] == "extra_forbidden":
        return f"{name} must be the name of a setting"
    return f"{what} must be {rule}, got {fault['input']!r}"


def show_value(value: Any) -> str:
    """Return a setting as a person writes it: ``64x64x48`` for a size, ``255=1`` for a mapping."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={show_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ("," if any(isinstance(item, str) for item in value) else "x").join(map(str, value))
    return str(value)


def read_settings(folder: Path) -> RunSettings:
    """Read ``settings.json`` of a run folder.

    Raises:
        InputError: the file is missing or does not hold the settings of a run.
    """
    path = folder / SETTINGS
    try:
        return RunSettings.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = faults(error) if isinstance(error, ValidationError) else error
        raise InputError(
            f"the run must be a folder with {SETTINGS}, got {folder} ({reason}). Name the folder "
            "that `semisam train` or `semisam bench` wrote."
        ) from None
