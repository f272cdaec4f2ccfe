"""One file over HTTP: resumed, retried, hashed as it arrives, and renamed only if it is right."""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from semisam.core.errors import SemisamError

_CHUNK = 2**16
_LEAST_BYTES = 1024  # fewer in a whole timeout: the server is stalled, whatever it trickles
_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
# Tries are counted here, where a second one goes on from the bytes of the first.
_REDIRECTS = urllib3.Retry(
    5, redirect=5, connect=0, read=0, status=0, other=0, respect_retry_after_header=False
)
_LONGEST_WAIT = 60.0  # seconds between tries, whatever the server asks for


class FetchError(SemisamError):
    """A file could not be had; another try may do."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds that the server asked to wait."""


class Gone(FetchError):
    """The server has no such file, or not for us; no other try will do."""


class Stopped(Exception):
    """Somebody set `Fetcher.stop`."""


class Fetcher:
    """Fetches files; may be used by several threads at once.

    Args:
        timeout: seconds without an answer, or with less than 1 KiB, until a connection is given up.
        attempts: tries per file.
        backoff: seconds before the second try, doubled before each further one, +- 25 %.
        connections: kept open at once.

    Attributes:
        stop: set it to end all that is under way, at the latest with the next byte received.
    """

    def __init__(
        self, *, timeout: float, attempts: int, backoff: float, connections: int = 4
    ) -> None:
        self.stop = threading.Event()
        self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
        self._connections = connections
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        sha256: str,
        size: int,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Bring a file, through ``<path>.partial``, from which a later call goes on.

        Args:
            url: of the file.
            path: where it is to lie; its folder exists. A file there is replaced.
            sha256: that it must have, in hex.
            size: bytes that it must have.
            on_bytes: called with the bytes that are there, of this file.

        Raises:
            Gone: the server refuses or lacks it.
            FetchError: the last of all attempts failed.
            OSError: the disk is full or cannot be written to.
            Stopped: `stop` was set.
        """
        partial = path.with_name(f"{path.name}.partial")
        for attempt in range(1, self._attempts + 1):
            try:
                return self._try(url, path, partial, sha256, size, on_bytes or (lambda count: None))
            except Gone:
                raise
            except FetchError as error:
                if attempt == self._attempts:
                    raise
                wait = self._backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                if self.stop.wait(min(max(wait, error.wait), _LONGEST_WAIT)):
                    raise Stopped from None

    def _try(
        self,
        url: str,
        path: Path,
        partial: Path,
        sha256: str,
        size: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        digest, start = _hash_of(partial)
        if start > size:
            partial.unlink()
            digest, start = hashlib.sha256(), 0
        if start < size:
            digest, start = self._append(url, partial, digest, start, size, on_bytes)
        if start < size:
            raise FetchError(f"the connection ended after {start} of {size} bytes")
        if digest.hexdigest() != sha256:
            partial.unlink()
            on_bytes(0)
            raise FetchError("its SHA-256 is not that of the published file")
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if self.stop.is_set():
            raise Stopped
        partial.replace(path)

    def _append(
        self,
        url: str,
        partial: Path,
        digest: hashlib._Hash,
        start: int,
        size: int,
        on_bytes: Callable[[int], None],
    ) -> tuple[hashlib._Hash, int]:
        """Receive what is missing and return the hash and the bytes of all that is there."""
        response = self._open(url, start)
        try:
            if start and not _goes_on_at(response, start):
                digest, start = hashlib.sha256(), 0
            began, received = time.monotonic(), 0
            with partial.open("ab" if start else "wb") as file:
                while chunk := self._read(response):
                    if start + len(chunk) > size:
                        file.truncate(0)
                        raise FetchError(f"more than its {size} bytes came")
                    file.write(chunk)
                    digest.update(chunk)
                    start += len(chunk)
                    received += len(chunk)
                    on_bytes(start)
                    if time.monotonic() - began > self._timeout:
                        if received < _LEAST_BYTES and start < size:
                            raise FetchError(f"{received} bytes came in {self._timeout:g} s")
                        began, received = time.monotonic(), 0
        finally:
            response.close()
        return digest, start

    def _open(self, url: str, start: int) -> urllib3.BaseHTTPResponse:
        # Compressed on its way, neither the hash nor the range would be the file's.
        headers = {"Accept-Encoding": "identity", "User-Agent": "semisam"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = self._pool(url).request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                decode_content=False,
                retries=_REDIRECTS,
                timeout=urllib3.Timeout(self._timeout),
            )
        except HTTPError as error:
            raise FetchError(_reason(error)) from error
        if response.status in (200, 206):
            return response
        response.close()
        if response.status == 416:  # the server's file ends before ours: begin anew
            return self._open(url, 0) if start else _refuse(416)
        if response.status in _RETRIED:
            raise FetchError(f"HTTP status {response.status}", _retry_after(response))
        return _refuse(response.status)

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            chunk: bytes = response.read1(_CHUNK)  # what has come, not waiting for more
        except (HTTPError, OSError) as error:
            if self.stop.is_set():
                raise Stopped from None
            raise FetchError(_reason(error)) from error
        if self.stop.is_set():
            raise Stopped
        return chunk

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the pool for an address, through the proxy that the environment names."""
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        with self._lock:
            if proxy not in self._pools:
                size = self._connections
                self._pools[proxy] = (
                    urllib3.ProxyManager(proxy, maxsize=size)
                    if proxy
                    else urllib3.PoolManager(maxsize=size)
                )
            return self._pools[proxy]


def _hash_of(partial: Path) -> tuple[hashlib._Hash, int]:
    """Return the hash of a file as far as it is there, ready to go on, and its bytes."""
    digest, count = hashlib.sha256(), 0
    if partial.is_file():
        with partial.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
                count += len(chunk)
    return digest, count


def _goes_on_at(response: urllib3.BaseHTTPResponse, start: int) -> bool:
    """Return whether the answer begins at this byte; 200 is the whole file again."""
    if response.status != 206:
        return False
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found.group(1)) != start:
        raise FetchError(f"another part than that from byte {start} on came")
    return True


def _refuse(status: int) -> urllib3.BaseHTTPResponse:
    raise Gone(f"HTTP status {status}")


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error)
    # urllib3 puts the object before its words: <...Connection object at 0x...>: Failed to ...
    words = re.sub(r"^.*?object at 0x[0-9a-f]+>?[^:]*: ", "", text.splitlines()[0] if text else "")
    return words or type(error).__name__
