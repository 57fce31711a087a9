"""The frames of a network's transformers on its input."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.config import Model
from experiments.models import make_transform
from stn_jax import transforms


class Frame(NamedTuple):
    """Where on the input a transformer reads, or several in series do.

    Attributes:
        transform: from the output to the input.
        theta: `[b, transform.num_params]`.
        output_shape: (height, width) of the output.
    """

    transform: transforms.Transform
    theta: jax.Array
    output_shape: tuple[int, int]


def on_input(settings: Model, found: Mapping[str, Any]) -> list[Frame]:
    """The frames on the input: one of all that are in series, else of each that looks at it.

    Args:
        settings: of the network.
        found: its intermediates; of one without a transformer there are none.
    """
    names = list(found)
    if settings.placement == "series":
        rows = [names] if names else []
    elif settings.placement == "parallel":
        rows = [[name] for name in names]
    else:  # those that follow look at feature maps
        rows = [[name] for name in names[:1]]
    return [
        Frame(
            transforms.series(make_transform(settings), len(row)),
            jnp.concatenate([found[name]["theta"] for name in row], axis=-1),
            found[row[-1]]["output"].shape[1:3],
        )
        for row in rows
    ]
