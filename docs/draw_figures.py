"""Draws the figures of the site and the README: `python docs/draw_figures.py [NAME ...]`.

`demo` and `sweep` train networks on embedded digits, which takes some minutes; `sweep` also needs
chromium. Figures are drawn on white, so that they are legible on dark pages.
"""

import io
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

import stn_jax
from stn_jax import transforms

DOCS = pathlib.Path(__file__).parent
FIGURES = DOCS / "figures"
BLUE, RED, GREEN, ORANGE = "#34568b", "#c0392b", "#3a7d44", "#d98324"
SPLINE = transforms.thin_plate_spline((3, 3))
FAMILIES = [
    (transforms.translation, [0.3, 0.2]),
    (transforms.rotation, [0.5]),
    (transforms.translation_scale, [0.6, 0.2, -0.1]),
    (transforms.similarity, [0.4, -0.3, 0.1, 0.0]),
    (transforms.affine, [1.0, 0.4, 0.0, -0.1, 0.8, 0.0]),
    (transforms.projective, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.3, 0.2]),
    (SPLINE, (0.25 * jax.random.normal(jax.random.key(1), (18,))).tolist()),
]


# --- Drawings of arrays ---------------------------------------------------------------------------


def draw_transformations() -> Figure:
    """All planar families on a photo with a grid."""
    photo = np.asarray(load_sample_image("flower.jpg"), np.float32)[::2, ::2] / 255
    photo[::30], photo[:, ::32] = 1, 1
    return _draw_families(photo)


def draw_chessboard() -> Figure:
    """All planar families on a chessboard with a coloured corner."""
    row, column = np.mgrid[:192, :256] // 32
    board = np.where((row + column)[..., None] % 2, [0.93, 0.93, 0.9], [0.2, 0.34, 0.55])
    board[:32, :32] = [0.85, 0.5, 0.15]
    return _draw_families(board.astype(np.float32))


def _draw_families(image: np.ndarray) -> Figure:
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.4), layout="constrained")
    cases = [("original", image)]
    for family, theta in FAMILIES:
        warped = stn_jax.spatial_transform(image, jnp.asarray(theta), family, fill=0.8)
        cases.append((family.name, np.asarray(warped)))
    for axis, (name, picture) in zip(axes.flat, cases, strict=True):
        _show(axis, picture, name)
    return figure


def draw_modes() -> Figure:
    """Modes (rows) and paddings (columns)."""
    photo = np.asarray(load_sample_image("flower.jpg"), np.float32)[180:228, 290:362] / 255
    figure, axes = plt.subplots(3, 3, figsize=(11, 8), layout="constrained")
    for row, mode in zip(axes, ("nearest", "bilinear", "bicubic"), strict=True):
        for axis, padding_mode in zip(row, ("zeros", "border", "reflection"), strict=True):
            warped = stn_jax.spatial_transform(
                photo,
                jnp.asarray([0.4, 0.3, 0.0, 0.0]),
                transforms.similarity,
                output_shape=(144, 216),
                mode=mode,
                padding_mode=padding_mode,
            )
            _show(axis, np.asarray(warped), f"{mode}, {padding_mode}")
    return figure


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture.clip(0, 1))
    axis.set_title(title, fontsize=16)
    axis.set_axis_off()


def draw_align_corners(size: int = 4) -> Figure:
    """The pixels of an axis, and the normalised coordinates for both values."""
    figure, axes = plt.subplots(2, 1, figsize=(9, 4.4), sharex=True, layout="constrained")
    for axis, align_corners in zip(axes, (False, True), strict=True):
        _draw_axis(axis, size, align_corners)
    return figure


def _draw_axis(axis: Axes, size: int, align_corners: bool) -> None:
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    for pixel in range(size):
        square = plt.Rectangle((pixel - 0.5, 0), 1, 1, facecolor="#dde8f5", edgecolor=BLUE)
        axis.add_patch(square)
        axis.plot(pixel, 0.5, "o", color=BLUE, markersize=8)
        axis.annotate(f"pixel {pixel}", (pixel, 0.66), ha="center", fontsize=15)
    for position, name in ((low, "-1"), ((low + high) / 2, "0"), (high, "1")):
        axis.plot([position, position], [-0.15, 0.45], color=RED, linewidth=3)
        axis.annotate(name, (position, -0.5), ha="center", color=RED, fontsize=17)
    axis.set(xlim=(-1, size), ylim=(-0.6, 1.05))
    axis.set_title(f"align_corners={align_corners}", fontsize=16, family="monospace")
    axis.set_axis_off()


