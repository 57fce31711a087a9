"""The pictures of a run: drawn again, and what they claim about angles and frames is so."""

import dataclasses
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import stn_jax
from experiments import command_line, gallery, preparation, records, run_folder
from experiments import experiment as setup
from experiments.config import Config, Data, Model, Optimisation
from experiments.experiment import Experiment
from stn_jax import transforms
from tests.experiments.conftest import keeping_compiled, save_npz


class Foretold(NamedTuple):
    """A network whose transformers have the thetas that it is given as parameters."""

    size: tuple[int, int]

    def apply(self, variables: Any, images: jax.Array, rngs: Any) -> Any:
        output = jnp.zeros((len(images), *self.size, images.shape[-1]))
        thetas = variables["params"]
        return None, {name: {"theta": theta, "output": output} for name, theta in thetas.items()}


def experiment(
    path: pathlib.Path, data: dict[str, Any], size: tuple[int, int] | None = None, **model: Any
) -> Experiment:
    """An experiment on a data file whose transformers do as they are told."""
    settings = Config(
        Data(dataset="npz", data_file=str(path), **data),
        Model("st_fcn", **model),
        Optimisation(batch_size=6),
    )
    made = setup.build(settings)
    height, width = size or made.dataset.test.images.shape[1:3]
    return dataclasses.replace(made, network=Foretold((height, width)))


def applied_thetas(made: Experiment) -> jax.Array:
    """What the distortion of each test image is made with, `[n, 2, 3]`."""
    draw = preparation.draw_theta(made.config.data)
    assert draw is not None
    shape = made.dataset.test.images.shape[1:3]
    keys = gallery._test_keys(len(made.dataset.test))
    return jax.vmap(lambda key: draw(key, shape))(keys).reshape(-1, 2, 3)


# Angles.


@pytest.mark.parametrize("constant_deg", [0.0, 30.0])
def test_a_perfect_rotation_leaves_no_residual(
    data_file: pathlib.Path, constant_deg: float
) -> None:
    made = experiment(data_file, {"distortion": "r"}, transform="rotation")
    matrices = applied_thetas(made)
    undone = -jnp.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]) + np.radians(constant_deg)
    params = {"transformer_0": undone[:, None]}
    found = gallery.angles(made, params)
    assert found is not None
    applied, predicted = found
    assert np.ptp(applied) > 60
    np.testing.assert_allclose(predicted, -applied + constant_deg, atol=1e-3)
    summary = gallery.angle_summary(made, params)
    assert summary["angle_std_before_deg"] == pytest.approx(applied.std(), rel=0.1)
    assert summary["angle_std_after_deg"] < 1e-3


def test_the_predicted_rotation_straightens_the_image() -> None:
    # The sign is no matter of taste: the transformer that is called perfect restores the image.
    rows, columns = np.mgrid[-20:21, -20:21]
    image = np.exp(-((rows / 4.0) ** 2) - ((columns - 5) / 9.0) ** 2)[..., None].astype(np.float32)
    prepare = preparation.make_prepare(Data(distortion="r"), preparation.Normalisation((0,), (1,)))
    key = jax.random.key(3)
    turned = prepare(key[None], {"image": jnp.asarray(image)[None]})["image"][0]
    draw = preparation.draw_theta(Data(distortion="r"))
    assert draw is not None
    matrix = draw(key, (41, 41)).reshape(1, 2, 3)
    (applied_deg,) = gallery._angle_deg(matrix, (41, 41), (41, 41))
    assert abs(applied_deg) > 20
    theta = jnp.radians(-applied_deg)[None]
    straight = stn_jax.spatial_transform(turned, theta, transforms.rotation)
    assert np.abs(turned - image).max() > 0.3
    np.testing.assert_allclose(straight, image, atol=0.05)


