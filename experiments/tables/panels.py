"""Draws what transformers do with a few images, one panel for each network, from plain arrays."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import figures

COLOURS = ("#ff7f0e", "#9acd32")  # of a network's transformers; seen on grey, magenta and cyan
GROUND = "#d0d0d0"  # around an image
MARGIN = 0.2  # around an input, in sizes of the image: frames may reach over its edge
GAP, WIDE_GAP = 0.06, 0.4  # between images and between panels, in widths of an image
LABELS = 0.5  # room for names, in widths of an image
WIDTH_INCHES, IMAGE_INCHES = 8.0, 0.6


class Panel(NamedTuple):
    """A few images and what the transformers of a network do with them.

    Attributes:
        inputs: grey or colour, in any unit.
        grids: of each transformer that looks at them, source points (x, y), normalised.
        outputs: of each of these transformers.
        align_corners: whether -1 and 1 are centres (True) or edges of the outermost pixels.
    """

    inputs: Float[np.ndarray, "n h w c"]
    grids: Sequence[Float[np.ndarray, "n grid_h grid_w 2"]]
    outputs: Sequence[Float[np.ndarray, "n out_h out_w c"]]
    align_corners: bool

    @property
    def height(self) -> float:
        """In widths of an image."""
        return sum(_aspect(images) + GAP for images in (self.inputs, *self.outputs))


def draw_panels(
    path: pathlib.Path,
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Mapping[tuple[str, str], Panel],
    metadata: Mapping[str, str],
) -> None:
    """Draws a table of panels: inputs with frames, and what each transformer makes of them below.

    Args:
        path: where to write; the ending says the format.
        rows: names of rows.
        columns: names of columns.
        panels: by (row, column); where there is none, the place is empty.
        metadata: texts to be kept in the file.
    """
    width = max(len(panel.inputs) for panel in panels.values()) * (1 + GAP) - GAP + WIDE_GAP
    heights = [max(panels[at].height for at in panels if at[0] == row) + WIDE_GAP for row in rows]
    size = LABELS + len(columns) * width - WIDE_GAP, LABELS + sum(heights) - WIDE_GAP
    unit = min(IMAGE_INCHES, WIDTH_INCHES / size[0])
    figure = figures.new_figure(unit * size[0], unit * size[1])
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    lefts = [LABELS + i * width for i in range(len(columns))]
    tops = [LABELS + float(top) for top in np.cumsum([0, *heights[:-1]])]
    text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": max(5.0, 15 * unit)}
    for name, left in zip(columns, lefts, strict=True):
        axes.text(left + (width - WIDE_GAP) / 2, LABELS / 2, name, **text)
    for name, top, height in zip(rows, tops, heights, strict=True):
        axes.text(LABELS / 2, top + (height - WIDE_GAP) / 2, name, rotation=90, **text)
        for column, left in zip(columns, lefts, strict=True):
            if (name, column) in panels:
                _draw_panel(axes, panels[name, column], left, top)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    figures.save(figure, path, metadata)


def _draw_panel(axes: Any, panel: Panel, left: float, top: float) -> None:
    inputs, *outputs = figures.as_rgb(panel.inputs, *panel.outputs)
    shape, height = inputs.shape[1:3], _aspect(inputs)
    frames = [figures.to_pixels(grids, shape, panel.align_corners) for grids in panel.grids]
    for i, cell in _cells(len(inputs), left, top, height):
        axes.add_patch(cell)
        x, y = cell.get_xy()
        scale = 1 / (1 + 2 * MARGIN)
        inner = np.array([x, y]) + MARGIN * scale * np.array([1, height])
        right, bottom = inner + scale * np.array([1, height])
        axes.imshow(inputs[i], extent=(inner[0], right, bottom, inner[1]))
        for frame, colour in zip(frames, COLOURS, strict=False):
            # Pixels are of one width here, as they are high.
            place = inner + (frame[i] + 0.5) * scale / shape[1]
            line = axes.plot(*figures.outline(place).T, color=colour, linewidth=0.9)
            dot = axes.plot(*place[0, 0], color=colour, marker="o", markersize=2.2)
            for artist in (*line, *dot):
                artist.set_clip_path(cell)
    top += height + GAP
    for images, colour in zip(outputs, COLOURS, strict=False):
        for i, cell in _cells(len(images), left, top, _aspect(images)):
            x, y = cell.get_xy()
            axes.imshow(images[i], extent=(x, x + 1, y + _aspect(images), y))
            if len(outputs) > 1:
                cell.set(facecolor="none", edgecolor=colour, linewidth=1.2, zorder=2)
                axes.add_patch(cell)
        top += _aspect(images) + GAP


def _cells(count: int, left: float, top: float, height: float) -> Iterator[tuple[int, Any]]:
    """The places of images in a row, numbered, as rectangles."""
    from matplotlib.patches import Rectangle

    for i in range(count):
        place = (left + i * (1 + GAP), top)
        yield i, Rectangle(place, 1, height, facecolor=GROUND, linewidth=0, zorder=-1)


def _aspect(images: np.ndarray) -> float:
    return images.shape[1] / images.shape[2]
