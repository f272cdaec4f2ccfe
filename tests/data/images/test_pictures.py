"""Pictures and masks as cameras, scanners and annotation tools write them."""

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from semisam.core.errors import InputError
from semisam.data.images.files import PIXELS, mask_ending, read_image, write_label
from semisam.data.images.headers import read_header
from semisam.data.images.pictures import (
    is_picture,
    picture_size,
    read_mask,
    read_picture,
    write_mask,
)

GREY = np.arange(30, dtype=np.uint8).reshape(6, 5)  # (y, x)
COLOURS = np.stack([GREY, GREY + 100, 255 - GREY], -1)


def save(path, array, **how):
    Image.fromarray(array).save(path, **how)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
@pytest.mark.parametrize("array", [GREY, COLOURS])
def test_grey_and_colour(tmp_path, ending, array):
    path = save(tmp_path / f"a.{ending}", array)
    assert is_picture(path)
    found, geometry = read_image(path)
    assert found.dtype == np.float32 and np.array_equal(found, array.T) and geometry == PIXELS
    header = read_header(path)
    assert header.size == (5, 6) and header.components == (3 if array.ndim == 3 else 1)


def test_deep_values_transparency_and_palettes(tmp_path):
    deep = (1000 * GREY.astype(np.uint16)).astype(np.uint16)
    assert np.array_equal(read_picture(save(tmp_path / "deep.png", deep)), deep.T)
    alpha = np.dstack([COLOURS, np.full_like(GREY, 7)])
    assert np.array_equal(read_picture(save(tmp_path / "alpha.png", alpha)), COLOURS.T)
    palette = Image.fromarray(COLOURS).quantize(8)
    palette.save(tmp_path / "colours.png")
    assert read_picture(tmp_path / "colours.png").shape == (3, 5, 6)
    Image.fromarray(GREY).convert("P").save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").shape == (5, 6)


def test_a_tiff_of_several_pages_is_a_volume(tmp_path):
    pages = [Image.fromarray(GREY + n) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert not is_picture(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].shape == (5, 6, 3)


def test_masks(tmp_path):
    label = (GREY % 3).astype(np.uint8)
    indices = Image.fromarray(label, "L").copy()
    indices.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indices.save(tmp_path / "palette.png")
    assert np.array_equal(read_mask(tmp_path / "palette.png"), label.T)
    bits = Image.fromarray(label == 1)
    bits.save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png"), (label == 1).T)
    white = np.where(label == 1, 255, 0).astype(np.uint8)
    thrice = save(tmp_path / "thrice.png", np.dstack([white] * 3))
    assert np.array_equal(read_mask(thrice), white.T)
    blocks = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((8, 8), np.uint8))
    noisy = np.clip(blocks.astype(int) + np.arange(256).reshape(16, 16) % 40 - 20, 0, 255)
    jpeg = save(tmp_path / "a.jpg", noisy.astype(np.uint8), quality=60)
    assert np.array_equal(read_mask(jpeg), blocks.T)
    with pytest.raises(InputError, match=r"one value per pixel, got colours. Save it as grey"):
        read_mask(save(tmp_path / "colours.png", COLOURS))


def test_a_mask_returns_as_a_png(tmp_path):
    mask = np.where(GREY.T > 9, 255, 0).astype(np.uint8)
    write_label(tmp_path / "a.png", mask, PIXELS)
    assert np.array_equal(read_mask(tmp_path / "a.png"), mask)
    write_mask(tmp_path / "b.png", mask.astype(np.int32) * 10)
    assert np.array_equal(read_mask(tmp_path / "b.png"), mask.astype(np.int32) * 10)
    with pytest.raises(InputError, match="from 0 to 65535, got -1"):
        write_mask(tmp_path / "c.png", mask.astype(np.int32) - 1)
    assert [mask_ending(tmp_path / name) for name in ("a.jpg", "a.mha")] == [".png", ".nii.gz"]


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_a_damaged_picture_is_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"a.{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="which Pillow refuses"):
        read_image(path)


def test_another_format_under_the_name_of_a_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.fromarray(GREY).save(tmp_path / "b.png", format="GIF")
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError, match="cannot identify image file"):
            read_image(tmp_path / name)


def test_a_later_page_of_an_unknown_compression_is_refused(tmp_path):
    pages = [Image.fromarray(GREY + n) for n in range(2)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    raw = bytearray(path.read_bytes())
    compression = raw.rindex(b"\x03\x01\x03\x00\x01\x00\x00\x00")  # tag 259, one SHORT
    raw[compression + 8 : compression + 10] = b"\x49\x2a"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="ends before its last voxel"):
        read_image(path)


