"""On Explicit axes, the result of one sharded example is sharded like its image or points."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stn_jax import affine_grid, grid_sample, spatial_transform, transforms, warp_points

ROWS, CHANNELS, REPLICATED = PartitionSpec("x"), PartitionSpec(None, None, "x"), PartitionSpec()
AFFINE = transforms.affine


def warp(image: jax.Array, theta: jax.Array, **options: Any) -> jax.Array:
    return spatial_transform(image, theta, AFFINE, **options)


def warp_pixels(points: jax.Array, theta: jax.Array) -> jax.Array:
    return warp_points(points, theta, AFFINE, (4, 6), to="output")


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (warp, {(4, 6, 2): ROWS, (6,): REPLICATED}, ("x", None, None)),
        (warp, {(4, 6, 2): CHANNELS, (6,): REPLICATED}, (None, None, "x")),
        # The sizes of the output need not be divisible by the number of devices.
        (
            functools.partial(warp, output_shape=(3, 3)),
            {(4, 6, 2): ROWS, (6,): REPLICATED},
            (None, None, None),
        ),
        (grid_sample, {(4, 6, 2): ROWS, (5, 2): REPLICATED}, (None, None)),
        (grid_sample, {(4, 6, 2): CHANNELS, (5, 2): REPLICATED}, (None, "x")),
        (grid_sample, {(4, 6, 2): CHANNELS, (8, 2): ROWS}, ("x", None)),
        (warp_pixels, {(8, 2): ROWS, (6,): REPLICATED}, ("x", None)),
        (lambda points, theta: AFFINE.warp(theta, points), {(8, 2): ROWS, (6,): ROWS}, ("x", None)),
        (lambda theta: AFFINE.compose(theta, theta), {(6,): ROWS}, (None,)),
        (lambda theta: affine_grid(theta, (4, 6)), {(2, 3): ROWS}, (None, None, None)),
    ],
)
def test_results_are_sharded_like_the_arguments(
    function: Callable[..., jax.Array],
    arguments: dict[tuple[int, ...], PartitionSpec],
    expected: tuple[str | None, ...],
) -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    given = [
        jax.device_put(jnp.zeros(shape), NamedSharding(mesh, spec))
        for shape, spec in arguments.items()
    ]
    with jax.set_mesh(mesh):
        result, vjp = jax.eval_shape(lambda *given: jax.vjp(function, *given), *given)
        gradients = jax.eval_shape(lambda vjp, result: vjp(result), vjp, result)
    assert tuple(result.sharding.spec) == expected
    for gradient, argument in zip(gradients, given, strict=True):
        assert gradient.sharding.spec == jax.typeof(argument).sharding.spec
