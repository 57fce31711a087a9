"""The pose of a warp: what one sees in pixels, composed as similarities are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import poses, transforms
from stn_jax.transforms import affine, similarity

POSE = [0.7, 0.3, 4.0, -2.5]
MOVE = [-0.4, -0.2, 1.5, 3.0]
SHAPE, OUTPUT = (20, 34), (13, 9)


def of(pose: list[float], input_shape: tuple = SHAPE, output_shape: tuple = OUTPUT) -> jax.Array:
    """The affine theta of a pose."""
    return poses.affine_from_pose(jnp.asarray(pose), input_shape, output_shape)


@pytest.mark.parametrize("pose", [POSE, MOVE, [0.0] * 4])
def test_the_pose_of_a_similarity_is_itself(pose: list[float], x64: None) -> None:
    found = poses.pose_at_centre(of(pose), affine, SHAPE, output_shape=OUTPUT)
    np.testing.assert_allclose(found, pose, atol=1e-12)


def test_float32_stays_float32_where_float64_is_the_default(x64: None) -> None:
    pose = jnp.asarray(POSE, jnp.float32)
    theta = poses.affine_from_pose(pose, SHAPE, OUTPUT)
    found = poses.pose_at_centre(theta, affine, SHAPE, output_shape=OUTPUT)
    assert (theta.dtype, found.dtype) == (jnp.float32, jnp.float32)


NEAR = {
    "affine": (affine, [0.8, 0.3, 0.1, -0.4, 1.1, 0.2]),
    "projective": (transforms.projective, [0.9, 0.2, 0.1, -0.3, 1.1, 0.2, 0.15, -0.1]),
    "spline": (
        transforms.thin_plate_spline((3, 3)),
        (0.3 * np.random.default_rng(0).normal(size=18)).tolist(),
    ),
}


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_similarity_before_is_composed_with_the_pose(
    name: str, align_corners: bool, x64: None
) -> None:
    """Whatever the transformation: the pose of what is seen through a move is the moved pose."""
    family, theta = NEAR[name]
    corners = {"align_corners": align_corners}
    # Theta of the move for coordinates that are normalised in the same way.
    half = np.asarray(SHAPE[::-1]) / 2 - (0.5 if align_corners else 0.0)
    move = (similarity.matrix(jnp.asarray(MOVE)) * np.append(half, 1) / half[:, None]).ravel()
    through = transforms.Transform(
        "through",
        2,
        family.identity,
        lambda theta, points: affine.warp(move, family.warp(theta, points)),
    )

    @functools.partial(jax.jit, static_argnums=0)
    def pose(family: transforms.Transform) -> jax.Array:
        return poses.pose_at_centre(
            jnp.asarray(theta), family, SHAPE, output_shape=OUTPUT, **corners
        )

    composed = similarity.compose(jnp.asarray(MOVE), pose(family))
    np.testing.assert_allclose(pose(through), composed, atol=1e-10)


def test_a_mirror_has_no_scale() -> None:
    mirror = jnp.asarray([-1.0, 0, 0, 0, 1, 0])
    assert float(poses.pose_at_centre(mirror, affine, (28, 20))[1]) == -np.inf


def test_errors(unchecked: None) -> None:
    one, volume = jnp.asarray([0.5]), transforms.affine_3d.identity
    of_two = "must be 2 non-negative integers; got"
    for shape in [(28, 28, 1), (28,), 28, (2.5, 3)]:
        with pytest.raises(ValueError, match=f"input_shape {of_two}"):
            poses.pose_at_centre(one, transforms.rotation, shape)
        with pytest.raises(ValueError, match=f"output_shape {of_two}"):
            poses.pose_at_centre(one, transforms.rotation, SHAPE, output_shape=shape)
        with pytest.raises(ValueError, match=f"input_shape {of_two}"):
            poses.affine_from_pose(jnp.zeros(4), shape, SHAPE)
        with pytest.raises(ValueError, match=f"output_shape {of_two}"):
            poses.affine_from_pose(jnp.zeros(4), SHAPE, shape)
    with pytest.raises(ValueError, match=r"transform must be planar; got Transform\('affine_3d'"):
        poses.pose_at_centre(volume, transforms.affine_3d, (8, 8, 8))
    with pytest.raises(ValueError, match=r"transform must be one of stn_jax.transforms"):
        poses.pose_at_centre(one, None, SHAPE)


def test_the_nearest_similarity_of_a_shear_is_the_least_squares_one(x64: None) -> None:
    theta = jnp.asarray(NEAR["affine"][1])
    angle, log_scale, *_ = poses.pose_at_centre(theta, affine, (8, 8))
    linear = theta.reshape(2, 3)[:, :2]
    basis = np.asarray([[1, 0, 0, 1], [0, -1, 1, 0]])  # a similarity is cos and sin of these
    (cos, sin), *_ = np.linalg.lstsq(basis.T, np.asarray(linear).ravel())
    np.testing.assert_allclose(
        [cos, sin], np.exp(log_scale) * np.asarray([jnp.cos(angle), jnp.sin(angle)])
    )


def test_a_frame_that_moves_with_its_image_has_no_error(x64: None) -> None:
    applied, before = jnp.asarray([3.0, 0.2, 1.0, -2.0]), jnp.asarray([2.0, -0.5, 4.0, 1.0])
    after = similarity.compose(similarity.inverse(applied), before)
    np.testing.assert_allclose(poses.equivariance_error(applied, before, after), 0, atol=1e-12)
    turned = poses.equivariance_error(applied, before, before)
    np.testing.assert_allclose(turned[:2], [3.0, 0.2], atol=1e-12)
    off = poses.equivariance_error(applied, before, after + jnp.asarray([0, 0, 3.0, 4.0]))
    np.testing.assert_allclose(off, [0, 0, 5 * np.exp(0.2)], atol=1e-12)
    full = poses.equivariance_error(
        applied, before, after + jnp.asarray([2 * np.pi + 0.1, 0, 0, 0])
    )
    np.testing.assert_allclose(full[0], 0.1, atol=1e-12)


def test_a_frame_that_moves_with_its_image_sees_the_same() -> None:
    """What `applied` means, in pixels: the image's own warp is the one that is undone."""
    rows, columns = np.mgrid[:40, :60]
    image = np.exp(-((columns - 33.0) ** 2 / 60 + (rows - 17.0) ** 2 / 20))[..., None]
    image = jnp.asarray(image, jnp.float32)
    applied, before = jnp.asarray([0.4, 0.1, 2.0, -1.5]), jnp.asarray([0.3, -0.2, 1.0, 2.0])
    after = similarity.compose(similarity.inverse(applied), before)
    moved = stn_jax.spatial_transform(image, of(applied, (40, 60), (40, 60)), affine)
    seen, again = (
        stn_jax.spatial_transform(each, of(pose, (40, 60), (30, 30)), affine, output_shape=(30, 30))
        for each, pose in ((image, before), (moved, after))
    )
    assert np.abs(moved - image).max() > 0.3
    np.testing.assert_allclose(again, seen, atol=0.05)
