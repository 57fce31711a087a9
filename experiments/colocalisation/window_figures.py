"""The figures of a co-localisation: windows and true boxes on the images."""

from typing import Any

import numpy as np

from experiments.colocalisation.digit_images import DIGITS, Sets
from experiments.plots.figure_folder import FigureFolder
from experiments.plots.image_grid import draw_boxes

SHOWN = 8  # the digit whose training is drawn, as in the paper


def draw(figures: FigureFolder, sets: Sets, stages: dict[int, np.ndarray]) -> None:
    """Draws the windows of the first images of each digit, and of one digit over the training."""
    last, count = max(stages), min(8, sets.images.shape[1])
    with figures.drawing("windows.png"):
        figure = draw_boxes(
            *(_rows(each[:, :count]) for each in (sets.images, stages[last], sets.boxes)),
            columns=count,
            title="The first images of each digit",
        )
        figures.save(figure, "windows.png")
    with figures.drawing("training.png"):
        epochs = _spread(sorted(stages), 8)
        rows = min(4, count)

        def over_time(first: Any) -> np.ndarray:
            return _rows(np.stack([np.asarray(first)] * len(epochs), axis=1))

        shown = np.stack([stages[epoch][SHOWN, :rows] for epoch in epochs], axis=1)
        figure = draw_boxes(
            over_time(sets.images[SHOWN, :rows]),
            _rows(shown),
            over_time(sets.boxes[SHOWN, :rows]),
            columns=len(epochs),
            title=f"Images of the digit {DIGITS[SHOWN]} over the training",
            labels=[f"epoch {epoch}" for epoch in epochs],
        )
        figures.save(figure, "training.png")


def _rows(arrays: Any) -> np.ndarray:
    """Merges the first two axes."""
    return np.reshape(arrays, (-1, *np.shape(arrays)[2:]))


def _spread(epochs: list[int], most: int) -> list[int]:
    """At most `most` epochs, denser at the start, when windows move most."""
    places = np.linspace(0, 1, most) ** 2 * (len(epochs) - 1)
    return [epochs[i] for i in np.unique(np.round(places).astype(int))]
