"""Derivatives of the sampler: finite differences, one-sided, both modes, second order, memory.

Tests over many options are not jitted and share the shapes of image and points, because compilation
takes most of the time: the cases share compiled operations, but not compiled programs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles
from tests.options import OPTIONS, PAIRS, every_option, parametrize_options

SMOOTH = [options for options in OPTIONS if options["mode"] != "nearest"]
# For slower tests: each mode and padding once, with alternating align_corners.
FEW = [options for options in PAIRS if options["mode"] != "nearest"]
SHAPE, COUNT = (3, 4), 20


@pytest.fixture(autouse=True)
def float64() -> Any:
    """Enables float64, which finite differences need."""
    with jax.enable_x64(True):
        yield


def between_pixels(
    shape: tuple[int, ...], count: int, align_corners: bool, reach: float = 1.6
) -> np.ndarray:
    """Random points at least 0.05 px from every position at which a derivative may jump."""
    random = np.random.default_rng(len(shape))
    axes = []
    for size in reversed(shape):
        low, high = -reach * size, (1 + reach) * size
        # All jumps (taps, borders, both kinds of reflection) are at whole and half pixels.
        half = np.floor(random.uniform(2 * low, 2 * high, count))
        position = (half + random.uniform(0.1, 0.9, count)) / 2
        axes.append(oracles.normalise(position, size, align_corners))
    return np.stack(axes, axis=-1)


def row_sampler(options: dict[str, Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A function that samples a row of five pixels at pixel positions, exactly in float64."""

    def sample(row: jax.Array, position: jax.Array) -> jax.Array:
        points = jnp.stack([position / 2 - 1, jnp.zeros_like(position)], axis=-1)
        return stn_jax.grid_sample(row[None, :, None], points, align_corners=True, **options)[:, 0]

    return sample


@parametrize_options(SMOOTH)
@pytest.mark.parametrize("shape", [SHAPE, (2, 3, 3)], ids=str)
def test_point_gradients_equal_finite_differences(
    options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 2)))
    points = jnp.asarray(between_pixels(shape, COUNT, options["align_corners"]))
    weights = np.random.default_rng(1).normal(size=(COUNT, 2))

    def per_point(points: jax.Array) -> jax.Array:
        return (stn_jax.grid_sample(image, points, **options) * weights).sum(-1)

    gradient, step = jax.grad(lambda p: per_point(p).sum())(points), 1e-6
    # A point affects only its own output, so all points are shifted together along one axis.
    for axis in range(len(shape)):
        shift = step * np.eye(len(shape))[axis]
        numerical = (per_point(points + shift) - per_point(points - shift)) / (2 * step)
        np.testing.assert_allclose(gradient[:, axis], numerical, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "padding_mode", "expected"),
    [
        ("bilinear", "zeros", [1, 3, 5, 7, -16]),
        ("bilinear", "border", [0, 3, 5, 7, 0]),
        ("bilinear", "reflection", [0, 3, 5, 7, 0]),
        ("bicubic", "zeros", [0.75, 3, 6, 9, -6.75]),
        ("bicubic", "border", [0.75, 3, 6, 9, 5.25]),
        ("bicubic", "reflection", [0, 3, 6, 9, 0]),
        ("nearest", "zeros", [0, 0, 0, 0, 0]),
        ("nearest", "border", [0, 0, 0, 0, 0]),
        ("nearest", "reflection", [0, 0, 0, 0, 0]),
    ],
)
def test_gradients_on_pixels_equal_torch(
    mode: str, padding_mode: str, expected: list[float]
) -> None:
    """Right-hand derivatives, and 0 where a coordinate is clipped."""
    sample = row_sampler({"mode": mode, "padding_mode": padding_mode})
    row = jnp.asarray([0.0, 1.0, 4.0, 9.0, 16.0])
    reverse = jax.grad(lambda p: sample(row, p).sum())(jnp.arange(5.0))
    # A point affects only its own output, so one tangent serves all points.
    _, forward = jax.jvp(functools.partial(sample, row), (jnp.arange(5.0),), (jnp.ones(5),))
    np.testing.assert_array_equal(reverse, expected)
    np.testing.assert_array_equal(forward, expected)


