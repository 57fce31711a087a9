"""The training steps that are timed, and their inputs as NumPy arrays from fixed seeds."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

Device = Literal["cpu", "gpu"]
Arrays = dict[str, np.ndarray]
# From this a worker builds a program. Its values are sent as JSON.
Job = dict[str, Any]

CLASSES = 10
IMAGE_SIZE = 28  # side of the images of networks, in pixels


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
