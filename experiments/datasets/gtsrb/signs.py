"""The form in which every reader returns the data set."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from experiments.datasets.dataset import Split, check_split

NUM_CLASSES = 43
TrainingSet = Literal["gtsrb", "gtsrb_first_stage"]
# The final training set, and its subset that was used in the competition's first stage.
FINAL: TrainingSet = "gtsrb"
FIRST_STAGE: TrainingSet = "gtsrb_first_stage"
TRAIN_COUNTS: dict[TrainingSet, int] = {FINAL: 39209, FIRST_STAGE: 26640}
TEST_COUNT = 12630


class Signs(NamedTuple):
    """The data set in the official order. Images are uint8 `[n, size, size, 3]`.

    Attributes:
        name: the training set, `FINAL` or `FIRST_STAGE`.
        train: the training examples.
        tracks: the track of each training image, int32 `[n]`. Up to 30 consecutive images with the
            same track and class show one physical sign.
        test: the test examples, each of a different physical sign.
    """

    name: TrainingSet
    train: Split
    tracks: np.ndarray
    test: Split


def check_signs(split: Split, name: str, count: int, image_size: int, source: object) -> None:
    """Checks that a split has `count` square images of `image_size` pixels and valid labels.

    Raises:
        DatasetError: it does not; the text names `source` and the split's `name`.
    """
    check_split(split, name, (count, image_size, image_size, 3), NUM_CLASSES, source)
