"""The settings of one run: everything that its result depends on, checked before data are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from semisam.errors import InputError
from semisam.protocols import PROTOCOLS

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
        labels: how many training cases are labeled.
        subset: 0: the first ``labels`` cases of the list, as published; k > 0: the k-th draw.
        seed: of weights, batches, dropout, noise and prompts.
        patch: spatial size of a training patch and of the sliding window, in voxels.
        batch: rows of a batch, labeled and unlabeled together.
        stride: of the sliding window, in voxels; ``None``: the published 18/18/4 at 112/112/80,
            scaled to the patch.
        largest_component: keep the largest connected component of each predicted class.
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
    prompter: str = "uncertainty-points"
    prompter_options: Options = Field(default_factory=dict)
    semisam_options: Options = Field(default_factory=dict)
    protocol: Annotated[str, AfterValidator(_known_protocol)] = "paper"

    labels: int = Field(ge=1)
    subset: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    iterations: int = Field(default=6000, ge=1)
    patch: tuple[Annotated[int, Field(ge=1)], ...] = (128, 128, 128)
    batch: int = Field(default=4, ge=1)
    augment: bool = True
    lr: float = Field(default=0.01, gt=0)
    lr_step: int = Field(default=2500, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float | None = Field(default=None, gt=0)
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    stride: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    largest_component: bool = False

    device: str = "cpu"
    checkpoint_every: int = Field(default=100, ge=1)
    save_predictions: bool = False

    def identity(self, data_hash: str) -> str:
        """Return the run's hash: the same settings on the same data are the same run anywhere.

        Where the data lie, the device and what is written beside the result do not count.
        """
        settings = self.model_dump(mode="json", exclude=_NOT_IDENTITY)
        text = json.dumps([settings, data_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """The method's name as a table shows it."""
        return self.method if self.sam == "none" else f"{self.method}+semisam"


_NOT_IDENTITY = {"data", "device", "checkpoint_every", "save_predictions"}


def make_settings(
    explicit: Mapping[str, Any], suggested: Mapping[str, Any] | None = None
) -> RunSettings:
    """Merge defaults, what the data suggest, the protocol's and what the user set, in that order.

    Args:
        explicit: what the user set.
        suggested: what the dataset suggests, e.g. a patch that fits its scans.

    Raises:
        InputError: listing every setting that is wrong.
    """
    protocol = PROTOCOLS.get(str(explicit.get("protocol", "paper")))
    merged = {**(suggested or {}), **(protocol.run if protocol else {}), **explicit}
    try:
        return RunSettings.model_validate(merged)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}, "
            f"got {fault['input']!r}"
            for fault in error.errors()
        )
        raise InputError(f"these settings cannot be used: {faults}") from None


def method_options(settings: RunSettings) -> Options:
    """Return the method's constructor options: the protocol's, overridden by the user's."""
    protocol = PROTOCOLS[settings.protocol]
    return {**protocol.methods.get(settings.method, {}), **settings.method_options}


def semisam_options(settings: RunSettings) -> Options:
    """Return the branch's constructor options: the protocol's, overridden by the user's."""
    return {**PROTOCOLS[settings.protocol].semisam, **settings.semisam_options}


def read_settings(folder: Path) -> RunSettings:
    """Read ``settings.json`` of a run folder.

    Raises:
        InputError: if there is none or it is not of a run.
    """
    path = folder / "settings.json"
    try:
        return RunSettings.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"a run folder with settings.json is required, got {folder} ({reason}): name the "
            "folder that `semisam train` or `semisam bench` wrote"
        ) from None
