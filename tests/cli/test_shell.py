"""``semisam info`` and ``semisam completion``."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import semisam
from semisam.cli.main import main


def _completed(*words):
    shell = ShellComplete(main, {}, "semisam", "_SEMISAM_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("ben",), ["bench"]),
        (("bench", "--method", "fix"), ["fixmatch"]),
        (("bench", "--method", "mt,fix"), ["mt,fixmatch"]),
        (("bench", "--sam", "synthsam,no"), ["synthsam,none"]),
        (("train", "--method", "ua"), ["ua-mt"]),
        (("train", "--network", "vn"), ["vnet"]),
        (("train", "--protocol", "pub"), ["published"]),
        (("train", "--optimizer", "ad"), ["adamw"]),
        (("train", "--prompter", "mask+"), ["mask+points"]),
    ],
)
def test_a_shell_completes_names(words, found):
    assert _completed(*words) == found


@pytest.mark.parametrize(
    "words",
    [
        ("auto", "sca"),
        ("auto", "scans", "-o", "ma"),
        ("predict", "runs/o"),
        ("predict", "run", "sc"),
        ("bench", "--data", "sca"),
        ("bench", "--out", "ru"),
        ("table", "ru"),
        ("click", "s", "--run", "m"),
        ("data", "check", "sca"),
        ("report", "ru"),
    ],
)
def test_a_shell_completes_paths(words):
    shell = ShellComplete(main, {}, "semisam", "_SEMISAM_COMPLETE")
    (item,) = shell.get_completions(list(words[:-1]), words[-1])
    assert item.type in ("file", "dir") and item.value == words[-1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_calls_semisam(shell):
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_SEMISAM_COMPLETE" in result.output and "semisam" in result.output


def test_info_names_versions_devices_and_the_plugins_of_others(install):
    install("theirs", {"semisam.frameworks": {"mine": "theirs:Mine"}}, version="1.2")
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0, result.output
    for text in (
        f"semisam {semisam.__version__}",
        "torch ",
        "cpu: ",
        "framework mine of theirs 1.2",
    ):
        assert text in result.output
