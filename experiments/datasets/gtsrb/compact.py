"""The signs as arrays that someone has squashed to 32x32 already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.datasets import arrays
from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.gtsrb import archives, signs

FILES = {"train": "gtsrb_train_32x32.npz", "test": "gtsrb_test_32x32.npz"}
SIZE = 32


def any_in(folder: Path) -> bool:
    """Whether a folder holds either file, so that a missing one is to be named."""
    return any((folder / name).exists() for name in FILES.values())


def read(folder: Path, image_size: int, *, keep_aspect: bool) -> signs.Signs:
    """Reads `images` and `labels` of both files, and `track` of the training file.

    Raises:
        DatasetError: other images are asked for, or a file or an array is not as expected.
    """
    if image_size != SIZE or keep_aspect:
        raise DatasetError(
            f"{folder}: holds images squashed to {SIZE}x{SIZE}, but --image-size {image_size} "
            f"--{'' if keep_aspect else 'no-'}keep-aspect is asked for; expected --image-size "
            f"{SIZE} --no-keep-aspect, or the official archives there "
            f"({archives.OFFICIAL.in_words})"
        )
    count = signs.TRAIN_COUNTS[signs.FINAL]
    train = _read(folder / FILES["train"], "train", count, ("labels", "track"))
    test = _read(folder / FILES["test"], "test", signs.TEST_COUNT, ("labels",))
    return signs.Signs(signs.FINAL, _split(train), train["track"], _split(test))


def _split(found: dict[str, np.ndarray]) -> Split:
    return Split(found["images"], found["labels"])


def _read(path: Path, name: str, count: int, numbers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads so many images, and for each of them the numbers of these names."""
    found = arrays.load(path, ("images", *numbers))
    for key in numbers:
        values, shape = found[key], (count,)
        if values.shape != shape or not np.issubdtype(values.dtype, np.integer):
            raise DatasetError(
                f"{path}: {key} has the shape {values.shape} and type {values.dtype}; expected "
                f"integers {shape}"
            )
        found[key] = values.astype(np.int32)
    signs.check(_split(found), name, count, SIZE, path)
    return found
