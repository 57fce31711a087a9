"""Pictures of where a transformer samples its input, still and moving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from experiments.figures.canvas import ORANGE, OUTSIDE, WIDTH_INCHES, save, written_whole
from experiments.figures.images import checked_images, image_cells, to_pixels

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_MOST_FRAMES = 16
_MOST_MOVING = 8
_LINE_POINTS = 41  # bends of a line are followed at this many points
_MESH_LINES = 5


def draw_frames(
    path: str | os.PathLike[str],
    inputs: Float[np.ndarray, "n h w c"],
    grids: Float[np.ndarray, "n out_h out_w 2"],
    *,
    align_corners: bool = False,
) -> None:
    """Draws on each input the frame that its transformer samples.

    The outline joins the outermost sampled points, the mesh lines between show bends; a dot and
    the thicker line mark the output's upper left corner and upper edge. The first 16 are drawn.

    Args:
        path: where to write; the ending says the format.
        inputs: grey (c = 1) or colour (c = 3), in any unit.
        grids: source points (x, y), normalised. Points that are not finite are left out.
        align_corners: whether -1 and 1 are centres (True) or edges of the outermost pixels.
    """
    inputs, grids = checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "n h w 2")
    inputs, grids = inputs[:_MOST_FRAMES], grids[:_MOST_FRAMES]
    frames_px = to_pixels(grids, inputs.shape[1:3], align_corners)
    figure, cells = image_cells(
        inputs, _margin(frames_px, inputs.shape[1:3]), columns=8, width=WIDTH_INCHES
    )
    for axes, frame_px in zip(cells, frames_px, strict=True):
        _place(_frame_artists(axes), frame_px)
        if not np.isfinite(frame_px).any():
            axes.text(
                0.5, 0.03, "not finite", transform=axes.transAxes, ha="center", fontsize="small"
            )
    figure.suptitle("Where the output is sampled (dot: its upper left corner)", fontsize="medium")
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
    """Writes a GIF of how the sampled frames move during training.

    The first 8 inputs are drawn, as by `draw_frames`.

    Args:
        path: where to write.
        inputs: grey (c = 1) or colour (c = 3), in any unit.
        grids: source points (x, y) of each input at each time, normalised.
        epochs: the times, in epochs.
        align_corners: whether -1 and 1 are centres (True) or edges of the outermost pixels.
        max_frames: if there are more times, only so many (at least 2) are drawn, from
            the first to the last.
    """
    inputs, grids = checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "e n h w 2")
    epochs = np.asarray(epochs, np.float64)
    if epochs.shape != grids.shape[:1]:
        raise ValueError(f"{len(grids)} times of grids, but epochs has the shape {epochs.shape}")
    kept = _spread_indices(len(epochs), max_frames)
    inputs, epochs = inputs[:_MOST_MOVING], epochs[kept]
    frames_px = to_pixels(grids[kept, :_MOST_MOVING], inputs.shape[1:3], align_corners)

    _save_gif(path, _moving_pictures(inputs, frames_px, _time_names(epochs)))


# --- Moving pictures ------------------------------------------------------------------------------


def _time_names(epochs: Float[np.ndarray, " e"]) -> list[str]:
    """Titles of one width, with no more decimals than the times need."""
    digits = 0 if np.all(epochs == np.round(epochs)) else 1 if np.ptp(epochs) >= 3 else 2
    numbers = [f"{epoch:.{digits}f}" for epoch in epochs]
    widest = max(map(len, numbers))
    # Spaces as wide as a digit, so that the title stands still.
    return [f"Epoch {number.rjust(widest, chr(0x2007))}" for number in numbers]


def _moving_pictures(
    inputs: Float[np.ndarray, "n h w c"],
    frames_px: Float[np.ndarray, "e n out_h out_w 2"],
    names: Sequence[str],
) -> list[PIL.Image.Image]:
    """The images with their frames and a title, once for each time."""
    from PIL import Image

    figure, cells = image_cells(inputs, _margin(frames_px, inputs.shape[1:3]), columns=4, width=5.6)
    figure.set_dpi(90)
    title = figure.suptitle(names[0])
    canvas: Any = figure.canvas
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # The images do not move: they are drawn once, and only lines and title again over them.
    artists = [_frame_artists(axes) for axes in cells]
    moving = [title, *(line for frame in artists for line in frame)]
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    pictures = []
    for name, frames in zip(names, frames_px, strict=True):
        canvas.restore_region(still)
        title.set_text(name)
        for frame, frame_px in zip(artists, frames, strict=True):
            _place(frame, frame_px)
        for artist in moving:
            figure.draw_artist(artist)
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return pictures


def _save_gif(path: str | os.PathLike[str], pictures: Sequence[PIL.Image.Image]) -> None:
    """Writes pictures as a GIF of about six seconds, and a while to look at the last."""
    from PIL import Image, ImageColor

    # One palette, without dithering: what does not move stays the same, hence costs no bytes.
    # The colours of the drawing itself are in it exactly, whatever the images need.
    found = pictures[-1].quantize(96, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*found[: 3 * 96], *ImageColor.getrgb(ORANGE), *ImageColor.getrgb(OUTSIDE)])
    reduced = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    each_ms = int(np.clip(6000 / len(reduced), 80, 400))
    with written_whole(path) as partial:
        reduced[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=reduced[1:],
            duration=[each_ms] * (len(reduced) - 1) + [2500],
            loop=0,
        )


# --- Frames ---------------------------------------------------------------------------------------


class _FrameArtists(NamedTuple):
    """The lines that show a frame."""

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


def _place(artists: _FrameArtists, frame_px: Float[np.ndarray, "h w 2"]) -> None:
    """Moves the lines to a frame; NaN lifts the pen."""
    rows, columns = frame_px, frame_px.swapaxes(0, 1)
    pen_up = np.full((1, 2), np.nan)
    mesh = []
    for lines in (rows, columns):
        for i in _spread_indices(len(lines), _MESH_LINES + 2)[1:-1]:
            mesh += [_thinned(lines[i]), pen_up]
    artists.mesh.set_data(*np.concatenate([pen_up, *mesh]).T)
    artists.outline.set_data(*outline(frame_px).T)
    artists.upper_edge.set_data(*_thinned(rows[0]).T)
    artists.corner.set_data(*frame_px[0, :1].T)


def outline(frame_px: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "m 2"]:
    """The line around a frame, from its upper left corner along its upper edge and back."""
    rows, columns = frame_px, frame_px.swapaxes(0, 1)
    sides = [rows[0], columns[-1], rows[-1][::-1], columns[0][::-1]]
    return np.concatenate([_thinned(side) for side in sides])


def _thinned(line: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "_ 2"]:
    return line[_spread_indices(len(line), _LINE_POINTS)]


def _spread_indices(count: int, most: int) -> np.ndarray:
    """At most `most` indices below `count`, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, max(most, 2))).round().astype(int))


def _margin(frames_px: Float[np.ndarray, "*_ h w 2"], size: tuple[int, ...]) -> float:
    """How much of its size to show around each image, so that most frames are seen whole."""
    width_height = np.array(size[::-1], np.float64)
    # In image sizes from the centre; half a size is the edge.
    distance = np.abs((frames_px + 0.5) / width_height - 0.5)
    beyond = np.nan_to_num(distance).max(axis=(-3, -2, -1)) - 0.5
    return float(np.clip(np.quantile(beyond, 0.8) + 0.05, 0.1, 1.0))


def _check_grids(grids: np.ndarray, images: np.ndarray, axes: str) -> None:
    sizes = dict(zip(axes.split(), grids.shape, strict=False))
    wanted = grids.ndim == len(axes.split()) and 0 not in grids.shape
    if not wanted or grids.shape[-1] != 2 or sizes["n"] != len(images):
        raise ValueError(f"grids must be [{axes}] with n = {len(images)}, got {grids.shape}")
