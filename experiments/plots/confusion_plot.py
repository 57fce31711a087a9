"""A figure of a confusion matrix and of the error of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from experiments.plots.canvas import BLUE, GREY, add_title, new_figure, own_settings
from experiments.plots.class_labels import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MAX_CLASSES = 50  # more would not be legible
_NAME_WIDTH = 20  # characters
_CHARACTER = 0.08  # the width of one in a name, in inches
_BARS = 2.6  # the width of the right axes, in inches
_GAP = 0.3  # between the axes, in inches
_DARK = 0.55  # of the largest share: numbers on such cells are white


@own_settings()
def draw_confusions(
    confusions: Int[np.ndarray, "c c"],
    class_errors: Float[np.ndarray, " c"],
    class_names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draws the confusion matrix with its counts, and the error of each class.

    Colours show the share of each label's examples in %. The diagonal has no colour, because its
    large values would hide the confusions. Of more than 50 classes, those with the most errors are
    drawn.

    Args:
        confusions: the number of examples of each label (row) with each prediction (column).
        class_errors: the error of each class in %; a class with NaN gets no bar.
        class_names: the name of each class. Empty: their numbers.
        title: of the figure.
    """
    examples = confusions.sum(axis=1)
    shown = _shown_classes(confusions)
    part = np.ix_(shown, shown)
    shares = 100 * confusions / np.maximum(examples[:, None], 1)
    names = short_names(class_names or list(map(str, range(len(confusions)))), _NAME_WIDTH)
    layout = _Layout([names[i] for i in shown])
    figure = layout.new_figure()
    left = layout.add_axes(figure, 0.0, layout.matrix, layout.below, layout.matrix)
    drawn = _draw_matrix(left, confusions[part], shares[part], layout)
    right = layout.add_axes(figure, layout.matrix + _GAP, _BARS, layout.below, layout.matrix)
    _draw_errors(right, class_errors[shown], examples[shown])
    right.set_ylim(left.get_ylim())
    bar = layout.add_axes(figure, 0.0, max(layout.matrix, 2.5), 0.55, 0.12)
    label = "Share of the label's examples (%)"
    figure.colorbar(drawn, cax=bar, orientation="horizontal", label=label)
    add_title(figure, title, _heading(confusions, len(shown)))
    return figure


def _shown_classes(confusions: Int[np.ndarray, "c c"]) -> Int[np.ndarray, " m"]:
    """All classes, or those with the most errors."""
    missed = confusions.sum(axis=1) - np.diag(confusions)
    return np.sort(np.argsort(-missed, kind="stable")[:_MAX_CLASSES])


def _heading(confusions: Int[np.ndarray, "c c"], shown: int) -> str:
    total = int(confusions.sum())
    errors = total - int(np.trace(confusions))
    share = 100 * errors / max(total, 1)
    heading = f"{errors:,} of {total:,} test examples are misclassified ({share:.3g} %)"
    if shown == len(confusions):
        return heading
    return f"{heading}; the {shown} of {len(confusions)} classes with the most errors"


class _Layout:
    """The places of the axes, in inches, so that numbers fit into the cells of the matrix.

    Args:
        names: of the classes.

    Attributes:
        names: of the classes.
        cell: the side of a cell.
        matrix: the side of the matrix.
        is_upright: whether the names below the matrix are.
        below: from the bottom of the figure to the matrix.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.cell = float(np.clip(4.2 / len(names), 0.2, 0.8))
        self.matrix = self.cell * len(names)
        name = _CHARACTER * max(map(len, names))
        self.is_upright = name > self.cell
        self.below = 1.1 + (name if self.is_upright else 0.2)
        self._left = 0.5 + name
        width = self._left + max(self.matrix, 2.5) + _GAP + _BARS + 0.2
        self._size = width, self.below + self.matrix + 0.85

    def new_figure(self) -> Figure:
        """An empty figure of this size."""
        figure = new_figure(*self._size)
        figure.set_layout_engine("none")
        return figure

    def add_axes(
        self, figure: Figure, left: float, width: float, bottom: float, height: float
    ) -> Axes:
        """Adds axes whose left edge is relative to that of the matrix."""
        total_width, total_height = self._size
        left = (self._left + left) / total_width
        place = left, bottom / total_height, width / total_width, height / total_height
        return figure.add_axes(place)


def _font_size(cell_inches: float, characters: int) -> float:
    """The size of a font of which so many characters fit into a cell, in points."""
    return float(np.clip(72 * cell_inches * 0.9 / (0.62 * characters), 4.5, 9.0))


def _draw_matrix(
    axes: Axes,
    counts: Int[np.ndarray, "c c"],
    shares: Float[np.ndarray, "c c"],
    layout: _Layout,
) -> AxesImage:
    shares = shares.copy()
    np.fill_diagonal(shares, np.nan)
    largest = max(np.nan_to_num(shares).max(), 0.1)
    drawn = axes.imshow(shares, cmap="Reds", vmin=0, vmax=largest)
    size = _font_size(layout.cell, len(str(counts.max())))
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        dark = shares[row, column] > _DARK * largest
        colour = GREY if row == column else "white" if dark else "black"
        axes.text(column, row, count, ha="center", va="center", fontsize=size, color=colour)
    axes.set(xlabel="Prediction", ylabel="Label", title="Number of examples")
    axes.set_xticks(range(len(counts)), layout.names, rotation=90 * layout.is_upright)
    axes.set_yticks(range(len(counts)), layout.names)
    axes.tick_params(labelsize="small", length=2)
    return drawn


def _draw_errors(
    axes: Axes, class_errors: Float[np.ndarray, " c"], examples: Int[np.ndarray, " c"]
) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(len(examples))
    errors = np.nan_to_num(class_errors)
    axes.barh(places, errors, color=BLUE)
    for place, error, count in zip(places, errors, examples, strict=True):
        text = f" of {count:,}" if count else " no examples"
        axes.text(error, place, text, va="center", fontsize="small", color=GREY)
    highest = max(errors.max(), 1.0)
    axes.set(xlabel="Error (%)", title="Error of each class")
    ticks = MaxNLocator(5).tick_values(0, highest)
    axes.set_xticks([tick for tick in ticks if tick <= 100])
    axes.set_xlim(0, 1.35 * highest)  # room for the texts
    axes.grid(True, axis="x")
    axes.set_yticks([])
