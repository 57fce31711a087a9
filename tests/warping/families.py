"""Families of transformations, and parametrisations over them, for the tests of warping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import transforms

PLANAR = [
    transforms.translation,
    transforms.rotation,
    transforms.translation_scale,
    transforms.similarity,
    transforms.affine,
    transforms.projective,
    transforms.thin_plate_spline(),
]
every_planar = pytest.mark.parametrize("transform", PLANAR, ids=lambda t: t.name)
both_corners = pytest.mark.parametrize("align_corners", [False, True])


def near_identity(transform: transforms.Transform) -> jax.Array:
    """A fixed random theta near the identity."""
    noise = np.random.default_rng(1).normal(size=transform.num_params)
    return jnp.asarray(transform.identity + 0.1 * noise)
