"""A trained model as one file that needs none of the project's code, and a card beside it.

``model.pt2`` is a program of PyTorch's own operators (`torch.export`): ``torch.export.load`` alone
runs it, from windows of the patch's size, any number at once, to probabilities. Windows, spacing
and intensities are what ``model.pt2.json`` tells.

Trust. ``torch.export.load`` is made for files that one trusts: it unpickles, evaluates expressions
and calls whatever the file names. `load_exported` therefore looks into a file first
(`semisam.inference.archive`) and hands on nothing but a graph of ``aten`` operators and plain tensors. That
is a defence, no proof: a model from strangers is still to be treated as a program from strangers.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from semisam.core.errors import InputError, SemisamError
from semisam.core.files import replace_file, write_json
from semisam.inference.archive import checked_archive
from semisam.inference.card import Card
from semisam.inference.predictor import Deployed
from semisam.run.execute import load_run, window_stride
from semisam.run.record import versions

FORMAT, VERSION = "semisam-export", 1
ENDING = ".pt2"
_SAME = 1e-5  # probabilities of the program against those of the run


def export_run(run: Path, target: Path) -> Path:
    """Export a trained run, check that the file gives the run's probabilities, write its card.

    The program computes in float32, whatever the run was trained in.

    Args:
        run: a finished run's folder.
        target: ends in ``.pt2``; its folder exists.

    Returns:
        The card's path, ``<target>.json``.

    Raises:
        InputError: ``run`` is no finished run, or ``target`` cannot be written.
        SemisamError: the method's forward cannot be exported.
    """
    if target.suffix != ENDING or not target.parent.is_dir():
        raise InputError(
            f"the model must be a file {ENDING} in a folder that exists, got {target}: name one"
        )
    settings, framework, card = load_run(run)
    windows = torch.randn(
        (2, card.channels, *settings.patch), generator=torch.Generator().manual_seed(0)
    )
    program = _program(framework, windows)
    try:
        with replace_file(target) as temporary:
            with temporary.open("wb") as file:
                torch.export.save(program, file)
            loaded = Exported(temporary)
            with torch.inference_mode():
                apart = float((loaded(windows) - framework(windows)).abs().max())
            if not apart <= _SAME:
                raise SemisamError(
                    f"the exported model must give the run's probabilities, got {apart:.2g} beside "
                    f"them: the forward of {settings.method} cannot be exported"
                )
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"the model must be writable, got {target} ({error.strerror}): name another path"
        ) from error
    patch, classes = list(settings.patch), len(card.class_names)
    path = card_path(target)
    write_json(
        path,
        {
            "format": FORMAT,
            "format_version": VERSION,
            "sha256": digest,
            "input": {"shape": ["batch", card.channels, *patch], "dtype": "float32"},
            "output": {"shape": ["batch", classes, *patch], "what": "probabilities"},
            "patch": patch,
            "stride": list(window_stride(settings)),
            "largest_component": settings.largest_component,
            "images": card.to_json(),
            "method": settings.method,
            "network": settings.network,
            "versions": versions(),
        },
    )
    return path


def load_exported(path: Path, device: str = "cpu") -> Deployed:
    """Open an exported model by its card.

    Raises:
        InputError: the card is missing, or is another file's; or the file is none that
            `export_run` writes.
    """
    raw = _read_card(path)
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != raw["sha256"]:
            raise ValueError("the card is that of another file, or the file has changed")
        card = Card.from_json(raw["images"])
        patch, stride = _sizes(raw["patch"], card), _sizes(raw["stride"], card)
        largest = bool(raw["largest_component"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"a model that `semisam export` wrote is required, got {path} ({error}): export it "
            "again"
        ) from None
    network = Exported(path).to(device)
    return Deployed(network, card, patch, stride, "fp32", largest, path)


def card_path(target: Path) -> Path:
    """Return where the card of an exported model lies."""
    return target.with_name(f"{target.name}.json")


class Exported(nn.Module):
    """An exported program as a module that can be told to deploy, which it does anyway.

    Args:
        path: of the ``.pt2``; checked before it is opened.

    Raises:
        InputError: it holds more than a graph of operators and tensors, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with checked_archive(path) as archive:
            try:
                program = torch.export.load(archive)
            except Exception as error:  # a damaged file fails in many ways, all of them one to us
                raise InputError(
                    f"an exported model is required, got {path}, which torch {torch.__version__} "
                    f"cannot open ({str(error).splitlines()[0] if str(error) else error!r}): "
                    "export it again with this version"
                ) from error
        # In a tuple, where nn.Module does not see it: a program refuses train() and eval().
        self._program = (program.module(),)

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities of windows ``(B, C, *patch)``."""
        # The program's strides are those that it was traced with.
        probs: Tensor = self._program[0](image.contiguous())
        return probs

    def to(self, *args: Any, **kwargs: Any) -> Exported:
        """Move the program."""
        self._program[0].to(*args, **kwargs)
        return self


class _Deployment(nn.Module):
    def __init__(self, framework: nn.Module) -> None:
        super().__init__()
        self.framework = framework

    def forward(self, image: Tensor) -> Tensor:
        probs: Tensor = self.framework(image)
        return probs.float()


def _program(framework: nn.Module, windows: Tensor) -> ExportedProgram:
    """Trace the framework's forward with a free number of windows."""
    module = _Deployment(framework).eval().requires_grad_(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer about itself
            program = torch.export.export(
                module, (windows,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
    except Exception as error:  # whatever a plugin's forward does that cannot be traced
        raise SemisamError(
            f"a method whose forward torch.export can trace is required, got "
            f"{type(framework).__name__} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason'}): predict from the run"
        ) from error
    _strip(program)
    return program


def _strip(program: ExportedProgram) -> None:
    """Take out what deployment does not need: other networks, checks, the author's machine."""
    graph, signature = program.graph, program.graph_signature
    for node in list(graph.nodes):
        # A check that a tensor is where it was traced would keep the program off a GPU.
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}  # source paths go
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in list(signature.input_specs):
        node = placeholders[spec.arg.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not node.users:
            graph.erase_node(node)
            signature.input_specs.remove(spec)
            program.state_dict.pop(spec.target, None)
    # Names of modules that are no more; the root's entry tells how the program is called.
    program.module_call_graph[:] = [e for e in program.module_call_graph if e.signature is not None]
    program.graph_module.recompile()
    program.example_inputs = None  # they would be stored as a pickle


def _read_card(path: Path) -> Mapping[str, Any]:
    card = card_path(path)
    try:
        raw = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"a run folder, or an exported model with its card {card.name} beside it, is required, "
            f"got {path} without a readable card ({error}): export it with `semisam export`"
        ) from None
    if not isinstance(raw, dict) or (raw.get("format"), raw.get("format_version")) != (
        FORMAT,
        VERSION,
    ):
        raise InputError(
            f"a card that `semisam export` wrote is required, got {card} of another format or "
            "version: export the model again"
        )
    return raw


def _sizes(raw: Sequence[Any], card: Card) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in raw)
    if len(sizes) != len(card.spacing) or min(sizes) < 1:
        raise ValueError("patch and stride must have a positive size per axis")
    return sizes
