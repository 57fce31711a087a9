"""Pictures of a run, drawn from plain arrays: what goes in, where it is sampled, how it learns.

Nothing here needs JAX, and Matplotlib is imported by the first picture only. Every picture is
written whole or not at all, so that a killed run leaves no damaged file.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_DPI = 150
_WIDTH_INCHES = 8.0  # 1200 pixels: sharp at the width of a README
_MOST_IMAGES = 32
_MOST_FRAMES = 16
_MOST_MOVING = 8

_BLUE, _ORANGE, _GREY = "#1f77b4", "#ff7f0e", "#7f7f7f"
_OUTSIDE = "#d0d0d0"  # around an image: neither the black nor the white of its background

# Distances beyond this many image sizes are drawn as this many: Agg cannot take any float.
_FAR = 100.0
_LINE_POINTS = 41  # bends of a line are followed at this many points
_MESH_LINES = 5


def draw_images(
    path: str | os.PathLike[str],
    inputs: Float[np.ndarray, "n h w c"],
    outputs: Float[np.ndarray, "n out_h out_w c"],
    titles: tuple[str, str] | None = None,
    *,
    alike: bool = True,
) -> None:
    """Draws what a network is given above what its transformer makes of it.

    The i-th image of both panels is the same example; the first 32 are drawn.

    Args:
        path: where to write; the ending says the format.
        inputs: grey (c = 1) or colour (c = 3), in any unit.
        outputs: the same examples, of the same or another size.
        titles: of the upper and the lower panel.
        alike: whether one scale of brightness, from the darkest to the brightest pixel, holds for
            all; each panel has its own otherwise.
    """
    inputs, outputs = _checked_images(inputs), _checked_images(outputs)
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs, but {len(outputs)} outputs")
    inputs, outputs = inputs[:_MOST_IMAGES], outputs[:_MOST_IMAGES]
    count = len(inputs)
    rows = 1 if count <= 8 else 2
    columns = -(-count // rows)
    panels = as_rgb(inputs, outputs) if alike else [*as_rgb(inputs), *as_rgb(outputs)]
    gap = 0.06  # in image widths
    cell_inches = min(1.2, _WIDTH_INCHES / columns)
    heights = [rows * (panel.shape[1] / panel.shape[2] + gap) * cell_inches for panel in panels]
    figure = new_figure(max(3.0, columns * cell_inches), sum(heights) + 0.6)
    both = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    titles = titles or ("Input", "After the transformer")
    for axes, panel, title in zip(both, panels, titles, strict=True):
        aspect = panel.shape[1] / panel.shape[2]
        for i, image in enumerate(panel):
            left, top = (i % columns) * (1 + gap), (i // columns) * (aspect + gap)
            axes.imshow(image, extent=(left, left + 1, top + aspect, top))
        axes.set(xlim=(0, columns * (1 + gap) - gap), title=title)
        axes.set_ylim(rows * (aspect + gap) - gap, 0)
        axes.set_axis_off()
    save(figure, path)


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
    inputs, grids = _checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "n h w 2")
    inputs, grids = inputs[:_MOST_FRAMES], grids[:_MOST_FRAMES]
    frames_px = to_pixels(grids, inputs.shape[1:3], align_corners)
    figure, cells = _image_cells(
        inputs, _margin(frames_px, inputs.shape[1:3]), columns=8, width=_WIDTH_INCHES
    )
    for axes, frame_px in zip(cells, frames_px, strict=True):
        _place(_frame_artists(axes), frame_px)
        if not np.isfinite(frame_px).any():
            axes.text(
                0.5, 0.03, "not finite", transform=axes.transAxes, ha="center", fontsize="small"
            )
    figure.suptitle("Where the output is sampled (dot: its upper left corner)", fontsize="medium")
    save(figure, path)


def draw_boxes(
    path: str | os.PathLike[str],
    images: Float[np.ndarray, "n h w c"],
    found: Float[np.ndarray, "n 4"],
    true: Float[np.ndarray, "n 4"],
    *,
    columns: int,
    title: str,
    labels: Sequence[str] = (),
) -> None:
    """Draws on each image the box that was found (solid) and the true one (dashed).

    Args:
        path: where to write; the ending says the format.
        images: grey (c = 1) or colour (c = 3), in any unit.
        found: boxes (left, top, right, bottom), normalised.
        true: the same.
        columns: how many images stand side by side.
        title: of the whole.
        labels: of the first images, above them.
    """
    images = _checked_images(images)
    if not len(images) == len(found) == len(true):
        raise ValueError(f"{len(images)} images, but {len(found)} found and {len(true)} true boxes")
    size = images.shape[1:3]
    figure, cells = _image_cells(images, 0.0, columns, _WIDTH_INCHES)
    for boxes, colour, style in ((true, _BLUE, "--"), (found, _ORANGE, "-")):
        for axes, corners in zip(cells, np.reshape(boxes, (-1, 2, 2)), strict=True):
            (left, top), (right, bottom) = to_pixels(corners, size, align_corners=False)
            x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axes.plot(x, y, style, color=colour, linewidth=1.5, scalex=False, scaley=False)
    for axes, label in zip(cells, labels, strict=False):
        axes.set_title(label, fontsize="small")
    figure.suptitle(f"{title} (solid: found, dashed: true)", fontsize="medium")
    save(figure, path)


def draw_curves(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Draws the course of a training: loss and error, and what else the records hold.

    Args:
        path: where to write; the ending says the format.
        records: lines of `metrics.jsonl`. Drawn over `epoch` is what is there of `train_loss`,
            `validation_loss`, `train_error`, `validation_error` (both in %), `outside` (share of
            the samples, 0..1) and `learning_rate`.
    """
    panels = [
        _Panel("Loss", {"train_loss": "training", "validation_loss": "validation"}),
        _Panel("Error (%)", {"train_error": "training", "validation_error": "validation"}),
    ]
    extras = [
        _Panel("Samples outside the image (%)", {"outside": "share"}, factor=100, linear=True),
        _Panel("Learning rate", {"learning_rate": "rate"}),
    ]
    panels += [panel for panel in extras if any(len(_series(records, k)[0]) for k in panel.keys)]
    rows = -(-len(panels) // 2)
    figure = new_figure(_WIDTH_INCHES, 2.9 * rows)
    cells = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(cells, panels, strict=False):
        _draw_panel(axes, panel, records)
    save(figure, path)


def draw_angles(
    path: str | os.PathLike[str],
    applied_deg: Num[np.ndarray, " n"],
    predicted_deg: Num[np.ndarray, " n"],
) -> None:
    """Draws the angle that a transformer predicts against the angle that was applied.

    Beside it stand the histograms of what `angle_residuals` returns; what is beyond a histogram's
    width counts in its outermost bins.

    Args:
        path: where to write; the ending says the format.
        applied_deg: by how much each image was rotated, in degrees.
        predicted_deg: by how much its transformer rotates it, in degrees and the same sense: a
            perfect one predicts the opposite of what was applied, up to a constant.
    """
    from matplotlib.ticker import MaxNLocator

    applied_deg = np.asarray(applied_deg, np.float64)
    predicted_deg = np.asarray(predicted_deg, np.float64)
    before, after = angle_residuals(applied_deg, predicted_deg)
    finite = np.isfinite(before) & np.isfinite(after)
    applied_deg, before, after = applied_deg[finite], before[finite], after[finite]
    constant = _circular_mean(applied_deg + predicted_deg[finite])

    figure = new_figure(_WIDTH_INCHES, 3.8)
    axes = figure.subplot_mosaic([["both", "before"], ["both", "after"]])
    # Whole turns are taken out of the prediction, so that the points lie about the line.
    dots = {"s": 6, "linewidths": 0, "alpha": float(np.clip(500 / len(after), 0.15, 0.8))}
    axes["both"].scatter(applied_deg, constant - applied_deg + after, color=_BLUE, **dots)
    ends = np.array([applied_deg.min(), applied_deg.max()])
    ideal = f"−applied {'−' if constant < 0 else '+'} {abs(constant):.1f}°"  # noqa: RUF001
    axes["both"].plot(ends, constant - ends, color=_ORANGE, label=ideal)
    axes["both"].legend(frameon=False, fontsize="small")
    axes["both"].set(xlabel="Applied angle (°)", ylabel="Predicted angle (°)")
    axes["both"].grid(alpha=0.3)

    widest = max(1.0, np.abs(before).max(), np.quantile(np.abs(after), 0.99))
    half_width = min(180.0, 1.05 * widest)
    bins = np.linspace(-half_width, half_width, 62)  # an odd number of bins: one is about 0
    for name, residual, colour in (("before", before, _GREY), ("after", after, _BLUE)):
        shown = np.clip(residual, -half_width, half_width)
        weights = np.full(len(shown), 100 / len(shown))
        axes[name].hist(shown, list(bins), weights=weights, color=colour)
        axes[name].set_title(
            f"{name.capitalize()}: standard deviation {residual.std():.1f}°", fontsize="medium"
        )
        axes[name].set_ylabel("Images (%)")
    axes["before"].sharex(axes["after"])
    axes["before"].tick_params(labelbottom=False)
    axes["after"].set_xlabel("Angle about its mean (°)")
    for axis in (axes["both"].xaxis, axes["both"].yaxis, axes["after"].xaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 3, 4.5, 9, 10]))
    save(figure, path)


