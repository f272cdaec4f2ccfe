"""``docs/examples/plugins``: each is installed from its wheel, keeps its contract and trains."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_wheels import install_wheels, run_tests
from tiny_runs import tiny_phantoms

from semisam.core.errors import InputError
from semisam.interactive.click import ClickableScan
from semisam.interactive.serve import Service, make_server
from semisam.plugins.construction import construct
from semisam.run.execute import execute

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "plugins"
KINDS = {
    "monai-segresnet": "network",
    "nninteractive-remote": "backend",
    "weak-strong": "framework",
}
STEPS: dict[str, Any] = {
    "dataset_options": {"cases": 3, "test_cases": 1, "size": 32},
    "iterations": 2,
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    projects = [EXAMPLES / name for name in KINDS]
    return install_wheels(projects, tmp_path_factory.mktemp("examples"))


@pytest.fixture
def on_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(installed)
    return installed


@pytest.fixture
def address() -> Iterator[str]:
    """A server of nnInteractive's protocol on this machine."""
    service = Service(
        lambda image, spacing: ClickableScan(image, spacing=spacing, device="cpu"), 4 << 20
    )
    with make_server(service, "a-key", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_every_example_is_tested():
    assert {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} == set(KINDS)


@pytest.mark.slow
def test_they_keep_their_contracts(installed: Path, tmp_path: Path):
    for name in KINDS:
        shutil.copytree(EXAMPLES / name / "tests", tmp_path, dirs_exist_ok=True)
    done = run_tests(installed, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_method_trains(on_path: Path, tmp_path: Path):
    assert execute(tiny_phantoms(method="weak-strong", **STEPS), tmp_path / "run").is_file()


def test_the_network_trains(on_path: Path, tmp_path: Path):
    pytest.importorskip("monai")
    options = {"network": "monai-segresnet", "network_options": {"width": 8}}
    assert execute(tiny_phantoms(method="mt", **options, **STEPS), tmp_path / "run").is_file()


def test_the_backend_guides_a_training(on_path: Path, tmp_path: Path, address: str):
    pytest.importorskip("nnInteractive.inference.remote.remote_session")
    options = {"address": address, "key": "a-key"}
    settings = tiny_phantoms(method="mt", sam="nninteractive-remote", sam_options=options, **STEPS)
    figures = json.loads(execute(settings, tmp_path / "run").read_text())["training"]
    assert figures["sam_calls"] > 0, figures


@pytest.mark.parametrize(
    ("kind", "name", "package", "arguments"),
    [
        ("network", "monai-segresnet", "monai", (1, {"logits": 2})),
        ("backend", "nninteractive-remote", "nninteractive-client", ()),
    ],
)
def test_a_missing_package_is_one_sentence(
    on_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    package: str,
    arguments: Any,
):
    for module in ("monai", "nnInteractive"):
        for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as caught:
        construct(kind, name, arguments)
    message = str(caught.value)
    assert f"{name} must have the package {package}, got none" in message
    assert message.endswith(f"Run pip install {package}.")
