"""Several promptable models as one: the mean of their predictions for the same prompt.

References:
    Zhang et al. "SemiSAM+: Rethinking semi-supervised medical image segmentation in the era of
    foundation models." 2025. https://arxiv.org/abs/2502.20749 (one or several promptable models)
"""

from __future__ import annotations

import copy
import inspect
import shutil
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from semisam.core.backend import Adaptable, Backend, can_adapt, encode_at
from semisam.core.errors import InputError, PluginError
from semisam.core.files import replace_file
from semisam.core.types import Place, Prompt
from semisam.plugins import registry
from semisam.plugins.construction import construct
from semisam.plugins.options import documented_arguments, parameters

_NO_ARCHIVE = (zipfile.BadZipFile, KeyError, RuntimeError, ValueError, EOFError, struct.error)
"""Errors of `zipfile`; an encrypted part is a RuntimeError."""
_SUREST = 1e-6  # least distance of the mean probability from 0 and 1


class Joined:
    """Promptable models that get the same prompts; their mean probability is the prediction.

    ``--sam synthsam+sam-med3d`` joins two by a plus. Where they agree the mean is sure. Elsewhere
    it is near 0.5, and a method with a threshold leaves such voxels out. A prompt must be of a kind
    that each model accepts. `join` makes the class for some models.

    Raises:
        PluginError: the models accept no kind of prompt in common.
    """

    options: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Each option, with the model that it is for and its name there."""
    names: ClassVar[tuple[str, ...]] = ()
    """The models."""

    def __init__(self, **options: Any) -> None:
        own = self._by_model(options)
        self._models: dict[str, Backend] = {n: construct("backend", n, (), own[n]) for n in own}
        models = list(self._models.values())
        self.accepts = frozenset.intersection(*(model.accepts for model in models))
        if not self.accepts:
            raise PluginError(
                "joined backends must accept a kind of prompt in common, got "
                f"{'+'.join(self.names)}. Leave one out."
            )
        self.ndim = min(model.ndim for model in models)
        self.wants_place = any(getattr(model, "wants_place", False) for model in models)
        memories = {getattr(model, "memory", "clicks") for model in models}
        self.memory = memories.pop() if len(memories) == 1 else "clicks"

    @classmethod
    def sources(cls, *, axes: int, **options: Any) -> dict[str, Path]:
        """Return the files of weights of all models."""
        return {
            f"{name}.{key}": path
            for name, own in cls._by_model(options).items()
            for key, path in registry.files_of("backend", name, own, axes).items()
        }

    def encode(self, image: Tensor, place: Place | None = None) -> list[Any]:
        """Return each model's embedding of one image ``(C, *S)``."""
        return [encode_at(model, image, place) for model in self._models.values()]

    @torch.no_grad()
    def segment(self, embedding: list[Any], prompt: Prompt) -> Tensor:
        """Return the log odds ``(*S)`` of the models' mean probability."""
        found = [
            model.segment(part, prompt).float().sigmoid()
            for model, part in zip(self._models.values(), embedding, strict=True)
        ]
        if len(shapes := {tuple(probs.shape) for probs in found}) > 1:
            raise PluginError(
                f"joined backends must return logits of one shape, got {sorted(shapes)} of "
                f"{'+'.join(self.names)}. Repair the plugin (semisam.testing.BackendContract)."
            )
        return torch.stack([probs.to(found[0]) for probs in found]).mean(0).logit(_SUREST)

    @classmethod
    def _by_model(cls, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the options of each model, by their names there."""
        found: dict[str, dict[str, Any]] = {name: {} for name in cls.names}
        for key, value in options.items():
            name, option = cls.options[key]
            found[name][option] = value
        return found


class AdaptableJoined(Joined):
    """`Joined` with a model that can be adapted to labeled scans; the others stay as they are."""

    def adapt(
        self,
        cases: Sequence[tuple[Tensor, Tensor]],
        file: Path,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Adapt one model after the other and write an archive of their weights.

        ``on_step`` gets the mean of their finished steps.
        """
        able = self._adaptable().values()
        with (
            tempfile.TemporaryDirectory() as folder,
            replace_file(file) as written,
            zipfile.ZipFile(written, "w") as archive,
        ):
            for place, model in enumerate(able):

                def show(done: int, before: int = place * steps) -> None:
                    on_step((before + done) // len(able))

                weights = Path(folder, _part(place))
                model.adapt(cases, weights, steps=steps, seed=seed, device=device, on_step=show)
                # Without the time of the file, equal weights make equal archives.
                archive.writestr(zipfile.ZipInfo(weights.name), weights.read_bytes())

    def adapted(self, file: Path) -> Self:
        """Return these models with the weights of a file that `adapt` wrote.

        Raises:
            InputError: the file is no such archive.
        """
        able = self._adaptable()
        try:
            parts = _read_parts(file, len(able))
        except _NO_ARCHIVE as error:
            raise InputError(
                f"adapted weights of joined backends must be an archive of them, got {file} "
                f"({error}). Remove it and run the command again."
            ) from None
        found = copy.copy(self)
        found._models = dict(self._models)
        folder = tempfile.mkdtemp(prefix="semisam-")
        # Models may read their weights late, so the files last as long as this object.
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
        for place, (name, model) in enumerate(able.items()):
            weights = Path(folder, _part(place))
            weights.write_bytes(parts[place])
            found._models[name] = model.adapted(weights)
        return found

    def _adaptable(self) -> dict[str, Adaptable]:
        return {n: model for n, model in self._models.items() if isinstance(model, Adaptable)}


def join(names: Sequence[str]) -> type[Joined]:
    """Return the class of joined backends; its constructor has the options of each.

    Args:
        names: of installed backends.

    Raises:
        PluginError: a backend cannot be loaded, or they have no number of axes in common.
    """
    loaded: dict[str, Any] = {name: registry.load("backend", name) for name in names}
    axes = [set(model.axes) for model in loaded.values() if hasattr(model, "axes")]
    if axes and not set.intersection(*axes):
        raise PluginError(
            f"joined backends must be for images of the same axes, got {'+'.join(names)}. Leave "
            "one out."
        )
    stated = [registry.prompt_kinds("backend", model) for model in loaded.values()]
    kinds = [each for each in stated if each]  # others state theirs in the constructor
    options: dict[str, tuple[str, str]] = {}
    keywords, docs = [], []
    for name, model in loaded.items():
        documented = documented_arguments(model)
        for own in parameters("backend", model).values():
            joint = registry.joint_option(name, own.name)
            options[joint] = name, own.name
            kind = inspect.Parameter.KEYWORD_ONLY
            keyword = inspect.Parameter(joint, kind, default=own.default, annotation=own.annotation)
            keywords.append(keyword)
            docs.append(f"    {joint}: {documented.get(own.name, '')}")
    base = AdaptableJoined if any(map(can_adapt, loaded.values())) else Joined
    about = {
        "__doc__": "\n".join([inspect.cleandoc(Joined.__doc__ or ""), "", "Args:", *docs]),
        "__module__": __name__,
        "__signature__": inspect.Signature(keywords),
        "accepts": frozenset.intersection(*kinds) if kinds else frozenset(),
        "names": tuple(names),
        "options": options,
    }
    if axes:
        about["axes"] = tuple(sorted(set.intersection(*axes)))
    return type(base.__name__, (base,), about)


def _read_parts(file: Path, count: int) -> list[bytes]:
    """Read the parts of an archive, which `AdaptableJoined.adapt` neither packs nor encrypts."""
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        for part in map(archive.getinfo, map(_part, range(count))):
            if part.compress_type != zipfile.ZIP_STORED or part.file_size > size:
                raise zipfile.BadZipFile(f"{part.filename} is packed")
        return [archive.read(_part(place)) for place in range(count)]


def _part(place: int) -> str:
    return f"{place}.safetensors"
