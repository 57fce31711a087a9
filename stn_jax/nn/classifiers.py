"""The classifiers of the paper and of PyTorch's tutorial, and the blocks they consist of.

Dropout is active if `apply` receives a `dropout` key (`rngs={"dropout": key}`).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array, Number
from stn_jax.nn.layers import Conv, avg_pool, max_pool
from stn_jax.nn.localisation import flatten, torch_init

Images = Float[Array, "b h w c"]
Logits = Float[jax.Array, "b classes"]


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
    def __call__(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Returns `x` with some values set to zero and the others scaled up to keep the mean."""
        if not self.has_rng("dropout"):
            return x
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1]) if self.by_channel else x.shape
        kept = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), kept, shape)
        return jnp.where(mask, x / jnp.asarray(kept, x.dtype), 0)


class Head(nn.Module):
    """Flattens features and applies a linear classifier, with logits in float32.

    Attributes:
        num_classes: number of logits.
        dtype: dtype of the computation.
        kernel_init: initialiser of the weights.
    """

    num_classes: int
    dtype: DTypeLike | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Returns logits `[b, num_classes]`."""
        x = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=self.kernel_init)(flatten(x))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class DenseHead(nn.Module):
    """A fully connected layer with dropout before and after it, then `Head`.

    Attributes:
        num_classes: number of logits.
        features: number of units of the layer.
        dropout: the dropout rate.
        dtype: dtype of the computation.
    """

    num_classes: int
    features: int
    dropout: Number = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Returns logits `[b, num_classes]`."""
        x = Dropout(self.dropout)(flatten(x))
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype)(x))
        return Head(self.num_classes, self.dtype)(Dropout(self.dropout)(x))


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
        kernel = (self.kernel_size, self.kernel_size)
        x = Conv(self.features, kernel, "VALID", dtype=self.dtype, kernel_init=self.kernel_init)(x)
        # ReLU commutes with the maximum; after it, it has only a quarter of the values to process.
        return nn.relu(max_pool(x, (self.pool, self.pool)) if self.pool > 1 else x)


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


class FCN(nn.Module):
    """The paper's fully connected network.

    Attributes:
        num_classes: number of logits.
        features: number of units of each hidden layer.
        dtype: dtype of the computation; parameters and logits stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    num_classes: int = 10
    features: Sequence[int] = (128, 128)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`."""
        x = flatten(images)
        for features in self.features:
            x = nn.relu(nn.Dense(features, dtype=self.dtype)(x))
        return Head(self.num_classes, self.dtype)(x)


class CNN(nn.Module):
    """The paper's convolutional network: a 9x9 block, a 7x7 block and a linear classifier.

    Attributes:
        num_classes: number of logits.
        features: number of filters of each block.
        kernel_sizes: side of the kernel of each block.
        dtype: dtype of the computation; parameters and logits stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    num_classes: int = 10
    features: Sequence[int] = (32, 32)
    kernel_sizes: Sequence[int] = (9, 7)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`.

        With the default attributes, images must be at least 24 x 24.
        """
        x = images
        for features, kernel_size in zip(self.features, self.kernel_sizes, strict=True):
            x = ConvBlock(features, kernel_size, self.dtype)(x)
        return Head(self.num_classes, self.dtype)(x)


class TutorialClassifier(nn.Module):
    """The classifier of PyTorch's tutorial on spatial transformers, initialised like PyTorch's.

    Attributes:
        num_classes: number of logits.
        dropout: the dropout rate.
        dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int = 10
    dropout: Number = 0.5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`, at least 16 x 16."""
        options = {"dtype": self.dtype, "kernel_init": torch_init}
        x = ConvBlock(10, 5, **options)(images)
        x = Conv(20, (5, 5), padding="VALID", **options)(x)
        x = Dropout(self.dropout, by_channel=True)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        x = nn.relu(nn.Dense(50, **options)(flatten(x)))
        return Head(self.num_classes, **options)(Dropout(self.dropout)(x))
