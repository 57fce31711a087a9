"""Arrays that JAX does not take as they are: byte orders are converted, other dtypes named."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import contrast, distortions, fields
from stn_jax.transforms import affine

pytestmark = pytest.mark.usefixtures("unchecked")

IMAGE = np.arange(12.0, dtype=np.float32).reshape(3, 4, 1)
GRID, THETA, POINTS = np.zeros((2, 2), np.float32), affine.identity, np.ones((2, 2), np.float32)
MATRIX, BOX = THETA.reshape(2, 3), np.asarray([0, 0, 2, 2], np.float32)
FIELD = np.full((3, 4, 2), 0.5, np.float32)
OPTIONS: dict[str, Any] = {"to": "input"}

# The argument that errors name, a function of it, and a valid value.
CALLS: dict[str, tuple[str, Callable[[Any], jax.Array], np.ndarray]] = {
    "image of grid_sample": ("image", lambda x: stn_jax.grid_sample(x, GRID), IMAGE),
    "grid": ("grid", lambda x: stn_jax.grid_sample(IMAGE, x), GRID),
    "fill": (
        "fill",
        lambda x: stn_jax.spatial_transform(IMAGE, THETA + 1, affine, fill=x),
        np.ones(1, np.float32),
    ),
    "image": ("image", lambda x: stn_jax.spatial_transform(x, THETA, affine), IMAGE),
    "theta": ("theta of affine", lambda x: stn_jax.spatial_transform(IMAGE, x, affine), THETA),
    "straightened image": ("image", lambda x: stn_jax.straighten(x, THETA, affine, (3, 3)), IMAGE),
    "theta of straighten": (
        "theta of affine",
        lambda x: stn_jax.straighten(IMAGE, x, affine, (3, 3)),
        THETA,
    ),
    "theta of a grid": (
        "theta of affine",
        lambda x: stn_jax.transform_grid(x, affine, (2, 2)),
        THETA,
    ),
    "matrix": ("theta", lambda x: stn_jax.affine_grid(x, (2, 2)), MATRIX),
    "points": (
        "points of affine",
        lambda x: stn_jax.warp_points(x, THETA, affine, (3, 4), **OPTIONS),
        POINTS,
    ),
    "image of crop_boxes": ("image", lambda x: stn_jax.crop_boxes(x, BOX, (2, 2)), IMAGE),
    "boxes": ("boxes", lambda x: stn_jax.crop_boxes(IMAGE, x, (2, 2)), BOX),
    "image of warp": ("image", lambda x: fields.warp(x, FIELD), IMAGE),
    "displacement": ("displacement", lambda x: fields.warp(IMAGE, x), FIELD),
    "velocity": ("velocity", fields.exponential, FIELD),
    "folds": ("displacement", fields.folding_fraction, FIELD),
    "target": (
        "points of affine",
        lambda x: stn_jax.spatial_transform(IMAGE, THETA, affine, target=x),
        POINTS,
    ),
    "contrast": ("image", contrast.local_contrast, IMAGE),
    "distortion": ("image", lambda x: distortions.random_rotation(jax.random.key(0), x), IMAGE),
}
every_call = pytest.mark.parametrize(("argument", "call", "value"), CALLS.values(), ids=CALLS)


@every_call
def test_byte_order_is_converted(
    argument: str, call: Callable[[Any], jax.Array], value: np.ndarray
) -> None:
    np.testing.assert_array_equal(call(value.astype(">f4")), call(value))
    np.testing.assert_array_equal(call(value.tolist()), call(value))


@every_call
@pytest.mark.parametrize("dtype", [np.longdouble, object, "U1"])
def test_other_dtypes_are_named(
    argument: str, call: Callable[[Any], jax.Array], value: np.ndarray, dtype: Any
) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be .*; got ") as error:
        call(value.astype(dtype))
    assert len(str(error.value).splitlines()) == 1


def test_integers_are_not_cut_off() -> None:
    """Without x64, JAX has 32-bit integers only."""
    nearest: Any = {"mode": "nearest"}
    labels = np.full((3, 4, 1), 7, np.int64)
    output = stn_jax.spatial_transform(labels, THETA, affine, **nearest)
    assert output.dtype == jnp.int32
    assert (output == 7).all()
    labels[0] = 2**40
    with pytest.raises(ValueError, match="image must be integers that fit in int32; got 7 to 1099"):
        stn_jax.spatial_transform(labels, THETA, affine, **nearest)
