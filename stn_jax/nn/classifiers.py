"""The paper's classifiers, the tutorial's, and the blocks that convolutional ones are made of.

Dropout is on where a `dropout` key is given to `apply` (`rngs={"dropout": key}`), off elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._types import Array, Number
from stn_jax.nn.layers import Conv, avg_pool, max_pool
from stn_jax.nn.localisation import flatten, torch_init

Images = Float[Array, "b h w c"]
Logits = Float[jax.Array, "b classes"]


class Dropout(nn.Module):
    """Sets values to zero at random where a `dropout` key is given; the identity elsewhere.

    Attributes:
        rate: the probability of zero, at least 0 and below 1; also an array, where members of a
            population differ in it, which `flax.linen.Dropout` does not take.
        by_channel: drop whole channels of a feature map, as torch's `Dropout2d`.
    """

    rate: Number
    by_channel: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """`x` with some values zero and the others scaled up to keep the mean."""
        if not self.has_rng("dropout"):
            return x
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1]) if self.by_channel else x.shape
        kept = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), kept, shape)
        return jnp.where(mask, x / jnp.asarray(kept, x.dtype), 0)


class Head(nn.Module):
    """Flattens and classifies: logits in float32.

    Attributes:
        num_classes: the number of logits.
        dtype: of the computation.
        kernel_init: initialiser of the weights.
    """

    num_classes: int
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Logits `[b, num_classes]`."""
        x = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=self.kernel_init)(flatten(x))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class DenseHead(nn.Module):
    """A fully connected layer amid dropout, then `Head`.

    Attributes:
        num_classes: the number of logits.
        features: units of the layer.
        dropout: the probability of zero, before and after it.
        dtype: of the computation.
    """

    num_classes: int
    features: int
    dropout: Number = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Logits `[b, num_classes]`."""
        x = Dropout(self.dropout)(flatten(x))
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype)(x))
        return Head(self.num_classes, self.dtype)(Dropout(self.dropout)(x))


class ConvBlock(nn.Module):
    """A convolution, max-pooling and ReLU.

    Attributes:
        features: number of filters.
        kernel_size: side of the kernel; no padding.
        dtype: of the computation.
        kernel_init: initialiser of the filters.
        pool: side of the windows of max-pooling; 1 for none.
    """

    features: int
    kernel_size: int
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    pool: int = 2

    @nn.compact
    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w features"]:
        """Feature maps of 1 / pool the size, less what the kernel takes from the edge."""
        kernel = (self.kernel_size, self.kernel_size)
        x = Conv(self.features, kernel, "VALID", dtype=self.dtype, kernel_init=self.kernel_init)(x)
        # ReLU commutes with the maximum, and costs a quarter after it.
        return nn.relu(max_pool(x, (self.pool, self.pool)) if self.pool > 1 else x)


class AveragePool(nn.Module):
    """Average pooling: after a transformer that shrinks its image, against aliasing.

    Attributes:
        factor: side of the window and of its steps.
    """

    factor: int = 2

    @nn.compact
    def __call__(self, x: Images) -> Float[jax.Array, "b out_h out_w c"]:
        """Images of 1 / factor the size."""
        return avg_pool(x, (self.factor, self.factor))


class FCN(nn.Module):
    """The paper's fully connected network.

    Attributes:
        num_classes: the number of logits.
        features: units of the hidden layers.
        dtype: of the computation; parameters and logits stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    num_classes: int = 10
    features: Sequence[int] = (128, 128)
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Logits `[b, num_classes]` of images `[b, h, w, c]`."""
        x = flatten(images)
        for features in self.features:
            x = nn.relu(nn.Dense(features, dtype=self.dtype)(x))
        return Head(self.num_classes, self.dtype)(x)


class CNN(nn.Module):
    """The paper's convolutional network: a 9x9 block, a 7x7 block, a linear classifier.

    Attributes:
        num_classes: the number of logits.
        features: filters of the blocks.
        kernel_sizes: of the blocks.
        dtype: of the computation; parameters and logits stay float32.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    num_classes: int = 10
    features: Sequence[int] = (32, 32)
    kernel_sizes: Sequence[int] = (9, 7)
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Logits `[b, num_classes]` of images `[b, h, w, c]`, at least 24 x 24 by default."""
        x = images
        for features, kernel_size in zip(self.features, self.kernel_sizes, strict=True):
            x = ConvBlock(features, kernel_size, self.dtype)(x)
        return Head(self.num_classes, self.dtype)(x)


class TutorialClassifier(nn.Module):
    """The classifier of PyTorch's tutorial on spatial transformers: its dropout, its weights.

    Attributes:
        num_classes: the number of logits.
        dropout: the probability of zero.
        dtype: of the computation; parameters and logits stay float32.
    """

    num_classes: int = 10
    dropout: Number = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        """Logits `[b, num_classes]` of images `[b, h, w, c]`, at least 16 x 16."""
        options = {"dtype": self.dtype, "kernel_init": torch_init}
        x = ConvBlock(10, 5, **options)(images)
        x = Conv(20, (5, 5), padding="VALID", **options)(x)
        x = Dropout(self.dropout, by_channel=True)(x)
        x = nn.relu(max_pool(x, (2, 2)))
        x = nn.relu(nn.Dense(50, **options)(flatten(x)))
        return Head(self.num_classes, **options)(Dropout(self.dropout)(x))
