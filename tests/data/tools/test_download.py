"""The download against a server on this machine, which may misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.core.errors import InputError, SemisamError
from semisam.data.tools import download
from semisam.data.tools.download import Entry, download_la, la_manifest

SIZE = 300_000
CASES = {f"CASE{i}": np.random.default_rng(i).bytes(SIZE + i) for i in range(4)}
ENTRIES = tuple(
    Entry(case, "test" if case == "CASE3" else "train", hashlib.sha256(data).hexdigest(), len(data))
    for case, data in CASES.items()
)


class Server(ThreadingHTTPServer):
    """Serves the cases; ``faults`` says by case what its next answers do, the last one for good."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/2018LA%20Set"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        prefix, case, name = self.path.strip("/").split("/")
        assert (prefix, name) == ("2018LA%20Set", "mri_norm2.h5")
        self.server.counts[case] += 1
        faults = self.server.faults.get(case, ["none"])
        fault = faults[min(self.server.counts[case], len(faults)) - 1]
        if fault.isdigit() or fault == "elsewhere":
            self.send_response(302 if fault == "elsewhere" else int(fault))
            self.send_header("Location", f"{self.server.url}/{case}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = CASES[case]
        if fault == "wrong byte":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "longer":
            data += b"more"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("cut", "stalled"):
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            if fault == "stalled":
                self.server.release.wait(60)
            return
        self.wfile.write(data)

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client gave up, as it should
            super().handle()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield served
        served.release.set()
        served.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    """Let a retry follow at once; pooch waits some seconds."""
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))


def _get(server, folder, **options):
    return download_la(folder, ENTRIES, url=server.url, **{"timeout": 5.0} | options)


def _nothing_wrong(folder):
    """Whatever has a final name is right, and nothing else is there."""
    for case, data in CASES.items():
        path = folder / case / "mri_norm2.h5"
        assert not path.exists() or path.read_bytes() == data
    assert {path.name for path in folder.glob("*/*")} <= {"mri_norm2.h5"}


def _complete(folder):
    _nothing_wrong(folder)
    assert {path.parent.name for path in folder.glob("*/*")} == set(CASES)
    assert (folder / "train.list").read_text() == "CASE0\nCASE1\nCASE2\n"
    assert (folder / "test.list").read_text() == "CASE3\n"


def test_the_manifest_is_the_published_split():
    entries = la_manifest()
    assert len(entries) == len({e.case for e in entries}) == len({e.sha256 for e in entries}) == 100
    assert sum(e.split == "train" for e in entries) == 80
    assert all(len(e.sha256) == 64 and 1e6 < e.size < 1e7 for e in entries)
    assert entries[0].case == "06SR5RBREL16DQ6M8LWS"  # the order decides which are labeled
    assert next(e.case for e in entries if e.split == "test") == "UPT6DX9IQY9JAZ7HJKA7"


def test_the_manifest_against_the_reference(shared):
    rows = (shared / "data" / "la_full_manifest.csv").read_text().splitlines()[1:]
    ours = {f"{e.case},{e.split},{e.sha256},{e.size}" for e in la_manifest()}
    assert ours == set(rows)
    half = shared / "data" / "la_half"
    for split in ("train", "test"):
        listed = (half / f"{split}.list").read_text().split()
        assert [e.case for e in la_manifest() if e.split == split] == listed


