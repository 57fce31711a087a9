"""Padding: values outside the image."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

every_mode = pytest.mark.parametrize("mode", oracles.MODES)
both_corners = pytest.mark.parametrize("align_corners", [False, True])


def sample_row(values: Any, position: Any, align_corners: bool, **options: Any) -> np.ndarray:
    """Samples a single row of pixels at pixel positions, with y at its centre."""
    row = jnp.asarray(values, jnp.float32).reshape(1, -1, 1)
    x = oracles.normalise(position, row.shape[1], align_corners)
    points = jnp.asarray(np.stack([x, np.zeros_like(x)], axis=-1), jnp.float32)
    output = stn_jax.grid_sample(row, points, align_corners=align_corners, **options)
    return np.asarray(output)[:, 0]


@pytest.mark.parametrize("fill", [0.0, 2.0])
def test_zeros_padding_fades_to_the_fill_over_one_pixel(fill: float) -> None:
    """A quarter pixel beyond the centre of the last pixel, a quarter of the weight is outside."""
    row = [8.0, 4.0, 4.0, 12.0]
    position = [3.25, 3.5, 3.75, 4.0, 5.0, -0.25, -0.5, -1.0]
    inside = np.array([0.75, 0.5, 0.25, 0, 0, 0.75, 0.5, 0])
    edge = np.array([12.0] * 5 + [8.0] * 3)
    output = sample_row(row, position, align_corners=False, fill=fill)
    np.testing.assert_array_equal(output, inside * edge + (1 - inside) * fill)


def test_zeros_padding_halves_values_at_the_outer_edges() -> None:
    """Without align_corners, -1 and 1 are the outer edges of the first and the last pixel."""
    image = jnp.asarray([[[2.0], [4.0]], [[6.0], [8.0]]])
    points = jnp.asarray([[-1.0, -0.5], [1.0, 0.5], [-1.0, -1.0], [1.0, 1.0]])
    output = stn_jax.grid_sample(image, points)
    np.testing.assert_array_equal(output.ravel(), [1.0, 4.0, 0.5, 2.0])


@every_mode
@both_corners
@pytest.mark.parametrize("fill", [0.0, -3.5])
def test_zeros_give_fill_and_border_the_edge_far_outside(
    mode: str, align_corners: bool, fill: float
) -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2)), jnp.float32)
    points = jnp.asarray([[-10.0, -10.0], [10.0, -10.0], [-10.0, 10.0], [10.0, 10.0]])
    sample = functools.partial(
        stn_jax.grid_sample, image, points, mode=mode, align_corners=align_corners, fill=fill
    )
    np.testing.assert_array_equal(sample(padding_mode="zeros"), np.full((4, 2), fill, np.float32))
    edges = np.asarray(image)[[0, 0, 3, 3], [0, 3, 0, 3]]
    np.testing.assert_allclose(sample(padding_mode="border"), edges, rtol=1e-6)


REFLECTED = [
    # position, result with align_corners, result without
    (-4, 2, 3),
    (-3, 3, 2),
    (-2, 2, 1),
    (-1, 1, 0),
    (-0.5, 0.5, 0),
    (-0.25, 0.25, 0),
    (0, 0, 0),
    (3, 3, 3),
    (3.25, 2.75, 3),
    (3.5, 2.5, 3),
    (4, 2, 3),
    (5, 1, 2),
    (6, 0, 1),
    (7, 1, 0),
    (8, 2, 0),
]


@both_corners
def test_reflection_at_known_positions(align_corners: bool) -> None:
    """Pixels 0, 1, 2, 3, reflected about the centres of the end pixels or about the outer edges."""
    position = [row[0] for row in REFLECTED]
    expected = [row[1 if align_corners else 2] for row in REFLECTED]
    output = sample_row([0, 1, 2, 3], position, align_corners, padding_mode="reflection")
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)


@every_mode
@both_corners
def test_reflection_is_periodic(mode: str, align_corners: bool) -> None:
    """The image repeats every two widths, even after more reflections than a byte can count."""
    random = np.random.default_rng(1)
    image, width = random.normal(size=(1, 5, 1)), 5
    span = width - 1 if align_corners else width
    position = random.uniform(0, width - 1, 20)
    with jax.enable_x64(True):

        def sample(position: np.ndarray) -> jax.Array:
            x = oracles.normalise(position, width, align_corners)
            return stn_jax.grid_sample(
                jnp.asarray(image),
                jnp.asarray(np.stack([x, np.zeros_like(x)], axis=-1)),
                mode=mode,
                padding_mode="reflection",
                align_corners=align_corners,
            )

        original = sample(position)
        for periods in (1, 7, 150, 2000, -150, -1001):
            # A position of 2e4 px has 4e-12 px of rounding error, derivatives are below 10.
            repeated = sample(position + 2 * span * periods)
            np.testing.assert_allclose(repeated, original, rtol=0, atol=1e-10)
            mirrored = sample(2 * span * periods - position + (0 if align_corners else -1))
            np.testing.assert_allclose(mirrored, original, rtol=0, atol=1e-10)


@every_mode
def test_reflection_of_one_pixel_with_align_corners_is_constant(mode: str) -> None:
    """The interval about which to reflect has length 0."""
    image = jnp.full((1, 1, 1), 7.0)
    points = jnp.asarray([[-5.0, 0.0], [0.3, 2.0], [1.0, -1.0], [9.0, 9.0]])

    def total(points: jax.Array) -> jax.Array:
        return stn_jax.grid_sample(
            image, points, mode=mode, padding_mode="reflection", align_corners=True
        ).sum()

    value, gradient = jax.value_and_grad(total)(points)
    np.testing.assert_array_equal(value, 4 * 7.0)
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


@every_mode
@both_corners
@pytest.mark.parametrize("n", [2, 3])
def test_fill_equals_oracle(mode: str, align_corners: bool, n: int) -> None:
    """With zeros padding, taps outside read `fill` with their weights."""
    random = np.random.default_rng(n)
    image, grid = random.normal(size=(*(4, 3, 5)[-n:], 2)), random.uniform(-2, 2, (30, n))
    cotangent = random.normal(size=(30, 2))
    options: dict[str, Any] = {"mode": mode, "align_corners": align_corners, "fill": 1.75}
    with jax.enable_x64(True):
        sample = functools.partial(stn_jax.grid_sample, **options)
        output, vjp = jax.vjp(sample, jnp.asarray(image), jnp.asarray(grid))
        gradients = vjp(jnp.asarray(cotangent))
        expected = oracles.grid_sample(image, grid, **options)
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
        expected = oracles.grid_sample_vjp(image, grid, cotangent, **options)
        for actual, gradient in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@every_mode
def test_fill_is_ignored_unless_padding_is_zeros(mode: str, padding_mode: str) -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 1)), jnp.float32)
    points = jnp.asarray(np.random.default_rng(1).uniform(-3, 3, (40, 2)), jnp.float32)
    sample = functools.partial(stn_jax.grid_sample, mode=mode, padding_mode=padding_mode)
    np.testing.assert_array_equal(sample(image, points, fill=9.0), sample(image, points))


@both_corners
def test_image_of_one_pixel_equals_torch(align_corners: bool) -> None:
    """With align_corners the pixel is constant; otherwise it fades to both sides."""
    x = jnp.asarray([-5.0, -1.0, -0.5, 0.0, 0.5, 1.0, 5.0])
    image = jnp.full((1, 1, 1), 7.0)
    expected = [7.0] * 7 if align_corners else [0, 3.5, 5.25, 7, 5.25, 3.5, 0]
    for order in ((0, 1), (1, 0)):
        points = jnp.stack([x, jnp.zeros(7)], axis=-1)[:, order]
        output = stn_jax.grid_sample(image, points, align_corners=align_corners)
        np.testing.assert_array_equal(output.ravel(), expected)


def test_padding_applies_to_each_axis_separately() -> None:
    """Points outside in x only: border and reflection keep the row, zeros gives 0."""
    image = jnp.arange(12.0).reshape(3, 4, 1)
    for x, y in itertools.product((-3.0, 3.0), (-1.0, 0.0, 1.0)):
        points = jnp.asarray([[x, y]])
        row = int(y + 1)
        border = stn_jax.grid_sample(image, points, padding_mode="border", align_corners=True)
        assert float(border[0, 0]) == image[row, 0 if x < 0 else 3, 0]
        zeros = stn_jax.grid_sample(image, points, align_corners=True)
        assert float(zeros[0, 0]) == 0.0
        # x = 3 is position 6, reflected to 0; x = -3 is position -3, reflected to 3.
        mirrored = stn_jax.grid_sample(image, points, padding_mode="reflection", align_corners=True)
        assert float(mirrored[0, 0]) == image[row, 3 if x < 0 else 0, 0]
