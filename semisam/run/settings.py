"""The settings of one run: everything that its result depends on, checked before data are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from semisam.core.errors import InputError
from semisam.core.layout import SETTINGS
from semisam.run.protocols import DEFAULT, PROTOCOLS

Options = dict[str, Any]


def _known_protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise ValueError(f"must be one of {', '.join(PROTOCOLS)}")
    return name


class RunSettings(BaseModel):
    """The settings of one run.

    Attributes:
        dataset: dataset plugin; ``data`` is the folder it reads, ``None`` for the phantoms.
        method: framework plugin.
        sam: backend plugin, or ``none`` for the bare method.
        prompter: prompter plugin, used where ``sam`` is not ``none``.
        sam_control: no method but a control of the branch, see `semisam.frameworks.controls`.
        labels: how many training cases are labeled.
        subset: 0: the first ``labels`` cases of the list, as published; k > 0: the k-th draw.
        seed: of weights, batches, dropout, noise and prompts.
        patch: spatial size of a training patch and of the sliding window, in voxels.
        batch: rows of a batch, labeled and unlabeled together.
        labeled_rows: labeled rows among them; ``None``: half. Never more than labeled cases.
        stride: of the sliding window, in voxels; ``None``: the published 18/18/4 at 112/112/80,
            scaled to the patch.
        largest_component: keep the largest connected component of each predicted class.
        micro_batch: rows of which the gradients are computed at once; ``None``: the whole batch.
            BatchNorm, and losses of the batch as a whole (Dice, mixes of rows), see no more.
        ranks: processes that share the run, each with its rows of every batch; ``None``: one.
        norm_batches: training batches from which BatchNorm's statistics are taken afresh after the
            last iteration; 0 or ``None``: the running averages of training stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str | None = None
    dataset: str = "phantom"
    dataset_options: Options = Field(default_factory=dict)
    method: str = "mt"
    method_options: Options = Field(default_factory=dict)
    network: str = "vnet"
    network_options: Options = Field(default_factory=dict)
    sam: str = "none"
    sam_options: Options = Field(default_factory=dict)
    prompter: str = "center-points"
    prompter_options: Options = Field(default_factory=dict)
    semisam_options: Options = Field(default_factory=dict)
    sam_control: Literal["oracle", "truth", "shuffled"] | None = None
    protocol: Annotated[str, AfterValidator(_known_protocol)] = DEFAULT

    labels: int = Field(ge=1)
    subset: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    iterations: int = Field(default=6000, ge=1)
    patch: tuple[Annotated[int, Field(ge=1)], ...] = (128, 128, 128)
    batch: int = Field(default=4, ge=1)
    labeled_rows: int | None = Field(default=None, ge=1)
    augment: bool = True
    lr: float = Field(default=0.01, gt=0)
    lr_step: int = Field(default=2500, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float | None = Field(default=None, gt=0)
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    stride: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    largest_component: bool = False
    micro_batch: int | None = Field(default=None, ge=1)
    ranks: int | None = Field(default=None, ge=2)
    norm_batches: int | None = Field(default=None, ge=0)

    device: str = "cpu"
    checkpoint_every: int = Field(default=100, ge=1)
    save_predictions: bool = False

    def identity(self, data_hash: str) -> str:
        """Return the run's hash: the same settings on the same data are the same run anywhere.

        Where the data lie, the device and what is written beside the result do not count.
        """
        later = {name for name in _LATER if getattr(self, name) is None}
        settings = self.model_dump(mode="json", exclude=_NOT_IDENTITY | later)
        text = json.dumps([settings, data_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """The method's name as a table shows it."""
        return self.method if self.sam == "none" else f"{self.method}+semisam"


_NOT_IDENTITY = {"data", "device", "checkpoint_every", "save_predictions"}
# Added after the first results: where it is not set, a run is the one that it was before.
_LATER = {
    *("labeled_rows", "sam_control"),
    *("micro_batch", "ranks", "norm_batches"),
}


def make_settings(
    explicit: Mapping[str, Any], suggested: Mapping[str, Any] | None = None
) -> RunSettings:
    """Merge defaults, what the data suggest, the protocol's and what the user set, in that order.

    The protocol's settings of the method come over its settings of every method. A protocol's
    patch may be larger than the scans: they are padded.

    Args:
        explicit: what the user set.
        suggested: what the dataset suggests, e.g. a patch that fits its scans.

    Raises:
        InputError: listing every setting that is wrong, or if the protocol says nothing of the
            method.
    """
    prescribed = _prescribed(
        str(explicit.get("protocol", DEFAULT)),
        str(explicit.get("method", RunSettings.model_fields["method"].default)),
        own_patch="patch" in explicit,
    )
    merged = {**(suggested or {}), **prescribed, **explicit}
    try:
        settings = RunSettings.model_validate(merged)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}, "
            f"got {fault['input']!r}"
            for fault in error.errors()
        )
        raise InputError(f"these settings cannot be used: {faults}") from None
    protocol = PROTOCOLS[settings.protocol]
    if not protocol.describes(settings.method):
        raise InputError(
            f"the protocol {settings.protocol} must be named with methods that it describes, "
            f"{', '.join(protocol.methods)}, got {settings.method}: leave --protocol out"
        )
    return settings


def _prescribed(protocol: str, method: str, *, own_patch: bool) -> Options:
    """Return the run settings that a protocol prescribes for a method.

    A stride belongs to the patch that it was published with: with a patch of the user's own there
    is none, and the published one is scaled to it.
    """
    known = PROTOCOLS.get(protocol)
    settings = known.run_settings(method) if known else {}
    if own_patch:
        settings.pop("stride", None)
    return settings


_PRESCRIBABLE = (
    *("iterations", "patch", "batch", "labeled_rows", "augment", "lr", "lr_step", "momentum"),
    *("weight_decay", "clip", "precision", "stride", "largest_component", "micro_batch"),
    "norm_batches",
)
# Of the branch, so without a meaning for a bare run.
_PRESCRIBABLE_FOR_SAM = ("prompter",)


def departures(settings: RunSettings) -> tuple[str, ...]:
    """Return how a run departs from its protocol, e.g. ``("iterations=1000", "dtc.beta=0.5")``.

    Compared are the settings of training and test and the options of method, network and branch
    with what the protocol alone would have given. What the data suggest departs like what a user
    sets. Several processes always depart: each computes BatchNorm and Dice on its own rows.
    """
    protocol = PROTOCOLS[settings.protocol]
    alone = RunSettings.model_validate(
        {
            **_prescribed(settings.protocol, settings.method, own_patch=False),
            "method": settings.method,
            "labels": settings.labels,
        }
    )
    bare = settings.sam == "none"
    changed = {
        name: getattr(settings, name)
        for name in (*_PRESCRIBABLE, *(() if bare else _PRESCRIBABLE_FOR_SAM))
        if getattr(settings, name) != getattr(alone, name)
    }
    if "patch" in changed and settings.stride is None:
        changed.pop("stride", None)  # it follows from the patch
    if settings.ranks is not None:
        changed["ranks"] = settings.ranks
    places: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        (settings.method, settings.method_options, protocol.methods.get(settings.method, {})),
        (settings.network, settings.network_options, {}),
    ]
    if not bare:
        places.append(("semisam", settings.semisam_options, protocol.semisam))
        about_prompter = protocol.prompters.get(settings.prompter, {})
        places.append((settings.prompter, settings.prompter_options, about_prompter))
        about_sam = protocol.backends.get(settings.sam, {})
        chosen = {k: v for k, v in settings.sam_options.items() if k in about_sam}
        places.append((settings.sam, chosen, about_sam))
    for place, options, prescribed in places:
        for name, value in options.items():
            if name not in prescribed or prescribed[name] != value:
                changed[f"{place}.{name}"] = value
    return tuple(f"{name}={show_value(value)}" for name, value in changed.items())


