"""Target points: polar and log-polar outputs of rotated and scaled images, and errors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import grid_sample, spatial_transform, targets, transform_grid, transforms
from tests.compilation import compile_quickly  # noqa: F401

AFFINE = transforms.affine
GRIDS = [targets.polar((12, 5)), targets.log_polar((12, 5), min_radius=0.1)]
every_grid = pytest.mark.parametrize("target", GRIDS, ids=["polar", "log_polar"])


@every_grid
@pytest.mark.parametrize("rows", [1, 5])
def test_rotating_by_rows_rolls_the_source_points(target: np.ndarray, rows: int) -> None:
    angle = jnp.asarray([2 * np.pi * rows / len(target)])
    rotated = transform_grid(angle, transforms.rotation, target=target)
    np.testing.assert_allclose(rotated, np.roll(target, -rows, axis=0), atol=1e-6)


@every_grid
@pytest.mark.parametrize("turns", [1, 2])
def test_a_quarter_turn_of_the_image_rolls_the_output_by_a_quarter(
    target: np.ndarray, turns: int
) -> None:
    image = np.random.default_rng(0).normal(size=(9, 9, 2)).astype(np.float32)
    warp = functools.partial(spatial_transform, transform=AFFINE, target=target)
    before = warp(image, AFFINE.identity)
    after = warp(np.rot90(image, -turns), AFFINE.identity)  # clockwise
    np.testing.assert_allclose(after, np.roll(before, turns * 3, axis=0), atol=1e-5)


def test_scaling_by_the_ratio_of_radii_shifts_the_columns_of_log_polar_points() -> None:
    target = targets.log_polar((4, 6), min_radius=0.1)
    ratio = 10 ** (1 / 5)
    scaled = transform_grid(
        jnp.asarray([ratio, 0.0, 0.0]), transforms.translation_scale, target=target
    )
    np.testing.assert_allclose(scaled[:, :-1], target[:, 1:], rtol=1e-5, atol=1e-6)


def test_circles_are_round_in_pixels() -> None:
    points = targets.polar((7, 4), input_shape=(20, 30)) * np.float32([30, 20]) / 2
    expected = np.broadcast_to(np.linspace(0, 10, 4), (7, 4))
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_targets_of_any_rank_are_warped_and_sampled(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image, target = rng.normal(size=(6, 7, 2)), rng.uniform(-1, 1, (*shape, 2))
    image, target = image.astype(np.float32), target.astype(np.float32)
    theta = jnp.asarray([0.9, 0.1, 0.0, -0.2, 1.1, 0.1])
    options = {"align_corners": True, "padding_mode": "border"}
    found = spatial_transform(image, theta, AFFINE, target=target, **options)
    expected = grid_sample(image, AFFINE.warp(theta, target), **options)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (*shape, 2)


def test_target_points_have_a_gradient() -> None:
    image = np.random.default_rng(0).normal(size=(6, 7, 1)).astype(np.float32)

    @jax.grad
    def gradient(target: jax.Array) -> jax.Array:
        return jnp.sum(spatial_transform(image, AFFINE.identity, AFFINE, target=target))

    assert np.abs(gradient(jnp.asarray(GRIDS[0][:, 1:4]))).min() > 1e-4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (functools.partial(targets.polar, (0, 3)), "shape must be positive"),
        (functools.partial(targets.polar, (3,)), "shape must be 2 non-negative integers"),
        (functools.partial(targets.polar, (3, 3), input_shape=(0, 3)), "input_shape must be posi"),
        (functools.partial(targets.polar, (3, 3), max_radius=0.0), "0 <= min_radius < max_radius"),
        (functools.partial(targets.log_polar, (3, 3), min_radius=0.0), "0 < min_radius < max_rad"),
        (
            functools.partial(transform_grid, AFFINE.identity, AFFINE),
            "either output_shape or target must be given; got neither",
        ),
        (
            functools.partial(transform_grid, AFFINE.identity, AFFINE, (3, 3), target=GRIDS[0]),
            "either output_shape or target must be given; got both",
        ),
        (
            functools.partial(
                spatial_transform, np.zeros((3, 3, 1)), AFFINE.identity, AFFINE, target=np.ones(3)
            ),
            r"points of affine must have shape \[..., 2\]",
        ),
    ],
)
def test_invalid_arguments_are_named(call: Callable[[], Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        call()
