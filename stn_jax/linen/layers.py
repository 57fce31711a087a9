"""Layers: convolution and pooling that train fast on a CPU, dropout and projection."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._checks import check_shape
from stn_jax._types import Array, Number
from stn_jax.nn.convolution import Padding, Sizes, conv_layer, kernel_shape
from stn_jax.nn.layers import Images, dropout
from stn_jax.nn.networks import Volumes, conv_block, project
from stn_jax.nn.pooling import avg_pool


class Conv(nn.Module):
    """A 2-D convolution, interchangeable with `flax.linen.Conv`.

    Names, shapes and initial values of the parameters and the outputs are the same, so either
    module can use the variables of the other.

    Attributes:
        features: number of output channels.
        kernel_size: height and width in pixels.
        strides, padding, kernel_dilation, feature_group_count: as for `stn_jax.nn.conv2d`.
        use_bias: whether to add a bias to each feature.
        dtype: dtype of the computation and the output; None promotes the image and the parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initialiser of the kernel, `[kh, kw, c / feature_group_count, features]`.
        bias_init: initialiser of the bias, `[features]`.

    Example:
        >>> conv = Conv(features=8, kernel_size=(7, 7), padding="VALID")
        >>> variables = conv.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> conv.apply(variables, jnp.zeros((64, 28, 28, 1))).shape
        (64, 22, 22, 8)
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sizes = 1
    padding: Padding = "SAME"
    kernel_dilation: Sizes = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, image: Float[Array, "*batch h w c"]
    ) -> Float[jax.Array, "*batch out_h out_w features"]:
        """Returns the features of each pixel.

        Raises:
            ValueError: as for `conv2d`, and unless all sizes are positive integers.
        """
        check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
        groups = self.feature_group_count
        shape = kernel_shape(image.shape[-1], self.features, self.kernel_size, groups)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape[-1:], self.param_dtype)
        return conv_layer(
            image,
            kernel,
            bias,
            dtype=self.dtype,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=groups,
        )


class ConvBlock(nn.Module):
    """A convolution without padding, max-pooling and ReLU.

    Attributes:
        features: number of filters.
        kernel_size: side of the kernel.
        dtype: dtype of the computation.
        kernel_init: initialiser of the filters.
        pool: side of the windows of max-pooling; 1 for no pooling.
    """

    features: int
    kernel_size: int
    dtype: DTypeLike | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    pool: int = 2

    @nn.compact
    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w features"]:
        """Returns feature maps of side `(side - kernel_size + 1) // pool`."""
        conv = Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )
        return conv_block(x, conv, pool=self.pool)


class AveragePool(nn.Module):
    """Average pooling, for example after a transformer that shrinks its image, to avoid aliasing.

    Attributes:
        factor: side of the windows, which is also their stride.
    """

    factor: int = 2

    @nn.compact
    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w c"]:
        """Returns images of side `side // factor`."""
        return avg_pool(x, (self.factor, self.factor))


class Dropout(nn.Module):
    """Sets values to zero at random if a `dropout` key is given; otherwise the identity.

    Attributes:
        rate: the probability of zero, at least 0 and below 1. Unlike in `flax.linen.Dropout`, it
            may be traced, so the members of a population may have different rates.
        by_channel: whether to drop whole channels of a feature map, as torch's `Dropout2d` does.
    """

    rate: Number
    by_channel: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Float[jax.Array, "b *shape"]:
        """Returns `x` with some values set to zero and the others scaled up to keep the mean."""
        if not self.has_rng("dropout"):
            return jnp.asarray(x)
        return dropout(self.make_rng("dropout"), x, self.rate, by_channel=self.by_channel)


class Projection(nn.Module):
    """Projects volumes to images by a sum along the depth, the view from the front.

    In `SpatialTransformerNetwork((transformer, Projection(), network))` with a 3-D transformer, the
    network receives a view of the volume from the direction that the transformer predicts.

    Source: Jaderberg et al. (2015), appendix A.3.
    """

    @nn.compact
    def __call__(self, volumes: Volumes) -> Float[jax.Array, "b h w c"]:
        """Returns images `[b, h, w, c]` of volumes `[b, d, h, w, c]`."""
        return project(volumes)
