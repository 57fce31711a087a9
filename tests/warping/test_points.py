"""`warp_points`: both directions, agreement with warped images, derivatives and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms
from tests.warping.families import PLANAR, both_corners, every_planar, near_identity

RNG = np.random.default_rng(0)
INVERTIBLE_PLANAR = [t for t in PLANAR if t.has_inverse]
INVERTIBLE = [*INVERTIBLE_PLANAR, transforms.affine_3d, transforms.rigid_3d]


@pytest.mark.parametrize("transform", INVERTIBLE, ids=lambda t: t.name)
@both_corners
def test_warping_to_the_other_image_and_back_returns_the_points(
    transform: transforms.Transform, align_corners: bool, x64: None
) -> None:
    input_shape, output_shape = (
        ((9, 14), (6, 11)) if transform.ndim == 2 else ((9, 14, 4), (6, 5, 7))
    )
    points = jnp.asarray(RNG.uniform(0, 10, (3, 5, transform.ndim)))
    theta = near_identity(transform)

    def warp(points: jax.Array, to: str) -> jax.Array:
        return stn_jax.warp_points(
            points,
            theta,
            transform,
            input_shape,
            to=to,
            output_shape=output_shape,
            align_corners=align_corners,
        )

    @jax.jit
    def there_and_back(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        return warp(warp(points, "input"), "output"), warp(warp(points, "output"), "input")

    for returned in there_and_back(points):
        np.testing.assert_allclose(returned, points, atol=1e-9)


@every_planar
@both_corners
def test_points_map_to_the_pixels_that_the_output_reads(
    transform: transforms.Transform, align_corners: bool, x64: None
) -> None:
    """The image holds its own coordinates, so each output pixel shows its source point."""
    output_shape, (rows, columns) = (5, 7), np.mgrid[:40, :30]
    image = jnp.asarray(np.stack([columns, rows], axis=-1), float)
    theta = 0.5 * (transform.identity + near_identity(transform))
    options = {"output_shape": output_shape, "align_corners": align_corners}
    output = stn_jax.spatial_transform(image, theta, transform, padding_mode="border", **options)
    pixels = jnp.asarray(np.stack(np.mgrid[:5, :7][::-1], axis=-1), float)
    sources = np.asarray(
        stn_jax.warp_points(pixels, theta, transform, (40, 30), to="input", **options)
    )
    inside = np.all((sources >= 0) & (sources <= [29, 39]), axis=-1)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(sources[inside], output[inside], atol=1e-9)


@pytest.mark.parametrize("transform", INVERTIBLE_PLANAR, ids=lambda t: t.name)
@both_corners
def test_bright_spot_moves_to_its_warped_point(
    transform: transforms.Transform, align_corners: bool
) -> None:
    spot = jnp.asarray([33.0, 22.0])
    rows, columns = np.mgrid[:50, :60]
    image = np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 20)[..., None]
    theta = near_identity(transform).astype(jnp.float32)
    options = {"output_shape": (80, 70), "align_corners": align_corners}
    output = stn_jax.spatial_transform(image.astype(np.float32), theta, transform, **options)
    weights = np.asarray(output[..., 0]) / output.sum()
    rows, columns = np.mgrid[:80, :70]
    centre = [(weights * columns).sum(), (weights * rows).sum()]
    warped = stn_jax.warp_points(spot, theta, transform, (50, 60), to="output", **options)
    assert np.abs(np.asarray(warped) - np.asarray(spot)).max() > 1
    np.testing.assert_allclose(warped, centre, atol=0.3 if transform.name == "projective" else 0.03)


def test_points_support_vmap_and_both_derivative_modes(x64: None) -> None:
    identity = jnp.asarray(transforms.similarity.identity, float)
    thetas = jnp.stack([near_identity(transforms.similarity), identity])
    point = jnp.asarray([3.0, 4.0])

    def warp(theta: jax.Array) -> jax.Array:
        return stn_jax.warp_points(point, theta, transforms.similarity, (8, 8), to="output")

    @jax.jit
    def results() -> tuple[jax.Array, ...]:
        jacobians = jax.jacfwd(warp)(thetas[0]), jax.jacrev(warp)(thetas[0])
        return jax.vmap(warp)(thetas), jnp.stack([warp(theta) for theta in thetas]), *jacobians

    batched, looped, forward, reverse = results()
    np.testing.assert_allclose(batched, looped, atol=1e-12)
    np.testing.assert_allclose(batched[1], point, atol=1e-12)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    assert np.abs(forward).min() > 0.1


def test_points_are_nan_if_theta_has_no_inverse() -> None:
    for transform in (transforms.affine, transforms.translation_scale, transforms.projective):
        singular = jnp.zeros(transform.num_params)
        warped = stn_jax.warp_points(jnp.zeros((4, 2)), singular, transform, (5, 6), to="output")
        assert np.isnan(warped).all(), transform.name


def test_warp_points_rejects_invalid_arguments(unchecked: None) -> None:
    points, spline = jnp.zeros((4, 2)), transforms.thin_plate_spline()
    with pytest.raises(ValueError, match=r"to must be input for thin_plate_spline, which has no"):
        stn_jax.warp_points(points, spline.identity, spline, (5, 6), to="output")
    with pytest.raises(ValueError, match=r"to must be one of input, output; got 'image'"):
        stn_jax.warp_points(points, spline.identity, spline, (5, 6), to="image")
    with pytest.raises(ValueError, match=r"points of affine must have shape \[..., 2\]"):
        stn_jax.warp_points(points[:, :1], jnp.zeros(6), transforms.affine, (5, 6), to="input")
    with pytest.raises(ValueError, match=r"input_shape must be 2 non-negative integers"):
        stn_jax.warp_points(points, jnp.zeros(6), transforms.affine, (5, 6, 1), to="input")
