"""Plugin projects, installed from wheels as a user installs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import semisam


def install_wheels(projects: Iterable[Path], root: Path) -> Path:
    """Build a wheel of each project, install them in a folder and return it, offline."""
    wheels, target = root / "wheels", root / "installed"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    build = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels)]
    _run([*pip, *build, *map(str, projects)])
    found = map(str, sorted(wheels.glob("*.whl")))
    _run([*pip, "install", *offline, "--target", str(target), *found])
    return target


def run_tests(target: Path, tests: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder with what `install_wheels` installed."""
    path = [target, Path(semisam.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "."],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
