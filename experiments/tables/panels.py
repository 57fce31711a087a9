"""Draws what the transformers of a network do with a few images, from plain arrays."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageColor, PngImagePlugin

from experiments.figures.canvas import ORANGE, OUTSIDE, new_figure
from experiments.figures.frames import outline
from experiments.figures.images import as_rgb, to_pixels

COLOURS = (ORANGE, "#9acd32")  # of a network's transformers; seen on grey, magenta and cyan
MARGIN = 0.2  # around an input, in sizes of the image: frames may reach over its edge
GAP = 0.06  # between images, in widths of an image
IMAGE_INCHES, LINE_WIDTH = 0.6, 0.9
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
        return sum(_aspect(images) + GAP for images in (self.inputs, *self.outputs)) - GAP


def draw_panel(panel: Panel, texts: Mapping[str, str]) -> bytes:
    """Inputs with frames, and what each transformer makes of them below, as a PNG.

    Args:
        panel: what is drawn.
        texts: to be kept in the file, by name.
    """
    width = len(panel.inputs) * (1 + GAP) - GAP
    figure = new_figure(IMAGE_INCHES * width, IMAGE_INCHES * panel.height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _draw(axes, panel)
    axes.set(xlim=(0, width), ylim=(panel.height, 0))
    canvas: Any = figure.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return as_png(Image.fromarray(pixels), texts)


def as_png(picture: Image.Image, texts: Mapping[str, str]) -> bytes:
    """A PNG of few colours, which is a third of the size: pictures are kept in git."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    pixels = picture.convert("RGB")
    # The colours of the drawing itself are among them exactly, whatever the images need.
    found = pixels.quantize(SHADES, Image.Quantize.MAXCOVERAGE).getpalette() or []
    own = [value for colour in (OUTSIDE, *COLOURS) for value in ImageColor.getrgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*found[: 3 * SHADES], *own])
    few = pixels.quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def _draw(axes: Any, panel: Panel) -> None:
    """Draws a panel from (0, 0), in widths of an image; y goes down."""
    inputs, *outputs = as_rgb(panel.inputs, *panel.outputs)
    frames = [to_pixels(grids, inputs.shape[1:3], panel.align_corners) for grids in panel.grids]
    for i, cell in enumerate(_cells(inputs, 0)):
        cell.set(facecolor=OUTSIDE, zorder=-1)
        axes.add_patch(cell)
        _draw_framed(axes, cell, inputs[i], [frame[i] for frame in frames])
    top = _aspect(inputs) + GAP
    for images, colour in zip(outputs, COLOURS, strict=False):
        for image, cell in zip(images, _cells(images, top), strict=True):
            x, y = cell.get_xy()
            axes.imshow(image, extent=(x, x + 1, y + _aspect(images), y))
            if len(outputs) > 1:  # whose it is
                cell.set(edgecolor=colour, linewidth=LINE_WIDTH, zorder=2)
                axes.add_patch(cell)
        top += _aspect(images) + GAP


def _draw_framed(axes: Any, cell: Any, image: np.ndarray, frames_px: Sequence[np.ndarray]) -> None:
    """Draws an image amid its cell, and frames as far as the cell reaches."""
    scale = 1 / (1 + 2 * MARGIN)
    size = scale * np.array([1, cell.get_height()])
    start = np.array(cell.get_xy()) + MARGIN * size
    end = start + size
    axes.imshow(image, extent=(start[0], end[0], end[1], start[1]))
    for frame_px, colour in zip(frames_px, COLOURS, strict=False):
        frame = start + (frame_px + 0.5) * scale / image.shape[1]  # pixels are square
        line = axes.plot(*outline(frame).T, color=colour, linewidth=LINE_WIDTH)
        dot = axes.plot(*frame[0, 0], color=colour, marker="o", markersize=2.5 * LINE_WIDTH)
        for artist in (*line, *dot):
            artist.set_clip_path(cell)


def _cells(images: np.ndarray, top: float) -> Iterator[Any]:
    """The places of images in a row, as rectangles."""
    from matplotlib.patches import Rectangle

    for i in range(len(images)):
        yield Rectangle((i * (1 + GAP), top), 1, _aspect(images), facecolor="none", linewidth=0)


def _aspect(images: np.ndarray) -> float:
    return images.shape[1] / images.shape[2]
