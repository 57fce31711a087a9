"""Stored images are normalised, distorted and augmented as configured."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.settings.config import Data
from experiments.settings.relations import DEFAULT_SCALES
from experiments.training import preprocessing
from experiments.training.preprocessing import (
    Normalisation,
    make_preprocess,
    make_undistorted_preprocess,
    normalisation,
)
from tests.experiments.conftest import keeping_compiled

RNG = np.random.default_rng(0)
SCALE = Normalisation((0.1,), (0.3,))
UNCHANGED = Normalisation((0.0,), (1.0,))
SHAPES = {"rts": (42, 42), "tc": (60, 60), "t": (84, 84)}
DISTORTIONS = ("none", "r", "rts", "p", "e", "tc", "t")


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@pytest.fixture(scope="module", autouse=True)
def fast_compilation(compiled: pathlib.Path) -> Iterator[None]:
    """Compiles without most optimisations."""
    with keeping_compiled(compiled):
        yield


@functools.cache
def jitted(scale: Normalisation, **settings: Any) -> Callable[..., Any]:
    """`make_preprocess`, compiled once for each set of arguments."""
    return jax.jit(make_preprocess(Data(**settings), scale))


def preprocessed(
    images: np.ndarray, scale: Normalisation = UNCHANGED, seed: int = 0, **settings: Any
) -> np.ndarray:
    """A preprocessed batch of images."""
    batch = {"image": jnp.asarray(images), "label": jnp.arange(len(images))}
    found = jitted(scale, **settings)(keys(len(images), seed), batch)
    np.testing.assert_array_equal(found["label"], batch["label"])
    assert found["image"].dtype == jnp.float32
    return np.asarray(found["image"])


def digits(count: int) -> np.ndarray:
    """Images with a dark border, `[n, 28, 28, 1]` in [0, 1]."""
    images = np.zeros((count, 28, 28, 1), np.float32)
    images[:, 6:22, 10:18] = RNG.uniform(0.5, 1, (count, 16, 8, 1))
    return images


# --- Normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_channel_is_normalised(dtype: type, channels: int) -> None:
    images = RNG.uniform(0, 1, (50, 8, 9, channels)) ** np.arange(1, channels + 1)
    images = np.rint(images * 255).astype(np.uint8) if dtype == np.uint8 else images.astype(dtype)
    found = preprocessed(images, normalisation(images), distortion="none")
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), 1, rtol=1e-4)


def test_bytes_and_floats_are_normalised_alike() -> None:
    images = RNG.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    fractions = (images / 255).astype(np.float32)
    np.testing.assert_allclose(
        preprocessed(images, normalisation(images), distortion="none"),
        preprocessed(fractions, normalisation(fractions), distortion="none"),
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", ["channel", "local"])
@pytest.mark.parametrize("distortion", ["r", "rts"])
def test_undistorted_images_are_only_normalised(kind: Any, distortion: Any) -> None:
    """Whatever the distortion is, and whatever the size of the images."""
    images, scale = RNG.integers(0, 256, (3, 9, 9, 1), dtype=np.uint8), {"normalisation": kind}
    expected = preprocessed(images, SCALE, distortion="none", **scale)
    data = Data(distortion=distortion, **scale)
    preprocess = jax.jit(make_undistorted_preprocess(data, SCALE))
    np.testing.assert_allclose(preprocess(images), expected, atol=1e-6)
    np.testing.assert_allclose(preprocess(np.float32(images / 255)), expected, atol=1e-5)
    pairs = jax.jit(make_undistorted_preprocess(dataclasses.replace(data, task="add"), SCALE))
    found = pairs(np.concatenate([images, images[::-1]], axis=-1))
    np.testing.assert_allclose(found, np.concatenate([expected, expected[::-1]], -1), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_background_is_the_normalised_zero(dtype: type) -> None:
    images = np.zeros((4, 6, 6, 3), dtype)
    images[:, 2:, :, 0], images[:, 3:, :, 1], images[:, 4:, :, 2] = 1, 20, 7
    scale = normalisation(images)
    found = preprocessed(images, scale, distortion="none")
    np.testing.assert_allclose(found[0, 0, 0], scale.background, rtol=1e-6)
    assert len(set(scale.background)) == 3


def test_constant_channel_is_finite() -> None:
    images = np.full((4, 6, 6, 3), 51, np.uint8)
    images[..., 1] = RNG.integers(0, 255, (4, 6, 6))
    scale = normalisation(images)
    assert scale.std[0] == scale.std[2] == 1
    found = preprocessed(images, scale, distortion="none")
    np.testing.assert_allclose(found[..., [0, 2]], 0, atol=1e-6)
    assert scale.background[0] == pytest.approx(-0.2)


def test_mean_of_many_images_is_exact() -> None:
    images = np.full((2000, 28, 28, 1), 200, np.uint8)
    assert normalisation(images).mean == (200 / 255,)


# --- Distortions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_distorted_images_are_finite_and_have_the_size_of_the_canvas(distortion: str) -> None:
    found = preprocessed(digits(5), SCALE, distortion=distortion)
    assert found.shape == (5, *SHAPES.get(distortion, (28, 28)), 1)
    assert np.isfinite(found).all()
    assert found.max() > 1
    # The corners of a digit, and everything outside it, are background.
    np.testing.assert_allclose(found[:, 0, 0], SCALE.background[0], rtol=1e-5)
    assert found.min() >= SCALE.background[0] - 1e-5


@pytest.mark.parametrize("distortion", DISTORTIONS[1:])
def test_distortion_depends_on_the_key(distortion: str) -> None:
    images = np.repeat(digits(1), 5, axis=0)
    found = preprocessed(images, SCALE, distortion=distortion)
    assert len({each.tobytes() for each in found}) == 5
    np.testing.assert_array_equal(found, preprocessed(images, SCALE, distortion=distortion))
    assert (found != preprocessed(images, SCALE, distortion=distortion, seed=1)).any()


@pytest.mark.parametrize("distortion", [name for name in DISTORTIONS if name != "tc"])
def test_preprocessed_image_does_not_depend_on_its_batch(distortion: str) -> None:
    # The clutter of tc is cropped from other images of the batch.
    images, preprocess = digits(5), jitted(SCALE, distortion=distortion)
    of_five = preprocessed(images, SCALE, distortion=distortion)
    of_two = preprocess(keys(5)[:2], {"image": jnp.asarray(images[:2])})["image"]
    # Programs for five and for two images round positions differently.
    np.testing.assert_allclose(of_five[:2], of_two, atol=1e-5)


@pytest.mark.parametrize("distortion", ["rts", "t"])
def test_canvas_sets_the_image_size(distortion: str) -> None:
    assert preprocessed(digits(2), distortion=distortion, canvas=50).shape == (2, 50, 50, 1)


def draws(count: int = 2000, **settings: Any) -> np.ndarray:
    """Random thetas of r or rts as matrices, for square images on a canvas of their size."""
    draw = preprocessing.draw_theta(Data(**settings))
    assert draw is not None
    theta = jax.jit(jax.vmap(lambda key: draw(key, (42, 42))))(keys(count))
    return np.asarray(theta).reshape(-1, 2, 3)


@pytest.mark.parametrize(
    ("settings", "widest"),
    [
        ({"distortion": "r"}, 90),
        ({"distortion": "r", "max_angle": 20.0}, 20),
        ({"distortion": "r", "max_angle": 180.0}, 180),
        ({"distortion": "rts"}, 45),
        ({"distortion": "rts", "max_angle": 10.0}, 10),
    ],
)
def test_max_angle_bounds_the_rotation(settings: dict[str, Any], widest: float) -> None:
    matrices = draws(**settings)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert 0.98 * widest < angles.max() <= widest * (1 + 1e-5)
    assert 0.98 * widest < -angles.min() <= widest * (1 + 1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.7, 1.2)),
        ({"min_scale": 0.9}, (0.9, 1.2)),
        ({"max_scale": 0.8}, (0.7, 0.8)),
        ({"min_scale": 2.0, "max_scale": 3.0}, (2.0, 3.0)),
    ],
)
def test_scales_of_rts_are_bounded(settings: dict[str, Any], expected: tuple[float, float]) -> None:
    scales = 1 / np.sqrt(np.linalg.det(draws(distortion="rts", **settings)[:, :, :2]))
    assert scales.min() == pytest.approx(expected[0], rel=0.01)
    assert scales.max() == pytest.approx(expected[1], rel=0.01)


@pytest.mark.parametrize("distortion", ["p", "e"])
def test_sigma_and_scale_apply_to_p_and_e(distortion: str) -> None:
    images = digits(3)
    still = {"distortion": distortion, "sigma": 0.0, "min_scale": 1.0, "max_scale": 1.0}
    np.testing.assert_allclose(preprocessed(images, **still), images, atol=1e-4)
    assert np.abs(preprocessed(images, **still | {"sigma": 3.0}) - images).mean() > 0.02
    halved = preprocessed(images, **still | {"min_scale": 0.5, "max_scale": 0.5})
    np.testing.assert_allclose(halved.sum(axis=(1, 2)), images.sum(axis=(1, 2)) / 4, rtol=0.1)


def test_only_r_and_rts_have_a_theta() -> None:
    for distortion in DISTORTIONS:
        has_one = preprocessing.draw_theta(Data(distortion=distortion)) is not None
        assert has_one == (distortion in ("r", "rts"))
    assert set(DEFAULT_SCALES) < set(DISTORTIONS)


def test_preprocessing_applies_the_drawn_theta() -> None:
    # A bright line from the centre to the right rotates by the opposite of theta's angle.
    images = np.zeros((6, 41, 41, 1), np.float32)
    images[:, 20, 30:40] = 1
    found = preprocessed(images, distortion="r")
    rows, columns = np.mgrid[-20:21, -20:21]
    mass = found[..., 0].sum(axis=(1, 2))
    y, x = ((found[..., 0] * at).sum(axis=(1, 2)) / mass for at in (rows, columns))
    draw = preprocessing.draw_theta(Data(distortion="r"))
    assert draw is not None
    matrices = np.asarray(jax.vmap(lambda key: draw(key, (41, 41)))(keys(6))).reshape(6, 2, 3)
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    np.testing.assert_allclose(np.arctan2(-y, x), angles, atol=0.02)


def test_volume_is_a_cube_with_background_zero_and_the_image_as_front_view() -> None:
    images = digits(3)
    scale = normalisation(images)
    uncentred = scale.uncentred
    assert (uncentred.mean, uncentred.std) == ((0.0,), scale.std)
    settings = {"distortion": "extruded", "canvas": 28}
    found = preprocessed(images, uncentred, **settings, max_angle=1e-6)
    assert found.shape == (3, 28, 28, 28, 1)
    np.testing.assert_allclose(found.sum(axis=1) * scale.std[0], images, atol=1e-4)
    assert not found[:, 0].any()
    rotated = preprocessed(images, uncentred, **settings)
    assert np.abs(rotated.sum(axis=1) * scale.std[0] - images).max() > 0.3


# --- Clutter --------------------------------------------------------------------------------------


def test_clutter_is_cropped_from_other_images() -> None:
    images = jnp.arange(7.0)[:, None, None, None] * jnp.ones((7, 2, 2, 1))
    for seed in range(20):
        others = np.asarray(preprocessing._others(keys(7, seed), images, 5))[..., 0, 0, 0]
        assert others.shape == (7, 5)
        assert (others != np.arange(7)[:, None]).all()
    every = [preprocessing._others(keys(7, seed), images, 5)[0] for seed in range(20)]
    assert set(np.unique(every)) == {1, 2, 3, 4, 5, 6}


def test_single_image_is_its_own_clutter() -> None:
    assert preprocessing._others(keys(1), jnp.ones((1, 2, 2, 1)), 3).shape == (1, 3, 2, 2, 1)


@pytest.mark.parametrize(("clutter", "crop_size"), [(1, 6), (12, 2)])
def test_clutter_and_crop_size_bound_the_clutter(clutter: int, crop_size: int) -> None:
    # The first image is black and the others are white, so its bright pixels are clutter.
    images = np.ones((4, 12, 12, 1), np.float32)
    images[0] = 0
    settings = {"clutter": clutter, "crop_size": crop_size, "canvas": 40}
    seen = []
    for seed in range(5):
        seen.append(preprocessed(images, seed=seed, distortion="tc", **settings)[0].sum())
    most = clutter * crop_size**2
    assert 0 < max(seen) <= most + 1e-4
    assert max(seen) > most * 0.6
    assert all(math.isclose(each % 1, 0, abs_tol=1e-3) for each in seen)


# --- Addition -------------------------------------------------------------------------------------


def added(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    preprocess = jitted(UNCHANGED, task="add", distortion="none")
    return {
        name: np.asarray(each) for name, each in preprocess(keys(len(images), seed), batch).items()
    }


def test_sum_adds_another_example_of_the_batch() -> None:
    count = 30
    images = np.broadcast_to(np.arange(count)[:, None, None, None], (count, 3, 3, 1)) / 64
    found = added(images.astype(np.float32), np.arange(count))
    own, other = np.rint(found["image"][:, 0, 0] * 64).astype(int).T
    np.testing.assert_array_equal(own, np.arange(count))
    assert (other != own).all()
    assert len(set(other - own)) > 5
    np.testing.assert_array_equal(found["label"], own + other)


def test_two_digits_are_distorted_independently() -> None:
    images = np.broadcast_to(digits(1), (20, 28, 28, 1))
    batch = {"image": jnp.asarray(images), "label": jnp.zeros(20, int)}
    found = np.asarray(jitted(UNCHANGED, task="add", distortion="r")(keys(20), batch)["image"])
    assert found.shape == (20, 28, 28, 2)
    assert np.abs(found[..., 0] - found[..., 1]).max(axis=(1, 2)).min() > 0.1


@pytest.mark.parametrize(("task", "channels", "classes"), [("classify", 3, 10), ("add", 6, 19)])
def test_task_sets_channels_and_classes(task: Any, channels: int, classes: int) -> None:
    scale = Normalisation((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    found = preprocessing.background(Data(task=task), scale)
    assert found == scale.background * (channels // 3)
    assert preprocessing.num_classes(Data(task=task), 10) == classes


# --- Augmentation and local contrast --------------------------------------------------------------


def test_augmentation_shifts_images_within_bounds() -> None:
    data = Data(distortion="none", augment_shift=2.0)
    preprocess = preprocessing.augmenting(data, make_preprocess(data, UNCHANGED))
    rows = jnp.broadcast_to(jnp.linspace(0, 1, 20)[:, None, None], (30, 20, 20, 1))
    found = np.asarray(jax.jit(preprocess)(keys(30), {"image": rows})["image"])
    shifts = 19 * (found - rows)[:, 5:15, 5:15].mean(axis=(1, 2, 3))
    assert np.abs(shifts).max() <= 2 + 1e-4
    assert shifts.min() < -1 < 1 < shifts.max()


def test_preprocessing_is_unchanged_without_augmentation() -> None:
    preprocess = make_preprocess(Data(), UNCHANGED)
    assert preprocessing.augmenting(Data(), preprocess) is preprocess
    for settings in ({"augment_scale": 1.1}, {"augment_sigma": 1.0}):
        assert preprocessing.augmenting(Data(**settings), preprocess) is not preprocess


def test_local_contrast_is_invariant_to_brightness_and_contrast() -> None:
    images = np.clip(RNG.uniform(0, 1, (3, 12, 12, 1)), 0.2, 0.8).astype(np.float32)
    found = [
        preprocessed(each, distortion="none", normalisation="local")
        for each in (images, 0.5 * images + 0.3)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert preprocessing.background(Data(normalisation="local"), SCALE) == (0.0,)
