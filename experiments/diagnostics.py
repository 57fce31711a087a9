"""How a network answers when its input moves: does its frame follow, and do its logits stay?

Test images, as the network gets them, are turned, shifted and scaled by known amounts. A
transformer that follows its input sees each moved image as it saw the image itself, in whatever
pose that was.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import frames, gallery, preparation
from experiments.experiment import Experiment, share_outside
from stn_jax import poses, spatial_transform, transforms

IMAGES = 256  # the first of the test set
FRACTIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)  # of the largest move
MOST_DEG = 30.0
MOST_SHIFT = 1 / 8  # of the shorter side
MOST_LOG_SCALE = math.log(1.25)
KINDS = ("rotation_deg", "translation_px", "log_scale")


class SeenFrame(NamedTuple):
    """The frame of the first transformer on the input, or of the series of them.

    Attributes:
        pose: `[n, 4]`.
        outside: share of the samples of all transformers that lie outside their images, `[n]`.
    """

    pose: jax.Array
    outside: jax.Array


class Seen(NamedTuple):
    """What a network makes of images.

    Attributes:
        log_probs: `[n, classes]`.
        frame: None where no transformer looks at the input.
    """

    log_probs: jax.Array
    frame: SeenFrame | None


def measure(experiment: Experiment, params: Any) -> dict[str, Any]:
    """How a trained network follows moves of its input, as JSON holds it.

    Returns:
        `images`, their number; `by_amount`, what is measured at each amount of each kind of move;
        and, for each kind, the means of that over the amounts but 0. Measured are `equivariance`,
        the median over images of how far the frame is off, in the kind's unit; `equivariance_90`,
        what nine in ten do not exceed, since the median is blind to frames that turn over; `none`,
        the error of a transformer that ignores its input; `changed`, the share of predictions that
        are other than on the unmoved image; `kl`, the mean divergence of the logits from those
        there, in nats; `outside`, the share of samples outside the image (`outside_unmoved`: of
        images that are not moved). What speaks of frames is left out where no transformer looks at
        the input.
    """
    images = gallery.test_images(experiment, IMAGES)
    look = jax.jit(lambda applied: _look(experiment, params, _moved(experiment, images, applied)))
    unmoved = look(jnp.zeros((len(images), 4)))
    found = {}
    for kind in KINDS:
        rows = []
        for fraction in FRACTIONS:
            amount, applied = _move(kind, fraction, images.shape[1:3], len(images))
            rows.append({"amount": amount} | _compared(kind, applied, unmoved, look(applied)))
        found[kind] = {name: [row[name] for row in rows] for name in rows[0]}
    measured: dict[str, Any] = {"images": len(images)} | _means(found)
    if unmoved.frame is not None:
        measured["outside_unmoved"] = float(unmoved.frame.outside.mean())
    return measured | {"by_amount": found}


def _move(
    kind: str, fraction: float, shape: tuple[int, ...], count: int
) -> tuple[float, jax.Array]:
    """The amount of a move, and the pose of each image's; each is shifted in its own direction."""
    applied = np.zeros((count, 4), np.float32)
    if kind == "rotation_deg":
        amount = fraction * MOST_DEG
        applied[:, 0] = np.radians(amount)
    elif kind == "log_scale":
        amount = fraction * MOST_LOG_SCALE
        applied[:, 1] = amount
    else:
        amount = fraction * MOST_SHIFT * min(shape)
        directions = 2 * np.pi * np.arange(count) / count
        applied[:, 2:] = amount * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    return amount, jnp.asarray(applied)


def _moved(experiment: Experiment, images: jax.Array, applied: jax.Array) -> jax.Array:
    """Each image warped by a pose.

    Digits are laid on a canvas, whose background goes on outside of it; of other images the edge
    goes on, as where training moves them.
    """
    shape, data = images.shape[1:3], experiment.config.data
    outside: dict[str, Any] = {"padding_mode": "border"}
    if data.distortion != "none":
        outside = {"fill": preparation.background(data, experiment.normalisation)}

    def move(image: jax.Array, pose: jax.Array) -> jax.Array:
        theta = poses.affine_from_pose(pose, shape, shape)
        return spatial_transform(image, theta, transforms.affine, **outside)

    return jax.vmap(move)(images, applied)


def _look(experiment: Experiment, params: Any, images: jax.Array) -> Seen:
    logits, found = experiment.apply(params, images, None)
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    on_input = frames.on_input(experiment.config.model, found)
    if not on_input:
        return Seen(log_probs, None)
    frame = on_input[0]

    def pose(theta: jax.Array) -> jax.Array:
        return poses.pose_at_centre(
            theta,
            frame.transform,
            images.shape[1:3],
            output_shape=frame.output_shape,
            align_corners=experiment.config.model.align_corners,
        )

    seen = SeenFrame(jax.vmap(pose)(frame.theta), share_outside(found)["outside"])
    return Seen(log_probs, seen)


def _compared(kind: str, applied: jax.Array, before: Seen, after: Seen) -> dict[str, float]:
    """What became of the images by one move, over all of them."""
    probabilities = jnp.exp(before.log_probs)
    divergence = jnp.sum(probabilities * (before.log_probs - after.log_probs), axis=-1)
    changed = before.log_probs.argmax(axis=-1) != after.log_probs.argmax(axis=-1)
    means = {"changed": jnp.mean(changed), "kl": jnp.mean(divergence)}
    if before.frame is not None and after.frame is not None:
        error = jax.vmap(poses.equivariance_error)
        for name, pose in (("equivariance", after.frame.pose), ("none", before.frame.pose)):
            angle_rad, log_scale, distance_px = error(applied, before.frame.pose, pose).T
            of_kind = (jnp.degrees(angle_rad), distance_px, log_scale)[KINDS.index(kind)]
            means[name] = jnp.median(jnp.abs(of_kind))
            if name == "equivariance":
                means["equivariance_90"] = jnp.quantile(jnp.abs(of_kind), 0.9)
        means["outside"] = jnp.mean(after.frame.outside)
    return {name: float(mean) for name, mean in means.items()}


def _means(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Of each measure, for each kind of move: the mean over its amounts but 0."""
    moved = np.flatnonzero(FRACTIONS)
    measures = [name for name in found[KINDS[0]] if name != "amount"]
    return {
        name: {kind: float(np.mean(np.take(rows[name], moved))) for kind, rows in found.items()}
        for name in measures
    }
