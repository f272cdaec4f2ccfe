from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from semisam.cli import main as cli
from semisam.cli import plugins as cli_plugins
from semisam.core.errors import InputError, PluginError, SemisamError

BROKEN = "import a_library_that_is_not_there"
FAULTY = """
def no_driver(): raise RuntimeError("no driver")
class Option:
    def __init__(self, *, count): ...
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Restore what ``--check`` sets for its own process."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken_dist-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-dist\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text(
        "[semisam.prompters]\nred-broken = broken_cli_module:P\n"
        "red-driver = faulty_cli_module:no_driver\nred-option = faulty_cli_module:Option\n"
        "unet = broken_cli_module:P\n" + "[semisam.networks]\nvnet = broken_cli_module:P\n"
    )
    (tmp_path / "broken_cli_module.py").write_text(BROKEN)
    (tmp_path / "faulty_cli_module.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)


def invoke(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, args, prog_name="semisam")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_list_names_kind_name_distribution_and_origin():
    code, out, _ = invoke("plugins", "--kind", "framework")
    assert code == 0
    (row,) = [line for line in out.splitlines() if " mt " in line]
    assert "framework" in row and "semisam " in row and "built-in" in row
    assert "vnet" not in out


def test_json_has_every_plugin():
    code, out, _ = invoke("plugins", "--json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["framework", "mt"]["builtin"] is True
    assert rows["network", "vnet"]["value"] == "semisam.networks.vnet:VNet"


def test_a_name_shows_its_docstring_and_options():
    code, out, _ = invoke("plugins", "vnet")
    assert code == 0
    assert "The 9.45 M-parameter V-Net" in out
    (row,) = [line for line in out.splitlines() if "dropout" in line]
    assert "float" in row and "0.5" in row and "rate at the bottleneck" in row
    described = json.loads(invoke("plugins", "vnet", "--json")[1])
    assert [o["name"] for o in described[0]["options"]] == ["filters", "dropout"]


def test_a_method_shows_its_choices_an_example_and_its_protocols():
    code, out, _ = invoke("plugins", "ent-mini")
    assert code == 0 and "``" not in out
    (row,) = [line for line in out.splitlines() if " dice_classes " in line]
    assert "foreground | all" in row
    assert "--set ent-mini.supervised_weight=0.5" in out
    assert "--protocol published sets supervised_weight=0.5, dice_classes=all" in out


def test_the_branch_is_described_though_it_is_no_plugin():
    code, out, _ = invoke("plugins", "semisam")
    assert code == 0 and "--set semisam.role=loss" in out
    rows = [line for line in out.splitlines() if " gated " in line and " bool " in line]
    assert len(rows) == 1 and "quality of the predictions" in rows[0]
    assert "--protocol default sets weight=1.0" in out
    (described,) = json.loads(invoke("plugins", "semisam", "--json")[1])
    assert described["kind"] == "branch" and len(described["options"]) > 10


def test_a_default_that_no_command_line_takes_is_no_example():
    _, out, _ = invoke("plugins", "slices")
    assert "--set slices.classes=VALUE" in out


def test_a_prompter_and_a_backend_show_their_kinds_of_prompt():
    assert "Makes prompts of the kinds: box, points\n" in invoke("plugins", "box+points")[1]
    assert "Accepts prompts of the kinds: box\n" in invoke("plugins", "medsam")[1]
    assert "of the kinds" not in invoke("plugins", "vnet")[1]


def test_an_unknown_name_is_one_sentence_and_2():
    code, out, err = invoke("plugins", "vnte")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and "did you mean vnet?" in err
    assert len(err.splitlines()) == 1


def test_check_constructs_what_is_there():
    code, out, _ = invoke("plugins", "mt", "--check")
    assert code == 0
    assert "ok" in out and "not constructed" not in out
    code, out, _ = invoke("plugins", "la", "--check")
    assert code == 0
    assert "ok, not constructed: the path of the dataset la must be a folder" in " ".join(
        out.split()
    )


def test_check_names_what_is_broken(broken: None):
    code, out, _ = invoke("plugins", "--check", "--json", "--kind", "prompter")
    checks = {row["name"]: row["check"] for row in json.loads(out)}
    assert code == 1
    assert "broken-dist 3.1" in checks["red-broken"]
    assert "a_library_that_is_not_there" in checks["red-broken"]
    assert checks["box"] == "ok"
    assert "RuntimeError: no driver" in checks["red-driver"]
    assert checks["red-option"] == "ok, not constructed: it requires the option count"
    assert invoke("plugins", "--kind", "prompter")[0] == 0  # listing loads none


def test_a_broken_plugin_does_not_hide_another_of_its_name(broken: None):
    code, out, _ = invoke("plugins", "unet")
    assert code == 0
    assert "prompter unet" in out and "a_library_that_is_not_there" in out
    assert "network unet" in out and "start" in out


def test_the_list_shows_what_is_refused(broken: None):
    out = invoke("plugins", "--kind", "network")[1]
    rows = [line for line in out.splitlines() if " vnet " in line]
    assert len(rows) == 2
    assert "it shadows a built-in" in rows[1]
    code, out, _ = invoke("plugins", "vnet")
    assert code == 0
    assert "Refused: it shadows a built-in" in out


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (PluginError, 2), (SemisamError, 1)])
def test_errors_on_purpose_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[SemisamError], code: int
):
    fails(monkeypatch, error("x must be y, got z"))
    assert invoke("plugins") == (code, "", "Error: x must be y, got z\n")


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, by: str):
    fails(monkeypatch, InputError("x must be y"))
    if by == "environment":
        monkeypatch.setenv("SEMISAM_DEBUG", "1")
    code, _, err = invoke(*(["--debug"] if by == "flag" else []), "plugins")
    assert code == 2
    assert "Traceback" in err and err.endswith("Error: x must be y\n")


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    fails(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        invoke("plugins")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), MemoryError()]
)
def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception):
    fails(monkeypatch, error)
    code, out, err = invoke("plugins")
    assert (code, out) == (1, "") and "the memory must hold the scans" in err
    assert len(err.splitlines()) == 1 and "Choose --device cpu" in err
    with pytest.raises(type(error)):
        invoke("--debug", "plugins")


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch):
    fails(monkeypatch, KeyboardInterrupt())
    code, _, err = invoke("plugins")
    assert code == 130
    assert err.strip() == "Interrupted."


def test_usage_errors_are_2():
    assert invoke("plugins", "--no-such-option")[0] == 2
    code, _, err = invoke("plugin")
    assert code == 2
    assert "No such command 'plugin' (did you mean plugins?)" in err


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the command raise, as if its work had."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli_plugins, "command", command)
