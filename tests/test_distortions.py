"""The distortions are what the paper says, in distribution and pixel by pixel."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions, transforms

SHAPE = (28, 28)
KEYS = jax.random.split(jax.random.key(0), 500)
BLOB = jnp.zeros((*SHAPE, 1)).at[9:19, 9:19].set(1.0)
PLACED = jax.jit(functools.partial(distortions.t, canvas=(60, 60)))
SIMPLE = {
    "r": (distortions.r, SHAPE),
    "rts": (distortions.rts, (42, 42)),
    "p": (distortions.p, SHAPE),
    "e": (distortions.e, SHAPE),
    "t": (distortions.t, (84, 84)),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_pure_batched_and_of_the_canvas_size(name: str) -> None:
    distort, canvas = SIMPLE[name]
    batch = jax.jit(jax.vmap(distort, in_axes=(0, None)))(KEYS[:4], BLOB)
    assert batch.shape == (4, *canvas, 1)
    np.testing.assert_allclose(batch[1], jax.jit(distort)(KEYS[1], BLOB), atol=1e-5)
    assert not np.array_equal(batch[0], batch[1])
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 1 + 1e-6


def angles_and_scales(thetas: jax.Array, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Of affine thetas from a canvas to the image, in degrees and as magnification."""
    m = np.asarray(jax.vmap(transforms.affine.matrix)(thetas))[:, :, :2] * SHAPE[0] / canvas
    return (
        np.degrees(np.arctan2(m[:, 1, 0], m[:, 0, 0])),
        1 / np.sqrt(np.abs(np.linalg.det(m))),
    )


def test_r_turns_by_a_uniform_angle() -> None:
    thetas = jax.vmap(lambda key: distortions.draw_r(key, SHAPE))(KEYS)
    angles, scales = angles_and_scales(thetas, 28)
    assert -90 <= angles.min() < -85
    assert 85 < angles.max() <= 90
    assert abs(angles.std() - 180 / math.sqrt(12)) < 3
    np.testing.assert_allclose(scales, 1, atol=1e-5)


def test_rts_turns_scales_and_places() -> None:
    thetas = jax.vmap(lambda key: distortions.draw_rts(key, SHAPE))(KEYS)
    angles, scales = angles_and_scales(thetas, 42)
    assert np.abs(angles).max() <= 45
    assert 0.7 <= scales.min() < 0.72
    assert 1.18 < scales.max() <= 1.2 + 1e-6
    # The canvas point that the image's centre goes to is where theta gives 0.
    m = np.asarray(jax.vmap(transforms.affine.matrix)(thetas), np.float64)
    centres = np.linalg.solve(m[:, :, :2], -m[:, :, 2:])[..., 0] * 21
    assert np.abs(centres).max() <= 7 + 1e-4
    assert centres.std() > 3.5


def test_r_is_rigid_where_the_image_is_not_square() -> None:
    theta = distortions.draw_r(KEYS[0], (20, 40))
    to_px = np.asarray([20.0, 10.0])  # half the width, half the height
    m = np.asarray(transforms.affine.matrix(theta))[:, :2] * to_px[:, None] / to_px
    np.testing.assert_allclose(m @ m.T, np.eye(2), atol=1e-6)