def test_a_picture_is_read_as_viewers_show_it(tmp_path):
    """Cameras store a turned picture with a note of its orientation."""
    upright = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored = Image.fromarray(np.rot90(upright))
    stored.save(tmp_path / "turned.png", exif=turned)
    assert picture_size(tmp_path / "turned.png")[0] == (8, 6)
    assert np.array_equal(read_picture(tmp_path / "turned.png"), upright.T)
    assert np.array_equal(read_mask(tmp_path / "turned.png"), upright.T)


DEEP = (100 * COLOURS.astype(np.uint16)).astype(np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_keep_all_of_them(tmp_path, ending, channels):
    pixels = np.dstack([DEEP, np.full_like(DEEP[..., :1], 9)])[..., :channels]
    path = tmp_path / f"a.{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), str(path))
    found, _ = read_image(path)
    assert np.array_equal(found, DEEP.T)
    assert picture_size(path) == ((5, 6), 3, 2)
    assert read_header(path).components == 3
    with pytest.raises(InputError, match="one value per pixel, got colours of 16 bits"):
        read_mask(path)


def test_what_neither_reader_reads_as_it_is_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    planes = np.ascontiguousarray(np.moveaxis(DEEP, -1, 0))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="in planes or turned"):
        read_picture(path)
    tifffile.imwrite(path, COLOURS[..., :2], photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match="one or three values per pixel, got 2"):
        read_picture(path)
    tifffile.imwrite(path, GREY.astype(np.float64), photometric="minisblack")
    with pytest.raises(InputError, match="8 or 16 bits or as 32-bit floats"):
        read_picture(path)


def test_the_sign_and_the_zero_of_a_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    large = GREY.astype(np.uint32) + 3_000_000_000
    tifffile.imwrite(path, large, photometric="minisblack")
    assert np.array_equal(read_picture(path), large.T.astype(np.float32))
    tifffile.imwrite(path, GREY.astype(np.int32) - 20, photometric="minisblack")
    assert np.array_equal(read_picture(path), GREY.T - 20.0)
    tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite")
    assert np.array_equal(read_picture(path), 65535.0 - DEEP[..., 0].T)


def test_an_object_in_the_transparency_of_a_mask_is_refused(tmp_path):
    white, label = np.full_like(GREY, 255), (255 * (GREY > 20)).astype(np.uint8)
    for name, bands in {"la": [white, label], "rgba": [white] * 3 + [label]}.items():
        path = save(tmp_path / f"{name}.png", np.dstack(bands))
        with pytest.raises(InputError, match="a mask must have no transparency"):
            read_mask(path)
        path = save(path, np.dstack([*[label] * (len(bands) - 1), white]))
        assert np.array_equal(read_mask(path), label.T)


def test_the_colours_of_a_palette_in_another_order(tmp_path):
    label = (255 * (GREY > 20)).astype(np.uint8)
    shrunk = Image.fromarray(label).convert("RGB").quantize(2)
    assert shrunk.getpalette()[:3] == [255, 255, 255]  # white comes first
    shrunk.save(tmp_path / "grey.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png"), label.T)
    blank = Image.fromarray(np.sign(label), "L").copy()
    blank.putpalette([0, 0, 0] * 2)
    blank.save(tmp_path / "blank.png")
    assert np.array_equal(read_mask(tmp_path / "blank.png"), np.sign(label).T)
    red = Image.fromarray(np.sign(label), "L").copy()
    red.putpalette([255, 0, 0, 0, 0, 0])
    red.save(tmp_path / "red.png")
    with pytest.raises(InputError, match="first colour of its palette, got black"):
        read_mask(tmp_path / "red.png")


def disc(inner, outer=0):
    """A grey mask of 64x64 with a disc."""
    y, x = np.mgrid[:64, :64]
    return np.where((y - 30) ** 2 + (x - 25) ** 2 < 200, inner, outer).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_mask_in_jpeg_is_black_and_white(tmp_path, quality):
    path = save(tmp_path / "a.jpg", disc(255), quality=quality)
    assert np.array_equal(read_mask(path) > 0, disc(1).T)
    assert not read_mask(save(tmp_path / "none.jpg", disc(0), quality=quality)).any()
    whites = np.dstack([disc(255)] * 3)
    assert np.array_equal(read_mask(save(path, whites, quality=quality)) > 0, disc(1).T)


@pytest.mark.parametrize(
    "mask", [disc(128), disc(1), disc(255, 128), np.dstack([disc(255), disc(0), disc(0)])]
)
def test_other_values_of_a_mask_in_jpeg_are_refused(tmp_path, mask):
    with pytest.raises(InputError, match="a mask in JPEG must be black and white"):
        read_mask(save(tmp_path / "a.jpg", mask))