def angle_residuals(
    applied_deg: Num[np.ndarray, " n"], predicted_deg: Num[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How far each image is turned from the others, before and after its transformer.

    Which way up the images end is the network's choice, hence both are taken about their circular
    mean. Their standard deviations say how well rotations were undone.

    Args:
        applied_deg: by how much each image was rotated, in degrees.
        predicted_deg: by how much its transformer rotates it, in degrees and the same sense.

    Returns:
        (before, after), in degrees in (-180, 180]: applied, and applied + predicted, about their
        means. An angle that is not finite gives NaN and counts in no mean.

    Raises:
        ValueError: the arrays are not of one shape [n], or no pair of angles is finite.
    """
    applied_deg = np.asarray(applied_deg, np.float64)
    predicted_deg = np.asarray(predicted_deg, np.float64)
    if applied_deg.ndim != 1 or applied_deg.shape != predicted_deg.shape:
        raise ValueError(
            f"applied and predicted angles must be [n] and as many, "
            f"got {applied_deg.shape} and {predicted_deg.shape}"
        )
    finite = np.isfinite(applied_deg) & np.isfinite(predicted_deg)
    if not finite.any():
        raise ValueError("there is no pair of finite angles")
    before = np.where(finite, applied_deg, np.nan)
    after = before + np.where(finite, predicted_deg, np.nan)
    return (
        _wrapped(before - _circular_mean(before[finite])),
        _wrapped(after - _circular_mean(after[finite])),
    )


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
    inputs, grids = _checked_images(inputs), np.asarray(grids, np.float64)
    _check_grids(grids, inputs, "e n h w 2")
    epochs = np.asarray(epochs, np.float64)
    if epochs.shape != grids.shape[:1]:
        raise ValueError(f"{len(grids)} times of grids, but epochs has the shape {epochs.shape}")
    kept = _spread_indices(len(epochs), max_frames)
    inputs, epochs = inputs[:_MOST_MOVING], epochs[kept]
    frames_px = to_pixels(grids[kept, :_MOST_MOVING], inputs.shape[1:3], align_corners)

    _save_gif(path, _moving_pictures(inputs, frames_px, _time_names(epochs)))


# Moving frames


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

    figure, cells = _image_cells(
        inputs, _margin(frames_px, inputs.shape[1:3]), columns=4, width=5.6
    )
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


# Files


def _save_gif(path: str | os.PathLike[str], pictures: Sequence[PIL.Image.Image]) -> None:
    """Writes pictures as a GIF of about six seconds, and a while to look at the last."""
    from PIL import Image, ImageColor

    # One palette, without dithering: what does not move stays the same, hence costs no bytes.
    # The colours of the drawing itself are in it exactly, whatever the images need.
    found = pictures[-1].quantize(96, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        [*found[: 3 * 96], *ImageColor.getrgb(_ORANGE), *ImageColor.getrgb(_OUTSIDE)]
    )
    reduced = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    each_ms = int(np.clip(6000 / len(reduced), 80, 400))
    with _written_whole(path) as partial:
        reduced[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=reduced[1:],
            duration=[each_ms] * (len(reduced) - 1) + [2500],
            loop=0,
        )


@contextlib.contextmanager
def _written_whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a file beside `path` to write to, which takes its place if all went well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure, whole or not at all; the ending says the format."""
    ending = pathlib.Path(path).suffix.removeprefix(".")
    with _written_whole(path) as partial:
        figure.savefig(partial, format=ending or "png")


# Figures and images


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _checked_images(images: np.ndarray) -> Float[np.ndarray, "n h w c"]:
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be [n, h, w, 1] or [n, h, w, 3], got {images.shape}")
    return images


def _check_grids(grids: np.ndarray, images: np.ndarray, axes: str) -> None:
    sizes = dict(zip(axes.split(), grids.shape, strict=False))
    wanted = grids.ndim == len(axes.split()) and 0 not in grids.shape
    if not wanted or grids.shape[-1] != 2 or sizes["n"] != len(images):
        raise ValueError(f"grids must be [{axes}] with n = {len(images)}, got {grids.shape}")


def as_rgb(*groups: Float[np.ndarray, "_ _ _ _"]) -> list[UInt8[np.ndarray, "_ _ _ 3"]]:
    """Images in any unit, as bytes: one scale for all groups; what is not a number is black."""
    values = np.concatenate([group[np.isfinite(group)] for group in groups])
    if not len(values):
        values = np.zeros(1, np.float32)
    # A single pixel that is far off must not darken all others.
    low, high = np.quantile(values, [0.001, 0.999])
    if low == high:
        low, high = values.min(), values.max()
    scaled = [(group - low) / (high - low if high > low else 1) for group in groups]
    finite = [np.nan_to_num(group, posinf=1, neginf=0).clip(0, 1) for group in scaled]
    return [
        np.broadcast_to(np.round(255 * group).astype(np.uint8), (*group.shape[:-1], 3))
        for group in finite
    ]


def _image_cells(
    images: Float[np.ndarray, "n h w c"], margin: float, columns: int, width: float
) -> tuple[Figure, list[Axes]]:
    """A figure of images in pixel coordinates, each amid `margin` times its size."""
    count, height_px, width_px, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cell = min(width / columns, 2.0)
    figure = new_figure(max(4.6, columns * cell), rows * cell * height_px / width_px + 0.4)
    cells = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in cells:
        axes.set(xticks=[], yticks=[], facecolor=_OUTSIDE)
        axes.spines[:].set_visible(False)
    for axes in cells[count:]:
        axes.set_axis_off()
    for axes, image in zip(cells, as_rgb(images)[0], strict=False):
        axes.imshow(image)
        axes.set_xlim(-0.5 - margin * width_px, (1 + margin) * width_px - 0.5)
        axes.set_ylim((1 + margin) * height_px - 0.5, -0.5 - margin * height_px)
    return figure, cells[:count]


# Frames


class _FrameArtists(NamedTuple):
    """The lines that show a frame."""

    mesh: Line2D
    outline: Line2D
    upper_edge: Line2D
    corner: Line2D


def _frame_artists(axes: Axes) -> _FrameArtists:
    def line(**style: Any) -> Line2D:
        return axes.plot([], [], color=_ORANGE, scalex=False, scaley=False, **style)[0]

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


def to_pixels(
    grids: Float[np.ndarray, "*_ 2"], size: tuple[int, ...], align_corners: bool
) -> Float[np.ndarray, "*_ 2"]:
    """Normalised points in pixels of an image of size (height, width); NaN if not finite."""
    width_height = np.array(size[::-1], np.float64)
    finite = np.isfinite(grids).all(-1, keepdims=True)
    points = np.where(finite, grids, np.nan).clip(-_FAR, _FAR)
    if align_corners:
        return (points + 1) / 2 * (width_height - 1)
    return ((points + 1) * width_height - 1) / 2


def _margin(frames_px: Float[np.ndarray, "*_ h w 2"], size: tuple[int, ...]) -> float:
    """How much of its size to show around each image, so that most frames are seen whole."""
    width_height = np.array(size[::-1], np.float64)
    # In image sizes from the centre; half a size is the edge.
    distance = np.abs((frames_px + 0.5) / width_height - 0.5)
    beyond = np.nan_to_num(distance).max(axis=(-3, -2, -1)) - 0.5
    return float(np.clip(np.quantile(beyond, 0.8) + 0.05, 0.1, 1.0))


# Curves


class _Panel(NamedTuple):
    """What is drawn over the epochs in one coordinate system."""

    label: str
    keys: Mapping[str, str]  # of the records, and what the legend calls them
    factor: float = 1.0
    linear: bool = False


def _draw_panel(axes: Axes, panel: _Panel, records: Sequence[Mapping[str, Any]]) -> None:
    unit = " %" if "%" in panel.label else ""
    drawn = []
    for (key, name), colour in zip(panel.keys.items(), (_BLUE, _ORANGE), strict=False):
        epochs, values = _series(records, key)
        if not len(epochs):
            continue
        values = values * panel.factor
        marker, line_width = ("o", 1.5) if len(epochs) <= 40 else (None, 1.0)
        axes.plot(
            epochs,
            values,
            color=colour,
            marker=marker,
            markersize=3,
            linewidth=line_width,
            label=f"{name}, last {values[-1]:.3g}{unit}",
        )
        drawn.append(values)
    axes.set(xlabel="Epoch", ylabel=panel.label)
    axes.grid(alpha=0.3)
    if not drawn:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records", transform=axes.transAxes, ha="center", color=_GREY)
        return
    axes.legend(frameon=False, fontsize="small")
    if not panel.linear:
        _scale_values(axes, np.concatenate(drawn))


def _series(
    records: Sequence[Mapping[str, Any]], key: str
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The epochs and values of the records that hold both."""
    held = [
        (record["epoch"], record[key])
        for record in records
        if record.get("epoch") is not None and record.get(key) is not None
    ]
    epochs, values = np.array(held, np.float64).reshape(-1, 2).T
    return epochs, values


def _scale_values(axes: Axes, values: Float[np.ndarray, " m"]) -> None:
    """Takes a logarithmic scale, with plain numbers, where values differ by more than tenfold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = values[(values > 0) & np.isfinite(values)]
    if not len(positive) or (values < 0).any() or positive.max() <= 10 * positive.min():
        return
    labelled = (1.0, 2.0, 5.0) if positive.max() < 1e3 * positive.min() else (1.0,)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=labelled))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


# Angles


def _wrapped(angles_deg: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The same directions in (-180, 180]."""
    wrapped = 180 - (180 - angles_deg) % 360
    # The remainder of a tiny negative number rounds to 360 itself.
    return np.where(wrapped <= -180, 180.0, wrapped)


def _circular_mean(angles_deg: Float[np.ndarray, " n"]) -> float:
    """The direction of the mean of the unit vectors, in degrees."""
    return float(np.rad2deg(np.angle(np.exp(1j * np.deg2rad(angles_deg)).mean())))
