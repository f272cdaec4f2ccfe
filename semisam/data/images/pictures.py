"""Pictures (PNG, JPEG, BMP and TIFF of one page), read and written by Pillow.

SimpleITK reads colours of 16 bits, of which Pillow keeps the upper eight.

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
import SimpleITK
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from scipy import ndimage

from semisam.core.errors import InputError, first_line
from semisam.core.files import replace_file
from semisam.data.images.names import itk_name

sitk: Any = SimpleITK  # its functions carry no types

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of pictures. A TIFF of several pages is a volume."""

_TIFF, _JPEG = (".tif", ".tiff"), (".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Pillow's readers. It has others, of which one calls Ghostscript, and chooses by content."""
_GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16 with any byte order
_PALETTE = ("P", "PA")
_BIG_TIFF = 43
_BITS, _WHITE_IS_ZERO, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
"""Tags of a TIFF: bits of each value, the meaning of zero, values of a pixel, their order, what the
last ones are, and whether they have a sign."""
_ALPHA = (1, 2)
_ORIENTATION = 0x0112
_HALF = 128
_TRACE = 16
"""The largest difference of neighbours in an area that JPEG compressed."""
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
    with _opened(path) as (image, deep):
        wide = {"I": 4, "F": 4}.get(image.mode, 2 if deep or image.mode.startswith("I;16") else 1)
        return image.size, 1 if _is_grey(image) else 3, wide


def read_picture(path: Path) -> NDArray[np.float32]:
    """Read a grey picture ``(x, y)`` or a coloured one ``(3, x, y)``, without transparency.

    Raises:
        InputError: the file is unreadable.
    """
    with _opened(path) as (image, deep):
        grey = _is_grey(image)
        if deep:
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(itk_name(path)))
            values: NDArray[Any] = pixels[..., 0] if grey else pixels[..., :3]
        elif not grey:
            values = np.asarray(image.convert("RGB"))
        else:
            plain = image.mode in ("I", "F") or image.mode.startswith("I;16")
            values = _as_shown(image, np.asarray(image if plain else image.convert("L")))
    return np.ascontiguousarray(values.T, np.float32)


def is_turned(path: Path) -> bool:
    """Return whether viewers and `read_picture` turn or mirror a picture, as its EXIF data say.

    Raises:
        InputError: the file is unreadable.
    """
    with _refused(path), Image.open(path, formats=_FORMATS) as image:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)


def read_mask(path: Path) -> NDArray[np.float32]:
    """Read the values ``(x, y)`` of a mask; of a palette its indices, or greys if these fall.

    JPEG changes values, so a JPEG holds 0 and 255 only: each value becomes the nearer one.

    Raises:
        InputError: the file is unreadable, or has colours, an object in its transparency, or in
            JPEG other areas than black and white ones.
    """
    with _opened(path) as (image, deep):
        if deep:
            raise InputError(
                f"{path}: a mask must have one value per pixel, got colours of 16 bits. Save it as "
                "grey values."
            )
        _check_alpha(path, image)
        if path.name.lower().endswith(_JPEG):
            values: NDArray[Any] = _black_and_white(path, image)
        elif image.mode in _PALETTE:
            values = _of_palette(path, image)
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
def _opened(path: Path) -> Iterator[tuple[Image.Image, bool]]:
    """Open a picture, turned as viewers show it; True if only SimpleITK reads all of its bits."""
    with _refused(path), Image.open(path, formats=_FORMATS) as image:
        deep = _is_deep(path, image)
        ImageOps.exif_transpose(image, in_place=True)
        yield image, deep


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn the errors of Pillow into one sentence."""
    try:
        yield
    except InputError:
        raise
    except _FAILURES as error:
        reason = first_line(error)
        remedy = "It may be truncated or damaged: copy it again, or convert it to PNG."
        whole_tiff = path.name.lower().endswith(_TIFF) and is_picture(path)
        if isinstance(error, UnidentifiedImageError) and whole_tiff:
            remedy = (
                "Save it with one or three values per pixel, of 8 or 16 bits or as 32-bit floats."
            )
        raise InputError(
            f"the image must be readable, got {path}, which Pillow refuses ({reason}). {remedy}"
        ) from error


def _is_deep(path: Path, image: Image.Image) -> bool:
    """Return whether a picture has several values of 16 bits per pixel.

    Raises:
        InputError: neither Pillow nor SimpleITK reads its values as they are.
    """
    in_planes = False
    if isinstance(image, PngImageFile):
        whole = any(str(tile[3]).endswith("16B") for tile in image.tile)
        deep = whole and image.mode in ("RGB", "RGBA", "LA")
    elif isinstance(image, TiffImageFile):
        tags = image.tag_v2
        samples = tags.get(_SAMPLES, 1)
        if samples == 2 and tags.get(_EXTRA, (0,))[-1] not in _ALPHA:
            raise InputError(
                f"{path}: a picture must have one or three values per pixel, got 2. Save it with "
                "three, the last of which is 0."
            )
        deep = max(tags.get(_BITS, (1,))) > 8 and samples > 1
        in_planes = tags.get(_PLANAR, 1) != 1
    else:
        return False
    if deep and (in_planes or image.getexif().get(_ORIENTATION, 1) != 1):
        raise InputError(
            f"{path}: colours of 16 bits must be saved pixel by pixel and upright, got them in "
            "planes or turned. Save it as an upright PNG."
        )
    return deep


def _as_shown(image: Image.Image, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of a grey TIFF with the sign and the meaning of zero that it states."""
    if not isinstance(image, TiffImageFile):
        return values
    if image.mode == "I" and image.tag_v2.get(_FORMAT, (1,))[0] == 1:
        return values.view(np.uint32)
    if image.mode.startswith("I;16") and image.tag_v2.get(_WHITE_IS_ZERO) == 0:
        return np.iinfo(np.uint16).max - values
    return values


