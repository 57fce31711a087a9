"""Localisation networks: they map images to the features from which theta is regressed.

Each has an attribute `out_features`, the number of features, from which `SpatialTransformer` makes
its regression layer.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array
from stn_jax.nn.layers import Features, Images, Layer, torch_init
from stn_jax.nn.networks import (
    Volumes,
    cnn_features,
    fcn_features,
    tutorial_features,
    volume_features,
)
from stn_jax.nnx.layers import Conv, linear, output_shape, unchanged


class FCNLocalisationNetwork(nnx.Module):
    """Fully connected layers with GELU: three of 32 units by default, as in the paper's ST-FCN.

    Args:
        input_shape: shape of an image or volume, without the batch axis.
        features: number of units of each layer.
        dtype: dtype of the computation; parameters stay float32.
        rngs: random keys for the parameters.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        features: Sequence[int] = (32, 32, 32),
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_layers, self.out_features = len(features), prod(input_shape)
        for i, units in enumerate(features):
            setattr(self, f"Dense_{i}", linear(self.out_features, units, dtype=dtype, rngs=rngs))
            self.out_features = units

    def __call__(self, images: Float[Array, "b *spatial c"]) -> Features:
        """Returns features `[b, features[-1]]` of images or volumes `[b, *spatial, c]`."""
        return fcn_features(images, [getattr(self, f"Dense_{i}") for i in range(self.num_layers)])


class CNNLocalisationNetwork(nnx.Module):
    """Two convolutions and a dense layer on the image at half its size, as in the paper's ST-CNN.

    Args:
        input_shape: shape of an image, `[h, w, c]`; by default at least 28 x 28.
        features: number of filters of the two convolutions and of units of the dense layer.
        kernel_size: side of the kernels.
        downsample: factor of the initial average pooling.
        dtype: dtype of the computation; parameters stay float32.
        rngs: random keys for the parameters.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        features: Sequence[int] = (20, 20, 20),
        *,
        kernel_size: int = 5,
        downsample: int = 2,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        first, second, self.out_features = features
        self.downsample = downsample
        kernel, options = (kernel_size, kernel_size), {"dtype": dtype, "rngs": rngs}
        self.Conv_0 = Conv(input_shape[-1], first, kernel, padding="VALID", **options)
        self.Conv_1 = Conv(first, second, kernel, padding="VALID", **options)
        (flat,) = output_shape(partial(self._features, dense=unchanged), input_shape)
        self.Dense_0 = linear(flat, self.out_features, **options)

    def __call__(self, images: Images) -> Features:
        """Returns features `[b, features[-1]]` of images `[b, h, w, c]`."""
        return self._features(images, self.Dense_0)

    def _features(self, images: Images, dense: Layer) -> Features:
        return cnn_features(images, self.Conv_0, self.Conv_1, dense, downsample=self.downsample)


class TutorialLocalisationNetwork(nnx.Module):
    """The localisation network of PyTorch's tutorial on spatial transformers.

    Its weights are initialised like PyTorch's. This is essential: with Flax's default, which is
    larger, the first updates move the frame off the image.

    Args:
        input_shape: shape of an image, `[h, w, c]`, at least 28 x 28.
        dtype: dtype of the computation; parameters stay float32.
        rngs: random keys for the parameters.
    """

    def __init__(
        self, input_shape: Sequence[int], *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ) -> None:
        self.out_features = 32
        options = {"dtype": dtype, "kernel_init": torch_init, "rngs": rngs}
        self.Conv_0 = Conv(input_shape[-1], 8, (7, 7), padding="VALID", **options)
        self.Conv_1 = Conv(8, 10, (5, 5), padding="VALID", **options)
        (flat,) = output_shape(partial(self._features, dense=unchanged), input_shape)
        self.Dense_0 = linear(flat, self.out_features, **options)

    def __call__(self, images: Images) -> Features:
        """Returns features `[b, 32]` of images `[b, h, w, c]`."""
        return self._features(images, self.Dense_0)

    def _features(self, images: Images, dense: Layer) -> Features:
        return tutorial_features(images, self.Conv_0, self.Conv_1, dense)


class VolumeLocalisationNetwork(nnx.Module):
    """Fully connected layers on a volume at low resolution.

    The volume is divided into cubic cells. The value of a cell is the sum along its depth of the
    mean over its height and width, so it has the scale of a pixel of the projection.

    Args:
        input_shape: shape of a volume, `[d, h, w, c]`.
        features: number of units of each layer.
        downsample: side of a cell in voxels; incomplete cells at the far ends are dropped.
        dtype: dtype of the computation; parameters stay float32.
        rngs: random keys for the parameters.

    Source: Jaderberg et al. (2015), appendix A.3, which does not specify the network.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        features: Sequence[int] = (64, 32, 32),
        *,
        downsample: int = 4,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.downsample = downsample
        resize = partial(volume_features, network=unchanged, downsample=downsample)
        cells = output_shape(resize, input_shape)
        network = FCNLocalisationNetwork(cells, features, dtype=dtype, rngs=rngs)
        self.FCNLocalisationNetwork_0 = network
        self.out_features = network.out_features

    def __call__(self, volumes: Volumes) -> Features:
        """Returns features `[b, features[-1]]` of volumes `[b, d, h, w, c]`."""
        return volume_features(volumes, self.FCNLocalisationNetwork_0, downsample=self.downsample)
