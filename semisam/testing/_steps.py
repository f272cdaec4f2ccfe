"""Steps of a method in the contract tests, and what is measured on them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from semisam.core.errors import PluginError
from semisam.core.framework import Framework, check_loss_names
from semisam.core.types import Batch, Clock, Place, Step
from semisam.testing.samples import TinyNet

TOTAL = 100
"""Steps of the training to which the clocks of the tests belong."""


class Voxelwise(nn.Module):
    """A network whose output at a voxel depends on that voxel only."""

    def __init__(self, in_channels: int, heads: Mapping[str, int], ndim: int) -> None:
        super().__init__()
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.heads = nn.ModuleDict({name: conv(in_channels, c, 1) for name, c in heads.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's ``(B, c, *S)``."""
        return {name: head(image).float() for name, head in self.heads.items()}


class Scripted(TinyNet):
    """A network whose heads predict the sign of the image at each voxel, with a given certainty.

    Heads that begin with ``logits`` or ``sdf`` are scripted; others are those of the network.

    Args:
        in_channels: of the image.
        heads: output channels by head name.
        ndim: spatial axes.
        certainty: size of the raw outputs; 0: all classes are equally probable.
        at_random: each pass inverts each head of each row by chance, so predictions disagree.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        ndim: int,
        certainty: float,
        at_random: bool,
    ) -> None:
        super().__init__(in_channels, dict(heads), ndim=ndim, norm="none", dropout=0.0)
        self.certainty, self.at_random = certainty, at_random

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each head's ``(B, c, *S)``."""
        found = super().forward(image)
        for name, raw in found.items():
            if name.startswith(("logits", "sdf")):
                found[name] = 0.0 * raw + self._script(name, raw.shape[1], image)
        return found

    def _script(self, name: str, channels: int, image: Tensor) -> Tensor:
        inside = torch.where(image.mean(1, keepdim=True) > 0, self.certainty, -self.certainty)
        if self.at_random:
            chance = torch.rand(len(image), *[1] * (image.ndim - 1))
            inside = torch.where(chance < 0.5, inside, -inside)
        if name.startswith("sdf"):  # negative inside
            return -inside.expand(-1, channels, *inside.shape[2:])
        # Of one channel, background has the logit 0.
        return torch.cat([-inside] * (channels - 1) + [inside], 1)


def batch_for(framework: Framework, image: Tensor, label: Tensor) -> Batch:
    """Return a batch as the trainer passes it to a method.

    It has unlabeled rows and places only for a method that wants them.
    """
    rows = image if framework.uses_unlabeled else image[: len(label)]
    if not framework.wants_places:
        return Batch(rows, label)
    shape = rows.shape[2:]
    centre, spacing = tuple((n - 1) / 2 for n in shape), (1.0,) * len(shape)
    inside = torch.ones(len(rows), *shape, dtype=torch.bool)
    inside[:, 0] = False
    places = tuple(Place(f"case_{row}", centre, spacing) for row in range(len(rows)))
    return Batch(rows, label, places=places, inside=inside)


def objective(step: Step) -> Tensor:
    assert isinstance(step, Step), f"training_step must return a Step, got {type(step).__name__}"
    check_scalars(step)
    return torch.stack([loss.float() for loss in step.losses.values()]).sum()


def backward(framework: Framework, batch: Batch, clock: Clock, *, keep_graph: bool = False) -> Step:
    torch.manual_seed(1000 + clock.step)  # the trainer also seeds every step
    framework.zero_grad()
    step = framework.training_step(batch, clock)
    objective(step).backward(retain_graph=keep_graph)  # type: ignore[no-untyped-call]
    return step


def train(framework: Framework, batches: Iterable[Batch]) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(framework.param_groups(), lr=0.01, momentum=0.9)
    losses = []
    for i, batch in enumerate(batches):
        clock = Clock(i, TOTAL)
        step = backward(framework, batch, clock)
        losses.append({name: float(loss.detach()) for name, loss in step.losses.items()})
        optimizer.step()
        framework.after_update(clock)
    return losses


def check_scalars(step: Step) -> None:
    for name, loss in step.losses.items():
        assert isinstance(loss, Tensor), f"loss {name!r} must be a tensor, got {loss!r}"
        assert loss.ndim == 0, f"loss {name!r} must be a scalar, got shape {tuple(loss.shape)}"


def check_losses(step: Step, framework: Framework) -> None:
    assert step.losses, "a step must have a loss"
    check_scalars(step)
    try:
        check_loss_names(step.losses, framework)
    except PluginError as error:
        raise AssertionError(str(error)) from None
    for name, loss in step.losses.items():
        assert bool(torch.isfinite(loss)), f"loss {name!r} must be finite, got {loss.item()}"
    total = objective(step)
    assert bool(torch.isfinite(total)), f"the sum of the losses must be finite, got {total.item()}"
    assert total.requires_grad, "the losses must have a gradient"
    for name, figure in step.metrics.items():
        number = isinstance(figure, int | float) and not isinstance(figure, bool)
        assert number, f"metric {name!r} must be a float, got {type(figure).__name__}. Use float()"
        free = name not in ("loss", "lr", "step", *step.losses)
        assert free, f"a metric must have a name of its own, got {name!r}. Rename it"


