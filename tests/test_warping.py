"""Grid generation and sampling in one: what `spatial_transform` adds to its parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms

RNG = np.random.default_rng(0)
PLANAR = [
    transforms.translation,
    transforms.rotation,
    transforms.translation_scale,
    transforms.similarity,
    transforms.affine,
    transforms.projective,
    transforms.thin_plate_spline(),
]
planar = pytest.mark.parametrize("transform", PLANAR, ids=lambda t: t.name)


def near_identity(transform: transforms.Transform) -> jax.Array:
    noise = np.random.default_rng(1).normal(size=transform.num_params)
    return jnp.asarray(transform.identity + 0.1 * noise)


@planar
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("output_shape", [(5, 9), (12, 4), (1, 1), (7, 6)])
def test_equals_sampling_at_the_grid(
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


def test_affine_grid_is_the_affine_transforms_grid() -> None:
    theta = near_identity(transforms.affine)
    np.testing.assert_array_equal(
        stn_jax.affine_grid(theta.reshape(2, 3), (4, 5)),
        stn_jax.transform_grid(theta, transforms.affine, (4, 5)),
    )


def test_what_comes_from_outside_is_the_fill() -> None:
    image = jnp.ones((6, 6, 2))
    far = jnp.asarray([5.0, 0.0])
    output = stn_jax.spatial_transform(image, far, transforms.translation, fill=(-1.0, 2.0))
    np.testing.assert_array_equal(output, jnp.broadcast_to(jnp.asarray([-1.0, 2.0]), (6, 6, 2)))


def test_the_fill_leaves_the_identity_exact() -> None:
    image = jnp.asarray(RNG.normal(size=(11, 13, 1)), jnp.float32)
    output = stn_jax.spatial_transform(
        image, transforms.affine.identity, transforms.affine, fill=-0.4242
    )
    np.testing.assert_array_equal(output, image)


def test_outside_frame_counts_nan_as_outside() -> None:
    grid = jnp.asarray([[0.0, 0.0], [1.0, -1.0], [1.01, 0.0], [0.0, -2.0], [jnp.nan, 0.0]])
    np.testing.assert_array_equal(stn_jax.outside_frame(grid), [False, False, True, True, True])


@planar
def test_traced_once_for_any_theta(transform: transforms.Transform) -> None:
    @jax.jit
    @chex.assert_max_traces(n=1)
    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(image, theta, transform)

    chex.clear_trace_counter()
    for scale in (0.0, 1.0, 2.0):
        theta = transform.identity + scale * (near_identity(transform) - transform.identity)
        assert np.isfinite(warp(jnp.ones((5, 6, 1)), theta.astype(jnp.float32))).all()


def test_errors(unchecked: None) -> None:
    image = jnp.ones((4, 5, 1))
    with pytest.raises(ValueError, match=r"image for affine must have shape of rank 3; got"):
        stn_jax.spatial_transform(image[..., 0], transforms.affine.identity, transforms.affine)
    with pytest.raises(ValueError, match=r"image for affine_3d must have shape of rank 4"):
        stn_jax.spatial_transform(image, transforms.affine_3d.identity, transforms.affine_3d)
    with pytest.raises(ValueError, match=r"theta of rotation must have shape \[1\]; got \[2\]"):
        stn_jax.spatial_transform(image, jnp.zeros(2), transforms.rotation)
    with pytest.raises(ValueError, match=r"output_shape must be 2 non-negative integers; got \(4,"):
        stn_jax.transform_grid(jnp.zeros(1), transforms.rotation, (4, -1))
    with pytest.raises(ValueError, match=r"fill must be a number or one per channel, \[1\]"):
        stn_jax.spatial_transform(image, jnp.zeros(1), transforms.rotation, fill=(1.0, 2.0))


@pytest.mark.parametrize("shape", [(41, 37), (28, 28), (60, 60)])
def test_indices_and_weights_agree_on_whole_positions(shape: tuple[int, int]) -> None:
    """Thetas that send pixels to whole and half pixels: a rounding apart is a pixel apart.

    Compiled for a batch, with its gradients, positions are computed in several kernels.
    """
    h, w = shape
    rng = np.random.default_rng(0)
    quarters = rng.integers(-8, 9, (6, 256)) / 4
    columns = [quarters[0], quarters[1] * h / w, quarters[2] / w]
    columns += [quarters[3] * w / h, quarters[4], quarters[5] / h]
    thetas = np.stack(columns, axis=1)
    images, cotangents = rng.normal(size=(2, 256, h, w, 1))

    @jax.jit
    def sample(images: jax.Array, thetas: jax.Array) -> tuple[jax.Array, jax.Array]:
        def warp(images: jax.Array) -> jax.Array:
            return jax.vmap(lambda i, t: stn_jax.spatial_transform(i, t, transforms.affine))(
                images, thetas
            )

        output, pull_back = jax.vjp(warp, images)
        return output, pull_back(jnp.asarray(cotangents, output.dtype))[0]

    found = sample(jnp.asarray(images, jnp.float32), jnp.asarray(thetas, jnp.float32))
    with jax.enable_x64(True):
        expected = sample(jnp.asarray(images), jnp.asarray(np.float32(thetas), jnp.float64))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)  # a pixel apart is about 1