def draw_speed() -> Figure:
    """The times of the sampler relative to PyTorch's, from the table of the page `speed`."""
    rows = re.findall(r"^\| (\d+, .*?) \|(.*)\|$", (DOCS / "speed.md").read_text(), re.MULTILINE)
    names = [_short(name) for name, _ in rows]
    ratios = np.asarray([[float(r) for r in re.findall(r"= ([\d.]+)", cells)] for _, cells in rows])
    figure, axis = plt.subplots(figsize=(10, 4.6), layout="constrained")
    labels = ("forward", "gradient to theta", "gradients to image and theta")
    for i, (label, colour) in enumerate(zip(labels, (BLUE, GREEN, ORANGE), strict=True)):
        positions = np.arange(len(names)) + 0.27 * (i - 1)
        axis.bar(positions, ratios[:, i], 0.25, label=label, color=colour)
    axis.axhline(1, color="black", linewidth=1.5)
    axis.annotate("PyTorch", (len(names) - 0.5, 1.02), ha="right", fontsize=14)
    axis.set_xticks(np.arange(len(names)), names, fontsize=13)
    axis.tick_params(axis="y", labelsize=13)
    axis.set_ylabel("time / PyTorch's time", fontsize=14)
    axis.set_ylim(0, max(1.15, 1.05 * ratios.max()))
    axis.legend(fontsize=13, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.13), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _short(name: str) -> str:
    """`16, 224 x 224 x 3, 224 x 224` as `16 images, 224²x3`, on two lines."""
    batch, image, _ = name.split(", ")
    height, _, channels = image.split(" x ")
    return f"{batch} image{'s' * (batch != '1')}\n{height} x {height} x {channels}"


# --- Figures of runs ------------------------------------------------------------------------------


def draw_demo(folder: pathlib.Path) -> pathlib.Path:
    """Trains the demo, and returns the figure of its images."""
    _run("experiments.train", "demo", "--run-dir", folder / "run")
    return folder / "run" / "figures" / "images.png"


def draw_sweep(folder: pathlib.Path) -> pathlib.Path:
    """Runs a small sweep, and takes a screenshot of its page in chromium."""
    space = ("--space", "transform=affine,rotation,translation_scale")
    space += ("--space", "learning_rate=log:1e-4..1e-1")
    run = folder / "sweep"
    _run("experiments.sweep", "demo", "--epochs", "6", "--trials", "16", *space, "--run-dir", run)
    _run("experiments.sweep", "report", run)
    browser = "chromium --headless --no-sandbox --hide-scrollbars --virtual-time-budget=9000"
    size, target = "--window-size=1200,1250", folder / "sweep.png"
    page = (run / "report.html").resolve().as_uri()
    command = [*browser.split(), size, f"--screenshot={target}", page]
    subprocess.run(command, check=True, capture_output=True)
    return target


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


# --- The command ----------------------------------------------------------------------------------

DRAWINGS: dict[str, Callable[[], Figure]] = {
    "transformations": draw_transformations,
    "chessboard": draw_chessboard,
    "modes": draw_modes,
    "align_corners": draw_align_corners,
    "speed": draw_speed,
}
OF_RUNS: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
    "demo": draw_demo,
    "sweep": draw_sweep,
}


def save_small(picture: Image.Image, path: pathlib.Path) -> None:
    """Saves a PNG with a palette of 256 colours, which is a third of the size."""
    picture.convert("RGB").quantize(256).save(path, optimize=True)


def draw(name: str) -> None:
    """Draws a figure into `docs/figures`."""
    target = FIGURES / f"{name}.png"
    if name in DRAWINGS:
        figure, data = DRAWINGS[name](), io.BytesIO()
        figure.savefig(data, dpi=110)
        plt.close(figure)
        save_small(Image.open(data), target)
        return
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        save_small(Image.open(OF_RUNS[name](folder)), target)
    finally:
        shutil.rmtree(folder)


def main(arguments: list[str]) -> int:
    """Draws the named figures, or all."""
    known = [*DRAWINGS, *OF_RUNS]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"error: NAME must be one of {', '.join(known)}; got {unknown[0]}", file=sys.stderr)
        return 2
    for name in arguments or known:
        draw(name)
        print(FIGURES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
