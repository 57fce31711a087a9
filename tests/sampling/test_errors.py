"""Invalid arguments raise a ValueError that names the argument, what is allowed and the value."""

import functools
import re
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


def mentions_shape(error: Any, shape: tuple[int, ...]) -> bool:
    """Whether the message contains the shape, as a tuple or as a list."""
    return str(shape) in message(error) or str(list(shape)) in message(error)


@pytest.mark.parametrize("bad", ["linear", "cubic", "Bilinear", "", None, 1])
@pytest.mark.parametrize("argument", ["mode", "padding_mode"])
@pytest.mark.parametrize("call", ["grid_sample", "spatial_transform"])
def test_unknown_options_are_rejected(call: str, argument: str, bad: Any) -> None:
    arguments = {
        "grid_sample": (IMAGE, GRID),
        "spatial_transform": (IMAGE, jnp.asarray(AFFINE.identity), AFFINE),
    }[call]
    with pytest.raises(ValueError, match=argument) as error:
        getattr(stn_jax, call)(*arguments, **{argument: bad})
    allowed = oracles.MODES if argument == "mode" else oracles.PADDING_MODES
    for expected in (repr(bad), *allowed):
        assert expected in message(error)


def test_unhashable_mode_is_rejected() -> None:
    with pytest.raises((ValueError, TypeError)):
        stn_jax.grid_sample(IMAGE, GRID, mode=["bilinear"])


@pytest.mark.parametrize("argument", ["mode", "padding_mode", "align_corners", "fill"])
def test_arrays_are_printed_on_one_short_line(argument: str) -> None:
    with pytest.raises(ValueError, match=argument) as error:
        stn_jax.grid_sample(IMAGE, GRID, **{argument: jnp.ones((30, 30))})
    assert len(message(error).splitlines()) == 1
    assert len(message(error)) < 300


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
def test_wrong_shapes_are_rejected(
    call: Any, image_shape: tuple[int, ...], grid_shape: tuple[int, ...], argument: str
) -> None:
    with pytest.raises(ValueError, match=argument) as error:
        call(jnp.ones(image_shape), jnp.zeros(grid_shape))
    assert mentions_shape(error, image_shape if argument == "image" else grid_shape)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integer_images_need_nearest(mode: str, dtype: str) -> None:
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
def test_invalid_theta_is_rejected(theta: jax.Array) -> None:
    with pytest.raises(ValueError, match="theta") as error:
        stn_jax.spatial_transform(IMAGE, theta, AFFINE)
    if theta.dtype == jnp.int32:
        assert "int32" in message(error)
    else:
        assert mentions_shape(error, theta.shape)


@pytest.mark.parametrize("output_shape", [(5,), (5, 6, 7), (-1, 4), ()])
def test_invalid_output_shape_is_rejected(output_shape: tuple[int, ...]) -> None:
    theta = jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match="output_shape") as error:
        stn_jax.spatial_transform(IMAGE, theta, AFFINE, output_shape=output_shape)
    assert mentions_shape(error, output_shape)


def test_volumes_need_3d_transforms_and_images_2d_ones() -> None:
    theta = jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match=r"image|transform"):
        stn_jax.spatial_transform(jnp.ones((2, 3, 4, 1)), theta, AFFINE)
    affine_3d = stn_jax.transforms.affine_3d
    with pytest.raises(ValueError, match=r"image|transform"):
        stn_jax.spatial_transform(IMAGE, jnp.asarray(affine_3d.identity), affine_3d)


def test_spatial_transform_rejects_an_empty_image() -> None:
    with pytest.raises(ValueError, match="image"):
        stn_jax.spatial_transform(jnp.ones((0, 4, 1)), jnp.asarray(AFFINE.identity), AFFINE)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        stn_jax.grid_sample(IMAGE, GRID, "bilinear")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        ("a", "float32"),
        (None, "float32"),
        (1j, "float32"),
        ([1.0, [2.0]], "float32"),
        ([1.0] * 3, "float32"),
        (-1, "uint8"),
        (300, "uint8"),
        (0.5, "uint8"),
        (float("nan"), "int32"),
        (2, "bool"),
        ((0, 256), "uint8"),
    ],
)
def test_invalid_fill_is_rejected(fill: Any, dtype: str) -> None:
    image, theta = jnp.ones((3, 4, 2), dtype), jnp.asarray(AFFINE.identity)
    with pytest.raises(ValueError, match="fill must be ") as error:
        stn_jax.grid_sample(image, GRID, mode="nearest", fill=fill)
    assert repr(fill) in message(error)
    with pytest.raises(ValueError, match="fill must be "):
        stn_jax.spatial_transform(image, theta, AFFINE, mode="nearest", fill=fill)


