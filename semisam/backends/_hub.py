"""Files of public model repositories, downloaded once and kept with a checksum."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from semisam.core.errors import InputError, SemisamWarning
from semisam.core.files import digest_of_file, replace_file


def hub_file(repository: str, name: str) -> Path:
    """Return a file of a Hugging Face repository from the cache, or download it.

    At the first use its SHA-256 is written to ``<name>.sha256`` in the format of ``sha256sum``;
    later uses compare it. A cached file is used without a network request, so later runs read the
    same file. ``HF_HOME`` moves the cache, ``HF_ENDPOINT`` names a mirror.

    Raises:
        InputError: the library is missing, the download fails, or the file has changed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"huggingface_hub must be installed to download {name}, got {error}. Run pip install "
            "'semisam[hub]', or give the path of a local file."
        ) from error
    try:
        found = huggingface_hub.hf_hub_download(repository, name, local_files_only=True)
    except LocalEntryNotFoundError:
        try:
            endpoint = os.environ.get("HF_ENDPOINT")
            found = huggingface_hub.hf_hub_download(repository, name, endpoint=endpoint)
        except Exception as error:  # offline, no such file, a full disk
            reason = (str(error).splitlines() or ["no reason"])[0].rstrip(".")
            raise InputError(
                f"{name} must be downloadable from {repository}, got {type(error).__name__}: "
                f"{reason}. Give the path of a local file."
            ) from error
    path = Path(found)
    check_sum(path)
    return path


def check_sum(path: Path) -> None:
    """Compare a file with its ``.sha256`` file, or write that file if it does not exist.

    Raises:
        InputError: the checksums differ.
    """
    digest = digest_of_file(path)
    beside = path.with_name(f"{path.name}.sha256")
    if beside.is_file():
        expected = beside.read_text().split()
        if expected[:1] != [digest]:
            raise InputError(
                f"{path} must have the SHA-256 {' '.join(expected[:1]) or '(none)'} of its first "
                f"use, got {digest}. Remove the file and {beside.name} to download it again."
            )
        return
    try:
        with replace_file(beside) as temporary:
            temporary.write_text(f"{digest}  {path.name}\n")
    except OSError as error:  # a shared, read-only cache
        message = f"{beside} could not be written ({error.strerror}): {path.name} stays unchecked."
        warnings.warn(message, SemisamWarning, stacklevel=2)
