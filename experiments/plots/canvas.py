"""What all figures share: Matplotlib's settings, the empty figure, its colours, and its file."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.runs.records import write_atomically, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 8.0  # 1200 pixels: sharp at the width of a README
_DPI = 150

BLUE, ORANGE, GREY, RED = "#1f77b4", "#ff7f0e", "#7f7f7f", "#c00000"
OUTSIDE = "#d0d0d0"  # around an image: differs from a black and from a white background

# What differs from Matplotlib's defaults.
_SETTINGS: Mapping[str, Any] = {
    "text.parse_math": False,  # names of classes may contain dollar signs
    "axes.titlesize": "medium",
    "figure.titlesize": "medium",
    "legend.frameon": False,
    "grid.alpha": 0.3,
}
# Tried in this order for characters that DejaVu Sans lacks, if they are installed.
_OTHER_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans"),
    *("Noto Sans KR", "Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draws with the settings of this project, whatever those of the user are.

    Neither a `matplotlibrc` nor the backend of a notebook has an effect, and the settings of the
    process are unchanged afterwards. The function that makes a figure needs these settings, and so
    does the one that writes it. It is also a decorator.
    """
    matplotlib = _import_matplotlib()
    # Figures without pyplot have no backend, and reading it could start one.
    defaults = {
        name: each for name, each in matplotlib.rcParamsDefault.items() if name != "backend"
    }
    with matplotlib.rc_context({**defaults, **_SETTINGS}):
        matplotlib.rcParams["font.family"] = font_families()
        yield


def _import_matplotlib() -> Any:
    """Imports Matplotlib without the backend of the environment, which may not be installed here.

    A notebook exports its own backend to the commands that it starts.
    """
    if "matplotlib" not in sys.modules:
        backend = os.environ.pop("MPLBACKEND", None)
        try:
            import matplotlib
        finally:
            if backend is not None:
                os.environ["MPLBACKEND"] = backend
    import matplotlib

    return matplotlib


def font_families() -> list[str]:
    """The fonts that are tried for each character. The first comes with Matplotlib."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _OTHER_FONTS if name in installed)]


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


def add_title(figure: Figure, *lines: str) -> None:
    """Adds a title to a figure; empty lines are left out."""
    if text := "\n".join(filter(None, lines)):
        figure.suptitle(text)


@own_settings()
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
