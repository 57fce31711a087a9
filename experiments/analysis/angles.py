"""Compares the rotation of test images with the rotation that a transformer predicts."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Num

from experiments.analysis.probe import Probe
from experiments.settings.config import WITHOUT_TRANSFORMER
from experiments.training import preprocessing
from experiments.training.experiment import Experiment
from experiments.training.models import make_transform
from stn_jax.training import Params, Variables

NUM_IMAGES = 1000


class Angles(NamedTuple):
    """The angles of test images, in degrees and pixel coordinates.

    Attributes:
        applied_deg: the angle by which each image was rotated, `[n]`.
        predicted_deg: the angle by which the transformer rotates it, `[n]`. It straightens all
            images if the sums of applied and predicted angles are equal.
    """

    applied_deg: np.ndarray
    predicted_deg: np.ndarray


def compare_angles(
    experiment: Experiment, params: Params, variables: Variables | None = None
) -> Angles | None:
    """Compares applied and predicted angles of a sample of the test set.

    The angle of a matrix is that of the nearest rotation.

    Returns:
        The angles. None if the distortion does not rotate, the network does not have exactly one
        transformer with a matrix at its input, or no pair of angles is finite.
    """
    settings, draw_theta = experiment.config.model, preprocessing.draw_theta(experiment.config.data)
    is_single = settings.placement in ("input", "between")
    if draw_theta is None or settings.model in WITHOUT_TRANSFORMER or not is_single:
        return None
    transform = make_transform(settings)
    if not transform.has_matrix:
        return None
    probe = Probe(experiment, NUM_IMAGES)
    intermediates = probe.intermediates(params, variables)
    if not intermediates:
        return None
    theta, output = (intermediates["transformer_0"][name] for name in ("theta", "output"))
    shape, canvas = experiment.dataset.test.images.shape[1:3], probe.images.shape[1:3]
    drawn = jax.vmap(lambda key: draw_theta(key, shape))(probe.keys)
    applied_deg = matrix_angle_deg(drawn.reshape(-1, 2, 3), shape, canvas)
    predicted_deg = matrix_angle_deg(jax.vmap(transform.matrix)(theta), canvas, output.shape[1:3])
    if not np.any(np.isfinite(applied_deg) & np.isfinite(predicted_deg)):
        return None  # a diverged network
    return Angles(applied_deg, predicted_deg)


def angle_summary(
    experiment: Experiment, params: Params, variables: Variables | None = None
) -> dict[str, float]:
    """Computes the standard deviation of angles before and after the transformer, in degrees.

    Returns:
        `angle_std_before_deg` and `angle_std_after_deg`; empty if there are no angles to compare.
    """
    angles = compare_angles(experiment, params, variables)
    if angles is None:
        return {}
    before, after, _ = angle_residuals(*angles)
    return {"angle_std_before_deg": float(before.std()), "angle_std_after_deg": float(after.std())}


def matrix_angle_deg(
    matrices: jax.Array, source_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> np.ndarray:
    """Computes the angle of the rotation nearest to each matrix, in degrees and pixel coordinates.

    Normalised coordinates would give other angles for images that are not square.

    Args:
        matrices: `[n, 2 or 3, 3]`, from normalised target to normalised source coordinates.
        source_shape: (height, width) of the source.
        target_shape: (height, width) of the target.
    """
    (height, width), (out_height, out_width) = source_shape, target_shape
    m = np.asarray(matrices)[:, :2, :2] * [[width], [height]] / [out_width, out_height]
    return np.degrees(np.arctan2(m[:, 1, 0] - m[:, 0, 1], m[:, 0, 0] + m[:, 1, 1]))


class AngleResiduals(NamedTuple):
    """The orientation of images relative to their mean, before and after a transformer.

    Attributes:
        before_deg: residuals of the applied angles, in degrees in (-180, 180].
        after_deg: residuals of applied + predicted angles, in degrees in (-180, 180].
        offset_deg: the circular mean of applied + predicted angles, in degrees.
    """

    before_deg: Float[np.ndarray, " n"]
    after_deg: Float[np.ndarray, " n"]
    offset_deg: float


def angle_residuals(
    applied_deg: Num[np.ndarray, " n"], predicted_deg: Num[np.ndarray, " n"]
) -> AngleResiduals:
    """Computes how much the orientation of images varies before and after their transformer.

    The network may choose any orientation for the images, so residuals are relative to the circular
    mean. The standard deviation of the residuals measures how well rotations were undone.

    Args:
        applied_deg: the angle by which each image was rotated, in degrees.
        predicted_deg: the angle by which its transformer rotates it, in degrees and in the same
            direction.

    Returns:
        The residuals. An image with a non-finite angle has NaN residuals, and the means ignore it.

    Raises:
        ValueError: if the arrays are not two of the same shape [n], or no pair of angles is finite.
    """
    applied_deg = np.asarray(applied_deg, np.float64)
    predicted_deg = np.asarray(predicted_deg, np.float64)
    if applied_deg.ndim != 1 or applied_deg.shape != predicted_deg.shape:
        raise ValueError(
            "applied and predicted angles must be [n] with the same n; "
            f"got {applied_deg.shape} and {predicted_deg.shape}"
        )
    finite = np.isfinite(applied_deg) & np.isfinite(predicted_deg)
    if not finite.any():
        raise ValueError("applied and predicted angles must contain a finite pair")
    before = np.where(finite, applied_deg, np.nan)
    after = before + np.where(finite, predicted_deg, np.nan)
    offset_deg = _circular_mean(after[finite])
    return AngleResiduals(
        _wrapped(before - _circular_mean(before[finite])), _wrapped(after - offset_deg), offset_deg
    )


def _wrapped(angles_deg: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Maps angles to the same directions in (-180, 180]."""
    wrapped = 180 - (180 - angles_deg) % 360
    # The remainder of a tiny negative number rounds to 360.
    return np.where(wrapped <= -180, 180.0, wrapped)


def _circular_mean(angles_deg: Float[np.ndarray, " n"]) -> float:
    """Computes the direction of the mean of the unit vectors, in degrees."""
    return float(np.rad2deg(np.angle(np.exp(1j * np.deg2rad(angles_deg)).mean())))