def test_gradient_is_zero_on_the_border_and_outside() -> None:
    """The smallest step into the image has the derivative of the inside."""
    sample = row_sampler({"padding_mode": "border"})
    row = jnp.asarray([0.0, 1.0, 4.0, 9.0, 16.0])
    # In normalised coordinates, 2^-52 is the spacing of floats at 1.
    step = 2 * 2.0**-52
    position = jnp.asarray([-step, 0.0, step, 4 - step, 4.0, 4 + 2 * step])
    gradient = jax.jit(jax.grad(lambda p: sample(row, p).sum()))(position)
    np.testing.assert_allclose(gradient, [0, 0, 1, 7, 0, 0], rtol=0, atol=1e-12)


@every_option
def test_image_gradient_is_the_transpose(options: dict[str, Any]) -> None:
    """<sample(u), v> = <u, vjp(v)>, because sampling is linear in the image."""
    random = np.random.default_rng(5)
    points = jnp.asarray(random.uniform(-2, 2, (COUNT, 2)))
    u, image = jnp.asarray(random.normal(size=(2, *SHAPE, 2)))
    v = jnp.asarray(random.normal(size=(COUNT, 2)))
    sample = functools.partial(stn_jax.grid_sample, **options)
    _, vjp = jax.vjp(lambda i: sample(i, points), image)
    (scattered,) = vjp(v)
    np.testing.assert_allclose((sample(u, points) * v).sum(), (u * scattered).sum(), atol=1e-12)
    # Weights sum to one, except for taps outside with zeros padding.
    if options["padding_mode"] == "zeros":
        weights = sample(jnp.ones_like(image), points)
        np.testing.assert_allclose(scattered.sum(), (weights * v).sum(), atol=1e-12)
        inside = oracles.grid_sample(np.ones(image.shape), points, **options)
        np.testing.assert_allclose(weights, inside, atol=1e-12)
    else:
        np.testing.assert_allclose(scattered.sum(), v.sum(), atol=1e-12)


@every_option
def test_forward_mode_is_the_transpose_of_reverse(options: dict[str, Any]) -> None:
    random = np.random.default_rng(6)
    arguments = (
        jnp.asarray(random.normal(size=(*SHAPE, 2))),
        jnp.asarray(random.uniform(-2, 2, (COUNT, 2))),
    )
    tangents = tuple(jnp.asarray(random.normal(size=a.shape)) for a in arguments)
    cotangent = jnp.asarray(random.normal(size=(COUNT, 2)))

    sample = functools.partial(stn_jax.grid_sample, **options)
    _, tangent = jax.jvp(sample, arguments, tangents)
    _, vjp = jax.vjp(sample, *arguments)
    forward = jnp.vdot(tangent, cotangent)
    reverse = sum(jnp.vdot(a, b) for a, b in zip(vjp(cotangent), tangents, strict=True))
    assert abs(float(forward)) > 1e-3
    np.testing.assert_allclose(forward, reverse, rtol=1e-12, atol=1e-12)


