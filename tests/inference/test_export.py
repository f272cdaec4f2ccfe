"""An exported model runs without the project, and files that are not ours are not opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.inference.archive import _EXPRESSION, checked_archive
from semisam.inference.export import card_path, load_exported
from semisam.run.execute import execute, load_run


def _invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a second, and its export; made once, since tracing takes a few."""
    from semisam.run.settings import RunSettings

    folder = tmp_path_factory.mktemp("export")
    settings = RunSettings(
        dataset="phantom",
        dataset_options={"cases": 2, "test_cases": 1, "size": 32},
        method="mt",
        labels=1,
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


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the model and its card to damage."""
    for name in ("model.pt2", "model.pt2.json"):
        shutil.copy(exported / name, tmp_path / name)
    return tmp_path / "model.pt2"


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
        with torch.no_grad():
            expected = framework(window)
        assert probs.shape == expected.shape
        assert float((probs - expected).abs().max()) < 1e-5


def test_it_predicts_as_the_run(exported, tmp_path):
    rng = np.random.default_rng(0)
    scan = sitk.GetImageFromArray(rng.normal(100, 20, (18, 30, 25)).astype(np.float32))
    scan.SetSpacing((1.1, 0.9, 2.0))
    scan.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(scan, str(tmp_path / "scan.nrrd"))
    for name, model in (("one", exported / "run"), ("other", exported / "model.pt2")):
        args = ("predict", model, tmp_path / "scan.nrrd", "-o", tmp_path / name, "--probabilities")
        result = _invoke(*args)
        assert result.exit_code == 0, result.output
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "other").iterdir())
    (probability,) = (name for name in files if "probability" in name)
    read = [sitk.ReadImage(str(tmp_path / n / probability)) for n in ("one", "other")]
    one, other = map(sitk.GetArrayFromImage, read)
    assert np.abs(one - other).max() < 1e-5
    assert read[1].GetSize() == scan.GetSize()


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


def test_a_file_without_our_card_is_refused(copy, exported):
    card_path(copy).unlink()
    result = _invoke("predict", copy, copy, "-o", copy.parent / "masks")
    assert result.exit_code == 2 and "with its card model.pt2.json beside it" in result.stderr
    card_path(copy).write_text('{"format": "another"}')
    with pytest.raises(InputError, match="another format or version"):
        load_exported(copy)
    raw = json.loads((exported / "model.pt2.json").read_text())
    card_path(copy).write_text(json.dumps(raw | {"patch": [16]}))
    with pytest.raises(InputError, match="positive size per axis"):
        load_exported(copy)
    shutil.copy(exported / "model.pt2.json", card_path(copy))
    with copy.open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="card is that of another file"):
        load_exported(copy)


def _rewrite(path, change):
    """Write the archive anew with ``change(part's name, data) -> data``, or None to drop it."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts:
            new = change(name.split("/", 1)[1], data)
            if new is not None:
                archive.writestr(name, new)


def _graph(edit):
    def change(name, data):
        if name != "models/model.json":
            return data
        graph = json.loads(data)
        edit(graph)
        return json.dumps(graph).encode()

    return change


def _first_node(graph):
    return graph["graph_module"]["graph"]["nodes"][0]


def _first_config(name, data):
    if name != "data/weights/model_weights_config.json":
        return data
    config = json.loads(data)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config).encode()


HOSTILE = {
    "a function": _graph(lambda g: _first_node(g).update(target="torch.os.system")),
    "a file": _graph(lambda g: _first_node(g).update(target="torch.ops.aten.from_file.default")),
    "code in an argument's name": _graph(
        lambda g: g["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(
            name="x=__import__('os').system('true')"
        )
    ),
    "code in a shape": _graph(
        lambda g: next(
            v
            for t in g["graph_module"]["graph"]["tensor_values"].values()
            for v in t["sizes"]
            if "as_expr" in v
        )["as_expr"].update(expr_str="exec(input())")
    ),
    "an enum of any module": _graph(
        lambda g: g["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='{"__enum__": true, "fqn": "os:path"}'
        )
    ),
    "a pickled weight": _first_config,
    "pickled examples": lambda n, d: b"pickle" if n == "data/sample_inputs/model.pt" else d,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_could_run_code_is_not_opened(copy, what, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *args: pytest.fail("it was opened"))
    _rewrite(copy, HOSTILE[what])
    with (
        pytest.raises(InputError, match="operators and tensors alone is required"),
        checked_archive(copy),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/model.so", "data/constants/custom_obj_0", "extra/code.py"]
)
def test_other_parts_are_not_let_through(copy, name):
    with zipfile.ZipFile(copy, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{name}", b"x")
    with pytest.raises(InputError, match="it holds"), checked_archive(copy):
        pass


def test_no_archive_at_all(tmp_path):
    for data in (b"", b"PK\x03\x04 and no more", b"\x80\x04."):
        (tmp_path / "model.pt2").write_bytes(data)
        with pytest.raises(InputError, match="required"), checked_archive(tmp_path / "model.pt2"):
            pass


def test_expressions_are_refused_in_no_time():
    assert _EXPRESSION.fullmatch("Mul(Integer(4096), Symbol('s77', positive=True, integer=True))")
    assert not _EXPRESSION.fullmatch("s1" * 5000 + "!")
    assert not _EXPRESSION.fullmatch("1" * 50000 + "!")
    assert not _EXPRESSION.fullmatch("Symbol('s1').__class__")


def test_what_cannot_be_exported(exported, tmp_path):
    result = _invoke("export", tmp_path, tmp_path / "model.pt2")
    assert result.exit_code == 2 and "settings.json is required" in result.stderr
    result = _invoke("export", exported / "run", tmp_path / "model.onnx")
    assert result.exit_code == 2 and "must be a file .pt2" in result.stderr
    result = _invoke("export", exported / "run", tmp_path / "no" / "model.pt2")
    assert result.exit_code == 2 and "a folder that exists" in result.stderr
    assert not list(tmp_path.iterdir())
