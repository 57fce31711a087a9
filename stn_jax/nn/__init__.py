"""Functions that the modules of both Flax APIs share, for modules of one's own.

`stn_jax.linen` and `stn_jax.nnx` hold the modules. Nothing in this package imports Flax.
"""

from stn_jax.nn.convolution import conv2d
from stn_jax.nn.layers import dropout
from stn_jax.nn.networks import project
from stn_jax.nn.pooling import avg_pool, max_pool
from stn_jax.nn.warp import Warp, is_localisation

__all__ = [
    "Warp",
    "avg_pool",
    "conv2d",
    "dropout",
    "is_localisation",
    "max_pool",
    "project",
]
