"""Data sets as NumPy arrays.

`digits` comes with scikit-learn; `mnist`, `fashion_mnist` and `gtsrb` are read by builders for
tensorflow-datasets (see `builders` and `gtsrb` for where from); `npz` is the user's own file.
Nothing here imports JAX or TensorFlow, and what is slow to import is imported by the data set that
needs it.
"""

from __future__ import annotations

import os
from pathlib import Path

from experiments.datasets.dataset import Dataset, DatasetError, Split
from experiments.datasets.splits import cut_groups, cut_validation

__all__ = ["NAMES", "Dataset", "DatasetError", "Split", "load"]

NAMES = ("digits", "mnist", "fashion_mnist", "gtsrb", "npz")

_DIGITS_VALIDATION = 200
_MNIST_VALIDATION = 5000
# All runs are compared on the same validation examples, so their seed is no setting.
_VALIDATION_SEED = 0


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    data_file: str | os.PathLike[str] | None = None,
    validation_size: int | None = None,
    image_size: int = 32,
    keep_aspect: bool = False,
) -> Dataset:
    """Loads a data set whole and cuts a validation split from its training data.

    Args:
        name: one of `NAMES`.
        data_dir: a folder with `mnist/*.gz`, `fashion_mnist/*.gz`, `tfds/NAME/VERSION/` or
            `gtsrb/*`. It is only read, and only by these; None downloads them.
        data_file: the file of `npz`.
        validation_size: number of validation examples, 0 for none; None takes 200 (`digits`),
            5000 (`mnist`, `fashion_mnist`) or a tenth of the training data (`gtsrb`, `npz`). Of
            `gtsrb` whole tracks are held out, so that the number is met to about a track: no
            physical sign stands on both sides.
        image_size: of `gtsrb`: side of the images, in pixels.
        keep_aspect: of `gtsrb`: whether images are padded to a square, not squashed.

    Returns:
        The data set. Its splits are the same in every run, and the order within each is the
        source's: that of the original files, or, in a folder which tensorflow-datasets' own
        builder prepared, that builder's.

    Raises:
        DatasetError: an argument is wrong, or data are missing or damaged.
    """
    if name not in NAMES:
        raise DatasetError(f"dataset {name!r} is not known; expected one of {', '.join(NAMES)}")
    if data_file is not None and name != "npz":
        raise DatasetError(f"data_file {data_file} is for dataset npz; the dataset is {name}")
    num_classes, groups = 10, None
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if name == "digits":
        from experiments.datasets import digits

        data, test = digits.read()
        default_size = _DIGITS_VALIDATION
    elif name == "npz":
        from experiments.datasets import arrays

        if data_file is None:
            raise DatasetError(
                f"dataset npz needs data_file (--data-file FILE), an .npz file with the arrays "
                f"{', '.join(arrays.KEYS)}"
            )
        data, test, num_classes = arrays.read(Path(data_file).expanduser())
        default_size = min(max(1, len(data) // 10), len(data) - 1)
    elif name == "gtsrb":
        from experiments.datasets import gtsrb

        name, data, groups, test = gtsrb.read(folder, image_size, keep_aspect=keep_aspect)
        num_classes, default_size = gtsrb.NUM_CLASSES, len(data) // 10
    else:
        from experiments.datasets import builders

        data, test = builders.read(name, builders.BUILDERS[name], folder)
        default_size = _MNIST_VALIDATION
    size = default_size if validation_size is None else validation_size
    if groups is None:
        train, validation = cut_validation(data, size, _VALIDATION_SEED)
    else:
        train, validation = cut_groups(data, groups, size, _VALIDATION_SEED)
    return Dataset(name, train, validation, test, num_classes)
