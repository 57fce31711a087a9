"""Laws of all distortions: purity, shapes, dtypes, traced options and errors."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions
from tests.distortions.inputs import BLOB, KEYS, OTHERS, SHAPE

OUTPUT_SHAPES = {
    "rotation": SHAPE,
    "similarity": (42, 42),
    "perspective": SHAPE,
    "elastic": SHAPE,
    "translation": (84, 84),
}


@pytest.mark.parametrize("name", OUTPUT_SHAPES)
def test_distortion_is_pure_and_can_be_vmapped(name: str) -> None:
    distort = getattr(distortions, f"random_{name}")
    batch = jax.jit(jax.vmap(distort, in_axes=(0, None)))(KEYS[:4], BLOB)
    assert batch.shape == (4, *OUTPUT_SHAPES[name], 1)
    np.testing.assert_allclose(batch[1], jax.jit(distort)(KEYS[1], BLOB), atol=1e-5)
    assert not np.array_equal(batch[0], batch[1])
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 1 + 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_has_the_dtype_of_the_image(dtype: jnp.dtype) -> None:
    image = BLOB.astype(dtype)
    for name in OUTPUT_SHAPES:
        assert jax.eval_shape(getattr(distortions, f"random_{name}"), KEYS[0], image).dtype == dtype
    assert jax.eval_shape(distortions.random_clutter, KEYS[0], image, OTHERS).dtype == dtype


def test_strengths_may_be_traced(unchecked: None) -> None:
    @jax.jit
    def distort(strength: jax.Array) -> tuple[jax.Array, ...]:
        return (
            distortions.random_rotation(KEYS[0], BLOB, max_angle_rad=strength),
            distortions.random_perspective(KEYS[0], BLOB, scale=(strength, 1.0), sigma_px=strength),
            distortions.random_jitter(KEYS[0], BLOB, max_scale=1 + strength, sigma_px=strength),
        )

    assert all(np.isfinite(each).all() for each in distort(0.5))
    scales = jnp.asarray([1.0, 1.5])
    draw = functools.partial(distortions.draw_jitter, KEYS[0], SHAPE)
    thetas = jax.vmap(lambda scale: draw(max_scale=scale))(scales)
    for theta, scale in zip(thetas, (1.0, 1.5), strict=True):
        np.testing.assert_allclose(theta, draw(max_scale=scale), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *(
            (
                name,
                {"max_angle_rad": each},
                f"max_angle_rad must be finite and at least 0; got {shown}",
            )
            for name, each, shown in (
                ("rotation", -0.1, "-0.1"),
                ("similarity", math.nan, "nan"),
                ("similarity", "1", "'1'"),
            )
        ),
        ("perspective", {"sigma_px": -1.0}, "sigma_px must be finite and at least 0; got -1.0"),
        ("elastic", {"sigma_px": math.inf}, "sigma_px must be finite and at least 0; got inf"),
        *(
            ("jitter", {"max_scale": each}, f"max_scale must be finite and at least 1; got {each}")
            for each in (-1.0, 0, math.inf)
        ),
        ("jitter", {"max_scale": 0.9}, "max_scale must be finite and at least 1; got 0.9"),
        ("jitter", {"max_scale": float("nan")}, "max_scale must be finite and at least 1; got nan"),
        ("jitter", {"max_shift_px": -1.0}, "max_shift_px must be finite and at least 0; got -1.0"),
        *(
            (name, {"scale": scale}, "scale must be two finite numbers, 0 < low <= high")
            for name in ("similarity", "perspective", "elastic")
            for scale in ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (1.0, math.nan), (1.0,), 1.0, "ab")
        ),
        *(
            (name, {"canvas": canvas}, message)
            for name in ("similarity", "translation", "clutter")
            for canvas, message in (
                (42, "canvas must be 2 non-negative integers; got 42"),
                ((28, 27), r"canvas must be at least the image's \[28, 28\]; got \[28, 27\]"),
            )
        ),
    ],
)
def test_invalid_option_raises(
    name: str, options: dict[str, Any], message: str, unchecked: None
) -> None:
    others = (OTHERS,) if name == "clutter" else ()
    with pytest.raises(ValueError, match=message):
        getattr(distortions, f"random_{name}")(KEYS[0], BLOB, *others, **options)
    if name != "clutter":
        with pytest.raises(ValueError, match=message):
            getattr(distortions, f"draw_{name}")(KEYS[0], SHAPE, **options)


@pytest.mark.parametrize("name", [*OUTPUT_SHAPES, "clutter"])
@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE, 1), ()])
def test_invalid_image_shape_raises(name: str, shape: tuple[int, ...], unchecked: None) -> None:
    others = (OTHERS,) if name == "clutter" else ()
    with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\] \(one .*vmap"):
        getattr(distortions, f"random_{name}")(KEYS[0], jnp.ones(shape), *others)
    if name != "clutter":
        with pytest.raises(ValueError, match="image_shape must be 2 non-negative integers"):
            getattr(distortions, f"draw_{name}")(KEYS[0], (*SHAPE, 1))
