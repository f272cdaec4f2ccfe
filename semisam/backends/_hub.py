"""Files of public model repositories, downloaded once, with a checksum beside them."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

from semisam.core.errors import InputError, SemisamWarning
from semisam.core.files import replace_file


def hub_file(repository: str, name: str) -> Path:
    """Return a file of a Hugging Face repository from that library's cache, else download it.

    At the first use its SHA-256 is written beside it (``<name>.sha256``, as ``sha256sum`` writes
    it); later the file must still have it. A file that is in the cache is taken without asking the
    network, so that a later run reads what an earlier one did. ``HF_HOME`` moves the cache,
    ``HF_ENDPOINT`` names a mirror.

    Raises:
        InputError: the library is missing, the download fails, or the file has changed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"to download {name} the library huggingface_hub is required, got {error}: "
            "pip install 'semisam[hub]', or give the path of a file that you have"
        ) from error
    try:
        found = huggingface_hub.hf_hub_download(repository, name, local_files_only=True)
    except LocalEntryNotFoundError:
        try:
            endpoint = os.environ.get("HF_ENDPOINT")
            found = huggingface_hub.hf_hub_download(repository, name, endpoint=endpoint)
        except Exception as error:  # offline, no such file, a full disk: all of them one to us
            raise InputError(
                f"{name} must be downloadable from {repository}, got {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no reason'}; give the path of a "
                "file that you have"
            ) from error
    path = Path(found)
    check_sum(path)
    return path


def check_sum(path: Path) -> None:
    """Hold a file to the SHA-256 beside it; where there is none, write it.

    Raises:
        InputError: the file is not the one whose checksum was written.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    beside = path.with_name(f"{path.name}.sha256")
    if beside.is_file():
        expected = beside.read_text().split()
        if expected[:1] != [digest]:
            raise InputError(
                f"{path} must have the SHA-256 {' '.join(expected[:1]) or '(none)'} of its first "
                f"use, got {digest}: remove both the file and {beside.name} to download it again"
            )
        return
    try:
        with replace_file(beside) as temporary:
            temporary.write_text(f"{digest}  {path.name}\n")
    except OSError as error:  # a cache that is shared and read-only
        message = f"{beside} could not be written ({error.strerror}): {path.name} stays unchecked"
        warnings.warn(message, SemisamWarning, stacklevel=2)
