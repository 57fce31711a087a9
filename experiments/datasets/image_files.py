"""Image files to and from arrays of bytes, grey or in colour."""

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from experiments.datasets.dataset import one_line
from experiments.settings.errors import UserError


class ImageError(UserError):
    """An image file that cannot be used. Its text is one line that names the file."""


def read_image(path: pathlib.Path) -> Image.Image:
    """Reads an image file as an upright image of mode L or RGB.

    Transparent pixels become black. Of a file with several images, the first is read.

    Raises:
        ImageError: Pillow cannot read the file, or its pixels have no known range.
    """
    # Pillow raises a dozen unrelated exception types for damaged files.
    try:
        with _silence(), Image.open(path) as opened:
            return _to_grey_or_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image: {one_line(error)}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses Pillow's warnings, and what libtiff writes to the stderr descriptor."""
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        warnings.simplefilter("ignore")
        with contextlib.suppress(OSError):  # stderr may be closed
            stderr = os.dup(2)
            after.callback(os.close, stderr)
            after.callback(os.dup2, stderr, 2)
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
        yield


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no known range")
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(mode)


def to_array(image: Image.Image) -> np.ndarray:
    """Returns the bytes of an image, `[h, w, c]`."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def resize_to(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Resizes an image to `shape` with antialiasing, and makes it grey if that has one channel.

    Args:
        image: of mode L or RGB.
        shape: (height, width, channels); 1 or 3 channels.

    Returns:
        uint8, of `shape`.
    """
    height, width, channels = shape
    image = image.convert("L" if channels == 1 else "RGB")
    return to_array(image.resize((width, height), Image.Resampling.BILINEAR))


def pad_to_square(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """Pads the shorter sides of an image equally, by repeating its edge.

    Args:
        image: of mode L or RGB.

    Returns:
        (image, (rows added above, columns added on the left)).
    """
    side = max(image.size)
    widths = [
        (margin // 2, margin - margin // 2) for margin in (side - image.height, side - image.width)
    ]
    values = np.asarray(image)
    padded = np.pad(values, [*widths, (0, 0)][: values.ndim], mode="edge")
    return Image.fromarray(padded), (widths[0][0], widths[1][0])


def encode_png(values: np.ndarray) -> bytes:
    """Encodes `[h, w, c]`, 0 to 255 and rounded to bytes, as a PNG file. NaN becomes 0."""
    rounded = np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8)
    image = Image.fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()
