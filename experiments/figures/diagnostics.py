"""The picture of what `experiments.diagnostics` measures, drawn from its numbers."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.figures.canvas import WIDTH_INCHES, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {
    "rotation_deg": "Rotation (°)",
    "translation_px": "Shift (pixels)",
    "log_scale": "Log of scale",
}


def draw_diagnostics(path: str | os.PathLike[str], measured: Mapping[str, Any]) -> None:
    """Draws over the amount of each move how far the frame is off, and how many answers change.

    Args:
        path: where to write; the ending says the format.
        measured: what `diagnostics.measure` returns. Without frames their row is left out.
    """
    kinds = {kind: label for kind, label in _LABELS.items() if kind in measured["by_amount"]}
    has_frames = "equivariance" in measured
    figure = new_figure(WIDTH_INCHES, 4.8 if has_frames else 2.6)
    cells = figure.subplots(1 + has_frames, len(kinds), sharex="col", squeeze=False)
    for column, (kind, label) in enumerate(kinds.items()):
        rows = measured["by_amount"][kind]
        if has_frames:
            _draw_errors(cells[0, column], rows)
        changed = [100 * share for share in rows["changed"]]
        cells[-1, column].plot(rows["amount"], changed, color="C0", marker="o", markersize=3)
        cells[-1, column].set(xlabel=label)
        cells[-1, column].set_ylim(bottom=0)
    cells[-1, 0].set(ylabel="Changed predictions (%)")
    if has_frames:
        cells[0, 0].set(ylabel="Error of the frame")
        # Below the panels: every corner of them may hold a curve.
        lines, labels = cells[0, 0].get_legend_handles_labels()
        figure.legend(
            lines, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
        )
    for axes in cells.ravel():
        axes.grid(alpha=0.3)
    figure.suptitle(f"{measured['images']} test images, moved by known amounts", fontsize="medium")
    save(figure, path)


def _draw_errors(axes: "Axes", rows: Mapping[str, list[float]]) -> None:
    amounts = rows["amount"]
    axes.plot(amounts, rows["equivariance"], color="C0", marker="o", markersize=3, label="median")
    axes.plot(
        amounts, rows["equivariance_90"], color="C0", linewidth=0.8, label="nine in ten are below"
    )
    axes.plot(amounts, rows["none"], color="C7", linestyle="--", label="if it never followed")
    axes.set_ylim(bottom=0)
