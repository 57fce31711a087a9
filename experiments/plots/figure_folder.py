"""The folder of a run's figures. A figure that cannot be drawn does not stop anything else."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experiments.plots.canvas import save, write_figure
from experiments.settings.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FigureFolder:
    """Writes figures into a folder, and remembers why some could not be drawn.

    Args:
        path: the folder. It is made with the first figure.

    Attributes:
        undrawn: the reason for each figure that was not drawn, by its name.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self.undrawn: dict[str, str] = {}

    @contextlib.contextmanager
    def drawing(self, name: str) -> Iterator[None]:
        """Catches every error of a block, for which any part of Matplotlib can be the cause.

        Args:
            name: of the figure, or of several, for the message.
        """
        try:
            yield
        except Exception as error:
            self.undrawn[name] = _describe(error)

    def save(self, figure: Figure, name: str) -> None:
        """Writes a figure as a file of this name."""
        save(figure, self._path / name)

    def write(self, data: bytes, name: str) -> None:
        """Writes an encoded figure as a file of this name."""
        write_figure(self._path / name, data)

    def explain(self) -> str | None:
        """One line that names the figures that were not drawn, and why; None if all were."""
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in self.undrawn.items():
            names_by_reason.setdefault(reason, []).append(name)
        reasons = [f"{', '.join(names)} ({why})" for why, names in names_by_reason.items()]
        return f"{self._path}: not drawn: {'; '.join(reasons)}" if reasons else None


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
