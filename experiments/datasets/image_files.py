"""Image files to and from arrays of bytes, grey or in colour."""

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from experiments.datasets.dataset import one_line
from experiments.settings.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # the weights of red, green and blue in Pillow's conversion to grey


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


def from_array(values: np.ndarray) -> Image.Image:
    """Returns an image of bytes `[h, w, c]`, of mode L or RGB."""
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def resize_to(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resizes an image to `shape` bilinearly, with antialiasing if it shrinks.

    Args:
        image: `[h, w, c]`, uint8 or float32.
        shape: (height, width, channels). One channel from three is their luma, and three from one
            are equal. Other numbers of channels must be that of the image.

    Returns:
        Of `shape` and the dtype of the image.

    Raises:
        ValueError: if the channels of the image cannot be converted.
    """
    height, width, channels = shape
    if image.shape[-1] != channels and {image.shape[-1], channels} != {1, 3}:
        raise ValueError(f"images must have {channels} channels; got {image.shape[-1]}")
    if image.dtype == np.uint8 and channels in (1, 3):
        converted = from_array(image).convert("L" if channels == 1 else "RGB")
        return to_array(converted.resize((width, height), Image.Resampling.BILINEAR))
    resized = [_resize_channel(each, width, height) for each in _with_channels(image, channels)]
    # Rounding must not leave the range of the image.
    return np.clip(np.stack(resized, axis=-1), image.min(), image.max())


def _resize_channel(values: np.ndarray, width: int, height: int) -> np.ndarray:
    image = Image.fromarray(values)  # of mode L or F
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """The channels of an image, `[channels, h, w]`, after a conversion to grey or colour."""
    if image.shape[-1] == 3 and channels == 1:
        image = image @ np.asarray(LUMA, image.dtype)[:, None]
    return np.moveaxis(np.broadcast_to(image, (*image.shape[:2], channels)), -1, 0)


def pad_to_square(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Pads the shorter sides of an image equally, by repeating its edge.

    Args:
        image: `[h, w, c]`.

    Returns:
        (image, (rows added above, columns added on the left)).
    """
    height, width = image.shape[:2]
    side = max(height, width)
    rows, columns = ((each // 2, each - each // 2) for each in (side - height, side - width))
    return np.pad(image, [rows, columns, (0, 0)], mode="edge"), (rows[0], columns[0])


def encode_png(values: np.ndarray) -> bytes:
    """Encodes bytes `[h, w, c]` as a PNG file."""
    data = io.BytesIO()
    from_array(values).save(data, format="PNG")
    return data.getvalue()
