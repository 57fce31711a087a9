"""A figure of a confusion matrix and of the error of each class."""

import os

import numpy as np
from jaxtyping import Float, Int

from experiments.plots.canvas import BLUE, WIDTH_INCHES, new_figure, save

_MAX_CLASSES_WITH_ALL_TICKS = 15


def draw_confusions(
    path: str | os.PathLike[str],
    confusions: Int[np.ndarray, "c c"],
    class_errors: Float[np.ndarray, " c"],
) -> None:
    """Draws the confusion matrix, in % of the examples of each label, and the error of each class.

    The diagonal is left out: its large values would hide the confusions.

    Args:
        path: where to write; the suffix selects the format.
        confusions: the number of examples of each label (row) with each prediction (column).
        class_errors: the error of each class in %; a class with NaN gets no bar.
    """
    count = len(confusions)
    shares = 100 * confusions / np.maximum(confusions.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, np.nan)
    figure = new_figure(WIDTH_INCHES, 4.2)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    drawn = left.imshow(shares, cmap="Reds", vmin=0, vmax=max(np.nanmax(shares), 0.1))
    figure.colorbar(drawn, ax=left, shrink=0.85, label="Examples of the label (%)")
    left.set(xlabel="Prediction", ylabel="Label", title="Confusions")
    right.barh(np.arange(count), np.nan_to_num(class_errors), color=BLUE)
    right.set(xlabel="Error (%)", title="Error of each class", ylim=(count - 0.5, -0.5))
    right.grid(alpha=0.3, axis="x")
    ticks = range(0, count, 1 if count <= _MAX_CLASSES_WITH_ALL_TICKS else 5)
    left.set(xticks=ticks, yticks=ticks)
    right.set(yticks=ticks)
    save(figure, path)
