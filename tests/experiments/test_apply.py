"""A trained transformer straightens image files; runs, folders and files may be rejected."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import stn_jax
from experiments import apply
from experiments.analysis import restore
from experiments.analysis.loaded_model import LoadedModel
from experiments.datasets import image_files
from experiments.datasets.gtsrb import archives
from experiments.runs import checkpoints, records
from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.conversion import config_to_dict
from experiments.training import preprocessing
from experiments.training.experiment import build_experiment, initial_state
from tests.experiments.conftest import keeping_compiled, save_npz


@pytest.fixture
def straighten(compiled: pathlib.Path) -> Iterator[Callable[..., int]]:
    """The command, which returns the exit code."""

    def main(run: pathlib.Path, images: pathlib.Path, out: pathlib.Path) -> int:
        return apply.main(["--run", str(run), "--images", str(images), "--out", str(out)])

    with keeping_compiled(compiled):
        yield main


def make_image(height: int, width: int, mode: str = "L") -> Image.Image:
    """A bright spot in the upper left."""
    rows, columns = np.mgrid[:height, :width]
    values = np.exp(
        -(((rows - height / 4) / height) ** 2 + ((columns - width / 3) / width) ** 2) * 9
    )
    return Image.fromarray(np.uint8(255 * values)).convert(mode)


@pytest.fixture
def ten(tmp_path: pathlib.Path) -> pathlib.Path:
    """Ten files of mixed size, format and mode; broken.png is truncated."""
    folder = tmp_path / "ten"
    (folder / "folder").mkdir(parents=True)
    (folder / ".hidden").write_text("not an image")
    make_image(9, 9).save(folder / "same.png")
    make_image(30, 30).save(folder / "large.png")
    make_image(30, 30, "RGB").save(folder / "photo.jpg")
    make_image(6, 12, "LA").save(folder / "alpha.png")
    make_image(20, 10, "RGBA").save(folder / "flat.webp")
    make_image(30, 30, "P").save(folder / "palette.gif")
    make_image(9, 9, "1").save(folder / "bits.bmp")
    make_image(9, 9, "CMYK").save(folder / "print.tif")
    Image.fromarray(np.asarray(make_image(9, 9)).astype(np.uint16) * 257).save(folder / "deep.png")
    make_image(30, 30).save(folder / "broken.png")
    whole = (folder / "broken.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_readable_files_are_straightened_at_their_own_size(
    finished: pathlib.Path,
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "made" / "out"
    assert straighten(finished, ten, out) == 1
    printed = capsys.readouterr()
    (message,) = printed.err.splitlines()
    assert message.startswith(f"error: {ten}/broken.png: cannot be read as an image: ")
    assert printed.out == f"9 of 10 files straightened into {out}\n"
    sources = {
        p.stem: p for p in ten.iterdir() if p.is_file() and p.stem not in ("broken", ".hidden")
    }
    assert {p.name for p in out.iterdir()} == {"theta.jsonl", *(f"{name}.png" for name in sources)}
    for name, source in sources.items():
        with Image.open(source) as one, Image.open(out / f"{name}.png") as other:
            assert one.size == other.size
            assert other.mode == ("RGB" if name in ("photo", "flat", "palette", "print") else "L")
    lines = [json.loads(line) for line in (out / "theta.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(p.name for p in sources.values())
    assert all(line["transform"] == "rotation" for line in lines)


def test_subfolders_are_kept_and_records_name_the_predicted_class(
    finished: pathlib.Path, tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    images, out = tmp_path / "images", tmp_path / "images" / "straight"
    files = ["b.png", "one/a.png", "one/two/a.jpg"]
    for i, file in enumerate(["one/.hidden/c.png", "straight/old/d.png", *files]):
        (images / file).parent.mkdir(parents=True, exist_ok=True)
        make_image(9 + i, 12).save(images / file)
    (images / "one" / "loop").symlink_to(images)
    assert straighten(finished, images, out) == 0
    lines = [json.loads(line) for line in (out / "theta.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == files
    assert [line["output"] for line in lines] == ["b.png", "one/a.png", "one/two/a.png"]
    assert all((out / line["output"]).is_file() for line in lines)
    model = LoadedModel(restore.restore(finished))
    for line in lines:
        pixels = image_files.to_array(image_files.read_image(images / line["file"]))
        (probabilities,) = model.predict(model.resize(pixels[None]))
        assert line["prediction"] == probabilities.argmax()
        assert line["class_name"] == model.class_names[line["prediction"]]
        assert line["confidence"] == pytest.approx(probabilities.max())


def test_long_names_are_shortened_to_distinct_names(
    tiny: list[str], tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    settings = ("--placement", "parallel", "--transformers", 2)
    run, images, out = untrained_run(tmp_path / "run", tiny, *settings), tmp_path / "a", tmp_path
    images.mkdir()
    names = sorted([f"{'x' * 251}.png", f"{'x' * 250}y.png", f"{chr(233) * 125}.jpeg"])
    for name in names:
        make_image(9, 9).save(images / name)
    assert straighten(run, images, out / "out") == 0
    lines = [json.loads(line) for line in (out / "out" / "theta.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [name for name in names for _ in range(2)]
    outputs = [line["output"] for line in lines]
    assert len(set(outputs)) == 6
    assert [name[-6:] for name in outputs] == ["_0.png", "_1.png"] * 3
    assert {"theta.jsonl", *outputs} == set(os.listdir(out / "out"))


def test_image_of_the_input_size_gives_the_output_of_the_network(
    finished: pathlib.Path,
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(ten / "same.png", tmp_path / "one")
    assert straighten(finished, tmp_path / "one", tmp_path / "out") == 0
    (record,) = map(json.loads, (tmp_path / "out" / "theta.jsonl").read_text().splitlines())
    experiment = build_experiment(records.read_config(finished))
    params = restore.restore(finished).params
    image = np.asarray(make_image(9, 9), np.float32)[None, ..., None]
    (mean,), (std,) = experiment.normalisation
    _, found = experiment.apply(params, jnp.asarray((image / 255 - mean) / std), None)
    assert record["input_shape"] == record["output_shape"] == [9, 9]
    np.testing.assert_allclose(record["theta"], found["transformer_0"]["theta"][0], atol=1e-4)
    assert abs(record["theta"][0]) > 1e-3  # it was trained
    expected = 255 * (found["transformer_0"]["output"][0, ..., 0] * std + mean)
    with Image.open(tmp_path / "out" / "same.png") as straight:
        np.testing.assert_allclose(np.asarray(straight, np.float32), expected, atol=0.51)


def test_restoring_needs_the_data_only_without_a_description_of_them(
    unfinished: pathlib.Path,
    finished: pathlib.Path,
    data_file: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    with keeping_compiled(compiled):
        expected = restore.restore(unfinished).experiment  # has no summary, so loads the data
        assert expected.dataset.train.images.max() > 0
        shutil.copy(finished / "summary.json", unfinished)
        settings = unfinished / "config.json"
        settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
        found = restore.restore(unfinished).experiment
    assert found.normalisation == expected.normalisation
    assert found.network == expected.network
    assert found.dataset.train.images.shape[1:] == expected.dataset.train.images.shape[1:]


def untrained_run(
    folder: pathlib.Path, arguments: list[str], *settings: object, noise: float = 0.0
) -> pathlib.Path:
    """The folder of a run before its first step, with noise in its parameters."""
    config = command_line.parse([*arguments, *map(str, settings)], "train").config
    experiment = build_experiment(config)
    folder.mkdir()
    records.write_json(folder / "config.json", config_to_dict(config))
    state, rng = initial_state(experiment), np.random.default_rng(0)
    noisy = jax.tree.map(lambda p: p + np.float32(rng.normal(0, noise, p.shape)), state.params)
    snapshot = checkpoints.at_start_of_epoch(state._replace(params=noisy), 1)
    checkpoints.Checkpoints(folder / "checkpoints").save(snapshot)
    return folder


def predict_theta(run: pathlib.Path, *images: np.ndarray) -> np.ndarray:
    """Theta of the first transformer for images of the size of the network's input."""
    experiment, params, *_ = restore.restore(run)
    undistorted = dataclasses.replace(experiment.config.data, distortion="none")
    preprocess = preprocessing.make_preprocess(undistorted, experiment.normalisation)

    @jax.jit
    def theta(images: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), len(images))
        preprocessed = preprocess(keys, {"image": images})["image"]
        return experiment.apply(params, preprocessed, None)[1]["transformer_0"]["theta"]

    return theta(np.stack(images))