def test_p_moves_corners_by_sigma() -> None:
    draw = functools.partial(distortions.draw_p, scale=(0.8, 0.8), sigma_px=2.0)
    thetas = jax.jit(jax.vmap(lambda key: draw(key, SHAPE)))(KEYS)
    square = jnp.asarray([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    corners = jax.vmap(transforms.projective.warp, in_axes=(0, None))(thetas, square)
    moved = (np.asarray(corners) - square / 0.8) * 14
    assert abs(moved.mean()) < 0.15
    assert abs(moved.std() - 2.0) < 0.1


def test_p_keeps_corners_before_the_horizon_where_shifts_are_small() -> None:
    """The shares of draws that `draw_p` says."""

    @jax.jit
    @jax.vmap
    def behind(sigma_px: jax.Array) -> jax.Array:
        draw = functools.partial(distortions.draw_p, image_shape=SHAPE, sigma_px=sigma_px)
        thetas = jax.vmap(lambda key: draw(key))(jax.random.split(KEYS[0], 5000))
        corners = jnp.asarray([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        depths = jnp.matmul(thetas[:, 6:], corners.T, precision="highest") + 1
        return jnp.mean(jnp.any(depths < 1e-3, axis=1))

    shares = behind(jnp.asarray([5.0, 7.0, 10.0]))
    assert np.all(np.abs(shares - np.asarray([0.0009, 0.022, 0.143])) < [0.002, 0.008, 0.02])


def test_e_moves_control_points_by_sigma() -> None:
    draw = functools.partial(distortions.draw_e, scale=(0.8, 0.8), sigma_px=1.5)
    thetas = jax.jit(jax.vmap(lambda key: draw(key, SHAPE)))(KEYS)
    controls = jnp.stack(
        [g.ravel() for g in jnp.meshgrid(jnp.linspace(-1, 1, 4), jnp.linspace(-1, 1, 4))], -1
    )
    spline = transforms.thin_plate_spline((4, 4))
    warped = jax.jit(jax.vmap(spline.warp, in_axes=(0, None)))(thetas, controls)
    moved = (np.asarray(warped) * 0.8 - controls) * 14
    assert abs(moved.std() - 1.5) < 0.05


def test_t_keeps_the_image_whole_and_reaches_the_edges() -> None:
    distort = jax.jit(jax.vmap(distortions.t, in_axes=(0, None)))
    images = distort(KEYS[:100], jnp.ones((*SHAPE, 1)))
    np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 28 * 28, rtol=1e-4)
    assert float(images[:, :2].max()) > 0
    assert float(images[:, -2:].max()) > 0


def test_tc_adds_crops_of_the_others() -> None:
    others = jnp.full((6, *SHAPE, 1), 0.5)
    image = jnp.zeros((*SHAPE, 1)).at[5:20, 5:20].set(1.0)
    cluttered = jax.jit(distortions.tc)(KEYS[0], image, others)
    placed = PLACED(distortions.image_key(KEYS[0]), image)
    assert cluttered.shape == (60, 60, 1)
    np.testing.assert_array_equal(cluttered, jnp.maximum(cluttered, placed))
    added = np.asarray(cluttered != placed)
    assert 36 <= added.sum() <= 6 * 36
    np.testing.assert_array_equal(np.asarray(cluttered)[added & (np.asarray(placed) == 0)], 0.5)


def test_tc_without_others_is_t() -> None:
    nothing = jnp.zeros((0, *SHAPE, 1))
    np.testing.assert_array_equal(
        jax.jit(distortions.tc)(KEYS[0], BLOB, nothing),
        PLACED(distortions.image_key(KEYS[0]), BLOB),
    )


@pytest.mark.parametrize("crop_size", [0, 29, 2.5, math.nan, "6", None])
def test_tc_errors(crop_size: int, unchecked: None) -> None:
    others = jnp.ones((2, *SHAPE, 1))
    allowed = "crop_size must be a whole number between 1 and 28; got"
    with pytest.raises(ValueError, match=f"{allowed} {crop_size!r}"):
        distortions.tc(KEYS[0], BLOB, others, crop_size=crop_size)
    with pytest.raises(ValueError, match=r"others must have shape \[crops, h, w, 1\]"):
        distortions.tc(KEYS[0], BLOB, jnp.ones((2, *SHAPE, 3)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_result_has_the_images_dtype(dtype: jnp.dtype) -> None:
    image = BLOB.astype(dtype)
    for distort, _ in SIMPLE.values():
        assert jax.eval_shape(distort, KEYS[0], image).dtype == dtype
    others = jnp.ones((2, *SHAPE, 1))
    assert jax.eval_shape(distortions.tc, KEYS[0], image, others).dtype == dtype


def test_strengths_may_be_traced(unchecked: None) -> None:
    @jax.jit
    def distort(strength: jax.Array) -> tuple[jax.Array, ...]:
        return (
            distortions.r(KEYS[0], BLOB, max_angle_rad=strength),
            distortions.p(KEYS[0], BLOB, scale=(strength, 1.0), sigma_px=strength),
            distortions.jitter(KEYS[0], BLOB, max_scale=1 + strength, sigma_px=strength),
        )

    assert all(np.isfinite(each).all() for each in distort(0.5))
    scales = jnp.asarray([1.0, 1.5])
    draw = functools.partial(distortions.draw_jitter, KEYS[0], SHAPE)
    thetas = jax.vmap(lambda scale: draw(max_scale=scale))(scales)
    for theta, scale in zip(thetas, (1.0, 1.5), strict=True):
        np.testing.assert_allclose(theta, draw(max_scale=scale), atol=1e-6)


OTHERS = jnp.ones((2, *SHAPE, 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r", {"max_angle_rad": -0.1}, "max_angle_rad must be finite and at least 0; got -0.1"),
        ("rts", {"max_angle_rad": math.nan}, "max_angle_rad must be finite and at least 0"),
        ("rts", {"max_angle_rad": "1"}, "max_angle_rad must be finite and at least 0; got '1'"),
        ("p", {"sigma_px": -1.0}, "sigma_px must be finite and at least 0; got -1.0"),
        ("e", {"sigma_px": math.inf}, "sigma_px must be finite and at least 0; got inf"),
        *(
            ("jitter", {"max_scale": each}, f"max_scale must be finite and at least 1; got {each}")
            for each in (-1.0, 0, math.inf)
        ),
        ("jitter", {"max_scale": 0.9}, "max_scale must be finite and at least 1; got 0.9"),
        ("jitter", {"max_scale": float("nan")}, "max_scale must be finite and at least 1; got nan"),
        ("jitter", {"max_shift_px": -1.0}, "max_shift_px must be finite and at least 0; got -1.0"),
        *(
            (name, {"scale": scale}, "scale must be two finite numbers, 0 < low <= high")
            for name in ("rts", "p", "e")
            for scale in ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (1.0, math.nan), (1.0,), 1.0, "ab")
        ),
        *(
            (name, {"canvas": canvas}, message)
            for name in ("rts", "t", "tc")
            for canvas, message in (
                (42, "canvas must be 2 non-negative integers; got 42"),
                ((28, 27), r"canvas must be at least the image's \[28, 28\]; got \[28, 27\]"),
            )
        ),
    ],
)
def test_errors(name: str, options: dict, message: str, unchecked: None) -> None:
    others = (OTHERS,) if name == "tc" else ()
    with pytest.raises(ValueError, match=message):
        getattr(distortions, name)(KEYS[0], BLOB, *others, **options)
    if name != "tc":
        with pytest.raises(ValueError, match=message):
            getattr(distortions, f"draw_{name}")(KEYS[0], SHAPE, **options)


@pytest.mark.parametrize("name", [*SIMPLE, "tc"])
@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE, 1), ()])
def test_errors_of_the_shape(name: str, shape: tuple[int, ...], unchecked: None) -> None:
    others = (OTHERS,) if name == "tc" else ()
    with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\]; got"):
        getattr(distortions, name)(KEYS[0], jnp.ones(shape), *others)
    if name != "tc":
        with pytest.raises(ValueError, match="image_shape must be 2 non-negative integers"):
            getattr(distortions, f"draw_{name}")(KEYS[0], (*SHAPE, 1))


