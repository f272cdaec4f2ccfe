"""The download against a server on this machine that misbehaves in every way we know of."""

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

import numpy as np
import pytest
from click.testing import CliRunner

from semisam.cli.main import main
from semisam.core.errors import InputError, SemisamError
from semisam.data.tools import download
from semisam.data.tools.download import Entry, Report, download_la, la_manifest

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
        self.asked: list[tuple[str, str | None]] = []
        self.counts: Counter[str] = Counter()
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/2018LA Set".replace(" ", "%20")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        prefix, case, name = self.path.strip("/").split("/")
        assert (prefix, name) == ("2018LA%20Set", "mri_norm2.h5")
        self.server.counts[case] += 1
        self.server.asked.append((case, self.headers["Range"]))
        faults = self.server.faults.get(case, ["none"])
        fault = faults[min(self.server.counts[case], len(faults)) - 1]
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"oops")
            return
        if fault == "elsewhere":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/{case}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(case, fault)

    def _send(self, case, fault):
        data = CASES[case]
        asked = self.headers["Range"]
        start = 0
        if asked and fault != "no ranges":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            shown = start + 7 if fault == "another range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        part = data[start:]
        if fault == "wrong byte":
            part = bytes([part[0] ^ 1]) + part[1:]
        if fault == "longer":
            part += b"more"
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        if fault in ("stalled", "trickle"):
            self.wfile.write(part[: len(part) // 2])
            for i in range(len(part) // 2, len(part)):
                if self.server.release.wait(0.02 if fault == "trickle" else 60):
                    self.close_connection = True
                    return
                self.wfile.write(part[i : i + 1])
        self.wfile.write(part)

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


def _get(server, folder, **options):
    quick = {"timeout": 5.0, "attempts": 3, "backoff": 0.01, "jobs": 2} | options
    return download_la(folder, ENTRIES, url=server.url, **quick)


def _nothing_wrong(folder):
    """Whatever has a final name is right."""
    for case, data in CASES.items():
        path = folder / case / "mri_norm2.h5"
        assert not path.exists() or path.read_bytes() == data


def _complete(folder):
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()} == {
        *(f"{case}/mri_norm2.h5" for case in CASES),
        *("train.list", "test.list", ".download.lock"),
    }
    _nothing_wrong(folder)
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


def test_all_of_it_and_again(server, tmp_path):
    told = []
    report = _get(
        server, tmp_path / "la", progress=lambda files, count: told.append((files, count))
    )
    assert report == Report(fetched=4, kept=0)
    _complete(tmp_path / "la")
    assert told[-1] == (4, sum(map(len, CASES.values())))
    assert _get(server, tmp_path / "la") == Report(fetched=0, kept=4)
    assert server.counts.total() == 4  # what is right is not asked for again


@pytest.mark.parametrize(
    "faults",
    [
        *(["cut", "none"], ["500", "503", "none"], ["429", "none"], ["wrong byte", "none"]),
        *(["cut", "cut", "none"], ["cut", "no ranges"], ["cut", "another range", "none"]),
        *(["longer", "none"], ["elsewhere", "none"], ["cut", "416", "none"]),
    ],
)
def test_faults_that_pass(server, tmp_path, faults):
    server.faults["CASE1"] = faults
    assert _get(server, tmp_path / "la") == Report(fetched=4, kept=0)
    _complete(tmp_path / "la")


def test_a_cut_connection_goes_on_where_it_was(server, tmp_path):
    server.faults["CASE1"] = ["cut"]
    with pytest.raises(SemisamError, match=r"1 of the files .* CASE1 .*; run the same command"):
        _get(server, tmp_path, attempts=1)
    _nothing_wrong(tmp_path)
    assert not (tmp_path / "train.list").exists()
    half = (SIZE + 1) // 2
    assert (tmp_path / "CASE1" / "mri_norm2.h5.partial").stat().st_size == half
    server.faults.clear()
    assert _get(server, tmp_path) == Report(fetched=1, kept=3)
    assert server.asked[-1] == ("CASE1", f"bytes={half}-")
    _complete(tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong byte", "SHA-256 is not that of the published file"),
        ("longer", "more than its 300001 bytes came"),
        ("404", "HTTP status 404.*name a mirror"),
        ("500", "HTTP status 500"),
    ],
)
def test_faults_that_stay(server, tmp_path, fault, words):
    server.faults["CASE1"] = [fault]
    with pytest.raises(SemisamError, match=words):
        _get(server, tmp_path)
    _nothing_wrong(tmp_path)
    assert not (tmp_path / "CASE1" / "mri_norm2.h5").exists()
    assert server.counts["CASE1"] == (1 if fault == "404" else 3)
    server.faults.clear()
    assert _get(server, tmp_path) == Report(fetched=1, kept=3)
    _complete(tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"), [("stalled", "timed out"), ("trickle", "bytes came in 0.3 s")]
)
def test_a_server_that_stalls(server, tmp_path, fault, words):
    server.faults["CASE1"] = [fault]
    began = time.monotonic()
    with pytest.raises(SemisamError, match=words):
        _get(server, tmp_path, timeout=0.3, attempts=2)
    assert time.monotonic() - began < 5
    _nothing_wrong(tmp_path)
    server.faults.clear()
    _get(server, tmp_path)
    _complete(tmp_path)


def test_no_server_at_all_ends_soon(server, tmp_path):
    many = [Entry(f"X{i}", "train", "0", 1) for i in range(50)]
    server.faults = {entry.case: ["404"] for entry in many}
    with pytest.raises(SemisamError, match=r"50 of the files are not there: X0 and 2 more"):
        download_la(tmp_path, many, url=server.url, jobs=1)
    assert server.counts.total() < 25  # three failed and none arrived: the rest is spared
    with pytest.raises(SemisamError, match=r"[Rr]efused"):
        download_la(tmp_path, ENTRIES, url="http://127.0.0.1:9/x", attempts=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is Linux's")
def test_a_full_disk(server, tmp_path):
    (tmp_path / "CASE1").mkdir()
    (tmp_path / "CASE1" / "mri_norm2.h5.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        _get(server, tmp_path)
    _nothing_wrong(tmp_path)
    assert server.counts["CASE1"] == 1  # no other try: it would meet the same disk
    (tmp_path / "CASE1" / "mri_norm2.h5.partial").unlink()
    _get(server, tmp_path)
    _complete(tmp_path)


def test_too_little_space_is_told_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: os.statvfs_result)
    monkeypatch.setattr(os.statvfs_result, "free", 1_000_000, raising=False)
    with pytest.raises(InputError, match="1 MB of free space are required, got 1 MB"):
        _get(server, tmp_path)
    assert not server.asked


def test_what_lies_there(server, tmp_path):
    """A damaged file is replaced; a partial one that is wrong costs one more try, no more."""
    for case in ("CASE0", "CASE1", "CASE2"):
        (tmp_path / case).mkdir()
    (tmp_path / "CASE0" / "mri_norm2.h5").write_bytes(b"damaged")
    (tmp_path / "CASE1" / "mri_norm2.h5.partial").write_bytes(b"x" * 1000)
    (tmp_path / "CASE2" / "mri_norm2.h5.partial").write_bytes(b"x" * 2 * SIZE)
    assert _get(server, tmp_path) == Report(fetched=4, kept=0)
    _complete(tmp_path)


def test_somebodys_own_lists_are_kept(server, tmp_path):
    (tmp_path / "train.list").write_text("mine\n")
    with pytest.raises(InputError, match=r"another train\.list"):
        _get(server, tmp_path)
    assert (tmp_path / "train.list").read_text() == "mine\n"
    assert not server.asked
    with pytest.raises(InputError, match="--url must begin with http"):
        download_la(tmp_path, ENTRIES, url="ftp://somewhere")


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_download import ENTRIES, download_la
print("begun", flush=True)
try:
    download_la(Path({folder!r}), ENTRIES, url={url!r}, jobs=2, timeout=60)
except KeyboardInterrupt:
    sys.exit(130)
"""


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
    partial = tmp_path / "CASE1" / "mri_norm2.h5.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size > 0) and time.monotonic() < deadline:
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
    args = ["data", "download", "la", "-o", str(tmp_path / "la"), "--url", url, "--jobs", "3"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "Medical Image Analysis 67 (2021) 101832" in " ".join(result.output.split())
    assert "4 files downloaded, 0 were there" in " ".join(result.output.split())
    _complete(tmp_path / "la")
    server.faults["CASE1"] = ["404"]
    (tmp_path / "la" / "CASE1" / "mri_norm2.h5").unlink()
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: 1 of the files are not there: CASE1")
    other = CliRunner().invoke(main, ["data", "donwload"])
    assert other.exit_code == 2 and "download" in other.stderr
