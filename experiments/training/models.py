"""Builds the configured network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.settings.config import PROJECTION_MODELS, WITHOUT_TRANSFORMER, Model
from experiments.settings.relations import is_user_defined, localisation_kind
from experiments.training.user_families import load_fitting_family
from stn_jax import transforms
from stn_jax.linen import (
    CNN,
    FCN,
    AveragePool,
    CNNLocalisationNetwork,
    ConvBlock,
    DenseHead,
    FCNLocalisationNetwork,
    Head,
    ParallelTransformers,
    Projection,
    SpatialTransformer,
    SpatialTransformerNetwork,
    TutorialClassifier,
    TutorialLocalisationNetwork,
    VolumeLocalisationNetwork,
)

LOCALISATIONS = {
    "fcn": FCNLocalisationNetwork,
    "cnn": CNNLocalisationNetwork,
    "tutorial": TutorialLocalisationNetwork,
    "volume": VolumeLocalisationNetwork,
}
CNN_KERNEL_SIZES = (9, 7)
COMPACT_FEATURES = (32, 64, 64, 64)  # the last number is the units of the dense layer
COMPACT_KERNEL_SIZES = (5, 5, 3)


def make_transform(settings: Model) -> transforms.Transform:
    """The configured family of transformations.

    Raises:
        ConfigError: if a user-defined family cannot be imported or does not fit the model.
    """
    if is_user_defined(settings.transform):
        return load_fitting_family(settings)
    if settings.transform == "thin_plate_spline":
        return transforms.thin_plate_spline(settings.control_points, settings.regularisation)
    if settings.transform == "velocity_field":
        return transforms.velocity_field(settings.control_points)
    return getattr(transforms, settings.transform)


def make_network(
    settings: Model, num_classes: int, background: Sequence[float]
) -> SpatialTransformerNetwork:
    """The configured network.

    Args:
        settings: the settings of the model.
        num_classes: the number of logits.
        background: the value outside the network's input, for each channel.
    """
    view = (Projection(),) if settings.model in PROJECTION_MODELS else ()
    if settings.model in WITHOUT_TRANSFORMER:
        return SpatialTransformerNetwork(
            (*view, *_pooling(settings), *_classifier(settings, num_classes))
        )
    if settings.placement == "between":
        return SpatialTransformerNetwork(_interleaved(settings, num_classes, background))
    transformers = [_transformer(settings, background) for _ in range(settings.transformers)]
    front: tuple[nn.Module, ...] = tuple(transformers)
    if settings.placement == "parallel":
        front = (ParallelTransformers(transformers),)
    return SpatialTransformerNetwork(
        (*front, *view, *_pooling(settings), *_classifier(settings, num_classes))
    )


def _dtype(settings: Model) -> jnp.dtype:
    return jnp.dtype(settings.precision)


def _classifier(settings: Model, num_classes: int) -> tuple[nn.Module, ...]:
    """The stages of the classifier."""
    dtype = _dtype(settings)
    kind = settings.model.removeprefix("st_").removeprefix("projection_")
    if kind == "fcn":
        return (FCN(num_classes, settings.features or FCN.features, dtype),)
    if kind == "cnn":
        return (CNN(num_classes, settings.features or CNN.features, CNN_KERNEL_SIZES, dtype),)
    if kind == "compact":
        return (*_blocks(settings), _head(settings, num_classes))
    return (TutorialClassifier(num_classes, settings.dropout, dtype),)


def _blocks(settings: Model) -> list[nn.Module]:
    """The convolution blocks of `cnn` or `compact`."""
    dtype = _dtype(settings)
    if settings.model == "st_cnn":
        sizes = zip(settings.features or CNN.features, CNN_KERNEL_SIZES, strict=True)
        return [ConvBlock(filters, size, dtype) for filters, size in sizes]
    filters, sizes = (settings.features or COMPACT_FEATURES)[:-1], COMPACT_KERNEL_SIZES
    pools = (2, 2, 1)  # after two, the feature map is too small to halve
    return [
        ConvBlock(count, size, dtype, pool=pool)
        for count, size, pool in zip(filters, sizes, pools, strict=True)
    ]


def _head(settings: Model, num_classes: int) -> nn.Module:
    """The head behind the blocks."""
    if settings.model == "st_cnn":
        return Head(num_classes, _dtype(settings))
    units = (settings.features or COMPACT_FEATURES)[-1]
    return DenseHead(num_classes, units, settings.dropout, _dtype(settings))


def _localisation(settings: Model) -> nn.Module:
    """The localisation network of a transformer at the input."""
    features = settings.localisation_features
    layers: dict[str, Any] = {} if features is None else {"features": features}
    return LOCALISATIONS[localisation_kind(settings)](**layers, dtype=_dtype(settings))


def _transformer(settings: Model, fill: Sequence[float]) -> SpatialTransformer:
    """A transformer at the input."""
    size, transform = settings.output_size, make_transform(settings)
    return SpatialTransformer(
        _localisation(settings),
        transform,
        output_shape=(size,) * transform.ndim if size else None,
        mode=settings.mode,
        padding_mode=settings.padding_mode,
        align_corners=settings.align_corners,
        fill=tuple(fill),
    )


def _pooling(settings: Model) -> tuple[nn.Module, ...]:
    return (AveragePool(settings.pool),) if settings.pool > 1 else ()


def _interleaved(
    settings: Model, num_classes: int, background: Sequence[float]
) -> tuple[nn.Module, ...]:
    """Convolution blocks with a transformer before each of the first blocks, then the head.

    Transformers between blocks have fully connected localisation networks, as in the paper's SVHN
    experiment: feature maps are too small for convolutions. The outside of a feature map is 0.
    """
    stages: list[nn.Module] = [_transformer(settings, background), *_pooling(settings)]
    for i, block in enumerate(_blocks(settings)):
        if 0 < i < settings.transformers:
            stages.append(
                SpatialTransformer(
                    FCNLocalisationNetwork((32, 32), _dtype(settings)),
                    make_transform(settings),
                    mode=settings.mode,
                    padding_mode=settings.padding_mode,
                    align_corners=settings.align_corners,
                )
            )
        stages.append(block)
    return (*stages, _head(settings, num_classes))
