"""The contract of a training method, complete for authors of methods."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semisam.core.errors import PluginError
from semisam.core.types import Batch, Clock, Step

_RESERVED = frozenset({"loss", "lr", "step", "sam"})


@dataclass(frozen=True)
class NetBuilder:
    """A builder of networks with named heads.

    ``build(logits=2)`` returns a module with ``module(image) -> {"logits": (B, 2, *S)}``; DTC calls
    ``build(logits=K, sdf=K - 1)``. Outputs are raw (no softmax, no tanh) float32.

    A head whose name ends in ``_level<i>``, i = 1, 2, ..., is read from the decoder ``i`` halvings
    below full resolution. It is interpolated to the image's size, linearly in every axis with
    ``align_corners=False``. URPC calls
    ``build(logits=K, logits_level1=K, logits_level2=K, logits_level3=K)``.

    A head whose name ends in ``_decoder<i>``, i = 2, 3, ..., is read from another decoder of the
    same encoder, with weights of its own and, if the network has them, another way to enlarge.
    MC-Net+ calls ``build(logits=K, logits_decoder2=K, logits_decoder3=K)``. A level comes last, as
    in ``logits_decoder2_level1``.

    A network refuses a level or a decoder that it does not have, with a ValueError that names the
    head.

    Three attributes of a network are optional: ``stride``, of which each size of a patch is a
    multiple, ``axes``, the numbers of spatial axes that it is for, and ``param_groups()``, the
    groups of its parameters with their own learning rates (see `Framework.param_groups`).

    Attributes:
        make: returns a freshly initialised module with these heads.
        channels: ``C`` of the images.
        axes: spatial axes of a patch.
    """

    make: Callable[[Mapping[str, int]], nn.Module]
    channels: int
    axes: int

    def __call__(self, **heads: int) -> nn.Module:
        """Return a freshly initialised module with these heads."""
        return self.make(heads)

    @property
    def stride(self) -> int:
        """The stride of the network, of which each size of a patch is a multiple."""
        return int(getattr(blueprint(lambda: self(logits=2)), "stride", 1))


def blueprint(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network of which only the attributes are read, without memory for its weights.

    A constructor that reads the numbers of a tensor, for example by ``item()``, runs again with
    memory. Torch's generator stays as it is.

    Args:
        make: constructs the network.
    """
    try:
        with torch.device("meta"):
            return make()
    except Exception:  # of any plugin; a fault of its own is raised again here
        with torch.random.fork_rng(devices=[]):
            return make()


def _refuse(heads: Mapping[str, int]) -> nn.Module:
    raise TypeError(f"the method must build no network, got a call for {dict(heads)}.")


NO_NETWORK = NetBuilder(_refuse, channels=0, axes=0)
"""The builder of methods that build no network: SemiSAM, which wraps one, and copied masks."""


