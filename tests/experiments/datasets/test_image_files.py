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
