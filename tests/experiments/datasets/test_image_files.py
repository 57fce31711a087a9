"""Image files become upright arrays of bytes, without output on stderr."""

import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from experiments.datasets import image_files
from experiments.datasets.image_files import ImageError


def test_libtiff_output_is_suppressed(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gradient = np.uint8(np.mgrid[:40, :40].sum(axis=0))
    Image.fromarray(gradient).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read as an image: "):
        image_files.read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_pillow_warnings_are_suppressed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert image_files.read_image(tmp_path / "a.png").size == (9, 9)
    assert not recwarn


def test_transparent_pixels_are_black(tmp_path: pathlib.Path) -> None:
    image = Image.new("RGBA", (4, 2), (200, 100, 50, 255))
    image.putpixel((3, 0), (200, 100, 50, 0))
    image.save(tmp_path / "a.png")
    values = image_files.to_array(image_files.read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(values[0], [[200, 100, 50]] * 3 + [[0, 0, 0]])


def test_16_bit_pixels_are_scaled_and_32_bit_pixels_rejected(tmp_path: pathlib.Path) -> None:
    Image.fromarray(np.uint16([[0, 257 * 100, 65535]])).save(tmp_path / "a.png")
    values = image_files.to_array(image_files.read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(values[..., 0], [[0, 100, 255]])
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif: cannot be read as an image: pixels of 32 bits"):
        image_files.read_image(tmp_path / "b.tif")


@pytest.mark.parametrize(("channels", "wanted"), [(1, 1), (3, 3), (3, 1), (1, 3), (2, 2)])
def test_floats_are_resized_like_bytes(channels: int, wanted: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (21, 34, channels), dtype=np.uint8)
    small = image_files.resize_to(image, (9, 12, wanted))
    assert (small.shape, small.dtype) == ((9, 12, wanted), np.uint8)
    floats = image_files.resize_to(np.float32(image / 255), (9, 12, wanted))
    assert (floats.shape, floats.dtype) == ((9, 12, wanted), np.float32)
    # Bytes are rounded after each axis and after the conversion to grey.
    np.testing.assert_allclose(255 * floats, small, atol=2)


def test_resized_floats_stay_in_their_range() -> None:
    rng = np.random.default_rng(0)
    for value in np.float32(rng.uniform(0, 1, 20)):
        image = np.full((13, 17, 3), value)
        for channels in (1, 3):
            np.testing.assert_array_equal(image_files.resize_to(image, (9, 9, channels)), value)


def test_channels_that_cannot_be_converted_raise() -> None:
    with pytest.raises(ValueError, match="images must have 3 channels; got 2"):
        image_files.resize_to(np.zeros((9, 9, 2), np.uint8), (9, 9, 3))


# --- Orientation and metadata ---------------------------------------------------------------------

CORNER = np.zeros((8, 16), np.uint8)
CORNER[:4, :8] = 255  # the upper left quarter is bright
# How the pixels of an upright image are stored with each EXIF orientation.
STORED = {
    1: CORNER,
    2: CORNER[:, ::-1],
    3: CORNER[::-1, ::-1],
    4: CORNER[::-1],
    5: CORNER.T,
    6: np.rot90(CORNER),
    7: CORNER.T[::-1, ::-1],
    8: np.rot90(CORNER, -1),
}
FORMATS: list[tuple[str, dict[str, Any]]] = [
    *[("jpg", {}), ("png", {}), ("webp", {"lossless": True}), ("tif", {})],
    *[("tif", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")],
]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("suffix", "options"), FORMATS)
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_upright(
    orientation: int, suffix: str, options: dict[str, Any], mode: str, tmp_path: pathlib.Path
) -> None:
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(STORED[orientation]).convert(mode).save(path, exif=exif, **options)
    found = image_files.to_array(image_files.read_image(path))
    np.testing.assert_array_equal(found[..., 0] > 127, CORNER > 127)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_counts_as_upright(orientation: int, tmp_path: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(CORNER).save(tmp_path / "a.png", exif=exif)
    found = image_files.to_array(image_files.read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(found[..., 0], CORNER)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk of a PNG file, and the start and end of its contents."""
    position = 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        yield data[position + 4 : position + 8], position + 8, position + 8 + length
        position += 12 + length


def test_damaged_png_files_are_read_if_their_pixels_are_intact(tmp_path: pathlib.Path) -> None:
    path, info, exif = tmp_path / "a.png", PngImagePlugin.PngInfo(), Image.Exif()
    info.add_text("Comment", "text")
    info.add_text("Comment", "compressed", zip=True)
    info.add_itxt("Title", "international")
    info.add(b"prVt", b"after the pixels", after_idat=True)
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(CORNER[::-1, ::-1]).save(path, pnginfo=info, exif=exif, dpi=(72, 72))
    whole = path.read_bytes()
    for name, start, end in png_chunks(whole):
        for position in range(start, end + 4):  # with the checksum
            damaged = bytearray(whole)
            damaged[position] ^= 255
            path.write_bytes(damaged)
            if name.isupper():  # the pixels, and what is needed to decode them
                with pytest.raises(ImageError, match=rf"its part {name.decode()} is damaged"):
                    image_files.read_image(path)
                continue
            found = image_files.to_array(image_files.read_image(path))[..., 0]
            expected = CORNER[::-1, ::-1] if name == b"eXIf" else CORNER
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tail", [b"\0" * 9, b"TRAILER", b"\0\0\0\x04IDATabcdefgh"])
def test_data_after_the_end_of_png_files_are_ignored(tail: bytes, tmp_path: pathlib.Path) -> None:
    Image.fromarray(CORNER).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("ab") as file:
        file.write(tail)
    found = image_files.to_array(image_files.read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(found[..., 0], CORNER)


# --- Padding --------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_padding_keeps_the_image_and_gives_the_proportions(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    padded, (top, left) = image_files.pad_to_aspect(image, shape)
    height, width = padded.shape[:2]
    np.testing.assert_array_equal(padded[top : top + size[0], left : left + size[1]], image)
    assert height == size[0] or width == size[1]  # only one pair of sides is padded
    assert abs(height - width * shape[0] / shape[1]) <= max(0.5, 0.5 * shape[0] / shape[1])
    for margin, total, own in ((top, height, size[0]), (left, width, size[1])):
        assert margin == (total - own) // 2
    np.testing.assert_array_equal(padded[0, left], image[0, 0])
    np.testing.assert_array_equal(padded[-1, width - 1 - (width - size[1] - left)], image[-1, -1])


def test_padding_beyond_any_memory_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"an image of 1 x 100000 pixels, padded to .* 64 x 64"):
        image_files.pad_to_aspect(np.zeros((1, 100_000, 1), np.uint8), (64, 64))


# --- Many files -----------------------------------------------------------------------------------


def test_many_files_are_read_in_order(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        Image.new("L", (1 + i, 1)).save(path)
    paths[7].write_text("not an image")
    found = list(image_files.read_images(paths, lambda image: image.width))
    assert isinstance(found.pop(7), ImageError)
    assert found == [1 + i for i in range(40) if i != 7]


def test_reading_ends_at_once_when_it_is_interrupted(tmp_path: pathlib.Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    read: list[int] = []
    results = image_files.read_images([tmp_path / "a.png"] * 2000, lambda _: read.append(1))
    next(results)
    results.close()
    assert len(read) < 2000


def test_libtiff_is_silent_in_threads(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gradient = np.uint8(np.mgrid[:40, :40].sum(axis=0))
    Image.fromarray(gradient).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.tif").write_bytes(data)
    found = list(image_files.read_images([tmp_path / "a.tif"] * 50, lambda image: image))
    assert all(isinstance(each, ImageError) for each in found)
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"
