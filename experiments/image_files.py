"""Image files as bytes of pixels, grey or in colour, and back."""

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from experiments.datasets.dataset import one_line
from experiments.records import write_atomically


class ImageError(Exception):
    """An image file that cannot be used; its text names it."""


def read(path: pathlib.Path) -> Image.Image:
    """An image of mode L or RGB, upright, the first of several; what is transparent is black.

    Raises:
        ImageError: if the file is no image that Pillow reads, or its pixels have no scale.
    """
    # A damaged file makes Pillow's formats raise some dozen unrelated types.
    try:
        with _silence(), Image.open(path) as opened:
            image = _opaque(ImageOps.exif_transpose(opened))
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image: {one_line(error)}") from error
    return image


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps off stderr what Pillow warns of in two lines, and what libtiff prints past Python."""
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        warnings.simplefilter("ignore")
        with contextlib.suppress(OSError):  # stderr may be closed
            stderr = os.dup(2)
            after.callback(os.close, stderr)
            after.callback(os.dup2, stderr, 2)
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
        yield


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no scale")
    kept = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(kept)


def pixels(image: Image.Image) -> np.ndarray:
    """The bytes of an image, `[h, w, c]`."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def resized(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """The bytes of an image resized to `shape`, without aliasing, in grey or in colour as that."""
    height, width, channels = shape
    image = image.convert("L" if channels == 1 else "RGB")
    return pixels(image.resize((width, height), Image.Resampling.BILINEAR))


def write_png(path: pathlib.Path, values: np.ndarray) -> None:
    """Writes `[h, w, c]`, rounded to bytes, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    rounded = np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_atomically(path, data.getvalue())
