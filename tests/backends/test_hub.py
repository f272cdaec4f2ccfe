"""The download against a small hub of our own."""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semisam.backends._hub import check_sum, hub_file
from semisam.backends.sam_med3d import REPOSITORY, SamMed3D
from semisam.core.errors import InputError, SemisamWarning

NAME = "weights.pth"
CONTENT = bytes(range(256)) * 300
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Answers as a model hub does for one file, and counts what is asked."""

    def __init__(self):
        self.asked = []
        self.sent = CONTENT
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                self._answer(body=True)

            def _answer(self, body):
                hub.asked.append((self.command, self.path))
                known = self.path.endswith(f"/{NAME}")
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(CONTENT) if known else 0))
                self.send_header("ETag", f'"{hashlib.sha1(CONTENT).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                if not known:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                if body and known:
                    self.wfile.write(hub.sent)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def gets(self):
        return [path for verb, path in self.asked if verb == "GET"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    served = Hub()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    yield served
    served.close()


def test_downloaded_once_with_its_checksum_beside(hub):
    path = hub_file("someone/something", NAME)
    assert path.read_bytes() == CONTENT
    assert hub.gets() == [f"/someone/something/resolve/main/{NAME}"]
    beside = path.with_name(f"{NAME}.sha256")
    assert beside.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"
    asked = len(hub.asked)
    assert hub_file("someone/something", NAME) == path
    assert len(hub.asked) == asked, "a file that is there needs no network"


def test_a_file_that_changed_is_refused(hub):
    path = hub_file("someone/something", NAME)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(InputError, match="SHA-256") as caught:
        hub_file("someone/something", NAME)
    assert f"{NAME}.sha256" in str(caught.value) and "\n" not in str(caught.value)
    path.with_name(f"{NAME}.sha256").write_text("")
    with pytest.raises(InputError, match=r"\(none\)"):
        check_sum(path)


def test_a_download_cut_short_leaves_nothing_behind(hub):
    hub.sent = CONTENT[:1000]
    with pytest.raises(InputError, match="must be downloadable"):
        hub_file("someone/something", NAME)
    hub.sent = CONTENT
    assert hub_file("someone/something", NAME).read_bytes() == CONTENT


def test_a_name_that_is_not_there(hub):
    with pytest.raises(InputError, match=r"other\.pth must be downloadable from someone/something"):
        hub_file("someone/something", "other.pth")


def test_the_backend_names_its_file_and_the_way_out(hub):
    for checkpoint in ("sam_med3d_turbo", "sam-med3d-turbo", "sam_med3d_turbo.pth"):
        with pytest.raises(InputError, match="Give the path"):
            SamMed3D(checkpoint=checkpoint)
    assert {path for _, path in hub.asked} == {f"/{REPOSITORY}/resolve/main/sam_med3d_turbo.pth"}


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'semisam\[hub\]'"):
        SamMed3D()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    path = tmp_path / NAME
    path.write_bytes(CONTENT)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("semisam.backends._hub.replace_file", refuse)
    with pytest.warns(SemisamWarning, match="stays unchecked"):
        check_sum(path)
