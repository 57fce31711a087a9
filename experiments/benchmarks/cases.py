"""What is timed: shapes, sizes and inputs, as NumPy arrays from fixed seeds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
# What a worker builds a program from; plain values, which travel as JSON.
Job = dict[str, Any]

FLOAT_BYTES = 4
CLASSES = 10
SIDE = 28  # of the networks' images, in pixels

QUANTITIES: Mapping[str, str] = {
    "forward": "forward",
    "theta": "gradient to theta",
    "image_and_theta": "gradient to image and theta",
}


class Warp(NamedTuple):
    """An affine warp of square images.

    Attributes:
        batch: number of images.
        size: side of an image, in pixels.
        channels: of an image.
        output_size: side of an output, in pixels.
    """

    batch: int
    size: int
    channels: int
    output_size: int


WARPS: Mapping[str, Warp] = {
    "mnist": Warp(256, 28, 1, 28),
    "clutter": Warp(256, 60, 1, 30),
    "svhn": Warp(64, 64, 3, 64),
    "cub": Warp(16, 224, 3, 224),
    "feature": Warp(32, 32, 64, 32),
    "photo": Warp(1, 1024, 3, 1024),
}
SMOKE_WARPS: Mapping[str, Warp] = {"mnist": Warp(3, 8, 1, 8), "clutter": Warp(2, 9, 2, 5)}

SWEEP_FACTORS = (1, 4, 16, 64)


def sweep_warps(smoke: bool) -> dict[str, Warp]:
    """The warps of a sweep, named AXISxFACTOR."""
    base = Warp(2, 6, 1, 6) if smoke else Warp(8, 64, 2, 64)
    warps = {}
    for factor in SWEEP_FACTORS[:2] if smoke else SWEEP_FACTORS:
        size = base.size * round(factor**0.5)
        warps[f"pixels x{factor}"] = base._replace(size=size, output_size=size)
        warps[f"batch x{factor}"] = base._replace(batch=base.batch * factor)
        warps[f"channels x{factor}"] = base._replace(channels=base.channels * factor)
    return dict(sorted(warps.items(), key=lambda item: item[0].split(" x")[0]))


def warp_arrays(warp: Warp) -> Arrays:
    """Images, thetas around the identity, and the cotangent of the output."""
    rng = np.random.default_rng(0)
    b, size, c, out = warp
    theta = np.asarray([1, 0, 0, 0, 1, 0]) + 0.1 * rng.standard_normal((b, 6))
    return {
        "image": rng.random((b, size, size, c), np.float32),
        "theta": theta.astype(np.float32),
        "cotangent": rng.standard_normal((b, out, out, c), np.float32),
    }


def moved_bytes(warp: Warp, quantity: str) -> int:
    """Bytes to move if every array were read or written once."""
    image = warp.batch * warp.size**2 * warp.channels
    output = warp.batch * warp.output_size**2 * warp.channels
    theta = warp.batch * 6
    # The cotangent is as large as the output; a gradient as what it belongs to.
    floats = {
        "forward": image + output + theta,
        "theta": image + output + 2 * theta,
        "image_and_theta": 2 * image + output + 2 * theta,
    }[quantity]
    return FLOAT_BYTES * floats


def footprint(warp: Warp) -> int:
    """Bytes of images, outputs and grids."""
    image = warp.batch * warp.size**2 * warp.channels
    output = warp.batch * warp.output_size**2 * warp.channels
    grid = warp.batch * warp.output_size**2 * 2
    return FLOAT_BYTES * (image + output + grid)


class Step(NamedTuple):
    """A training step.

    Attributes:
        network: tutorial, st_cnn, cnn; cnn_offset and st_cnn_unsampled are parts of st_cnn.
        batch: number of images.
    """

    network: str
    batch: int


STEPS: Mapping[str, Step] = {
    "tutorial-64": Step("tutorial", 64),
    "tutorial-256": Step("tutorial", 256),
    "st_cnn-256": Step("st_cnn", 256),
    "cnn-256": Step("cnn", 256),
}
SMOKE_STEPS: Mapping[str, Step] = {
    "tutorial-64": Step("tutorial", 2),
    "st_cnn-256": Step("st_cnn", 2),
    "cnn-256": Step("cnn", 2),
}

# Each has what the one before has, and one thing more.
OVERHEAD: Mapping[str, str] = {
    "cnn": "plain CNN",
    "cnn_offset": "+ gradient to the input",
    "st_cnn_unsampled": "+ localisation network",
    "st_cnn": "+ grid and sampler",
}


def step_arrays(batch: int, members: int = 0) -> Arrays:
    """Images and labels; with members, as many batches on a leading axis."""
    rng = np.random.default_rng(1)
    shape = (members, batch) if members else (batch,)
    return {
        "images": rng.random((*shape, SIDE, SIDE, 1), np.float32),
        "labels": rng.integers(0, CLASSES, shape, np.int32),
    }
