"""A figure that compares the rotation of each image with the rotation that its transformer does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Num

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


@own_settings()
def draw_angles(
    applied_deg: Num[np.ndarray, " n"],
    before_deg: Float[np.ndarray, " n"],
    after_deg: Float[np.ndarray, " n"],
    offset_deg: float,
    title: str = "",
) -> Figure:
    """Draws predicted against applied angles, next to histograms of the residual angles.

    The outermost bins also count the angles beyond the range of the histogram.

    Args:
        applied_deg: the angle by which each image was rotated, in degrees.
        before_deg: its residual before the transformer, in degrees; see `angle_residuals`. An image
            is left out if either of its residuals is not finite.
        after_deg: its residual after the transformer, in degrees.
        offset_deg: the mean of applied + predicted angles, in degrees. A perfect transformer
            predicts offset - applied.
        title: of the figure.
    """
    from matplotlib.ticker import MaxNLocator

    finite = np.isfinite(before_deg) & np.isfinite(after_deg)
    applied_deg = np.asarray(applied_deg, np.float64)[finite]
    before_deg, after_deg = before_deg[finite], after_deg[finite]
    figure = new_figure(WIDTH_INCHES, 4.2)
    axes = figure.subplot_mosaic([["both", "before"], ["both", "after"]])
    _draw_scatter(axes["both"], applied_deg, after_deg, offset_deg)
    widest = max(1.0, np.abs(before_deg).max(), np.quantile(np.abs(after_deg), 0.99))
    half_width = min(180.0, 1.05 * widest)
    _draw_histogram(axes["before"], "Before the transformer", before_deg, half_width, GREY)
    _draw_histogram(axes["after"], "After it", after_deg, half_width, BLUE)
    axes["before"].sharex(axes["after"])
    axes["before"].tick_params(labelbottom=False)
    axes["after"].set_xlabel("Angle relative to its mean (°)")
    for axis in (axes["both"].xaxis, axes["both"].yaxis, axes["after"].xaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 3, 4.5, 9, 10]))
    heading = f"Rotation applied to {len(applied_deg):,} test images, and by their transformer"
    add_title(figure, title, heading)
    return figure


def _draw_scatter(
    axes: Axes,
    applied_deg: Float[np.ndarray, " n"],
    after_deg: Float[np.ndarray, " n"],
    offset_deg: float,
) -> None:
    # The residual contains no full turns, so every point lies near the line.
    predicted_deg = offset_deg - applied_deg + after_deg
    alpha = float(np.clip(500 / len(after_deg), 0.15, 0.8))
    axes.scatter(applied_deg, predicted_deg, color=BLUE, s=6, linewidths=0, alpha=alpha)
    ends = np.array([applied_deg.min(), applied_deg.max()])
    ideal = f"ideal: −applied {'−' if offset_deg < 0 else '+'} {abs(offset_deg):.1f}°"  # noqa: RUF001
    axes.plot(ends, offset_deg - ends, color=ORANGE, label=ideal)
    axes.legend(fontsize="small")
    axes.set(xlabel="Applied angle (°)", ylabel="Predicted angle (°)")
    axes.grid(True)


def _draw_histogram(
    axes: Axes, name: str, residual_deg: Float[np.ndarray, " n"], half_width: float, colour: str
) -> None:
    bins = np.linspace(-half_width, half_width, 62)  # an odd number of bins: one is centred on 0
    clipped = np.clip(residual_deg, -half_width, half_width)
    weights = np.full(len(clipped), 100 / len(clipped))
    axes.hist(clipped, list(bins), weights=weights, color=colour)
    axes.set_title(f"{name}: standard deviation {residual_deg.std():.1f}°")
    axes.set_ylabel("Images per bin (%)")
