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


_SHARES = {"outside": "Samples\noutside (%)", "changed": "Changed\nanswers (%)"}


def draw_diagnostics(path: str | os.PathLike[str], measured: Mapping[str, Any]) -> None:
    """Draws what is measured over the amount of each move.

    In rows: how far the frame is off, the share of its samples outside the image, that of the
    predictions that change, and the divergence of the logits.

    Args:
        path: where to write; the ending says the format.
        measured: what `diagnostics.measure` returns. Without frames their rows are left out.
    """
    kinds = {kind: label for kind, label in _LABELS.items() if kind in measured["by_amount"]}
    has_frames = "equivariance" in measured
    rows = {"equivariance": "Error of\nthe frame"} if has_frames else {}
    rows |= {name: label for name, label in _SHARES.items() if name in measured}
    rows |= {"kl": "Divergence\n(nats)"}
    figure = new_figure(WIDTH_INCHES, 0.6 + 1.6 * len(rows))
    cells = figure.subplots(len(rows), len(kinds), sharex="col", squeeze=False)
    for column, (kind, label) in enumerate(kinds.items()):
        values = measured["by_amount"][kind]
        for axes, name in zip(cells[:, column], rows, strict=True):
            if name == "equivariance":
                _draw_errors(axes, values)
            else:
                unit = 100 if name in _SHARES else 1
                drawn = [unit * value for value in values[name]]
                axes.plot(values["amount"], drawn, color="C0", marker="o", markersize=3)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        cells[-1, column].set(xlabel=label)
    for axes, label in zip(cells[:, 0], rows.values(), strict=True):
        axes.set(ylabel=label)
    figure.align_ylabels()
    if has_frames:
        # Below the panels: every corner of them may hold a curve.
        lines, labels = cells[0, 0].get_legend_handles_labels()
        figure.legend(
            lines, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
        )
    figure.suptitle(f"{measured['images']} test images, moved by known amounts", fontsize="medium")
    save(figure, path)


def _draw_errors(axes: "Axes", rows: Mapping[str, list[float]]) -> None:
    amounts = rows["amount"]
    axes.plot(amounts, rows["equivariance"], color="C0", marker="o", markersize=3, label="median")
    axes.plot(
        amounts, rows["equivariance_90"], color="C0", linewidth=0.8, label="nine in ten are below"
    )
    axes.plot(amounts, rows["none"], color="C7", linestyle="--", label="if it never followed")
