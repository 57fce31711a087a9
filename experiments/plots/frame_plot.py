"""Figures and animations of where a transformer samples its input."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from experiments.plots.canvas import ORANGE, OUTSIDE, own_settings
from experiments.plots.class_labels import Caption, shorten
from experiments.plots.image_grid import checked_images, image_cells, to_pixels

if TYPE_CHECKING:
    import PIL.Image
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stn_jax.transforms import Transform

_MAX_IMAGES = 16
_MAX_ANIMATED = 8
_LINE_POINTS = 41  # a curved line is drawn through at most this many points
_MESH_LINES = 5
_CAPTION_WIDTH = 18  # characters
_MESH_SHAPE = (13, 13)  # the points of a frame that is computed here
# Around each image, in image sizes. Up to the first, all images of a figure have one size.
_COMMON_MARGIN, _LARGEST_MARGIN = 0.5, 3.0
_PADDING = 0.08  # between a frame and the edge of its cell, in image sizes; holds the dot


def draw_frames(
    images: ArrayLike,
    thetas: ArrayLike,
    transform: Transform,
    *,
    captions: Sequence[str] = (),
    align_corners: bool = False,
) -> Figure:
    """Draws on each image the frame that a spatial transformer samples, for any model.

    The frame is the outline of the transformer's output, with mesh lines that show curvature. A dot
    marks the upper left corner of the output, and a thicker line its upper edge. Only the first 16
    images are drawn.

    Args:
        images: grey `[n, h, w, 1]` or colour `[n, h, w, 3]` images, in any unit.
        thetas: `[n, num_params]`, predicted for these images. Each maps points of the output to
            points of the image.
        transform: the planar family of theta, such as `stn_jax.transforms.affine`.
        captions: texts below the first images, such as the names of their classes.
        align_corners: whether -1 and 1 are the centres (True) or the edges (False) of the outermost
            pixels, as in the transformer.

    Returns:
        The figure. It belongs to no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: if the shapes do not fit, or if `transform` is for volumes.

    Example:
        >>> logits, intermediates = model(images)
        >>> theta = intermediates["transformer_0"]["theta"]
        >>> figure = draw_frames(images, theta, stn_jax.transforms.affine)
        >>> figure.savefig("frames.png")
    """
    import jax  # slow to import, and not needed for grids

    import stn_jax

    if transform.ndim != 2:
        raise ValueError(f"transform must be planar; got {transform.name}, which is for volumes")
    inputs, theta = checked_images(np.asarray(images)), np.asarray(thetas, np.float32)
    if theta.shape != (len(inputs), transform.num_params):
        raise ValueError(
            f"thetas must be [{len(inputs)}, {transform.num_params}], a theta of "
            f"{transform.name} for each image; got {list(theta.shape)}"
        )

    def sampled_points(theta: jax.Array) -> jax.Array:
        # -1 and 1 are where the frame ends, whatever they are in the image.
        return stn_jax.transform_grid(theta, transform, _MESH_SHAPE, align_corners=True)

    grids = np.asarray(jax.vmap(sampled_points)(jax.numpy.asarray(theta)))
    texts = [Caption(shorten(text, _CAPTION_WIDTH)) for text in captions]
    return draw_grids(inputs, grids, captions=texts, align_corners=align_corners)


@own_settings()
def draw_grids(
    inputs: Float[np.ndarray, "n h w c"],
    grids: Float[np.ndarray, "n out_h out_w 2"],
    *,
    captions: Sequence[Caption] = (),
    title: str = "Sampled part of each image (dot: upper left corner of the output)",
    align_corners: bool = False,
) -> Figure:
    """Draws frames as `draw_frames`, from the points that they sample.

    Args:
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        grids: sampled points (x, y) in normalised coordinates; the outermost ones are connected.
            Points that are not finite are left out.
        captions: of the first images.
        title: of the figure.
        align_corners: as `draw_frames`.

    Raises:
        ValueError: if the shapes do not fit.
    """
    inputs, grids = checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "n h w 2")
    inputs, grids = inputs[:_MAX_IMAGES], grids[:_MAX_IMAGES]
    frames_px = to_pixels(grids, inputs.shape[1:3], align_corners)
    beyond = _beyond(frames_px, inputs.shape[1:3])
    figure, cells = image_cells(inputs, _margins(beyond), title, columns=8, captions=captions)
    for axes, frame_px, distance in zip(cells, frames_px, beyond, strict=True):
        _set_frame(_frame_artists(axes), frame_px)
        if not np.isfinite(frame_px).any():
            _remark(axes, "not finite")
        elif distance > _LARGEST_MARGIN:
            _remark(axes, "continues outside")
    return figure


def _remark(axes: Axes, text: str) -> None:
    place = {"transform": axes.transAxes, "ha": "center", "fontsize": "x-small"}
    axes.text(0.5, 0.03, text, bbox={"color": "white", "alpha": 0.8, "pad": 1}, **place)


@own_settings()
def animate_frames(
    inputs: Float[np.ndarray, "n h w c"],
    grids: Float[np.ndarray, "e n out_h out_w 2"],
    epochs: Num[np.ndarray, " e"],
    *,
    captions: Sequence[Caption] = (),
    align_corners: bool = False,
    max_frames: int = 60,
) -> bytes:
    """Animates how the sampled frames move during training.

    Only the first 8 images are drawn, in the style of `draw_frames`.

    Args:
        inputs: grey (c = 1) or colour (c = 3) images, in any unit.
        grids: sampled points (x, y) of each input at each time, in normalised coordinates.
        epochs: the times, in epochs.
        captions: of the first images.
        align_corners: as `draw_frames`.
        max_frames: the number of times to draw, at least 2. If there are more times, this many
            evenly spaced ones are drawn, including the first and the last.

    Returns:
        The contents of a GIF file.

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
    return _encode_gif(_animation_images(inputs, frames_px, _epoch_titles(epochs), captions))


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
    captions: Sequence[Caption],
) -> list[PIL.Image.Image]:
    """Draws the inputs with their frames and a title at each time."""
    from PIL import Image

    margins = _margins(_beyond(frames_px, inputs.shape[1:3]).max(axis=0))
    figure, cells = image_cells(inputs, margins, titles[0], columns=4, width=5.6, captions=captions)
    figure.set_dpi(90)
    (title,) = figure.texts
    canvas: Any = figure.canvas
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


