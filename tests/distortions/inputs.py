"""Inputs of the tests of distortions, and measures of the affine maps that they draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax import distortions, transforms

SHAPE = (28, 28)
KEYS = jax.random.split(jax.random.key(0), 500)
BLOB = jnp.zeros((*SHAPE, 1)).at[9:19, 9:19].set(1.0)
OTHERS = jnp.ones((2, *SHAPE, 1))
SQUARE = jnp.asarray([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])

translate = jax.jit(functools.partial(distortions.random_translation, canvas=(60, 60)))


def angles_and_scales(thetas: jax.Array, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles in degrees and magnifications of affine maps from a square canvas to the image."""
    m = np.asarray(jax.vmap(transforms.affine.matrix)(thetas))[:, :, :2] * SHAPE[0] / canvas
    return (
        np.degrees(np.arctan2(m[:, 1, 0], m[:, 0, 0])),
        1 / np.sqrt(np.abs(np.linalg.det(m))),
    )
