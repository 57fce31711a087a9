"""Figures of images in a grid, and of boxes on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from experiments.plots.canvas import (
    BLUE,
    ORANGE,
    OUTSIDE,
    RED,
    WIDTH_INCHES,
    add_title,
    new_figure,
    own_settings,
)
from experiments.plots.class_labels import Caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_IMAGES = 20
_MAX_COLUMNS = 10
_GAP = 0.06  # between images, in image widths
_SPACE = 0.08  # between axes of images, in inches
_POINT = 1 / 72  # inches
_MAX_COORDINATE = 100.0  # normalised; Agg fails at very large coordinates


@own_settings()
def draw_images(
    inputs: Float[np.ndarray, "n h w c"],
    outputs: Float[np.ndarray, "n out_h out_w c"] | None = None,
    names: tuple[str, str] = ("Input", "Output"),
    *,
    title: str = "",
    captions: Sequence[Caption] = (),
    shared_scale: bool = True,
) -> Figure:
    """Draws the inputs of a transformer, and below each of them the output.

    Only the first 20 images are drawn.

    Args:
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        outputs: images of the same examples, of any size; None to draw only the inputs.
        names: of a row of inputs and of a row of outputs.
        title: of the figure.
        captions: of the first images.
        shared_scale: whether inputs and outputs share one scale of brightness, from the darkest to
            the brightest pixel; otherwise, each has its own.

    Raises:
        ValueError: if the shapes do not fit.
    """
    inputs = checked_images(inputs)
    groups = [inputs] if outputs is None else [inputs, checked_images(outputs)]
    if len(groups[-1]) != len(inputs):
        raise ValueError(
            f"outputs must have the same length as inputs, {len(inputs)}; got {len(groups[-1])}"
        )
    groups = [group[:_MAX_IMAGES] for group in groups]
    pixels = as_rgb(*groups) if shared_scale else [as_rgb(group)[0] for group in groups]
    return _draw_blocks(pixels, names, title, captions[:_MAX_IMAGES])


def _draw_blocks(
    groups: Sequence[UInt8[np.ndarray, "n h w 3"]],
    names: Sequence[str],
    title: str,
    captions: Sequence[Caption],
) -> Figure:
    """Draws rows of images in blocks: a row of each group, then the captions.

    A unit of the axes is the width of an image.
    """
    columns = min(len(groups[0]), _MAX_COLUMNS)
    blocks = -(-len(groups[0]) // columns)
    cell_inches = min(1.5, WIDTH_INCHES / (columns + 0.3))
    text_height = _caption_height(captions) / cell_inches
    heights = [group.shape[1] / group.shape[2] + _GAP for group in groups]
    block_height = sum(heights) + text_height + _GAP
    width, height = columns * (1 + _GAP) - _GAP, blocks * block_height
    figure = new_figure(max(4.0, (width + 0.3) * cell_inches), height * cell_inches + 0.5)
    axes = figure.add_subplot()
    for block in range(blocks):
        part, top = slice(block * columns, (block + 1) * columns), block * block_height
        for group, row_height, name in zip(groups, heights, names, strict=False):
            _draw_row(axes, group[part], top, name)
            top += row_height
        for i, caption in enumerate(captions[part]):
            place = {"ha": "center", "va": "top", "fontsize": _caption_size(captions)}
            axes.text(0.5 + i * (1 + _GAP), top, caption.text, color=_colour(caption), **place)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    add_title(figure, title)
    return figure


def _draw_row(axes: Axes, images: UInt8[np.ndarray, "n h w 3"], top: float, name: str) -> None:
    aspect = images.shape[1] / images.shape[2]
    for i, image in enumerate(images):
        left = i * (1 + _GAP)
        axes.imshow(image, extent=(left, left + 1, top + aspect, top))
    axes.text(-0.06, top + aspect / 2, name, rotation=90, ha="right", va="center", fontsize="small")


def _caption_size(captions: Sequence[Caption]) -> float:
    """The size of the font, in points: smaller if a line is long."""
    longest = max((len(line) for each in captions for line in each.text.split("\n")), default=0)
    return 8.0 if longest <= 11 else 7.0


def _caption_height(captions: Sequence[Caption]) -> float:
    """The height of the captions in inches."""
    lines = max((each.text.count("\n") + 1 for each in captions), default=0)
    return 1.3 * lines * _caption_size(captions) * _POINT


def _colour(caption: Caption) -> str:
    return RED if caption.is_wrong else "black"


@own_settings()
def draw_boxes(
    images: Float[np.ndarray, "n h w c"],
    predicted: Float[np.ndarray, "n 4"],
    true: Float[np.ndarray, "n 4"],
    *,
    columns: int,
    title: str,
    labels: Sequence[str] = (),
) -> Figure:
    """Draws on each image the predicted box (solid) and the true box (dashed).

    Args:
        images: grey (c = 1) or colour (c = 3) images, in any unit.
        predicted: boxes (left, top, right, bottom) in normalised coordinates.
        true: boxes in the same form.
        columns: the number of images in a row.
        title: of the figure.
        labels: titles of the first images.

    Raises:
        ValueError: if the shapes do not fit.
    """
    images = checked_images(images)
    if not len(images) == len(predicted) == len(true):
        raise ValueError(
            f"predicted and true must have one box for each of {len(images)} images; "
            f"got {len(predicted)} and {len(true)}"
        )
    size = images.shape[1:3]
    figure, cells = image_cells(
        images,
        np.zeros(len(images)),
        f"{title} (solid: predicted, dashed: true)",
        columns=columns,
        headings=labels,
    )
    for boxes, colour, style in ((true, BLUE, "--"), (predicted, ORANGE, "-")):
        for axes, corners in zip(cells, np.reshape(boxes, (-1, 2, 2)), strict=True):
            (left, top), (right, bottom) = to_pixels(corners, size, align_corners=False)
            x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axes.plot(x, y, style, color=colour, linewidth=1.5, scalex=False, scaley=False)
    return figure


def checked_images(images: np.ndarray) -> Float[np.ndarray, "n h w c"]:
    """Converts images to float32; raises `ValueError` unless they are grey or colour images."""
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be [n, h, w, 1] or [n, h, w, 3]; got {images.shape}")
    return images


def as_rgb(*groups: Float[np.ndarray, "_ _ _ _"]) -> list[UInt8[np.ndarray, "_ _ _ 3"]]:
    """Converts images in any unit to bytes, with one scale for all groups; NaN becomes black."""
    values = np.concatenate([group[np.isfinite(group)] for group in groups])
    if not len(values):
        values = np.zeros(1, np.float32)
    # Quantiles, because a single outlier would darken all other pixels.
    low, high = np.quantile(values, [0.001, 0.999])
    if low == high:
        low, high = values.min(), values.max()
    scaled = [(group - low) / (high - low if high > low else 1) for group in groups]
    finite = [np.nan_to_num(group, posinf=1, neginf=0).clip(0, 1) for group in scaled]
    return [
        np.broadcast_to(np.round(255 * group).astype(np.uint8), (*group.shape[:-1], 3))
        for group in finite
    ]


def image_cells(
    images: Float[np.ndarray, "n h w c"],
    margins: Float[np.ndarray, " n"],
    title: str,
    *,
    columns: int,
    width: float = WIDTH_INCHES,
    captions: Sequence[Caption] = (),
    headings: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Creates a figure of images, each in its own axes in pixel coordinates.

    Args:
        images: grey (c = 1) or colour (c = 3) images, in any unit.
        margins: the margin around each image, in image sizes.
        title: of the figure.
        columns: the number of images in a row.
        width: of the figure in inches, at most.
        captions: of the first images.
        headings: texts above the first images.

    Returns:
        The figure, and the axes of each image.
    """
    _, height_px, width_px, _ = images.shape
    place = _Places(images.shape, columns, width, title, captions, headings)
    figure = new_figure(*place.size)
    # The sizes of all texts are known, and the automatic layout cuts off captions.
    figure.set_layout_engine("none")
    figure.suptitle(title, y=1 - 0.05 / place.size[1])
    cells = []
    for i, (image, margin) in enumerate(zip(as_rgb(images)[0], margins, strict=True)):
        axes = figure.add_axes(place.of_cell(i))
        axes.set(xticks=[], yticks=[], facecolor=OUTSIDE)
        axes.spines[:].set_visible(False)
        axes.imshow(image)
        axes.set_xlim(-0.5 - margin * width_px, (1 + margin) * width_px - 0.5)
        axes.set_ylim((1 + margin) * height_px - 0.5, -0.5 - margin * height_px)
        cells.append(axes)
    for axes, caption in zip(cells, captions, strict=False):
        axes.set_xlabel(caption.text, fontsize=_caption_size(captions), color=_colour(caption))
    for axes, heading in zip(cells, headings, strict=False):
        axes.set_title(heading, fontsize="small")
    return figure, cells


