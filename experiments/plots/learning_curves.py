"""A figure of the learning curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.plots.canvas import (
    BLUE,
    GREY,
    ORANGE,
    WIDTH_INCHES,
    add_title,
    new_figure,
    own_settings,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"training": BLUE, "validation": ORANGE}
_MAX_MARKED = 40  # longer curves have no markers
_LINEAR_PART = 0.6  # the height of the range from 0 to the smallest value, in decades


@own_settings()
def draw_curves(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Draws loss, error, share of samples outside the image and learning rate over the epochs.

    Args:
        records: lines of `metrics.jsonl`. The curves are those of `train_loss`, `validation_loss`
            (in nats), `train_error`, `validation_error` (in %), `outside` (a share of the samples
            in [0, 1]) and `learning_rate` that the records contain. Panels for `outside` and
            `learning_rate` are left out if no record contains them.
        title: of the figure.
    """
    panels = [
        _Panel("Loss (nats)", {"train_loss": "training", "validation_loss": "validation"}),
        _Panel("Error (%)", {"train_error": "training", "validation_error": "validation"}),
    ]
    extras = [
        _Panel("Samples outside the image (%)", {"outside": "validation"}, factor=100, linear=True),
        _Panel("Learning rate (per step)", {"learning_rate": "end of the epoch"}),
    ]
    panels += [panel for panel in extras if any(_has(records, key) for key in panel.keys)]
    rows = -(-len(panels) // 2)
    figure = new_figure(WIDTH_INCHES, 2.9 * rows + (0.3 if title else 0))
    cells = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(cells, panels, strict=False):
        _draw_panel(axes, panel, records)
    add_title(figure, title)
    return figure


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
    from matplotlib.ticker import MaxNLocator

    unit = " %" if "%" in panel.label else ""
    drawn = []
    for key, name in panel.keys.items():
        epochs, values = _series(records, key)
        if not len(epochs):
            continue
        values = values * panel.factor
        marker, width = ("o", 1.5) if len(epochs) <= _MAX_MARKED else (None, 1.0)
        label = f"{name}, last {values[-1]:.3g}{unit}"
        style = {"color": _COLOURS.get(name, GREY), "marker": marker, "linewidth": width}
        axes.plot(epochs, values, markersize=3, label=label, **style)
        drawn.append(values)
    axes.set(xlabel="Epoch", ylabel=panel.label)
    axes.grid(True)
    if not drawn:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left, right = axes.get_xlim()
    if right - left < 1:  # one epoch
        axes.set_xlim((left + right - 1) / 2, (left + right + 1) / 2)
    axes.legend(fontsize="small")
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
    """Uses a logarithmic scale with plain numbers if positive values span more than a decade.

    If there are zeros too, the scale is linear from 0 to the smallest positive value.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if not len(positive) or (finite < 0).any() or positive.max() <= 10 * positive.min():
        return
    labelled = (1.0, 2.0, 5.0) if positive.max() < 1e3 * positive.min() else (1.0,)
    locator = LogLocator(subs=labelled, numticks=20)
    if len(positive) < len(finite):
        smallest = positive.min()
        axes.set_yscale("symlog", linthresh=smallest, linscale=_LINEAR_PART)
        # Below zero, so that a curve at zero is not on the edge.
        axes.set_ylim(-0.3 * smallest, 1.3 * positive.max())
        ticks = locator.tick_values(smallest, positive.max())
        inside = [tick for tick in ticks if smallest <= tick <= 1.3 * positive.max()]
        axes.yaxis.set_major_locator(FixedLocator([0.0, *inside]))
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
