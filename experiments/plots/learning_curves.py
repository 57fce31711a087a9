"""A figure of the learning curves of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.plots.canvas import BLUE, GREY, ORANGE, WIDTH_INCHES, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Draws loss, error, share of samples outside the image and learning rate over the epochs.

    Args:
        path: where to write; the suffix selects the format.
        records: lines of `metrics.jsonl`. The curves are those of `train_loss`, `validation_loss`,
            `train_error`, `validation_error` (both in %), `outside` (a share of the samples in
            [0, 1]) and `learning_rate` that the records contain. Panels for `outside` and
            `learning_rate` are left out if no record contains them.
    """
    panels = [
        _Panel("Loss", {"train_loss": "training", "validation_loss": "validation"}),
        _Panel("Error (%)", {"train_error": "training", "validation_error": "validation"}),
    ]
    extras = [
        _Panel("Samples outside the image (%)", {"outside": "share"}, factor=100, linear=True),
        _Panel("Learning rate", {"learning_rate": "rate"}),
    ]
    panels += [panel for panel in extras if any(_has(records, key) for key in panel.keys)]
    rows = -(-len(panels) // 2)
    figure = new_figure(WIDTH_INCHES, 2.9 * rows)
    cells = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(cells, panels, strict=False):
        _draw_panel(axes, panel, records)
    save(figure, path)


class _Panel(NamedTuple):
    """The curves of one coordinate system.

    Attributes:
        label: of the y-axis.
        keys: from the key of a curve in the records to its name in the legend.
        factor: multiplies the recorded values.
        linear: whether the y-axis is always linear.
    """

    label: str
    keys: Mapping[str, str]
    factor: float = 1.0
    linear: bool = False


def _has(records: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len(_series(records, key)[0]) > 0


def _draw_panel(axes: Axes, panel: _Panel, records: Sequence[Mapping[str, Any]]) -> None:
    unit = " %" if "%" in panel.label else ""
    drawn = []
    for (key, name), colour in zip(panel.keys.items(), (BLUE, ORANGE), strict=False):
        epochs, values = _series(records, key)
        if not len(epochs):
            continue
        values = values * panel.factor
        marker, width = ("o", 1.5) if len(epochs) <= 40 else (None, 1.0)
        label = f"{name}, last {values[-1]:.3g}{unit}"
        axes.plot(
            epochs, values, color=colour, marker=marker, markersize=3, linewidth=width, label=label
        )
        drawn.append(values)
    axes.set(xlabel="Epoch", ylabel=panel.label)
    axes.grid(alpha=0.3)
    if not drawn:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.legend(frameon=False, fontsize="small")
    if not panel.linear:
        _scale_values(axes, np.concatenate(drawn))


def _series(
    records: Sequence[Mapping[str, Any]], key: str
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The epochs and values of the records that contain both."""
    pairs = [
        (record["epoch"], record[key])
        for record in records
        if record.get("epoch") is not None and record.get(key) is not None
    ]
    epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return epochs, values


def _scale_values(axes: Axes, values: Float[np.ndarray, " m"]) -> None:
    """Uses a logarithmic scale with plain numbers if positive values span more than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = values[(values > 0) & np.isfinite(values)]
    if not len(positive) or (values < 0).any() or positive.max() <= 10 * positive.min():
        return
    labelled = (1.0, 2.0, 5.0) if positive.max() < 1e3 * positive.min() else (1.0,)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=labelled))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
