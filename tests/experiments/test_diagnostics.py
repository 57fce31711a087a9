"""What moved images tell of a network: nothing of one that follows, all of one that does not."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line, diagnostics, gallery
from experiments import config as configuration
from experiments import experiment as setup
from experiments.config import Config, Data, Model, Optimisation
from experiments.experiment import Experiment
from experiments.figures.diagnostics import draw_diagnostics
from experiments.preparation import Normalisation
from stn_jax import poses
from stn_jax.transforms import similarity

SHAPE, OUTPUT = (20, 30), (12, 14)
FRAME = np.float32([0.3, -0.2, 1.0, -2.0])  # the pose in which a frame sees the scene


@dataclasses.dataclass(frozen=True)
class Reader:
    """A network that reads off an image of coordinates by what it was moved, and follows or not."""

    settings: Model
    normalisation: Normalisation
    follows: bool

    def apply(self, variables: Any, images: jax.Array, rngs: Any) -> Any:
        moved = jax.vmap(self._pose)(images)
        frame = jnp.broadcast_to(FRAME, moved.shape)
        logits = jnp.stack([moved[:, 0], jnp.zeros(len(moved))], axis=1)
        if self.follows:
            frame = jax.vmap(lambda pose: similarity.compose(similarity.inverse(pose), FRAME))(
                moved
            )
            logits = jnp.zeros_like(logits)
        return logits, self._intermediates(frame)

    def _pose(self, image: jax.Array) -> jax.Array:
        """What the four pixels in the middle say of the place, angle and scale of the scene."""
        h, w = SHAPE
        middle = image[h // 2 - 1 : h // 2 + 1, w // 2 - 1 : w // 2 + 1, :2]
        mean, std = (np.asarray(each[:2]) for each in self.normalisation)
        middle = middle * std + mean
        right = (middle[:, 1] - middle[:, 0]).mean(axis=0)
        turned = jnp.stack([jnp.arctan2(right[1], right[0]), jnp.log(jnp.hypot(*right))])
        return jnp.concatenate([turned, middle.mean(axis=(0, 1))])

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
            "transformer_1": rest | {"theta": fixed},  # in series, or on feature maps
        }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Images of the coordinates of a scene, each turned, scaled and shifted in its own way."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    points = jnp.asarray(np.stack([columns - 14.5, rows - 9.5], axis=-1), jnp.float32)
    random = np.random.default_rng(0).uniform(-1, 1, (40, 4)) * [3, 0.3, 5, 5]
    images = jax.vmap(similarity.warp, in_axes=(0, None))(jnp.asarray(random, jnp.float32), points)
    images = np.pad(np.asarray(images), ((0, 0), (0, 0), (0, 0), (0, 1)))
    labels = np.arange(40) % 2
    path = tmp_path_factory.mktemp("scenes") / "scenes.npz"
    np.savez(path, x_train=images[:20], y_train=labels[:20], x_test=images[20:], y_test=labels[20:])
    return path


def reading(scenes: pathlib.Path, follows: bool, **model: Any) -> Experiment:
    data = Data(dataset="npz", data_file=str(scenes), distortion="none")
    made = setup.build(Config(data, Model("st_fcn", **model), Optimisation(batch_size=6)))
    return dataclasses.replace(made, network=Reader(made.config.model, made.normalisation, follows))


@pytest.mark.parametrize(
    "model",
    [
        {"transform": "affine"},
        {"transform": "projective"},
        {"placement": "series", "transformers": 2},
    ],
    ids=["affine", "projective", "series"],
)
def test_a_network_that_follows_has_no_error(scenes: pathlib.Path, model: dict[str, Any]) -> None:
    found = diagnostics.measure(reading(scenes, True, **model), {})
    assert found["images"] == 20
    assert found["equivariance_90"]["rotation_deg"] < 0.01
    assert found["equivariance_90"]["translation_px"] < 0.01
    assert found["equivariance_90"]["log_scale"] < 1e-4
    assert all(
        found["equivariance"][kind] <= found["equivariance_90"][kind] for kind in diagnostics.KINDS
    )
    assert set(found["changed"].values()) == set(found["kl"].values()) == {0.0}
    assert {*found["outside"].values(), found["outside_unmoved"]} == {0.0}


def test_a_network_that_ignores_its_input_has_the_error_of_none(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(reading(scenes, False, transform="affine"), {})
    steps = np.mean([abs(each) for each in diagnostics.FRACTIONS if each])
    largest = {
        "rotation_deg": diagnostics.MOST_DEG,
        "log_scale": diagnostics.MOST_LOG_SCALE,
        "translation_px": 20 * diagnostics.MOST_SHIFT,
    }
    for kind, most in largest.items():
        assert found["none"][kind] == pytest.approx(steps * most, rel=1e-4)
        for name in ("equivariance", "equivariance_90"):
            assert found[name][kind] == pytest.approx(found["none"][kind], rel=1e-5)
        assert found["by_amount"][kind]["amount"][-1] == pytest.approx(most)
    # Its logits are the angle, which shifts and scales leave alone.
    assert found["changed"]["rotation_deg"] > 0.02
    assert found["kl"]["rotation_deg"] > 0.01
    for kind in ("translation_px", "log_scale"):
        assert found["changed"][kind] == 0
        assert found["kl"][kind] < 1e-4


@pytest.mark.parametrize("distortion", ["none", "r"])
def test_outside_a_photograph_its_edge_goes_on(scenes: pathlib.Path, distortion: str) -> None:
    made = reading(scenes, True)
    made = dataclasses.replace(
        made, config=configuration.replace(made.config, {"distortion": distortion})
    )
    moved = diagnostics._moved(made, jnp.full((1, *SHAPE, 3), 7.0), jnp.float32([[0, 0, 3, 0]]))
    assert bool((moved == 7).all()) is (distortion == "none")


def test_what_is_not_moved_answers_alike(scenes: pathlib.Path) -> None:
    found = diagnostics.measure(reading(scenes, False, transform="affine"), {})
    for rows in found["by_amount"].values():
        still = {name: values[diagnostics.FRACTIONS.index(0)] for name, values in rows.items()}
        assert set(still.values()) == {0.0}


def test_a_run_has_them_on_request(
    unfinished: pathlib.Path, tiny: list[str], run: Callable[..., int]
) -> None:
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto", "--diagnostics") == 0
    found = json.loads((unfinished / "summary.json").read_text())["diagnostics"]
    assert found["images"] == 25
    assert found["equivariance"].keys() == found["none"].keys() == set(diagnostics.KINDS)
    picture = unfinished / "figures" / "diagnostics.png"
    drawn = picture.read_bytes()
    assert len(drawn) > 5000
    picture.unlink()
    assert gallery.main([str(unfinished)]) == 0
    assert picture.read_bytes() == drawn


def test_a_network_without_a_transformer_has_predictions_only(
    tiny: list[str], tmp_path: pathlib.Path
) -> None:
    made = setup.build(command_line.parse([*tiny, "--model", "fcn"], "train")[1])
    found = diagnostics.measure(made, setup.initial_state(made).params)
    assert found.keys() == {"images", "changed", "kl", "by_amount"}
    draw_diagnostics(tmp_path / "a.png", found)
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_a_run_does_not_have_them_unasked(finished: pathlib.Path) -> None:
    assert "diagnostics" not in json.loads((finished / "summary.json").read_text())
    assert not (finished / "figures" / "diagnostics.png").exists()
