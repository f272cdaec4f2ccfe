"""Download the Left Atrium benchmark from where it is published, each file checked by its hash.

Yu et al. (UA-MT, MICCAI 2019) publish the 100 pre-processed scans of the 2018 Atrial Segmentation
Challenge in their repository. `la_manifest.csv` has the SHA-256 and the size of each.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import pooch
from requests.exceptions import ConnectionError, HTTPError, RequestException, Timeout

from semisam.core.errors import InputError, SemisamError
from semisam.core.files import full_disk, is_full, replace_file, writable_folder
from semisam.data.datasets.la import FILE_NAME

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
_CHUNK = 2**16


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


Progress = Callable[[int, int], None]
"""A function called with the number of complete files and the bytes received so far."""


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
    timeout: float = 30.0,
    retries: int = 3,
    progress: Progress | None = None,
) -> int:
    """Download into the layout that the dataset ``la`` reads, and return the files fetched.

    An existing file with the right hash is not fetched again. A file gets its name when its hash is
    right, and ``train.list`` and ``test.list`` are written last.

    Args:
        folder: receives ``<case>/mri_norm2.h5`` and the lists.
        entries: the files; ``None``: all that are published.
        url: the quoted address of the folder with ``<case>/mri_norm2.h5``.
        timeout: seconds without data before a connection is closed.
        retries: further attempts per file.
        progress: called as files arrive.

    Raises:
        InputError: if the folder or the address cannot be used, or the disk is full.
        SemisamError: if a file cannot be downloaded.
    """
    entries = la_manifest() if entries is None else tuple(entries)
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"--url must begin with http:// or https://, got {url}.")
    writable_folder(folder)
    _check_lists(folder, entries)
    pooch.get_logger().setLevel("ERROR")
    store = pooch.create(
        folder,
        f"{url.rstrip('/')}/",
        registry={_name(entry): f"sha256:{entry.sha256}" for entry in entries},
        retry_if_failed=retries,
    )
    bar = _Bar(progress)
    download = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=timeout)
    for entry in entries:
        try:
            store.fetch(_name(entry), downloader=download)
        except (ValueError, OSError) as error:
            raise _failure(error, folder, entry, timeout) from error
        bar.end(entry)
    for split in _LISTS:
        with replace_file(folder / f"{split}.list") as temporary:
            temporary.write_text(_list(entries, split), encoding="utf-8")
    return bar.fetched


class _Bar:
    """A progress bar as pooch drives it, one file after the other."""

    def __init__(self, progress: Progress | None) -> None:
        self.fetched = 0
        self.total = 0
        """Bytes of the current file, set by pooch when they begin to arrive."""
        self._progress = progress
        self._files = 0
        self._before = 0
        self._count = 0

    def update(self, count: int) -> None:
        """Count bytes; pooch counts the last chunk as a whole one."""
        self._count += count
        self._show()

    def reset(self) -> None:
        """Begin the file again; pooch calls this before it counts the whole file."""
        self._count = 0

    def close(self) -> None:
        """Do nothing; a file is complete when its hash is right."""

    def end(self, entry: Entry) -> None:
        """Count a file as complete."""
        self.fetched += self.total > 0
        self._files += 1
        self._before += entry.size
        self.total = self._count = 0
        self._show()

    def _show(self) -> None:
        if self._progress is not None:
            self._progress(self._files, self._before + min(self._count, self.total))


def _name(entry: Entry) -> str:
    return f"{entry.case}/{FILE_NAME}"


def _list(entries: Sequence[Entry], split: str) -> str:
    return "".join(f"{entry.case}\n" for entry in entries if entry.split == split)


def _check_lists(folder: Path, entries: Sequence[Entry]) -> None:
    """Refuse a folder with lists of the user, which would be overwritten."""
    for split in _LISTS:
        path = folder / f"{split}.list"
        wanted = _list(entries, split).split()
        if path.exists() and path.read_text(encoding="utf-8").split() != wanted:
            raise InputError(
                f"The folder must be empty or an earlier download, got {folder} with another "
                f"{path.name}. Name another folder with --out, or move that list away."
            )


def _failure(error: Exception, folder: Path, entry: Entry, timeout: float) -> SemisamError:
    """Return the error message for a file that could not be downloaded."""
    way_out = "Run the same command again, which keeps the files that are right."
    if is_full(error):
        return InputError(full_disk(folder))
    if isinstance(error, HTTPError):
        reason = f"HTTP status {str(error).partition(' for url')[0]}"
        way_out = "Name a mirror that has it with --url, or try again later."
    elif isinstance(error, Timeout):
        reason = f"no answer for {timeout:g} s"
    elif isinstance(error, ConnectionError):
        reason = "no connection"
        way_out = "Check the network, then run the same command again."
    elif isinstance(error, RequestException):
        reason = "a connection that ended early"
    elif isinstance(error, OSError):
        return InputError(
            f"The scans must be writable in {folder}, got {error.strerror or error}. Correct it "
            "or name another folder with --out."
        )
    else:
        reason = "another content than the published one (SHA-256)"
        way_out = "Name another mirror with --url, or try again later."
    return SemisamError(f"{_name(entry)} must be downloadable, got {reason}. {way_out}")
