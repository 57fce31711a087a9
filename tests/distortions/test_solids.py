"""Extruded images: their projection, rotation and place in a volume."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import distortions, transforms

SHAPE, CANVAS, DEPTH = (8, 10), (14, 13, 12), 4
CUBE = (10, 10, 10)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (*SHAPE, 2)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 400)
OPTIONS = {"canvas": CANVAS, "depth": DEPTH}


def solid(image: jax.Array, depth: int = DEPTH) -> jax.Array:
    """Builds the extruded image as an array."""
    return jnp.broadcast_to(image / depth, (depth, *image.shape))


def drawn_maps(canvas: tuple[int, ...] = CANVAS, **options: float) -> np.ndarray:
    """Draws maps `[n, 3, 4]` from canvas to solid, in pixels (x, y, z) from their centres."""
    draw = functools.partial(distortions.draw_extrusion, canvas=canvas, depth=DEPTH, **options)
    thetas = jax.jit(jax.vmap(lambda key: draw(key, SHAPE)))(KEYS)
    to_solid_px = np.asarray([SHAPE[1], SHAPE[0], DEPTH])[:, None] / 2
    return np.asarray(thetas).reshape(-1, 3, 4) * to_solid_px / [*(n / 2 for n in canvas[::-1]), 1]


def test_projection_of_unrotated_solid_is_the_image() -> None:
    # A canvas of the image's larger side leaves the centre as the only place.
    extrude = functools.partial(
        distortions.random_extrusion, canvas=CUBE, depth=DEPTH, max_angle_rad=0.0
    )
    volume = jax.jit(extrude)(KEYS[0], IMAGE)
    expected = jnp.zeros((*CUBE, 2)).at[3:7, 1:9].set(solid(IMAGE))
    np.testing.assert_allclose(volume, expected, atol=1e-6)
    np.testing.assert_allclose(volume.sum(axis=0)[1:9], IMAGE, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_extruded_equals_trilinear_warp_of_the_solid(depth: int) -> None:
    options = {"canvas": CANVAS, "depth": depth}

    @jax.jit
    @jax.vmap
    def extruded_and_warped(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        theta = distortions.draw_extrusion(key, SHAPE, **options)
        stored = solid(IMAGE, depth)
        return distortions.random_extrusion(key, IMAGE, **options), stn_jax.spatial_transform(
            stored, theta, transforms.affine_3d, output_shape=CANVAS
        )

    found, expected = extruded_and_warped(KEYS[:8])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("axis", "plane"), [(0, (0, 1)), (1, (2, 0)), (2, (1, 2))])
def test_rotation_by_90_degrees_about_an_axis_swaps_the_others(
    axis: int, plane: tuple[int, int]
) -> None:
    # About x, the last axis of the array, depth and height are swapped.
    rotation = jnp.zeros(6).at[axis].set(math.pi / 2)
    cube = jnp.asarray([[5.0, 4.0, 2.0]]).T  # from half a solid to half a cube, in (x, y, z)
    theta = (transforms.rigid_3d.matrix(rotation) * 5 / cube).ravel()
    unrotated = (transforms.rigid_3d.matrix(jnp.zeros(6)) * 5 / cube).ravel()
    extrude = functools.partial(distortions.extrude, IMAGE, canvas=CUBE, depth=DEPTH)
    np.testing.assert_allclose(extrude(theta), np.rot90(extrude(unrotated), axes=plane), atol=1e-5)


def test_rotation_keeps_the_sum_of_the_image() -> None:
    image = jnp.zeros((16, 16, 1)).at[3:13, 5:11].set(jnp.linspace(0.2, 1, 10)[:, None, None])
    make = functools.partial(distortions.random_extrusion, canvas=(24, 24, 24), depth=6)
    volumes = jax.jit(jax.vmap(make, in_axes=(0, None)))(KEYS[:20], image)
    np.testing.assert_allclose(volumes.sum(axis=(1, 2, 3, 4)), image.sum(), rtol=0.02)


def test_rotations_are_rigid_with_uniform_angles_and_axes() -> None:
    linear = drawn_maps(max_angle_rad=1.2)[..., :3]
    products = linear @ linear.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(linear), 1, atol=1e-5)
    cosines = (np.trace(linear, axis1=1, axis2=2) - 1) / 2
    angles = np.arccos(np.clip(cosines, -1, 1))
    assert angles.max() <= 1.2 + 1e-3
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75]), [0.3, 0.6, 0.9], atol=0.1)
    # R - R^T contains the axis times twice the sine of the angle.
    axes = np.stack([(linear - linear.transpose(0, 2, 1))[:, i, j] for i, j in ((2, 1), (0, 2))], 1)
    axes = axes[angles > 0.1] / (2 * np.sin(angles[angles > 0.1]))[:, None]
    np.testing.assert_allclose(axes.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose((axes**2).mean(axis=0), 1 / 3, atol=0.06)


def test_solid_stays_on_the_canvas_and_reaches_its_edges() -> None:
    maps = drawn_maps(max_angle_rad=math.pi)
    # The solid's centre is at the canvas point that the map sends to 0.
    centres = np.linalg.solve(maps[..., :3], -maps[..., 3:])[..., 0]
    room = (np.asarray(CANVAS[::-1]) - SHAPE[1]) / 2
    assert (np.abs(centres) <= room + 1e-4).all()
    assert (np.abs(centres).max(axis=0) > 0.95 * room).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_has_the_dtype_of_the_image_and_the_canvas_shape(dtype: jnp.dtype) -> None:
    found = jax.eval_shape(
        functools.partial(distortions.random_extrusion, **OPTIONS), KEYS[0], IMAGE.astype(dtype)
    )
    assert (found.dtype, found.shape) == (dtype, (*CANVAS, 2))


def test_angle_may_be_traced(unchecked: None) -> None:
    draw = jax.jit(lambda angle: distortions.draw_extrusion(KEYS[0], SHAPE, max_angle_rad=angle))
    np.testing.assert_allclose(
        draw(0.5), distortions.draw_extrusion(KEYS[0], SHAPE, max_angle_rad=0.5), atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_angle_rad": -0.1}, "max_angle_rad must be finite and at least 0; got -0.1"),
        ({"canvas": 32}, "canvas must be 3 non-negative integers; got 32"),
        ({"canvas": (32, 32)}, "canvas must be 3 non-negative integers"),
        ({"canvas": (9, 20, 20)}, r"canvas must be at least 10 on each axis; got \[9, 20, 20\]"),
        ({"depth": 40}, r"canvas must be at least 40 on each axis; got \[32, 32, 32\]"),
        ({"depth": 0}, "depth must be positive; got 0"),
        ({"depth": 1.5}, r"depth must be 1 non-negative integers; got \(1.5,\)"),
    ],
)
def test_invalid_option_raises(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        distortions.random_extrusion(KEYS[0], IMAGE, **options)
    with pytest.raises(ValueError, match=message):
        distortions.draw_extrusion(KEYS[0], SHAPE, **options)


def test_invalid_image_shape_raises(unchecked: None) -> None:
    for shape in [SHAPE, (1, *SHAPE, 1)]:
        with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\] \(one example"):
            distortions.random_extrusion(KEYS[0], jnp.ones(shape))
        with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\] \(one example"):
            distortions.extrude(jnp.ones(shape), transforms.affine_3d.identity)