@pytest.mark.parametrize(
    ("placement", "names", "count"), [("series", ["a"], 2), ("parallel", ["a_0", "a_1"], 1)]
)
def test_series_writes_one_image_and_parallel_transformers_one_each(
    placement: str,
    names: list[str],
    count: int,
    tiny: list[str],
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
) -> None:
    (tmp_path / "one").mkdir()
    make_image(30, 60).save(tmp_path / "one" / "a.png")
    settings = ("--placement", placement, "--transformers", 2, "--output-size", 6)
    run, out = untrained_run(tmp_path / "run", tiny, *settings), tmp_path / "out"
    assert straighten(run, tmp_path / "one", out) == 0
    assert {path.name for path in out.iterdir()} == {*(f"{n}.png" for n in names), "theta.jsonl"}
    for name in names:
        with Image.open(out / f"{name}.png") as straight:
            assert straight.size == (40, 20)  # 6 of 9 pixels, at the resolution of the image
    lines = map(json.loads, (out / "theta.jsonl").read_text().splitlines())
    assert [len(record["theta"]) for record in lines] == [count] * len(names)


@pytest.mark.slow
def test_splines_between_blocks_straighten_signs(
    tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    """Three channels, local contrast, and splines of which only the first samples the image."""
    data = save_npz(tmp_path / "signs.npz", (32, 32, 3))
    settings = "--model st_compact --features 2 2 2 4 --batch-size 6 --control-points 2 3"
    settings += " --transform thin_plate_spline --placement between --transformers 2"
    settings += " --normalisation local --output-size 32 --regularisation 0.1 --align-corners"
    arguments = ["gtsrb", "--dataset", "npz", "--data-file", str(data), *settings.split()]
    run, out = untrained_run(tmp_path / "run", arguments, noise=0.05), tmp_path / "out"
    (tmp_path / "one").mkdir()
    image = make_image(48, 72, "RGB")
    image.save(tmp_path / "one" / "a.png")
    assert straighten(run, tmp_path / "one", out) == 0
    record = json.loads((out / "theta.jsonl").read_text())
    theta = np.float32(record.pop("theta"))
    for name in ("prediction", "class_name", "confidence"):
        del record[name]
    (expected,) = predict_theta(
        run, image_files.resize_to(image_files.to_array(image), (32, 32, 3))
    )
    np.testing.assert_allclose(theta, expected, atol=1e-4)
    assert np.abs(theta).max() > 0.02  # it bends
    assert record == {
        "file": "a.png",
        "output": "a.png",
        "input_shape": [48, 72],
        "output_shape": [48, 72],
        "margins": [0, 0],
        "transform": "thin_plate_spline",
        "control_points": [2, 3],
        "regularisation": 0.1,
        "align_corners": True,
        "in_series": 1,
        "network_input_shape": [32, 32],
        "network_output_shape": [32, 32],
    }
    with Image.open(out / "a.png") as straight:
        again = stn_jax.straighten(
            np.float32(image),
            theta,
            stn_jax.transforms.thin_plate_spline(record["control_points"], 0.1),
            record["network_input_shape"],
            padding_mode=restore.restore(run).experiment.config.model.padding_mode,
            align_corners=True,
        )
        np.testing.assert_allclose(np.float32(straight), again, atol=0.51)
        assert np.abs(np.float32(straight) - np.float32(image)).max() > 5


def test_run_with_keep_aspect_pads_images_to_squares(
    tiny: list[str], tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    run, out = untrained_run(tmp_path / "run", tiny, noise=0.1), tmp_path / "out"
    original = restore.restore

    def with_keep_aspect(folder: pathlib.Path) -> restore.TrainedRun:
        trained = original(folder)
        config = replace_settings(trained.experiment.config, {"keep_aspect": True})
        return trained._replace(experiment=dataclasses.replace(trained.experiment, config=config))

    (tmp_path / "one").mkdir()
    image = make_image(6, 9)  # of the size of the input, after padding
    image.save(tmp_path / "one" / "a.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(restore, "restore", with_keep_aspect)
        assert straighten(run, tmp_path / "one", out) == 0
    record = json.loads((out / "theta.jsonl").read_text())
    assert record["input_shape"] == record["output_shape"] == [9, 9]
    assert record["margins"] == [1, 0]
    theta, padded = np.float32(record["theta"]), archives.resize(image, 9, keep_aspect=True)
    squashed = image_files.resize_to(image_files.to_array(image), (9, 9, 1))
    of_padded, of_squashed = predict_theta(run, padded, squashed)
    np.testing.assert_allclose(theta, of_padded, atol=1e-4)
    assert np.abs(theta - of_squashed).max() > 1e-3
    expected = stn_jax.spatial_transform(np.float32(padded), theta, stn_jax.transforms.rotation)
    with Image.open(out / "a.png") as straight:
        np.testing.assert_allclose(np.float32(straight), expected[..., 0], atol=0.51)


def test_each_unreadable_file_gives_a_one_line_error(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    make_image(9, 9).save(folder / "fine.png")
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "two\nlines.png").write_text("not an image")
    assert straighten(finished, folder, tmp_path / "out") == 1
    printed = capsys.readouterr()
    link, lines = printed.err.splitlines()
    assert link.startswith(f"error: {folder}/link.png: cannot be read as an image: ")
    assert lines.startswith(f"error: {folder}/two\\nlines.png: cannot be read as an image: ")
    assert printed.out.startswith("1 of 3 files")


def test_runs_that_cannot_be_applied_are_rejected(
    tiny: list[str],
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    floats = save_npz(tmp_path / "floats.npz", dtype=np.float32)
    plain = untrained_run(tmp_path / "plain", tiny, "--model", "fcn")
    floating = untrained_run(tmp_path / "floating", tiny, "--data-file", floats)
    adding = untrained_run(tmp_path / "adding", tiny, "--task", "add")
    for folder, message in {
        plain: "--model fcn has no transformer of images",
        adding: "--task add takes pairs of images, not single images",
        floating: "trained on float32 images, whose scale image files do not have",
    }.items():
        assert straighten(folder, ten, tmp_path / "out") == 1
        assert capsys.readouterr().err == f"error: {folder}: {message}\n"
    assert not (tmp_path / "out").exists()


def test_missing_input_and_existing_output_change_nothing(
    finished: pathlib.Path,
    unfinished: pathlib.Path,
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()

    def message(run: pathlib.Path, images: pathlib.Path) -> str:
        before = {path: path.stat().st_mtime_ns for path in out.glob("*")}
        assert straighten(run, images, out) == 1
        assert {path: path.stat().st_mtime_ns for path in out.glob("*")} == before
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    nowhere = tmp_path / "nowhere"
    assert message(nowhere, ten).startswith(f"{nowhere}/config.json: not found")
    assert message(finished, nowhere) == f"{nowhere}: cannot be read: No such file or directory"
    assert message(finished, tmp_path / "empty") == f"{tmp_path}/empty: contains no files"
    shutil.rmtree(unfinished / "checkpoints")
    assert message(unfinished, ten) == f"{unfinished}: no checkpoint found"
    make_image(9, 9).save(ten / "same.jpg")
    assert "same.jpg and same.png would both become same.png; rename" in message(finished, ten)
    (ten / "same.jpg").unlink()
    out.mkdir()
    (out / "large.png").write_text("precious")
    assert message(finished, ten) == f"{out}/large.png: exists already; give another --out"
    assert os.listdir(out) == ["large.png"]
    for name in ("a\nb.png", "a\nb.jpg"):
        make_image(9, 9).save(ten / name)
    assert r"a\nb.jpg and a\nb.png would both become a\nb.png" in message(finished, ten)


def test_missing_flag_gives_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        apply.main(["--run", "a", "--images", "b"])
    assert end.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_recorded_theta_maps_points_of_the_file_to_the_result(
    finished: pathlib.Path, tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    """`warp_points` with the recorded theta and shapes finds a spot on the straightened image."""
    (tmp_path / "one").mkdir()
    rows, columns = np.mgrid[:60, :60]
    spot = np.exp(-((columns - 25.0) ** 2 + (rows - 33.0) ** 2) / 20)
    Image.fromarray(np.uint8(255 * spot)).save(tmp_path / "one" / "a.png")
    assert straighten(finished, tmp_path / "one", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "theta.jsonl").read_text())
    found = stn_jax.warp_points(
        jnp.asarray([25.0, 33.0]),
        jnp.asarray(record["theta"]),
        getattr(stn_jax.transforms, record["transform"]),
        record["input_shape"],
        to="output",
        output_shape=record["output_shape"],
    )
    with Image.open(tmp_path / "out" / "a.png") as straight:
        weights = np.asarray(straight, np.float64)
    centre = [(weights * each).sum() / weights.sum() for each in (columns, rows)]
    np.testing.assert_allclose(found, centre, atol=0.2)
