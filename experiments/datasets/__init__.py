"""Data sets as NumPy arrays.

`digits` comes with scikit-learn. `mnist`, `fashion_mnist` and `gtsrb` are read by builders for
tensorflow-datasets; `idx_builders` and `gtsrb` list the places that are searched. `npz` is a
user-defined file, and `folder` a folder of image files. This package imports neither JAX nor
TensorFlow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.datasets import folder_listing, gtsrb, npz
from experiments.datasets.dataset import Dataset, DatasetError, Split
from experiments.datasets.splits import cut_groups, cut_validation
from experiments.settings.machine import expand_user

__all__ = ["NAMES", "Dataset", "DatasetError", "Split", "load"]

NAMES = ("digits", "mnist", "fashion_mnist", "gtsrb", "npz", "folder")

_DIGITS_VALIDATION = 200
_MNIST_VALIDATION = 5000
# A constant, so that all runs are compared on the same validation examples.
_VALIDATION_SEED = 0


class _Source(NamedTuple):
    """A data set before its validation split is cut.

    Attributes:
        name: as in `Dataset`.
        train: training and validation examples.
        test: test examples.
        num_classes: the number of classes.
        validation_size: the default number of validation examples.
        groups: as in `cut_groups`; None if single examples are held out.
        class_names: as in `Dataset`.
        notes: as in `Dataset`.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    validation_size: int
    groups: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    data_file: str | os.PathLike[str] | None = None,
    validation_size: int | None = None,
    image_size: int | tuple[int, int] = 32,
    keep_aspect: bool = False,
) -> Dataset:
    """Loads a data set into memory and cuts a validation split from its training data.

    Args:
        name: one of `NAMES`.
        data_dir: a folder with `mnist/*.gz`, `fashion_mnist/*.gz`, `tfds/NAME/VERSION/` or
            `gtsrb/*`. It is only read, and only for these data sets; None downloads them. For
            `folder`, a folder with `train/CLASS/*` and optionally `test/CLASS/*`.
        data_file: the file of `npz`.
        validation_size: the number of validation examples, 0 for none. None means 200 (`digits`),
            5000 (`mnist`, `fashion_mnist`) or a tenth of the training data (others). For `gtsrb`,
            whole tracks are held out, so that no physical sign is in both splits, and the number is
            met to within about a track.
        image_size: the side, or (height, width), of the images of `folder` in pixels. The side of
            those of `gtsrb`.
        keep_aspect: whether the images of `gtsrb` and `folder` are padded to the proportions of
            `image_size` instead of stretched.

    Returns:
        The data set. Its splits are the same in every run. The order within each split is that of
        the original files, or that of a folder prepared by the builder of tensorflow-datasets.

    Raises:
        DatasetError: an argument is invalid, or data are missing or damaged.
        UserError: a path begins with a home directory that is not known.
    """
    if name not in NAMES:
        raise DatasetError(f"dataset must be one of {', '.join(NAMES)}; got {name!r}")
    if data_file is not None and name != "npz":
        raise DatasetError(f"data_file {data_file} is for dataset npz; the dataset is {name}")
    folder = None if data_dir is None else expand_user(data_dir)
    if name == "digits":
        source = _load_digits()
    elif name == "npz":
        source = _load_npz(data_file)
    elif name == "folder":
        source = _load_folder(folder, image_size, keep_aspect=keep_aspect)
    elif name == "gtsrb":
        source = _load_gtsrb(folder, image_size, keep_aspect=keep_aspect)
    else:
        source = _load_idx(name, folder)
    return _cut(source, validation_size)


def _cut(source: _Source, validation_size: int | None) -> Dataset:
    size = source.validation_size if validation_size is None else validation_size
    if validation_size is None and size == 0:
        raise DatasetError(
            f"{source.name}: there are {len(source.train)} training examples, one of each class; "
            "expected more, because at least one is held out for the validation"
        )
    if source.groups is None:
        train, validation = cut_validation(source.train, size, _VALIDATION_SEED)
    else:
        train, validation = cut_groups(source.train, source.groups, size, _VALIDATION_SEED)
    splits = train, validation, source.test
    return Dataset(source.name, *splits, source.num_classes, source.class_names, source.notes)


# scikit-learn and tensorflow-datasets take seconds to import, so only the data sets that need them
# import them.


def _load_digits() -> _Source:
    from experiments.datasets import digits

    return _Source("digits", *digits.read(), digits.NUM_CLASSES, _DIGITS_VALIDATION)


def _load_npz(data_file: str | os.PathLike[str] | None) -> _Source:
    if data_file is None:
        raise DatasetError(
            f"dataset npz needs data_file (--data-file FILE), an .npz file with the arrays "
            f"{', '.join(npz.KEYS)}"
        )
    path = expand_user(data_file)
    train, test, num_classes, class_names = npz.read(path)
    size = _own_validation_size(train, path)
    return _Source("npz", train, test, num_classes, size, class_names=class_names)


def _load_folder(
    folder: Path | None, image_size: int | tuple[int, int], *, keep_aspect: bool
) -> _Source:
    from experiments.datasets import own_images

    if folder is None:
        raise DatasetError(
            "dataset folder needs data_dir (--data-dir DIR), a folder of images; "
            f"{folder_listing.EXPECTED}"
        )
    shape = (image_size, image_size) if isinstance(image_size, int) else image_size
    train, test, class_names, notes = own_images.read(folder, shape, keep_aspect=keep_aspect)
    size = _own_validation_size(train, folder / "train")
    sizes = len(class_names), size
    return _Source("folder", train, test, *sizes, class_names=class_names, notes=notes)


def _own_validation_size(train: Split, source: Path) -> int:
    """The default number of validation examples of a user's own data.

    Raises:
        DatasetError: there is only one class, so there is nothing to learn.
    """
    classes = np.unique(train.labels)
    if len(classes) < 2:
        examples = "training example has" if len(train) == 1 else "training examples have"
        raise DatasetError(
            f"{source}: its {len(train)} {examples} the label {classes[0]}; expected examples of "
            "at least two classes"
        )
    return min(max(1, len(train) // 10), len(train) - len(classes))


def _load_gtsrb(
    folder: Path | None, image_size: int | tuple[int, int], *, keep_aspect: bool
) -> _Source:
    if not isinstance(image_size, int):
        raise DatasetError(
            f"image_size must be one number for dataset gtsrb, whose images are square; got "
            f"{image_size}"
        )
    name, train, tracks, test = gtsrb.read(folder, image_size, keep_aspect=keep_aspect)
    return _Source(name, train, test, gtsrb.NUM_CLASSES, len(train) // 10, tracks)


def _load_idx(name: str, folder: Path | None) -> _Source:
    from experiments.datasets import idx_builders

    builder = idx_builders.BUILDERS[name]
    train, test = idx_builders.read(name, builder, folder)
    published = builder.DATASET
    sizes = published.num_classes, _MNIST_VALIDATION
    return _Source(name, train, test, *sizes, class_names=published.class_names)
