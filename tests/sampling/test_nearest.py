"""The nearest pixel: ties to even, labels kept, gradients exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

TIES = np.array([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
# Beyond the last pixel the rounded position decides: 4.5 becomes 4, the last of five.
EVEN = [0, 0, 2, 2, 4, 4]
every_padding = pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)


def at_ties(axis: int, n: int, padding_mode: str) -> np.ndarray:
    """Five pixels 0 … 4 along grid axis `axis` of n, sampled at the ties."""
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
def test_ties_go_to_even(axis: int, n: int, padding_mode: str) -> None:
    """The same pixels on every axis, in two and three dimensions."""
    expected = EVEN
    if padding_mode != "zeros":
        # Folded first: 4.5 is clipped to 4 or mirrored to 3.5, and both round to 4.
        expected = [0, 0, 2, 2, 4, 4]
    np.testing.assert_array_equal(at_ties(axis, n, padding_mode), expected)


@every_padding
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint16"])
@pytest.mark.parametrize("n", [2, 3])
def test_labels_keep_their_type_and_values(dtype: str, n: int, padding_mode: str) -> None:
    """Large labels, which a detour through float32 would round."""
    top = np.iinfo(dtype).max
    labels = np.array([top, top - 1, top - 2, 1], dtype)
    random = np.random.default_rng(0)
    image = random.choice(labels, size=(*(4, 3, 5)[-n:], 2))
    grid = random.uniform(-1.5, 1.5, (50, n)).astype(np.float32)
    output = stn_jax.grid_sample(
        jnp.asarray(image), jnp.asarray(grid), mode="nearest", padding_mode=padding_mode
    )
    assert output.dtype == dtype
    # The oracle on indices of labels: float64 holds every label here, but let it not matter.
    index = np.argmax(image[..., None] == labels, axis=-1) + 1
    expected = oracles.grid_sample(index, grid, "nearest", padding_mode).astype(int)
    np.testing.assert_array_equal(output, np.concatenate([[0], labels]).astype(dtype)[expected])


def test_booleans_keep_their_type() -> None:
    mask = jnp.asarray([[[True], [False]], [[False], [True]]])
    points = jnp.asarray([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [3.0, 0.0]])
    output = stn_jax.grid_sample(mask, points, mode="nearest")
    assert output.dtype == jnp.bool_
    np.testing.assert_array_equal(output.ravel(), [True, False, True, False])


def test_label_for_the_outside() -> None:
    """`fill` reaches an integer image as the label that it is."""
    image = jnp.ones((2, 2, 1), jnp.int32)
    points = jnp.asarray([[0.0, 0.0], [5.0, 0.0], [0.0, -5.0], [jnp.nan, 0.0]])
    output = stn_jax.grid_sample(image, points, mode="nearest", fill=255)
    assert output.dtype == jnp.int32
    np.testing.assert_array_equal(output.ravel(), [1, 255, 255, 255])


@every_padding
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradients(padding_mode: str, align_corners: bool) -> None:
    """To the grid exactly zero; to the image the number of times that each pixel was read."""
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
