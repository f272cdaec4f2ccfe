"""Will it fit? An estimate before training instead of a crash in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import psutil
import torch
from torch import Tensor, nn

from semisam.errors import InputError


def saved_bytes(net: nn.Module, image: Tensor) -> int:
    """Return the bytes that autograd keeps for one forward pass, without running it.

    Args:
        net: a module on the meta device.
        image: ``(B, C, *S)`` on the meta device.
    """
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no identity is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(image)
    del out
    parameters = {p.untyped_storage()._cdata for p in net.parameters()}
    return sum(s.nbytes() for key, s in storages.items() if key not in parameters)


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_patch_fits(
    make_net: Callable[[], nn.Module],
    rows: int,
    channels: int,
    patch: Sequence[int],
    device: torch.device,
    half: bool,
) -> None:
    """Refuse a patch whose activations alone exceed the free memory.

    Args:
        make_net: makes the student network; called under the meta device.
        rows: rows of a batch.
        channels: image channels.
        patch: voxels.
        device: where training runs.
        half: activations take two bytes a value.

    Raises:
        InputError: with the estimate, what is free and how to need less.
    """
    with torch.device("meta"):
        need = saved_bytes(make_net(), torch.empty(rows, channels, *patch))
    need = need // 2 if half else need
    free = available_bytes(device)
    if need > free:
        raise InputError(
            f"the patch must fit into memory: {rows} rows of {'x'.join(map(str, patch))} need at "
            f"least {_gib(need)} for the network's activations, got {_gib(free)} free on {device}: "
            "choose a smaller --patch or --batch"
        )


def _gib(size: int) -> str:
    return f"{math.ceil(size / 2**30 * 10) / 10} GiB"
