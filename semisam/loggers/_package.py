"""The check for the package of a service."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from semisam.core.errors import PluginError


def require(package: str) -> None:
    """Refuse a logger whose package is missing; the extra has the package's name.

    Raises:
        PluginError: the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise PluginError(
            f"the logger must have the package {package}, got an environment without it. Run pip "
            f"install 'semisam[{package}]', or leave --logger out."
        )


def key_of(folder: Path) -> str:
    """Return a name of a run that is the same whenever it resumes, and another elsewhere."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