class Framework(nn.Module, ABC):
    """A method that trains a segmentation network from labeled and unlabeled volumes.

    A subclass takes its options as keyword-only constructor arguments with the paper's defaults.
    They are its whole configuration. Randomness comes from torch's default generator, which the
    trainer seeds for every step, so a method needs no generator of its own.

    A label may hold `semisam.core.types.IGNORE`, where nobody annotated. These voxels must not
    count in a loss. The losses of `semisam.core.losses` leave them out.

    A method computes its losses on the rows that it is given. Where several processes share a run,
    the trainer gives each its own rows of the batch and averages the gradients.

    A method that builds a network of its own, without ``build``, may give this module the
    attributes ``stride`` and ``axes``.

    Args:
        build: builds a network with named heads; it knows the images' channels and axes.
        num_classes: classes counting background, at least 2.
    """

    uses_unlabeled: bool = True
    """False: the trainer passes labeled rows only."""

    trains: bool = True
    """False: no step is taken. `learn` gets the labeled scans, and `forward` gets whole scans."""

    networks: ClassVar[tuple[str, ...]] = ()
    """The network plugins that the method works with; empty: any."""

    wants_places: bool = False
    """True: `Batch.places` and `Batch.inside` are filled."""

    own_losses: ClassVar[frozenset[str]] = frozenset()
    """Reserved names that the losses of this method may have: ``sam`` of the SemiSAM branch."""

    guide: Callable[[Tensor], Tensor] | None = None
    """Set by the SemiSAM branch for the length of a step; see `guided`."""

    def __init__(self, build: NetBuilder, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 with background, got {num_classes}.")
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities as deployed: ``(B, C, *S)`` to ``(B, K, *S)``."""

    @abstractmethod
    def training_step(self, batch: Batch, clock: Clock) -> Step:
        """Return weighted losses and the differentiable probability map of one batch."""

    def learn(self, cases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take the labeled scans, in a method that does not train.

        Args:
            cases: images ``(C, *S)`` and labels ``(*S)``, with ignored voxels.
        """

    def after_update(self, clock: Clock) -> None:
        """Run after each optimizer step, for example to move an EMA teacher."""

    def guided(self, target: Tensor) -> Tensor:
        """Return the map that teaches the unlabeled rows, corrected by the SemiSAM branch.

        A method whose own prediction on the unlabeled rows becomes a target calls this once in a
        step. Without the branch the map comes back as it is. A method that never calls it can be
        wrapped all the same: the branch then adds a loss of its own.

        Args:
            target: ``(U, K, *S)`` probabilities without a gradient, in the order of the rows.
        """
        return target if self.guide is None else self.guide(target)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, by default all that require a gradient.

        A group may have its own ``lr`` or a factor on the run's, ``lr_scale``. The schedule keeps
        the ratio of each group's rate to the run's. The default is one group, and the groups of
        the networks that have a ``param_groups`` themselves.
        """
        networks: list[Any] = [module for module in self.modules() if module is not self]
        groups = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]}
            for network in networks
            if hasattr(network, "param_groups")
            for group in network.param_groups()
        ]
        grouped = {id(p) for group in groups for p in group["params"]}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in grouped]
        return [{"params": rest}, *(group for group in groups if group["params"])]


def head_level(name: str) -> int:
    """Return the halvings below full resolution at which a head of this name is read.

    ``logits_level2`` is read at level 2. A name without such an ending is read at level 0.
    """
    ending = re.search(r"_level([1-9][0-9]*)$", name)
    return int(ending.group(1)) if ending else 0


def head_decoder(name: str) -> int:
    """Return the number of the decoder at which a head of this name is read.

    ``logits_decoder2`` is read from the second one. A name without such an ending is read from the
    first.
    """
    found = re.search(r"_decoder([1-9][0-9]*)(_level[1-9][0-9]*)?$", name)
    return int(found.group(1)) if found else 1


def check_head_levels(heads: Iterable[str], levels: int, network: str, decoders: int = 1) -> None:
    """Refuse a head at a level or of a decoder that a network does not have.

    Args:
        heads: their names.
        levels: the deepest level of the network; 0 for one without deep heads.
        network: its name, for the error.
        decoders: their number.

    Raises:
        ValueError: if a head is too deep, or of a decoder that is missing; it names the head and
            the levels or decoders of the network.
    """
    for name in heads:
        if head_decoder(name) > decoders:
            has = f"of {decoders} decoders at most" if decoders > 1 else "of its only decoder"
            raise ValueError(
                f"the heads of {network} must be {has}, got {name}. Choose another network."
            )
        if head_level(name) > levels:
            has = f"at levels up to {levels}" if levels else "at full resolution"
            raise ValueError(
                f"the heads of {network} must be {has}, got {name}. Use fewer levels or choose "
                "another network."
            )


def check_loss_names(names: Iterable[str], method: Framework) -> None:
    """Refuse names of losses that the log or the SemiSAM branch uses for figures of its own.

    Args:
        names: of the losses of a step.
        method: that made the step.

    Raises:
        PluginError: if a name is in use; it names the first one.
    """
    for name in names:
        reserved = name in _RESERVED or name.startswith("sam_")
        if reserved and name not in method.own_losses:
            raise PluginError(
                f"the name of a loss must not be loss, lr, step or sam, nor begin with sam_, got "
                f"{name!r} of method {type(method).__name__}. Rename it."
            )


def check_not_negative(**options: float) -> None:
    """Refuse options, such as the weight of a loss, that must not be below 0.

    Args:
        options: values by the option's name.

    Raises:
        ValueError: if an option is below 0; it names the first one.
    """
    for name, value in options.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")
