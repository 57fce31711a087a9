"""Image files to and from arrays of bytes, grey or in colour."""

import concurrent.futures
import contextlib
import functools
import io
import os
import pathlib
import threading
import types
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from experiments.datasets.dataset import one_line
from experiments.settings.errors import UserError
from experiments.settings.machine import num_cores

LUMA = (0.299, 0.587, 0.114)  # the weights of red, green and blue in Pillow's conversion to grey
MAX_PADDED_PIXELS = 2**28
CANNOT_BE_READ = "cannot be read as an image: "

# How to turn an image upright, by the value of its EXIF orientation. 1 is upright.
_UPRIGHT: Mapping[int, Image.Transpose] = types.MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_MAX_THREADS = 8
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Result = TypeVar("Result")


class ImageError(UserError):
    """An image file that cannot be used. Its text is one line that names the file."""


def read_image(path: pathlib.Path) -> Image.Image:
    """Reads an image file as an upright image of mode L or RGB.

    Transparent pixels become black. Pixels of 16 bits are divided by 256. Of a file with several
    images, the first is read. Without readable metadata, the image counts as upright.

    Raises:
        ImageError: Pillow cannot read the file, or its pixels have no known range.
    """
    with _without_warnings():
        return _read_image(path)


def read_images(
    paths: Sequence[pathlib.Path], use: Callable[[Image.Image], Result]
) -> Generator[Result | ImageError, None, None]:
    """Reads image files in several threads.

    Args:
        paths: the files.
        use: a function of an image as of `read_image`, such as one that resizes it. It may raise
            `ImageError`.

    Yields:
        For each file, in order, what `use` returns, or the error.
    """

    def read(path: pathlib.Path) -> Result | ImageError:
        try:
            return use(_read_image(path))
        except ImageError as error:
            return error
        except MemoryError as error:
            failure = ImageError(f"{path}: {CANNOT_BE_READ}there is not enough memory")
            failure.__cause__ = error
            return failure

    threads = min(_MAX_THREADS, num_cores())
    pool = concurrent.futures.ThreadPoolExecutor(threads, "decoding")
    try:
        with _without_warnings():
            yield from pool.map(read, paths)
    finally:  # a signal must not wait for the files that are left
        pool.shutdown(cancel_futures=True)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the formats that Pillow reads, in lower case and with the dot."""
    Image.init()
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN)


def _read_image(path: pathlib.Path) -> Image.Image:
    # Pillow raises a dozen unrelated exception types for damaged files.
    try:
        # From a path, Pillow would map the file into memory, and then garble uncompressed TIFF
        # files with an orientation of 5 to 8.
        with path.open("rb") as file, Image.open(_check_png(file)) as opened:
            with _without_libtiff_output(opened):
                opened.load()
            return _to_grey_or_rgb(_upright(opened))
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {CANNOT_BE_READ}its format is not known to Pillow") from error
    except Exception as error:
        raise ImageError(f"{path}: {CANNOT_BE_READ}{one_line(error)}") from error


def _check_png(file: BinaryIO) -> BinaryIO:
    """Checks the checksums of a PNG file. Pillow checks those of the metadata, not of the pixels.

    Returns:
        The file without metadata that are damaged. A file of another format is unchanged.

    Raises:
        ValueError: pixels, or what is needed to decode them, are damaged.
    """
    signature = file.read(len(_PNG_SIGNATURE))
    if signature != _PNG_SIGNATURE:
        file.seek(0)
        return file
    data, kept, position = file.read(), io.BytesIO(), 0
    kept.write(signature)
    content = b""
    while position < len(data) and not content.startswith(b"IEND"):  # other data may follow
        end = position + 12 + int.from_bytes(data[position : position + 4])
        content, checksum = data[position + 4 : end - 4], data[end - 4 : end]
        if zlib.crc32(content) == int.from_bytes(checksum):
            kept.write(data[position:end])
        elif content[:1].isupper():  # not optional
            raise ValueError(f"its part {content[:4].decode('latin1')} is damaged")
        position = end
    kept.seek(0)
    return kept


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppresses Pillow's warnings. Filters of warnings are shared by all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_STDERR = threading.Lock()


@contextlib.contextmanager
def _without_libtiff_output(image: Image.Image) -> Iterator[None]:
    """Suppresses what libtiff writes to the stderr descriptor, if the image is a TIFF file."""
    with contextlib.ExitStack() as after:
        if image.format == "TIFF":
            after.enter_context(_STDERR)
            with contextlib.suppress(OSError):  # stderr may be closed
                stderr = os.dup(2)
                after.callback(os.close, stderr)
                after.callback(os.dup2, stderr, 2)
                with open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), 2)
        yield


def _upright(image: Image.Image) -> Image.Image:
    """Turns a loaded image upright. Pillow does this itself for TIFF files."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata; the pixels are intact
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


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


def pad_to_aspect(image: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Pads two opposite sides of an image equally, by repeating its edge.

    Args:
        image: `[h, w, c]`.
        shape: (height, width, ...) with the aspect ratio of the result. Its size does not matter.

    Returns:
        (image, (rows added above, columns added on the left)).

    Raises:
        ImageError: the result would have more than `MAX_PADDED_PIXELS` pixels.
    """
    height, width = image.shape[:2]
    padded_height = max(height, round(width * shape[0] / shape[1]))
    padded_width = max(width, round(height * shape[1] / shape[0]))
    if padded_height * padded_width > MAX_PADDED_PIXELS:
        raise ImageError(
            f"an image of {height} x {width} pixels, padded to the aspect ratio of {shape[0]} x "
            f"{shape[1]}, would have more than {MAX_PADDED_PIXELS} pixels"
        )
    added = padded_height - height, padded_width - width
    rows, columns = ((each // 2, each - each // 2) for each in added)
    return np.pad(image, [rows, columns, (0, 0)], mode="edge"), (rows[0], columns[0])


def encode_png(values: np.ndarray) -> bytes:
    """Encodes bytes `[h, w, c]` as a PNG file."""
    data = io.BytesIO()
    from_array(values).save(data, format="PNG")
    return data.getvalue()
