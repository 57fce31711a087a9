"""Diagnostics report no error for networks that follow their input, and a full one otherwise."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import figures
from experiments.analysis import diagnostics
from experiments.plots.diagnostic_plot import draw_diagnostics
from experiments.runs.records import to_json
from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config, Data, Model, Optimisation
from experiments.training.experiment import Experiment, build_experiment, initial_state
from experiments.training.preprocessing import Normalisation
from stn_jax import poses
from stn_jax.transforms import similarity

SHAPE, OUTPUT = (20, 30), (12, 14)
# The pose of the scene in the output of a transformer that follows.
FRAME = np.float32([0.3, -0.2, 1.0, -2.0])


@dataclasses.dataclass(frozen=True)
class PoseReader:
    """A network that computes the pose of a scene from an image of the scene's coordinates.

    Attributes:
        settings: of the model.
        normalisation: of the images.
        follows: whether the frame follows the pose.
    """

    settings: Model
    normalisation: Normalisation
    follows: bool

    def apply(self, variables: Any, images: jax.Array, rngs: Any, mutable: Any) -> Any:
        moved = jax.vmap(self._pose)(images)
        frame = jnp.broadcast_to(FRAME, moved.shape)
        logits = jnp.stack([moved[:, 0], jnp.zeros(len(moved))], axis=1)
        if self.follows:
            frame = jax.vmap(lambda pose: similarity.compose(similarity.inverse(pose), FRAME))(
                moved
            )
            logits = jnp.zeros_like(logits)
        return (logits, self._intermediates(frame)), {}

    def _pose(self, image: jax.Array) -> jax.Array:
        """Computes the pose of the scene from the four pixels in the middle."""
        h, w = SHAPE
        middle = image[h // 2 - 1 : h // 2 + 1, w // 2 - 1 : w // 2 + 1, :2]
        mean, std = (np.asarray(each[:2]) for each in self.normalisation)
        middle = middle * std + mean
        right = (middle[:, 1] - middle[:, 0]).mean(axis=0)
        rotation = jnp.stack([jnp.arctan2(right[1], right[0]), jnp.log(jnp.hypot(*right))])
        return jnp.concatenate([rotation, middle.mean(axis=(0, 1))])

    def _intermediates(self, frame: jax.Array) -> dict[str, Any]:
        def affine(pose: jax.Array) -> jax.Array:
            return poses.affine_from_pose(pose, SHAPE, OUTPUT)

        theta = jax.vmap(affine)(frame)
        if self.settings.transform == "projective":
            theta = jnp.pad(theta, ((0, 0), (0, 2)))
        rest = {
            "output": jnp.zeros((len(frame), *OUTPUT, 3)),
            "grid": jnp.zeros((len(frame), 1, 1, 2)),
        }
        fixed = jnp.broadcast_to(np.float32([0.5, 0.2, 0.3, -0.4, 0.6, -0.2]), (len(frame), 6))
        return {
            "transformer_0": rest | {"theta": theta},
            "transformer_1": rest | {"theta": fixed},  # second in series, or on feature maps
        }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Images of the coordinates of a scene with random poses."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    points = jnp.asarray(np.stack([columns - 14.5, rows - 9.5], axis=-1), jnp.float32)
    random = np.random.default_rng(0).uniform(-1, 1, (40, 4)) * [3, 0.3, 5, 5]
    images = jax.vmap(similarity.warp, in_axes=(0, None))(jnp.asarray(random, jnp.float32), points)
    images = np.pad(np.asarray(images), ((0, 0), (0, 0), (0, 0), (0, 1)))
    labels = np.arange(40) % 2
    path = tmp_path_factory.mktemp("scenes") / "scenes.npz"
    np.savez(path, x_train=images[:20], y_train=labels[:20], x_test=images[20:], y_test=labels[20:])
    return path


def make_experiment(scenes: pathlib.Path, follows: bool, **model: Any) -> Experiment:
    """An experiment whose network reads the pose of scenes."""
    data = Data(dataset="npz", data_file=str(scenes), distortion="none")
    built = build_experiment(Config(data, Model("st_fcn", **model), Optimisation(batch_size=6)))
    network = PoseReader(built.config.model, built.normalisation, follows)
    return dataclasses.replace(built, network=network)


@pytest.mark.parametrize(
    "model",
    [
        {"transform": "affine"},
        {"transform": "projective"},
        {"placement": "series", "transformers": 2},
    ],
    ids=["affine", "projective", "series"],
)
def test_network_that_follows_has_no_error(scenes: pathlib.Path, model: dict[str, Any]) -> None:
    found = diagnostics.measure(make_experiment(scenes, True, **model), {})
    assert found["images"] == 20
    assert found["equivariance_90"]["rotation_deg"] < 0.01
    assert found["equivariance_90"]["translation_px"] < 0.01
    assert found["equivariance_90"]["log_scale"] < 1e-4
    assert all(
        found["equivariance"][kind] <= found["equivariance_90"][kind] for kind in diagnostics.KINDS
    )
    assert set(found["changed"].values()) == set(found["kl"].values()) == {0.0}
    assert {*found["outside"].values(), found["outside_unmoved"]} == {0.0}


def test_error_of_network_that_ignores_its_input_is_none(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(make_experiment(scenes, False, transform="affine"), {})
    steps = np.mean([abs(each) for each in diagnostics.FRACTIONS if each])
    largest = {
        "rotation_deg": diagnostics.MAX_ROTATION_DEG,
        "log_scale": diagnostics.MAX_LOG_SCALE,
        "translation_px": 20 * diagnostics.MAX_SHIFT,
    }
    for kind, limit in largest.items():
        assert found["none"][kind] == pytest.approx(steps * limit, rel=1e-4)
        for name in ("equivariance", "equivariance_90"):
            assert found[name][kind] == pytest.approx(found["none"][kind], rel=1e-5)
        assert found["by_amount"][kind]["amount"][-1] == pytest.approx(limit)
    # Its logits are the angle, which does not change with shift and scale.
    assert found["changed"]["rotation_deg"] > 0.02
    assert found["kl"]["rotation_deg"] > 0.01
    for kind in ("translation_px", "log_scale"):
        assert found["changed"][kind] == 0
        assert found["kl"][kind] < 1e-4


@pytest.mark.parametrize("distortion", ["none", "r"])
def test_only_undistorted_images_are_padded_with_their_edge(
    scenes: pathlib.Path, distortion: str
) -> None:
    experiment = make_experiment(scenes, True)
    config = replace_settings(experiment.config, {"distortion": distortion})
    experiment = dataclasses.replace(experiment, config=config)
    moved = diagnostics._moved(
        experiment, jnp.full((1, *SHAPE, 3), 7.0), jnp.float32([[0, 0, 3, 0]])
    )
    assert bool((moved == 7).all()) is (distortion == "none")


def test_measurements_of_no_move_are_zero(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(make_experiment(scenes, False, transform="affine"), {})
    for rows in found["by_amount"].values():
        unmoved = {name: values[diagnostics.FRACTIONS.index(0)] for name, values in rows.items()}
        assert set(unmoved.values()) == {0.0}


@pytest.mark.slow
def test_run_records_and_redraws_diagnostics_on_request(
    unfinished: pathlib.Path, tiny: list[str], run: Callable[..., int]
) -> None:
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto", "--diagnostics") == 0
    found = json.loads((unfinished / "summary.json").read_text())["diagnostics"]
    assert found["images"] == 25
    assert found["equivariance"].keys() == found["none"].keys() == set(diagnostics.KINDS)
    path = unfinished / "figures" / "diagnostics.png"
    drawn = path.read_bytes()
    assert len(drawn) > 5000
    path.unlink()
    assert figures.main([str(unfinished)]) == 0
    assert path.read_bytes() == drawn


def test_network_without_transformer_has_no_measurements_of_frames(
    tiny: list[str],
) -> None:
    experiment = build_experiment(command_line.parse([*tiny, "--model", "fcn"], "train").config)
    found = diagnostics.measure(experiment, initial_state(experiment).params)
    assert found.keys() == {"images", "changed", "kl", "by_amount"}
    labels = {axes.get_ylabel() for axes in draw_diagnostics(found).axes}
    assert labels == {"", "Changed\npredictions (%)", "Divergence\n(nats)"}


def test_figure_has_units_and_room_for_its_curves(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(make_experiment(scenes, False, transform="affine"), {})
    figure = draw_diagnostics(json.loads(to_json(found)), "a title")
    first_row = {axes.get_ylabel() for axes in figure.axes[:3]}
    units = ("°", "pixels", "natural log")
    assert first_row == {f"Error of the frame\n({unit})" for unit in units}
    assert figure.get_suptitle() == "a title\n20 test images, moved by known amounts"
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low == 0
        assert all(np.nanmax(line.get_ydata()) < high for line in axes.lines)


def test_numbers_that_are_not_finite_are_left_out_of_the_figure(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(make_experiment(scenes, False, transform="affine"), {})
    found["by_amount"]["rotation_deg"]["equivariance"][1] = math.nan
    found["by_amount"]["log_scale"]["kl"] = [math.nan] * len(diagnostics.FRACTIONS)
    figure = draw_diagnostics(json.loads(to_json(found)))
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).sum() == 1


def test_run_has_no_diagnostics_by_default(finished: pathlib.Path) -> None:
    assert "diagnostics" not in json.loads((finished / "summary.json").read_text())
    assert not (finished / "figures" / "diagnostics.png").exists()
