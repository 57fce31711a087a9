"""Wrong arguments: a ValueError that names the argument, what was given and what is allowed."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import stn_jax
from tests import oracles

pytestmark = pytest.mark.usefixtures("unchecked")

IMAGE, GRID = jnp.ones((3, 4, 2)), jnp.zeros((5, 6, 2))
AFFINE = stn_jax.transforms.affine


def message(error: Any) -> str:
    return str(error.value)


def says_shape(error: Any, shape: tuple[int, ...]) -> bool:
    """Whether the message holds the shape, as a tuple or as a list."""
    return str(shape) in message(error) or str(list(shape)) in message(error)


@pytest.mark.parametrize("bad", ["linear", "cubic", "Bilinear", "", None, 1])
@pytest.mark.parametrize("argument", ["mode", "padding_mode"])
@pytest.mark.parametrize("call", ["grid_sample", "spatial_transform"])
def test_unknown_option(call: str, argument: str, bad: Any) -> None:
    arguments = {
        "grid_sample": (IMAGE, GRID),
        "spatial_transform": (IMAGE, jnp.asarray(AFFINE.identity), AFFINE),
    }[call]
    with pytest.raises(ValueError, match=argument) as error:
        getattr(stn_jax, call)(*arguments, **{argument: bad})
    allowed = oracles.MODES if argument == "mode" else oracles.PADDING_MODES
    for expected in (repr(bad), *allowed):
        assert expected in message(error)


def test_unhashable_option() -> None:
    with pytest.raises((ValueError, TypeError)):
        stn_jax.grid_sample(IMAGE, GRID, mode=["bilinear"])


@pytest.mark.parametrize("call", [stn_jax.grid_sample, jax.jit(stn_jax.grid_sample)])
@pytest.mark.parametrize(
    ("image_shape", "grid_shape", "argument"),
    [
        ((3, 4, 2), (5, 6, 3), "grid"),
        ((3, 4, 2), (5, 6, 1), "grid"),
        ((2, 3, 4, 2), (5, 6, 2), "grid"),
        ((3, 4, 2), (), "grid"),
        ((3,), (5, 1), "image"),
        ((), (5, 2), "image"),
        ((2, 2, 2, 2, 2, 1), (5, 5), "image"),
        ((0, 4, 2), (5, 2), "image"),
        ((3, 0, 2), (5, 2), "image"),
        ((3, 4, 0, 2), (5, 3), "image"),
        ((3, 0, 2), (0, 2), "image"),
    ],
)
def test_shapes(
    call: Any, image_shape: tuple[int, ...], grid_shape: tuple[int, ...], argument: str
) -> None:
    with pytest.raises(ValueError, match=argument) as error:
        call(jnp.ones(image_shape), jnp.zeros(grid_shape))
    assert says_shape(error, image_shape if argument == "image" else grid_shape)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integer_image_needs_nearest(mode: str, dtype: str) -> None:
    with pytest.raises(ValueError, match="image") as error:
        stn_jax.grid_sample(jnp.ones((3, 4, 2), dtype), GRID, mode=mode)
    for expected in (dtype, "nearest"):
        assert expected in message(error)
    theta = jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match="image"):
        stn_jax.spatial_transform(jnp.ones((3, 4, 2), dtype), theta, AFFINE, mode=mode)


@pytest.mark.parametrize(
    "theta",
    [jnp.ones(6, jnp.int32), jnp.ones(5), jnp.ones(7), jnp.ones((2, 3)), jnp.ones(())],
    ids=lambda theta: f"{theta.dtype}{list(theta.shape)}",
)
def test_theta(theta: jax.Array) -> None:
    with pytest.raises(ValueError, match="theta") as error:
        stn_jax.spatial_transform(IMAGE, theta, AFFINE)
    if theta.dtype == jnp.int32:
        assert "int32" in message(error)
    else:
        assert says_shape(error, theta.shape)


@pytest.mark.parametrize("output_shape", [(5,), (5, 6, 7), (-1, 4), ()])
def test_output_shape(output_shape: tuple[int, ...]) -> None:
    theta = jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match="output_shape") as error:
        stn_jax.spatial_transform(IMAGE, theta, AFFINE, output_shape=output_shape)
    assert says_shape(error, output_shape)


def test_image_and_transform_disagree() -> None:
    """A volume under a plane's transform, and the other way round."""
    theta = jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match=r"image|transform"):
        stn_jax.spatial_transform(jnp.ones((2, 3, 4, 1)), theta, AFFINE)
    affine_3d = stn_jax.transforms.affine_3d
    with pytest.raises(ValueError, match=r"image|transform"):
        stn_jax.spatial_transform(IMAGE, jnp.asarray(affine_3d.identity), affine_3d)


def test_empty_image_through_spatial_transform() -> None:
    with pytest.raises(ValueError, match="image"):
        stn_jax.spatial_transform(jnp.ones((0, 4, 1)), jnp.asarray(AFFINE.identity), AFFINE)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        stn_jax.grid_sample(IMAGE, GRID, "bilinear")  # type: ignore[misc]
