"""Spatial transformer networks in JAX: pure functions and Flax modules."""

from stn_jax import (
    colocalisation,
    contrast,
    coordinates,
    distortions,
    nn,
    poses,
    training,
    transforms,
)
from stn_jax.sampling import grid_sample
from stn_jax.training import population
from stn_jax.warping import (
    affine_grid,
    outside_frame,
    spatial_transform,
    straighten,
    transform_grid,
    warp_points,
)

__version__ = "0.1.0"

__all__ = [
    "affine_grid",
    "colocalisation",
    "contrast",
    "coordinates",
    "distortions",
    "grid_sample",
    "nn",
    "outside_frame",
    "population",
    "poses",
    "spatial_transform",
    "straighten",
    "training",
    "transform_grid",
    "transforms",
    "warp_points",
]
