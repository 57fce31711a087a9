"""User-defined arrays, read from an .npz file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import DatasetError, Split, one_line
from experiments.settings.errors import print_warning

KEYS = ("x_train", "y_train", "x_test", "y_test")
CLASS_NAMES = "class_names"
CHANNELS = (1, 3)

_MAX_LABEL = 2**16 - 1  # a corrupt label must not lead to a network that exceeds the memory


def read(path: Path) -> tuple[Split, Split, int, tuple[str, ...] | None]:
    """Reads `x_train`, `y_train`, `x_test` and `y_test`, and `class_names` if the file has them.

    Images are `[n, h, w]` or `[n, h, w, c]` with 1 or 3 channels, uint8 or finite floats of any
    range. Labels are non-negative integers `[n]` below 65,536. `class_names` are texts `[classes]`,
    which differ. Pickled objects are rejected. Other arrays are ignored with a warning.

    Args:
        path: a file written by `numpy.savez` or `numpy.savez_compressed`.

    Returns:
        (train, test, num_classes, class_names). Images are `[n, h, w, c]`, uint8 or float32, with
        the values in the file. Without `class_names`, which are then None, the number of classes
        is the largest label plus 1.

    Raises:
        DatasetError: the file or an array in it is not as described.
    """
    arrays = read_arrays(path, KEYS, (CLASS_NAMES,), warn=True)
    train = _split(arrays, "train", path)
    test = _split(arrays, "test", path)
    for kind, in_train, in_test in (
        ("shape", train.images.shape[1:], test.images.shape[1:]),
        ("type", train.images.dtype, test.images.dtype),
    ):
        if in_train != in_test:
            raise DatasetError(
                f"{path}: images in x_train have {kind} {in_train}, in x_test {in_test}; "
                "expected the same"
            )
    num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    if CLASS_NAMES not in arrays:
        return train, test, num_classes, None
    names = _class_names(arrays[CLASS_NAMES], num_classes, f"{path}: {CLASS_NAMES}")
    return train, test, len(names), names


def read_arrays(
    path: Path, keys: Sequence[str], optional: Sequence[str] = (), *, warn: bool = False
) -> dict[str, np.ndarray]:
    """Reads arrays from an .npz file. Pickled objects are rejected.

    Args:
        path: the file.
        keys: the names of the arrays.
        optional: the names of further arrays that the file may have.
        warn: whether other arrays in the file give a warning.

    Raises:
        DatasetError: the file or an array cannot be read.
    """
    expected = f"an .npz file with the arrays {', '.join(keys)}"
    # For damaged files, NumPy and its readers raise a dozen unrelated exception types. The file is
    # opened here, because NumPy would leave it open after an error.
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DatasetError(f"{path}: is a single .npy array; expected {expected}")
            with archive:
                present = [key for key in optional if key in archive.files]
                others = [key for key in archive.files if key not in (*keys, *optional)]
                if warn and others:
                    known = ", ".join((*keys, *optional))
                    print_warning(f"{path}: ignores {', '.join(others)}; it reads {known}")
                return {key: _member(archive, key, path) for key in (*keys, *present)}
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{path}: is not a readable .npz file ({one_line(error)}); expected {expected}"
        ) from error


def _member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    if key not in archive.files:
        found = ", ".join(archive.files) or "nothing"
        raise DatasetError(f"{path}: has no array {key} (it holds {found}); expected {key}")
    try:
        array = archive[key]
    except Exception as error:
        raise DatasetError(
            f"{path}: the array {key} cannot be read ({one_line(error)}); expected an undamaged "
            "array of numbers or texts, not of pickled objects"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: {key} is not an array in NumPy's format; expected one")
    return array


def _split(arrays: dict[str, np.ndarray], name: str, path: Path) -> Split:
    x, y = f"x_{name}", f"y_{name}"
    images = _images(arrays[x], f"{path}: {x}")
    labels = _labels(arrays[y], f"{path}: {y}")
    if len(images) != len(labels):
        raise DatasetError(
            f"{path}: {x} has {len(images)} images but {y} has {len(labels)} labels; "
            "expected equal numbers"
        )
    return Split(images, labels)


def _images(array: np.ndarray, source: str) -> np.ndarray:
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in CHANNELS):
        raise DatasetError(
            f"{source} has the shape {array.shape}; expected [n, h, w] or [n, h, w, c] with "
            "1 or 3 channels"
        )
    if math.prod(array.shape) == 0:
        raise DatasetError(f"{source} has the shape {array.shape}; expected at least one pixel")
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DatasetError(f"{source} has the type {array.dtype}; expected uint8 or float")
    with np.errstate(over="ignore"):  # values that overflow are rejected below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DatasetError(f"{source} has NaN or infinite values; expected finite float32 values")
    return array


def _labels(array: np.ndarray, source: str) -> np.ndarray:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DatasetError(
            f"{source} has the shape {array.shape} and type {array.dtype}; expected integers [n]"
            f"{_label_remedy(array)}"
        )
    if not array.size:
        raise DatasetError(f"{source} is empty; expected at least one label")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > _MAX_LABEL:
        raise DatasetError(
            f"{source} has labels from {low} to {high}; expected labels from 0 to {_MAX_LABEL}"
        )
    return array.astype(np.int32)


def _label_remedy(array: np.ndarray) -> str:
    """How to convert labels in another common form, for errors."""
    if array.ndim == 2 and array.shape[1] == 1:
        return " (y.ravel() removes an axis)"
    if array.ndim == 2:
        return " (y.argmax(axis=1) converts one-hot labels)"
    if array.ndim == 1 and array.dtype.kind == "f":
        return " (y.astype(int) converts whole numbers)"
    if array.ndim == 1 and array.dtype.kind == "U":
        return " (class_names, y = np.unique(y, return_inverse=True) numbers the names)"
    return ""


def _class_names(array: np.ndarray, num_classes: int, source: str) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DatasetError(
            f"{source} has the shape {array.shape} and type {array.dtype}; expected texts [classes]"
        )
    names = tuple(array.tolist())
    if len(names) < num_classes:
        raise DatasetError(
            f"{source} has {len(names)} names, but the largest label is {num_classes - 1}; "
            f"expected at least {num_classes} names"
        )
    for i, name in enumerate(names):
        if not name or not name.isprintable() or name in names[:i]:
            raise DatasetError(
                f"{source} has {name!r} at {i}; expected names that differ, of printable characters"
            )
    return names
