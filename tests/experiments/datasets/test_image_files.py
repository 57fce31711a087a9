"""Image files become upright arrays of bytes, without output on stderr."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

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


def test_transparent_pixels_are_black_and_photographs_upright(tmp_path: pathlib.Path) -> None:
    image = Image.new("RGBA", (4, 2), (200, 100, 50, 255))
    image.putpixel((3, 0), (200, 100, 50, 0))
    image.save(tmp_path / "a.png")
    values = image_files.to_array(image_files.read_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(values[0], [[200, 100, 50]] * 3 + [[0, 0, 0]])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("L", (4, 2)).save(tmp_path / "b.jpg", exif=exif)
    assert image_files.read_image(tmp_path / "b.jpg").size == (2, 4)


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


def test_padding_repeats_the_edge_on_both_sides() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    padded, margins = image_files.pad_to_square(np.repeat(image, 2, axis=1))
    assert margins == (2, 0)
    np.testing.assert_array_equal(
        padded[..., 0], np.repeat([[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]], 3, axis=0)
    )
