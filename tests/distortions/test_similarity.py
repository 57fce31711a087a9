"""RTS draws uniform angles, scales and places."""

import jax
import numpy as np

from stn_jax import distortions, transforms
from tests.distortions.inputs import KEYS, SHAPE, angles_and_scales


def test_rts_draws_uniform_angles_scales_and_places() -> None:
    thetas = jax.vmap(lambda key: distortions.draw_similarity(key, SHAPE))(KEYS)
    angles, scales = angles_and_scales(thetas, 42)
    assert np.abs(angles).max() <= 45
    assert 0.7 <= scales.min() < 0.72
    assert 1.18 < scales.max() <= 1.2 + 1e-6
    # The image's centre is at the canvas point that theta maps to 0.
    m = np.asarray(jax.vmap(transforms.affine.matrix)(thetas), np.float64)
    centres = np.linalg.solve(m[:, :, :2], -m[:, :, 2:])[..., 0] * 21
    assert np.abs(centres).max() <= 7 + 1e-4
    assert centres.std() > 3.5
