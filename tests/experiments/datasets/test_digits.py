"""The digits of scikit-learn."""

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

from experiments.datasets import digits, load


def test_sizes_and_types_of_splits():
    data = load("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1097, 200, 500)
    assert data.num_classes == 10
    for split in (data.train, data.validation, data.test):
        assert split.images.shape[1:] == (28, 28, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert split.images.max() == 255
        assert np.bincount(split.labels).min() >= 0.09 * len(split)


def test_enlarged_digit_fills_exactly_the_central_box():
    image = digits.enlarge(np.full((1, 8, 8), 16.0))[0, :, :, 0]
    rows, columns = np.nonzero(image)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 23, 4, 23)
    np.testing.assert_array_equal(image, image[::-1, ::-1])
    assert image[8:20, 8:20].min() == 255
    assert 0 < image[4, 14] < 255


def test_enlarging_keeps_orientation():
    corner = np.zeros((1, 8, 8))
    corner[0, 1, 6] = 16.0
    row, column = np.unravel_index(digits.enlarge(corner)[0, :, :, 0].argmax(), (28, 28))
    assert row < 14 < column


def test_test_split_is_the_same_in_every_load():
    first, second = load("digits"), load("digits", validation_size=7)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert len(second.validation) == 7


def test_digits_are_those_of_scikit_learn_enlarged_by_scipy():
    images, labels = load_digits(return_X_y=True)
    box = ndimage.zoom(
        images.reshape(-1, 8, 8), (1, 2.5, 2.5), order=1, mode="grid-constant", grid_mode=True
    )
    expected = np.rint(box * (255 / 16)).astype(np.uint8)
    train, test = digits.read()
    found = np.concatenate([train.images, test.images])[:, 4:24, 4:24, 0]
    # The splits are in another order.
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))
    found_labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(np.bincount(found_labels), np.bincount(labels))