class _Places:
    """The places of images in a figure.

    Args:
        shape: of the images, (n, h, w, c).
        columns: the number of images in a row.
        width: of the figure in inches, at most.
        title: of the figure.
        captions: below the images.
        headings: above the images.

    Attributes:
        size: (width, height) of the figure in inches.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        columns: int,
        width: float,
        title: str,
        captions: Sequence[Caption],
        headings: Sequence[str],
    ) -> None:
        count, height_px, width_px, _ = shape
        self._columns = min(columns, count)
        self._column = min(width / self._columns, 2.0)
        self._cell = self._column - _SPACE, (self._column - _SPACE) * height_px / width_px
        self._above = 0.22 if headings else 0.0
        below = _caption_height(captions) + 0.05 if captions else 0.0
        self._row = self._above + self._cell[1] + below + _SPACE
        self._header = 0.15 + 0.19 * len(title.splitlines())
        rows = -(-count // self._columns)
        self.size = max(5.2, self._columns * self._column), self._header + rows * self._row

    def of_cell(self, index: int) -> tuple[float, float, float, float]:
        """(left, bottom, width, height) of an image, as shares of the figure."""
        row, column = divmod(index, self._columns)
        (width, height), (cell_width, cell_height) = self.size, self._cell
        left = (width - self._columns * self._column + _SPACE) / 2 + column * self._column
        top = self._header + row * self._row + self._above
        return (
            left / width,
            1 - (top + cell_height) / height,
            cell_width / width,
            cell_height / height,
        )


def to_pixels(
    grids: Float[np.ndarray, "*_ 2"], size: tuple[int, ...], align_corners: bool
) -> Float[np.ndarray, "*_ 2"]:
    """Converts normalised points to pixels of an image of size (height, width); inf becomes NaN."""
    width_height = np.array(size[::-1], np.float64)
    finite = np.isfinite(grids).all(-1, keepdims=True)
    points = np.where(finite, grids, np.nan).clip(-_MAX_COORDINATE, _MAX_COORDINATE)
    if align_corners:
        return (points + 1) / 2 * (width_height - 1)
    return ((points + 1) * width_height - 1) / 2
