"""Flax linen modules: spatial transformers, localisation networks, classifiers and fast layers.

Transformers and networks return `(output, intermediates)`; all other modules return an array.
`stn_jax.nnx` has the same modules for Flax NNX, with the same names of parameters.
"""

from stn_jax.linen.classifiers import CNN, FCN, DenseHead, Head, TutorialClassifier
from stn_jax.linen.layers import AveragePool, Conv, ConvBlock, Dropout, Projection
from stn_jax.linen.localisation import (
    CNNLocalisationNetwork,
    FCNLocalisationNetwork,
    TutorialLocalisationNetwork,
    VolumeLocalisationNetwork,
)
from stn_jax.linen.transformers import (
    IterativeTransformer,
    ParallelTransformers,
    SpatialTransformer,
    SpatialTransformerNetwork,
)
from stn_jax.nn import avg_pool, is_localisation, max_pool

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
    "IterativeTransformer",
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
