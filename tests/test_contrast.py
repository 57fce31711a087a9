"""Local contrast normalisation: definition, invariances, gradients and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.contrast import local_contrast

IMAGE = np.random.default_rng(0).uniform(size=(16, 20, 3)).astype(np.float32)
contrast = jax.jit(local_contrast, static_argnames="sigma_px")


def test_local_contrast_equals_its_definition() -> None:
    image, sigma = IMAGE.astype(np.float64), 2.0

    def blurred(image: np.ndarray) -> np.ndarray:
        found = np.zeros_like(image)
        height, width, _ = image.shape
        for y, x in np.ndindex(height, width):
            squared = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2
            weights = np.exp(-squared / (2 * sigma**2))
            found[y, x] = np.tensordot(weights / weights.sum(), image, 2)
        return found

    centred = image - blurred(image)
    deviation = np.sqrt(blurred(centred**2))
    expected = centred / np.maximum(deviation, deviation.mean(axis=(0, 1)))
    np.testing.assert_allclose(contrast(IMAGE, sigma_px=sigma), expected, atol=1e-5)


def test_brightness_and_contrast_of_each_channel_are_removed() -> None:
    changed = IMAGE * [2.0, 0.5, 1.0] + np.asarray([0.1, -3.0, 7.0])
    found = contrast(changed.astype(np.float32))
    np.testing.assert_allclose(found, contrast(IMAGE), atol=1e-4)


def test_constant_channels_become_zero() -> None:
    flat = jnp.full((8, 8, 2), 0.7).at[..., 1].set(0)
    assert not contrast(flat).any()


@pytest.mark.parametrize("lit", [0, 1])
def test_gradient_is_finite_in_regions_without_contrast(lit: int) -> None:
    """The deviation is exactly 0 everywhere, or everywhere except around one pixel."""
    image = jnp.zeros((60, 60, 1)).at[5, 5].set(lit)
    gradient = jax.grad(lambda image: jnp.sum(jnp.square(contrast(image))))(image)
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("image", "sigma", "argument"),
    [
        (np.zeros((4, 4)), 1.0, "image"),
        (np.zeros((4, 4, 1), int), 1.0, "image"),
        (IMAGE, 0.0, "sigma_px"),
    ],
)
def test_errors_name_the_argument(image: np.ndarray, sigma: float, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        local_contrast(image, sigma_px=sigma)
