"""Measures how a network responds when its input moves.

Test images are rotated, shifted and scaled by known amounts after preprocessing. If a transformer
follows its input, its output for a moved image equals its output for the original image, whatever
the pose of its frame. The logits should not change either.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analysis.frames import input_frames
from experiments.analysis.probe import sample_test_images
from experiments.training import preprocessing
from experiments.training.experiment import Experiment, share_outside
from stn_jax import poses, spatial_transform, transforms
from stn_jax.training import Params, Variables

NUM_IMAGES = 256
FRACTIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)  # of the largest move
MAX_ROTATION_DEG = 30.0
MAX_SHIFT = 1 / 8  # of the shorter side
MAX_LOG_SCALE = math.log(1.25)

Kind = Literal["rotation_deg", "translation_px", "log_scale"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Measurements = dict[str, list[float]]  # by name, one value per amount


class FrameResponse(NamedTuple):
    """The frames of the first transformer on the input, or of a whole series.

    Attributes:
        pose: `[n, 4]`.
        outside: the share of samples of all transformers outside their images, `[n]`.
    """

    pose: jax.Array
    outside: jax.Array


class Response(NamedTuple):
    """The response of a network to images.

    Attributes:
        log_probs: `[n, classes]`.
        frame: None if no transformer samples the input.
    """

    log_probs: jax.Array
    frame: FrameResponse | None


def measure(
    experiment: Experiment, params: Params, variables: Variables | None = None
) -> dict[str, Any]:
    """Measures how a trained network follows moves of its input.

    Returns:
        A dict for JSON: `images`, the number of images; `by_amount`, all measurements for each kind
        of move and each amount; and, for each measurement, its mean over the nonzero amounts of
        each kind. The measurements are

        - `equivariance`: the median over images of the error of the frame, in the unit of the kind;
        - `equivariance_90`: the 90th percentile of this error, because a median hides frames that
          flip;
        - `none`: the median error of a transformer that ignores its input;
        - `outside`: the share of samples outside the image (`outside_unmoved`: for images that are
          not moved);
        - `changed`: the share of predictions that differ from those for the unmoved images;
        - `kl`: the mean divergence of the predicted distribution from that for the unmoved image,
          in nats.

        The first four are left out if no transformer samples the input.
    """
    images = sample_test_images(experiment, NUM_IMAGES).images

    @jax.jit
    def respond(move: jax.Array) -> Response:
        return _response(experiment, params, variables, _moved(experiment, images, move))

    unmoved = respond(jnp.zeros((len(images), 4)))
    by_amount: dict[str, Measurements] = {}
    for kind in KINDS:
        rows = []
        for fraction in FRACTIONS:
            amount, move = _move(kind, fraction, images.shape[1:3], len(images))
            rows.append({"amount": amount} | _compare(kind, move, unmoved, respond(move)))
        by_amount[kind] = {name: [row[name] for row in rows] for name in rows[0]}
    measured: dict[str, Any] = {"images": len(images)} | _means(by_amount)
    if unmoved.frame is not None:
        measured["outside_unmoved"] = float(unmoved.frame.outside.mean())
    return measured | {"by_amount": by_amount}


def _move(
    kind: Kind, fraction: float, shape: tuple[int, ...], count: int
) -> tuple[float, jax.Array]:
    """Computes the amount of a move, and its pose for each image. Shifts have all directions."""
    move = np.zeros((count, 4), np.float32)
    if kind == "rotation_deg":
        amount = fraction * MAX_ROTATION_DEG
        move[:, 0] = np.radians(amount)
    elif kind == "log_scale":
        amount = fraction * MAX_LOG_SCALE
        move[:, 1] = amount
    else:
        amount = fraction * MAX_SHIFT * min(shape)
        directions = 2 * np.pi * np.arange(count) / count
        move[:, 2:] = amount * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    return amount, jnp.asarray(move)


def _moved(experiment: Experiment, images: jax.Array, move: jax.Array) -> jax.Array:
    """Warps each image by a pose.

    Outside the image, digits on a canvas continue with the background. Other images continue with
    their edge, as in the augmentation.
    """
    shape, data = images.shape[1:3], experiment.config.data
    outside: dict[str, Any] = {"padding_mode": "border"}
    if data.distortion != "none":
        outside = {"fill": preprocessing.background(data, experiment.normalisation)}

    def warp(image: jax.Array, pose: jax.Array) -> jax.Array:
        theta = poses.affine_from_pose(pose, shape, shape)
        return spatial_transform(image, theta, transforms.affine, **outside)

    return jax.vmap(warp)(images, move)


def _response(
    experiment: Experiment, params: Params, variables: Variables | None, images: jax.Array
) -> Response:
    logits, intermediates = experiment.apply(params, images, None, variables)
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    frames = input_frames(experiment.config.model, intermediates)
    if not frames:
        return Response(log_probs, None)
    frame = frames[0]

    def pose(theta: jax.Array) -> jax.Array:
        return poses.pose_at_centre(
            theta,
            frame.transform,
            images.shape[1:3],
            output_shape=frame.output_shape,
            align_corners=experiment.config.model.align_corners,
        )

    outside = share_outside(intermediates)["outside"]
    return Response(log_probs, FrameResponse(jax.vmap(pose)(frame.theta), outside))


def _compare(kind: Kind, move: jax.Array, before: Response, after: Response) -> dict[str, float]:
    """Computes the measurements for one move."""
    probabilities = jnp.exp(before.log_probs)
    divergence = jnp.sum(probabilities * (before.log_probs - after.log_probs), axis=-1)
    changed = before.log_probs.argmax(axis=-1) != after.log_probs.argmax(axis=-1)
    measured = {"changed": jnp.mean(changed), "kl": jnp.mean(divergence)}
    if before.frame is not None and after.frame is not None:
        error = _frame_error(kind, move, before.frame.pose, after.frame.pose)
        ignoring = _frame_error(kind, move, before.frame.pose, before.frame.pose)
        measured |= {
            "equivariance": jnp.median(error),
            "equivariance_90": jnp.quantile(error, 0.9),
            "none": jnp.median(ignoring),
            "outside": jnp.mean(after.frame.outside),
        }
    return {name: float(value) for name, value in measured.items()}


def _frame_error(kind: Kind, move: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """Computes the error of each frame in the unit of a kind of move, from poses `[n, 4]`."""
    errors = jax.vmap(poses.equivariance_error)(move, before, after)
    angle_rad, log_scale, distance_px = errors.T
    return jnp.abs((jnp.degrees(angle_rad), distance_px, log_scale)[KINDS.index(kind)])


def _means(by_amount: Mapping[str, Measurements]) -> dict[str, dict[str, float]]:
    """Averages each measurement over the nonzero amounts of each kind of move."""
    nonzero = np.flatnonzero(FRACTIONS)
    names = [name for name in by_amount[KINDS[0]] if name != "amount"]
    return {
        name: {
            kind: float(np.mean(np.take(rows[name], nonzero))) for kind, rows in by_amount.items()
        }
        for name in names
    }
