"""T and TC place the whole image on the canvas, and TC adds crops of other images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions
from tests.distortions.inputs import BLOB, KEYS, OTHERS, SHAPE, translate


def test_t_keeps_the_image_whole_and_reaches_the_edges() -> None:
    distort = jax.jit(jax.vmap(distortions.random_translation, in_axes=(0, None)))
    images = distort(KEYS[:100], jnp.ones((*SHAPE, 1)))
    np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 28 * 28, rtol=1e-4)
    assert float(images[:, :2].max()) > 0
    assert float(images[:, -2:].max()) > 0


def test_tc_adds_crops_of_the_other_images() -> None:
    others = jnp.full((6, *SHAPE, 1), 0.5)
    image = jnp.zeros((*SHAPE, 1)).at[5:20, 5:20].set(1.0)
    cluttered = jax.jit(distortions.random_clutter)(KEYS[0], image, others)
    placed = translate(distortions.image_key(KEYS[0]), image)
    assert cluttered.shape == (60, 60, 1)
    np.testing.assert_array_equal(cluttered, jnp.maximum(cluttered, placed))
    added = np.asarray(cluttered != placed)
    assert 36 <= added.sum() <= 6 * 36
    np.testing.assert_array_equal(np.asarray(cluttered)[added & (np.asarray(placed) == 0)], 0.5)


def test_tc_without_other_images_equals_t() -> None:
    empty = jnp.zeros((0, *SHAPE, 1))
    np.testing.assert_array_equal(
        jax.jit(distortions.random_clutter)(KEYS[0], BLOB, empty),
        translate(distortions.image_key(KEYS[0]), BLOB),
    )


@pytest.mark.parametrize("crop_size", [0, 29, 2.5, math.nan, "6", None])
def test_invalid_crop_size_raises(crop_size: Any, unchecked: None) -> None:
    allowed = "crop_size must be a whole number between 1 and 28; got"
    with pytest.raises(ValueError, match=f"{allowed} {crop_size!r}"):
        distortions.random_clutter(KEYS[0], BLOB, OTHERS, crop_size=crop_size)


def test_other_number_of_channels_raises(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"others must have shape \[crops, h, w, 1\]"):
        distortions.random_clutter(KEYS[0], BLOB, jnp.ones((2, *SHAPE, 3)))
