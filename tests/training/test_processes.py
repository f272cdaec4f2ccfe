"""Two processes average their gradients, resume after a kill, and write one result."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
import two_processes
from click.testing import CliRunner
from tiny_runs import TINY_NET

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.la import LeftAtrium
from semisam.data.loading.sampling import BatchPlan, BatchSource
from semisam.data.loading.store import VolumeStore
from semisam.run.execute import execute
from semisam.run.resolve import make_settings
from semisam.training.processes import Processes, own_device, own_rows

LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The report of one launch of two processes, and its folder."""
    from tiny_la import write_tiny_la

    out = tmp_path_factory.mktemp("processes")
    data = write_tiny_la(out / "la")
    command = [sys.executable, two_processes.__file__, str(out), str(data)]
    with _ranks(command, out) as started:
        ends = _ends(started, timeout=500)
    assert [code for code, _ in ends] == [0, 0], "\n".join(text[-4000:] for _, text in ends)
    return json.loads((out / "report.json").read_text()), out


@contextlib.contextmanager
def _ranks(command, folder):
    """Start a command as both ranks of one run; yield the processes with their logs.

    By hand what torchrun does, on the loopback only: a machine of tests may not know its own name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = []
    try:
        for rank in range(2):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": LOOPBACK}
            path = folder / f"rank {rank}.log"
            with path.open("w") as log:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **shared, **mine},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            started.append((process, path))
        yield started
    finally:
        for process, _ in started:
            process.kill()
            process.wait()


def _ends(started, timeout):
    """Wait for both ranks, or for one that fails; return each one's exit code and output."""
    until = time.monotonic() + timeout
    processes = [process for process, _ in started]
    # One that has failed leaves the others waiting for it.
    while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
        assert time.monotonic() < until, [path.read_text()[-4000:] for _, path in started]
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        for process in processes:
            process.wait(60)
    return [(process.poll(), path.read_text()) for process, path in started]


def test_gradients_are_the_mean_over_ranks(launched):
    report, _ = launched
    expected = {"a": [2.5, 0.0], "b": [1.5, 2.5], "c": None}
    assert report["averages"] == [expected, expected]


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_train_as_averaging_by_hand_does(launched, case):
    report, _ = launched
    found = report[case]
    # DTML's step of steepness 1500 multiplies what rounding differs in by a hundred a step.
    assert found["by hand"] < (1e-7 if case == "dtml" else 1e-9)
    assert found["between ranks"] == 0
    assert found["moved"] > 1e-4


