"""E moves the control points of a spline by the stated deviation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax import distortions, transforms
from tests.distortions.inputs import KEYS, SHAPE


def test_e_moves_control_points_by_sigma() -> None:
    draw = functools.partial(distortions.draw_elastic, scale=(0.8, 0.8), sigma_px=1.5)
    thetas = jax.jit(jax.vmap(lambda key: draw(key, SHAPE)))(KEYS)
    controls = jnp.stack(
        [g.ravel() for g in jnp.meshgrid(jnp.linspace(-1, 1, 4), jnp.linspace(-1, 1, 4))], -1
    )
    spline = transforms.thin_plate_spline((4, 4))
    warped = jax.jit(jax.vmap(spline.warp, in_axes=(0, None)))(thetas, controls)
    shifts = (np.asarray(warped) * 0.8 - controls) * 14
    assert abs(shifts.std() - 1.5) < 0.05
