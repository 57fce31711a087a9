"""Flax modules: spatial transformers, localisation networks, classifiers and fast layers."""

from stn_jax.nn.classifiers import (
    CNN,
    FCN,
    AveragePool,
    ConvBlock,
    DenseHead,
    Dropout,
    Head,
    TutorialClassifier,
)
from stn_jax.nn.layers import Conv, avg_pool, max_pool
from stn_jax.nn.localisation import (
    CNNLocalisationNetwork,
    FCNLocalisationNetwork,
    TutorialLocalisationNetwork,
)
from stn_jax.nn.projection import Projection, VolumeLocalisationNetwork
from stn_jax.nn.spatial_transformer import (
    ParallelTransformers,
    SpatialTransformer,
    SpatialTransformerNetwork,
    is_localisation,
)

__all__ = [
    "CNN",
    "FCN",
    "AveragePool",
    "CNNLocalisationNetwork",
    "Conv",
    "ConvBlock",
    "DenseHead",
    "Dropout",
    "FCNLocalisationNetwork",
    "Head",
    "ParallelTransformers",
    "Projection",
    "SpatialTransformer",
    "SpatialTransformerNetwork",
    "TutorialClassifier",
    "TutorialLocalisationNetwork",
    "VolumeLocalisationNetwork",
    "avg_pool",
    "is_localisation",
    "max_pool",
]
