"""Geometric transformations, which map target points to source points given theta."""

from stn_jax.transforms.base import Transform
from stn_jax.transforms.chain import chain, series
from stn_jax.transforms.cpab import cpab
from stn_jax.transforms.linear import (
    affine,
    affine_3d,
    rigid_3d,
    rotation,
    similarity,
    translation,
    translation_scale,
)
from stn_jax.transforms.projective import projective
from stn_jax.transforms.thin_plate_spline import thin_plate_spline
from stn_jax.transforms.velocity_field import velocity_field

__all__ = [
    "Transform",
    "affine",
    "affine_3d",
    "chain",
    "cpab",
    "projective",
    "rigid_3d",
    "rotation",
    "series",
    "similarity",
    "thin_plate_spline",
    "translation",
    "translation_scale",
    "velocity_field",
]
