"""The official archives, decoded with zipfile, csv and Pillow.

Images are PPM files of many sizes. Semicolon-separated tables next to them hold their classes.
Training images are named `TRACK_FRAME.ppm`.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from PIL import Image

from experiments.datasets.dataset import DatasetError, one_line
from experiments.datasets.gtsrb.signs import FINAL, FIRST_STAGE, NUM_CLASSES, TrainingSet
from experiments.datasets.image_files import pad_to_aspect, resize_to, to_array
from experiments.datasets.published_files import PublishedFile

_TEST_FOLDER = "GTSRB/Final_Test/Images"
_TEST_TABLE = "GT-final_test.csv"


@dataclass(frozen=True)
class Archive(PublishedFile):
    """An official archive, verified by its MD5."""

    algorithm: ClassVar[Literal["MD5"]] = "MD5"


@dataclass(frozen=True)
class TrainArchive(Archive):
    """A training archive.

    Attributes:
        training_set: the training set that it holds.
        folder: the folder in the archive that holds a folder for each class.
    """

    training_set: TrainingSet
    folder: str


@dataclass(frozen=True)
class Archives:
    """The data set as its authors publish it.

    There are two training archives: that of the final training set, and that of the competition's
    first stage, which torchvision uses. If both are there, the final one is read.

    Attributes:
        base_url: the address of the folder that holds the archives.
        final: the final training set.
        first_stage: the training set of the first stage.
        test: the test images.
        test_labels: the classes of the test images.
    """

    base_url: str
    final: TrainArchive
    first_stage: TrainArchive
    test: Archive
    test_labels: Archive

    @property
    def description(self) -> str:
        """The names of the archives and the choice between them, for errors."""
        return (
            f"{self.final.name} or, only if that is missing, the smaller "
            f"{self.first_stage.name}, with {self.test.name} and {self.test_labels.name}"
        )

    def any_exists_in(self, folder: Path) -> bool:
        """Whether a folder holds any of the archives, so that errors should name missing ones."""
        files = (self.final, self.first_stage, self.test, self.test_labels)
        return any((folder / file.name).exists() for file in files)

    def train_archive_in(self, folder: Path) -> TrainArchive:
        """Returns the training archive to read from a folder, which prefers the final one.

        Raises:
            DatasetError: the folder holds no training archive.
        """
        for archive in (self.final, self.first_stage):
            if (folder / archive.name).exists():
                return archive
        raise DatasetError(f"{folder}: holds no training archive; expected {self.description}")


# The authors publish no checksums. These are torchvision's; that of the final training archive,
# which torchvision does not read, is the one on which other readers agree.
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
    """An image, its class and its track; -1 if it has no track."""

    image: Image.Image
    label: int
    track: int


def read_train(path: Path, folder: str) -> Iterator[Example]:
    """Reads a training archive class by class, each class in the order of its table.

    Args:
        path: the archive.
        folder: the folder in the archive that holds a folder for each class.

    Raises:
        DatasetError: the archive is damaged or has unexpected contents.
    """
    with _open(path) as archive:
        for label in range(NUM_CLASSES):
            images = f"{folder}/{label:05d}"
            table = f"{images}/GT-{label:05d}.csv"
            for name, class_id in _rows(archive, table):
                track = re.fullmatch(r"(\d{5})_\d{5}\.ppm", name)
                if track is None or class_id != label:
                    raise DatasetError(
                        f"{path}: {table} has {name} of class {class_id}; expected "
                        f"TRACK_FRAME.ppm, five digits each, of class {label}"
                    )
                yield Example(_image(archive, f"{images}/{name}"), label, int(track[1]))


def read_test(images: Path, labels: Path) -> Iterator[Example]:
    """Reads the test archives in the order of their table.

    Raises:
        DatasetError: an archive is damaged or has unexpected contents.
    """
    with _open(labels) as archive:
        rows = list(_rows(archive, _TEST_TABLE))
    with _open(images) as archive:
        for name, label in rows:
            yield Example(_image(archive, f"{_TEST_FOLDER}/{name}"), label, -1)


def resize(image: Image.Image, size: int, *, keep_aspect: bool) -> np.ndarray:
    """Resizes an image to a square, bilinearly, with antialiasing if it shrinks.

    Args:
        image: an RGB image.
        size: the side of the result, in pixels.
        keep_aspect: whether the image is first padded to a square, by repeating its edge.

    Returns:
        uint8 `[size, size, 3]`.
    """
    values = to_array(image)
    if keep_aspect:
        values, _ = pad_to_aspect(values, (size, size))
    return resize_to(values, (size, size, values.shape[-1]))


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
    # For damaged archives, zipfile and zlib raise unrelated exception types.
    except Exception as error:
        raise DatasetError(
            f"{archive.filename}: {name} cannot be read ({one_line(error)}); expected an "
            "undamaged file"
        ) from error


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, int]]:
    """Reads the file names and classes in a table."""
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
