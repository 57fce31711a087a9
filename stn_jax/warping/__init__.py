"""Warping: source grids of transformations, warped images, and warped points."""

from stn_jax.warping.crops import crop_boxes
from stn_jax.warping.grids import affine_grid, outside_frame, transform_grid
from stn_jax.warping.points import warp_points
from stn_jax.warping.spatial_transform import spatial_transform
from stn_jax.warping.straighten import straighten

__all__ = [
    "affine_grid",
    "crop_boxes",
    "outside_frame",
    "spatial_transform",
    "straighten",
    "transform_grid",
    "warp_points",
]
