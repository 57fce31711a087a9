"""The signs as .npz files of images that were already resized to 32x32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.datasets import npz
from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.gtsrb import archives, signs

FILES = {"train": "gtsrb_train_32x32.npz", "test": "gtsrb_test_32x32.npz"}
SIZE = 32


def any_exists_in(folder: Path) -> bool:
    """Whether a folder holds any of the files, so that errors should name missing ones."""
    return any((folder / name).exists() for name in FILES.values())


def read(folder: Path, image_size: int, *, keep_aspect: bool) -> signs.Signs:
    """Reads `images` and `labels` of both files, and `track` of the training file.

    Raises:
        DatasetError: the settings ask for other images, or a file or an array is not as expected.
    """
    if image_size != SIZE or keep_aspect:
        raise DatasetError(
            f"{folder}: holds images squashed to {SIZE}x{SIZE}, but the settings are --image-size "
            f"{image_size} --{'' if keep_aspect else 'no-'}keep-aspect; expected --image-size "
            f"{SIZE} --no-keep-aspect, or the official archives there "
            f"({archives.OFFICIAL.description})"
        )
    count = signs.TRAIN_COUNTS[signs.FINAL]
    train = _read(folder / FILES["train"], "train", count, ("labels", "track"))
    test = _read(folder / FILES["test"], "test", signs.TEST_COUNT, ("labels",))
    return signs.Signs(signs.FINAL, _split(train), train["track"], _split(test))


def _split(arrays: dict[str, np.ndarray]) -> Split:
    return Split(arrays["images"], arrays["labels"])


def _read(path: Path, name: str, count: int, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads `count` images, and `count` integers for each of the keys."""
    found = npz.read_arrays(path, ("images", *keys))
    for key in keys:
        values, shape = found[key], (count,)
        if values.shape != shape or not np.issubdtype(values.dtype, np.integer):
            raise DatasetError(
                f"{path}: {key} has the shape {values.shape} and type {values.dtype}; expected "
                f"integers {shape}"
            )
        found[key] = values.astype(np.int32)
    signs.check_signs(_split(found), name, count, SIZE, path)
    return found
