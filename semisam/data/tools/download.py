"""The Left Atrium benchmark from where it is published, every file held to its hash.

Yu et al. (UA-MT, MICCAI 2019) publish the 100 pre-processed scans of the 2018 Atrial Segmentation
Challenge in their repository. `la_manifest.csv` has the SHA-256 and the size of each: a file comes
into being under a name of its own (``.partial``), is hashed as it arrives, and gets its final name
only if it is the published one.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from semisam.core.errors import InputError, SemisamError
from semisam.core.files import replace_file, writable_folder
from semisam.data.datasets.la import FILE_NAME
from semisam.data.tools.fetch import Fetcher, Gone, Stopped

LA_COMMIT = "88ed29ad794f877122e542a7fa9505a76fa83515"
LA_URL = (
    f"https://raw.githubusercontent.com/yulequan/UA-MT/{LA_COMMIT}/data/2018LA_Seg_Training%20Set"
)
LA_CITATION = (
    "The scans are those of the 2018 Atrial Segmentation Challenge, for research; cite Xiong et "
    "al., Medical Image Analysis 67 (2021) 101832. They were pre-processed and published by Yu et "
    "al., MICCAI 2019 (github.com/yulequan/UA-MT)."
)
_LISTS = ("train", "test")
_HOPELESS = 3  # so many files failed and none arrived: the rest would fail as well


@dataclass(frozen=True)
class Entry:
    """One file of a manifest.

    Attributes:
        case: its folder.
        split: ``train`` or ``test``.
        sha256: of its content, in hex.
        size: its bytes.
    """

    case: str
    split: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Report:
    """What a download did.

    Attributes:
        fetched: files downloaded now.
        kept: files that were there and right.
    """

    fetched: int
    kept: int


Progress = Callable[[int, int], None]
"""Called with the files that are right so far and the bytes that are there, of all files."""


def la_manifest() -> tuple[Entry, ...]:
    """Return the 100 published files, each split in the order of its published list."""
    text = (
        resources.files("semisam.data.tools")
        .joinpath("la_manifest.csv")
        .read_text(encoding="utf-8")
    )
    return tuple(
        Entry(row["case"], row["split"], row["sha256"], int(row["bytes"]))
        for row in csv.DictReader(text.splitlines())
    )


def download_la(
    folder: Path,
    entries: Sequence[Entry] | None = None,
    *,
    url: str = LA_URL,
    jobs: int = 4,
    timeout: float = 30.0,
    attempts: int = 5,
    backoff: float = 1.0,
    progress: Progress | None = None,
) -> Report:
    """Download into the layout that the dataset ``la`` reads, or complete what lies there.

    ``train.list`` and ``test.list`` are written last: a folder without them is not complete.
    Called again it goes on where it was stopped, within a file too.

    Args:
        folder: receives ``<case>/mri_norm2.h5`` and the lists.
        entries: the files; ``None``: all that are published.
        url: where ``<case>/mri_norm2.h5`` are, quoted.
        jobs: connections at once.
        timeout: seconds without an answer, or with hardly a byte, until a connection is given up.
        attempts: tries per file before it counts as failed.
        backoff: seconds before the second try, doubled before each further one.
        progress: told how far it is, in this thread.

    Raises:
        InputError: the folder, the address or the free space cannot be used.
        SemisamError: files are missing, saying which and why.
    """
    entries = la_manifest() if entries is None else tuple(entries)
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"--url must begin with http:// or https://, got {url}")
    writable_folder(folder)
    _check_lists(folder, entries)
    fetcher = Fetcher(timeout=timeout, attempts=attempts, backoff=backoff, connections=jobs)
    try:
        with FileLock(folder / ".download.lock", timeout=0):
            _check_space(folder, entries)
            report = _Pool(fetcher, folder, url.rstrip("/"), entries).run(jobs, progress)
            for split in _LISTS:
                with replace_file(folder / f"{split}.list") as temporary:
                    temporary.write_text(_list(entries, split), encoding="utf-8")
    except Timeout:
        raise InputError(
            f"the folder must not be in use, got {folder}, into which another process downloads: "
            "wait for it or name another folder"
        ) from None
    return report


class _Pool:
    """Threads that fetch; all reports are made in the thread that waits for them.

    The threads are daemons, and none is waited for long: at Ctrl-C one may sit in a read until its
    timeout, and whatever it then gets it no longer writes.
    """

    def __init__(
        self, fetcher: Fetcher, folder: Path, url: str, entries: tuple[Entry, ...]
    ) -> None:
        self._fetcher, self._folder, self._url = fetcher, folder, url
        self._entries = entries
        self._todo: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[tuple[Entry, int | bool | BaseException]] = (
            queue.SimpleQueue()
        )
        for entry in entries:
            self._todo.put(entry)

    def run(self, jobs: int, progress: Progress | None) -> Report:
        """Fetch all, and raise one error for all that failed."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(max(1, jobs))]
        there = {entry.case: 0 for entry in self._entries}
        done: dict[str, bool] = {}
        failed: dict[str, BaseException] = {}
        try:
            for worker in workers:
                worker.start()
            while len(done) + len(failed) < len(self._entries):
                entry, news = self._news.get()
                if isinstance(news, bool):
                    done[entry.case] = news
                    there[entry.case] = entry.size
                elif isinstance(news, BaseException):
                    failed[entry.case] = news
                    if _ends_all(news) or (not any(done.values()) and len(failed) >= _HOPELESS):
                        break
                else:
                    there[entry.case] = news
                if progress is not None:
                    progress(len(done), sum(there.values()))
        finally:
            self._fetcher.stop.set()
            for worker in workers:
                if worker.ident is not None:
                    worker.join(timeout=0.5)
        for error in failed.values():
            if not isinstance(error, SemisamError | OSError):
                raise error  # a bug keeps its traceback
        if failed:
            raise _failure(self._folder, failed, len(self._entries) - len(done))
        return Report(fetched=sum(done.values()), kept=len(done) - sum(done.values()))

    def _work(self) -> None:
        while not self._fetcher.stop.is_set():
            try:
                entry = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._news.put((entry, self._fetch(entry)))
            except Stopped:
                return
            except Exception as error:  # told to the waiting thread, which would wait for ever
                self._news.put((entry, error))

    def _fetch(self, entry: Entry) -> bool:
        """Bring one file; return False where it was there already."""
        path = self._folder / entry.case / FILE_NAME
        if _is_right(path, entry):
            path.with_name(f"{FILE_NAME}.partial").unlink(missing_ok=True)
            return False
        path.parent.mkdir(exist_ok=True)
        self._fetcher.fetch(
            f"{self._url}/{quote(entry.case)}/{FILE_NAME}",
            path,
            sha256=entry.sha256,
            size=entry.size,
            on_bytes=lambda count: self._news.put((entry, count)),
        )
        return True


