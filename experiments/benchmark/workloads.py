"""The shapes and sizes that are timed, and their inputs as NumPy arrays from fixed seeds."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

Device = Literal["cpu", "gpu"]
Arrays = dict[str, np.ndarray]
# From this a worker builds a program. Its values are sent as JSON.
Job = dict[str, Any]

FLOAT_BYTES = 4
CLASSES = 10
IMAGE_SIZE = 28  # side of the images of networks, in pixels

QUANTITIES: Mapping[str, str] = {
    "forward": "forward",
    "theta": "gradient to theta",
    "image_and_theta": "gradient to image and theta",
}


class WarpSpec(NamedTuple):
    """An affine warp of square images.

    Attributes:
        batch: number of images.
        size: side of an image, in pixels.
        channels: number of channels.
        output_size: side of an output, in pixels.
    """

    batch: int
    size: int
    channels: int
    output_size: int


WARPS: Mapping[str, WarpSpec] = {
    "mnist": WarpSpec(256, 28, 1, 28),
    "clutter": WarpSpec(256, 60, 1, 30),
    "svhn": WarpSpec(64, 64, 3, 64),
    "cub": WarpSpec(16, 224, 3, 224),
    "feature": WarpSpec(32, 32, 64, 32),
    "photo": WarpSpec(1, 1024, 3, 1024),
}
SMOKE_WARPS: Mapping[str, WarpSpec] = {
    "mnist": WarpSpec(3, 8, 1, 8),
    "clutter": WarpSpec(2, 9, 2, 5),
}

SWEEP_FACTORS = (1, 4, 16, 64)


def sweep_warps(smoke: bool) -> dict[str, WarpSpec]:
    """Returns the warps of a sweep, named `AXIS xFACTOR` and sorted by axis."""
    base = WarpSpec(2, 6, 1, 6) if smoke else WarpSpec(8, 64, 2, 64)
    warps = {}
    for factor in SWEEP_FACTORS[:2] if smoke else SWEEP_FACTORS:
        size = base.size * round(factor**0.5)
        warps[f"pixels x{factor}"] = base._replace(size=size, output_size=size)
        warps[f"batch x{factor}"] = base._replace(batch=base.batch * factor)
        warps[f"channels x{factor}"] = base._replace(channels=base.channels * factor)
    return dict(sorted(warps.items(), key=lambda item: item[0].split(" x")[0]))


def warp_arrays(warp: WarpSpec) -> Arrays:
    """Returns images, thetas near the identity, and cotangents of the output."""
    rng = np.random.default_rng(0)
    b, size, c, out = warp
    theta = np.asarray([1, 0, 0, 0, 1, 0]) + 0.1 * rng.standard_normal((b, 6))
    return {
        "image": rng.random((b, size, size, c), np.float32),
        "theta": theta.astype(np.float32),
        "cotangent": rng.standard_normal((b, out, out, c), np.float32),
    }


def moved_bytes(warp: WarpSpec, quantity: str) -> int:
    """Returns the number of bytes moved if every array is read or written once."""
    image = warp.batch * warp.size**2 * warp.channels
    output = warp.batch * warp.output_size**2 * warp.channels
    theta = warp.batch * 6
    # A cotangent is as large as the output, and a gradient as large as its argument.
    floats = {
        "forward": image + output + theta,
        "theta": image + output + 2 * theta,
        "image_and_theta": 2 * image + output + 2 * theta,
    }[quantity]
    return FLOAT_BYTES * floats


def footprint(warp: WarpSpec) -> int:
    """Returns the number of bytes of images, outputs and grids."""
    image = warp.batch * warp.size**2 * warp.channels
    output = warp.batch * warp.output_size**2 * warp.channels
    grid = warp.batch * warp.output_size**2 * 2
    return FLOAT_BYTES * (image + output + grid)


class StepSpec(NamedTuple):
    """A training step.

    Attributes:
        network: `tutorial`, `st_cnn`, `cnn`, or `cnn_offset` and `st_cnn_unsampled`, which have
            some of the components of `st_cnn`.
        batch: number of images.
    """

    network: str
    batch: int


STEPS: Mapping[str, StepSpec] = {
    "tutorial-64": StepSpec("tutorial", 64),
    "tutorial-256": StepSpec("tutorial", 256),
    "st_cnn-256": StepSpec("st_cnn", 256),
    "cnn-256": StepSpec("cnn", 256),
}
SMOKE_STEPS: Mapping[str, StepSpec] = {
    "tutorial-64": StepSpec("tutorial", 2),
    "st_cnn-256": StepSpec("st_cnn", 2),
    "cnn-256": StepSpec("cnn", 2),
}

# Each network has one more component than the one before it.
COMPONENTS: Mapping[str, str] = {
    "cnn": "plain CNN",
    "cnn_offset": "+ gradient to the input",
    "st_cnn_unsampled": "+ localisation network",
    "st_cnn": "+ grid and sampler",
}


def step_arrays(batch: int, members: int = 0) -> Arrays:
    """Returns a batch of images and labels, with a leading axis if there are members."""
    rng = np.random.default_rng(1)
    shape = (members, batch) if members else (batch,)
    return {
        "images": rng.random((*shape, IMAGE_SIZE, IMAGE_SIZE, 1), np.float32),
        "labels": rng.integers(0, CLASSES, shape, np.int32),
    }
