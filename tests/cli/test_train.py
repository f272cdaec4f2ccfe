"""``semisam train``, and the help of every command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from scan_files import scan, write
from tiny_runs import TINY_NET

from semisam import __version__
from semisam.cli.main import COMMANDS, main
from semisam.training.trainer import Interrupted

TINY = ("--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "2")


def _train(data, out, *args):
    given = ["--data", str(data), "--method", "mt", "--labels", "2", "--out", str(out)]
    options = [*TINY, *TINY_NET, *args]
    return CliRunner().invoke(main, ["train", *given, *options])


def test_one_run_and_its_scores(tiny_la, tmp_path):
    result = _train(tiny_la, tmp_path / "run")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert f"Dice {100 * metrics['dice']:.2f} %" in result.output
    again = _train(tiny_la, tmp_path / "run")
    assert again.exit_code == 0 and f"Dice {100 * metrics['dice']:.2f} %" in again.output


def test_options_of_plugins_and_branch_arrive(tiny_la, tmp_path):
    result = _train(
        tiny_la,
        tmp_path / "run",
        *("--sam", "geodesic", "--prompter", "box", "--protocol", "published"),
        *("--set", "mt.ema_decay=0.9", "--set", "semisam.weight=0.3", "--set", "box.margin=1"),
        *("--set", "geodesic.radius=7"),
    )
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    settings = kept["settings"]
    assert settings["method_options"]["ema_decay"] == 0.9
    assert settings["method_options"]["ramp_power"] == 2.0
    assert settings["semisam_options"]["weight"] == 0.3
    # The options that nobody gave are recorded, too.
    assert settings["semisam_options"]["target"] == "hard"
    assert settings["prompter_options"]["margin"] == 1
    assert settings["sam_options"]["radius"] == 7.0 and len(settings["sam_options"]) > 1
    assert kept["settings"]["components"] == "largest"


def test_ctrl_c_says_how_to_go_on(tiny_la, tmp_path, monkeypatch):
    def interrupt(settings, folder, progress, group, max_seconds):
        raise Interrupted(1)

    monkeypatch.setattr("semisam.run.execute.execute", interrupt)
    result = _train(tiny_la, tmp_path / "run")
    assert result.exit_code == 130
    assert "Interrupted after 1 of 2 iterations" in result.stderr
    assert "Run the same command again" in result.stderr


def test_out_of_time_is_a_sentence_and_the_same_command_resumes(tiny_la, tmp_path):
    limit = ("--max-time", "0.000001s")
    result = _train(tiny_la, tmp_path / "run", *limit)
    assert result.exit_code == 75
    assert "The time of --max-time is over after 1 of 2 iterations" in result.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    assert _train(tiny_la, tmp_path / "run", *limit).exit_code == 0


def test_a_validation_names_its_cases(tiny_la, tmp_path):
    given = ("--validate-every", "1", "--keep", "best", "--patience", "9")
    result = _train(tiny_la, tmp_path / "run", *given)
    assert result.exit_code == 0, result.output
    held = json.loads((tmp_path / "run" / "split.json").read_text())["validation"]
    assert f"Held out for validation, of the labeled cases: {held[0]}." in result.output
    alone = _train(tiny_la, tmp_path / "other", "--keep", "best")
    assert alone.exit_code == 2
    assert "--validate-every must be given for --keep, got no number" in alone.stderr


def test_a_folder_of_another_run_is_kept(tiny_la, tmp_path):
    assert _train(tiny_la, tmp_path / "run").exit_code == 0
    before = (tmp_path / "run" / "settings.json").read_text()
    result = _train(tiny_la, tmp_path / "run", "--lr", "0.5")
    assert result.exit_code == 2 and "a run with lr 0.0003" in result.stderr
    assert (tmp_path / "run" / "settings.json").read_text() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage:")


def test_python_dash_m_tells_the_version():
    command = [sys.executable, "-m", "semisam", "--version"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip().endswith(__version__)


def test_a_note_is_one_sentence_and_there_once(tmp_path):
    """A warning comes without the line of code that gave it."""
    for n in range(3):
        image, label = scan(n, classes=2)
        write(tmp_path / "scans" / f"p{n}.nii.gz", image)
        write(tmp_path / "scans" / f"p{n}_label.nii.gz", label)
    (tmp_path / "scans" / "classes.list").write_text("organ\nstent\n")
    size = ("--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "1", "--device", "cpu")
    command = ("train", "--data", str(tmp_path / "scans"), "--out", str(tmp_path / "run"))
    given = (*command, *size, "--method", "supervised", "--labels", "1")
    run = subprocess.run(
        [sys.executable, "-m", "semisam", *given], capture_output=True, text=True, check=True
    )
    assert run.stderr.count("Note: No label holds stent, so it will be found nowhere.") == 1
    assert "SemisamWarning" not in run.stderr and ".py:" not in run.stderr
