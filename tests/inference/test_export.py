"""An exported model runs without the project, and `predict` sends its user to the run."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny_runs import settings_of

from semisam.cli.main import main
from semisam.core.errors import SemisamError
from semisam.inference.export import export_network
from semisam.networks.unet import UNet
from semisam.run.execute import execute
from semisam.run.model import load_run


def _invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a second, and its export; made once, since tracing takes a few."""

    folder = tmp_path_factory.mktemp("export")
    settings = settings_of(
        dataset="phantom",
        dataset_options={"cases": 2, "test_cases": 1, "size": 32},
        method="mt",
        labels=1,
        network="vnet",
        network_options={"filters": 2},
        iterations=2,
        patch=(16, 32, 16),
        stride=(16, 16, 16),
        precision="fp32",
    )
    execute(settings, folder / "run")
    result = _invoke("export", folder / "run", folder / "model.pt2")
    assert result.exit_code == 0, result.output
    return folder


ALONE = """
import sys
import torch
program = torch.export.load(sys.argv[1]).module()
windows = torch.load(sys.argv[2], weights_only=True)
torch.save([program(w) for w in windows], sys.argv[3])
assert not [name for name in sys.modules if name.startswith("semisam")]
"""


@pytest.mark.slow
def test_it_runs_without_the_project(exported, tmp_path):
    _, framework, card = load_run(exported / "run")
    rng = torch.Generator().manual_seed(1)
    sizes = (1, 3)
    windows = [torch.randn((n, card.channels, 16, 32, 16), generator=rng) for n in sizes]
    torch.save(windows, tmp_path / "windows.pt")
    command = [sys.executable, "-c", ALONE, str(exported / "model.pt2")]
    files = [str(tmp_path / "windows.pt"), str(tmp_path / "probs.pt")]
    done = subprocess.run(
        [*command, *files], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for window, probs in zip(windows, torch.load(files[1], weights_only=True), strict=True):
        # With gradients, a batch of one has PyTorch's own convolutions, as in the program.
        expected = framework(window).detach()
        assert probs.shape == expected.shape
        assert float((probs - expected).abs().max()) < 1e-5


def test_the_card_tells_all_that_is_needed_and_no_path(exported):
    text = (exported / "model.pt2.json").read_text()
    card = json.loads(text)
    assert card["input"]["shape"] == ["batch", 1, 16, 32, 16]
    assert card["output"]["shape"] == ["batch", 2, 16, 32, 16]
    assert card["patch"] == [16, 32, 16] and card["stride"] == [16, 16, 16]
    assert set(card["images"]) >= {"class_names", "spacing", "orientation", "recipe", "channels"}
    assert {"semisam", "torch"} <= set(card["versions"])
    assert str(exported) not in text and str(Path.home()) not in text
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        parts = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    assert b".py" not in parts["models/model.json"]  # no source paths of who exported
    # The teacher is not deployed, and so not in the file.
    assert b"student" in parts["models/model.json"] and b"teacher" not in parts["models/model.json"]
    assert not any(b"teacher" in data for data in parts.values())


def test_predict_asks_for_the_run_folder(exported, tmp_path):
    model = exported / "model.pt2"
    result = _invoke("predict", model, tmp_path / "scan.nrrd", "-o", tmp_path / "masks")
    assert result.exit_code == 2 and "the run must be a run folder, got the file" in result.stderr
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("patch", [(32, 16, 16), (32, 48)])
def test_the_default_network_can_be_exported(tmp_path, patch):
    class Deployed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = UNet(1, {"logits": 2}, axes=len(patch), start="none")

        def forward(self, image):
            return self.network(image)["logits"].softmax(1)

    torch.manual_seed(0)
    model = Deployed().eval()
    export_network(model, (1, *patch), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    windows = torch.randn(3, 1, *patch, generator=torch.Generator().manual_seed(1))
    assert float((program(windows) - model(windows)).abs().max()) < 1e-4
    # No operator moves a tensor to the device of the trace: the program computes on any.
    assert program.to("meta")(windows.to("meta")).is_meta


def test_a_program_with_other_probabilities_is_not_written(tmp_path):
    class Alternating(torch.nn.Module):
        """Returns other values each time: the trace holds one of them."""

        calls = 0

        def forward(self, image):
            self.calls += 1
            return image * self.calls

    with pytest.raises(SemisamError, match="must give the run's probabilities"):
        export_network(Alternating(), (1, 4, 4, 4), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_forward_that_cannot_be_traced(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, image):
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(SemisamError, match=r"traceable by torch\.export, got Branching"):
        export_network(Branching(), (1, 4, 4, 4), tmp_path / "model.pt2")


def test_what_cannot_be_exported(exported, tmp_path):
    result = _invoke("export", tmp_path, tmp_path / "model.pt2")
    assert result.exit_code == 2 and "the run must be one of" in result.stderr
    result = _invoke("export", exported / "run", tmp_path / "model.onnx")
    assert result.exit_code == 2 and "must be a file .pt2" in result.stderr
    result = _invoke("export", exported / "run", tmp_path / "no" / "model.pt2")
    assert result.exit_code == 2 and "a folder that exists" in result.stderr
    assert not list(tmp_path.iterdir())