@parametrize_options(SMOOTH)
def test_second_derivatives_equal_finite_differences(options: dict[str, Any]) -> None:
    """All four blocks of the Hessian with respect to (image, points), along random directions."""
    random = np.random.default_rng(8)
    at = (
        jnp.asarray(random.normal(size=(*SHAPE, 2))),
        jnp.asarray(between_pixels(SHAPE, COUNT, options["align_corners"], reach=0.4)),
    )
    weights = random.normal(size=(COUNT, 2))

    def loss(image: jax.Array, points: jax.Array) -> jax.Array:
        # Squared, so that the block of the image is not zero.
        return ((stn_jax.grid_sample(image, points, **options) * weights) ** 2).sum()

    gradient, step = jax.grad(loss, (0, 1)), 1e-6
    for i in range(2):
        direction = [jnp.zeros_like(each) for each in at]
        direction[i] = jnp.asarray(random.normal(size=at[i].shape))
        up, down = (
            gradient(*(a + s * d for a, d in zip(at, direction, strict=True)))
            for s in (step, -step)
        )
        _, actual = jax.jvp(gradient, at, tuple(direction))
        for j in range(2):
            numerical = (up[j] - down[j]) / (2 * step)
            assert abs(numerical).max() > 1e-3
            np.testing.assert_allclose(actual[j], numerical, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradient_of_a_gradient_penalty_equals_finite_differences(mode: str) -> None:
    """Reverse mode over reverse mode."""
    random = np.random.default_rng(9)
    image = jnp.asarray(random.normal(size=(*SHAPE, 2)))
    points = jnp.asarray(between_pixels(SHAPE, COUNT, False, reach=0.0))
    direction, step = random.normal(size=points.shape), 1e-6

    def penalty(points: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda p: stn_jax.grid_sample(image, p, mode=mode).sum())(points)
        return (gradient**2).sum()

    up, down = (penalty(points + s * direction) for s in (step, -step))
    numerical = (up - down) / (2 * step)
    assert abs(numerical) > 1e-2
    np.testing.assert_allclose(jnp.vdot(jax.grad(penalty)(points), direction), numerical, rtol=1e-5)


@parametrize_options([{"mode": "bilinear", "padding_mode": p} for p in oracles.PADDING_MODES])
def test_forward_and_reverse_mode_nest_in_any_order(options: dict[str, Any]) -> None:
    """Second derivatives along a direction."""
    random = np.random.default_rng(14)
    arguments = (
        jnp.asarray(random.normal(size=(*SHAPE, 2))),
        jnp.asarray(between_pixels(SHAPE, COUNT, False, reach=0.2)),
    )
    direction = tuple(jnp.asarray(random.normal(size=a.shape)) for a in arguments)

    def loss(image: jax.Array, points: jax.Array) -> jax.Array:
        return (stn_jax.grid_sample(image, points, **options) ** 2).sum()

    def along(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *at: jax.jvp(function, at, direction)[1]

    def inner(image: jax.Array, points: jax.Array) -> jax.Array:
        gradients = jax.grad(loss, (0, 1))(image, points)
        return sum(jnp.vdot(a, b) for a, b in zip(gradients, direction, strict=True))

    forward_reverse = along(jax.grad(loss, (0, 1)))(*arguments)
    reverse_forward = jax.grad(along(loss), (0, 1))(*arguments)
    reverse_reverse = jax.grad(inner, (0, 1))(*arguments)
    forward_forward = along(along(loss))(*arguments)
    for a, b, c in zip(forward_reverse, reverse_forward, reverse_reverse, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(a, c, rtol=1e-9, atol=1e-9)
    expected = sum(jnp.vdot(a, b) for a, b in zip(forward_reverse, direction, strict=True))
    np.testing.assert_allclose(forward_forward, expected, rtol=1e-9)


def test_gradient_to_the_fill_is_the_weight_outside() -> None:
    """Samples inside contribute exactly nothing, even if their cotangent is NaN."""
    image, points = jnp.ones((4, 4, 2)), jnp.asarray([[0.1, 0.2], [-1.0, 0.0], [5.0, 5.0]])
    weights = jnp.asarray([[jnp.nan, 1], [2, 3], [5, 7]])

    def loss(fill: jax.Array) -> jax.Array:
        return (stn_jax.grid_sample(image, points, fill=fill) * weights).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(jnp.zeros(2)), [6, 8.5], rtol=1e-12)


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_nan_fill_is_ignored_unless_padding_is_zeros(padding_mode: str) -> None:
    image, points = jnp.arange(9.0).reshape(3, 3, 1), jnp.asarray([[1.0, 1.0], [5.0, 0.0]])

    @jax.jit
    def sample(fill: float) -> jax.Array:
        return stn_jax.grid_sample(
            image, points, fill=fill, padding_mode=padding_mode, align_corners=True
        )

    output = sample(jnp.nan)
    np.testing.assert_array_equal(output, sample(0.0))
    assert np.isfinite(output).all()


def test_infinite_points_with_infinite_tangents_have_derivative_zero() -> None:

    def sample(a: jax.Array) -> jax.Array:
        return stn_jax.grid_sample(jnp.ones((3, 3, 1)), jnp.stack([jnp.exp(a), a])[None])[0, 0]

    assert jax.jit(jax.jacfwd(sample))(jnp.asarray(1e4)) == 0


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (7, 12)], ids=str)
def test_theta_gradient_at_the_identity(shape: tuple[int, int], align_corners: bool) -> None:
    """At the initial theta of a spatial transformer, the gradient is finite without zero entries.

    All positions are whole pixels. The derivative of a pixel in x is the difference to its right
    neighbour, so the gradient is the sum of these differences times the target points.
    """
    random = np.random.default_rng(10)
    image, weights = random.normal(size=(2, *shape, 1))

    def loss(theta: jax.Array) -> jax.Array:
        output = stn_jax.spatial_transform(
            jnp.asarray(image), theta, stn_jax.transforms.affine, align_corners=align_corners
        )
        return (output * weights).sum()

    theta = jnp.asarray(stn_jax.transforms.affine.identity, jnp.float64)
    gradient = jax.jit(jax.grad(loss))(theta)
    points = oracles.affine_grid(np.eye(2, 3), shape, align_corners)
    padded = np.pad(image[..., 0], ((0, 1), (0, 1)))
    right, below = padded[:-1, 1:] - image[..., 0], padded[1:, :-1] - image[..., 0]
    scale = [(n - 1) / 2 if align_corners else n / 2 for n in reversed(shape)]
    derivatives = np.stack([right * scale[0], below * scale[1]], axis=-1) * weights
    ones = np.concatenate([points, np.ones((*shape, 1))], axis=-1)
    expected = np.einsum("hwi,hwj->ij", derivatives, ones).ravel()
    assert np.all(np.abs(expected) > 1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-9)