def test_jitter_stays_within_its_bounds() -> None:
    bounds = {"max_angle_rad": 0.2, "max_scale": 1.25, "max_shift_px": 3.0}
    thetas = jax.vmap(lambda key: distortions.draw_jitter(key, SHAPE, **bounds))(KEYS)
    angles, scales = angles_and_scales(thetas, 28)
    assert 11 < np.abs(angles).max() <= math.degrees(0.2)
    assert 0.8 - 1e-6 <= scales.min() < 0.81
    assert 1.23 < scales.max() <= 1.25 + 1e-6
    assert abs(np.log(scales).mean()) < 0.02
    # Where the image's centre is seen: the matrix undoes the shift last.
    matrices = np.asarray(thetas).reshape(-1, 2, 3)
    shifts = -np.linalg.solve(matrices[:, :, :2], matrices[:, :, 2:])[..., 0] * 14
    assert 2.9 < np.abs(shifts).max() <= 3 + 1e-4


def test_jitter_that_bends_is_its_motion_and_a_spline() -> None:
    bounds = {"max_angle_rad": 0.2, "max_scale": 1.25, "max_shift_px": 3.0}
    moved = distortions.jitter(KEYS[0], BLOB, **bounds)
    barely = distortions.jitter(KEYS[0], BLOB, **bounds, sigma_px=1e-4)
    np.testing.assert_allclose(barely, moved, atol=1e-3)
    bent = jax.vmap(lambda key: distortions.jitter(key, BLOB, sigma_px=1.0))(KEYS)[..., 0]
    places = np.einsum("bhw,hwc->bc", bent, np.indices(SHAPE).transpose(1, 2, 0))
    places /= np.sum(bent, axis=(1, 2))[:, None]
    assert 0.3 < places.std() < 1.0  # several points move the blob, which averages their shifts
    np.testing.assert_allclose(places.mean(axis=0), 13.5, atol=0.1)
    assert np.std(np.sum(bent, axis=(1, 2))) > 1  # and its area changes: no rigid motion


def test_jitter_bends_otherwise_than_it_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def warp(image: jax.Array, theta: jax.Array, *_: object, **__: object) -> jax.Array:
        seen.append(theta)
        return image

    monkeypatch.setattr(distortions, "spatial_transform", warp)
    for key in KEYS[:100]:
        for settings in ({"max_angle_rad": 0.5}, {"sigma_px": 1.0}):
            distortions.jitter(key, BLOB, **settings)
    angles, shifts = np.asarray(seen[::2])[:, 1], np.asarray(seen[1::2])
    found = [np.corrcoef(angles, shift)[0, 1] for shift in shifts.T]
    assert np.abs(found).max() < 0.5  # of 100 independent pairs: five deviations


@pytest.mark.parametrize("sigma_px", [-1.0, math.nan, math.inf])
def test_jitter_of_no_deviation(sigma_px: float) -> None:
    with pytest.raises(ValueError, match="sigma_px must be finite and at least 0"):
        distortions.jitter(KEYS[0], BLOB, sigma_px=sigma_px)


def test_jitter_without_bounds_is_the_identity_and_edges_go_on() -> None:
    np.testing.assert_array_equal(distortions.jitter(KEYS[0], BLOB), BLOB)
    flat = jnp.full((8, 8, 1), 0.7)
    moved = distortions.jitter(KEYS[1], flat, max_angle_rad=0.5, max_shift_px=4.0)
    np.testing.assert_allclose(moved, flat, atol=1e-6)
