"""Exported functions take images of any size: batch, height and width may be symbolic."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import affine_grid, grid_sample, spatial_transform, transforms
from tests.compilation import compile_quickly  # noqa: F401
from tests.options import parametrize_options

pytestmark = pytest.mark.usefixtures("unchecked")

SHAPES = [(2, 3, 4, 2), (3, 6, 5, 2), (1, 1, 2, 2)]  # images, one of them with one row
FAMILIES = [transforms.affine, transforms.projective, transforms.thin_plate_spline((3, 3))]


def check_export(function: Callable[..., Any], trailing: tuple[int, ...]) -> None:
    """Compares an exported function of a batch of images and another array with the function."""
    batch, height, width = jax.export.symbolic_shape("batch, height, width")
    shapes = (batch, height, width, 2), (batch, *trailing)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    exported = jax.export.export(jax.jit(function))(*arguments)
    for shape in SHAPES:
        random = np.random.default_rng(0)
        images = random.normal(size=shape).astype(np.float32)
        others = (0.1 * random.normal(size=(shape[0], *trailing))).astype(np.float32)
        found, expected = exported.call(images, others), jax.jit(function)(images, others)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The values and gradients of a function of one example, for a batch."""

    def run(images: jax.Array, others: jax.Array) -> Any:
        def loss(images: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = jax.vmap(function)(images, others)
            return jnp.sum(output**2), output

        return jax.grad(loss, (0, 1), has_aux=True)(images, others)

    return run


@parametrize_options(
    [
        {"mode": "nearest", "padding_mode": "reflection", "align_corners": False},
        {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False},
        {"mode": "bilinear", "padding_mode": "reflection", "align_corners": True},
        {"mode": "bicubic", "padding_mode": "border", "align_corners": False},
    ]
)
def test_grid_sample(options: dict[str, Any]) -> None:
    check_export(with_gradients(functools.partial(grid_sample, **options)), (3, 3, 2))


@pytest.mark.parametrize(
    ("family", "align_corners"), [(FAMILIES[0], True), (FAMILIES[1], False), (FAMILIES[2], True)]
)
def test_spatial_transform(family: transforms.Transform, align_corners: bool) -> None:
    def warp(image: jax.Array, change: jax.Array) -> jax.Array:
        theta = family.identity + change
        return spatial_transform(image, theta, family, align_corners=align_corners)

    check_export(with_gradients(warp), (family.num_params,))


def test_affine_grid() -> None:
    def grid(image: jax.Array, theta: jax.Array) -> jax.Array:
        return affine_grid(theta, image.shape[:2])

    check_export(jax.vmap(grid), (2, 3))