def _black_and_white(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """Return 0 or 255, whichever is nearer, for each pixel of a mask in JPEG.

    Raises:
        InputError: areas have colours or greys, which are more than the traces of compression.
    """
    grey = np.asarray(image.convert("L")).astype(int)
    colours = np.asarray(image.convert("RGB")).astype(int)
    spread = colours.max(-1) - colours.min(-1)
    flat = ndimage.maximum_filter(grey, 3) - ndimage.minimum_filter(grey, 3) <= _TRACE
    between = flat & (np.minimum(grey, 255 - grey) > 2 * _TRACE)
    few = max(8, grey.size // 1000)
    if (spread > 4 * _TRACE).sum() > few or between.sum() > few or 0 < grey.max() < _HALF:
        raise InputError(
            f"{path}: a mask in JPEG must be black and white, got other values. Save it as PNG "
            "with the value of each class."
        )
    return np.where(grey >= _HALF, 255, 0).astype(np.uint8)


def _check_alpha(path: Path, image: Image.Image) -> None:
    """Refuse a mask whose object may be in its transparency."""
    if image.mode in ("LA", "La", "RGBA", "PA"):
        low, high = image.getchannel("A" if image.mode != "La" else "a").getextrema()
        if low != high:
            raise InputError(
                f"{path}: a mask must have no transparency, got pixels that differ in it. Save it "
                "as grey values."
            )


def _of_palette(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """Return the values of a mask with a palette.

    These are the indices, which number the classes. A palette of greys that do not rise with the
    index was made for the file's size, and the greys are the values.

    Raises:
        InputError: black is not the first colour, so index 0 may be an object.
    """
    indices = np.asarray(image.getchannel("P") if image.mode == "PA" else image)
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = np.unique(indices)
    colours = palette[used[used < len(palette)]].astype(int)
    if (colours == colours[:, :1]).all():
        falls = (np.diff(colours[:, 0]) < 0).any()
        return palette[indices][..., 0].astype(np.uint8) if falls else indices
    if (colours[1:] == 0).all(1).any():
        raise InputError(
            f"{path}: the background of a mask must be the first colour of its palette, got black "
            "at another place. Save it as grey values."
        )
    return indices


def _is_grey(image: Image.Image) -> bool:
    """Return whether a picture has one value per pixel, directly or through its palette."""
    if image.mode in _PALETTE:
        colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((colours == colours[:, :1]).all())
    return image.mode in _GREY or image.mode.startswith("I;16")
