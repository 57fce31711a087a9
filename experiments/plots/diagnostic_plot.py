"""A figure of the measurements of `experiments.analysis.diagnostics`."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.plots.canvas import WIDTH_INCHES, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND_LABELS = {
    "rotation_deg": "Rotation (°)",
    "translation_px": "Shift (pixels)",
    "log_scale": "Log of scale",
}
_SHARE_LABELS = {"outside": "Samples\noutside (%)", "changed": "Changed\npredictions (%)"}


def draw_diagnostics(path: str | os.PathLike[str], measured: Mapping[str, Any]) -> None:
    """Draws each measurement over the amount of each kind of move.

    The rows show the error of the frame, the share of its samples outside the image, the share of
    predictions that change, and the divergence of the predicted distribution.

    Args:
        path: where to write; the suffix selects the format.
        measured: the result of `diagnostics.measure`. Rows about frames are left out if it has no
            measurements of frames.
    """
    kinds = {kind: label for kind, label in _KIND_LABELS.items() if kind in measured["by_amount"]}
    has_frames = "equivariance" in measured
    rows = {"equivariance": "Error of\nthe frame"} if has_frames else {}
    rows |= {name: label for name, label in _SHARE_LABELS.items() if name in measured}
    rows |= {"kl": "Divergence\n(nats)"}
    figure = new_figure(WIDTH_INCHES, 0.6 + 1.6 * len(rows))
    cells = figure.subplots(len(rows), len(kinds), sharex="col", squeeze=False)
    for column, (kind, label) in enumerate(kinds.items()):
        for axes, name in zip(cells[:, column], rows, strict=True):
            _draw_cell(axes, name, measured["by_amount"][kind])
        cells[-1, column].set(xlabel=label)
    for axes, label in zip(cells[:, 0], rows.values(), strict=True):
        axes.set(ylabel=label)
    figure.align_ylabels()
    if has_frames:
        # Below the panels, because any corner of a panel may contain a curve.
        lines, labels = cells[0, 0].get_legend_handles_labels()
        figure.legend(
            lines, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
        )
    figure.suptitle(f"{measured['images']} test images, moved by known amounts", fontsize="medium")
    save(figure, path)


def _draw_cell(axes: "Axes", name: str, values: Mapping[str, list[float]]) -> None:
    amounts = values["amount"]
    unit = 100 if name in _SHARE_LABELS else 1
    curve = [unit * value for value in values[name]]
    axes.plot(amounts, curve, color="C0", marker="o", markersize=3, label="median")
    if name == "equivariance":
        percentile, ignoring = values["equivariance_90"], values["none"]
        axes.plot(amounts, percentile, color="C0", linewidth=0.8, label="90th percentile")
        axes.plot(amounts, ignoring, color="C7", linestyle="--", label="input ignored")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
