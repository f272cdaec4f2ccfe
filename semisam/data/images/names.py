"""File names for SimpleITK, which ends the process at a name that is not UTF-8."""

from __future__ import annotations

from pathlib import Path

from semisam.core.errors import InputError
from semisam.core.files import printable


def itk_name(path: Path) -> str:
    """Return the path of a file as SimpleITK takes it.

    Raises:
        InputError: the path is not UTF-8.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the file must have a name in UTF-8, got {printable(name)}. Rename it."
        ) from error
    return name
