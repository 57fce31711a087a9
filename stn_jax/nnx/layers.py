"""Layers: convolution and pooling that train fast on a CPU, dropout and projection."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array, Number
from stn_jax.nn.convolution import Padding, Sizes, conv_layer, kernel_shape, pair_of
from stn_jax.nn.layers import Images, Layer, dropout, promote_dtype
from stn_jax.nn.networks import Volumes, conv_block, project
from stn_jax.nn.pooling import avg_pool

Initializer = jax.nn.initializers.Initializer
lecun_normal, zeros = jax.nn.initializers.lecun_normal(), jax.nn.initializers.zeros
T = TypeVar("T", bound=tuple)


class Conv(nnx.Conv):
    """A 2-D convolution with the parameters and values of `flax.nnx.Conv`.

    Only the computation differs, so either module can load the state of the other.

    Args:
        in_features: number of channels of the image.
        out_features: number of output channels.
        kernel_size: height and width in pixels.
        strides, padding, kernel_dilation, feature_group_count: as for `stn_jax.nn.conv2d`.
        use_bias: whether to add a bias to each feature.
        dtype: dtype of the computation and the output; None promotes the image and the parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initialiser of the kernel, `[kh, kw, c / feature_group_count, out_features]`.
        bias_init: initialiser of the bias, `[out_features]`.
        rngs: random keys for the parameters.

    Raises:
        ValueError: unless all sizes are positive integers, and the groups divide the features.

    Example:
        >>> from flax import nnx
        >>> conv = Conv(1, 8, (7, 7), padding="VALID", rngs=nnx.Rngs(0))
        >>> conv(jnp.zeros((64, 28, 28, 1))).shape
        (64, 22, 22, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        strides: Sizes = 1,
        *,
        padding: Padding = "SAME",
        kernel_dilation: Sizes = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = lecun_normal,
        bias_init: Initializer = zeros,
        rngs: nnx.Rngs,
    ) -> None:
        shape = kernel_shape(in_features, out_features, kernel_size, feature_group_count)
        super().__init__(
            in_features,
            out_features,
            shape[:2],
            pair_of("strides", strides),
            padding=_hashable(padding),
            kernel_dilation=pair_of("kernel_dilation", kernel_dilation),
            feature_group_count=feature_group_count,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    def __call__(
        self, image: Float[Array, "*batch h w c"]
    ) -> Float[jax.Array, "*batch out_h out_w features"]:
        """Returns the features of each pixel.

        Raises:
            ValueError: as for `stn_jax.nn.conv2d`.
        """
        return conv_layer(
            image,
            self.kernel[...],
            None if self.bias is None else self.bias[...],
            dtype=self.dtype,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
        )


def _hashable(sizes: Any) -> Any:
    """Turns lists into tuples, also nested ones."""
    return tuple(map(_hashable, sizes)) if isinstance(sizes, list | tuple) else sizes


def linear(in_features: int, out_features: int, **options: Any) -> nnx.Linear:
    """Makes a fully connected layer that also works with strict dtype promotion."""
    return nnx.Linear(in_features, out_features, promote_dtype=_promote_dtype, **options)


def _promote_dtype(args: T, /, *, dtype: Any = None, inexact: bool = True) -> T:
    return cast(T, tuple(promote_dtype(*args, dtype=dtype, inexact=inexact)))


def output_shape(function: Layer, shape: Sequence[int]) -> list[int]:
    """The shape of one example of a function's output, from that of its input."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return list(jax.eval_shape(lambda x: function(x), example).shape[1:])


def unchanged(x: Array) -> jax.Array:
    """Returns its argument, in place of a layer that is not made yet."""
    return jnp.asarray(x)


class ConvBlock(nnx.Module):
    """A convolution without padding, max-pooling and ReLU.

    Args:
        in_features: number of channels of the input.
        out_features: number of filters.
        kernel_size: side of the kernel.
        dtype: dtype of the computation.
        kernel_init: initialiser of the filters.
        pool: side of the windows of max-pooling; 1 for no pooling.
        rngs: random keys for the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        dtype: DTypeLike | None = None,
        kernel_init: Initializer = lecun_normal,
        pool: int = 2,
        rngs: nnx.Rngs,
    ) -> None:
        self.pool = pool
        self.Conv_0 = Conv(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            padding="VALID",
            dtype=dtype,
            kernel_init=kernel_init,
            rngs=rngs,
        )

    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w features"]:
        """Returns feature maps of side `(side - kernel_size + 1) // pool`."""
        return conv_block(x, self.Conv_0, pool=self.pool)


class AveragePool(nnx.Module):
    """Average pooling, for example after a transformer that shrinks its image, to avoid aliasing.

    Args:
        factor: side of the windows, which is also their stride.
    """

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w c"]:
        """Returns images of side `side // factor`."""
        return avg_pool(x, (self.factor, self.factor))


class Dropout(nnx.Dropout):
    """Sets values to zero at random in training mode; otherwise the identity.

    `model.train()` and `model.eval()` set the mode, as for `flax.nnx.Dropout`.

    Args:
        rate: the probability of zero, at least 0 and below 1. It may be traced.
        by_channel: whether to drop whole channels of a feature map, as torch's `Dropout2d` does.
        deterministic: whether to start in evaluation mode.
        rngs: random keys; each call draws one from the stream `dropout`.
    """

    def __init__(
        self,
        rate: Number,
        *,
        by_channel: bool = False,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(rate, deterministic=deterministic, rngs=rngs)  # type: ignore[arg-type]
        self.by_channel = by_channel

    def __call__(self, x: Float[Array, "b *shape"]) -> Float[jax.Array, "b *shape"]:
        """Returns `x` with some values set to zero and the others scaled up to keep the mean."""
        if self.deterministic:
            return jnp.asarray(x)
        key = self.rngs()  # type: ignore[misc]  # never None, because __init__ requires it
        return dropout(key, x, self.rate, by_channel=self.by_channel)


class Projection(nnx.Module):
    """Projects volumes to images by a sum along the depth, the view from the front.

    In `SpatialTransformerNetwork((transformer, Projection(), network))` with a 3-D transformer, the
    network receives a view of the volume from the direction that the transformer predicts.

    Source: Jaderberg et al. (2015), appendix A.3.
    """

    def __call__(self, volumes: Volumes) -> Float[jax.Array, "b h w c"]:
        """Returns images `[b, h, w, c]` of volumes `[b, d, h, w, c]`."""
        return project(volumes)