def test_translation_gradient_at_the_identity_is_the_right_hand_derivative() -> None:
    """The difference quotient to the right equals the gradient; the one to the left does not."""
    random = np.random.default_rng(12)
    image, weights = random.normal(size=(2, 6, 9, 1))

    @jax.jit
    def loss(theta: jax.Array) -> jax.Array:
        output = stn_jax.spatial_transform(
            jnp.asarray(image), theta, stn_jax.transforms.translation
        )
        return (output * weights).sum()

    gradient, step = jax.grad(loss)(jnp.zeros(2)), 1e-6
    for axis in range(2):
        shift = step * jnp.eye(2)[axis]
        right = (loss(shift) - loss(0 * shift)) / step
        left = (loss(0 * shift) - loss(-shift)) / step
        np.testing.assert_allclose(gradient[axis], right, rtol=1e-6)
        assert abs(float(left - right)) > 0.1


@parametrize_options(FEW)
def test_checkpoint_does_not_change_gradients(options: dict[str, Any]) -> None:
    random = np.random.default_rng(13)
    image = jnp.asarray(random.normal(size=(*SHAPE, 2)))
    points = jnp.asarray(random.uniform(-1.5, 1.5, (COUNT, 2)))

    def loss(image: jax.Array, points: jax.Array) -> jax.Array:
        return (stn_jax.grid_sample(image, points, **options) ** 2).sum()

    plain = jax.grad(loss, (0, 1))(image, points)
    again = jax.grad(jax.checkpoint(loss), (0, 1))(image, points)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_residuals_do_not_grow_with_taps_times_channels(mode: str) -> None:
    """Reverse mode stores arrays of the size of image and points only."""
    image, points = jnp.ones((8, 8, 32)), jnp.zeros((1000, 2))
    sample = functools.partial(stn_jax.grid_sample, mode=mode)
    vjp = jax.eval_shape(lambda *at: jax.vjp(sample, *at)[1], image, points)
    stored = sum(leaf.size for leaf in jax.tree.leaves(vjp))
    taps = 4 if mode == "bilinear" else 16
    assert stored < image.size + 4 * taps * len(points), f"{stored} numbers are stored"
