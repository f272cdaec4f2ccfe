"""One process at a time in a run folder, and no dead one."""

import errno
import os
import subprocess
import sys
import threading
import warnings

import pytest

from semisam.core.errors import InputError, InUse
from semisam.core.files import write_json
from semisam.core.layout import LOCK, PROGRESS
from semisam.run.lock import in_use, locked, wait_for, wait_idle

HOLD = """
import sys
from pathlib import Path
from semisam.run.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_is_held_once(tmp_path, holder):
    assert in_use(tmp_path)
    with pytest.raises(InUse, match="which another process holds"), locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not in_use(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_a_folder_without_a_lock_is_free(tmp_path):
    assert not in_use(tmp_path)
    wait_idle([tmp_path, tmp_path / "none"], 0.0)


def test_who_waits_sees_the_progress_of_the_other(tmp_path, holder):
    write_json(tmp_path / PROGRESS, {"phase": "train", "done": 3, "total": 9})
    seen, stop = [], threading.Event()

    def moved(state):
        seen.append(state)
        holder.terminate()

    wait_for(tmp_path, stop, moved)
    holder.wait()
    assert seen[0] == {"phase": "another process, train", "done": 3, "total": 9}
    assert not in_use(tmp_path)


def test_a_wait_ends_when_it_is_told_to(tmp_path, holder):
    stop = threading.Event()
    stop.set()
    wait_for(tmp_path, stop, lambda state: None)
    assert in_use(tmp_path)


# For want of the last, filelock would take a file instead.
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*about):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"file system with locks, got .*\({os.strerror(number)}\)\. Name a folder on another"
    with warnings.catch_warnings(record=True) as shown:
        with pytest.raises(InputError, match=said), locked(tmp_path):
            pass
        (tmp_path / LOCK).touch()
        assert not in_use(tmp_path)
    assert not shown
