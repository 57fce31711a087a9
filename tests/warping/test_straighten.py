"""`straighten`: agreement with `spatial_transform`, memory, compilation and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms
from stn_jax.coordinates import computed_target_points, target_points
from stn_jax.warping.straighten import _warp_points_by_rows
from tests.warping.families import both_corners, every_planar, near_identity

RNG = np.random.default_rng(0)


@every_planar
@both_corners
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_straighten_at_the_same_resolution_equals_spatial_transform(
    transform: transforms.Transform, align_corners: bool, padding_mode: str, x64: None
) -> None:
    image, theta = jnp.asarray(RNG.normal(size=(8, 7, 2))), near_identity(transform)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    shape = (5, 9)
    np.testing.assert_allclose(
        stn_jax.straighten(image, theta, transform, (8, 7), network_output_shape=shape, **options),
        stn_jax.spatial_transform(image, theta, transform, output_shape=shape, **options),
        atol=1e-12,
    )


@both_corners
def test_straighten_shows_the_same_region_at_higher_resolution(
    align_corners: bool, x64: None
) -> None:
    """The image holds its own coordinates in units of its size, which resizing does not change."""

    def coordinate_image(height: int, width: int) -> jax.Array:
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)
        return jnp.asarray(pixels)

    theta = jnp.asarray([0.5, 0.2, 0.1, -0.1, 0.4, 0.05])
    shape, corners = (6, 8), {"align_corners": align_corners}
    small_image, large_image = coordinate_image(12, 12), coordinate_image(60, 36)
    small = stn_jax.spatial_transform(
        small_image, theta, transforms.affine, output_shape=shape, **corners
    )
    large = stn_jax.straighten(
        large_image, theta, transforms.affine, (12, 12), network_output_shape=shape, **corners
    )
    assert large.shape == (30, 24, 2)
    np.testing.assert_allclose(large[2::5, 1::3], small, atol=1e-12)


def test_straightening_a_photograph_by_a_spline_needs_little_memory() -> None:
    """Warping all pixels at once would take 36 floats per pixel for the control points."""
    spline, image = (
        transforms.thin_plate_spline(),
        jax.ShapeDtypeStruct((1000, 1500, 3), jnp.float32),
    )
    theta = jax.ShapeDtypeStruct((spline.num_params,), jnp.float32)
    program = jax.jit(lambda image, theta: stn_jax.straighten(image, theta, spline, (28, 28)))
    floats = program.lower(image, theta).compile().memory_analysis().temp_size_in_bytes / 4
    assert floats < 12 * image.shape[0] * image.shape[1]


def test_straightening_by_a_spline_compiles_once() -> None:
    image, spline = jnp.ones((40, 30, 1)), transforms.thin_plate_spline()
    stn_jax.straighten(image, jnp.zeros(spline.num_params), spline, (28, 28))
    compiled = _warp_points_by_rows._cache_size()
    stn_jax.straighten(image, jnp.ones(spline.num_params), spline, (28, 28))
    assert _warp_points_by_rows._cache_size() == compiled > 0


def test_program_size_does_not_grow_with_the_image() -> None:
    def program_length(side: int) -> int:
        straighten = jax.jit(stn_jax.straighten, static_argnums=(2, 3))
        image, theta = jnp.zeros((side, side, 1)), transforms.affine.identity
        return len(straighten.lower(image, theta, transforms.affine, (12, 12)).as_text())

    assert program_length(256) < 1.1 * program_length(16)


@pytest.mark.parametrize("shape", [(1, 2), (7, 1000), (3, 4, 5)])
def test_computed_target_points_equal_the_constant_ones(shape: tuple[int, ...]) -> None:
    constant = target_points(shape, align_corners=False)
    computed = computed_target_points(shape, np.dtype(np.float32))
    np.testing.assert_allclose(computed, constant, rtol=2e-7, atol=1e-12)  # two rounding errors


def test_straighten_rejects_empty_input_shape() -> None:
    with pytest.raises(ValueError, match=r"network_input_shape must be positive; got \(0, 4\)"):
        stn_jax.straighten(jnp.ones((4, 4, 1)), jnp.zeros(2), transforms.translation, (0, 4))


def test_straighten_rejects_wrong_shapes(unchecked: None) -> None:
    image, theta = jnp.ones((4, 5, 1)), jnp.asarray(transforms.affine.identity)
    with pytest.raises(ValueError, match=r"network_input_shape must be 2 non-negative integers"):
        stn_jax.straighten(image, theta, transforms.affine, (4,))
    with pytest.raises(ValueError, match=r"image for affine must have shape \[h, w, c\]"):
        stn_jax.straighten(image[0], theta, transforms.affine, (4, 4))
