"""Checks before training, so that a run fails with a sentence and not in the middle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from semisam.core.errors import InputError, PluginError
from semisam.core.framework import Framework
from semisam.data.loading.sampling import BatchPlan, plan_batch, slice_axes
from semisam.data.loading.store import VolumeStore
from semisam.frameworks.controls import ShuffledSAM
from semisam.networks.precision import Precision, is_half
from semisam.plugins import registry
from semisam.run.settings import RunSettings
from semisam.training.accumulation import count_parts
from semisam.training.processes import Processes, own_rows

_MANY = 4000  # activations per voxel; MONAI's SwinUNETR, the largest tried, keeps 1,100


def check_run(
    settings: RunSettings,
    store: VolumeStore,
    framework: Framework,
    labeled: int,
    unlabeled: int,
    *,
    here: bool = True,
) -> BatchPlan:
    """Check a run before training and return the division of its batch.

    Args:
        settings: of the run.
        store: its volumes.
        framework: its method.
        labeled: number of labeled cases.
        unlabeled: number of unlabeled cases.
        here: True if the run trains on this machine, whose device and memory can be checked.

    Raises:
        InputError: the patch does not fit the network, its BatchNorm or the memory, or the device
            is missing.
    """
    device = check_device(settings.device, settings.precision) if here else None
    dataset = store.dataset
    axes = store.image((*store.labeled, *store.unlabeled, *store.test)[0]).array.ndim - 1
    for name, size in (("patch", settings.patch), ("stride", settings.stride or settings.patch)):
        if slice_axes(axes, size) not in (0, 1) or len(size) != len(settings.patch):
            also = ", or two to train slice by slice" if axes == 3 else ""
            raise InputError(
                f"--{name} must have one size per axis of the scans, {axes}{also}, got "
                f"{'x'.join(map(str, size))}."
            )
    plan = plan_batch(
        settings.batch,
        # A volume has many slices, so that one volume can fill several rows.
        settings.batch if slice_axes(axes, settings.patch) else labeled,
        unlabeled,
        framework.uses_unlabeled,
        settings.labeled_rows,
    )
    stride = _check_networks(settings, framework)
    parts, ranks = check_parts(settings, plan)
    rows = (plan.labeled + plan.unlabeled) // parts
    # A teacher sees only the unlabeled rows.
    fewest = min(rows, plan.unlabeled // parts or rows) // ranks
    if fewest * int(np.prod([size // stride for size in settings.patch])) < 2:
        raise InputError(
            "a batch must leave more than one value per channel at the network's lowest "
            f"resolution, got {fewest} row of {'x'.join(map(str, settings.patch))}. Choose a "
            "larger --patch."
        )
    if isinstance(framework, ShuffledSAM) and unlabeled < 2:
        raise InputError(
            "the controls shuffled and moved must have at least two unlabeled cases, got "
            f"{unlabeled}. Add scans, lower --labels, or leave --sam-control out."
        )
    if isinstance(framework, ShuffledSAM) and plan.unlabeled // (parts * ranks) < 2:
        raise InputError(
            "a batch of the controls shuffled and moved must have at least two unlabeled rows, got "
            f"{plan.unlabeled // (parts * ranks)}. Increase --batch."
        )
    if device is None or not framework.trains:
        return plan
    check_patch_fits(
        framework,
        max(rows // ranks, 1),
        dataset.channels,
        settings.patch,
        device,
        is_half(device, settings.precision),
    )
    return plan


def networks_of(method: nn.Module) -> Iterator[nn.Module]:
    """Yield the networks of a method: its children, also those in lists and of a wrapped method."""
    for child in method.children():
        if isinstance(child, Framework | nn.ModuleList | nn.ModuleDict):
            yield from networks_of(child)
        else:
            yield child


def _check_networks(settings: RunSettings, framework: Framework) -> int:
    """Return the stride of the networks that the method has built.

    Raises:
        InputError: the patch does not fit one of them.
    """
    patch, stride = settings.patch, 1
    for network in networks_of(framework):
        own, axes = getattr(network, "stride", 1), getattr(network, "axes", None)
        if axes is not None and len(patch) not in axes:
            raise InputError(
                f"--patch must have {' or '.join(map(str, axes))} axes for {_named(network)} of "
                f"method {settings.method!r}, got {'x'.join(map(str, patch))}. Choose another."
            )
        if not isinstance(own, int):  # of a single layer
            continue
        if any(size % own for size in patch):
            raise InputError(
                f"--patch must be a multiple of {own} for {_named(network)} of method "
                f"{settings.method!r}, got {'x'.join(map(str, patch))}. Choose another."
            )
        stride = math.lcm(stride, own)
    return stride


def _named(network: nn.Module) -> str:
    return f"the network {type(network).__name__}"


def check_axes(kind: str, name: str, axes: int) -> None:
    """Refuse a network or a promptable model that is not for patches of this many axes.

    A plugin states the numbers of axes that it is for as ``axes``; without it, it is for any, but a
    promptable model with ``ndim`` 2 is for two.

    Raises:
        InputError: it is not for them; the message names plugins that are.
    """
    known = _stated_axes(registry.load(kind, name))
    if known is None or axes in known or axes not in (2, 3):  # no scan has other axes
        return
    plugins = {other: _axes_of(p) for other, p in registry.list_plugins(kind).items()}
    # Those that state nothing may need an option for these axes.
    fitting = [other for other, stated in plugins.items() if axes in (stated or ())]
    fitting = fitting or [other for other, stated in plugins.items() if stated is None]
    flag = "--sam" if kind == "backend" else f"--{kind}"
    raise InputError(
        f"{flag} must be for a patch of {axes} axes, got {name}, which is for "
        f"{' or '.join(map(str, known))}. Choose {' or '.join(fitting)}, or another --patch."
    )


def _axes_of(plugin: registry.Plugin) -> tuple[int, ...] | None:
    """Return the numbers of axes that a plugin states, if any; a broken one is for none."""
    try:
        return _stated_axes(registry.load_plugin(plugin))
    except PluginError:
        return ()


def _stated_axes(loaded: Any) -> tuple[int, ...] | None:
    of_slices = getattr(loaded, "ndim", None) == 2
    return getattr(loaded, "axes", (2,) if of_slices else None)


def check_parts(settings: RunSettings, plan: BatchPlan) -> tuple[int, int]:
    """Return the numbers of micro-batches of a batch and of processes of the run.

    Raises:
        InputError: if the rows cannot be divided equally over them.
    """
    parts, ranks = count_parts(settings.batch, settings.micro_batch), settings.ranks or 1
    own_rows(plan.labeled, plan.unlabeled, Processes(0, ranks), parts)
    return parts, ranks


def usual_device(name: str | None) -> str:
    """Return the device of a name; for ``auto`` or ``None`` a GPU if there is one, else the CPU."""
    if name not in (None, "auto"):
        return str(name)
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_fault(name: str) -> str | None:
    """Return the reason why torch cannot use a device here; ``None`` if it can."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].partition(". ")[0].removesuffix(".")
    return None


