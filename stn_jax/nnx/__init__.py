"""Flax NNX modules: spatial transformers, localisation networks, classifiers and fast layers.

Transformers and networks return `(output, intermediates)`; all other modules return an array.
`stn_jax.linen` has the same modules for Flax linen. The names of parameters are equal, so
`nnx.update(model, params)` loads the parameters of a linen module, and
`nnx.to_pure_dict(nnx.state(model, nnx.Param))` are those of a linen module.
"""

from stn_jax.nn import avg_pool, is_localisation, max_pool
from stn_jax.nnx.classifiers import CNN, FCN, DenseHead, Head, TutorialClassifier
from stn_jax.nnx.layers import AveragePool, Conv, ConvBlock, Dropout, Projection
from stn_jax.nnx.localisation import (
    CNNLocalisationNetwork,
    FCNLocalisationNetwork,
    TutorialLocalisationNetwork,
    VolumeLocalisationNetwork,
)
from stn_jax.nnx.transformers import (
    IterativeTransformer,
    ParallelTransformers,
    SpatialTransformer,
    SpatialTransformerNetwork,
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
