"""Grid generation and sampling in one: what `spatial_transform` adds to its parts."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms, warping
from stn_jax.coordinates import computed_target_points, target_points

RNG = np.random.default_rng(0)
PLANAR = [
    transforms.translation,
    transforms.rotation,
    transforms.translation_scale,
    transforms.similarity,
    transforms.affine,
    transforms.projective,
    transforms.thin_plate_spline(),
]
planar = pytest.mark.parametrize("transform", PLANAR, ids=lambda t: t.name)


def near_identity(transform: transforms.Transform) -> jax.Array:
    noise = np.random.default_rng(1).normal(size=transform.num_params)
    return jnp.asarray(transform.identity + 0.1 * noise)


@planar
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("output_shape", [(5, 9), (12, 4), (1, 1), (7, 6)])
def test_equals_sampling_at_the_grid(
    transform: transforms.Transform, align_corners: bool, output_shape: tuple, x64: None
) -> None:
    image, theta = jnp.asarray(RNG.normal(size=(7, 6, 2))), near_identity(transform)
    grid = stn_jax.transform_grid(theta, transform, output_shape, align_corners=align_corners)
    np.testing.assert_allclose(
        stn_jax.spatial_transform(
            image, theta, transform, output_shape=output_shape, align_corners=align_corners
        ),
        stn_jax.grid_sample(image, grid, align_corners=align_corners),
        atol=1e-12,
    )


def test_affine_grid_is_the_affine_transforms_grid() -> None:
    theta = near_identity(transforms.affine)
    np.testing.assert_array_equal(
        stn_jax.affine_grid(theta.reshape(2, 3), (4, 5)),
        stn_jax.transform_grid(theta, transforms.affine, (4, 5)),
    )


def test_what_comes_from_outside_is_the_fill() -> None:
    image = jnp.ones((6, 6, 2))
    far = jnp.asarray([5.0, 0.0])
    output = stn_jax.spatial_transform(image, far, transforms.translation, fill=(-1.0, 2.0))
    np.testing.assert_array_equal(output, jnp.broadcast_to(jnp.asarray([-1.0, 2.0]), (6, 6, 2)))


def test_the_fill_leaves_the_identity_exact() -> None:
    image = jnp.asarray(RNG.normal(size=(11, 13, 1)), jnp.float32)
    output = stn_jax.spatial_transform(
        image, transforms.affine.identity, transforms.affine, fill=-0.4242
    )
    np.testing.assert_array_equal(output, image)


def test_outside_frame_counts_nan_as_outside() -> None:
    grid = jnp.asarray([[0.0, 0.0], [1.0, -1.0], [1.01, 0.0], [0.0, -2.0], [jnp.nan, 0.0]])
    np.testing.assert_array_equal(stn_jax.outside_frame(grid), [False, False, True, True, True])


@planar
def test_traced_once_for_any_theta(transform: transforms.Transform) -> None:
    @jax.jit
    @chex.assert_max_traces(n=1)
    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(image, theta, transform)

    chex.clear_trace_counter()
    for scale in (0.0, 1.0, 2.0):
        theta = transform.identity + scale * (near_identity(transform) - transform.identity)
        assert np.isfinite(warp(jnp.ones((5, 6, 1)), theta.astype(jnp.float32))).all()


def test_errors(unchecked: None) -> None:
    image = jnp.ones((4, 5, 1))
    said = r"image for affine must have shape \[h, w, c\] \(one example; jax.vmap makes batches\)"
    with pytest.raises(ValueError, match=said):
        stn_jax.spatial_transform(image[..., 0], transforms.affine.identity, transforms.affine)
    with pytest.raises(ValueError, match=r"image for affine_3d must have shape \[d, h, w, c\]"):
        stn_jax.spatial_transform(image, transforms.affine_3d.identity, transforms.affine_3d)
    shear = transforms.Transform("shear", 2, np.zeros(1, np.float32), lambda theta, points: points)
    for use in (
        lambda theta: stn_jax.spatial_transform(image, theta, shear),
        lambda theta: stn_jax.transform_grid(theta, shear, (4, 5)),
    ):  # a family of one's own
        with pytest.raises(ValueError, match=r"theta of shear must have shape \[1\]; got \[9\]"):
            use(jnp.zeros(9))
    with pytest.raises(ValueError, match=r"theta of rotation must have shape \[1\]; got \[2\]"):
        stn_jax.spatial_transform(image, jnp.zeros(2), transforms.rotation)
    with pytest.raises(ValueError, match=r"output_shape must be 2 non-negative integers; got \(4,"):
        stn_jax.transform_grid(jnp.zeros(1), transforms.rotation, (4, -1))
    with pytest.raises(ValueError, match=r"fill must be a number or one per channel, \[1\]"):
        stn_jax.spatial_transform(image, jnp.zeros(1), transforms.rotation, fill=(1.0, 2.0))


def affine_by_quarters(quarters: np.ndarray, h: int, w: int) -> np.ndarray:
    """Thetas whose entries are quarters of pixels."""
    columns = [quarters[0], quarters[1] * h / w, quarters[2] / w]
    columns += [quarters[3] * w / h, quarters[4], quarters[5] / h]
    return np.stack(columns, axis=1)


def spline_by_quarters(quarters: np.ndarray, h: int, w: int) -> np.ndarray:
    """Thetas that shift the whole image by quarters of pixels."""
    return np.tile(np.stack([2 * quarters[0] / w, 2 * quarters[1] / h], axis=1), (1, 16))


@pytest.mark.parametrize("shape", [(41, 37), (28, 28), (60, 60)])
@pytest.mark.parametrize(
    ("transform", "make"),
    [
        (transforms.affine, affine_by_quarters),
        (transforms.thin_plate_spline((4, 4)), spline_by_quarters),
    ],
)
def test_indices_and_weights_agree_on_whole_positions(
    transform: transforms.Transform,
    make: Callable[[np.ndarray, int, int], np.ndarray],
    shape: tuple[int, int],
) -> None:
    """Thetas that send pixels to whole and half pixels: a rounding apart is a pixel apart.

    Compiled for a batch, with its gradients, positions are computed in several kernels.
    """
    h, w = shape
    rng = np.random.default_rng(0)
    thetas = make(rng.integers(-8, 9, (6, 256)) / 4, h, w)
    images, cotangents = rng.normal(size=(2, 256, h, w, 1))

    @jax.jit
    def sample(images: jax.Array, thetas: jax.Array) -> tuple[jax.Array, jax.Array]:
        def warp(images: jax.Array) -> jax.Array:
            return jax.vmap(lambda i, t: stn_jax.spatial_transform(i, t, transform))(images, thetas)

        output, pull_back = jax.vjp(warp, images)
        return output, pull_back(jnp.asarray(cotangents, output.dtype))[0]

    found = sample(jnp.asarray(images, jnp.float32), jnp.asarray(thetas, jnp.float32))
    with jax.enable_x64(True):
        expected = sample(jnp.asarray(images), jnp.asarray(np.float32(thetas), jnp.float64))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)  # a pixel apart is about 1


# Points.

INVERTIBLE = [t for t in PLANAR if t.inverse is not None]
INVERTIBLE += [transforms.affine_3d, transforms.rigid_3d]
invertible = pytest.mark.parametrize("transform", INVERTIBLE, ids=lambda t: t.name)
corners = pytest.mark.parametrize("align_corners", [False, True])


@invertible
@corners
def test_points_there_and_back_are_where_they_were(
    transform: transforms.Transform, align_corners: bool, x64: None
) -> None:
    input_shape, output_shape = (
        ((9, 14), (6, 11)) if transform.ndim == 2 else ((9, 14, 4), (6, 5, 7))
    )
    points = jnp.asarray(RNG.uniform(0, 10, (3, 5, transform.ndim)))
    theta = near_identity(transform)

    def warp(points: jax.Array, to: str) -> jax.Array:
        return stn_jax.warp_points(
            points,
            theta,
            transform,
            input_shape,
            to=to,
            output_shape=output_shape,
            align_corners=align_corners,
        )

    @jax.jit
    def there_and_back(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        return warp(warp(points, "input"), "output"), warp(warp(points, "output"), "input")

    for found in there_and_back(points):
        np.testing.assert_allclose(found, points, atol=1e-9)


@planar
@corners
def test_a_point_of_the_output_is_where_the_image_was_read(
    transform: transforms.Transform, align_corners: bool, x64: None
) -> None:
    """An image of its own coordinates: what a pixel shows is where it comes from."""
    output_shape, (rows, columns) = (5, 7), np.mgrid[:40, :30]
    image = jnp.asarray(np.stack([columns, rows], axis=-1), float)
    theta = 0.5 * (transform.identity + near_identity(transform))
    settings = {"output_shape": output_shape, "align_corners": align_corners}
    seen = stn_jax.spatial_transform(image, theta, transform, padding_mode="border", **settings)
    pixels = jnp.asarray(np.stack(np.mgrid[:5, :7][::-1], axis=-1), float)
    found = np.asarray(
        stn_jax.warp_points(pixels, theta, transform, (40, 30), to="input", **settings)
    )
    inside = np.all((found >= 0) & (found <= [29, 39]), axis=-1)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(found[inside], seen[inside], atol=1e-9)


@pytest.mark.parametrize("transform", INVERTIBLE[:-2], ids=lambda t: t.name)
@corners
def test_a_bright_spot_goes_where_its_point_goes(
    transform: transforms.Transform, align_corners: bool
) -> None:
    spot = jnp.asarray([33.0, 22.0])
    rows, columns = np.mgrid[:50, :60]
    image = np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 20)[..., None]
    theta = near_identity(transform).astype(jnp.float32)
    settings = {"output_shape": (80, 70), "align_corners": align_corners}
    output = stn_jax.spatial_transform(image.astype(np.float32), theta, transform, **settings)
    weights = np.asarray(output[..., 0]) / output.sum()
    rows, columns = np.mgrid[:80, :70]
    centre = [(weights * columns).sum(), (weights * rows).sum()]
    found = stn_jax.warp_points(spot, theta, transform, (50, 60), to="output", **settings)
    assert np.abs(np.asarray(found) - np.asarray(spot)).max() > 1
    np.testing.assert_allclose(found, centre, atol=0.3 if transform.name == "projective" else 0.03)


def test_points_have_gradients_and_batches(x64: None) -> None:
    identity = jnp.asarray(transforms.similarity.identity, float)
    thetas = jnp.stack([near_identity(transforms.similarity), identity])
    point = jnp.asarray([3.0, 4.0])

    def where(theta: jax.Array) -> jax.Array:
        return stn_jax.warp_points(point, theta, transforms.similarity, (8, 8), to="output")

    @jax.jit
    def all_at_once() -> tuple[jax.Array, ...]:
        slopes = jax.jacfwd(where)(thetas[0]), jax.jacrev(where)(thetas[0])
        return jax.vmap(where)(thetas), jnp.stack([where(theta) for theta in thetas]), *slopes

    batched, looped, forward, reverse = all_at_once()
    np.testing.assert_allclose(batched, looped, atol=1e-12)
    np.testing.assert_allclose(batched[1], point, atol=1e-12)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    assert np.abs(forward).min() > 0.1


def test_no_inverse_is_nan_or_an_error(unchecked: None) -> None:
    points = jnp.zeros((4, 2))
    for transform in (transforms.affine, transforms.translation_scale, transforms.projective):
        singular = jnp.zeros(transform.num_params)
        found = stn_jax.warp_points(points, singular, transform, (5, 6), to="output")
        assert np.isnan(found).all(), transform.name
    spline = transforms.thin_plate_spline()
    with pytest.raises(ValueError, match=r"to must be input for thin_plate_spline, which has no"):
        stn_jax.warp_points(points, spline.identity, spline, (5, 6), to="output")
    with pytest.raises(ValueError, match=r"to must be one of input, output; got 'image'"):
        stn_jax.warp_points(points, spline.identity, spline, (5, 6), to="image")
    with pytest.raises(ValueError, match=r"points of affine must have shape \[..., 2\]"):
        stn_jax.warp_points(points[:, :1], jnp.zeros(6), transforms.affine, (5, 6), to="input")
    with pytest.raises(ValueError, match=r"input_shape must be 2 non-negative integers"):
        stn_jax.warp_points(points, jnp.zeros(6), transforms.affine, (5, 6, 1), to="input")


# At another resolution.


@planar
@corners
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_straightening_at_the_same_size_is_the_transformation(
    transform: transforms.Transform, align_corners: bool, padding_mode: str, x64: None
) -> None:
    image, theta = jnp.asarray(RNG.normal(size=(8, 7, 2))), near_identity(transform)
    settings = {"output_shape": (5, 9), "align_corners": align_corners}
    settings |= {"padding_mode": padding_mode}
    np.testing.assert_allclose(
        stn_jax.straighten(image, theta, transform, (8, 7), **settings),
        stn_jax.spatial_transform(image, theta, transform, **settings),
        atol=1e-12,
    )


@corners
def test_straightening_shows_the_same_with_more_pixels(align_corners: bool, x64: None) -> None:
    """An image of its own coordinates, in units of the side, which resizing leaves alone."""

    def coordinates(height: int, width: int) -> jax.Array:
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)
        return jnp.asarray(pixels)

    theta = jnp.asarray([0.5, 0.2, 0.1, -0.1, 0.4, 0.05])
    settings = {"output_shape": (6, 8), "align_corners": align_corners}
    small = stn_jax.spatial_transform(coordinates(12, 12), theta, transforms.affine, **settings)
    large = stn_jax.straighten(coordinates(60, 36), theta, transforms.affine, (12, 12), **settings)
    assert large.shape == (30, 24, 2)
    np.testing.assert_allclose(large[2::5, 1::3], small, atol=1e-12)


def test_a_spline_straightens_a_photograph_in_parts() -> None:
    """Its numbers of each control point for every pixel at once are 36 floats a pixel here."""
    image, spline = (
        jax.ShapeDtypeStruct((1000, 1500, 3), jnp.float32),
        transforms.thin_plate_spline(),
    )
    theta = jax.ShapeDtypeStruct((spline.num_params,), jnp.float32)
    program = jax.jit(lambda image, theta: stn_jax.straighten(image, theta, spline, (28, 28)))
    floats = program.lower(image, theta).compile().memory_analysis().temp_size_in_bytes / 4
    assert floats < 12 * image.shape[0] * image.shape[1]


def test_straightening_by_a_spline_again_compiles_nothing() -> None:
    image, spline = jnp.ones((40, 30, 1)), transforms.thin_plate_spline()
    stn_jax.straighten(image, jnp.zeros(spline.num_params), spline, (28, 28))
    compiled = warping._warp_points_by_rows._cache_size()
    stn_jax.straighten(image, jnp.ones(spline.num_params), spline, (28, 28))
    assert warping._warp_points_by_rows._cache_size() == compiled > 0


def test_the_program_that_straightens_does_not_grow_with_the_image() -> None:
    def length(side: int) -> int:
        straighten = jax.jit(stn_jax.straighten, static_argnums=(2, 3))
        image, theta = jnp.zeros((side, side, 1)), transforms.affine.identity
        return len(straighten.lower(image, theta, transforms.affine, (12, 12)).as_text())

    assert length(256) < 1.1 * length(16)


@pytest.mark.parametrize("shape", [(1, 2), (7, 1000), (3, 4, 5)])
def test_computed_points_are_the_constant_ones(shape: tuple[int, ...]) -> None:
    constant = target_points(shape, align_corners=False)
    computed = computed_target_points(shape, np.dtype(np.float32))
    np.testing.assert_allclose(computed, constant, rtol=2e-7, atol=1e-12)  # two roundings


def test_straightening_needs_a_size_at_which_theta_was_predicted() -> None:
    with pytest.raises(ValueError, match=r"input_shape must be positive; got \(0, 4\)"):
        stn_jax.straighten(jnp.ones((4, 4, 1)), jnp.zeros(2), transforms.translation, (0, 4))


def test_straightening_errors(unchecked: None) -> None:
    image, theta = jnp.ones((4, 5, 1)), jnp.asarray(transforms.affine.identity)
    with pytest.raises(ValueError, match=r"input_shape must be 2 non-negative integers"):
        stn_jax.straighten(image, theta, transforms.affine, (4,))
    with pytest.raises(ValueError, match=r"image for affine must have shape \[h, w, c\]"):
        stn_jax.straighten(image[0], theta, transforms.affine, (4, 4))
