"""The idx format of MNIST and its relatives, decoded with NumPy.

An idx file is two zero bytes, a type code, the number of axes, each axis as a big-endian 32-bit
integer, and the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import DatasetError, Split, one_line
from experiments.datasets.published_files import PublishedFile

_UINT8 = 0x08


@dataclass(frozen=True)
class IdxSplit:
    """The two files of a split.

    Attributes:
        images: gzip-compressed idx3 file.
        labels: gzip-compressed idx1 file.
        count: the number of examples.
    """

    images: PublishedFile
    labels: PublishedFile
    count: int


@dataclass(frozen=True)
class IdxDataset:
    """A data set of idx files as its authors publish it.

    Attributes:
        base_url: the address of the folder that holds the files.
        train: the training files.
        test: the test files.
        image_shape: height and width of the images, in pixels.
        num_classes: the number of classes.
        class_names: the name of each class; None if a class is the digit of its number.
    """

    base_url: str
    train: IdxSplit
    test: IdxSplit
    image_shape: tuple[int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files of the data set."""
        return (self.train.images, self.train.labels, self.test.images, self.test.labels)


MNIST = IdxDataset(
    base_url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    train=IdxSplit(
        PublishedFile(
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        PublishedFile(
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        count=60000,
    ),
    test=IdxSplit(
        PublishedFile(
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        count=10000,
    ),
    image_shape=(28, 28),
    num_classes=10,
)

FASHION_MNIST = IdxDataset(
    base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    train=IdxSplit(
        PublishedFile(
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        PublishedFile(
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        count=60000,
    ),
    test=IdxSplit(
        PublishedFile(
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        count=10000,
    ),
    image_shape=(28, 28),
    num_classes=10,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


def read_split(images: Path, labels: Path, dataset: IdxDataset, count: int) -> Split:
    """Decodes a split from its two files and keeps their order.

    Args:
        images: gzip-compressed idx3 file.
        labels: gzip-compressed idx1 file.
        dataset: the data set that the files belong to.
        count: the expected number of examples.

    Returns:
        `count` examples, uint8 `[n, h, w, 1]`.

    Raises:
        DatasetError: a file cannot be decompressed, or is not the expected idx file.
    """
    pixels = parse(_gunzip(images), (count, *dataset.image_shape), str(images))
    numbers = parse(_gunzip(labels), (count,), str(labels))
    if numbers.max(initial=0) >= dataset.num_classes:
        raise DatasetError(
            f"{labels}: holds the label {numbers.max()}; expected 0 to {dataset.num_classes - 1}"
        )
    return Split(pixels[..., None], numbers.astype(np.int32))


def parse(data: bytes, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Decodes the bytes of an idx file of unsigned bytes.

    Args:
        data: the whole file, decompressed.
        shape: the shape that its header must declare.
        source: the name of the file, for errors.

    Returns:
        A read-only uint8 array of shape `shape`.

    Raises:
        DatasetError: the magic number, the shape or the length is wrong.
    """
    magic = bytes((0, 0, _UINT8, len(shape)))
    if data[:4] != magic:
        raise DatasetError(
            f"{source}: begins with 0x{data[:4].hex()}; expected the magic number 0x{magic.hex()} "
            f"(idx, unsigned bytes, {len(shape)} axes)"
        )
    header = 4 + 4 * len(shape)
    if len(data) < header:
        raise DatasetError(f"{source}: its header ends after {len(data)} of {header} bytes")
    found = tuple(int(n) for n in np.frombuffer(data, ">u4", len(shape), offset=4))
    if found != shape:
        raise DatasetError(f"{source}: declares the shape {found}; expected {shape}")
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise DatasetError(f"{source}: has {len(data)} bytes; its shape {shape} needs {expected}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _gunzip(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path}: cannot be decompressed ({one_line(error)}); expected a gzip file"
        ) from error
