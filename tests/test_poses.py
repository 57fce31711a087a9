"""Poses: conversion to and from theta, composition, and the equivariance error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import poses, spatial_transform, transforms, warp_points
from stn_jax.transforms import affine, similarity

POSE = [0.7, 0.3, 4.0, -2.5]
MOVE = [-0.4, -0.2, 1.5, 3.0]
SHAPE, OUTPUT = (20, 34), (13, 9)


def theta_of(
    pose: list[float], input_shape: tuple = SHAPE, output_shape: tuple = OUTPUT
) -> jax.Array:
    """The affine theta of a pose."""
    return poses.affine_from_pose(jnp.asarray(pose), input_shape, output_shape)


@pytest.mark.parametrize("pose", [POSE, MOVE, [0.0] * 4])
def test_pose_of_a_similarity_is_the_given_pose(pose: list[float], x64: None) -> None:
    found = poses.pose_at_centre(theta_of(pose), affine, SHAPE, output_shape=OUTPUT)
    np.testing.assert_allclose(found, pose, atol=1e-12)


def test_float32_poses_stay_float32_with_x64_enabled(x64: None) -> None:
    pose = jnp.asarray(POSE, jnp.float32)
    theta = poses.affine_from_pose(pose, SHAPE, OUTPUT)
    found = poses.pose_at_centre(theta, affine, SHAPE, output_shape=OUTPUT)
    assert (theta.dtype, found.dtype) == (jnp.float32, jnp.float32)


THETAS = {
    "affine": (affine, [0.8, 0.3, 0.1, -0.4, 1.1, 0.2]),
    "projective": (transforms.projective, [0.9, 0.2, 0.1, -0.3, 1.1, 0.2, 0.15, -0.1]),
    "spline": (
        transforms.thin_plate_spline((3, 3)),
        (0.3 * np.random.default_rng(0).normal(size=18)).tolist(),
    ),
}


@pytest.mark.parametrize("name", THETAS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_moving_the_image_composes_the_poses(name: str, align_corners: bool, x64: None) -> None:
    """The similarity MOVE is applied to the image before the transformation."""
    family, theta = THETAS[name]
    # The matrix of MOVE in normalised coordinates of the same convention.
    half = np.asarray(SHAPE[::-1]) / 2 - (0.5 if align_corners else 0.0)
    move = (similarity.matrix(jnp.asarray(MOVE)) * np.append(half, 1) / half[:, None]).ravel()
    after_move = transforms.Transform(
        "after_move",
        2,
        family.identity,
        lambda theta, points: affine.warp(move, family.warp(theta, points)),
        check=False,  # it moves every point
    )

    @functools.partial(jax.jit, static_argnums=0)
    def pose(family: transforms.Transform) -> jax.Array:
        return poses.pose_at_centre(
            jnp.asarray(theta), family, SHAPE, output_shape=OUTPUT, align_corners=align_corners
        )

    composed = similarity.compose(jnp.asarray(MOVE), pose(family))
    np.testing.assert_allclose(pose(after_move), composed, atol=1e-10)


def test_log_scale_of_a_reflection_is_minus_infinity() -> None:
    mirror = jnp.asarray([-1.0, 0, 0, 0, 1, 0])
    assert float(poses.pose_at_centre(mirror, affine, (28, 20))[1]) == -np.inf


def test_poses_reject_invalid_arguments(unchecked: None) -> None:
    one, volume = jnp.asarray([0.5]), transforms.affine_3d.identity
    expected = "must be 2 non-negative integers; got"
    for shape in [(28, 28, 1), (28,), 28, (2.5, 3)]:
        with pytest.raises(ValueError, match=f"input_shape {expected}"):
            poses.pose_at_centre(one, transforms.rotation, shape)
        with pytest.raises(ValueError, match=f"output_shape {expected}"):
            poses.pose_at_centre(one, transforms.rotation, SHAPE, output_shape=shape)
        with pytest.raises(ValueError, match=f"input_shape {expected}"):
            poses.affine_from_pose(jnp.zeros(4), shape, SHAPE)
        with pytest.raises(ValueError, match=f"output_shape {expected}"):
            poses.affine_from_pose(jnp.zeros(4), SHAPE, shape)
    with pytest.raises(ValueError, match=r"transform must be planar; got Transform\('affine_3d'"):
        poses.pose_at_centre(volume, transforms.affine_3d, (8, 8, 8))
    with pytest.raises(ValueError, match=r"transform must be one of stn_jax.transforms"):
        poses.pose_at_centre(one, None, SHAPE)


def test_pose_is_the_least_squares_similarity(x64: None) -> None:
    theta = jnp.asarray(THETAS["affine"][1])
    angle, log_scale, *_ = poses.pose_at_centre(theta, affine, (8, 8))
    linear = theta.reshape(2, 3)[:, :2]
    basis = np.asarray([[1, 0, 0, 1], [0, -1, 1, 0]])  # multiplied by cos and sin
    (cos, sin), *_ = np.linalg.lstsq(basis.T, np.asarray(linear).ravel())
    np.testing.assert_allclose(
        [cos, sin], np.exp(log_scale) * np.asarray([jnp.cos(angle), jnp.sin(angle)])
    )


def test_equivariance_error_of_known_frames(x64: None) -> None:
    applied, before = jnp.asarray([3.0, 0.2, 1.0, -2.0]), jnp.asarray([2.0, -0.5, 4.0, 1.0])
    after = similarity.compose(similarity.inverse(applied), before)
    np.testing.assert_allclose(poses.equivariance_error(applied, before, after), 0, atol=1e-12)
    ignored = poses.equivariance_error(applied, before, before)
    np.testing.assert_allclose(ignored[:2], [3.0, 0.2], atol=1e-12)
    shifted = poses.equivariance_error(applied, before, after + jnp.asarray([0, 0, 3.0, 4.0]))
    np.testing.assert_allclose(shifted, [0, 0, 5 * np.exp(0.2)], atol=1e-12)
    wrapped = poses.equivariance_error(
        applied, before, after + jnp.asarray([2 * np.pi + 0.1, 0, 0, 0])
    )
    np.testing.assert_allclose(wrapped[0], 0.1, atol=1e-12)


def test_frames_without_equivariance_error_show_the_same_pixels() -> None:
    """Checks the meaning of `applied`: it is the warp that moved the image."""
    rows, columns = np.mgrid[:40, :60]
    image = np.exp(-((columns - 33.0) ** 2 / 60 + (rows - 17.0) ** 2 / 20))[..., None]
    image = jnp.asarray(image, jnp.float32)
    applied, before = jnp.asarray([0.4, 0.1, 2.0, -1.5]), jnp.asarray([0.3, -0.2, 1.0, 2.0])
    after = similarity.compose(similarity.inverse(applied), before)
    moved = stn_jax.spatial_transform(image, theta_of(applied, (40, 60), (40, 60)), affine)
    output_before, output_after = (
        stn_jax.spatial_transform(
            each, theta_of(pose, (40, 60), (30, 30)), affine, output_shape=(30, 30)
        )
        for each, pose in ((image, before), (moved, after))
    )
    assert np.abs(moved - image).max() > 0.3
    np.testing.assert_allclose(output_after, output_before, atol=0.05)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -5])
def test_rotation_about_the_centre_by_right_angles_is_exact(quarters: int) -> None:
    image = np.random.default_rng(0).normal(size=(5, 8, 2)).astype(np.float32)
    expected = np.rot90(image, quarters)
    theta = poses.affine_about(90.0 * quarters, (5, 8), output_shape=expected.shape[:2])
    found = spatial_transform(image, theta, transforms.affine, output_shape=expected.shape[:2])
    np.testing.assert_array_equal(found, expected)


def test_rotation_about_a_point_keeps_the_point_and_does_not_shear(x64: None) -> None:
    shape, centre, angle, scale = (20, 31), np.asarray([4.0, 15.0]), np.deg2rad(25.0), 1.7

    @jax.jit
    def output_of(points: jax.Array) -> jax.Array:
        theta = poses.affine_about(jnp.asarray(25.0), shape, centre=centre, scale=scale)
        return warp_points(points, theta, transforms.affine, shape, to="output")

    points = np.asarray([[4.0, 15.0], [14.0, 15.0], [4.0, 5.0]])
    # The y axis points down, so the content rotates anticlockwise on screen.
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    expected = centre + (points - centre) @ np.asarray([[cos, sin], [-sin, cos]]).T
    np.testing.assert_allclose(output_of(jnp.asarray(points)), expected, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 44.9, 45.1, 135.0, 225.0, -300.0])
def test_rotation_in_degrees_has_the_values_and_derivatives_of_cosine_and_sine(
    angle: float, x64: None
) -> None:
    def rotation(angle: jax.Array) -> jax.Array:
        return poses.affine_about(angle, (4, 4))[jnp.asarray([0, 3])]

    value, derivative = jax.jvp(rotation, (jnp.asarray(angle),), (jnp.asarray(1.0),))
    radians = np.deg2rad(angle)
    np.testing.assert_allclose(value, [np.cos(radians), np.sin(radians)], atol=1e-14)
    expected = np.asarray([-np.sin(radians), np.cos(radians)]) * np.pi / 180
    np.testing.assert_allclose(derivative, expected, atol=1e-14)
