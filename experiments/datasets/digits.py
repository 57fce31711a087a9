"""The handwritten digits of scikit-learn, in the format of MNIST.

scikit-learn and SciPy are not imported, which takes a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.splits import stratified_mask

NUM_CLASSES = 10
TEST_SIZE = 500

# A constant, so that the test set is the same in every run.
_TEST_SEED = 0
_BOX_PX = 20
_IMAGE_PX = 28
_BRIGHTEST = 16.0


def read() -> tuple[Split, Split]:
    """Loads the 1797 digits, uint8 `[n, 28, 28, 1]`.

    Returns:
        (train, test) with 1297 and 500 examples, stratified by class.

    Raises:
        DatasetError: scikit-learn is not installed.
    """
    rows = np.loadtxt(_file(), delimiter=",")
    data = Split(enlarge(rows[:, :-1].reshape(-1, 8, 8)), rows[:, -1].astype(np.int32))
    mask = stratified_mask(data.labels, TEST_SIZE, _TEST_SEED)
    return data.take(~mask), data.take(mask)


def _file() -> Path:
    """Returns the file in scikit-learn's package: 64 pixels and the class of each digit."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DatasetError("dataset digits is in the package scikit-learn, which is not installed")
    return Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"


def enlarge(images: np.ndarray) -> np.ndarray:
    """Scales each digit to the 20x20 box at the centre of 28x28 pixels, as in MNIST.

    The interpolation is linear, and the values equal those of `scipy.ndimage.zoom`.

    Args:
        images: `[n, h, w]`, 0 (background) to 16.

    Returns:
        uint8 `[n, 28, 28, 1]`, 0 to 255.
    """
    _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    box = np.zeros((len(images), _BOX_PX, _BOX_PX))
    for rows, row_weights in _taps(height):
        for columns, column_weights in _taps(width):
            taps = padded[:, rows[:, None], columns]
            box += taps * row_weights[:, None] * column_weights
    pixels = np.rint(np.clip(box, 0, _BRIGHTEST) * (255 / _BRIGHTEST)).astype(np.uint8)
    margin = (_IMAGE_PX - _BOX_PX) // 2
    return np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))[..., None]


def _taps(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns indices into a padded axis, and weights, of both neighbours of each pixel."""
    positions = (np.arange(_BOX_PX) + 0.5) * (size / _BOX_PX) - 0.5
    low = np.floor(positions).astype(int)
    fraction = positions - low
    return [(low + 1, 1 - fraction), (low + 2, fraction)]
