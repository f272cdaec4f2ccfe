"""Features of a network by name, for methods that need more than its heads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def recorded(network: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of parts of a network by name, in the passes inside the ``with`` block.

    The last pass counts. The tensors keep their graph, so a loss on them trains the network. The
    names are those of `torch.nn.Module.named_modules`, which differ between networks: a method that
    uses them names its network in `Framework.networks`.

    Args:
        network: as ``build`` returns it.
        names: of its parts, e.g. ``block_five``, the deepest features of ``vnet``.

    Raises:
        ValueError: the network has no part of a name.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU())
        >>> with recorded(network, "0") as features:
        ...     found = network(torch.zeros(1, 1, 8, 8, 8))
        >>> features["0"].shape
        torch.Size([1, 4, 6, 6, 6])
    """
    parts = dict(network.named_modules())
    missing = [name for name in names if name not in parts]
    if missing:
        known = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"names must be of parts of {type(network).__name__} ({known}, and their parts), got "
            f"{', '.join(missing)}. Correct them."
        )
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return hook

    hooks = [parts[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