@pytest.mark.parametrize("distortion", ["r", "rts"])
def test_angles_are_of_pixels_where_images_are_not_square(
    tmp_path: pathlib.Path, distortion: str
) -> None:
    path = save_npz(tmp_path / "wide.npz", (8, 20))
    size = (8, 20) if distortion == "r" else (42, 42)
    made = experiment(path, {"distortion": distortion, "max_angle": 40.0}, size, transform="affine")
    matrices = np.asarray(applied_thetas(made))
    # In pixels the map is a rotation and a scale: its angle is that of either column.
    in_px = matrices[:, :, :2] * [[20], [8]] / [size[1], size[0]]
    expected = np.degrees(np.arctan2(in_px[:, 1, 0], in_px[:, 0, 0]))
    undone = np.linalg.inv(in_px) / [[size[1]], [size[0]]] * [size[1], size[0]]
    theta = np.concatenate([undone, np.zeros((len(undone), 2, 1))], axis=2).reshape(-1, 6)
    found = gallery.angles(made, {"transformer_0": jnp.asarray(theta, jnp.float32)})
    assert found is not None
    np.testing.assert_allclose(found[0], expected, atol=1e-3)
    np.testing.assert_allclose(found[1], -expected, atol=1e-3)


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
def test_no_angles_where_there_is_nothing_to_compare(
    data_file: pathlib.Path, data: dict[str, Any], model: dict[str, Any]
) -> None:
    made = experiment(data_file, data, **model)
    params = {"transformer_0": jnp.zeros((25, 6))}
    assert gallery.angles(made, params) is None
    assert gallery.angle_summary(made, params) == {}


def test_no_angles_without_a_transformer_or_of_one_that_is_lost(data_file: pathlib.Path) -> None:
    made = experiment(data_file, {"distortion": "r"}, transform="rotation")
    assert gallery.angle_summary(made, {}) == {}
    assert gallery.angle_summary(made, {"transformer_0": jnp.full((25, 1), jnp.nan)}) == {}


# Frames.

A = [0.8, 0.1, 0.2, -0.1, 0.9, -0.3]
B = [0.5, -0.2, 0.1, 0.3, 0.6, 0.2]
THETAS = {"transformer_0": [A, B], "transformer_1": [B, B]}


def square(theta: list[float]) -> np.ndarray:
    return np.vstack([np.reshape(theta, (2, 3)), [0, 0, 1]])


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def frames(data_file: pathlib.Path, placement: str, transformers: int = 2) -> dict[str, np.ndarray]:
    made = experiment(data_file, {}, placement=placement, transformers=transformers)
    return {name: np.asarray(grid) for name, grid in gallery.frames(made, THETAS).items()}


def test_frames_in_series_are_seen_through_those_before(data_file: pathlib.Path) -> None:
    targets = np.asarray(
        stn_jax.transform_grid(transforms.affine.identity, transforms.affine, gallery.MESH)
    )
    found = frames(data_file, "series")
    assert list(found) == ["transformer_0", "transformer_1"]
    np.testing.assert_allclose(found["transformer_0"][0], through(square(A), targets), atol=1e-6)
    # The second reads the first's output at B, which is the input at A of that.
    composed = through(square(A) @ square(B), targets)
    np.testing.assert_allclose(found["transformer_1"][0], composed, atol=1e-6)
    np.testing.assert_allclose(
        found["transformer_1"][1], through(square(B) @ square(B), targets), atol=1e-6
    )


def test_frames_side_by_side_are_each_their_own(data_file: pathlib.Path) -> None:
    series, parallel = frames(data_file, "series"), frames(data_file, "parallel")
    np.testing.assert_array_equal(parallel["transformer_0"], series["transformer_0"])
    np.testing.assert_array_equal(parallel["transformer_1"][1], parallel["transformer_0"][1])


def test_only_frames_on_the_input_are_drawn(data_file: pathlib.Path) -> None:
    assert list(frames(data_file, "input", 1)) == ["transformer_0"]
    assert list(frames(data_file, "between")) == ["transformer_0"]


# The probe.


