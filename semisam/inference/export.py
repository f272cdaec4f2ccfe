"""A trained network as one file that runs without semisam.

The ``.pt2`` file is a program of PyTorch's own operators (`torch.export`). ``torch.export.load``
runs it on any number of windows of the patch's size and returns probabilities. semisam writes such
files and does not read them, because ``torch.export.load`` unpickles and calls whatever a file
names. A model from a stranger is a program from a stranger.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from semisam.core.errors import InputError, SemisamError
from semisam.core.files import digest_of_file, replace_file

ENDING = ".pt2"
_SAME = 1e-5  # probabilities of the program against those of the network


def check_target(target: Path) -> None:
    """Refuse a path that is not a ``.pt2`` file in an existing folder."""
    if target.suffix != ENDING or not target.parent.is_dir():
        raise InputError(
            f"the model must be a file {ENDING} in a folder that exists, got {target}. Name one."
        )


def card_path(target: Path) -> Path:
    """Return the path of an exported model's card."""
    return target.with_name(f"{target.name}.json")


def export_network(network: nn.Module, shape: tuple[int, ...], target: Path) -> str:
    """Write a network's forward as a program and check its probabilities.

    The written program is opened and must return the network's probabilities on random windows.

    Args:
        network: maps windows ``(B, C, *patch)`` to probabilities ``(B, K, *patch)``.
        shape: ``(C, *patch)``.
        target: the file to write.

    Returns:
        The file's SHA-256.

    Raises:
        InputError: ``target`` cannot be written.
        SemisamError: the forward cannot be exported.
    """
    windows = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    program = _program(network, windows)
    try:
        with replace_file(target) as temporary:
            with temporary.open("wb") as file, warnings.catch_warnings():
                # PyTorch warns of weights in channels-last order; what it wrote is checked below.
                warnings.simplefilter("ignore")
                torch.export.save(program, file)
            _check_same(temporary, network, windows)
            return digest_of_file(temporary)
    except OSError as error:
        raise InputError(
            f"the model must be writable, got {target} ({error.strerror}). Name another path."
        ) from error


def _check_same(written: Path, network: nn.Module, windows: Tensor) -> None:
    with written.open("rb") as file:
        program = torch.export.load(file).module()
    with torch.inference_mode():
        apart = float((program(windows) - network(windows)).abs().max())
    if not apart <= _SAME:
        raise SemisamError(
            f"the exported model must give the run's probabilities, got a difference of "
            f"{apart:.2g} with {type(network).__name__}. Predict from the run instead."
        )


class _Deployment(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        probs: Tensor = self.network(image)
        return probs.float()


def _program(network: nn.Module, windows: Tensor) -> ExportedProgram:
    """Trace the network's forward with a free number of windows."""
    module = _Deployment(network).eval().requires_grad_(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the tracer about itself
            program = torch.export.export(
                module, (windows,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
    except Exception as error:  # a plugin's forward may fail in any way
        raise SemisamError(
            f"the method's forward must be traceable by torch.export, got "
            f"{type(network).__name__} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason'}). Predict from the run."
        ) from error
    _strip(program)
    return program


def _strip(program: ExportedProgram) -> None:
    """Remove other networks, device checks and source paths, which deployment does not need."""
    graph, signature = program.graph, program.graph_signature
    for node in list(graph.nodes):
        # A check for the device of the trace would keep the program off a GPU.
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}  # no source paths
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in list(signature.input_specs):
        node = placeholders[spec.arg.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not node.users:
            graph.erase_node(node)
            signature.input_specs.remove(spec)
            program.state_dict.pop(spec.target, None)
    # Without the names of erased modules; the root's entry holds the program's signature.
    program.module_call_graph[:] = [e for e in program.module_call_graph if e.signature is not None]
    program.graph_module.recompile()
    program.example_inputs = None  # they would be stored as a pickle
