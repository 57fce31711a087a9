"""The frames that a network's transformers sample on its input."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.settings.config import Model
from experiments.training.models import make_transform
from stn_jax import transforms, warping

MESH_SHAPE = (13, 13)  # the points of a grid that is drawn

Intermediates = Mapping[str, Mapping[str, jax.Array]]  # of each transformer, by name


class Frame(NamedTuple):
    """The part of the input that a transformer, or a series of them, samples for each image.

    Attributes:
        transform: maps points of the output to points of the input.
        theta: its parameters, `[b, transform.num_params]`.
        output_shape: the spatial shape of the output, such as (height, width).
    """

    transform: transforms.Transform
    theta: jax.Array
    output_shape: tuple[int, ...]


def input_chains(settings: Model, names: Iterable[str]) -> dict[str, list[str]]:
    """Finds the transformers whose output is a warped input, and not a warped feature map.

    Args:
        settings: of the network.
        names: of all its transformers, in their order.

    Returns:
        For each of these transformers, the names of the transformers from the input up to and
        including it.
    """
    names = list(names)
    if settings.placement == "series":
        return {name: names[: i + 1] for i, name in enumerate(names)}
    # Between blocks, all transformers but the first warp feature maps.
    on_input = names if settings.placement == "parallel" else names[:1]
    return {name: [name] for name in on_input}


def input_frames(settings: Model, intermediates: Intermediates) -> list[Frame]:
    """Computes the frames on the input: one for a whole series, otherwise one per transformer.

    Args:
        settings: of the network.
        intermediates: of the network; empty if it has no transformer.
    """
    chains = list(input_chains(settings, intermediates).values())
    if settings.placement == "series":
        chains = chains[-1:]
    frames = []
    for chain in chains:
        transform, theta = _composed(settings, [intermediates[name]["theta"] for name in chain])
        shape = intermediates[chain[-1]]["output"].shape[1:-1]
        frames.append(Frame(transform, theta, shape))
    return frames


def frame_grids(settings: Model, thetas: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Computes the points on the input that a mesh over the output of each transformer samples.

    Args:
        settings: of the network.
        thetas: `[n, num_params]` of each transformer, as arrays or as lists with None for NaN.

    Returns:
        Grids `[n, *MESH_SHAPE, 2]` in normalised coordinates of the input, for each transformer in
        `input_chains`. Empty for transformers of volumes.
    """
    if not thetas:  # a network without a transformer does not need its family
        return {}
    family = make_transform(settings)
    if family.ndim == 3:
        return {}
    # Frames end at -1 and 1: the edges of the outermost pixels, or their centres if corners align.
    mesh = warping.transform_grid(family.identity, family, MESH_SHAPE, align_corners=True)
    grids = {}
    for name, chain in input_chains(settings, thetas).items():
        arrays = [jnp.asarray(np.asarray(thetas[each], np.float32)) for each in chain]
        transform, theta = _composed(settings, arrays)
        grids[name] = jax.vmap(transform.warp, in_axes=(0, None))(theta, mesh)
    return grids


def _composed(
    settings: Model, thetas: Sequence[jax.Array]
) -> tuple[transforms.Transform, jax.Array]:
    """Composes transformers in series into one transform and its parameters."""
    transform = transforms.series(make_transform(settings), len(thetas))
    return transform, jnp.concatenate(thetas, axis=-1)
