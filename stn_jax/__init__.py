"""Spatial transformers in JAX: pure functions, and Flax modules around them."""

from stn_jax import colocalisation, distortions, nn, population, training, transforms
from stn_jax.sampling import grid_sample
from stn_jax.warping import affine_grid, outside_frame, spatial_transform, transform_grid

__version__ = "0.1.0"

__all__ = [
    "affine_grid",
    "colocalisation",
    "distortions",
    "grid_sample",
    "nn",
    "outside_frame",
    "population",
    "spatial_transform",
    "training",
    "transform_grid",
    "transforms",
]
