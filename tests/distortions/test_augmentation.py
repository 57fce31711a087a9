"""Jitter moves images within its bounds and deforms them independently of the motion."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions
from stn_jax.distortions import augmentation
from tests.distortions.inputs import BLOB, KEYS, SHAPE, angles_and_scales

BOUNDS = {"max_angle_rad": 0.2, "max_scale": 1.25, "max_shift_px": 3.0}


def test_jitter_stays_within_its_bounds() -> None:
    draw = jax.jit(jax.vmap(lambda key: distortions.draw_jitter(key, SHAPE, **BOUNDS)))
    thetas = draw(KEYS)
    angles, scales = angles_and_scales(thetas, 28)
    assert 11 < np.abs(angles).max() <= math.degrees(0.2)
    assert 0.8 - 1e-6 <= scales.min() < 0.81
    assert 1.23 < scales.max() <= 1.25 + 1e-6
    assert abs(np.log(scales).mean()) < 0.02
    # The image's centre is at the output point that theta maps to 0.
    matrices = np.asarray(thetas).reshape(-1, 2, 3)
    shifts = -np.linalg.solve(matrices[:, :, :2], matrices[:, :, 2:])[..., 0] * 14
    assert 2.9 < np.abs(shifts).max() <= 3 + 1e-4


def test_deformation_is_added_to_the_motion() -> None:
    jitter = functools.partial(distortions.random_jitter, **BOUNDS)
    moved = jax.jit(jitter)(KEYS[0], BLOB)
    barely_deformed = jax.jit(functools.partial(jitter, sigma_px=1e-4))(KEYS[0], BLOB)
    np.testing.assert_allclose(barely_deformed, moved, atol=1e-3)


def test_deformation_moves_points_independently() -> None:
    deform = functools.partial(distortions.random_jitter, image=BLOB, sigma_px=1.0)
    images = jax.jit(jax.vmap(lambda key: deform(key)))(KEYS)[..., 0]
    places = np.einsum("bhw,hwc->bc", images, np.indices(SHAPE).transpose(1, 2, 0))
    places /= np.sum(images, axis=(1, 2))[:, None]
    assert 0.3 < places.std() < 1.0  # the blob averages the shifts of several points
    np.testing.assert_allclose(places.mean(axis=0), 13.5, atol=0.1)
    assert np.std(np.sum(images, axis=(1, 2))) > 1  # its area changes: the motion is not rigid


def test_deformation_is_independent_of_the_angle(
    monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    def return_theta(image: jax.Array, theta: jax.Array, *_: object, **__: object) -> jax.Array:
        return theta[None, None]

    monkeypatch.setattr(augmentation, "spatial_transform", return_theta)

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rotation = distortions.random_jitter(key, BLOB, max_angle_rad=0.5)
        deformation = distortions.random_jitter(key, BLOB, sigma_px=1.0)
        return rotation[0, 0, 1], deformation[0, 0]

    angles, shifts = draw(KEYS[:100])
    correlations = [np.corrcoef(angles, shift)[0, 1] for shift in np.asarray(shifts).T]
    assert np.abs(correlations).max() < 0.5  # five deviations, for 100 independent pairs


@pytest.mark.parametrize("sigma_px", [-1.0, math.nan, math.inf])
def test_invalid_deviation_raises(sigma_px: float) -> None:
    with pytest.raises(ValueError, match="sigma_px must be finite and at least 0"):
        distortions.random_jitter(KEYS[0], BLOB, sigma_px=sigma_px)


def test_jitter_without_bounds_is_the_identity() -> None:
    np.testing.assert_array_equal(distortions.random_jitter(KEYS[0], BLOB), BLOB)


def test_jitter_repeats_the_edge() -> None:
    flat = jnp.full((8, 8, 1), 0.7)
    jitter = functools.partial(distortions.random_jitter, max_angle_rad=0.5, max_shift_px=4.0)
    moved = jax.jit(jitter)(KEYS[1], flat)
    np.testing.assert_allclose(moved, flat, atol=1e-6)
