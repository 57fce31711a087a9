"""`crop_boxes`: agreement with slices and affine warps, exactness, gradients and errors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import crop_boxes, spatial_transform, transforms

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(7, 9, 2)).astype(np.float32)
VOLUME = RNG.normal(size=(4, 5, 6, 1)).astype(np.float32)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("image", [IMAGE, VOLUME], ids=["image", "volume"])
def test_the_box_of_the_whole_image_returns_it_exactly(image: np.ndarray, mode: Any) -> None:
    spatial = image.shape[:-1]
    box = np.float32([*[0] * len(spatial), *spatial[::-1]])
    np.testing.assert_array_equal(crop_boxes(image, box, spatial, mode=mode), image)


def test_boxes_of_whole_pixels_are_slices() -> None:
    boxes = np.float32([[0, 0, 3, 2], [5, 4, 8, 6], [6, 5, 9, 7]])
    slices = [IMAGE[0:2, 0:3], IMAGE[4:6, 5:8], IMAGE[5:7, 6:9]]
    np.testing.assert_array_equal(crop_boxes(IMAGE, boxes, (2, 3)), np.stack(slices))
    mirrored = crop_boxes(IMAGE, boxes[:, [2, 1, 0, 3]], (2, 3))
    np.testing.assert_array_equal(mirrored, np.stack(slices)[:, :, ::-1])
    volume = crop_boxes(VOLUME, np.float32([1, 2, 3, 5, 4, 4]), (1, 2, 4))
    np.testing.assert_array_equal(volume, VOLUME[3:4, 2:4, 1:5])


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_crops_and_their_gradient_equal_affine_warps(padding_mode: Any, x64: None) -> None:
    image, boxes = jnp.asarray(IMAGE, float), jnp.asarray(RNG.uniform(-2, 10, (2, 3, 4)))
    options = {"padding_mode": padding_mode, "fill": 0.5}

    def by_affine(image: jax.Array, box: jax.Array) -> jax.Array:
        low, high = box[:2] / jnp.asarray([9, 7]) * 2 - 1, box[2:] / jnp.asarray([9, 7]) * 2 - 1
        half, centre, zero = (high - low) / 2, (high + low) / 2, jnp.zeros(())
        theta = jnp.stack([half[0], zero, centre[0], zero, half[1], centre[1]])
        return spatial_transform(image, theta, transforms.affine, output_shape=(4, 5), **options)

    def one_by_one(image: jax.Array, boxes: jax.Array) -> jax.Array:
        batch = jax.vmap(by_affine, in_axes=(None, 0))
        return jax.vmap(batch, in_axes=(None, 0))(image, boxes)

    def at_once(image: jax.Array, boxes: jax.Array) -> jax.Array:
        return crop_boxes(image, boxes, (4, 5), **options)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(crop: Callable[..., jax.Array]) -> Any:
        value = crop(image, boxes)
        return value, jax.grad(lambda *args: jnp.sum(crop(*args) ** 2), (0, 1))(image, boxes)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-11),
        value_and_gradient(at_once),
        value_and_gradient(one_by_one),
    )


def test_the_image_is_not_copied_for_each_box() -> None:
    image, boxes = jax.ShapeDtypeStruct((64, 64, 8), jnp.float32), np.ones((100, 4), np.float32)
    program = jax.jit(lambda image: crop_boxes(image, boxes, (2, 2))).lower(image).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 * 64 * 64 * 8 * 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            functools.partial(crop_boxes, IMAGE, np.ones((3, 6))),
            r"boxes must have shape \[..., 4\]",
        ),
        (functools.partial(crop_boxes, IMAGE, np.ones((3, 4), int)), "boxes must be of a floating"),
        (functools.partial(crop_boxes, IMAGE[0], np.ones(4)), "image must have shape"),
    ],
)
def test_invalid_arguments_are_named(call: Callable[..., Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        call((2, 2))
