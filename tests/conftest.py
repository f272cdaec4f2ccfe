"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from grid_runs import runs_in_this_process
from tiny_runs import settings_of

import semisam
from semisam.plugins.scaffold import write_project
from semisam.run.settings import RunSettings


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers beside the checkout; skips where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "goldens").is_dir():
        pytest.skip("the reference data beside the checkout is not there")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Volumes as small as these are not worth a second thread, least of all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what names no device run on the CPU, where a result is the same bit for bit."""
    if request.path.name != "test_gpu.py":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def sam_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a small SAM (for ``sam`` and ``medsam``) and SAM 2 with random weights."""
    from tiny_sam import save_sam, save_sam2

    root = tmp_path_factory.mktemp("checkpoints")
    sam = str(save_sam(root / "sam"))
    return {"sam": sam, "medsam": sam, "sam2": str(save_sam2(root / "sam2"))}


@pytest.fixture
def tiny_la(tmp_path: Path) -> Path:
    """A folder in the published Left Atrium layout: four training and two test cases, tiny."""
    from tiny_la import write_tiny_la

    return write_tiny_la(tmp_path / "la")


@pytest.fixture
def tiny_settings(tiny_la: Path) -> RunSettings:
    """Settings of a run that takes a second."""
    return settings_of(
        data=str(tiny_la),
        dataset="la",
        method="mt",
        labels=2,
        network="vnet",
        network_options={"filters": 2},
        iterations=4,
        patch=(16, 16, 16),
        stride=(16, 16, 16),
        checkpoint_every=2,
    )


@pytest.fixture
def in_process() -> Iterator[None]:
    """Grids execute their runs in this process."""
    with runs_in_this_process():
        yield


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lay a distribution out as an installer does: a .dist-info folder and a module."""

    def install(
        name: str,
        entries: dict[str, dict[str, str]],
        *,
        version: str = "1.2",
        place: str = "",
        modules: dict[str, str] | None = None,
    ) -> Path:
        site = tmp_path / (place or name)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text("")
        lines = []
        for group, points in entries.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(site)
        return site

    return install


@dataclass(frozen=True)
class PluginEnvironment:
    """A Python with plugin projects installed, and semisam beside them.

    Attributes:
        python: its interpreter.
        projects: the installed projects' folders by plugin name.
    """

    python: Path
    projects: Mapping[str, Path]

    def semisam(self, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of semisam in a folder."""
        return self._run("-m", "semisam", *args, cwd=cwd)

    def test(self, *names: str) -> subprocess.CompletedProcess[str]:
        """Run the tests that the projects of these plugins bring."""
        folders = [str(self.projects[name] / "tests") for name in names]
        root = self.projects[names[0]].parent
        return self._run("-m", "pytest", "-q", "-p", "no:cacheprovider", *folders, cwd=root)

    def _run(self, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *args]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd)


@pytest.fixture(scope="session")
def example_plugin() -> Path:
    """The plugin project of the documentation."""
    return Path(__file__).resolve().parents[1] / "docs" / "example-plugin"


@pytest.fixture(scope="session")
def plugin_environment(
    tmp_path_factory: pytest.TempPathFactory, example_plugin: Path
) -> PluginEnvironment:
    """The documentation's example, and a project of ``semisam new`` for each other kind."""
    root = tmp_path_factory.mktemp("plugins")
    unused = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    projects = {
        "pi-model": shutil.copytree(example_plugin, root / example_plugin.name, ignore=unused),
        "near-and-like": write_project("backend", "near-and-like", root),
        "surest": write_project("prompter", "surest", root),
        "small-u": write_project("network", "small-u", root),
        "npz": write_project("dataset", "npz", root),
        "lines": write_project("logger", "lines", root),
    }
    folder = root / "env"
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(
        subprocess.run(asked, check=True, capture_output=True, encoding="utf-8").stdout.strip()
    )
    # What is installed where the tests run (torch among it) is seen from there, not copied.
    here = [*site.getsitepackages(), str(Path(semisam.__file__).parents[1])]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (packages / "host.pth").write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", *map(str, projects.values())],
        check=True,
        capture_output=True,
    )
    return PluginEnvironment(python, projects)
