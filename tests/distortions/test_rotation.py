"""R rotates rigidly by a uniform angle."""

import math

import jax
import numpy as np

from stn_jax import distortions, transforms
from tests.distortions.inputs import KEYS, SHAPE, angles_and_scales


def test_r_draws_uniform_angles_and_keeps_the_scale() -> None:
    thetas = jax.vmap(lambda key: distortions.draw_rotation(key, SHAPE))(KEYS)
    angles, scales = angles_and_scales(thetas, 28)
    assert -90 <= angles.min() < -85
    assert 85 < angles.max() <= 90
    assert abs(angles.std() - 180 / math.sqrt(12)) < 3
    np.testing.assert_allclose(scales, 1, atol=1e-5)


def test_r_is_rigid_for_non_square_images() -> None:
    theta = distortions.draw_rotation(KEYS[0], (20, 40))
    to_px = np.asarray([20.0, 10.0])  # half the width, half the height
    m = np.asarray(transforms.affine.matrix(theta))[:, :2] * to_px[:, None] / to_px
    np.testing.assert_allclose(m @ m.T, np.eye(2), atol=1e-6)
