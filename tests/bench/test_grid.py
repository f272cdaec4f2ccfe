"""The grid from the command line, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from scan_files import write_msd
from tiny_la import write_tiny_la
from tiny_runs import TINY_NET

from semisam.bench.grid import Axes, check, expand
from semisam.bench.sections import method_name
from semisam.bench.study import Grid
from semisam.cli.main import main
from semisam.inference.evaluation import METRICS, summarise

TINY = ["--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "3", *TINY_NET]


def _bench(tmp_path, *args):
    out = tmp_path / "out"
    command = ["bench", "--data", str(tmp_path / "la"), "--out", str(out), *TINY, *args]
    return CliRunner().invoke(main, command), out


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_both_weights_of_the_branch_are_rows_of_one_table(tiny_la, tmp_path):
    args = ("--method", "mt", "--labels", "2", "--sam", "none,geodesic")
    for more in ((), ("--set", "semisam.gated=false")):
        result, out = _bench(tmp_path, *args, *more)
        assert result.exit_code == 0, result.output
    names = [
        method_name(row)
        for row in pd.read_csv(out / "table.csv", keep_default_na=False).to_dict("records")
    ]
    branch = "mt + SemiSAM (geodesic)"
    assert sorted(names) == ["mt", branch, f"{branch} [semisam.gated=False]"]
    gates = {"sam_gate" in path.read_text() for path in out.glob("runs/mt+geodesic*/train.jsonl")}
    assert gates == {True, False}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_several_classes_are_told_apart(tmp_path):
    write_msd(tmp_path / "scans", "msd", channels=1, cases=5)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        main,
        [
            *("bench", "--data", str(tmp_path / "scans"), "--out", str(out), *TINY),
            *("--method", "mt", "--labels", "2", "--sam", "none,geodesic"),
        ],
    )
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "table.csv", keep_default_na=False)
    assert table["sam"].tolist() == ["none", "geodesic"]
    for metric in ("dice", "jaccard", "asd_voxel", "hd95_voxel"):
        parts = table[[f"{metric}:organ", f"{metric}:lesion"]].mean(axis=1)
        assert parts.to_numpy() == pytest.approx(table[metric].to_numpy(), rel=1e-4)
    for path in out.glob("runs/*/cases.csv"):
        scores = pd.read_csv(path)
        assert scores["class"].tolist() == ["organ", "lesion"] * (len(scores) // 2)
        metrics = json.loads(path.with_name("result.json").read_text())["metrics"]
        of_class = scores[scores["class"] == "lesion"]["dice"]
        assert metrics["dice:lesion"] == pytest.approx(of_class.mean())
    # The branch looks at both classes of both unlabeled rows, and passes over what is not proposed.
    log = next(out.glob("runs/mt+geodesic-*/train.jsonl")).read_text().splitlines()
    steps = [json.loads(line) for line in log]
    assert {step["sam_queried"] + step["sam_skipped"] for step in steps} == {2 * 2}
    said = " ".join(result.output.split())
    assert "Dice [%] by class: mt, 2/3: lesion " in said
    markdown = CliRunner().invoke(main, ["table", str(out), "--format", "md"]).output
    assert "Dice organ [%]" in markdown and "Dice lesion [%]" in markdown


def test_the_classes_of_a_case_are_averaged_and_each_is_told():
    values = {("x", "organ"): 0.8, ("x", "lesion"): 0.4, ("y", "organ"): 0.6, ("y", "lesion"): 0.2}
    rows = [
        {"case": case, "class": name, **dict.fromkeys(METRICS, value), "empty_prediction": False}
        for (case, name), value in values.items()
    ]
    found = summarise(rows)
    assert found["dice"] == pytest.approx(0.5)
    assert found["dice_sd_cases"] == pytest.approx(0.02**0.5)
    assert found["dice:organ"] == pytest.approx(0.7)
    assert found["hd95_mm:lesion"] == pytest.approx(0.3)
    assert not [key for key in summarise(rows[::2]) if ":" in key]  # one class is the mean itself


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_controls_are_named_in_the_table(tiny_la, tmp_path):
    args = ("--method", "mt", "--labels", "2", "--sam", "none,geodesic", "--sam-every", "2")
    controls = ("--sam-control", "none,oracle,truth,shuffled")
    result, out = _bench(tmp_path, *args, *controls)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "table.csv", keep_default_na=False)
    assert table[["sam", "sam_control"]].to_numpy().tolist() == [
        ["none", ""],
        ["geodesic", ""],
        ["geodesic", "oracle"],
        ["geodesic", "shuffled"],
        ["geodesic", "truth"],
    ]
    assert "control: oracle" in " ".join(result.output.split())
    calls = dict(zip(table["sam_control"], table["sam_calls"], strict=True))
    assert float(calls["truth"]) == 0 and calls["oracle"] != ""
    for folder in (out / "runs").iterdir():
        assert folder.name.endswith(json.loads((folder / "result.json").read_text())["run"])
    gains = dict(zip(table["sam_control"], table["gain_dice"], strict=True))
    assert all(gains[control] != "" for control in ("oracle", "truth", "shuffled"))
    result, _ = _bench(tmp_path, *args, "--sam-control", "cheat")
    assert result.exit_code != 0
    assert "must be of none, oracle, truth, shuffled, moved, got cheat" in " ".join(
        result.output.split()
    )


def test_the_table_fits_a_terminal_of_80_columns(monkeypatch, capsys):
    from semisam.cli import display

    row = {
        **{"protocol": "paper", "method": "mt", "sam": "none", "labeled": 1},
        "sam_control": "",
        **{"unlabeled": 79, "runs": 3, "dice": 53.14, "dice_sd": 10.25, "jaccard": 39.26},
        **{"jaccard_sd": 11.5, "asd_voxel": 13.67, "asd_voxel_sd": 12.25, "hd95_voxel": 111.74},
        **{"hd95_voxel_sd": 21.11, "empty": 12, "gain_dice": float("nan")},
        **dict.fromkeys(("gain_low", "gain_high", "gain_p", "gain_p_holm"), float("nan")),
        "departures": "",
        "repeats": "",
    }
    wrapped = {**row, "sam": "geodesic", "sam_control": "shuffled", "gain_dice": -12.34}
    wrapped |= {
        "gain_low": -23.4,
        "gain_high": -10.2,
        "gain_p": 0.01,
        "gain_p_holm": 0.02,
        "gain_cases": 20,
        "gain_runs": 3,
    }
    monkeypatch.setattr(display, "console", Console(width=80, highlight=False))
    display.print_table(pd.DataFrame([row, wrapped]))
    output = capsys.readouterr().out
    for text in ("53.14", "± 10.25", "111.74", "± 21.11", "-12.34*", "-23.4..-10.2", "shuffled"):
        assert text in output
    assert "…" not in output and max(map(len, output.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_grid_table_and_no_second_run(tiny_la, tmp_path):
    args = ("--method", "mt", "--labels", "1,2", "--sam", "none,geodesic")
    result, out = _bench(tmp_path, *args)
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(out / "results.csv")
    assert len(rows) == 4
    assert {"metrics.dice_sd_cases", "cost.peak_memory_gib", "versions.torch", "data.hash"} <= set(
        rows.columns
    )
    table = pd.read_csv(out / "table.csv", keep_default_na=False, na_values=[""])
    assert table[["method", "sam", "labeled", "unlabeled"]].to_numpy().tolist() == [
        ["mt", "none", 1, 3],
        ["mt", "geodesic", 1, 3],
        ["mt", "none", 2, 2],
        ["mt", "geodesic", 2, 2],
    ]
    gain = table["dice"][1] - table["dice"][0]
    assert table["gain_dice"][1] == pytest.approx(gain, abs=1e-4)
    assert pd.isna(table["gain_dice"][0])
    assert "Comparison" in result.output

    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    again, _ = _bench(tmp_path, *args)
    assert again.exit_code == 0
    assert again.output.count("finished earlier") == 4
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.slow
def test_one_failed_run_does_not_stop_the_rest(tiny_la, tmp_path):
    result, out = _bench(
        tmp_path,
        *("--method", "mt,supervised", "--labels", "2", "--sam", "none"),
        *("--set", "mt.consistency_weight=1e300"),
    )
    assert result.exit_code == 1
    assert "Failed: mt-n2" in result.output and "the loss must be finite" in result.output
    assert pd.read_csv(out / "results.csv")["method"].tolist() == ["supervised"]


def _to_be_killed(data, out):
    return [
        *(sys.executable, "-m", "semisam", "bench", "--data", str(data), "--out", str(out)),
        *(*TINY, "--iterations", "60", "--checkpoint-every", "5"),
        *("--method", "mt", "--labels", "2", "--sam", "geodesic"),
    ]


def _weights(out):
    (path,) = out.glob("runs/*/model.pt")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    """The scans of a grid, and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_tiny_la(folder / "la")
    subprocess.run(_to_be_killed(data, folder / "out"), check=True, capture_output=True)
    return data, _weights(folder / "out")


