"""What every reader of this package returns and raises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DatasetError(Exception):
    """A data set cannot be had; the text is one line that names what is wrong and what to do."""


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order.

    Attributes:
        images: `[n, h, w, c]`, uint8 in 0..255 or float32 as the source has them.
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
    """A data set in memory; `validation` was cut from the training data, never from `test`.

    `name` says what was read: `gtsrb_first_stage` where `gtsrb` has only that training archive.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int


def one_line(error: BaseException) -> str:
    """Returns an exception's text without line breaks, or its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