def _encode_gif(images: Sequence[PIL.Image.Image]) -> bytes:
    """Makes a GIF that lasts about six seconds and then pauses on the last image."""
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
    return data.getvalue()


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


def _beyond(
    frames_px: Float[np.ndarray, "*b h w 2"], size: tuple[int, ...]
) -> Float[np.ndarray, "*b"]:
    """How far each frame extends beyond its image, in image sizes; negative if it does not."""
    width_height = np.array(size[::-1], np.float64)
    # In image sizes from the centre, so the edge is at 0.5.
    distance = np.abs((frames_px + 0.5) / width_height - 0.5)
    return np.nan_to_num(distance).max(axis=(-3, -2, -1)) - 0.5


def _margins(beyond: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The margin around each image, in image sizes, that holds its frame."""
    needed = beyond + _PADDING
    common = needed[needed <= _COMMON_MARGIN].max(initial=0.1)
    return np.clip(needed, common, _LARGEST_MARGIN)


def _check_grids(grids: np.ndarray, images: np.ndarray, axes: str) -> None:
    sizes = dict(zip(axes.split(), grids.shape, strict=False))
    complete = grids.ndim == len(axes.split()) and 0 not in grids.shape
    if not complete or grids.shape[-1] != 2 or sizes["n"] != len(images):
        raise ValueError(f"grids must be [{axes}] with n = {len(images)}; got {grids.shape}")
