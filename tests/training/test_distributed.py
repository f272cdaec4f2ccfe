"""Two processes train as one does on the same batches: losses, weights, stops and refusals."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import time

import distributed_runs
import pytest
import torch
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.la import LeftAtrium
from semisam.data.loading.sampling import BatchPlan, BatchSource
from semisam.data.loading.store import VolumeStore
from semisam.run.execute import execute
from semisam.run.resolve import make_settings
from semisam.run.settings import departures
from semisam.training.distributed import Group, Share, own_device, own_rows
from semisam.training.synced_norm import sync_batchnorm

LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The report of one launch of two processes, and its folder."""
    from tiny_la import write_tiny_la

    out = tmp_path_factory.mktemp("distributed")
    data = write_tiny_la(out / "la")
    command = [sys.executable, distributed_runs.__file__, str(out), str(data)]
    ends = _together([command, command], out, timeout=500)
    assert [code for code, _ in ends] == [0, 0], "\n".join(text[-4000:] for _, text in ends)
    return json.loads((out / "report.json").read_text()), out


def _together(commands, folder, timeout):
    """Run commands as the ranks of one group; return each one's exit code and output.

    By hand what torchrun does, on the loopback alone: a machine of tests may not know its own name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    logs = [folder / f"rank {rank}.log" for rank in range(len(commands))]
    started = []
    try:
        for rank, command in enumerate(commands):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": LOOPBACK}
            with logs[rank].open("w") as log:
                started.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **group, **mine},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        until = time.monotonic() + timeout
        # One that has failed leaves the others waiting for it.
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started):
            assert time.monotonic() < until, [log.read_text()[-4000:] for log in logs]
            time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in started:
                process.wait(60)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [(p.returncode, log.read_text()) for p, log in zip(started, logs, strict=True)]


@pytest.mark.parametrize("case", distributed_runs.CASES)
def test_two_processes_are_one(launched, case):
    report, _ = launched
    found = report[case]
    assert found["names"], "the same figures are logged in the same steps"
    # DTML's step of steepness 1500 multiplies what rounding differs in by a hundred a step.
    close = 1e-7 if case == "dtml" else 1e-9
    assert found["losses"] < close and found["weights"] < close
    assert found["between ranks"] == 0
    assert found["moved"] > 1e-4


def test_the_branch_was_asked(launched):
    report, _ = launched
    asked = {case: found["asked"] for case, found in report.items() if "semisam" in case}
    assert asked["mt+semisam, paper"] == asked["mt+semisam, default"] == [2, 2]
    assert asked["mt+semisam, default, micro-batches"] == [4, 4]
    # On one row of two a rank had nothing to ask.
    assert all(1 in asked[f"mt+semisam, some{what}"] for what in ("", ", dice", ", gated"))


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
    assert result["settings"]["ranks"] == 2 and result["settings"]["sync_batchnorm"]
    with (out / "run" / "cases.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["test_000", "test_001"]
    assert len((out / "run" / "train.jsonl").read_text().splitlines()) == 2
    assert not (out / "run" / "checkpoint.pt").exists()
    (again, text), (_, other_text) = report["command"]["again"]
    assert again == 0 and "Dice" in text and other_text == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rows", "rows of a batch must divide equally over 2 processes, got 1 labeled"),
        ("norm", "BatchNorm needs more than one value per channel at the lowest resolution, got 1"),
        ("memory", "--allow-accumulation must come with one process, got 2"),
        ("device", "--device must be cuda or cpu with several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_said_once(launched, name, sentence):
    report, _ = launched
    (code, text), (other_code, other_text) = report["command"][name]
    assert code == other_code == 2
    assert sentence in " ".join(text.split()) and "Traceback" not in text
    assert other_text == ""


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
            shares = [own_rows(8, 16, Group(rank, size), parts) for rank in range(size)]
            assert sorted(row for share in shares for row in share) == list(range(24))
            assert all(sum(row < 8 for row in share) == 8 // size for share in shares)
    assert own_rows(4, 4, Group(1, 2), 2) == (1, 3, 5, 7)


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
        own_rows(*rows, Group(0, size), parts)


def test_a_row_keeps_its_number_in_the_whole_batch():
    for parts, size in ((1, 1), (1, 2), (2, 1), (2, 2)):
        for rank in range(size):
            own = own_rows(4, 8, Group(rank, size), parts)
            each = 4 // (size * parts), 8 // (size * parts)
            for part in range(parts):
                share = Share(rank, size, part, parts)
                numbers = [share.row(i, each[0], sum(each)) for i in range(sum(each))]
                labeled = own[part * each[0] : (part + 1) * each[0]]
                first = 4 // size + part * each[1]
                assert numbers == [*labeled, *own[first : first + each[1]]]


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
        rows = own_rows(2, 4, Group(rank, 2))
        part = source(rows).batch(3)
        assert torch.equal(part.image, whole.image[list(rows)])
        assert torch.equal(part.label, whole.label[rank : rank + 1])
        if truth:
            assert torch.equal(part.truth, whole.truth[list(rows)])


def test_settings_of_several_processes_are_another_run():
    given = {"labels": 2, "method": "mt"}
    alone, two = make_settings(given), make_settings({**given, "ranks": 2})
    synced = make_settings({**given, "ranks": 2, "sync_batchnorm": True})
    assert len({each.identity("d") for each in (alone, two, synced)}) == 3
    assert departures(alone) == departures(synced) == ()
    assert departures(two) == ("ranks=2",)


def test_a_run_of_two_processes_is_not_run_by_one(tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"ranks": 2})
    with pytest.raises(InputError, match="start it with torchrun --nproc-per-node 2"):
        execute(settings, tmp_path / "run")


def test_sync_batchnorm_needs_several_processes(tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"sync_batchnorm": True})
    with pytest.raises(InputError, match="--sync-batchnorm must come with several processes"):
        execute(settings, tmp_path / "run")


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda", Group(1, 2)) == "cuda:1"
    assert own_device("cuda:3", Group()) == "cuda:3"
    assert own_device("cpu", Group(1, 2)) == "cpu"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_synchronised_batchnorm_keeps_parameters_and_keys(device):
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 1), torch.nn.BatchNorm3d(3, momentum=0.2))
    before, keys = list(net.parameters()), list(net.state_dict())
    sync_batchnorm(net, torch.device(device))
    kind = "SyncedBatchNorm" if device == "cpu" else "SyncBatchNorm"
    assert type(net[1]).__name__ == kind and net[1].momentum == 0.2
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
    assert list(net.state_dict()) == keys
