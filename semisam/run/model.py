"""Functions that open the trained model of a run folder, to score, deploy or export it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray

from semisam.core.backend import Adaptable
from semisam.core.errors import InputError
from semisam.core.files import write_json
from semisam.core.framework import Framework, blueprint
from semisam.core.layout import ADAPTED, CARD, MODEL
from semisam.data.images.files import Geometry, from_itk
from semisam.frameworks.semisam import SemiSAM
from semisam.inference.card import Card, read_card
from semisam.inference.export import card_path, check_target, export_network
from semisam.inference.predictor import (
    Deployed,
    Prediction,
    Scan,
    ensemble,
    prepared_scan,
    read_scan,
    segment,
)
from semisam.networks.convolution import guard_convolutions
from semisam.networks.precision import Precision
from semisam.plugins import registry
from semisam.run.build import make_framework
from semisam.run.folder import find_run
from semisam.run.preflight import check_device
from semisam.run.record import versions
from semisam.run.settings import RunSettings, read_settings
from semisam.training.checkpoint import fit_weights, load_tensors

FORMAT, VERSION = "semisam-export", 1


def load_run(folder: Path, device: str = "cpu") -> tuple[RunSettings, Framework, Card]:
    """Open a finished run: its settings, the method on a device in evaluation mode, and its card.

    The training data are not needed. A trained network needs no promptable model. A method that
    trains none keeps its model, with the weights that the run adapted.

    Raises:
        InputError: if the folder does not hold a finished run.
    """
    settings = read_settings(folder)
    _check_installed(settings)
    missing = [name for name in (MODEL, CARD) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"the run must be finished, with {MODEL} and {CARD}, got {folder} without "
            f"{missing[0]}. Run the same command again to finish it."
        )
    card = read_card(folder / CARD)
    # Deployment does not need the file that the network started from. The branch has no state.
    options = settings.network_options
    started = {**options, "start": "none"} if "start" in options else options
    update: dict[str, Any] = {"network_options": started}
    trained = trains_network(settings.method)
    if trained:
        update["sam"] = "none"
    bare = settings.model_copy(update=update)

    def make() -> Framework:
        return make_framework(bare, card.channels, len(card.class_names), card.class_names)

    weights = load_tensors(folder / MODEL)
    if trained:  # damaged settings could make a network of any size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it takes no numbers
            fit_weights(blueprint(make), weights, folder)
    framework = make()
    fit_weights(framework, weights, folder)
    if isinstance(framework, SemiSAM):
        framework.leave_out(card.left_out)
        if settings.sam_adapt and framework.classes:
            queries = framework.queries
            queries.backend = cast(Adaptable, queries.backend).adapted(folder / ADAPTED)
    guard_convolutions(framework)  # as in training, so that a score can be repeated to the bit
    return settings, framework.to(device).eval(), card


def _check_installed(settings: RunSettings) -> None:
    """Refuse a run whose method or network is not installed, by the distribution that had it."""
    for kind, place in (("framework", "method"), ("network", "network")):
        name, origin = getattr(settings, place), settings.sources.get(place)
        if origin and name not in registry.list_plugins(kind):
            raise InputError(
                f"the plugins of a run must be installed, got none for its "
                f"{registry.noun(kind)} {name!r}, which was of distribution {origin}. "
                f"Install it: pip install {origin.replace(' ', '==')}"
            )


def load_model(folder: Path, device: str = "cpu") -> Deployed:
    """Open a trained run to segment new scans with it.

    Raises:
        InputError: if the path is not a folder with a trained run.
    """
    if folder.is_file():
        raise InputError(
            f"RUN must be a run folder, got the file {folder}. Name the folder of the run that it "
            "comes from."
        )
    settings, framework, card = load_run(folder, device)
    return Deployed(framework, card, *window_of(settings), precision_on(settings, device))


def precision_on(settings: RunSettings, device: str) -> Precision:
    """Return the precision in which a trained run predicts on a device: only a GPU runs fp16."""
    on_cpu = torch.device(device).type == "cpu"
    return "fp32" if settings.precision == "fp16" and on_cpu else settings.precision


def load_models(runs: Sequence[Path], device: str = "cpu") -> Deployed:
    """Open one trained run, or several as an ensemble: the mean of their probabilities.

    Raises:
        InputError: a path is not a folder with a trained run, or the runs have other classes or
            another preparation of scans.
    """
    return ensemble({str(run): load_model(run, device) for run in runs})


class Model:
    """A trained run, or an ensemble of several, that segments new scans.

    Args:
        deployed: the result of `load_models`.
        device: on which it computes.
    """

    def __init__(self, deployed: Deployed, device: str) -> None:
        self._deployed, self._device = deployed, device

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self._deployed.card.class_names

    def predict(
        self,
        scan: NDArray[Any] | SimpleITK.Image | str | Path | Sequence[str | Path],
        *,
        spacing: Sequence[float] | None = None,
    ) -> Prediction:
        """Segment one scan and return its label map and probabilities on the scan's own grid.

        Args:
            scan: an array ``(*S)`` or ``(C, *S)`` whose axes run to the left, the posterior and the
                superior; a SimpleITK image; or the path of a file or of a DICOM folder, or one of
                each channel.
            spacing: mm per axis of an array; ``None``: the spacing of the training images.

        Raises:
            InputError: the scan cannot be read or does not fit the model, or a scan with a spacing
                of its own comes with another one.
        """
        card = self._deployed.card
        parts = scan if isinstance(scan, list | tuple) else [scan]
        of_files = bool(parts) and all(isinstance(part, str | Path) for part in parts)
        if spacing is not None and (of_files or isinstance(scan, SimpleITK.Image)):
            raise InputError(
                f"spacing must come with an array, got {spacing} with "
                f"{'a file' if of_files else 'a SimpleITK image'}, which has its own. Leave it out."
            )
        if of_files:
            found = read_scan(tuple(map(Path, parts)), card)
        elif isinstance(scan, SimpleITK.Image):
            if "complex" in cast(Any, scan).GetPixelIDTypeAsString():
                raise _no_scan("complex numbers")
            found = _in_memory(*from_itk(scan), card)
        else:
            usual = card.preparation().spacing or card.spacing
            found = _in_memory(_array(scan), Geometry(_spacing(spacing, usual)), card)
        return segment(self._deployed, found, self._device)


def _array(scan: Any) -> NDArray[np.float32]:
    try:
        array = np.asarray(scan)
        if array.dtype.kind == "c":  # the conversion would drop the imaginary parts
            raise _no_scan("complex numbers")
        return array.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise _no_scan(type(scan).__name__) from None


def _no_scan(got: str) -> InputError:
    return InputError(
        "the scan must be an array of numbers, a SimpleITK image, a path, or a path of each "
        f"channel, got {got}. Pass one of these."
    )


def _spacing(given: Any, usual: Sequence[float]) -> tuple[float, ...]:
    """Return the spacing that a user gave, or the usual one."""
    try:
        mm = tuple(map(float, usual if given is None else given))
    except (TypeError, ValueError):
        mm = ()
    if len(mm) != len(usual) or not all(0 < each < math.inf for each in mm):
        raise InputError(
            f"spacing must be {len(usual)} positive numbers, mm along each axis, got {given}. "
            "Correct it."
        )
    return mm


def _in_memory(array: NDArray[np.float32], geometry: Geometry, card: Card) -> Scan:
    """Prepare a scan ``(*S)`` or ``(C, *S)``."""
    axes = len(geometry.spacing)
    if array.ndim not in (axes, axes + 1):
        raise InputError(
            f"the scan must have {axes} axes, or {axes + 1} with channels first, got "
            f"{' x '.join(map(str, array.shape)) or 'one value'}. Give the whole scan."
        )
    return prepared_scan(array if array.ndim > axes else array[None], geometry, card)


def load(run: str | Path | Sequence[str | Path], device: str = "auto") -> Model:
    """Open a trained run to segment new scans with it.

    Args:
        run: the path of a run folder, ``FOLDER#HASH``, or the start of its path; several of them
            are an ensemble, which predicts the mean of their probabilities.
        device: on which it computes; auto: a GPU if there is one.

    Raises:
        InputError: there is no such run, it is not finished, runs do not fit each other, or the
            device cannot be used.
    """
    if not isinstance(run, str | Path | Sequence):
        raise InputError(f"a run must be the path of its folder, got {run!r}. Name the folder.")
    names = [run] if isinstance(run, str | Path) else list(run)
    if not names:
        raise InputError("an ensemble must have at least one run, got none. Name a run folder.")
    place = str(check_device(str(device)))
    return Model(load_models([find_run(str(name)) for name in names], place), place)


def export_run(run: Path, target: Path) -> Path:
    """Export a trained run as a program of PyTorch's operators, and write its card.

    The program computes in float32, whatever the precision of the training was.

    Args:
        run: a finished run's folder.
        target: ends in ``.pt2``; its folder exists.

    Returns:
        The card's path, ``<target>.json``.

    Raises:
        InputError: ``run`` is not a finished run, or ``target`` cannot be written.
        SemisamError: the method's forward cannot be exported.
    """
    check_target(target)
    settings, framework, card = load_run(run)
    patch, stride = window_of(settings)
    if patch is None or stride is None:
        raise InputError(
            f"the run must hold a trained network, got {run} of the method {settings.method}, "
            "which trains none. Name another run."
        )
    digest = export_network(framework, (card.channels, *patch), target)
    classes = len(card.class_names)
    path = card_path(target)
    write_json(
        path,
        {
            "format": FORMAT,
            "format_version": VERSION,
            "sha256": digest,
            "input": {"shape": ["batch", card.channels, *patch], "dtype": "float32"},
            "output": {"shape": ["batch", classes, *patch], "what": "probabilities"},
            "patch": list(patch),
            "stride": list(stride),
            "images": card.to_json(),
            "method": settings.method,
            "network": settings.network,
            "versions": versions(),
        },
    )
    return path


def trains_network(method: str) -> bool:
    """Return whether a method trains a network.

    Raises:
        PluginError: the method is not installed, or broken.
    """
    return bool(getattr(registry.load("framework", method), "trains", True))


def window_of(settings: RunSettings) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the patch and the stride with which a run segments a scan.

    Both are ``None`` for a method that trains no network: it takes whole scans.

    Args:
        settings: of the run, resolved.

    Raises:
        InputError: they hold no stride.
    """
    if not trains_network(settings.method):
        return None, None
    if settings.stride is None:
        raise InputError(
            "the settings of a run must hold its stride, got none. Restore its settings.json, or "
            "train again."
        )
    return settings.patch, settings.stride
