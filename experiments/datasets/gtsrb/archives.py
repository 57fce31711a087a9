"""The official archives, decoded with zipfile, csv and Pillow.

Images are PPM files of many sizes; a table beside them, `;` between its columns, has their classes.
Names of training images are `TRACK_FRAME.ppm`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.datasets.dataset import DatasetError, one_line
from experiments.datasets.gtsrb.signs import FINAL, FIRST_STAGE, NUM_CLASSES

_TEST_FOLDER = "GTSRB/Final_Test/Images"
_TEST_TABLE = "GT-final_test.csv"


@dataclass(frozen=True)
class Archive:
    """One official archive: its name, its size in bytes and its checksum."""

    name: str
    size: int
    md5: str


@dataclass(frozen=True)
class TrainArchive(Archive):
    """A training archive: also its set's name, and the folder of its folders of classes."""

    training_set: str
    folder: str


@dataclass(frozen=True)
class Archives:
    """The data set as its authors publish it; file names are relative to `base_url`.

    There are two training archives: the final set's, and one of the competition's first stage,
    which is torchvision's training set. Where both are, the final one is read.
    """

    base_url: str
    final: TrainArchive
    first_stage: TrainArchive
    test: Archive
    test_labels: Archive

    @property
    def in_words(self) -> str:
        """Their names and the choice among them, for errors."""
        return (
            f"{self.final.name}, or only where that is missing the smaller "
            f"{self.first_stage.name}, with {self.test.name} and {self.test_labels.name}"
        )

    def any_in(self, folder: Path) -> bool:
        """Whether a folder holds any of them, so that a missing one is to be named."""
        files = (self.final, self.first_stage, self.test, self.test_labels)
        return any((folder / file.name).exists() for file in files)

    def train_in(self, folder: Path) -> TrainArchive:
        """The training archive to read there: the final one, unless there is only the other.

        Raises:
            DatasetError: there is neither.
        """
        for archive in (self.final, self.first_stage):
            if (folder / archive.name).exists():
                return archive
        raise DatasetError(f"{folder}: holds no training archive; expected {self.in_words}")


# The authors publish no checksums. These are torchvision's and, of the final training archive,
# which that does not read, the one that others who do agree on.
OFFICIAL = Archives(
    base_url="https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
    final=TrainArchive(
        "GTSRB_Final_Training_Images.zip",
        276294756,
        "f33fd80ac59bff73c82d25ab499e03a3",
        FINAL,
        "GTSRB/Final_Training/Images",
    ),
    first_stage=TrainArchive(
        "GTSRB-Training_fixed.zip",
        187490228,
        "513f3c79a4c5141765e10e952eaa2478",
        FIRST_STAGE,
        "GTSRB/Training",
    ),
    test=Archive("GTSRB_Final_Test_Images.zip", 88978620, "c7e4e6327067d32654124b0fe9e82185"),
    test_labels=Archive("GTSRB_Final_Test_GT.zip", 99620, "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
)


class Example(NamedTuple):
    """An image, its class and its track, -1 for those that have none."""

    image: Image.Image
    label: int
    track: int


def verify(path: Path, expected: Archive) -> None:
    """Checks one archive by size and MD5.

    Raises:
        DatasetError: it is missing, unreadable, of another size or of another checksum.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); expected the official archive "
            f"{expected.name} of {expected.size} bytes"
        ) from error
    if size != expected.size:
        raise DatasetError(
            f"{path}: has {size} bytes; the official archive has {expected.size} "
            "(was a copy or a download cut short?)"
        )
    if found.hexdigest() != expected.md5:
        raise DatasetError(
            f"{path}: its MD5 is {found.hexdigest()}; the official archive has {expected.md5} "
            "(the file is damaged)"
        )


def read_train(path: Path, folder: str) -> Iterator[Example]:
    """Reads a training archive, class by class, each in the order of its table.

    Args:
        path: the archive.
        folder: within it, that of the folders of classes.

    Raises:
        DatasetError: it is damaged, or not as expected.
    """
    with _open(path) as archive:
        for label in range(NUM_CLASSES):
            images = f"{folder}/{label:05d}"
            table = f"{images}/GT-{label:05d}.csv"
            for name, given in _rows(archive, table):
                track = re.fullmatch(r"(\d{5})_\d{5}\.ppm", name)
                if track is None or given != label:
                    raise DatasetError(
                        f"{path}: {table} has {name} of class {given}; expected TRACK_FRAME.ppm, "
                        f"five digits each, of class {label}"
                    )
                yield Example(_image(archive, f"{images}/{name}"), label, int(track[1]))


def read_test(images: Path, labels: Path) -> Iterator[Example]:
    """Reads the test archives in the order of their table.

    Raises:
        DatasetError: one is damaged, or not as expected.
    """
    with _open(labels) as archive:
        rows = list(_rows(archive, _TEST_TABLE))
    with _open(images) as archive:
        for name, label in rows:
            yield Example(_image(archive, f"{_TEST_FOLDER}/{name}"), label, -1)


def resize(image: Image.Image, size: int, *, keep_aspect: bool) -> np.ndarray:
    """Resizes an image to a square, bilinearly, with antialiasing where that shrinks it.

    Args:
        image: an RGB image.
        size: side of the result, in pixels.
        keep_aspect: whether the shorter sides are first extended alike, by repeating the edge.

    Returns:
        uint8 `[size, size, 3]`.
    """
    if keep_aspect:
        image, _ = extended(image)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def extended(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """An image made square by repeating its edge on its shorter sides alike.

    Args:
        image: of mode L or RGB.

    Returns:
        (image, (rows above, columns left) that were added)
    """
    side = max(image.size)
    widths = [
        (margin // 2, margin - margin // 2) for margin in (side - image.height, side - image.width)
    ]
    values = np.asarray(image)
    padded = np.pad(values, [*widths, (0, 0)][: values.ndim], mode="edge")
    return Image.fromarray(padded), (widths[0][0], widths[1][0])


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path}: cannot be opened ({one_line(error)}); expected a zip archive"
        ) from error


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    # A damaged archive makes zipfile and zlib raise unrelated types.
    except Exception as error:
        raise DatasetError(
            f"{archive.filename}: {name} cannot be read ({one_line(error)}); expected a file "
            "that is there and whole"
        ) from error


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, int]]:
    """Reads file names and classes from a table."""
    lines = io.StringIO(_bytes(archive, name).decode("ascii", "replace"))
    for row in csv.DictReader(lines, delimiter=";"):
        file, label = row.get("Filename"), row.get("ClassId") or ""
        if not file or not re.fullmatch(r"\d\d?", label) or int(label) >= NUM_CLASSES:
            raise DatasetError(
                f"{archive.filename}: {name} has a row with Filename {file} and ClassId "
                f"{label or None}; expected a name and 0 to {NUM_CLASSES - 1}"
            )
        yield file, int(label)


def _image(archive: zipfile.ZipFile, name: str) -> Image.Image:
    data = _bytes(archive, name)
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{archive.filename}: {name} cannot be decoded ({one_line(error)}); expected a PPM "
            "image"
        ) from error
