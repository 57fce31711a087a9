"""Oversampling and antialiasing: exactness, constants, quality, derivatives and errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from stn_jax import grid_sample, spatial_transform, transforms
from tests.warping.families import both_corners

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(13, 10, 2)).astype(np.float32)
AFFINE, TRANSLATION = transforms.affine, transforms.translation
FAMILIES = [AFFINE, transforms.projective, transforms.thin_plate_spline((2, 3))]
every_family = pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: t.name)
every_kind = pytest.mark.parametrize("antialias", ["mipmap", "anisotropic"])
# No direction is reduced, on a square image.
ROTATED = [np.cos(0.4), -np.sin(0.4), 0.1, np.sin(0.4), np.cos(0.4), -0.2]
ENLARGED = [0.5, 0.1, 0.1, 0.0, 0.2, 0.3]


@every_family
@every_kind
def test_identity_is_exact(transform: Any, antialias: Any) -> None:
    image = jnp.asarray(IMAGE, jnp.bfloat16)
    options = {"antialias": antialias, "align_corners": transform is AFFINE}
    warped = spatial_transform(image, transform.identity, transform, **options)
    np.testing.assert_array_equal(warped, image, strict=True)


@every_kind
@pytest.mark.parametrize("theta", [ROTATED, ENLARGED], ids=["rotated", "enlarged"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_warps_that_reduce_nothing_are_sampled_plainly(
    antialias: Any, theta: list[float], mode: Any
) -> None:
    image, theta = IMAGE[:10].copy(), jnp.asarray(theta, jnp.float32)
    image[3, 4] = np.inf  # a level that is not used must not spread it
    plain = spatial_transform(image, theta, AFFINE, mode=mode)
    found = spatial_transform(image, theta, AFFINE, mode=mode, antialias=antialias)
    np.testing.assert_array_equal(found, plain)


@every_kind
@pytest.mark.parametrize("oversample", [1, 3])
def test_constant_images_stay_constant(antialias: Any, oversample: int) -> None:
    theta = jnp.asarray([1.3, 0.2, 0.1, -0.3, 0.9, 0.2])
    options = {"padding_mode": "border", "antialias": antialias, "oversample": oversample}
    found = spatial_transform(
        np.full_like(IMAGE, 0.7), theta, AFFINE, output_shape=(3, 2), **options
    )
    np.testing.assert_allclose(found, np.full_like(found, 0.7), rtol=1e-6)


@every_family
@both_corners
def test_oversampling_is_the_mean_of_samples_inside_each_target_pixel(
    transform: Any, align_corners: bool, x64: None
) -> None:
    theta = jnp.asarray(transform.identity + 0.1 * RNG.normal(size=transform.num_params))
    image, shape, k = jnp.asarray(IMAGE, float), (3, 4), 3
    halves = [(size - 1) / 2 if align_corners else size / 2 for size in shape]
    offsets = (np.arange(k) + 0.5) / k - 0.5
    rows, columns = (
        ((np.arange(size)[:, None] + offsets - (size - 1) / 2) / half).ravel()
        for size, half in zip(shape, halves, strict=True)
    )
    points = jnp.asarray(np.stack(np.meshgrid(columns, rows), axis=-1))
    grid = transform.warp(theta, points)
    dense = grid_sample(image, grid, align_corners=align_corners)
    expected = dense.reshape(3, k, 4, k, 2).mean(axis=(1, 3))
    options = {"output_shape": shape, "align_corners": align_corners}
    found = spatial_transform(image, theta, transform, oversample=k, **options)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_volumes_are_oversampled() -> None:
    volume = RNG.normal(size=(4, 6, 8, 1)).astype(np.float32)
    theta = transforms.affine_3d.identity
    found = spatial_transform(
        volume, theta, transforms.affine_3d, output_shape=(2, 3, 4), oversample=2
    )
    expected = volume.reshape(2, 2, 3, 2, 4, 2, 1).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def area_weights(size: int, output_size: int) -> np.ndarray:
    """The overlap of each output pixel with each input pixel, as fractions."""
    edges = np.linspace(0, size, output_size + 1)[:, None]
    index = np.arange(size)[None]
    overlap = np.minimum(edges[1:], index + 1) - np.maximum(edges[:-1], index)
    return np.clip(overlap, 0, None) * output_size / size


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"oversample": 4}, 0.02),
        ({"antialias": "mipmap", "oversample": 2}, 0.02),
        ({"antialias": "anisotropic", "oversample": 2}, 0.01),
    ],
    ids=str,
)
def test_a_photo_is_reduced_like_by_area(options: dict[str, Any], limit: float) -> None:
    photo = np.float32(load_sample_image("china.jpg")) / 255
    rows, columns = (area_weights(size, 28) for size in photo.shape[:2])
    area = np.einsum("yh,xw,hwc->yxc", rows, columns, photo)
    warp = functools.partial(
        spatial_transform, photo, AFFINE.identity, AFFINE, output_shape=(28, 28)
    )

    def error(output: jax.Array) -> float:
        return float(np.sqrt(np.mean((output - area) ** 2)))

    assert error(warp(padding_mode="border", **options)) < limit
    assert error(warp()) > 0.09


def test_anisotropic_samples_keep_detail_along_the_axis_that_is_not_reduced() -> None:
    """Each row is constant, and only the columns are reduced."""
    image = np.repeat(RNG.normal(size=(16, 1, 1)).astype(np.float32), 128, axis=1)
    warp = functools.partial(spatial_transform, image, AFFINE.identity, AFFINE)
    options = {"output_shape": (16, 16), "padding_mode": "border"}
    blurred = warp(antialias="mipmap", **options)
    sharp = warp(antialias="anisotropic", **options)
    np.testing.assert_allclose(sharp, image[:, :16], atol=1e-5)
    assert np.abs(blurred - image[:, :16]).max() > 0.5


@every_kind
def test_gradients_agree_with_difference_quotients(antialias: Any, x64: None) -> None:
    """The footprint of a translation does not depend on theta."""
    image, step = jnp.asarray(IMAGE, float), 1e-6

    @jax.jit
    def warp(theta: jax.Array) -> jax.Array:
        return spatial_transform(
            image, theta, TRANSLATION, output_shape=(4, 5), antialias=antialias
        )

    theta = jnp.asarray([0.123, -0.234])
    forward, reverse = jax.jacfwd(warp)(theta), jax.jacrev(warp)(theta)
    quotients = [(warp(theta + d) - warp(theta - d)) / (2 * step) for d in step * np.eye(2)]
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    np.testing.assert_allclose(forward, np.stack(quotients, axis=-1), atol=1e-7)


@every_kind
def test_the_footprint_has_no_gradient(antialias: Any) -> None:
    """Scaling about the centre of a target pixel changes its footprint but not its point."""
    scale = transforms.translation_scale
    gradient = jax.grad(
        lambda theta: jnp.sum(
            spatial_transform(IMAGE, theta, scale, output_shape=(1, 1), antialias=antialias)
        )
    )(jnp.asarray([0.6, 0.0, 0.0]))
    assert gradient[0] == 0
    assert np.abs(gradient[1:]).min() > 0


@every_kind
def test_extreme_thetas_give_finite_values(antialias: Any) -> None:
    warp = jax.jit(lambda theta: spatial_transform(IMAGE, theta, AFFINE, antialias=antialias))
    for value in (np.nan, np.inf, 1e30):
        assert np.isfinite(warp(jnp.full(6, value, jnp.float32))).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"oversample": 0}, "oversample must be a whole number of at least 1; got 0"),
        ({"oversample": 1.5}, "oversample must be a whole number of at least 1; got 1.5"),
        ({"antialias": "area"}, "antialias must be one of none, mipmap, anisotropic; got 'area'"),
        ({"antialias": "mipmap", "mode": "nearest"}, "antialias must be none with mode nearest"),
        ({"oversample": 2, "target": np.zeros((3, 2), "f4")}, "oversample must be 1 and antialias"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        spatial_transform(IMAGE, AFFINE.identity, AFFINE, **options)


@pytest.mark.usefixtures("unchecked")
def test_images_that_cannot_be_averaged_are_rejected() -> None:
    labels, volumetric = IMAGE.astype(np.int32), transforms.affine_3d
    with pytest.raises(ValueError, match="image with oversample or antialias must be of a float"):
        spatial_transform(labels, AFFINE.identity, AFFINE, mode="nearest", oversample=2)
    with pytest.raises(ValueError, match="antialias must be none with volumes"):
        spatial_transform(IMAGE[None], volumetric.identity, volumetric, antialias="mipmap")
