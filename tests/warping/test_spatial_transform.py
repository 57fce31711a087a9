"""`spatial_transform`: agreement with its parts, exactness, and errors."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms
from tests.warping.families import both_corners, every_planar, near_identity

OPTIMISED = True  # the programs that users run

RNG = np.random.default_rng(0)


@every_planar
@both_corners
@pytest.mark.parametrize("output_shape", [(5, 9), (12, 4), (1, 1), (7, 6)])
def test_spatial_transform_equals_grid_sample_at_transform_grid(
    transform: transforms.Transform, align_corners: bool, output_shape: tuple, x64: None
) -> None:
    image, theta = jnp.asarray(RNG.normal(size=(7, 6, 2))), near_identity(transform)
    grid = stn_jax.transform_grid(theta, transform, output_shape, align_corners=align_corners)
    np.testing.assert_allclose(
        stn_jax.spatial_transform(
            image, theta, transform, output_shape=output_shape, align_corners=align_corners
        ),
        stn_jax.grid_sample(image, grid, align_corners=align_corners),
        atol=1e-12,
    )


def test_pixels_from_outside_the_image_are_the_fill() -> None:
    image = jnp.ones((6, 6, 2))
    far = jnp.asarray([5.0, 0.0])
    output = stn_jax.spatial_transform(image, far, transforms.translation, fill=(-1.0, 2.0))
    np.testing.assert_array_equal(output, jnp.broadcast_to(jnp.asarray([-1.0, 2.0]), (6, 6, 2)))


def test_identity_is_exact_with_any_fill() -> None:
    image = jnp.asarray(RNG.normal(size=(11, 13, 1)), jnp.float32)
    output = stn_jax.spatial_transform(
        image, transforms.affine.identity, transforms.affine, fill=-0.4242
    )
    np.testing.assert_array_equal(output, image)


@every_planar
def test_new_thetas_do_not_retrace(transform: transforms.Transform) -> None:
    @jax.jit
    @chex.assert_max_traces(n=1)
    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(image, theta, transform)

    chex.clear_trace_counter()
    for scale in (0.0, 1.0, 2.0):
        theta = transform.identity + scale * (near_identity(transform) - transform.identity)
        assert np.isfinite(warp(jnp.ones((5, 6, 1)), theta.astype(jnp.float32))).all()


def test_spatial_transform_rejects_wrong_shapes(unchecked: None) -> None:
    image = jnp.ones((4, 5, 1))
    error = r"image for affine must have shape \[h, w, c\] \(one example; jax.vmap makes batches\)"
    with pytest.raises(ValueError, match=error):
        stn_jax.spatial_transform(image[..., 0], transforms.affine.identity, transforms.affine)
    with pytest.raises(ValueError, match=r"image for affine_3d must have shape \[d, h, w, c\]"):
        stn_jax.spatial_transform(image, transforms.affine_3d.identity, transforms.affine_3d)
    with pytest.raises(ValueError, match=r"theta of rotation must have shape \[1\]; got \[2\]"):
        stn_jax.spatial_transform(image, jnp.zeros(2), transforms.rotation)
    with pytest.raises(ValueError, match=r"output_shape must be 2 non-negative integers; got \(4,"):
        stn_jax.transform_grid(jnp.zeros(1), transforms.rotation, (4, -1))
    with pytest.raises(ValueError, match=r"fill must be a number or one per channel, \[1\]"):
        stn_jax.spatial_transform(image, jnp.zeros(1), transforms.rotation, fill=(1.0, 2.0))


def test_theta_of_user_defined_transforms_is_checked(unchecked: None) -> None:
    shear = transforms.Transform("shear", 2, np.zeros(1, np.float32), lambda theta, points: points)
    error = r"theta of shear must have shape \[1\]; got \[9\]"
    with pytest.raises(ValueError, match=error):
        stn_jax.spatial_transform(jnp.ones((4, 5, 1)), jnp.zeros(9), shear)
    with pytest.raises(ValueError, match=error):
        stn_jax.transform_grid(jnp.zeros(9), shear, (4, 5))


def affine_thetas(quarters: np.ndarray, height: int, width: int) -> np.ndarray:
    """Thetas whose matrices in pixels have entries in quarters."""
    columns = [quarters[0], quarters[1] * height / width, quarters[2] / width]
    columns += [quarters[3] * width / height, quarters[4], quarters[5] / height]
    return np.stack(columns, axis=1)


def spline_thetas(quarters: np.ndarray, height: int, width: int) -> np.ndarray:
    """Thetas that shift the whole image by quarters of a pixel."""
    return np.tile(np.stack([2 * quarters[0] / width, 2 * quarters[1] / height], axis=1), (1, 16))


@pytest.mark.parametrize("shape", [(41, 37), (28, 28), (60, 60)])
@pytest.mark.parametrize(
    ("transform", "make_thetas"),
    [
        (transforms.affine, affine_thetas),
        (transforms.thin_plate_spline((4, 4)), spline_thetas),
    ],
)
def test_indices_and_weights_agree_at_integer_positions(
    transform: transforms.Transform,
    make_thetas: Callable[[np.ndarray, int, int], np.ndarray],
    shape: tuple[int, int],
) -> None:
    """Positions on whole and half pixels, where a difference in rounding is a whole pixel.

    Compiled for a batch and with gradients, because positions are then computed in several kernels.
    """
    height, width = shape
    rng = np.random.default_rng(0)
    thetas = make_thetas(rng.integers(-8, 9, (6, 256)) / 4, height, width)
    images, cotangents = rng.normal(size=(2, 256, height, width, 1))

    @jax.jit
    def output_and_gradient(images: jax.Array, thetas: jax.Array) -> tuple[jax.Array, jax.Array]:
        def warp(images: jax.Array) -> jax.Array:
            return jax.vmap(lambda i, t: stn_jax.spatial_transform(i, t, transform))(images, thetas)

        output, pull_back = jax.vjp(warp, images)
        return output, pull_back(jnp.asarray(cotangents, output.dtype))[0]

    actual = output_and_gradient(jnp.asarray(images, jnp.float32), jnp.asarray(thetas, jnp.float32))
    with jax.enable_x64(True):
        expected = output_and_gradient(
            jnp.asarray(images), jnp.asarray(np.float32(thetas), jnp.float64)
        )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)  # an error of one pixel is about 1
