"""Angles are those of the images in pixels, and residuals measure how well they are undone."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from experiments.analysis import angles
from experiments.analysis.angles import (
    angle_residuals,
    angle_summary,
    compare_angles,
    matrix_angle_deg,
)
from experiments.analysis.probe import sample_test_images
from experiments.settings.access import replace_settings
from experiments.settings.config import Data
from experiments.training import preprocessing
from experiments.training.experiment import Experiment
from stn_jax import transforms
from tests.experiments.analysis.fixed_network import fixed_experiment
from tests.experiments.conftest import save_npz

RANDOM = np.random.default_rng(0)


def applied_matrices(experiment: Experiment) -> jax.Array:
    """The matrices of the distortions of the test images, `[n, 2, 3]`."""
    draw = preprocessing.draw_theta(experiment.config.data)
    assert draw is not None
    shape = experiment.dataset.test.images.shape[1:3]
    keys = sample_test_images(experiment, len(experiment.dataset.test)).keys
    return jax.vmap(lambda key: draw(key, shape))(keys).reshape(-1, 2, 3)


@pytest.mark.parametrize("constant_deg", [0.0, 30.0])
def test_perfect_rotations_leave_no_residual(data_file: pathlib.Path, constant_deg: float) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "r"}, transform="rotation")
    matrices = applied_matrices(experiment)
    inverse_rad = -jnp.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]) + np.radians(constant_deg)
    params = {"transformer_0": inverse_rad[:, None]}
    compared = compare_angles(experiment, params)
    assert compared is not None
    applied, predicted = compared
    assert np.ptp(applied) > 60
    np.testing.assert_allclose(predicted, -applied + constant_deg, atol=1e-3)
    summary = angle_summary(experiment, params)
    assert summary["angle_std_before_deg"] == pytest.approx(applied.std(), rel=0.1)
    assert summary["angle_std_after_deg"] < 1e-3


def test_opposite_rotation_restores_the_image() -> None:
    rows, columns = np.mgrid[-20:21, -20:21]
    image = np.exp(-((rows / 4.0) ** 2) - ((columns - 5) / 9.0) ** 2)[..., None].astype(np.float32)
    preprocess = preprocessing.make_preprocess(
        Data(distortion="r"), preprocessing.Normalisation((0,), (1,))
    )
    key = jax.random.key(3)
    rotated = preprocess(key[None], {"image": jnp.asarray(image)[None]})["image"][0]
    draw = preprocessing.draw_theta(Data(distortion="r"))
    assert draw is not None
    matrix = draw(key, (41, 41)).reshape(1, 2, 3)
    (applied_deg,) = matrix_angle_deg(matrix, (41, 41), (41, 41))
    assert abs(applied_deg) > 20
    theta = jnp.radians(-applied_deg)[None]
    straight = stn_jax.spatial_transform(rotated, theta, transforms.rotation)
    assert np.abs(rotated - image).max() > 0.3
    np.testing.assert_allclose(straight, image, atol=0.05)


@pytest.mark.parametrize("distortion", ["r", "rts"])
def test_angles_of_images_that_are_not_square_are_in_pixels(
    tmp_path: pathlib.Path, distortion: str
) -> None:
    path = save_npz(tmp_path / "wide.npz", (8, 20))
    size = (8, 20) if distortion == "r" else (42, 42)
    data = {"distortion": distortion, "max_angle": 40.0}
    experiment = fixed_experiment(path, data, size, transform="affine")
    matrices = np.asarray(applied_matrices(experiment))
    # In pixels, the matrix is a rotation times a scale, so each column has the same angle.
    in_px = matrices[:, :, :2] * [[20], [8]] / [size[1], size[0]]
    expected = np.degrees(np.arctan2(in_px[:, 1, 0], in_px[:, 0, 0]))
    inverse = np.linalg.inv(in_px) / [[size[1]], [size[0]]] * [size[1], size[0]]
    theta = np.concatenate([inverse, np.zeros((len(inverse), 2, 1))], axis=2).reshape(-1, 6)
    compared = compare_angles(experiment, {"transformer_0": jnp.asarray(theta, jnp.float32)})
    assert compared is not None
    np.testing.assert_allclose(compared.applied_deg, expected, atol=1e-3)
    np.testing.assert_allclose(compared.predicted_deg, -expected, atol=1e-3)


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ({"distortion": "p"}, {}),
        ({"distortion": "none"}, {}),
        ({"distortion": "r"}, {"transform": "thin_plate_spline"}),
        ({"distortion": "r"}, {"placement": "parallel"}),
        ({"distortion": "r"}, {"placement": "series"}),
    ],
)
def test_other_distortions_and_networks_have_no_angles(
    data_file: pathlib.Path, data: dict[str, Any], model: dict[str, Any]
) -> None:
    experiment = fixed_experiment(data_file, data, **model)
    params = {"transformer_0": jnp.zeros((25, 6))}
    assert compare_angles(experiment, params) is None
    assert angle_summary(experiment, params) == {}


def test_networks_without_transformer_or_with_nan_have_no_angles(data_file: pathlib.Path) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "r"}, transform="rotation")
    assert angle_summary(experiment, {}) == {}
    params = {"transformer_0": jnp.full((25, 1), jnp.nan)}
    assert compare_angles(experiment, params) is None
    assert angle_summary(experiment, params) == {}


def test_networks_without_a_transformer_do_not_import_its_family(data_file: pathlib.Path) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "r"})
    config = replace_settings(experiment.config, {"model": "fcn", "transform": "no_such:shear"})
    assert compare_angles(dataclasses.replace(experiment, config=config), {}) is None


def test_perfect_predictions_leave_no_residual() -> None:
    applied = RANDOM.uniform(-180, 180, 100)
    turns = 360 * RANDOM.integers(-3, 4, 100)
    residuals = angle_residuals(applied, 175 - applied + turns)
    np.testing.assert_allclose(residuals.after_deg, 0, atol=1e-9)
    assert residuals.offset_deg == pytest.approx(175)


def test_constant_predictions_leave_all_residuals() -> None:
    applied = RANDOM.uniform(-90, 90, 100)
    before, after, _ = angle_residuals(applied, np.full(100, 12.0))
    np.testing.assert_allclose(after, before, atol=1e-9)
    np.testing.assert_allclose(np.ptp(before), np.ptp(applied))
    np.testing.assert_allclose(before.std(), applied.std())


def test_spread_of_residuals_is_that_of_the_error() -> None:
    applied = RANDOM.uniform(-45, 45, 20000)
    error = RANDOM.normal(0, 4, 20000)
    before, after, _ = angle_residuals(applied, 100 - applied + error)
    assert before.std() == pytest.approx(90 / np.sqrt(12), rel=0.02)
    assert after.std() == pytest.approx(error.std(), rel=1e-6)


@pytest.mark.parametrize("constant", [-170.0, 0.0, 90.0, 180.0, 725.0])
def test_constant_offsets_do_not_change_residuals(constant: float) -> None:
    applied = RANDOM.uniform(-60, 60, 50)
    predicted = -0.7 * applied + RANDOM.normal(0, 5, 50)
    expected = angle_residuals(applied, predicted)[:2]
    shifted = angle_residuals(applied + constant, predicted - 3 * constant)[:2]
    np.testing.assert_allclose(shifted, expected, atol=1e-9)


def test_mean_is_circular() -> None:
    before, after, offset_deg = angle_residuals(np.array([170.0, -170.0]), np.zeros(2))
    np.testing.assert_allclose(before, [-10, 10])
    np.testing.assert_allclose(after, [-10, 10])
    assert abs(offset_deg) == pytest.approx(180)


def test_residual_of_half_a_turn_is_positive() -> None:
    for half_turn in (180.0, -180.0, 540.0):
        before = angle_residuals(np.array([0.0, 0, 0, half_turn]), np.zeros(4)).before_deg
        np.testing.assert_allclose(before, [0, 0, 0, 180], atol=1e-9)
    turns = np.array([-180.0, -180 - 1e-14, 180, np.nextafter(180, 200), -540, 1e-300, -1e-300])
    wrapped = angles._wrapped(turns)
    assert (wrapped > -180).all()
    assert (wrapped <= 180).all()


def test_angles_that_are_not_finite_are_ignored() -> None:
    applied = np.array([10.0, 20, np.nan, 30, 5])
    predicted = np.array([0.0, np.inf, 0, 0, np.nan])
    before, after, offset_deg = angle_residuals(applied, predicted)
    np.testing.assert_allclose(before, [-10, np.nan, np.nan, 10, np.nan])
    np.testing.assert_allclose(after, [-10, np.nan, np.nan, 10, np.nan])
    assert offset_deg == pytest.approx(20)


def test_angles_may_be_integers() -> None:
    before, after, _ = angle_residuals(np.array([0, 90]), np.array([0, -90]))
    np.testing.assert_allclose(before, [-45, 45])
    np.testing.assert_allclose(after, [0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("applied", "predicted"),
    [
        (np.zeros(3), np.zeros(2)),
        (np.zeros((3, 1)), np.zeros((3, 1))),
        (np.zeros(0), np.zeros(0)),
        (np.zeros(2), np.full(2, np.nan)),
    ],
)
def test_angles_without_a_finite_pair_raise_value_error(
    applied: np.ndarray, predicted: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="angles"):
        angle_residuals(applied, predicted)
