"""The classifiers of the paper and of PyTorch's tutorial."""

from collections.abc import Sequence
from math import prod

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._types import Array, Number
from stn_jax.nn.layers import Images, Logits, classify, torch_init
from stn_jax.nn.networks import dense_head, fcn_logits, tutorial_logits
from stn_jax.nnx.layers import (
    Conv,
    ConvBlock,
    Dropout,
    Initializer,
    lecun_normal,
    linear,
    output_shape,
    unchanged,
)


class Head(nnx.Module):
    """Flattens features and applies a linear classifier, with logits in float32.

    Args:
        in_features: number of features of an example, after flattening.
        num_classes: number of logits.
        dtype: dtype of the computation.
        kernel_init: initialiser of the weights.
        rngs: random keys for the parameters.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dtype: DTypeLike | None = None,
        kernel_init: Initializer = lecun_normal,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "kernel_init": kernel_init, "rngs": rngs}
        self.Dense_0 = linear(in_features, num_classes, **options)

    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Returns logits `[b, num_classes]`."""
        return classify(x, self.Dense_0)


class DenseHead(nnx.Module):
    """A fully connected layer with dropout before and after it, then `Head`.

    Args:
        in_features: number of features of an example, after flattening.
        num_classes: number of logits.
        features: number of units of the layer.
        dropout: the dropout rate.
        dtype: dtype of the computation.
        rngs: random keys for the parameters, and for dropout.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        features: int,
        *,
        dropout: Number = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.Dropout_0 = Dropout(dropout, rngs=rngs)
        self.Dense_0 = linear(in_features, features, dtype=dtype, rngs=rngs)
        self.Dropout_1 = Dropout(dropout, rngs=rngs)
        self.Head_0 = Head(features, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b *shape"]) -> Logits:
        """Returns logits `[b, num_classes]`."""
        return dense_head(x, self.Dropout_0, self.Dense_0, self.Dropout_1, self.Head_0)


class FCN(nnx.Module):
    """The paper's fully connected network.

    Args:
        input_shape: shape of an image, `[h, w, c]`.
        num_classes: number of logits.
        features: number of units of each hidden layer.
        dtype: dtype of the computation; parameters and logits stay float32.
        rngs: random keys for the parameters.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int = 10,
        features: Sequence[int] = (128, 128),
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_layers, width = len(features), prod(input_shape)
        for i, units in enumerate(features):
            setattr(self, f"Dense_{i}", linear(width, units, dtype=dtype, rngs=rngs))
            width = units
        self.Head_0 = Head(width, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`."""
        layers = [getattr(self, f"Dense_{i}") for i in range(self.num_layers)]
        return fcn_logits(images, layers, self.Head_0)


class CNN(nnx.Module):
    """The paper's convolutional network: a 9x9 block, a 7x7 block and a linear classifier.

    Args:
        input_shape: shape of an image, `[h, w, c]`; by default at least 24 x 24.
        num_classes: number of logits.
        features: number of filters of each block.
        kernel_sizes: side of the kernel of each block.
        dtype: dtype of the computation; parameters and logits stay float32.
        rngs: random keys for the parameters.

    Source: Jaderberg et al. (2015), appendix A.4.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int = 10,
        features: Sequence[int] = (32, 32),
        kernel_sizes: Sequence[int] = (9, 7),
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_blocks, shape = len(features), input_shape
        for i, (filters, size) in enumerate(zip(features, kernel_sizes, strict=True)):
            block = ConvBlock(shape[-1], filters, size, dtype=dtype, rngs=rngs)
            setattr(self, f"ConvBlock_{i}", block)
            shape = output_shape(block, shape)
        self.Head_0 = Head(prod(shape), num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`."""
        x = images
        for i in range(self.num_blocks):
            x = getattr(self, f"ConvBlock_{i}")(x)
        return self.Head_0(x)


class TutorialClassifier(nnx.Module):
    """The classifier of PyTorch's tutorial on spatial transformers, initialised like PyTorch's.

    Args:
        input_shape: shape of an image, `[h, w, c]`, at least 16 x 16.
        num_classes: number of logits.
        dropout: the dropout rate.
        dtype: dtype of the computation; parameters and logits stay float32.
        rngs: random keys for the parameters, and for dropout.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int = 10,
        *,
        dropout: Number = 0.5,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "kernel_init": torch_init, "rngs": rngs}
        self.ConvBlock_0 = ConvBlock(input_shape[-1], 10, 5, **options)
        self.Conv_0 = Conv(10, 20, (5, 5), padding="VALID", **options)
        (flat,) = output_shape(self._flat_features, input_shape)
        self.Dropout_0 = Dropout(dropout, by_channel=True, rngs=rngs)
        self.Dense_0 = linear(flat, 50, **options)
        self.Dropout_1 = Dropout(dropout, rngs=rngs)
        self.Head_0 = Head(50, num_classes, **options)

    def _flat_features(self, images: Images) -> Float[jax.Array, "b flat"]:
        layers = (self.ConvBlock_0, self.Conv_0, unchanged, unchanged, unchanged, unchanged)
        return tutorial_logits(images, *layers)

    def __call__(self, images: Images) -> Logits:
        """Returns logits `[b, num_classes]` of images `[b, h, w, c]`."""
        return tutorial_logits(
            images,
            self.ConvBlock_0,
            self.Conv_0,
            self.Dropout_0,
            self.Dense_0,
            self.Dropout_1,
            self.Head_0,
        )
