"""Laws of every family of transformations, at the identity, near it and far from it."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import spatial_transform, transforms

LINEAR = [
    transforms.translation,
    transforms.rotation,
    transforms.translation_scale,
    transforms.similarity,
    transforms.affine,
    transforms.projective,
    transforms.affine_3d,
    transforms.rigid_3d,
]
SPLINES = [
    transforms.thin_plate_spline(),
    transforms.thin_plate_spline((2, 3)),
    transforms.thin_plate_spline((3, 3), 0.1),
]
FLOWS = [transforms.velocity_field((3, 4)), transforms.velocity_field((2, 2, 3))]
CPAB = [transforms.cpab((2, 3)), transforms.cpab((1, 2), zero_boundary=False)]
ALL = [
    *LINEAR,
    *SPLINES,
    *FLOWS,
    *CPAB,
    transforms.series(transforms.affine, 2),
    transforms.chain(transforms.thin_plate_spline((2, 3)), transforms.projective),
]
DISTANCES = {"at the identity": 0.0, "near the identity": 1e-6, "far from the identity": 0.2}

every_transform = pytest.mark.parametrize(
    "transform", ALL, ids=lambda t: f"{t.name}-{t.num_params}"
)
every_linear = pytest.mark.parametrize("transform", LINEAR, ids=lambda t: t.name)
every_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES.keys())


def random_theta(transform: transforms.Transform, distance: float, seed: int = 0) -> jax.Array:
    """A theta at about the given distance from the identity."""
    noise = np.random.default_rng(seed).normal(size=transform.num_params)
    return jnp.asarray(transform.identity + distance * noise)


def random_points(transform: transforms.Transform, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (50, transform.ndim)))


@every_transform
def test_identity_returns_points_exactly(transform: transforms.Transform) -> None:
    points = random_points(transform).astype(jnp.float32)
    np.testing.assert_array_equal(transform.warp(transform.identity, points), points)


@every_transform
def test_identity_is_flat_float32_and_read_only(transform: transforms.Transform) -> None:
    assert transform.identity.shape == (transform.num_params,)
    assert transform.identity.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        transform.identity[0] = 1


@every_linear
@every_distance
def test_composition_equals_two_warps(
    transform: transforms.Transform, distance: float, x64: None
) -> None:
    a, b = (random_theta(transform, distance, seed) for seed in (1, 2))
    points = random_points(transform)
    composed = transform.warp(transform.compose(a, b), points)
    np.testing.assert_allclose(composed, transform.warp(a, transform.warp(b, points)), atol=1e-12)


@every_linear
@every_distance
def test_inverse_undoes_the_warp(
    transform: transforms.Transform, distance: float, x64: None
) -> None:
    theta, points = random_theta(transform, distance), random_points(transform)
    warped = transform.warp(theta, points)
    np.testing.assert_allclose(transform.warp(transform.inverse(theta), warped), points, atol=1e-11)
    neutral = transform.compose(transform.inverse(theta), theta)
    np.testing.assert_allclose(neutral, transform.identity, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        # Up to rounding, rows are multiples or sums of other rows.
        ("affine", [0.1, 0.2, 0.0, 0.3, 0.6, 0.0]),
        ("affine", [0.0] * 6),
        ("affine", [1e-30, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("affine_3d", [0.1, 0.2, 0.3, 0, 0.4, 0.5, 0.7, 0, 0.5, 0.7, 1.0, 0]),
        ("projective", [0.1, 0.2, 0.0, 0.3, 0.6, 0.0, 0.1, 0.2]),
        ("translation_scale", [0.0, 0.1, 0.2]),
        ("translation_scale", [1e-45, 0.1, 0.2]),
    ],
)
def test_inverse_of_a_singular_theta_is_nan(name: str, theta: list[float]) -> None:
    transform = getattr(transforms, name)
    inverse = jax.jit(transform.inverse)(jnp.asarray(theta, jnp.float32))
    assert np.isnan(inverse).all()


def test_tiny_scales_have_an_inverse() -> None:
    theta = jnp.asarray([1e-12, 0.0, 0.5, 0.0, 1e-8, 0.5], jnp.float32)
    inverse = transforms.affine.inverse(theta)
    np.testing.assert_allclose(inverse, [1e12, 0, -5e11, 0, 1e8, -5e7], rtol=1e-6)


@every_linear
def test_matrix_reproduces_the_warp(transform: transforms.Transform, x64: None) -> None:
    theta, points = random_theta(transform, 0.2), random_points(transform)
    ones = jnp.ones((len(points), 1))
    mapped = jnp.concatenate([points, ones], axis=1) @ transform.matrix(theta).T
    if transform.name == "projective":
        mapped = mapped[:, :2] / mapped[:, 2:]
    np.testing.assert_allclose(transform.warp(theta, points), mapped, atol=1e-13)


@every_transform
def test_forward_reverse_and_numerical_jacobians_agree(
    transform: transforms.Transform, x64: None
) -> None:
    points, step = random_points(transform)[:5], 1e-6

    @jax.jit
    def jacobians(theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def warp(theta: jax.Array) -> jax.Array:
            return transform.warp(theta, points)

        def difference_quotient(delta: jax.Array) -> jax.Array:
            return (warp(theta + delta) - warp(theta - delta)) / (2 * step)

        numerical = jax.vmap(difference_quotient, out_axes=-1)(step * jnp.eye(theta.size))
        return jax.jacfwd(warp)(theta), jax.jacrev(warp)(theta), numerical

    for name, distance in DISTANCES.items():
        forward, reverse, numerical = jacobians(random_theta(transform, distance))
        np.testing.assert_allclose(forward, reverse, atol=1e-12, err_msg=name)
        # Near the identity, flows read a grid close to its nodes, where the derivative jumps by
        # the order of theta; the difference quotient averages both sides.
        one_sided = transform in FLOWS and distance < 0.1
        np.testing.assert_allclose(
            forward, numerical, atol=2e-6 if one_sided else 1e-8, err_msg=name
        )


@every_transform
def test_second_derivatives_are_finite(transform: transforms.Transform) -> None:
    points = random_points(transform)[:3].astype(jnp.float32)
    hessian = jax.jit(jax.hessian(lambda theta: jnp.sum(transform.warp(theta, points) ** 2)))
    for name, distance in DISTANCES.items():
        assert np.isfinite(hessian(random_theta(transform, distance).astype(jnp.float32))).all(), (
            name
        )


@every_transform
def test_no_entry_of_the_gradient_vanishes_at_the_identity(transform: transforms.Transform) -> None:
    rng = np.random.default_rng(0)
    shape = (9, 8, 1) if transform.ndim == 2 else (5, 7, 6, 1)
    image, target = rng.normal(size=(2, *shape)).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient_of(theta: jax.Array) -> jax.Array:
        return jnp.sum((spatial_transform(image, theta, transform) - target) ** 2)

    gradient = gradient_of(jnp.asarray(transform.identity))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).min() > 1e-3


@every_transform
def test_vmap_equals_a_loop(transform: transforms.Transform) -> None:
    thetas = jnp.stack([random_theta(transform, 0.2, seed) for seed in range(3)]).astype(
        jnp.float32
    )
    points = random_points(transform).astype(jnp.float32)
    batched = jax.jit(jax.vmap(transform.warp, in_axes=(0, None)))(thetas, points)
    looped = jnp.stack([transform.warp(theta, points) for theta in thetas])
    np.testing.assert_allclose(batched, looped, atol=1e-5)


@every_transform
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_theta_is_computed_in_float32(
    transform: transforms.Transform, dtype: jnp.dtype
) -> None:
    points = random_points(transform).astype(jnp.float32)
    assert transform.warp(random_theta(transform, 0.1).astype(dtype), points).dtype == jnp.float32


@every_transform
def test_copies_are_the_same_object(transform: transforms.Transform) -> None:
    assert copy.copy(transform) is copy.deepcopy(transform) is transform


@every_transform
def test_transform_is_a_static_argument_of_jit(transform: transforms.Transform) -> None:
    warp = jax.jit(lambda t, theta, p: t.warp(theta, p), static_argnums=0)
    points = random_points(transform).astype(jnp.float32)
    np.testing.assert_array_equal(warp(transform, transform.identity, points), points)
    assert transform != ALL[ALL.index(transform) - 1]


@every_transform
def test_errors_name_the_family_and_the_argument(
    transform: transforms.Transform, unchecked: None
) -> None:
    points, theta = np.zeros((2, transform.ndim), np.float32), transform.identity
    with pytest.raises(ValueError, match=rf"theta of {transform.name} must have shape"):
        transform.warp(np.zeros(transform.num_params + 1, np.float32), points)
    with pytest.raises(ValueError, match=r"theta of .* must be of a floating dtype; got int32"):
        transform.warp(theta.astype(np.int32), points)
    with pytest.raises(ValueError, match=rf"points of {transform.name} must have shape"):
        transform.warp(theta, np.zeros((2, 5), np.float32))


def test_rotation_by_a_right_angle() -> None:
    angle = jnp.asarray([np.pi / 2], jnp.float32)
    rotated = transforms.rotation.warp(angle, jnp.asarray([[1.0, 0.0]]))
    np.testing.assert_allclose(rotated, [[0, 1]], atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1.0, 3.0, 3.1415926])
def test_rigid_3d_matrix_is_the_rotation_about_its_axis(angle: float, x64: None) -> None:
    axis = np.asarray([1.0, 2.0, -2.0]) / 3
    matrix = transforms.rigid_3d.matrix(jnp.concatenate([angle * axis, jnp.zeros(3)]))[:, :3]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-12)
    np.testing.assert_allclose(np.trace(matrix), 1 + 2 * np.cos(angle), atol=1e-12)
    np.testing.assert_allclose(matrix @ axis, axis, atol=1e-12)


def test_rigid_3d_composition_keeps_the_angle_below_pi(x64: None) -> None:
    rotation = jnp.asarray([0.0, 0.0, 2.5, 0.0, 0.0, 0.0])
    composed = transforms.rigid_3d.compose(rotation, rotation)
    np.testing.assert_allclose(composed[2], 5.0 - 2 * np.pi, atol=1e-12)


EXTREMES = (1e-40, 1e-3, 1.0, 44.5, 88.5, 89.0, 710.0, 1e7, 1e10, 1e20, 1e38, 1e200, 1e308)
UNBOUNDED = [*LINEAR, transforms.thin_plate_spline((2, 3))]
UNBOUNDED += [transforms.series(each, 2) for each in (transforms.affine, transforms.projective)]


def extreme_thetas(transform: transforms.Transform, dtype: type[np.floating]) -> np.ndarray:
    """Finite thetas of which one entry, or all, are very large or small."""
    limit = float(np.finfo(dtype).max)
    values = np.unique([sign * min(each, limit) for each in EXTREMES for sign in (-1, 1)])
    rng = np.random.default_rng(0)
    single = np.where(
        np.eye(transform.num_params, dtype=bool)[:, None], values[:, None], transform.identity
    ).reshape(-1, transform.num_params)
    return np.concatenate([single, rng.choice(values, (50, transform.num_params))]).astype(dtype)


@pytest.mark.parametrize("transform", UNBOUNDED, ids=lambda t: f"{t.name}-{t.num_params}")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_gradients_are_finite_for_every_finite_theta(
    transform: transforms.Transform, dtype: type[np.floating], padding_mode: Any, x64: None
) -> None:
    shape = (5, 4, 3)[: transform.ndim]
    image = jnp.asarray(np.random.default_rng(1).normal(size=(*shape, 1)), dtype)

    def total(theta: jax.Array) -> jax.Array:
        return spatial_transform(image, theta, transform, padding_mode=padding_mode).sum()

    thetas = extreme_thetas(transform, dtype)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(total)))(thetas)
    finite = np.isfinite(gradients).all(axis=1) & np.isfinite(values)
    np.testing.assert_array_equal(thetas[~finite], np.empty((0, transform.num_params)))
