"""Localisation networks: they map images to the features from which theta is regressed.

Their fully connected layers use GELU instead of the paper's ReLU. Theta is regressed from few
units, and if all of them are dead it is a constant. With ReLU, digits rotated to one side were not
straightened: the residual angle was 30 degrees, and 18 degrees with GELU, all else being equal.
"""

from collections.abc import Sequence
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array
from stn_jax.nn.layers import Conv, avg_pool, max_pool

Images = Float[Array, "b h w c"]
Features = Float[jax.Array, "b features"]

# PyTorch's default: uniform within 1 / sqrt(fan-in).
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def flatten(x: Float[Array, "b *shape"]) -> Features:
    """Flattens all axes but the first."""
    return jnp.reshape(x, (x.shape[0], prod(x.shape[1:])))  # -1 fails for an empty batch


class FCNLocalisationNetwork(nn.Module):
    """Fully connected layers with GELU: three of 32 units by default, as in the paper's ST-FCN.

    Attributes:
        features: number of units of each layer.
        dtype: dtype of the computation; parameters stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    features: Sequence[int] = (32, 32, 32)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "b *spatial c"]) -> Features:
        """Returns features `[b, features[-1]]` of images or volumes `[b, *spatial, c]`."""
        x = flatten(images)
        for features in self.features:
            x = nn.gelu(nn.Dense(features, dtype=self.dtype)(x))
        return x


class CNNLocalisationNetwork(nn.Module):
    """Two convolutions and a dense layer on the image at half its size, as in the paper's ST-CNN.

    Attributes:
        features: number of filters of the two convolutions and of units of the dense layer.
        kernel_size: side of the kernels.
        downsample: factor of the initial average pooling.
        dtype: dtype of the computation; parameters stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    features: Sequence[int] = (20, 20, 20)
    kernel_size: int = 5
    downsample: int = 2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Returns features `[b, features[-1]]` of images `[b, h, w, c]`.

        With the default attributes, images must be at least 28 x 28.
        """
        first, second, units = self.features
        kernel = (self.kernel_size, self.kernel_size)
        x = avg_pool(images, (self.downsample, self.downsample))
        x = Conv(first, kernel, padding="VALID", dtype=self.dtype)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        x = nn.relu(Conv(second, kernel, padding="VALID", dtype=self.dtype)(x))
        return nn.gelu(nn.Dense(units, dtype=self.dtype)(flatten(x)))


class TutorialLocalisationNetwork(nn.Module):
    """The localisation network of PyTorch's tutorial on spatial transformers.

    Its weights are initialised like PyTorch's. This is essential: with Flax's default, which is
    larger, the first updates move the frame off the image.

    Attributes:
        dtype: dtype of the computation; parameters stay float32.
    """

    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Returns features `[b, 32]` of images `[b, h, w, c]`, at least 28 x 28."""
        options = {"dtype": self.dtype, "kernel_init": torch_init}
        x = Conv(8, (7, 7), padding="VALID", **options)(images)
        x = nn.relu(max_pool(x, (2, 2)))
        x = Conv(10, (5, 5), padding="VALID", **options)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        return nn.relu(nn.Dense(32, **options)(flatten(x)))
