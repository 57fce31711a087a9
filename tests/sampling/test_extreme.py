"""NaN, infinite and huge coordinates; NaN and infinite pixels."""

import functools
import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles
from tests.options import OPTIONS, every_option

OPTIMISED = True  # the programs that users run

HUGE = [1e9, 3e9, 2.0**31, 2.0**32, 1e20, 3e38, 1e38]
NOT_FINITE = [np.nan, np.inf, -np.inf]

# All tests pad their points to this number, so that operations are compiled once.
COUNT = 60


def sample_and_gradients(
    image: jax.Array, points: jax.Array, cotangent: jax.Array, **options: Any
) -> Any:
    output, vjp = jax.vjp(functools.partial(stn_jax.grid_sample, **options), image, points)
    return output, *vjp(cotangent)


@functools.cache
def compiled(**options: Any) -> Any:
    return jax.jit(functools.partial(sample_and_gradients, **options))


def run(
    image: Any, points: Any, dtype: Any = jnp.float32, jit: bool = False, **options: Any
) -> list[np.ndarray]:
    """Output, image gradient and point gradient of the sum of all outputs.

    Jit is worth its compilation only if a test calls it often, because tests do not share programs.
    """
    count, padded = len(points), np.zeros((COUNT, np.shape(points)[-1]))
    padded[:count] = points
    cotangent = np.broadcast_to((np.arange(COUNT) < count)[:, None], (COUNT, np.shape(image)[-1]))
    function = compiled(**options) if jit else functools.partial(sample_and_gradients, **options)
    arrays = (jnp.asarray(array, dtype) for array in (image, padded, cotangent))
    output, to_image, to_points = (np.asarray(array) for array in function(*arrays))
    return [output[:count], to_image, to_points[:count]]


def random_image(*spatial: int) -> np.ndarray:
    return np.random.default_rng(len(spatial)).uniform(1.0, 2.0, (*spatial, 2))


