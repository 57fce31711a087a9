"""Figures of images in a grid, and of boxes on images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from experiments.plots.canvas import BLUE, ORANGE, OUTSIDE, WIDTH_INCHES, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_IMAGES = 32
_MAX_COORDINATE = 100.0  # normalised; Agg fails at very large coordinates


def draw_images(
    path: str | os.PathLike[str],
    inputs: Float[np.ndarray, "n h w c"],
    outputs: Float[np.ndarray, "n out_h out_w c"],
    titles: tuple[str, str] | None = None,
    *,
    shared_scale: bool = True,
) -> None:
    """Draws the inputs of a transformer above its outputs.

    Both panels show the same examples in the same order. Only the first 32 are drawn.

    Args:
        path: where to write; the suffix selects the format.
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        outputs: images of the same examples, of any size.
        titles: of the upper and the lower panel.
        shared_scale: whether both panels share one scale of brightness, from the darkest to the
            brightest pixel; otherwise, each panel has its own.

    Raises:
        ValueError: if the shapes do not fit.
    """
    inputs, outputs = checked_images(inputs), checked_images(outputs)
    if len(inputs) != len(outputs):
        raise ValueError(
            f"outputs must have the same length as inputs, {len(inputs)}; got {len(outputs)}"
        )
    inputs, outputs = inputs[:_MAX_IMAGES], outputs[:_MAX_IMAGES]
    count = len(inputs)
    rows = 1 if count <= 8 else 2
    columns = -(-count // rows)
    panels = as_rgb(inputs, outputs) if shared_scale else [*as_rgb(inputs), *as_rgb(outputs)]
    gap = 0.06  # in image widths
    cell_inches = min(1.2, WIDTH_INCHES / columns)
    heights = [rows * (panel.shape[1] / panel.shape[2] + gap) * cell_inches for panel in panels]
    figure = new_figure(max(3.0, columns * cell_inches), sum(heights) + 0.6)
    both = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    titles = titles or ("Input", "Output of the transformer")
    for axes, panel, title in zip(both, panels, titles, strict=True):
        _draw_panel(axes, panel, columns, gap)
        axes.set_title(title)
    save(figure, path)


def _draw_panel(axes: Axes, images: UInt8[np.ndarray, "n h w 3"], columns: int, gap: float) -> None:
    """Draws images in rows; a unit of the axes is the width of an image."""
    rows, aspect = -(-len(images) // columns), images.shape[1] / images.shape[2]
    for i, image in enumerate(images):
        left, top = (i % columns) * (1 + gap), (i // columns) * (aspect + gap)
        axes.imshow(image, extent=(left, left + 1, top + aspect, top))
    axes.set_xlim(0, columns * (1 + gap) - gap)
    axes.set_ylim(rows * (aspect + gap) - gap, 0)
    axes.set_axis_off()


def draw_boxes(
    path: str | os.PathLike[str],
    images: Float[np.ndarray, "n h w c"],
    predicted: Float[np.ndarray, "n 4"],
    true: Float[np.ndarray, "n 4"],
    *,
    columns: int,
    title: str,
    labels: Sequence[str] = (),
) -> None:
    """Draws on each image the predicted box (solid) and the true box (dashed).

    Args:
        path: where to write; the suffix selects the format.
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
    figure, cells = image_cells(images, 0.0, columns, WIDTH_INCHES)
    for boxes, colour, style in ((true, BLUE, "--"), (predicted, ORANGE, "-")):
        for axes, corners in zip(cells, np.reshape(boxes, (-1, 2, 2)), strict=True):
            (left, top), (right, bottom) = to_pixels(corners, size, align_corners=False)
            x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axes.plot(x, y, style, color=colour, linewidth=1.5, scalex=False, scaley=False)
    for axes, label in zip(cells, labels, strict=False):
        axes.set_title(label, fontsize="small")
    figure.suptitle(f"{title} (solid: predicted, dashed: true)", fontsize="medium")
    save(figure, path)


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
    images: Float[np.ndarray, "n h w c"], margin: float, columns: int, width: float
) -> tuple[Figure, list[Axes]]:
    """Creates a figure of images, each in its own axes in pixel coordinates.

    Args:
        images: grey (c = 1) or colour (c = 3) images, in any unit.
        margin: the margin around each image, in image sizes.
        columns: the number of images in a row.
        width: of the figure in inches, at most.

    Returns:
        The figure, and the axes of each image.
    """
    count, height_px, width_px, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cell = min(width / columns, 2.0)
    figure = new_figure(max(4.6, columns * cell), rows * cell * height_px / width_px + 0.4)
    cells = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in cells:
        axes.set(xticks=[], yticks=[], facecolor=OUTSIDE)
        axes.spines[:].set_visible(False)
    for axes in cells[count:]:
        axes.set_axis_off()
    for axes, image in zip(cells, as_rgb(images)[0], strict=False):
        axes.imshow(image)
        axes.set_xlim(-0.5 - margin * width_px, (1 + margin) * width_px - 0.5)
        axes.set_ylim((1 + margin) * height_px - 0.5, -0.5 - margin * height_px)
    return figure, cells[:count]


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