def check_gradients(framework: Framework) -> None:
    bad = [
        name
        for name, p in framework.named_parameters()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    assert not bad, f"gradients must be finite, got NaN or infinity on {bad}"


def check_probs(probs: Tensor, shape: tuple[int, ...], what: str, atol: float = 1e-4) -> None:
    assert tuple(probs.shape) == tuple(shape), f"{what} must be {shape}, got {tuple(probs.shape)}"
    p = probs.detach().float()
    assert bool(torch.isfinite(p).all()), f"{what} must be finite"
    inside = float(p.min()) >= -atol and float(p.max()) <= 1 + atol
    assert inside, f"{what} must be in [0, 1], got [{float(p.min())}, {float(p.max())}]"
    total = p.sum(1)
    error = float((total - 1).abs().max())
    assert error <= atol * shape[1], f"{what} must sum to 1 over the classes, off by {error}"


def flat_gradient(framework: Framework) -> Tensor:
    parameters = [p for group in framework.param_groups() for p in group["params"]]
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    )


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or a == b


def children(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of a method's networks, also of a wrapped method and in lists."""
    for name, child in module.named_children():
        if isinstance(child, Framework | nn.ModuleList | nn.ModuleDict):
            yield from children(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def trained_ids(framework: Framework) -> set[int]:
    """Return the identities of the parameters that the optimizer trains."""
    return {id(p) for group in framework.param_groups() for p in group["params"]}


def teachers(framework: Framework) -> dict[str, nn.Module]:
    """Return the networks without a trained parameter that are built like one with some."""
    ids = trained_ids(framework)
    students, found = [], {}
    for name, child in children(framework):
        own = [(key, p.shape) for key, p in child.named_parameters()]
        if any(id(p) in ids for p in child.parameters()):
            students.append(own)
        elif own:
            found[name] = (own, child)
    return {name: child for name, (own, child) in found.items() if own in students}


def evaluating(framework: Framework) -> list[str]:
    """Return the names of the networks with trained parameters that are in evaluation mode."""
    ids = trained_ids(framework)
    return [
        name
        for name, child in [("the method", framework), *children(framework)]
        if not child.training and any(id(p) in ids for p in child.parameters())
    ]


def without_noise(framework: Framework) -> Framework:
    """Put the normalisation and the dropout of a method's networks in evaluation mode."""
    for module in framework.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            module.eval()
    return framework


def kept_graphs(module: nn.Module) -> list[str]:
    """Return the attributes of a module and of its children that hold a tensor with a graph.

    A weight that torch computes from ``<name>_g`` or ``<name>_orig``, as for ``weight_norm``, does
    not count: its graph ends at these two.
    """
    return [
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if _holds_a_graph(value) and not _is_computed(part, name)
    ]


def _is_computed(module: nn.Module, name: str) -> bool:
    return any(f"{name}_{ending}" in module._parameters for ending in ("g", "orig"))


def _holds_a_graph(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.grad_fn is not None
    if dataclasses.is_dataclass(value):
        return any(map(_holds_a_graph, vars(value).values()))
    if isinstance(value, Mapping):
        return any(map(_holds_a_graph, value.values()))
    return isinstance(value, list | tuple | deque) and any(map(_holds_a_graph, value))


def quarters(shape: tuple[int, ...], channels: int) -> tuple[Tensor, Tensor]:
    """Return images and labels of an easy batch: the intensity shows the class.

    Each row has its foreground in another quarter.

    So a label on a wrong row, labeled or not, has its foreground where that image is dark.
    """
    labels = torch.zeros(4, *shape, dtype=torch.int64)
    for row, label in enumerate(labels):
        first = slice(None, shape[0] // 2) if row % 2 else slice(shape[0] // 2, None)
        second = slice(None, shape[1] // 2) if row // 2 else slice(shape[1] // 2, None)
        label[first, second] = 1
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4, channels, *shape, generator=rng)
    return 0.1 * noise + (2.0 * labels - 1.0).unsqueeze(1), labels[:2].clone()


def four_quarters(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return images and labels of an easy batch with four classes and a channel for each class.

    Each quarter of a row is of one class, and the classes move on by a quarter from row to row.
    """
    index = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    quarter = 2 * (index[0] >= shape[0] // 2) + (index[1] >= shape[1] // 2).long()
    labels = torch.stack([(quarter + row) % 4 for row in range(4)])
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 4, *shape, generator=rng)
    bright = torch.stack([2.0 * (labels == k) - 1.0 for k in range(4)], 1)
    return 0.1 * noise + bright, labels[:2].clone()


def contrasts(framework: Framework, batch: Batch) -> list[float]:
    """Return, of each foreground class, its mean probability inside its labels less that outside.

    Both are means over the labeled rows of the deployed probabilities.
    """
    with torch.no_grad():
        probs = framework.eval()(batch.image)[: batch.num_labeled]
    framework.train()
    found = []
    for k in range(1, framework.num_classes):
        inside = batch.label == k
        found.append(float(probs[:, k][inside].mean() - probs[:, k][~inside].mean()))
    return found
