"""A figure of the measurements of `experiments.analysis.diagnostics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.plots.canvas import BLUE, GREY, WIDTH_INCHES, add_title, new_figure, own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KIND_LABELS = {
    "rotation_deg": "Rotation (°)",
    "translation_px": "Shift (pixels)",
    "log_scale": "Scale (natural log)",
}
_KIND_UNITS = {"rotation_deg": "°", "translation_px": "pixels", "log_scale": "natural log"}
_FRAME_ERROR = "equivariance"
_SHARE_LABELS = {"outside": "Samples\noutside (%)", "changed": "Changed\npredictions (%)"}


@own_settings()
def draw_diagnostics(measured: Mapping[str, Any], title: str = "") -> Figure:
    """Draws each measurement over the amount of each kind of move.

    The rows show the error of the frame, the share of its samples outside the image, the share of
    predictions that change, and the divergence of the predicted distribution.

    Args:
        measured: the result of `diagnostics.measure`. Rows about frames are left out if it has no
            measurements of frames.
        title: of the figure.
    """
    kinds = [kind for kind in _KIND_LABELS if kind in measured["by_amount"]]
    has_frames = _FRAME_ERROR in measured
    rows = {_FRAME_ERROR: "Error of the frame"} if has_frames else {}
    rows |= {name: label for name, label in _SHARE_LABELS.items() if name in measured}
    rows |= {"kl": "Divergence\n(nats)"}
    figure = new_figure(WIDTH_INCHES, 0.9 + 1.6 * len(rows))
    cells = figure.subplots(len(rows), len(kinds), sharex="col", squeeze=False)
    for column, kind in enumerate(kinds):
        for axes, (name, label) in zip(cells[:, column], rows.items(), strict=True):
            _draw_cell(axes, name, measured["by_amount"][kind])
            if name == _FRAME_ERROR:
                axes.set(ylabel=f"{label}\n({_KIND_UNITS[kind]})")
            elif column == 0:
                axes.set(ylabel=label)
        cells[-1, column].set(xlabel=_KIND_LABELS[kind])
    figure.align_ylabels()
    if has_frames:
        # Below the panels, because any corner of a panel may contain a curve.
        lines, labels = cells[0, 0].get_legend_handles_labels()
        figure.legend(
            lines,
            labels,
            loc="outside lower center",
            ncols=3,
            fontsize="small",
            title="Error of the frame",
            title_fontsize="small",
        )
    heading = f"{measured['images']} test images, moved by known amounts"
    add_title(figure, title, heading)
    return figure


def _draw_cell(axes: Axes, name: str, values: Mapping[str, list[float]]) -> None:
    unit = 100 if name in _SHARE_LABELS else 1

    def plot(key: str, label: str, **style: Any) -> None:
        curve = unit * np.array(values[key], float)  # None stands for a number that is not finite
        axes.plot(values["amount"], curve, label=label, clip_on=False, **style)

    plot(name, "median", color=BLUE, marker="o", markersize=3)
    if name == _FRAME_ERROR:
        plot("equivariance_90", "90th percentile", color=BLUE, linewidth=0.8)
        plot("none", "median if the input were ignored", color=GREY, linestyle="--")
    highest = axes.dataLim.y1
    axes.set_ylim(0, 1.1 * highest if 0 < highest < np.inf else 1)
    axes.grid(True)
