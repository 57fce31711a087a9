"""A small residual network behind a spatial transformer, with batch normalisation and dropout."""

from typing import Any

import jax
import optax
from flax import nnx

import stn_jax.nnx
from stn_jax import training, transforms
from tests.training.stateful_models import Stateful, classification

SHAPE, FEATURES = (28, 28, 1), (8, 16)
OUTPUT = (14, 14)
OPTIMIZER = optax.chain(optax.adam(3e-3), training.scale_updates(0.1, stn_jax.nnx.is_localisation))


class _Block(nnx.Module):
    """Two convolutions, each with batch normalisation, and a projection around them."""

    def __init__(self, in_features: int, features: int, strides: int, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"use_bias": False, "rngs": rngs}
        self.first = nnx.Conv(in_features, features, (3, 3), strides, **options)
        self.first_norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(features, features, (3, 3), **options)
        self.second_norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.projection = nnx.Conv(in_features, features, (1, 1), strides, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        inside = nnx.relu(self.first_norm(self.first(x)))
        return nnx.relu(self.second_norm(self.second(inside)) + self.projection(x))


class _ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        localisation = stn_jax.nnx.FCNLocalisationNetwork(SHAPE, (16,), rngs=rngs)
        self.transformer = stn_jax.nnx.SpatialTransformer(
            localisation, transforms.affine, output_shape=OUTPUT, rngs=rngs
        )
        self.stem = nnx.Conv(1, FEATURES[0], (3, 3), rngs=rngs)
        self.blocks = nnx.List(
            [_Block(FEATURES[0], FEATURES[0], 1, rngs), _Block(*FEATURES, 2, rngs)]
        )
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(FEATURES[-1], 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, Any]:
        warped, intermediates = self.transformer(images)
        x = self.stem(warped)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(x.mean(axis=(1, 2)))), intermediates


def resnet() -> Stateful:
    """The network as functions and initial values, to train with `OPTIMIZER`."""
    graph, params, variables = nnx.split(_ResNet(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params: Any, images: jax.Array, key: jax.Array | None, variables: Any) -> Any:
        model = nnx.merge(graph, params, variables, copy=True)
        if key is None:
            model.eval()
        return model(images), nnx.state(model, nnx.Not(nnx.Param))

    return Stateful(classification(apply), params, variables)