def test_all_of_it_and_again(server, tmp_path, capfd):
    told = []
    fetched = _get(server, tmp_path, progress=lambda files, count: told.append((files, count)))
    assert fetched == 4
    _complete(tmp_path)
    assert told == sorted(told)  # never back
    assert told[-1] == (4, sum(map(len, CASES.values())))
    assert _get(server, tmp_path) == 0
    assert server.counts.total() == 4  # a file that is right is not fetched again
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "faults",
    [
        *(["cut", "none"], ["500", "503", "none"], ["429", "none"], ["wrong byte", "none"]),
        *(["cut", "cut", "cut", "none"], ["longer", "none"], ["elsewhere", "none"]),
    ],
)
def test_faults_that_pass(server, tmp_path, faults):
    server.faults["CASE1"] = faults
    assert _get(server, tmp_path) == 4
    _complete(tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "wrong byte",
            r"got another content .* \(SHA-256\)\. Name another mirror",
        ),
        ("longer", "got another content than the published one"),
        ("cut", r"got a connection that ended early\. Run the same command again"),
        ("404", r"got HTTP status 404 .*\. Name a mirror that has it with --url"),
        ("500", "got HTTP status 500"),
        ("stalled", r"got (no answer for 0\.5 s|no connection)"),
    ],
)
def test_faults_that_stay(server, tmp_path, fault, words):
    server.faults["CASE1"] = [fault]
    with pytest.raises(SemisamError, match=rf"CASE1/mri_norm2\.h5 must be downloadable, {words}"):
        _get(server, tmp_path, retries=1, timeout=0.5)
    _nothing_wrong(tmp_path)
    assert server.counts["CASE1"] == 2
    assert not (tmp_path / "CASE1" / "mri_norm2.h5").exists()
    assert not (tmp_path / "train.list").exists()
    server.faults.clear()
    assert _get(server, tmp_path) == 3
    assert server.counts["CASE0"] == 1
    _complete(tmp_path)


def test_no_network_is_one_sentence(tmp_path):
    with pytest.raises(SemisamError, match=r"CASE0.* got no connection\. Check the network"):
        download_la(tmp_path, ENTRIES, url="http://127.0.0.1:9/x", retries=0)
    _nothing_wrong(tmp_path)


def test_a_full_disk_is_one_sentence(server, tmp_path, monkeypatch):
    """As on a disk without room for the second file."""
    temporary = pooch.core.temporary_file

    @contextlib.contextmanager
    def full(path):
        if Path(path).name == "CASE1":
            yield "/dev/full"
        else:
            with temporary(path) as name:
                yield name

    monkeypatch.setattr(pooch.core, "temporary_file", full)
    with pytest.raises(InputError, match="the disk must have room"):
        _get(server, tmp_path)
    assert server.counts["CASE1"] == 1  # another try would meet the same disk
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert _get(server, tmp_path) == 3
    _complete(tmp_path)


def test_a_damaged_file_is_replaced(server, tmp_path):
    (tmp_path / "CASE0").mkdir()
    (tmp_path / "CASE0" / "mri_norm2.h5").write_bytes(b"damaged")
    assert _get(server, tmp_path) == 4
    _complete(tmp_path)


def test_somebodys_own_lists_are_kept(server, tmp_path):
    (tmp_path / "train.list").write_text("mine\n")
    with pytest.raises(InputError, match=r"another train\.list"):
        _get(server, tmp_path)
    assert (tmp_path / "train.list").read_text() == "mine\n"
    assert not server.counts
    with pytest.raises(InputError, match="--url must begin with http"):
        download_la(tmp_path, ENTRIES, url="ftp://somewhere")


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_download import ENTRIES, download_la
print("begun", flush=True)
try:
    download_la(Path({folder!r}), ENTRIES, url={url!r}, timeout=60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def _half_there(folder):
    return any(path.stat().st_size > 0 for path in folder.glob("*"))


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_ctrl_c_while_the_server_is_silent(server, tmp_path):
    server.faults["CASE1"] = ["stalled"]
    code = INTERRUPTED.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), url=server.url
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        # A shell that starts the tests in the background has the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not _half_there(tmp_path / "CASE1") and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert time.monotonic() - began < 5  # and not the timeout of 60 s
    _nothing_wrong(tmp_path)
    assert not (tmp_path / "train.list").exists()
    server.faults.clear()
    _get(server, tmp_path)
    _complete(tmp_path)


def test_the_command(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "la_manifest", lambda: ENTRIES)
    url = server.url.replace("%20", " ")  # as a person types it
    args = ["data", "download", "la", "-o", str(tmp_path / "la"), "--url", url]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "Medical Image Analysis 67 (2021) 101832" in " ".join(result.output.split())
    assert "Downloaded 4 files; all 4 have their published hash" in " ".join(result.output.split())
    _complete(tmp_path / "la")
    server.faults["CASE1"] = ["404"]
    (tmp_path / "la" / "CASE1" / "mri_norm2.h5").unlink()
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: CASE1/mri_norm2.h5 must be downloadable")
    other = CliRunner().invoke(main, ["data", "donwload"])
    assert other.exit_code == 2 and "download" in other.stderr