@pytest.mark.parametrize(
    ("fill", "dtype"), [(255, "uint8"), (7.0, "uint8"), (True, "bool"), (1, "bool"), (-9, "int8")]
)
def test_fill_representable_in_the_dtype_is_accepted(fill: Any, dtype: str) -> None:
    outside = GRID + 9
    output = stn_jax.grid_sample(jnp.ones((3, 4, 2), dtype), outside, mode="nearest", fill=fill)
    assert output.dtype == dtype
    assert (output == fill).all()


def test_fill_may_be_traced() -> None:
    def total(fill: jax.Array) -> jax.Array:
        return jnp.sum(stn_jax.grid_sample(IMAGE, GRID + 9, fill=[fill, 2.0]))

    assert jax.jit(jax.grad(total))(1.0) == 30


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_need_nearest(dtype: str) -> None:
    image = jnp.ones((3, 4, 2), dtype)
    with pytest.raises(ValueError, match=r"image must be of a floating dtype for mode .*; got f"):
        stn_jax.grid_sample(image, GRID)
    assert (stn_jax.grid_sample(image, GRID, mode="nearest") == 1).all()
    with pytest.raises(ValueError, match=f"grid must be of a floating dtype; got {dtype}, which"):
        stn_jax.grid_sample(IMAGE, GRID.astype(dtype))
    with pytest.raises(ValueError, match="theta of affine must be of a floating dtype"):
        stn_jax.spatial_transform(IMAGE, jnp.asarray(AFFINE.identity).astype(dtype), AFFINE)


@pytest.mark.parametrize("bad", [1, 0, "False", None, jnp.asarray(True)], ids=repr)
def test_align_corners_must_be_a_bool(bad: Any) -> None:
    theta = jnp.asarray(AFFINE.identity)
    for call in (
        lambda: stn_jax.grid_sample(IMAGE, GRID, align_corners=bad),
        lambda: stn_jax.affine_grid(theta.reshape(2, 3), (3, 4), align_corners=bad),
        lambda: stn_jax.transform_grid(theta, AFFINE, (3, 4), align_corners=bad),
        lambda: stn_jax.spatial_transform(IMAGE, theta, AFFINE, align_corners=bad),
    ):
        with pytest.raises(ValueError, match="align_corners must be True or False; got"):
            call()


@pytest.mark.parametrize("bad", ["affine", None, stn_jax.transforms.thin_plate_spline])
def test_transform_must_be_a_transform(bad: Any) -> None:
    theta = jnp.asarray(AFFINE.identity)
    for call in (
        lambda: stn_jax.spatial_transform(IMAGE, theta, bad),
        lambda: stn_jax.transform_grid(theta, bad, (3, 4)),
    ):
        with pytest.raises(ValueError, match="transform must be") as error:
            call()
        assert message(error) == (
            "transform must be one of stn_jax.transforms, or made by calling thin_plate_spline; "
            f"got {bad!r}"
        )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2**24 + 1, 2, 1), "at most 16777216 pixels"),
        ((50_000, 50_000, 1), "fewer than 2^31"),
        ((1, 1, 2**26), "8 more pixels on each axis"),
    ],
)
def test_images_whose_pixels_cannot_be_addressed_are_rejected(
    shape: tuple[int, ...], expected: str
) -> None:
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)
    sample = functools.partial(stn_jax.grid_sample, mode="nearest")
    with pytest.raises(ValueError, match=re.escape(expected)):
        jax.eval_shape(sample, image, GRID)
    warp = functools.partial(stn_jax.spatial_transform, transform=AFFINE, mode="nearest")
    with pytest.raises(ValueError, match=re.escape(expected)):
        jax.eval_shape(warp, image, jnp.ones(6))


def test_float64_coordinates_address_long_axes() -> None:
    with jax.enable_x64(True):
        image = jax.ShapeDtypeStruct((2**24 + 1, 2, 1), jnp.float32)
        grid = jax.ShapeDtypeStruct((3, 2), jnp.float64)
        assert jax.eval_shape(stn_jax.grid_sample, image, grid).shape == (3, 1)
