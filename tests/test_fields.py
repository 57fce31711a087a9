"""Displacement fields: identity, composition, integration, measures, derivatives and errors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from stn_jax import fields
from tests.compilation import compile_quickly  # noqa: F401

RNG = np.random.default_rng(0)
SHAPES = [(6, 9), (4, 5, 6)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
MODES = [("nearest", "zeros"), ("bilinear", "border"), ("bicubic", "reflection")]


def pixel_positions(shape: tuple[int, ...]) -> np.ndarray:
    """The position (x, y[, z]) of each pixel, from the centre of the image."""
    index = np.stack(np.indices(shape)[::-1], axis=-1)
    return index - (np.asarray(shape[::-1]) - 1) / 2


def linear_field(matrix: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """The field that is the product of a matrix and the position from the centre."""
    return jnp.asarray(pixel_positions(shape) @ matrix.T)


def smooth_field(shape: tuple[int, ...], size: float = 2.0) -> jax.Array:
    """A smooth field of about the given size in pixels, zero at the border."""
    window = np.prod([np.sin(np.pi * i / (n - 1)) for i, n in _indices(shape)], axis=0)
    phases = [i / n for i, n in _indices(shape)]
    waves = [np.cos(3 * phases[k - 1] + 2 * phases[k] + k) for k in range(len(shape))]
    return jnp.asarray(size * window[..., None] * np.stack(waves, axis=-1))


def _indices(shape: tuple[int, ...]) -> list[tuple[np.ndarray, int]]:
    return list(zip(np.indices(shape), shape, strict=True))


@every_shape
@pytest.mark.parametrize(("mode", "padding_mode"), MODES)
def test_zero_displacement_returns_the_image_exactly(
    shape: tuple[int, ...], mode: Any, padding_mode: Any
) -> None:
    image = RNG.normal(size=(*shape, 2)).astype(np.float32)
    options = {"mode": mode, "padding_mode": padding_mode}
    for values in (jnp.asarray(image), jnp.asarray(image, jnp.bfloat16)):
        warped = fields.warp(values, np.zeros((*shape, len(shape)), np.float32), **options)
        np.testing.assert_array_equal(warped, values, strict=True)


@every_shape
def test_identities_of_fields_are_exact(shape: tuple[int, ...]) -> None:
    zeros = jnp.zeros((*shape, len(shape)))
    field = jnp.asarray(RNG.normal(size=zeros.shape), jnp.float32)
    for found, expected in (
        (fields.exponential(zeros), zeros),
        (fields.compose(field, zeros), field),
        (fields.compose(zeros, field), field),
        (fields.resize(field, shape), field),
        (fields.jacobian_determinant(zeros), jnp.ones(shape)),
        (fields.diffusion_penalty(zeros + 1.5), 0),
    ):
        np.testing.assert_array_equal(found, expected)


@every_shape
def test_each_axis_of_a_displacement_moves_along_its_axis_of_the_image(
    shape: tuple[int, ...],
) -> None:
    image = jnp.asarray(RNG.normal(size=(*shape, 1)), jnp.float32)
    for i, step in enumerate((1, -2, 1)[: len(shape)]):
        displacement = jnp.zeros((*shape, len(shape))).at[..., i].set(step)
        axis = len(shape) - 1 - i
        rolled = jnp.roll(image, -step, axis)
        kept = jax.lax.slice_in_dim(rolled, max(-step, 0), shape[axis] - max(step, 0), axis=axis)
        warped = fields.warp(image, displacement)
        inside = jax.lax.slice_in_dim(warped, max(-step, 0), shape[axis] - max(step, 0), axis=axis)
        np.testing.assert_array_equal(inside, kept)
        assert np.count_nonzero(warped) == np.count_nonzero(kept)  # zeros outside


@every_shape
def test_warping_by_a_composition_equals_two_warps(shape: tuple[int, ...], x64: None) -> None:
    """Exact for an image that holds positions, which linear interpolation does not blur."""
    outer, inner = smooth_field(shape, 0.8), smooth_field(shape, 0.5)
    image = jnp.asarray(pixel_positions(shape))
    once = fields.warp(image, fields.compose(outer, inner), padding_mode="border")
    first = fields.warp(image, outer, padding_mode="border")
    twice = fields.warp(first, inner, padding_mode="border")
    np.testing.assert_allclose(once, twice, atol=1e-12)
    assert np.abs(once - image).max() > 0.1


@every_shape
def test_exponential_of_a_linear_velocity_is_the_matrix_exponential(
    shape: tuple[int, ...], x64: None
) -> None:
    ndim = len(shape)
    inwards = np.asarray([[-0.4, 0.2, 0.1], [-0.2, -0.4, 0.1], [0.1, -0.1, -0.4]])[:ndim, :ndim]
    sides = np.asarray(shape[::-1]) - 1.0
    matrix = sides[:, None] * inwards / sides
    expected = linear_field(scipy.linalg.expm(matrix) - np.eye(ndim), shape)
    error = {
        n: np.abs(fields.exponential(linear_field(matrix, shape), n) - expected).max()
        for n in (7, 10)
    }
    assert error[7] < 5e-3  # of the first step, v / 2^7, which is linear in time
    assert error[10] < error[7] / 7


def test_exponential_of_a_constant_velocity_is_the_velocity() -> None:
    velocity = jnp.broadcast_to(jnp.asarray([0.7, -1.3]), (6, 9, 2))
    np.testing.assert_allclose(fields.exponential(velocity), velocity, rtol=2e-6)


def test_exponentials_form_a_group_and_do_not_fold(x64: None) -> None:
    velocity = smooth_field((32, 40), 4.0)
    forward, backward, double = map(fields.exponential, (velocity, -velocity, 2 * velocity))
    np.testing.assert_allclose(fields.compose(forward, backward), 0, atol=0.05)
    np.testing.assert_allclose(fields.compose(forward, forward), double, atol=0.05)
    assert np.abs(forward).max() > 3
    assert fields.folding_fraction(double) == 0
    assert fields.folding_fraction(8 * velocity) > 0.1  # not integrated


@every_shape
def test_resizing_a_linear_field_gives_the_same_map(shape: tuple[int, ...], x64: None) -> None:
    """A map of normalised coordinates does not depend on the resolution."""
    matrix = np.diag([0.1, -0.2, 0.3][: len(shape)])
    larger = tuple(2 * size for size in shape)
    inside = (slice(1, -1),) * len(shape)  # continued as a constant half a pixel at the border
    found = fields.resize(linear_field(matrix, shape), larger)
    np.testing.assert_allclose(found[inside], linear_field(matrix, larger)[inside], atol=1e-12)
    back = fields.resize(linear_field(matrix, larger), shape)
    np.testing.assert_allclose(back[inside], linear_field(matrix, shape)[inside], atol=1e-12)


@every_shape
def test_measures_of_a_linear_field(shape: tuple[int, ...], x64: None) -> None:
    ndim = len(shape)
    matrix = RNG.normal(size=(ndim, ndim))
    field = linear_field(matrix, shape)
    expected = np.linalg.det(np.eye(ndim) + matrix)
    np.testing.assert_allclose(fields.jacobian_determinant(field), np.full(shape, expected))
    np.testing.assert_allclose(fields.diffusion_penalty(field), np.sum(matrix**2))


def test_folds_between_neighbours_and_nan_are_found() -> None:
    zigzag = jnp.zeros((2, 8, 2)).at[:, 1::2, 0].set(1.5)
    assert fields.folding_fraction(zigzag) >= 3 / 8  # central differences find none
    assert fields.folding_fraction(zigzag + jnp.nan) == 1


def test_fields_one_pixel_wide_have_measures() -> None:
    field = jnp.ones((1, 1, 2))
    np.testing.assert_array_equal(fields.jacobian_determinant(field), [[1]])
    assert fields.diffusion_penalty(field) == 0


SMALL = (3, 4)
IMAGE = RNG.normal(size=(*SMALL, 1))
OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "warp": lambda u, w: fields.warp(jnp.asarray(IMAGE, u.dtype), u, padding_mode="border"),
    "resize": lambda u, w: fields.resize(u, (5, 2)),
    "compose": fields.compose,
    "exponential": lambda u, w: fields.exponential(u, 2),
    "jacobian_determinant": lambda u, w: fields.jacobian_determinant(u),
    "diffusion_penalty": lambda u, w: fields.diffusion_penalty(u),
}


def all_operations(u: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.concatenate([operation(u, w).ravel() for operation in OPERATIONS.values()])


def small_fields(*batch: int) -> tuple[jax.Array, jax.Array]:
    """Two fields without points at whole pixels, where derivatives are one-sided."""
    u, w = RNG.uniform(0.1, 0.4, (2, *batch, *SMALL, 2))
    return jnp.asarray(u), jnp.asarray(w)


def test_forward_reverse_and_numerical_derivatives_agree(x64: None) -> None:
    given, step = small_fields(), 1e-6
    flat, unravel = jax.flatten_util.ravel_pytree(given)

    def operations(flat: jax.Array) -> jax.Array:
        return all_operations(*unravel(flat))

    @jax.jit
    def jacobians(flat: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def difference_quotient(delta: jax.Array) -> jax.Array:
            return (operations(flat + delta) - operations(flat - delta)) / (2 * step)

        numerical = jax.vmap(difference_quotient, out_axes=-1)(step * jnp.eye(flat.size))
        return jax.jacfwd(operations)(flat), jax.jacrev(operations)(flat), numerical

    forward, reverse, numerical = jacobians(flat)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    np.testing.assert_allclose(forward, numerical, atol=1e-8)


def test_vmap_equals_a_loop() -> None:
    u, w = (field.astype(jnp.float32) for field in small_fields(3))
    batched = jax.jit(jax.vmap(all_operations))(u, w)
    looped = jnp.stack([all_operations(*each) for each in zip(u, w, strict=True)])
    np.testing.assert_allclose(batched, looped, atol=1e-5)


def test_half_precision_fields_are_computed_in_float32() -> None:
    field = jnp.ones((3, 4, 2), jnp.bfloat16)
    for name in set(OPERATIONS) - {"warp"}:
        assert OPERATIONS[name](field, field).dtype == jnp.float32


FIELD = np.zeros((3, 4, 2), np.float32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (functools.partial(fields.warp, FIELD[..., :1], FIELD[:2]), "image must have shape"),
        (functools.partial(fields.warp, FIELD, FIELD, mode="cubic"), "mode must be one of"),
        (functools.partial(fields.resize, FIELD, (0, 3)), "shape must be positive"),
        (functools.partial(fields.resize, FIELD, (3,)), "shape must be 2 non-negative"),
        (functools.partial(fields.compose, FIELD, FIELD[:2]), "inner must have shape"),
        (functools.partial(fields.exponential, FIELD, -1), "num_steps must be .* 0; got -1"),
        (functools.partial(jax.jit(fields.exponential), FIELD, 2), "num_steps must be .*Tracer"),
        (functools.partial(fields.exponential, FIELD, 2.0), "num_steps must be .*; got 2.0"),
        (functools.partial(fields.exponential, FIELD[..., :1]), r"velocity must have shape"),
        (functools.partial(fields.folding_fraction, FIELD[:0]), "without empty axes"),
        (functools.partial(fields.diffusion_penalty, FIELD.astype(int)), "floating"),
    ],
)
def test_invalid_arguments_are_named(call: Callable[[], Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        call()
