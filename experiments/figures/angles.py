"""How well a transformer undoes rotations: residual angles, and a picture of them."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Float, Num

from experiments.figures.canvas import BLUE, GREY, ORANGE, WIDTH_INCHES, new_figure, save


def draw_angles(
    path: str | os.PathLike[str],
    applied_deg: Num[np.ndarray, " n"],
    predicted_deg: Num[np.ndarray, " n"],
) -> None:
    """Draws the angle that a transformer predicts against the angle that was applied.

    Beside it stand the histograms of what `angle_residuals` returns; what is beyond a histogram's
    width counts in its outermost bins.

    Args:
        path: where to write; the ending says the format.
        applied_deg: by how much each image was rotated, in degrees.
        predicted_deg: by how much its transformer rotates it, in degrees and the same sense: a
            perfect one predicts the opposite of what was applied, up to a constant.
    """
    from matplotlib.ticker import MaxNLocator

    applied_deg = np.asarray(applied_deg, np.float64)
    predicted_deg = np.asarray(predicted_deg, np.float64)
    before, after = angle_residuals(applied_deg, predicted_deg)
    finite = np.isfinite(before) & np.isfinite(after)
    applied_deg, before, after = applied_deg[finite], before[finite], after[finite]
    constant = _circular_mean(applied_deg + predicted_deg[finite])

    figure = new_figure(WIDTH_INCHES, 3.8)
    axes = figure.subplot_mosaic([["both", "before"], ["both", "after"]])
    # Whole turns are taken out of the prediction, so that the points lie about the line.
    dots = {"s": 6, "linewidths": 0, "alpha": float(np.clip(500 / len(after), 0.15, 0.8))}
    axes["both"].scatter(applied_deg, constant - applied_deg + after, color=BLUE, **dots)
    ends = np.array([applied_deg.min(), applied_deg.max()])
    ideal = f"−applied {'−' if constant < 0 else '+'} {abs(constant):.1f}°"  # noqa: RUF001
    axes["both"].plot(ends, constant - ends, color=ORANGE, label=ideal)
    axes["both"].legend(frameon=False, fontsize="small")
    axes["both"].set(xlabel="Applied angle (°)", ylabel="Predicted angle (°)")
    axes["both"].grid(alpha=0.3)

    widest = max(1.0, np.abs(before).max(), np.quantile(np.abs(after), 0.99))
    half_width = min(180.0, 1.05 * widest)
    bins = np.linspace(-half_width, half_width, 62)  # an odd number of bins: one is about 0
    for name, residual, colour in (("before", before, GREY), ("after", after, BLUE)):
        shown = np.clip(residual, -half_width, half_width)
        weights = np.full(len(shown), 100 / len(shown))
        axes[name].hist(shown, list(bins), weights=weights, color=colour)
        axes[name].set_title(
            f"{name.capitalize()}: standard deviation {residual.std():.1f}°", fontsize="medium"
        )
        axes[name].set_ylabel("Images (%)")
    axes["before"].sharex(axes["after"])
    axes["before"].tick_params(labelbottom=False)
    axes["after"].set_xlabel("Angle about its mean (°)")
    for axis in (axes["both"].xaxis, axes["both"].yaxis, axes["after"].xaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 3, 4.5, 9, 10]))
    save(figure, path)


def angle_residuals(
    applied_deg: Num[np.ndarray, " n"], predicted_deg: Num[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How far each image is turned from the others, before and after its transformer.

    Which way up the images end is the network's choice, hence both are taken about their circular
    mean. Their standard deviations say how well rotations were undone.

    Args:
        applied_deg: by how much each image was rotated, in degrees.
        predicted_deg: by how much its transformer rotates it, in degrees and the same sense.

    Returns:
        (before, after), in degrees in (-180, 180]: applied, and applied + predicted, about their
        means. An angle that is not finite gives NaN and counts in no mean.

    Raises:
        ValueError: the arrays are not of one shape [n], or no pair of angles is finite.
    """
    applied_deg = np.asarray(applied_deg, np.float64)
    predicted_deg = np.asarray(predicted_deg, np.float64)
    if applied_deg.ndim != 1 or applied_deg.shape != predicted_deg.shape:
        raise ValueError(
            f"applied and predicted angles must be [n] and as many, "
            f"got {applied_deg.shape} and {predicted_deg.shape}"
        )
    finite = np.isfinite(applied_deg) & np.isfinite(predicted_deg)
    if not finite.any():
        raise ValueError("there is no pair of finite angles")
    before = np.where(finite, applied_deg, np.nan)
    after = before + np.where(finite, predicted_deg, np.nan)
    return (
        _wrapped(before - _circular_mean(before[finite])),
        _wrapped(after - _circular_mean(after[finite])),
    )


def _wrapped(angles_deg: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The same directions in (-180, 180]."""
    wrapped = 180 - (180 - angles_deg) % 360
    # The remainder of a tiny negative number rounds to 360 itself.
    return np.where(wrapped <= -180, 180.0, wrapped)


def _circular_mean(angles_deg: Float[np.ndarray, " n"]) -> float:
    """The direction of the mean of the unit vectors, in degrees."""
    return float(np.rad2deg(np.angle(np.exp(1j * np.deg2rad(angles_deg)).mean())))
