"""Localisation networks: they map images to the features from which theta is regressed."""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array
from stn_jax.linen.layers import Conv
from stn_jax.nn.layers import Features, Images, promote_dtype, torch_init
from stn_jax.nn.networks import (
    Volumes,
    cnn_features,
    fcn_features,
    tutorial_features,
    volume_features,
)


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
        options = {"dtype": self.dtype, "promote_dtype": promote_dtype}
        return fcn_features(images, [nn.Dense(units, **options) for units in self.features])


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
        return cnn_features(
            images,
            Conv(first, kernel, padding="VALID", dtype=self.dtype),
            Conv(second, kernel, padding="VALID", dtype=self.dtype),
            nn.Dense(units, dtype=self.dtype, promote_dtype=promote_dtype),
            downsample=self.downsample,
        )


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
        return tutorial_features(
            images,
            Conv(8, (7, 7), padding="VALID", **options),
            Conv(10, (5, 5), padding="VALID", **options),
            nn.Dense(32, promote_dtype=promote_dtype, **options),
        )


class VolumeLocalisationNetwork(nn.Module):
    """Fully connected layers on a volume at low resolution.

    The volume is divided into cubic cells. The value of a cell is the sum along its depth of the
    mean over its height and width, so it has the scale of a pixel of the projection.

    Attributes:
        features: number of units of each layer.
        downsample: side of a cell in voxels; incomplete cells at the far ends are dropped.
        dtype: dtype of the computation; parameters stay float32.

    Source: Jaderberg et al. (2015), appendix A.3, which does not specify the network.
    """

    features: Sequence[int] = (64, 32, 32)
    downsample: int = 4
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, volumes: Volumes) -> Features:
        """Returns features `[b, features[-1]]` of volumes `[b, d, h, w, c]`."""
        network = FCNLocalisationNetwork(self.features, self.dtype)
        return volume_features(volumes, network, downsample=self.downsample)
