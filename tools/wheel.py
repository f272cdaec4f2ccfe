"""Check that a wheel holds the weights, the templates, the type marker and the entry points.

Run ``python tools/wheel.py dist/semisam-*.whl`` in the root of a checkout.
"""

from __future__ import annotations

import configparser
import sys
import tomllib
import zipfile
from pathlib import Path

DATA = ("*.bib", "*.csv", "*.j2", "*.js", "*.md", "*.safetensors", "*.sh", "*.txt", "py.typed")


def faults(wheel: Path, root: Path) -> list[str]:
    """Return one line per file and entry point of the checkout that the wheel lacks."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (name,) = (n for n in held if n.endswith(".dist-info/entry_points.txt"))
        points = configparser.ConfigParser(delimiters=("=",))
        points.optionxform = str  # type: ignore[assignment, method-assign]
        points.read_string(archive.read(name).decode())
    package = root / "semisam"
    wanted = [path for pattern in ("*.py", *DATA) for path in package.rglob(pattern)]
    found = [
        f"{path.relative_to(root)} is missing"
        for path in sorted(wanted)
        if path.relative_to(root).as_posix() not in held
    ]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {**project["entry-points"], "console_scripts": project["scripts"]}
    for group, entries in groups.items():
        got = dict(points[group]) if group in points else {}
        if got != entries:
            found.append(f"the entry points {group} must be {entries}, got {got}")
    return found


def main(wheels: list[str]) -> int:
    """Print the faults of each wheel; return 1 if there is one."""
    if not wheels:
        sys.exit("A wheel is required, got no path: python tools/wheel.py dist/*.whl")
    found = [f"{name}: {fault}" for name in wheels for fault in faults(Path(name), Path())]
    print("\n".join(found) or f"wheel: {', '.join(wheels)} is complete")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