@every_option
@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4)], ids=str)
def test_non_finite_points_equal_oracle(options: dict[str, Any], spatial: tuple[int, ...]) -> None:
    """One or more coordinates of a point are not finite, and have gradient exactly 0.

    The output is `fill`, the first pixel or the edge; finite coordinates keep their gradients.
    """
    n, image = len(spatial), random_image(*spatial)
    finite = (0.3, -0.2, 0.1)[:n]
    points = np.array(
        [finite]
        + [
            [value if axis in axes else finite[axis] for axis in range(n)]
            for value in NOT_FINITE
            for count in range(1, n + 1)
            for axes in itertools.combinations(range(n), count)
        ]
    )
    output, to_image, to_points = run(image, points, **options)
    expected = oracles.grid_sample(image, points, **options)
    gradients = oracles.grid_sample_vjp(image, points, np.ones_like(expected), **options)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(to_image, gradients[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(to_points, gradients[1], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(to_points[~np.isfinite(points)], 0.0)


def test_non_finite_points_in_a_row_of_pixels() -> None:
    """Explicit values, to check the rules that the oracle encodes."""
    row = np.arange(1.0, 5.0).reshape(1, 4, 1)
    points = [[value, 0.0] for value in (np.nan, np.inf, -np.inf)]
    expected = {"zeros": [9, 9, 9], "border": [1, 4, 1], "reflection": [1, 1, 1]}
    for mode, (padding_mode, values) in itertools.product(oracles.MODES, expected.items()):
        output, _, gradient = run(row, points, mode=mode, padding_mode=padding_mode, fill=9.0)
        np.testing.assert_array_equal(output.ravel(), values)
        np.testing.assert_array_equal(gradient[:, 0], 0.0)


@every_option
def test_huge_coordinates_do_not_overflow(options: dict[str, Any]) -> None:
    """Coordinates beyond every integer type give values of the image, or zero."""
    image = random_image(4, 5)
    coordinates = [s * v for v in HUGE for s in (1, -1)]
    points = np.array([[x, y] for c in coordinates for x, y in ((c, 0.3), (0.3, c), (c, c))])
    output, to_image, to_points = run(image, points, **options)
    assert np.isfinite(to_image).all()
    beyond = np.abs(points) >= 1e9
    np.testing.assert_array_equal(to_points[beyond & (options["padding_mode"] != "reflection")], 0)
    assert np.isfinite(to_points).all()
    if options["padding_mode"] == "reflection":
        # Float32 does not resolve which pixels are read, but the result interpolates some. The
        # cubic kernel overshoots by at most its negative weights, a sixth on each axis.
        overshoot = 0.5 if options["mode"] == "bicubic" else 0.0
        assert (output >= image.min() - overshoot - 1e-5).all()
        assert (output <= image.max() + overshoot + 1e-5).all()
    else:
        expected = oracles.grid_sample(image, points, **options)
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@every_option
def test_extreme_points_in_a_volume_of_one_slice_equal_those_in_the_image(
    options: dict[str, Any],
) -> None:
    image = random_image(4, 5)
    special = [*HUGE, *(-v for v in HUGE), *NOT_FINITE, 0.1]
    points = np.array([[x, y] for x, y in itertools.product(special, (0.3, special[0], np.nan))])
    flat = run(image, points, **options)
    deep = run(image[None], np.concatenate([points, np.zeros((len(points), 1))], -1), **options)
    np.testing.assert_allclose(deep[0], flat[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(deep[1][0], flat[1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(deep[2][:, :2], flat[2], rtol=0, atol=1e-4)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 2.0**31, -(2.0**31), *HUGE, *NOT_FINITE]
coordinate = st.one_of(st.floats(width=32), st.floats(-4, 4, width=32), st.sampled_from(SPECIAL))


@pytest.mark.parametrize("options", OPTIONS[::2] + OPTIONS[3::6], ids=str)
@hypothesis.given(st.lists(coordinate, min_size=12, max_size=12))
@hypothesis.settings(max_examples=50, derandomize=True, database=None)
def test_any_float32_gives_finite_outputs_and_gradients(
    options: dict[str, Any], coordinates: list[float]
) -> None:
    """Outputs also stay in the range of the image and its padding."""
    image = random_image(4, 5)
    points = np.array(coordinates, np.float32).reshape(6, 2)
    output, to_image, to_points = run(image, points, jit=True, **options)
    assert np.isfinite(output).all()
    assert np.isfinite(to_image).all()
    assert np.isfinite(to_points).all()
    assert (to_points[~np.isfinite(points)] == 0).all()
    low = 0.0 if options["padding_mode"] == "zeros" else image.min()
    overshoot = 1.0 if options["mode"] == "bicubic" else 0.0
    assert (output >= low - overshoot - 1e-5).all()
    assert (output <= image.max() + overshoot + 1e-5).all()


@every_option
def test_extreme_points_do_not_affect_other_points(options: dict[str, Any]) -> None:
    image = random_image(4, 5)
    good = np.random.default_rng(0).uniform(-1.2, 1.2, (9, 2))
    bad = good.copy()
    bad[[2, 4, 6]] = [[np.nan, 0.1], [np.inf, -np.inf], [0.2, 1e30]]
    rest = np.isin(np.arange(9), (2, 4, 6), invert=True)
    before, after = run(image, good, **options), run(image, bad, **options)
    np.testing.assert_array_equal(after[0][rest], before[0][rest])
    np.testing.assert_array_equal(after[2][rest], before[2][rest])


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", oracles.MODES)
def test_non_finite_pixels_do_not_affect_samples_outside(mode: str, pixel: float) -> None:
    """Taps outside are clipped to the non-finite pixels, but read `fill`."""
    image = np.full((3, 4, 1), pixel)
    points = [[-3.0, -3.0], [3.0, 0.0], [0.0, 5.0], [np.nan, 0.0], [np.inf, 0.0], [1e30, 1e30]]
    for align_corners, fill in itertools.product((False, True), (0.0, 2.0)):
        output, _, gradient = run(image, points, mode=mode, align_corners=align_corners, fill=fill)
        np.testing.assert_array_equal(output, np.full((6, 1), fill))
        np.testing.assert_array_equal(gradient, np.zeros((6, 2)))


def test_nan_pixel_does_not_affect_a_sample_half_outside() -> None:
    """The taps outside of a sample in another row do not read the NaN pixel."""
    image = np.ones((4, 4, 1))
    image[0, 0] = np.nan
    # Position (-0.5, 2.0): taps at x = -1, which is clipped to column 0, and at x = 0 of row 2.
    points = np.array([[oracles.normalise(-0.5, 4, False), oracles.normalise(2.0, 4, False)]])
    output, _, gradient = run(image, points)
    np.testing.assert_array_equal(output, [[0.5]])
    # Two pixels per unit in x; in y, rows 2 and 3 are equal.
    np.testing.assert_array_equal(gradient, [[2.0, 0.0]])


@pytest.mark.parametrize("spatial", [(5, 6), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("mode", oracles.MODES)
@pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)
def test_taps_of_weight_0_add_nothing(
    mode: str, padding_mode: str, spatial: tuple[int, ...]
) -> None:
    """At the centre of a pixel, all other pixels and `fill` may be infinite or NaN."""
    random = np.random.default_rng(0)
    image = random.choice([1.0, 2.0, np.nan, np.inf, -np.inf], (*spatial, 3))
    pixels = np.stack(np.meshgrid(*map(np.arange, reversed(spatial)), indexing="ij"), -1)
    axes = zip(np.moveaxis(pixels, -1, 0), reversed(spatial), strict=True)
    points = np.stack([oracles.normalise(p, size, True) for p, size in axes], -1)
    for fill in (np.nan, np.inf) if padding_mode == "zeros" else (0.0,):
        options = {"mode": mode, "padding_mode": padding_mode, "align_corners": True, "fill": fill}
        with jax.enable_x64(True):  # in float32, `normalise` misses some centres
            sample = jax.jit(functools.partial(stn_jax.grid_sample, **options))
            output = sample(jnp.asarray(image), jnp.asarray(points))
        expected = np.moveaxis(image, range(len(spatial)), reversed(range(len(spatial))))
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_infinite_fill_is_read_far_outside(mode: str, ndim: int) -> None:
    image, axes = np.ones((3,) * ndim + (2,)), itertools.permutations([5.3, 0.1, 0.2][:ndim])
    points = [*axes, [5.3] * ndim, [-2.7] * ndim, [1e30] * ndim]
    output, _, _ = run(image, points, mode=mode, fill=np.inf)
    np.testing.assert_array_equal(output, np.full((len(points), 2), np.inf))


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("pixel", [np.inf, -np.inf])
def test_infinite_pixel_gives_infinite_gradients(pixel: float, channels: int) -> None:
    """As in PyTorch, gradients in x and y around the pixel are infinite, not NaN."""
    image = np.ones((4, 4, channels))
    image[1, 2] = pixel
    points = oracles.normalise([[1.25, 0.75], [2.25, 0.75], [1.25, 1.75], [2.25, 1.75]], 4, False)
    _, _, gradient = run(image, points)
    signs = [[1, 1], [-1, 1], [1, -1], [-1, -1]]
    np.testing.assert_array_equal(gradient, np.multiply(signs, pixel))


@every_option
def test_signed_zeros_and_denormals_are_equal_coordinates(options: dict[str, Any]) -> None:
    tiny = [0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39]
    points = [[x, y] for x in tiny for y in tiny]
    # Odd sizes, because at an even size the centre is a tie that tiny floats could decide.
    image = random_image(5, 3)
    output, _, to_points = run(image, points, **options)
    np.testing.assert_array_equal(output, np.broadcast_to(output[:1], output.shape))
    np.testing.assert_array_equal(to_points, np.broadcast_to(to_points[:1], to_points.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)
def test_non_finite_or_huge_theta_gives_a_finite_output(padding_mode: str, bad: float) -> None:
    image = jnp.asarray(random_image(6, 5), jnp.float32)

    @jax.jit
    def warp(theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(
            image, theta, stn_jax.transforms.affine, padding_mode=padding_mode
        )

    for entry in range(6):
        theta = jnp.asarray([1.0, 0, 0, 0, 1.0, 0]).at[entry].set(bad)
        assert np.isfinite(warp(theta)).all()


def test_float64_coordinates_beyond_the_range_of_float32() -> None:
    image = random_image(4, 5)
    points = np.array([[1e300, 0.1], [-1e300, 0.1], [0.1, 1e308], [-1.7e308, 1.7e308]])
    with jax.enable_x64(True):
        for options in OPTIONS:
            output, to_image, to_points = run(image, points, jnp.float64, **options)
            assert np.isfinite(output).all()
            assert np.isfinite(to_image).all()
            assert np.isfinite(to_points).all()
            if options["padding_mode"] != "reflection":
                expected = oracles.grid_sample(image, points, **options)
                np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
