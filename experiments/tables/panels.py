"""Draws what transformers do with a few images, one panel for each network, from plain arrays."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, PngImagePlugin

from experiments import figures

COLOURS = ("#ff7f0e", "#9acd32")  # of a network's transformers; seen on grey, magenta and cyan
GROUND = "#d0d0d0"  # around an image
MARGIN = 0.2  # around an input, in sizes of the image: frames may reach over its edge
GAP, WIDE_GAP = 0.06, 0.4  # between images and between panels, in widths of an image
LABELS = 0.5  # room for names, in widths of an image
WIDTH_INCHES, IMAGE_INCHES = 10.0, 0.6
SHADES = 128


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
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Mapping[tuple[str, str], Panel],
    texts: Mapping[str, str],
) -> bytes:
    """A table of panels: inputs with frames, and what each transformer makes of them below.

    Args:
        rows: names of rows.
        columns: names of columns.
        panels: by (row, column); where there is none, the place is empty.
        texts: to be kept in the file, by name.

    Returns:
        The picture as a PNG.
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
                _draw_panel(axes, panels[name, column], (left, top), 1.5 * unit)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    return _as_png(figure, texts)


def _as_png(figure: Any, texts: Mapping[str, str]) -> bytes:
    """A figure as a PNG of few colours, which is a third of the size: pictures are kept in git."""
    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    few = drawn.quantize(SHADES, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def _draw_panel(axes: Any, panel: Panel, corner: tuple[float, float], line_width: float) -> None:
    """Draws a panel with its upper left corner at a place."""
    left, top = corner
    inputs, *outputs = figures.as_rgb(panel.inputs, *panel.outputs)
    frames = [
        figures.to_pixels(grids, inputs.shape[1:3], panel.align_corners) for grids in panel.grids
    ]
    for i, cell in enumerate(_cells(inputs, left, top)):
        cell.set(facecolor=GROUND, zorder=-1)
        axes.add_patch(cell)
        _draw_framed(axes, cell, inputs[i], [frame[i] for frame in frames], line_width)
    top += _aspect(inputs) + GAP
    for images, colour in zip(outputs, COLOURS, strict=False):
        for image, cell in zip(images, _cells(images, left, top), strict=True):
            x, y = cell.get_xy()
            axes.imshow(image, extent=(x, x + 1, y + _aspect(images), y))
            if len(outputs) > 1:  # whose it is
                cell.set(edgecolor=colour, linewidth=line_width, zorder=2)
                axes.add_patch(cell)
        top += _aspect(images) + GAP


def _draw_framed(
    axes: Any, cell: Any, image: np.ndarray, frames_px: Sequence[np.ndarray], line_width: float
) -> None:
    """Draws an image amid its cell, and frames as far as the cell reaches."""
    scale = 1 / (1 + 2 * MARGIN)
    size = scale * np.array([1, cell.get_height()])
    start = np.array(cell.get_xy()) + MARGIN * size
    end = start + size
    axes.imshow(image, extent=(start[0], end[0], end[1], start[1]))
    for frame_px, colour in zip(frames_px, COLOURS, strict=False):
        frame = start + (frame_px + 0.5) * scale / image.shape[1]  # pixels are square
        line = axes.plot(*figures.outline(frame).T, color=colour, linewidth=line_width)
        dot = axes.plot(*frame[0, 0], color=colour, marker="o", markersize=2.5 * line_width)
        for artist in (*line, *dot):
            artist.set_clip_path(cell)


def _cells(images: np.ndarray, left: float, top: float) -> Iterator[Any]:
    """The places of images in a row, as rectangles."""
    from matplotlib.patches import Rectangle

    for i in range(len(images)):
        place = (left + i * (1 + GAP), top)
        yield Rectangle(place, 1, _aspect(images), facecolor="none", linewidth=0)


def _aspect(images: np.ndarray) -> float:
    return images.shape[1] / images.shape[2]
