"""What all figures share: the empty figure, its colours, and writing it to a file."""

from __future__ import annotations

import io
import os
import pathlib
from typing import TYPE_CHECKING

from experiments.runs.records import write_atomically, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 8.0  # 1200 pixels: sharp at the width of a README
_DPI = 150

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#7f7f7f"
OUTSIDE = "#d0d0d0"  # around an image: differs from a black and from a white background


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty figure that belongs to no window and no global state.

    Args:
        width: in inches.
        height: in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure atomically; the suffix of the path selects the format.

    Raises:
        ValueError: if Matplotlib does not support the format.
        RunError: if the file cannot be written.
    """
    data = io.BytesIO()
    figure.savefig(data, format=pathlib.Path(path).suffix.removeprefix(".") or "png")
    write_figure(path, data.getvalue())


def write_figure(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes an encoded figure atomically, and creates its folder if there is none.

    Raises:
        RunError: if the file or the folder cannot be written.
    """
    path = pathlib.Path(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
