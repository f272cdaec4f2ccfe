"""Create plugin projects from templates."""

from __future__ import annotations

import re
import shutil
import uuid
from importlib import resources
from pathlib import Path
from string import Template

from semisam import __version__, api_version
from semisam.core.errors import InputError
from semisam.core.files import writable_folder
from semisam.plugins.registry import GROUPS, RESERVED_NAMES, list_plugins, noun

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TRY = {
    "framework": "semisam bench --method $NAME --labels 2 --sam none",
    "backend": "semisam bench --method mt --labels 2 --sam none,$NAME",
    "prompter": "semisam bench --method mt --labels 2 --prompter $NAME",
    "network": "semisam bench --method mt --labels 2 --sam none --network $NAME",
    "dataset": "semisam data check FOLDER --dataset $NAME",
    "logger": "semisam train --method mt --labels 2 --logger $NAME --out runs/one",
}


def write_project(kind: str, name: str, out: Path) -> Path:
    """Write a plugin project atomically and return its folder.

    Args:
        kind: a key of `semisam.plugins.registry.GROUPS`.
        name: name of the plugin: lower-case words with hyphens.
        out: the folder that receives ``semisam-<name>``.

    Raises:
        InputError: the name is malformed, reserved or taken, or the folder exists.
    """
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES.get(kind, {}):
        raise InputError(
            "a plugin's name must be lower-case words with hyphens and not reserved, got "
            f"{name!r}. Choose one like my-method."
        )
    if name in list_plugins(kind):
        raise InputError(
            f"a plugin's name must be new, got {name!r}, an installed {noun(kind)}. Choose another."
        )
    folder = writable_folder(out) / f"semisam-{name}"
    if folder.exists():
        raise InputError(f"the project's folder must not exist yet, got {folder}. Choose another.")
    module = f"semisam_{name.replace('-', '_')}"
    words = {
        "KIND": noun(kind),
        "GROUP": GROUPS[kind].removeprefix("semisam."),
        "NAME": name,
        "TITLE": name.replace("-", " ").capitalize(),
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "MODULE": module,
        "DISTRIBUTION": folder.name,
        "VERSION": __version__,
        "NEXT": _next_minor(__version__),
        "API": str(api_version),
    }
    words["TRY"] = Template(_TRY[kind]).substitute(words)
    files = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{module}/__init__.py": f"{kind}.py.txt",
        f"tests/test_{module}.py": f"{kind}_test.py.txt",
    }
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        for target, template in files.items():
            path = beside / target
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (resources.files("semisam.plugins.templates") / template).read_text()
            path.write_text(Template(text).substitute(words))
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _next_minor(version: str) -> str:
    """Return the first version that may break a plugin: 0.2 for 0.1.3."""
    major, minor = version.split(".")[:2]
    return f"{major}.{int(minor) + 1}"