def check_device(name: str | None, precision: Precision = "fp32") -> torch.device:
    """Return the device of a name, as `usual_device`, or refuse one that cannot be used.

    Raises:
        InputError: the device is missing or cannot run the precision.
    """
    name = usual_device(name)
    fault = device_fault(name)
    if fault is not None:
        raise InputError(
            f"--device must be one that torch can use here, got {name} ({fault}). Use cpu, or "
            "leave it out."
        )
    device = torch.device(name)
    if precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"--precision fp16 must come with a GPU, got the device {device}. Use bf16 or fp32."
        )
    return device


def saved_bytes(net: nn.Module, shape: Sequence[int]) -> int:
    """Return the bytes that autograd keeps for one forward pass, which is run without data.

    Args:
        net: a module on any device, which does not change.
        shape: ``(B, C, *S)`` of an image.
    """
    tensors = {
        name: p.detach().to("meta").requires_grad_(p.requires_grad)
        for name, p in net.named_parameters()
    }
    parameters = {p.untyped_storage()._cdata for p in tensors.values()}
    tensors |= {name: buffer.to("meta") for name, buffer in net.named_buffers()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no id is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = torch.func.functional_call(net, tensors, (torch.empty(*shape, device="meta"),))
    del out
    return sum(s.nbytes() for key, s in storages.items() if key not in parameters)


def available_bytes(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device now."""
    if device.type == "cuda":
        # PyTorch keeps what it freed, for itself.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


def check_patch_fits(
    framework: nn.Module,
    rows: int,
    channels: int,
    patch: Sequence[int],
    device: torch.device,
    half: bool,
) -> None:
    """Refuse a patch whose activations exceed the free memory.

    Args:
        framework: the method, of which the network that it deploys is counted.
        rows: rows of a batch.
        channels: image channels.
        patch: voxels.
        device: where training runs.
        half: True if activations take two bytes a value.

    Raises:
        InputError: the activations do not fit; the message has the estimate and a remedy.
    """
    free = available_bytes(device)
    if 4 * _MANY * rows * math.prod(patch) < free:
        return  # the pass below takes seconds, most of them for PyTorch's imports
    try:
        need = saved_bytes(framework, (rows, channels, *patch))
    except Exception:  # a network of a plugin may need values, which this pass does not have
        return
    need = need // 2 if half else need
    if need > free:
        raise InputError(
            f"the patch must fit into memory: {rows} rows of {'x'.join(map(str, patch))} need at "
            f"least {_gib(need)} for the network's activations, got {_gib(free)} free on {device}. "
            "Choose a smaller --patch or --batch, or fewer rows at once with --micro-batch."
        )


def _gib(size: int) -> str:
    return f"{math.ceil(size / 2**30 * 10) / 10} GiB"
