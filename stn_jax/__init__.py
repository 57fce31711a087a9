"""Spatial transformer networks in JAX: pure functions, and modules for Flax linen and NNX."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from stn_jax import (
    colocalisation,
    contrast,
    coordinates,
    distortions,
    fields,
    nn,
    poses,
    targets,
    training,
    transforms,
)
from stn_jax.sampling import grid_sample
from stn_jax.training import population
from stn_jax.warping import (
    affine_grid,
    crop_boxes,
    outside_frame,
    spatial_transform,
    straighten,
    transform_grid,
    warp_points,
)

if TYPE_CHECKING:
    from stn_jax import linen, nnx

__version__ = "0.1.0"

__all__ = [
    "affine_grid",
    "colocalisation",
    "contrast",
    "coordinates",
    "crop_boxes",
    "distortions",
    "fields",
    "grid_sample",
    "linen",
    "nn",
    "nnx",
    "outside_frame",
    "population",
    "poses",
    "spatial_transform",
    "straighten",
    "targets",
    "training",
    "transform_grid",
    "transforms",
    "warp_points",
]


def __getattr__(name: str) -> ModuleType:
    """Imports the modules for Flax when they are used, because Flax takes long to import."""
    if name in ("linen", "nnx"):
        return import_module(f"stn_jax.{name}")
    raise AttributeError(f"module 'stn_jax' has no attribute {name!r}")