def test_the_probe_sees_the_first_test_images(data_file: pathlib.Path) -> None:
    made = experiment(data_file, {"distortion": "r"})
    few, more = gallery.test_images(made, 3), gallery.test_images(made, 1000)
    assert (few.shape, more.shape) == ((3, 9, 9, 1), (25, 9, 9, 1))
    np.testing.assert_allclose(few, more[:3], atol=1e-5)
    pictures = gallery.Probe(made).pictures({"transformer_0": jnp.zeros((8, 6))})
    assert pictures["images"].min() == 0
    assert pictures["images"].max() == 1
    assert pictures["transformer_0"].shape == (8, 9, 9, 1)


# The command.


@pytest.fixture
def copy(unfinished: pathlib.Path) -> pathlib.Path:
    """A run whose pictures are lost."""
    shutil.rmtree(unfinished / "figures")
    return unfinished


def test_the_pictures_are_drawn_again(
    copy: pathlib.Path,
    finished: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with keeping_compiled(compiled):
        assert gallery.main([str(copy)]) == 0
    assert capsys.readouterr().out == f"pictures in {copy}/figures\n"
    names = {path.name for path in (finished / "figures").iterdir()}
    assert {path.name for path in (copy / "figures").iterdir()} == names
    for name in names:  # and they are the same
        with (
            Image.open(copy / "figures" / name) as one,
            Image.open(finished / "figures" / name) as two,
        ):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_a_run_without_frames_has_the_other_pictures(
    copy: pathlib.Path, compiled: pathlib.Path
) -> None:
    (copy / "frames.jsonl").unlink()
    with keeping_compiled(compiled):
        assert gallery.main([str(copy)]) == 0
    found = {path.name for path in (copy / "figures").iterdir()}
    assert found == {"angles.png", "confusions.png", "curves.png", "frames.png", "images.png"}


def test_a_folder_without_a_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        assert gallery.main([str(tmp_path / name)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path}/{name}/config.json: not found")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_run_without_a_checkpoint(copy: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "checkpoints")
    assert gallery.main([str(copy)]) == 1
    assert capsys.readouterr().err == f"error: {copy}: holds no checkpoint\n"


def test_a_run_that_is_going_on_is_not_disturbed(
    copy: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_folder.lock(copy):
        assert gallery.main([str(copy)]) == 1
    assert f"error: {copy}: in use by process" in capsys.readouterr().err
    assert not (copy / "figures").exists()


def test_data_that_are_gone(
    copy: pathlib.Path, data_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = copy / "config.json"
    settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
    assert gallery.main([str(copy)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gone.npz: ")


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["--nonsense"], 2)])
def test_usage(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert gallery.main(arguments) == code
    assert "python -m experiments.gallery RUN_DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ("--placement series --transformers 2", "01"),
        ("--placement parallel --transformers 2 --output-size 6 --align-corners", "01"),
        ("--model fcn", ""),
    ],
)
def test_pictures_of_other_placements(
    settings: str,
    names: str,
    tiny: list[str],
    compiled: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is drawn is tested with the figures; here, that each picture is asked for.
    drawn: dict[str, tuple[Any, ...]] = {}
    for name in ("draw_images", "draw_frames", "animate_frames", "draw_curves", "draw_angles"):
        monkeypatch.setattr(
            gallery, name, lambda path, *values, **_: drawn.setdefault(path.name, values)
        )
    made = setup.build(command_line.parse([*tiny, *settings.split()], "train")[1])
    with keeping_compiled(compiled):
        params = setup.initial_state(made).params
        thetas = gallery.Probe(made).theta(params)
        frames = records.Lines(tmp_path / "frames.jsonl", 0)
        for epoch in (0, 1):
            frames.append({"epoch": epoch, "theta": thetas})
        frames.close()
        gallery.draw(tmp_path, made, params)
    pictures = {f"{kind}_{i}" for i in names for kind in ("images", "frames")}
    expected = {"curves.png", *(f"{name}.png" for name in pictures)}
    assert drawn.keys() == expected | {f"frames_{i}.gif" for i in names}
    for i in names:
        images, grids = drawn[f"frames_{i}.png"]
        assert (images.shape, grids.shape) == ((8, 9, 9, 1), (8, *gallery.MESH, 2))
        assert drawn[f"frames_{i}.gif"][1].shape == (2, 8, *gallery.MESH, 2)
