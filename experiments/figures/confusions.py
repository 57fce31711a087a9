"""The picture of what a network takes for what."""

import os

import numpy as np
from jaxtyping import Float, Int

from experiments.figures.canvas import BLUE, WIDTH_INCHES, new_figure, save

_LABELLED = 15  # classes, up to which each is a tick


def class_errors(confusions: Int[np.ndarray, "c c"]) -> Float[np.ndarray, " c"]:
    """The error of each class in %, NaN of one without an example."""
    counts = confusions.sum(axis=1)
    right = np.divide(np.diag(confusions), counts, np.full(len(counts), np.nan), where=counts > 0)
    return 100 * (1 - right)


def draw_confusions(path: str | os.PathLike[str], confusions: Int[np.ndarray, "c c"]) -> None:
    """Draws the confusions, in % of each label's examples, and the error of each class.

    What is predicted right is left out: it would outshine the rest.

    Args:
        path: where to write; the ending says the format.
        confusions: how many examples of each label, a row each, have each prediction.
    """
    count = len(confusions)
    shares = 100 * confusions / np.maximum(confusions.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, np.nan)
    figure = new_figure(WIDTH_INCHES, 4.2)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    drawn = left.imshow(shares, cmap="Reds", vmin=0, vmax=max(np.nanmax(shares), 0.1))
    figure.colorbar(drawn, ax=left, shrink=0.85, label="Examples of the label (%)")
    left.set(xlabel="Prediction", ylabel="Label", title="Confusions")
    right.barh(np.arange(count), np.nan_to_num(class_errors(confusions)), color=BLUE)
    right.set(xlabel="Error (%)", title="Error of each class", ylim=(count - 0.5, -0.5))
    right.grid(alpha=0.3, axis="x")
    step = 1 if count <= _LABELLED else 5
    left.set(xticks=range(0, count, step), yticks=range(0, count, step))
    right.set(yticks=range(0, count, step))
    save(figure, path)
