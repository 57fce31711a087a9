"""Figures and animations of where a transformer samples its input."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from experiments.plots.canvas import ORANGE, OUTSIDE, WIDTH_INCHES, save, write_figure
from experiments.plots.image_grid import checked_images, image_cells, to_pixels

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_MAX_IMAGES = 16
_MAX_ANIMATED = 8
_LINE_POINTS = 41  # a curved line is drawn through at most this many points
_MESH_LINES = 5


def draw_frames(
    path: str | os.PathLike[str],
    inputs: Float[np.ndarray, "n h w c"],
    grids: Float[np.ndarray, "n out_h out_w 2"],
    *,
    align_corners: bool = False,
) -> None:
    """Draws on each input the frame that its transformer samples.

    The outline connects the outermost sampled points, and mesh lines inside show curvature. A dot
    marks the upper left corner of the output, and a thicker line its upper edge. Only the first 16
    images are drawn.

    Args:
        path: where to write; the suffix selects the format.
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        grids: sampled points (x, y) in normalised coordinates. Points that are not finite are left
            out.
        align_corners: whether -1 and 1 are the centres (True) or the edges (False) of the outermost
            pixels.

    Raises:
        ValueError: if the shapes do not fit.
    """
    inputs, grids = checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "n h w 2")
    inputs, grids = inputs[:_MAX_IMAGES], grids[:_MAX_IMAGES]
    frames_px = to_pixels(grids, inputs.shape[1:3], align_corners)
    figure, cells = image_cells(
        inputs, _margin(frames_px, inputs.shape[1:3]), columns=8, width=WIDTH_INCHES
    )
    for axes, frame_px in zip(cells, frames_px, strict=True):
        _set_frame(_frame_artists(axes), frame_px)
        if not np.isfinite(frame_px).any():
            axes.text(
                0.5, 0.03, "not finite", transform=axes.transAxes, ha="center", fontsize="small"
            )
    title = "Sampled part of each input (dot: upper left corner of the output)"
    figure.suptitle(title, fontsize="medium")
    save(figure, path)


def animate_frames(
    path: str | os.PathLike[str],
    inputs: Float[np.ndarray, "n h w c"],
    grids: Float[np.ndarray, "e n out_h out_w 2"],
    epochs: Num[np.ndarray, " e"],
    *,
    align_corners: bool = False,
    max_frames: int = 60,
) -> None:
    """Writes a GIF that shows how the sampled frames move during training.

    Only the first 8 images are drawn, in the style of `draw_frames`.

    Args:
        path: where to write.
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        grids: sampled points (x, y) of each input at each time, in normalised coordinates.
        epochs: the times, in epochs.
        align_corners: whether -1 and 1 are the centres (True) or the edges (False) of the outermost
            pixels.
        max_frames: the number of times to draw, at least 2. If there are more times, this many
            evenly spaced ones are drawn, including the first and the last.

    Raises:
        ValueError: if the shapes do not fit.
    """
    inputs, grids = checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "e n h w 2")
    epochs = np.asarray(epochs, np.float64)
    if epochs.shape != grids.shape[:1]:
        raise ValueError(f"epochs must be [{len(grids)}], as grids; got {epochs.shape}")
    kept = _spread_indices(len(epochs), max_frames)
    inputs, epochs = inputs[:_MAX_ANIMATED], epochs[kept]
    frames_px = to_pixels(grids[kept, :_MAX_ANIMATED], inputs.shape[1:3], align_corners)
    _save_gif(path, _animation_images(inputs, frames_px, _epoch_titles(epochs)))


# --- Animations -----------------------------------------------------------------------------------


def _epoch_titles(epochs: Float[np.ndarray, " e"]) -> list[str]:
    """Titles of equal width, with as many decimals as the times need."""
    digits = 0 if np.all(epochs == np.round(epochs)) else 1 if np.ptp(epochs) >= 3 else 2
    numbers = [f"{epoch:.{digits}f}" for epoch in epochs]
    widest = max(map(len, numbers))
    # Figure spaces are as wide as a digit, so the title does not move.
    return [f"Epoch {number.rjust(widest, chr(0x2007))}" for number in numbers]


def _animation_images(
    inputs: Float[np.ndarray, "n h w c"],
    frames_px: Float[np.ndarray, "e n out_h out_w 2"],
    titles: Sequence[str],
) -> list[PIL.Image.Image]:
    """Draws the inputs with their frames and a title at each time."""
    from PIL import Image

    figure, cells = image_cells(inputs, _margin(frames_px, inputs.shape[1:3]), columns=4, width=5.6)
    figure.set_dpi(90)
    title = figure.suptitle(titles[0])
    canvas: Any = figure.canvas
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # The images are drawn once; only lines and title are drawn again at each time.
    artists = [_frame_artists(axes) for axes in cells]
    animated = [title, *(line for frame in artists for line in frame)]
    for artist in animated:
        artist.set_animated(True)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    images = []
    for text, frames in zip(titles, frames_px, strict=True):
        canvas.restore_region(background)
        title.set_text(text)
        for frame, frame_px in zip(artists, frames, strict=True):
            _set_frame(frame, frame_px)
        for artist in animated:
            figure.draw_artist(artist)
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return images


def _save_gif(path: str | os.PathLike[str], images: Sequence[PIL.Image.Image]) -> None:
    """Writes images as a GIF that lasts about six seconds and then pauses on the last image."""
    from PIL import Image, ImageColor

    # One palette without dithering: pixels that do not change take no space in the file. It
    # contains the exact colours of the lines and the margin.
    shared = images[-1].quantize(96, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*shared[: 3 * 96], *ImageColor.getrgb(ORANGE), *ImageColor.getrgb(OUTSIDE)])
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    frame_ms = int(np.clip(6000 / len(images), 80, 400))
    durations_ms = [frame_ms] * len(rest) + [2500]
    data = io.BytesIO()
    first.save(data, format="GIF", save_all=True, append_images=rest, duration=durations_ms, loop=0)
    write_figure(path, data.getvalue())


# --- Frames ---------------------------------------------------------------------------------------


class _FrameArtists(NamedTuple):
    """The lines that draw one frame."""

    mesh: Line2D
    outline: Line2D
    upper_edge: Line2D
    corner: Line2D


def _frame_artists(axes: Axes) -> _FrameArtists:
    def line(**style: Any) -> Line2D:
        return axes.plot([], [], color=ORANGE, scalex=False, scaley=False, **style)[0]

    return _FrameArtists(
        mesh=line(linewidth=0.6, alpha=0.6),
        outline=line(linewidth=1.3),
        upper_edge=line(linewidth=2.6, solid_capstyle="butt"),
        corner=line(marker="o", markersize=6, markeredgecolor="white", markeredgewidth=0.8),
    )


def _set_frame(artists: _FrameArtists, frame_px: Float[np.ndarray, "h w 2"]) -> None:
    """Sets the data of the lines to a frame; a NaN point separates two lines."""
    rows, columns = frame_px, frame_px.swapaxes(0, 1)
    gap = np.full((1, 2), np.nan)
    mesh = []
    for lines in (rows, columns):
        for i in _spread_indices(len(lines), _MESH_LINES + 2)[1:-1]:
            mesh += [_thinned(lines[i]), gap]
    artists.mesh.set_data(*np.concatenate([gap, *mesh]).T)
    artists.outline.set_data(*outline(frame_px).T)
    artists.upper_edge.set_data(*_thinned(rows[0]).T)
    artists.corner.set_data(*frame_px[0, :1].T)


def outline(frame_px: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "m 2"]:
    """The closed line around a frame, clockwise from its upper left corner."""
    rows, columns = frame_px, frame_px.swapaxes(0, 1)
    sides = [rows[0], columns[-1], rows[-1][::-1], columns[0][::-1]]
    return np.concatenate([_thinned(side) for side in sides])


def _thinned(line: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "_ 2"]:
    return line[_spread_indices(len(line), _LINE_POINTS)]


def _spread_indices(count: int, limit: int) -> np.ndarray:
    """At most `limit` indices below `count`, evenly spaced and including both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, max(limit, 2))).round().astype(int))


def _margin(frames_px: Float[np.ndarray, "*_ h w 2"], size: tuple[int, ...]) -> float:
    """The margin around each image, in image sizes, within which most frames fit."""
    width_height = np.array(size[::-1], np.float64)
    # In image sizes from the centre, so the edge is at 0.5.
    distance = np.abs((frames_px + 0.5) / width_height - 0.5)
    beyond = np.nan_to_num(distance).max(axis=(-3, -2, -1)) - 0.5
    return float(np.clip(np.quantile(beyond, 0.8) + 0.05, 0.1, 1.0))


def _check_grids(grids: np.ndarray, images: np.ndarray, axes: str) -> None:
    sizes = dict(zip(axes.split(), grids.shape, strict=False))
    complete = grids.ndim == len(axes.split()) and 0 not in grids.shape
    if not complete or grids.shape[-1] != 2 or sizes["n"] != len(images):
        raise ValueError(f"grids must be [{axes}] with n = {len(images)}; got {grids.shape}")
