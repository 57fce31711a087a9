"""From settings to a network and an optimiser."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.config import PROJECTING, WITHOUT_TRANSFORMER, Model, Optimisation, localisation
from stn_jax import transforms
from stn_jax.nn import (
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
    is_localisation,
)
from stn_jax.training import scale_updates

LOCALISATIONS = {
    "fcn": FCNLocalisationNetwork,
    "cnn": CNNLocalisationNetwork,
    "tutorial": TutorialLocalisationNetwork,
    "volume": VolumeLocalisationNetwork,
}
CNN_KERNEL_SIZES = (9, 7)
COMPACT_FEATURES = (32, 64, 64, 64)  # the last are the units of the dense layer
COMPACT_KERNEL_SIZES = (5, 5, 3)


def make_transform(settings: Model) -> transforms.Transform:
    """The configured family of transformations."""
    if settings.transform == "thin_plate_spline":
        return transforms.thin_plate_spline(settings.control_points, settings.regularisation)
    return getattr(transforms, settings.transform)


def make_network(
    settings: Model, num_classes: int, background: Sequence[float]
) -> SpatialTransformerNetwork:
    """The configured network.

    Args:
        settings: of the model.
        num_classes: the number of logits.
        background: what lies outside the network's input, one value a channel.
    """
    view = (Projection(),) if settings.model in PROJECTING else ()
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
    """The stages that classify."""
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
    """The convolution blocks of a cnn, or of a compact network."""
    dtype = _dtype(settings)
    if settings.model == "st_cnn":
        sizes = zip(settings.features or CNN.features, CNN_KERNEL_SIZES, strict=True)
        return [ConvBlock(filters, size, dtype) for filters, size in sizes]
    filters, sizes = (settings.features or COMPACT_FEATURES)[:-1], COMPACT_KERNEL_SIZES
    pools = (2, 2, 1)  # what is left after two is too small to halve
    return [
        ConvBlock(count, size, dtype, pool=pool)
        for count, size, pool in zip(filters, sizes, pools, strict=True)
    ]


def _head(settings: Model, num_classes: int) -> nn.Module:
    """What follows the blocks."""
    if settings.model == "st_cnn":
        return Head(num_classes, _dtype(settings))
    units = (settings.features or COMPACT_FEATURES)[-1]
    return DenseHead(num_classes, units, settings.dropout, _dtype(settings))


def _localisation(settings: Model) -> nn.Module:
    """The localisation network of a transformer at the input."""
    features = settings.localisation_features
    layers: dict[str, Any] = {} if features is None else {"features": features}
    return LOCALISATIONS[localisation(settings)](**layers, dtype=_dtype(settings))


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
    """The convolution blocks, the first of them with a transformer before each, and the head.

    Between blocks the localisation networks are fully connected, as the paper's on SVHN: feature
    maps are too small for convolutions. What lies outside a feature map is 0.
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


def make_schedule(settings: Optimisation, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at each step."""
    peak, total = settings.learning_rate, settings.epochs * steps_per_epoch
    warmup = round(settings.warmup * steps_per_epoch)
    after = max(total - warmup, 1)
    schedule = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, after),
        "step": optax.piecewise_constant_schedule(peak, {after // 3: 0.1, 2 * after // 3: 0.1}),
    }[settings.schedule]
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), schedule], [warmup])


def make_optimizer(settings: Optimisation, steps_per_epoch: int) -> optax.GradientTransformation:
    """The configured optimiser."""
    rate = make_schedule(settings, steps_per_epoch)
    chain = []
    if settings.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.optimizer == "sgd":
        chain.append(optax.sgd(rate, momentum=settings.momentum))
    elif settings.optimizer == "adam":
        chain.append(optax.adam(rate))
    else:
        chain.append(optax.adamw(rate, weight_decay=settings.weight_decay, mask=_kernels))
    if settings.localisation_lr is not None:
        factor = settings.localisation_lr / settings.learning_rate
        chain.append(scale_updates(factor, is_localisation))
    return optax.chain(*chain)


def _kernels(params: Any) -> Any:
    """Which parameters decay: not biases, one of which is the transformation to start from."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
