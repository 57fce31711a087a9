"""What all pictures share: a figure, its colours, and how it becomes a file."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 8.0  # 1200 pixels: sharp at the width of a README
_DPI = 150

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#7f7f7f"
OUTSIDE = "#d0d0d0"  # around an image: neither the black nor the white of its background


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure, whole or not at all; the ending says the format."""
    ending = pathlib.Path(path).suffix.removeprefix(".")
    with written_whole(path) as partial:
        figure.savefig(partial, format=ending or "png")


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a file beside `path` to write to, which takes its place if all went well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