def test_the_branch_was_queried(launched):
    report, _ = launched
    assert report["mt+semisam, default"]["asked"] == [4, 4, 4]
    # On one row of two a rank had nothing to query.
    assert 1 in report["mt+semisam, some, gated"]["asked"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(launched):
    report, _ = launched
    found = report["interrupted"]
    assert found["stops"] == [2, 2] and found["checkpoint"]
    assert found["weights"] == 0 and found["losses"]


def test_a_run_by_the_command_line_has_one_writer(launched):
    report, out = launched
    (code, text), (other_code, other_text) = report["command"]["run"]
    assert code == other_code == 0, text
    assert "Dice" in text and other_text == ""
    result = json.loads((out / "run" / "result.json").read_text())
    assert result["settings"]["ranks"] == 2
    with (out / "run" / "cases.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["test_000", "test_001"]
    assert len((out / "run" / "train.jsonl").read_text().splitlines()) == 2
    assert not (out / "run" / "checkpoint.pt").exists()
    (again, text), (_, other_text) = report["command"]["again"]
    assert again == 0 and "Dice" in text and other_text == ""


def test_processes_validate_and_keep_the_same_weights(launched):
    report, out = launched
    codes = [code for code, _ in report["command"]["validated"]]
    assert codes == [0, 0], report["command"]["validated"]
    found = json.loads((out / "validated" / "result.json").read_text())["validation"]
    scores = [
        json.loads(line)["validation_dice"]
        for line in (out / "validated" / "train.jsonl").read_text().splitlines()
    ]
    assert len(found["cases"]) == 1 and len(scores) == 2
    assert found["last_dice"] == scores[-1] and found["best_dice"] == max(scores)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rows", "rows of a batch must divide equally over 2 processes, got 1 labeled"),
        (
            "norm",
            "more than one value per channel at the network's lowest resolution, got 1",
        ),
        ("device", "--device must be cuda or cpu with several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_said_once(launched, name, sentence):
    report, _ = launched
    (code, text), (other_code, other_text) = report["command"][name]
    assert code == other_code == 2
    assert sentence in " ".join(text.split()) and "Traceback" not in text
    assert other_text == ""


def test_killed_processes_resume_to_the_same_result(tiny_la, tmp_path):
    tiny = ["--patch", "32x16x16", "--stride", "16x16x16", *TINY_NET]
    tiny += ["--device", "cpu", "--iterations", "30", "--checkpoint-every", "2", "--labels", "2"]
    train = [sys.executable, "-m", "semisam", "train", "--method", "mt", "--data", str(tiny_la)]

    def command(name):
        return [*train, *tiny, "--out", str(tmp_path / name)]

    killed, until = tmp_path / "killed", time.monotonic() + 200
    with _ranks(command("killed"), tmp_path) as started:
        while not (killed / "checkpoint.pt").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        first, second = (process for process, _ in started)
        second.kill()
        first.terminate()  # as torchrun does then
        assert first.wait(200) in (1, 130)
    assert "un the same command again" in (tmp_path / "rank 0.log").read_text()
    assert not (killed / "result.json").exists()
    for name in ("killed", "whole"):
        with _ranks(command(name), tmp_path) as started:
            ends = _ends(started, timeout=200)
        assert [code for code, _ in ends] == [0, 0], ends
    weights = [
        torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("killed", "whole")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
    logs = [two_processes.figures(tmp_path / name) for name in ("killed", "whole")]
    assert logs[0] == logs[1] and len(logs[0]) == 30


def test_a_process_that_lost_another_says_so(launched):
    _, out = launched
    assert "another process of the run has ended" in (out / "lost.txt").read_text()


@pytest.mark.parametrize(
    "command", [["bench", "--method", "mt", "--labels", "2"], ["pretrain", "synthsam"]]
)
def test_only_training_is_for_several_processes(command, monkeypatch, tmp_path):
    group = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert f"semisam {command[0]} must run in one process, got 2" in said
    assert not (tmp_path / "out").exists()


def test_rows_are_divided_without_overlap():
    for parts in (1, 2):
        for size in (1, 2, 4):
            shares = [own_rows(8, 16, Processes(rank, size), parts) for rank in range(size)]
            assert sorted(row for share in shares for row in share) == list(range(24))
            assert all(sum(row < 8 for row in share) == 8 // size for share in shares)
    assert own_rows(4, 4, Processes(1, 2), 2) == (2, 3, 6, 7)


@pytest.mark.parametrize(
    ("rows", "size", "parts", "sentence"),
    [
        ((1, 3), 2, 1, "the labeled rows of a batch must divide equally over 2 processes, got 1"),
        ((2, 3), 2, 1, "the unlabeled rows of a batch must divide equally over 2 processes, got 3"),
        ((2, 2), 2, 2, "over 2 processes and 2 micro-batches, got 2 labeled rows"),
        ((1, 3), 1, 2, "over 2 micro-batches, got 1 labeled rows"),
    ],
)
def test_rows_that_do_not_divide_are_refused(rows, size, parts, sentence):
    with pytest.raises(InputError, match=sentence):
        own_rows(*rows, Processes(0, size), parts)


@pytest.mark.parametrize("truth", [False, True])
def test_a_rank_makes_its_rows_of_the_same_batch(tiny_la, truth):
    dataset = LeftAtrium(tiny_la)
    split = dataset.split()
    store = VolumeStore(
        dataset, labeled=split.train[:2], unlabeled=split.train[2:], test=(), oracle=truth
    )

    def source(rows=None):
        plan, patch = BatchPlan(2, 4), (16, 16, 16)
        cases = store.labeled, store.unlabeled
        return BatchSource(store, *cases, plan, patch, seed=1, truth=truth, rows=rows)

    whole = source().batch(3)
    for rank in range(2):
        rows = own_rows(2, 4, Processes(rank, 2))
        part = source(rows).batch(3)
        assert torch.equal(part.image, whole.image[list(rows)])
        assert torch.equal(part.label, whole.label[rank : rank + 1])
        assert [part.number(row) for row in range(3)] == list(rows)
        if truth:
            assert torch.equal(part.truth, whole.truth[list(rows)])


def test_settings_of_several_processes_are_another_run():
    given = {"labels": 2, "method": "mt"}
    alone, two = make_settings(given), make_settings({**given, "ranks": 2})
    assert alone.identity("d") != two.identity("d")
    assert alone.departures == ()
    assert two.departures == ("ranks=2",)


def test_a_run_of_two_processes_is_not_run_by_one(tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"ranks": 2})
    with pytest.raises(InputError, match="Start it with torchrun --nproc-per-node 2"):
        execute(settings, tmp_path / "run")


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda", Processes(1, 2)) == "cuda:1"
    assert own_device("cuda:3", Processes()) == "cuda:3"
    assert own_device("cpu", Processes(1, 2)) == "cpu"
