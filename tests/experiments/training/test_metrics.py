"""Metrics of the test set."""

import numpy as np

from experiments.training.metrics import class_errors


def test_class_errors_are_in_percent_and_nan_for_empty_classes() -> None:
    confusions = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 0]])
    np.testing.assert_allclose(class_errors(confusions), [25, np.nan, 100])
