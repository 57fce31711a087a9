"""Localisation networks: images to the features that theta is regressed from.

Their fully connected layers end in GELU rather than ReLU. Theta is regressed from few units, and
where all of those are dead it is one constant: rotated digits were then straightened on one side
only (residual angle 30 degrees with ReLU, 18 with GELU, the rest being equal).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._types import Array
from stn_jax.nn.layers import Conv, avg_pool, max_pool

Images = Float[Array, "b h w c"]
Features = Float[jax.Array, "b features"]


# How PyTorch draws the weights of its layers: uniformly within 1 / sqrt(fan-in).
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def flatten(x: Float[Array, "b *shape"]) -> Features:
    """All axes but the first as one."""
    return jnp.reshape(x, (x.shape[0], prod(x.shape[1:])))  # -1 does not do for an empty batch


class FCNLocalisationNetwork(nn.Module):
    """Fully connected layers, each with GELU: three of 32 as in the paper's ST-FCN, there of ReLU.

    Attributes:
        features: units of each layer.
        dtype: of the computation; parameters stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    features: Sequence[int] = (32, 32, 32)
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Float[Array, "b *spatial c"]) -> Features:
        """Features `[b, features[-1]]` of images or volumes `[b, *spatial, c]`."""
        x = flatten(images)
        for features in self.features:
            x = nn.gelu(nn.Dense(features, dtype=self.dtype)(x))
        return x


class CNNLocalisationNetwork(nn.Module):
    """Two convolutions on the image at half its size, and a layer: as in the paper's ST-CNN.

    The layer ends in GELU, the paper's in ReLU.

    Attributes:
        features: filters of the convolutions and units of the layer after them.
        kernel_size: side of the convolutions.
        downsample: by how much the images are average-pooled first.
        dtype: of the computation; parameters stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    features: Sequence[int] = (20, 20, 20)
    kernel_size: int = 5
    downsample: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Features `[b, features[-1]]` of images `[b, h, w, c]`, at least 28 x 28 by default."""
        first, second, units = self.features
        kernel = (self.kernel_size, self.kernel_size)
        x = avg_pool(images, (self.downsample, self.downsample))
        x = Conv(first, kernel, padding="VALID", dtype=self.dtype)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        x = nn.relu(Conv(second, kernel, padding="VALID", dtype=self.dtype)(x))
        return nn.gelu(nn.Dense(units, dtype=self.dtype)(flatten(x)))


class TutorialLocalisationNetwork(nn.Module):
    """The localisation network of PyTorch's tutorial on spatial transformers.

    Its weights start as PyTorch's do. That is part of the network: with the usual, larger ones the
    first gradients throw the frame off the image.

    Attributes:
        dtype: of the computation; parameters stay float32.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Features `[b, 32]` of images `[b, h, w, c]`, at least 28 x 28."""
        options = {"dtype": self.dtype, "kernel_init": torch_init}
        x = Conv(8, (7, 7), padding="VALID", **options)(images)
        x = nn.relu(max_pool(x, (2, 2)))
        x = Conv(10, (5, 5), padding="VALID", **options)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        return nn.relu(nn.Dense(32, **options)(flatten(x)))