def show_value(value: Any) -> str:
    """Return a setting as a person writes it: ``64x64x48`` for a size."""
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def method_options(settings: RunSettings) -> Options:
    """Return the method's constructor options: the protocol's, overridden by the user's."""
    protocol = PROTOCOLS[settings.protocol]
    return {**protocol.methods.get(settings.method, {}), **settings.method_options}


def semisam_options(settings: RunSettings) -> Options:
    """Return the branch's constructor options: the protocol's, overridden by the user's."""
    return {**PROTOCOLS[settings.protocol].semisam, **settings.semisam_options}


def backend_options(settings: RunSettings) -> Options:
    """Return the promptable model's options: the protocol's, overridden by the user's."""
    prescribed = PROTOCOLS[settings.protocol].backends.get(settings.sam, {})
    return {**prescribed, **settings.sam_options}


def prompter_options(settings: RunSettings) -> Options:
    """Return the prompter's options: the protocol's, overridden by the user's."""
    prescribed = PROTOCOLS[settings.protocol].prompters.get(settings.prompter, {})
    return {**prescribed, **settings.prompter_options}


def prescribed_prompter(protocol: str) -> str:
    """Return the prompter that a protocol takes where the user names none."""
    known = PROTOCOLS.get(protocol, PROTOCOLS[DEFAULT])
    return str(known.run.get("prompter", RunSettings.model_fields["prompter"].default))


def read_settings(folder: Path) -> RunSettings:
    """Read ``settings.json`` of a run folder.

    Raises:
        InputError: if there is none or it is not of a run.
    """
    path = folder / SETTINGS
    try:
        return RunSettings.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"a run folder with settings.json is required, got {folder} ({reason}): name the "
            "folder that `semisam train` or `semisam bench` wrote"
        ) from None
