"""The handwritten digits of scikit-learn, in the format of MNIST."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

from experiments.datasets.dataset import Split
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
    """
    images, labels = load_digits(return_X_y=True)
    data = Split(enlarge(images.reshape(-1, 8, 8)), np.asarray(labels, dtype=np.int32))
    mask = stratified_mask(data.labels, TEST_SIZE, _TEST_SEED)
    return data.take(~mask), data.take(mask)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Scales each digit to the 20x20 box at the centre of 28x28 pixels, as in MNIST.

    Args:
        images: `[n, h, w]`, 0 (background) to 16.

    Returns:
        uint8 `[n, 28, 28, 1]`, 0 to 255.
    """
    _, height, width = images.shape
    zoom = (1, _BOX_PX / height, _BOX_PX / width)
    box = ndimage.zoom(images, zoom, order=1, mode="grid-constant", grid_mode=True)
    pixels = np.rint(np.clip(box, 0, _BRIGHTEST) * (255 / _BRIGHTEST)).astype(np.uint8)
    margin = (_IMAGE_PX - _BOX_PX) // 2
    return np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))[..., None]
