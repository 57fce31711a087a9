"""Decodes the files of a folder of images to arrays of one size."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.folder_listing import ListedFile, Listing
from experiments.datasets.image_files import (
    CANNOT_BE_READ,
    ImageError,
    image_suffixes,
    pad_to_aspect,
    read_images,
    resize_to,
    to_array,
)
from experiments.runs import progress
from experiments.settings.errors import printable

# Images of formats that Pillow does not read: they must not be taken for other files.
_OTHER_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".heic", ".heif", ".jxl", ".nef", ".raw"),
    *(".rw2", ".svg"),
)
# Errors that remain until the file changes. Those of Pillow itself have no number.
_LASTING_ERRORS = (None, errno.ENOENT, errno.ELOOP, errno.EACCES)


class LeftOut(NamedTuple):
    """Files that were left out, by name and in their order.

    Attributes:
        broken: the reason why each broken image cannot be read.
        other: files that are no images.
    """

    broken: dict[str, str]
    other: list[str]


class DecodedFolder(NamedTuple):
    """The images of a folder.

    Attributes:
        train: the training images, uint8 `[n, h, w, c]` with one or three channels.
        test: the test images; empty if there is no folder of test images.
        extent: the smallest and the largest height and width of the files, `[2, 2]`.
        left_out: the files that were left out.
        lasting: whether they will be left out in later runs too. A file that the system could not
            read may be readable later.
    """

    train: Split
    test: Split
    extent: np.ndarray
    left_out: LeftOut
    lasting: bool


class _Resized(NamedTuple):
    pixels: np.ndarray
    size: tuple[int, int]  # height and width of the file


def decode_folder(listing: Listing, shape: tuple[int, int], *, keep_aspect: bool) -> DecodedFolder:
    """Decodes and resizes all images, and shows the progress.

    If a training image is in colour, all images get three channels; otherwise, all get one.

    Args:
        listing: the files.
        shape: the height and width of the images.
        keep_aspect: whether images are padded to this aspect ratio before they are resized, by
            repeating their edge.

    Raises:
        DatasetError: no image of a class can be read.
    """
    test_files = listing.test or ()
    total = len(listing.train) + len(test_files)
    description = printable(f"decoding the images of {listing.root}")
    with progress.count(description, total) as advance:
        decoder = _Decoder(listing, shape, keep_aspect, advance)
        train = decoder.decode(listing.train, channels=None)
        test = decoder.decode(test_files, channels=train.images.shape[-1])
    extent = np.stack([np.min(decoder.sizes, axis=0), np.max(decoder.sizes, axis=0)])
    return DecodedFolder(train, test, extent, decoder.left_out, decoder.lasting)


class _Decoder:
    """Decodes one split after the other, and collects what was left out."""

    def __init__(
        self,
        listing: Listing,
        shape: tuple[int, int],
        keep_aspect: bool,
        advance: Callable[[], None],
    ) -> None:
        self._root = listing.root
        self._shape, self._keep_aspect, self._advance = shape, keep_aspect, advance
        self.left_out, self.lasting = LeftOut({}, []), True
        self.sizes: list[tuple[int, int]] = []

    def decode(self, files: Sequence[ListedFile], channels: int | None) -> Split:
        """Decodes the files of a split. None as channels is the largest number of any image."""
        use = functools.partial(
            _resize, shape=self._shape, keep_aspect=self._keep_aspect, channels=channels
        )
        images, labels = [], []
        with contextlib.closing(read_images([file.path for file in files], use)) as results:
            for file, result in zip(files, results, strict=True):
                self._advance()
                if isinstance(result, ImageError):
                    self._leave_out(file.path, result)
                    continue
                images.append(result.pixels)
                labels.append(file.label)
                self.sizes.append(result.size)
        self._check_every_class(files, labels)
        return _stack(images, labels, self._shape, channels)

    def _leave_out(self, path: Path, error: ImageError) -> None:
        name, cause = path.relative_to(self._root).as_posix(), error.__cause__
        known = path.suffix.lower() in (*image_suffixes(), *_OTHER_SUFFIXES)
        if isinstance(cause, UnidentifiedImageError) and not known:
            self.left_out.other.append(name)
            return
        reason = str(error).removeprefix(f"{path}: ").removeprefix(CANNOT_BE_READ)
        self.left_out.broken[name] = reason
        from_system = isinstance(cause, OSError) and cause.errno not in _LASTING_ERRORS
        self.lasting &= not (from_system or isinstance(cause, MemoryError))

    def _check_every_class(self, files: Sequence[ListedFile], labels: Sequence[int]) -> None:
        """Raises `DatasetError` if no file of a class was decoded."""
        for label in sorted({file.label for file in files} - set(labels)):
            paths = [file.path for file in files if file.label == label]
            names = [path.relative_to(self._root).as_posix() for path in paths]
            reasons = [self.left_out.broken.get(name, "not an image") for name in names]
            raise DatasetError(
                f"{paths[0].parent}: none of its {len(paths)} files can be read as an image "
                f"({paths[0].name}: {reasons[0]}); expected images of this class"
            )


def _resize(
    image: Image.Image, *, shape: tuple[int, int], keep_aspect: bool, channels: int | None
) -> _Resized:
    pixels = to_array(image)
    if keep_aspect:
        pixels, _ = pad_to_aspect(pixels, shape)
    resized = resize_to(pixels, (*shape, channels or pixels.shape[-1]))
    return _Resized(resized, (image.height, image.width))


def _stack(
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    shape: tuple[int, int],
    channels: int | None,
) -> Split:
    channels = channels or max(image.shape[-1] for image in images)
    stacked = np.empty((len(images), *shape, channels), np.uint8)
    for i, image in enumerate(images):
        stacked[i] = image  # a grey image has equal colours
    return Split(stacked, np.asarray(labels, np.int32))
