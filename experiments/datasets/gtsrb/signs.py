"""What every source of the signs gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.datasets.dataset import DatasetError, Split

NUM_CLASSES = 43
# The training set is the final one or that of the competition's first stage, a part of the other.
FINAL, FIRST_STAGE = "gtsrb", "gtsrb_first_stage"
TRAIN_COUNTS = {FINAL: 39209, FIRST_STAGE: 26640}
TEST_COUNT = 12630


class Signs(NamedTuple):
    """Images uint8 `[n, size, size, 3]`, in the official order.

    Attributes:
        name: `FINAL` or `FIRST_STAGE`, by which training set these are.
        train: training examples.
        tracks: int32 `[n]`. Up to 30 training images in a row show one physical sign: those of one
            track of one class.
        test: test examples, each of a sign of its own.
    """

    name: str
    train: Split
    tracks: np.ndarray
    test: Split


def check(split: Split, name: str, count: int, image_size: int, where: object) -> None:
    """Checks that a split, which errors call `name`, is whole: `count` images of that size.

    Raises:
        DatasetError: it is not; the text begins with `where`.
    """
    shape = (count, image_size, image_size, 3)
    if split.images.shape != shape or split.images.dtype != np.uint8:
        raise DatasetError(
            f"{where}: its {name} images are {split.images.dtype} {split.images.shape}; "
            f"expected uint8 {shape}"
        )
    low, high = split.labels.min(), split.labels.max()
    if low < 0 or high >= NUM_CLASSES:
        raise DatasetError(
            f"{where}: its {name} labels run from {low} to {high}; expected 0 to {NUM_CLASSES - 1}"
        )