@pytest.mark.parametrize("whom", ["worker", "grid"])
@pytest.mark.slow
def test_sigkill_and_started_again_ends_in_the_same_weights(never_killed, tmp_path, whom):
    data, whole = never_killed
    killed = tmp_path / "killed"
    command = _to_be_killed(data, killed)
    grid = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 90
    while not list(killed.glob("runs/*/checkpoint.pt")):
        assert time.monotonic() < deadline and grid.poll() is None, "no checkpoint was written"
        time.sleep(0.01)
    if whom == "worker":
        child = int(_children(grid.pid)[0])
        os.kill(child, signal.SIGKILL)
        output, _ = grid.communicate(timeout=60)
        assert grid.returncode == 1 and b"killed by signal 9" in output
    else:
        workers = [psutil.Process(pid) for pid in _children(grid.pid)]
        grid.kill()
        grid.wait()
        # The orphan notices that the grid is gone, saves and ends.
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
    assert not list(killed.glob("runs/*/result.json"))
    subprocess.run(command, check=True, capture_output=True)
    found = _weights(killed)
    assert all(torch.equal(whole[k], found[k]) for k in whole)


def test_ctrl_c_says_how_to_go_on(tiny_la, tmp_path):
    out = tmp_path / "out"
    grid = subprocess.Popen(
        [
            *(sys.executable, "-m", "semisam", "bench", "--data", str(tiny_la), "--out", str(out)),
            *(*TINY, "--iterations", "100000", "--checkpoint-every", "5"),
            *("--method", "mt", "--labels", "1,2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
        # A shell that starts the tests in the background has the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not list(out.glob("runs/*/checkpoint.pt")):
        assert time.monotonic() < deadline and grid.poll() is None
        time.sleep(0.05)
    os.killpg(grid.pid, signal.SIGINT)  # as a terminal does: the whole group
    try:
        output, _ = grid.communicate(timeout=60)
    finally:
        if grid.poll() is None:  # a failed test leaves nothing at work behind
            os.killpg(grid.pid, signal.SIGKILL)
    assert grid.returncode == 130
    assert "Run the same command again to resume" in output
    assert "Traceback" not in output
    (checkpoint,) = out.glob("runs/*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] >= 5


def _children(pid):
    return [child.pid for child in psutil.Process(pid).children()]


def test_a_bench_out_of_time_stops_its_runs_and_says_how_to_go_on(tiny_la, tmp_path):
    given = ["--data", str(tiny_la), "--method", "mt", "--labels", "1,2", "--sam", "none"]
    steps = ["--patch", "16x16x16", "--iterations", "10000000", "--max-time", "2s"]
    out = ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["bench", *given, *steps, *TINY_NET, *out])
    assert result.exit_code == 75, result.output
    assert "The time of --max-time is over; 2 of 2 runs are not finished" in result.stderr
    assert "Run the same command again to resume" in result.stderr


def test_a_validation_needs_a_labeled_case_more(tiny_la, tmp_path):
    given = ["--data", str(tiny_la), "--method", "mt", "--labels", "1,2", "--sam", "none"]
    given += ["--patch", "16x16x16", "--validate-every", "5", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["bench", *given, *TINY_NET])
    assert result.exit_code == 2
    assert "--validate-cases must leave labeled cases to train, got 1 of 1" in result.stderr


@pytest.mark.usefixtures("in_process")
def test_a_validated_run_has_the_identity_of_its_folder(tiny_la, tmp_path):
    given = ["--data", str(tiny_la), "--method", "mt", "--labels", "2,3", "--sam", "none"]
    given += ["--patch", "16x16x16", "--stride", "16x16x16", "--iterations", "2"]
    given += ["--validate-every", "1", "--keep", "best", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["bench", *given, *TINY_NET])
    assert result.exit_code == 0, result.output
    folders = sorted((tmp_path / "out" / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert folder.name.endswith(json.loads((folder / "result.json").read_text())["run"])


def test_a_bare_run_is_the_same_whatever_the_branch(tiny_la):
    common = {"data": str(tiny_la), "patch": (16, 16, 16)}
    axes = Axes(["mt"], ["none", "geodesic"], [1])
    one = expand(axes, Grid(axes, {**common, "prompter": "box"}, {}).asked)
    other = expand(axes, Grid(axes, common, {}).asked)
    assert one[0] == other[0] and one[1] != other[1]


@pytest.mark.usefixtures("in_process")
def test_runs_are_named_alike_wherever_the_data_lie(tiny_la, tmp_path):
    axes = Axes(["mt", "ua-mt"], ["none"], [1, 2], subsets=[0, 1])

    def named(data):
        settings = {"data": str(data), "patch": (16, 16, 16), "network": "vnet"}
        return check(expand(axes, Grid(axes, settings, {"vnet": {"filters": 2}}).asked))

    here = named(tiny_la)
    there = named(tiny_la.rename(tmp_path / "moved"))
    assert [run.name for run in here] == [run.name for run in there]
    assert len({run.name for run in here}) == 8
