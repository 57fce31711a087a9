"""Images of many sizes are warped by few programs, with the results of `straighten`."""

import functools

import jax
import numpy as np
import pytest

import stn_jax
from experiments.analysis.full_size import FrameWarp, padded_size
from experiments.settings.config import Model
from stn_jax import transforms

SMALL, SMALL_OUT = (9, 11), (6, 7)
THETA = np.float32([[0.9, 0.4, 0.2, -0.3, 1.2, 0.1], [3, 0, 0, 0, 3, 0]])  # inside; mostly outside


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("padding_mode", "align_corners"), [("zeros", False), ("border", True), ("reflection", True)]
)
def test_padding_of_images_changes_no_result(
    mode: str, padding_mode: str, align_corners: bool
) -> None:
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    warp = FrameWarp(Model("st_fcn", **options), SMALL, transforms.affine, SMALL_OUT)
    straighten = functools.partial(
        stn_jax.straighten,
        transform=transforms.affine,
        network_input_shape=SMALL,
        network_output_shape=SMALL_OUT,
        **options,
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 19, 31, 3), dtype=np.uint8)
    expected = np.asarray(jax.jit(jax.vmap(straighten))(np.float32(images), THETA))
    # Positions are rounded differently: by 1e-5 pixels, between pixels that differ by up to 255.
    np.testing.assert_allclose(warp(np.float32(images), THETA), expected, atol=3e-3)
    np.testing.assert_array_equal(warp(images, THETA), np.clip(np.rint(expected), 0, 255))


def test_images_of_many_sizes_share_a_few_programs() -> None:
    warp = FrameWarp(Model("st_fcn"), SMALL, transforms.affine, SMALL_OUT)
    sizes = [(height, width) for height in range(17, 24) for width in range(24, 33)]
    for height, width in sizes:
        image = np.full((1, height, width, 1), 7, np.uint8)
        output = warp(image, transforms.affine.identity[None])
        assert output.shape == (1, round(height * 6 / 9), round(width * 7 / 11), 1)
        assert (output == 7).all()
    assert warp._warp_padded._cache_size() <= 4


def test_sizes_are_padded_to_at_most_sqrt_2_times_as_much() -> None:
    sizes = range(16, 5000)
    padded = [padded_size(size) for size in sizes]
    assert all(size <= to < 1.5 * size for size, to in zip(sizes, padded, strict=True))
    assert len(set(padded)) < 20
    assert [padded_size(to) for to in padded] == padded
