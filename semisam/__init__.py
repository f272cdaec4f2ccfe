"""Semi-supervised medical image segmentation, guided by a promptable foundation model.

Example:
    >>> import semisam
    >>> chosen = semisam.settings(method="mt", labels=2)
    >>> chosen.title
    'mt'

The names below are loaded when they are first used, so that importing the package is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

api_version = 1
"""Version of the interface for plugins (docs/plugin-api.md). It rises when a plugin may break."""

if TYPE_CHECKING:
    from semisam.automatic.flow import auto
    from semisam.bench.running import bench as bench
    from semisam.core.backend import Backend, Prompter
    from semisam.core.errors import InputError, PluginError, SemisamError, SemisamWarning
    from semisam.core.framework import Framework, NetBuilder
    from semisam.core.logger import Logger
    from semisam.core.types import Batch, Clock, Prompt, Step, View
    from semisam.data.datasets.dataset import Dataset, Image, Split
    from semisam.inference.comparison import score
    from semisam.inference.predictor import Prediction
    from semisam.interactive.click import click
    from semisam.run.build import open_folder as open_dataset
    from semisam.run.model import Model, load
    from semisam.run.request import settings
    from semisam.run.settings import RunSettings
    from semisam.run.train import train

_HOMES = {
    "auto": "automatic.flow",
    "Backend": "core.backend",
    "Batch": "core.types",
    "Clock": "core.types",
    "Dataset": "data.datasets.dataset",
    "Framework": "core.framework",
    "Image": "data.datasets.dataset",
    "InputError": "core.errors",
    "Logger": "core.logger",
    "Model": "run.model",
    "NetBuilder": "core.framework",
    "PluginError": "core.errors",
    "Prediction": "inference.predictor",
    "Prompt": "core.types",
    "Prompter": "core.backend",
    "RunSettings": "run.settings",
    "SemisamError": "core.errors",
    "SemisamWarning": "core.errors",
    "Split": "data.datasets.dataset",
    "Step": "core.types",
    "View": "core.types",
    "click": "interactive.click",
    "load": "run.model",
    "open_dataset": "run.build:open_folder",
    "score": "inference.comparison",
    "settings": "run.request",
    "train": "run.train",
}

__all__ = [  # noqa: RUF022  (the functions first)
    "auto",
    "train",
    "bench",
    "load",
    "click",
    "score",
    "settings",
    "open_dataset",
    "Backend",
    "Batch",
    "Clock",
    "Dataset",
    "Framework",
    "Image",
    "InputError",
    "Logger",
    "Model",
    "NetBuilder",
    "PluginError",
    "Prediction",
    "Prompt",
    "Prompter",
    "RunSettings",
    "SemisamError",
    "SemisamWarning",
    "Split",
    "Step",
    "View",
    "__version__",
    "api_version",
]


def __getattr__(name: str) -> Any:
    if name == "bench":  # the package, which can be called as its function
        return importlib.import_module("semisam.bench")
    if name not in _HOMES:
        raise AttributeError(f"module 'semisam' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = getattr(importlib.import_module(f"semisam.{module}"), attribute or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
