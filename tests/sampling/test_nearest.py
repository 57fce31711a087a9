"""Mode nearest: ties round to even, labels are preserved, gradients are exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

TIES = np.array([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
# For every padding. 4.5 rounds to the last pixel, 4; border clips it to 4 first, and reflection
# maps it to 3.5, which rounds to 4 too.
EXPECTED = [0, 0, 2, 2, 4, 4]
every_padding = pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)


def sample_at_ties(axis: int, n: int, padding_mode: str) -> np.ndarray:
    """Samples pixels 0 … 4 along grid axis `axis` of `n` at the ties."""
    shape = [1] * n + [1]
    shape[n - 1 - axis] = 5
    points = np.zeros((len(TIES), n))
    points[:, axis] = oracles.normalise(TIES, 5, align_corners=True)
    output = stn_jax.grid_sample(
        jnp.arange(5.0).reshape(shape),
        jnp.asarray(points, jnp.float32),
        mode="nearest",
        padding_mode=padding_mode,
        align_corners=True,
    )
    return np.asarray(output)[:, 0]


@every_padding
@pytest.mark.parametrize(("axis", "n"), [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])
def test_ties_round_to_even(axis: int, n: int, padding_mode: str) -> None:
    """On every axis, in two and three dimensions."""
    np.testing.assert_array_equal(sample_at_ties(axis, n, padding_mode), EXPECTED)


@every_padding
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint16"])
@pytest.mark.parametrize("n", [2, 3])
def test_labels_keep_dtype_and_value(dtype: str, n: int, padding_mode: str) -> None:
    """The labels are large, so that a conversion to float32 would round them."""
    top = np.iinfo(dtype).max
    labels = np.array([top, top - 1, top - 2, 1], dtype)
    random = np.random.default_rng(0)
    image = random.choice(labels, size=(*(4, 3, 5)[-n:], 2))
    grid = random.uniform(-1.5, 1.5, (50, n)).astype(np.float32)
    output = stn_jax.grid_sample(
        jnp.asarray(image), jnp.asarray(grid), mode="nearest", padding_mode=padding_mode
    )
    assert output.dtype == dtype
    # The oracle samples indices of labels, so that its float64 cannot round a label.
    index = np.argmax(image[..., None] == labels, axis=-1) + 1
    expected = oracles.grid_sample(index, grid, "nearest", padding_mode).astype(int)
    np.testing.assert_array_equal(output, np.concatenate([[0], labels]).astype(dtype)[expected])


def test_boolean_images_stay_boolean() -> None:
    mask = jnp.asarray([[[True], [False]], [[False], [True]]])
    points = jnp.asarray([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [3.0, 0.0]])
    output = stn_jax.grid_sample(mask, points, mode="nearest")
    assert output.dtype == jnp.bool_
    np.testing.assert_array_equal(output.ravel(), [True, False, True, False])


def test_fill_is_an_integer_label_in_integer_images() -> None:
    image = jnp.ones((2, 2, 1), jnp.int32)
    points = jnp.asarray([[0.0, 0.0], [5.0, 0.0], [0.0, -5.0], [jnp.nan, 0.0]])
    output = stn_jax.grid_sample(image, points, mode="nearest", fill=255)
    assert output.dtype == jnp.int32
    np.testing.assert_array_equal(output.ravel(), [1, 255, 255, 255])


@every_padding
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradients_of_nearest(padding_mode: str, align_corners: bool) -> None:
    """Exactly zero to the grid; to the image, the number of times that each pixel is read."""
    random = np.random.default_rng(2)
    image = jnp.asarray(random.normal(size=(3, 4, 1)), jnp.float32)
    grid = random.uniform(-2, 2, (200, 2)).astype(np.float32)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    sample = functools.partial(stn_jax.grid_sample, mode="nearest", **options)
    hits, to_grid = jax.grad(lambda i, g: sample(i, g).sum(), (0, 1))(image, jnp.asarray(grid))
    np.testing.assert_array_equal(to_grid, np.zeros((200, 2)))
    positions = np.arange(1.0, 13.0).reshape(3, 4, 1)
    read = oracles.grid_sample(positions, grid, "nearest", **options).astype(int).ravel()
    np.testing.assert_array_equal(hits.ravel(), np.bincount(read, minlength=13)[1:])
