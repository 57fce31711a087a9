"""From volumes to images by a sum along the depth, and a localisation network for volumes.

Source: Jaderberg et al. (2015), appendix A.3, which does not say what the localisation network is.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._checks import check_shape
from stn_jax._types import Array
from stn_jax.nn.layers import avg_pool
from stn_jax.nn.localisation import FCNLocalisationNetwork, Features

Volumes = Float[Array, "b d h w c"]


class Projection(nn.Module):
    """Sums volumes along their depth: what they look like from the front.

    After a 3-D transformer, in `SpatialTransformerNetwork((transformer, Projection(), network))`,
    the network sees the volume from the side that the transformer chose.
    """

    @nn.compact
    def __call__(self, volumes: Volumes) -> Float[jax.Array, "b h w c"]:
        """Images `[b, h, w, c]` of volumes `[b, d, h, w, c]`."""
        shape = jnp.shape(volumes)
        check_shape("volumes", shape, "[b, d, h, w, c]", len(shape) == 5)
        return jnp.sum(_stored(volumes), axis=1)


class VolumeLocalisationNetwork(nn.Module):
    """Fully connected layers on a coarse volume.

    A cell of it is the sum along its depth of the mean over its height and width, so that cells are
    of the scale of a projection.

    Attributes:
        features: units of each layer.
        downsample: side of a cell in voxels; voxels left over at the far ends are dropped.
        dtype: of the computation; parameters stay float32.
    """

    features: Sequence[int] = (64, 32, 32)
    downsample: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, volumes: Volumes) -> Features:
        """Features `[b, features[-1]]` of volumes `[b, d, h, w, c]`."""
        shape, side = jnp.shape(volumes), self.downsample
        whole = len(shape) == 5 and min(shape[1:4]) >= side
        check_shape("volumes", shape, f"[b, d, h, w, c], d, h and w at least {side},", whole)
        b, d, h, w, c = shape
        layers = _stored(volumes)[:, : d // side * side]
        cells = jnp.sum(layers.reshape(b, d // side, side, h, w, c), axis=2)
        return FCNLocalisationNetwork(self.features, self.dtype)(avg_pool(cells, (side, side)))


def _stored(volumes: Volumes) -> Float[jax.Array, "b d h w c"]:
    """Volumes, computed before they are summed.

    XLA would compute a sampler inside the sum, point by point: the gradient to theta of 16 volumes
    of 32 x 32 x 32 then takes 106 ms, and 35 behind this barrier.
    """
    return jax.lax.optimization_barrier(jnp.asarray(volumes))
