"""The wheel check names each missing file and each wrong entry point."""

import importlib.util
import tomllib
import zipfile
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("wheel", _ROOT / "tools" / "wheel.py")
assert _SPEC and _SPEC.loader
wheel = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(wheel)


def _pack(path, without="", points_without=""):
    """Write the package and its entry points as a wheel holds them."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    groups = {**project["entry-points"], "console_scripts": project["scripts"]}
    lines = []
    for group, entries in groups.items():
        lines.append(f"[{group}]")
        lines += [f"{n} = {value}" for n, value in entries.items() if n != points_without]
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((_ROOT / "semisam").rglob("*")):
            name = file.relative_to(_ROOT).as_posix()
            if file.is_file() and "__pycache__" not in name and name != without:
                archive.writestr(name, b"")
        archive.writestr("semisam-0.1.0.dist-info/entry_points.txt", "\n".join(lines))
    return path


def test_a_whole_wheel_passes(tmp_path):
    assert wheel.faults(_pack(tmp_path / "whole.whl"), _ROOT) == []


def test_missing_parts_are_named(tmp_path):
    weights = "semisam/backends/weights/synthsam.safetensors"
    for name in (weights, "semisam/py.typed", "semisam/plugins/templates/backend.py.txt"):
        (fault,) = wheel.faults(_pack(tmp_path / "part.whl", without=name), _ROOT)
        assert fault == f"{name} is missing"
    (fault,) = wheel.faults(_pack(tmp_path / "point.whl", points_without="synthsam"), _ROOT)
    assert "semisam.backends must be" in fault and "'synthsam'" in fault
