"""Pictures of the documentation site: phantoms, prompts, predictions for them, and results.

Each is drawn from what the program computes. Prompts are in the plane, of a proposal that is wrong
at places, and the predictions between rounds are those of `geodesic`. Predictions of promptable
models are of a volume, by a click at the deepest point of the organ.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from semisam.core.losses import entropy
from semisam.core.types import Prompt, View
from semisam.data.datasets.anatomy import BODIES
from semisam.data.datasets.phantom import Phantom
from semisam.frameworks.queries import merge_prompts
from semisam.plugins import registry

_CASE = "train_003"


def has_picture(kind: str, name: str) -> bool:
    """Return whether a plugin has a picture; some promptable models need a checkpoint for one."""
    drawn = (("backend", "geodesic"), ("backend", "synthsam"), ("dataset", "phantom"))
    return kind == "prompter" or (kind, name) in drawn


def picture(kind: str, name: str) -> bytes:
    """Return the picture of a prompter, of a promptable model or of the phantoms as PNG."""
    if kind == "dataset":
        return _of_phantoms()
    return _of_prompter(name) if kind == "prompter" else _of_backend(name)


def results(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return Dice against the number of labeled scans as PNG.

    Args:
        rows: of a table of `semisam bench`.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    labels = sorted({int(row["labeled"]) for row in rows})
    lines: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["sam"]), []).append(row)
    methods = list(dict.fromkeys(method for method, _ in lines))
    for (method, sam), own in lines.items():
        bare = sam == "none"
        axes.plot(
            [labels.index(int(row["labeled"])) for row in own],
            [float(row["dice"]) for row in own],
            color=f"C{methods.index(method)}",
            linestyle="--" if bare else "-",
            marker="o",
            markerfacecolor="white" if bare else None,
            label=method if bare else f"{method} + SemiSAM ({sam})",
        )
    axes.set_xticks(range(len(labels)), map(str, labels))
    axes.set_xlabel("labeled scans")
    axes.set_ylabel("Dice on the test scans [%]")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


@functools.cache
def _scan(ndim: Literal[2, 3]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    data = Phantom(size=72, ndim=ndim)
    return data.image(_CASE).array, data.label(_CASE) == 1


@functools.cache
def _proposal() -> torch.Tensor:
    """Return the probabilities ``(2, *S)`` of a shifted, blurred mask with a stray part."""
    mask = np.roll(_scan(2)[1], (4, -3), axis=(0, 1)).astype(float)
    mask[54:64, 6:15] = 1
    foreground = torch.from_numpy(ndimage.gaussian_filter(mask, 2.5))
    return torch.stack([1 - foreground, foreground])


def _of_phantoms() -> bytes:
    figure = Figure(figsize=(7.2, 2.5), layout="constrained")
    for axes, organs in zip(figure.subplots(1, len(BODIES)), BODIES, strict=True):
        classes = 1 + len(BODIES[organs].class_names)
        data = Phantom(size=72, ndim=2, organs=organs, classes=classes)  # type: ignore[arg-type]
        label = data.label(_CASE)
        _show(axes, data.image(_CASE).array[0], organs)
        for value in np.unique(label[label > 0]):
            axes.contour((label == value).T, [0.5], colors=f"C{value}", linewidths=1.5)
    return _png(figure)


def _of_prompter(name: str) -> bytes:
    image, _ = _scan(2)
    probs = _proposal()
    uncertainty = entropy(probs[None])[0, 0]
    prompter: Any = registry.load("prompter", name)()
    model: Any = registry.load("backend", "geodesic")()
    embedding = model.encode(torch.from_numpy(image))
    rng = torch.Generator().manual_seed(0)
    prompt: Prompt | None = None
    previous: torch.Tensor | None = None
    for _ in range(prompter.rounds):
        new = prompter(View(probs[1], uncertainty, previous), rng)
        if new is None:
            break
        prompt = merge_prompts(prompt, new)
        previous = model.segment(embedding, prompt).sigmoid().to(probs.dtype)
    assert prompt is not None
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _show(left, image[0], "scan and proposal")
    left.contour(probs[1].T.numpy(), [0.5], colors="#ffd54f", linewidths=1.5)
    _show(right, uncertainty.numpy(), "prompt on the uncertainty")
    right.contour(probs[1].T.numpy(), [0.5], colors="#ffd54f", linewidths=1.5)
    _draw(right, prompt)
    return _png(figure)


def _draw(axes: Any, prompt: Prompt) -> None:
    if prompt.mask is not None:
        axes.contourf(prompt.mask.T.numpy(), [0.5, 2.0], colors=["#ff7043"], alpha=0.6)
    if prompt.box is not None:
        (left, top), (right, bottom) = prompt.box.tolist()
        x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(np.array(x) - 0.5, np.array(y) - 0.5, color="#4fc3f7", linewidth=2)
    if prompt.points is not None and prompt.labels is not None:
        for value, marker, color in ((1, "o", "#66bb6a"), (0, "X", "#ef5350")):
            found = prompt.points[prompt.labels == value].numpy()
            axes.scatter(*found.T, s=60, c=color, marker=marker, edgecolors="black")


def _of_backend(name: str) -> bytes:
    image, truth = _scan(3)
    depth = ndimage.distance_transform_edt(truth)
    click = np.unravel_index(int(depth.argmax()), truth.shape)
    model: Any = registry.load("backend", name)()
    prompt = Prompt(torch.tensor([[int(n) for n in click]]), torch.tensor([1]))
    with torch.no_grad():
        embedding = model.encode(torch.from_numpy(image))
        found = (model.segment(embedding, prompt) > 0).numpy()
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    for axes, axis in zip(figure.subplots(1, 3), range(3), strict=True):
        at: Sequence[Any] = [slice(None)] * axis + [int(click[axis])]
        _show(axes, image[0][tuple(at)], "")
        for mask, color in ((truth, "white"), (found, "#ff7043")):
            if mask[tuple(at)].any():
                axes.contour(mask[tuple(at)].T, [0.5], colors=color, linewidths=1.5)
        axes.plot(*np.delete(click, axis), "o", color="#66bb6a", markeredgecolor="black")
    return _png(figure)


def _show(axes: Any, array: NDArray[Any], title: str) -> None:
    axes.imshow(array.T, cmap="gray")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()
