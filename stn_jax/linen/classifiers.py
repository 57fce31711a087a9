"""The classifiers of the paper and of PyTorch's tutorial.

Dropout is active if `apply` receives a `dropout` key (`rngs={"dropout": key}`).
"""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array, Number
from stn_jax.linen.layers import Conv, ConvBlock, Dropout
from stn_jax.nn.layers import Images, Logits, classify, promote_dtype, torch_init
from stn_jax.nn.networks import dense_head, fcn_logits, tutorial_logits


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
        options = {"kernel_init": self.kernel_init, "promote_dtype": promote_dtype}
        return classify(x, nn.Dense(self.num_classes, dtype=self.dtype, **options))


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
        return dense_head(
            x,
            Dropout(self.dropout),
            nn.Dense(self.features, dtype=self.dtype, promote_dtype=promote_dtype),
            Dropout(self.dropout),
            Head(self.num_classes, self.dtype),
        )


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
        options = {"dtype": self.dtype, "promote_dtype": promote_dtype}
        layers = [nn.Dense(units, **options) for units in self.features]
        return fcn_logits(images, layers, Head(self.num_classes, self.dtype))


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
        return tutorial_logits(
            images,
            ConvBlock(10, 5, **options),
            Conv(20, (5, 5), padding="VALID", **options),
            Dropout(self.dropout, by_channel=True),
            nn.Dense(50, promote_dtype=promote_dtype, **options),
            Dropout(self.dropout),
            Head(self.num_classes, **options),
        )
