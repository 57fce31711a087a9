"""Types that all data sets share, and a check of their contents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.settings.errors import UserError


class DatasetError(UserError):
    """A data set that cannot be loaded. Its text is one line that names the fault and the fix."""


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order.

    Attributes:
        images: `[n, h, w, c]`, uint8 in 0..255, or float32 with the values of the source.
        labels: int32 `[n]`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Returns the examples at `indices` (integers or a boolean mask)."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: the data that was read; `gtsrb_first_stage` if `gtsrb` has only the smaller training
            archive.
        train: training examples.
        validation: examples held out from the training data, never from `test`.
        test: test examples.
        num_classes: the number of classes.
        class_names: the name of each class; None if classes have only numbers.
        notes: what was done with the user's files, in one line each.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def check_split(
    split: Split, name: str, shape: tuple[int, ...], num_classes: int, source: object
) -> None:
    """Checks that a split is complete.

    Args:
        split: the examples.
        name: the name of the split, for errors.
        shape: the shape that the images must have; they must be uint8.
        num_classes: labels must lie between 0 and `num_classes - 1`.
        source: the file or folder that errors name.

    Raises:
        DatasetError: the images or the labels differ from what is expected.
    """
    images, labels = split.images, split.labels
    if images.shape != shape or images.dtype != np.uint8:
        raise DatasetError(
            f"{source}: its {name} images are {images.dtype} {images.shape}; expected uint8 {shape}"
        )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise DatasetError(
            f"{source}: its {name} labels run from {low} to {high}; expected 0 to {num_classes - 1}"
        )


def one_line(error: BaseException) -> str:
    """Returns an exception's text without line breaks, or its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
