"""Pictures (PNG, JPEG, BMP and TIFF of one page), read and written by Pillow.

Arrays are indexed (x, y): the first axis runs to the right and the second one down. A picture has
no millimetres, so the side of a pixel is the unit of length.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from semisam.core.errors import InputError, first_line
from semisam.core.files import replace_file

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of pictures. A TIFF of several pages is a volume."""

_TIFF, _JPEG = (".tif", ".tiff"), (".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Pillow's readers. It has others, of which one calls Ghostscript, and chooses by content."""
_GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16 with any byte order
_PALETTE = ("P", "PA")
_BIG_TIFF = 43
_HALF = 128
_FAILURES = (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError)


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its name and, of a TIFF, by its number of pages."""
    name = path.name.lower()
    if not name.endswith(PICTURES):
        return False
    if not name.endswith(_TIFF):
        return True
    try:
        return count_pages(path) == 1
    except (OSError, ValueError):
        return False  # the reader of volumes reports the fault


def count_pages(path: Path) -> int:
    """Return the pages of a TIFF, whose chain must lie inside the file.

    Raises:
        OSError, ValueError: it is no TIFF, or the chain leaves the file.
    """
    try:
        with path.open("rb") as file:
            order = {b"II": "<", b"MM": ">"}[file.read(2)]
            big = struct.unpack(f"{order}H", file.read(2))[0] == _BIG_TIFF
            file.seek(8 if big else 4)
            word, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)

            def number(code: str) -> int:
                (value,) = struct.unpack(order + code, file.read(struct.calcsize(order + code)))
                return int(value)

            seen: set[int] = set()
            while (offset := number(word)) and offset not in seen:
                seen.add(offset)
                file.seek(offset)
                file.seek(number(count) * entry, os.SEEK_CUR)
    except (KeyError, struct.error) as error:
        raise ValueError("it must be a TIFF whose pages lie inside the file") from error
    return len(seen)


def picture_size(path: Path) -> tuple[tuple[int, int], int, int]:
    """Return a picture's pixels (right, down), its channels, and the bytes of a value.

    Raises:
        InputError: the file is unreadable.
    """
    with _opened(path) as image:
        wide = {"I": 4, "F": 4}.get(image.mode, 2 if image.mode.startswith("I;16") else 1)
        return image.size, 1 if _is_grey(image) else 3, wide


def read_picture(path: Path) -> NDArray[np.float32]:
    """Read a grey picture ``(x, y)`` or a coloured one ``(3, x, y)``, without transparency.

    Raises:
        InputError: the file is unreadable.
    """
    with _opened(path) as image:
        if not _is_grey(image):
            values = np.asarray(image.convert("RGB"))
        else:
            plain = image.mode in ("I", "F") or image.mode.startswith("I;16")
            values = np.asarray(image if plain else image.convert("L"))
    return np.ascontiguousarray(values.T, np.float32)


def read_mask(path: Path) -> NDArray[np.float32]:
    """Read the values ``(x, y)`` of a mask; of a palette its indices.

    JPEG changes values, so a JPEG holds 0 and 255 only: each value becomes the nearer one.

    Raises:
        InputError: the file is unreadable, or has colours.
    """
    with _opened(path) as image:
        if path.name.lower().endswith(_JPEG):
            bright = np.asarray(image.convert("L")) >= _HALF
            values: NDArray[Any] = np.where(bright, 255, 0)
        else:
            values = np.asarray(image.convert("L") if image.mode in ("LA", "La") else image)
    if values.ndim == 3:
        colours = values[..., :3]
        if image.mode not in ("RGB", "RGBA", "RGBX") or (colours != colours[..., :1]).any():
            raise InputError(
                f"{path}: a mask must have one value per pixel, got colours. Save it as grey "
                "values or with a palette."
            )
        values = colours[..., 0]
    return np.ascontiguousarray(values.T, np.float32)


def write_mask(path: Path, mask: NDArray[np.integer]) -> None:
    """Write a mask ``(x, y)`` as a grey PNG, atomically.

    Raises:
        InputError: a value does not fit 16 bits, or the file cannot be written.
    """
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(f"values of a PNG must be from 0 to 65535, got {low} to {high}.")
    kind = np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16
    try:
        with replace_file(path) as temporary:
            picture = Image.fromarray(np.ascontiguousarray(mask.T.astype(kind)))
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise InputError(f"the path must be writable, got {path} ({error}).") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)  # as viewers show it
            yield image
    except InputError:
        raise
    except _FAILURES as error:
        reason = first_line(error)
        raise InputError(
            f"the image must be readable, got {path}, which Pillow refuses ({reason}). It may be "
            "truncated or damaged: copy it again, or convert it to PNG."
        ) from error


def _is_grey(image: Image.Image) -> bool:
    """Return whether a picture has one value per pixel, directly or through its palette."""
    if image.mode in _PALETTE:
        colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((colours == colours[:, :1]).all())
    return image.mode in _GREY or image.mode.startswith("I;16")