def _is_right(path: Path, entry: Entry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _list(entries: Sequence[Entry], split: str) -> str:
    return "".join(f"{entry.case}\n" for entry in entries if entry.split == split)


def _check_lists(folder: Path, entries: Sequence[Entry]) -> None:
    """Refuse a folder whose lists are somebody's own: they would be lost."""
    for split in _LISTS:
        path = folder / f"{split}.list"
        if (
            path.exists()
            and path.read_text(encoding="utf-8").split() != _list(entries, split).split()
        ):
            raise InputError(
                f"the folder must be empty or a download of before, got {folder} with another "
                f"{path.name}: name another folder, or move that list away"
            )


def _check_space(folder: Path, entries: Sequence[Entry]) -> None:
    needed = sum(e.size for e in entries if not (folder / e.case / FILE_NAME).exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{needed / 1e6:.0f} MB of free space are required, got {free / 1e6:.0f} MB in "
            f"{folder}: make room or name another folder with --out"
        )


def _ends_all(error: BaseException) -> bool:
    """Return whether what stopped this file will stop every other: the disk, not the server."""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError)


def _failure(folder: Path, failed: dict[str, BaseException], missing: int) -> SemisamError:
    disk = next((e for e in failed.values() if _ends_all(e)), None)
    if isinstance(disk, OSError):
        full = disk.errno in (errno.ENOSPC, errno.EDQUOT)
        return InputError(
            f"the scans must be writable in {folder}, got '{disk.strerror or disk}' with "
            f"{missing} files to go: {'make room' if full else 'correct it'} and run the same "
            "command again, which goes on from here"
        )
    case, error = next(iter(failed.items()))
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    way_out = (
        "name a mirror that has them with --url"
        if isinstance(error, Gone)
        else "run the same command again, which goes on from here, or name a mirror with --url"
    )
    return SemisamError(
        f"{missing} of the files are not there: {case}{others} could not be downloaded "
        f"({error}); {way_out}"
    )
