"""Draws test images with sampling frames, and the outputs of the transformers, as a small PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, PngImagePlugin

from experiments.plots.canvas import ORANGE, OUTSIDE, new_figure, own_settings
from experiments.plots.frame_plot import outline
from experiments.plots.image_grid import as_rgb, to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

COLOURS = (ORANGE, "#9acd32")  # one per transformer; visible on grey, magenta and cyan
MARGIN = 0.2  # around an input, in image sizes, because frames may extend beyond the image
GAP = 0.06  # between images, in image widths
IMAGE_INCHES, LINE_WIDTH = 0.6, 0.9
PALETTE_SIZE = 128


class TransformerPanel(NamedTuple):
    """Images, and the frames and outputs of the transformers that receive them.

    Attributes:
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        grids: for each transformer, source points (x, y) in normalised coordinates.
        outputs: for each transformer, its outputs.
        align_corners: whether -1 and 1 are the centres (True) or the edges of the border pixels.
    """

    inputs: Float[np.ndarray, "n h w c"]
    grids: Sequence[Float[np.ndarray, "n grid_h grid_w 2"]]
    outputs: Sequence[Float[np.ndarray, "n out_h out_w c"]]
    align_corners: bool

    @property
    def height(self) -> float:
        """The height of the panel in image widths."""
        return sum(_aspect(images) + GAP for images in (self.inputs, *self.outputs)) - GAP


@own_settings()
def draw_panel(panel: TransformerPanel, texts: Mapping[str, str]) -> bytes:
    """Draws a row of inputs with frames, and a row of outputs for each transformer below.

    Args:
        panel: the images.
        texts: text chunks of the PNG file, by keyword.

    Returns:
        The contents of a PNG file.
    """
    width = len(panel.inputs) * (1 + GAP) - GAP
    figure = new_figure(IMAGE_INCHES * width, IMAGE_INCHES * panel.height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _draw_rows(axes, panel)
    axes.set(xlim=(0, width), ylim=(panel.height, 0))
    canvas: Any = figure.canvas  # the type of the Agg canvas is not declared
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return to_small_png(Image.fromarray(pixels), texts)


def to_small_png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """Encodes an image as a PNG with few colours: a third of the size, because git stores it."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    rgb = image.convert("RGB")
    # The colours of frames are added, so that they are exact whatever the images contain.
    found = rgb.quantize(PALETTE_SIZE, Image.Quantize.MAXCOVERAGE).getpalette() or []
    fixed = [value for colour in (OUTSIDE, *COLOURS) for value in ImageColor.getrgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*found[: 3 * PALETTE_SIZE], *fixed])
    reduced = rgb.quantize(palette=palette, dither=Image.Dither.NONE)
    reduced.save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def _draw_rows(axes: Axes, panel: TransformerPanel) -> None:
    """Draws a panel from (0, 0), in image widths; y points down."""
    inputs, *outputs = as_rgb(panel.inputs, *panel.outputs)
    frames = [to_pixels(grids, inputs.shape[1:3], panel.align_corners) for grids in panel.grids]
    for i, box in enumerate(_boxes(inputs, 0)):
        box.set(facecolor=OUTSIDE, zorder=-1)
        axes.add_patch(box)
        _draw_input(axes, box, inputs[i], [frame[i] for frame in frames])
    top = _aspect(inputs) + GAP
    for images, colour in zip(outputs, COLOURS, strict=False):
        for image, box in zip(images, _boxes(images, top), strict=True):
            x, y = box.get_xy()
            axes.imshow(image, extent=(x, x + 1, y + _aspect(images), y))
            if len(outputs) > 1:  # the border shows which transformer made the output
                box.set(edgecolor=colour, linewidth=LINE_WIDTH, zorder=2)
                axes.add_patch(box)
        top += _aspect(images) + GAP


def _draw_input(
    axes: Axes,
    box: Rectangle,
    image: UInt8[np.ndarray, "h w 3"],
    frames_px: Sequence[Float[np.ndarray, "grid_h grid_w 2"]],
) -> None:
    """Draws an image in the middle of its box, and frames clipped to the box."""
    scale = 1 / (1 + 2 * MARGIN)
    size = scale * np.array([1, box.get_height()])
    start = np.array(box.get_xy()) + MARGIN * size
    end = start + size
    axes.imshow(image, extent=(start[0], end[0], end[1], start[1]))
    for frame_px, colour in zip(frames_px, COLOURS, strict=False):
        frame = start + (frame_px + 0.5) * scale / image.shape[1]  # pixels are square
        line = axes.plot(*outline(frame).T, color=colour, linewidth=LINE_WIDTH)
        dot = axes.plot(*frame[0, 0], color=colour, marker="o", markersize=2.5 * LINE_WIDTH)
        for artist in (*line, *dot):
            artist.set_clip_path(box)


def _boxes(images: np.ndarray, top: float) -> Iterator[Rectangle]:
    """The places of images in a row."""
    from matplotlib.patches import Rectangle  # slow to import

    for i in range(len(images)):
        yield Rectangle((i * (1 + GAP), top), 1, _aspect(images), facecolor="none", linewidth=0)


def _aspect(images: np.ndarray) -> float:
    """Height by width."""
    return images.shape[1] / images.shape[2]
