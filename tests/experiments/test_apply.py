"""A folder of images through a trained transformer: what it makes of them, and what it refuses."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import stn_jax
from experiments import (
    apply,
    checkpoints,
    command_line,
    config,
    image_files,
    preparation,
    records,
    restored,
)
from experiments import experiment as setup
from experiments.datasets.gtsrb import archives
from experiments.image_files import ImageError
from tests.experiments.conftest import keeping_compiled, save_npz


@pytest.fixture
def straighten(compiled: pathlib.Path) -> Iterator[Callable[..., int]]:
    """The command, which answers with the exit code."""

    def main(run: pathlib.Path, images: pathlib.Path, out: pathlib.Path) -> int:
        return apply.main(["--run", str(run), "--images", str(images), "--out", str(out)])

    with keeping_compiled(compiled):
        yield main


def picture(height: int, width: int, mode: str = "L") -> Image.Image:
    """A bright blot, high and to the left."""
    rows, columns = np.mgrid[:height, :width]
    values = np.exp(
        -(((rows - height / 4) / height) ** 2 + ((columns - width / 3) / width) ** 2) * 9
    )
    return Image.fromarray(np.uint8(255 * values)).convert(mode)


@pytest.fixture
def ten(tmp_path: pathlib.Path) -> pathlib.Path:
    """Ten files of mixed size, format and mode; the one called broken is cut short."""
    folder = tmp_path / "ten"
    (folder / "folder").mkdir(parents=True)
    (folder / ".hidden").write_text("not an image")
    picture(9, 9).save(folder / "same.png")
    picture(30, 30).save(folder / "large.png")
    picture(30, 30, "RGB").save(folder / "photo.jpg")
    picture(6, 12, "LA").save(folder / "alpha.png")
    picture(20, 10, "RGBA").save(folder / "flat.webp")
    picture(30, 30, "P").save(folder / "palette.gif")
    picture(9, 9, "1").save(folder / "bits.bmp")
    picture(9, 9, "CMYK").save(folder / "print.tif")
    Image.fromarray(np.asarray(picture(9, 9)).astype(np.uint16) * 257).save(folder / "deep.png")
    picture(30, 30).save(folder / "broken.png")
    whole = (folder / "broken.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_nine_of_ten_files_are_straightened(
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


def test_what_is_written_is_what_the_network_sees(
    finished: pathlib.Path,
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
) -> None:
    """Of an image of the network's own size: its theta, and its output in bytes."""
    (tmp_path / "one").mkdir()
    shutil.copy(ten / "same.png", tmp_path / "one")
    assert straighten(finished, tmp_path / "one", tmp_path / "out") == 0
    (record,) = map(json.loads, (tmp_path / "out" / "theta.jsonl").read_text().splitlines())
    made = setup.build(config.from_dict(json.loads((finished / "config.json").read_text())))
    _, params = restored.restore(finished)
    image = np.asarray(picture(9, 9), np.float32)[None, ..., None]
    (mean,), (std,) = made.normalisation
    _, found = made.apply(params, jnp.asarray((image / 255 - mean) / std), None)
    assert record["input_shape"] == record["output_shape"] == [9, 9]
    np.testing.assert_allclose(record["theta"], found["transformer_0"]["theta"][0], atol=1e-4)
    assert abs(record["theta"][0]) > 1e-3  # it was trained
    expected = 255 * (found["transformer_0"]["output"][0, ..., 0] * std + mean)
    with Image.open(tmp_path / "out" / "same.png") as straight:
        np.testing.assert_allclose(np.asarray(straight, np.float32), expected, atol=0.51)


def test_the_data_are_not_needed_but_for_runs_that_do_not_describe_them(
    unfinished: pathlib.Path,
    finished: pathlib.Path,
    data_file: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    with keeping_compiled(compiled):
        expected = restored.restore(unfinished)[0]  # without a summary, from the data
        assert expected.dataset.train.images.max() > 0
        shutil.copy(finished / "summary.json", unfinished)
        settings = unfinished / "config.json"
        settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
        found, _ = restored.restore(unfinished)
    assert found.normalisation == expected.normalisation
    assert found.network == expected.network
    assert found.dataset.train.images.shape[1:] == expected.dataset.train.images.shape[1:]


def untrained_run(
    folder: pathlib.Path, arguments: list[str], *settings: object, noise: float = 0.0
) -> pathlib.Path:
    """The folder of a run that was stopped before its first step, its parameters with noise."""
    _, settings_of_run = command_line.parse([*arguments, *map(str, settings)], "train")
    made = setup.build(settings_of_run)
    folder.mkdir()
    records.write_json(folder / "config.json", config.to_dict(settings_of_run))
    state, rng = setup.initial_state(made), np.random.default_rng(0)
    noisy = jax.tree.map(lambda p: p + np.float32(rng.normal(0, noise, p.shape)), state.params)
    snapshot = checkpoints.at_start_of_epoch(state._replace(params=noisy), 1)
    checkpoints.Checkpoints(folder / "checkpoints").save(snapshot)
    return folder


def predicted(run: pathlib.Path, image: np.ndarray) -> np.ndarray:
    """Theta of the first transformer for an image of the network's own size."""
    made, params = restored.restore(run)
    undistorted = dataclasses.replace(made.config.data, distortion="none")
    prepare = preparation.make_prepare(undistorted, made.normalisation)

    @jax.jit
    def look(images: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), 1)
        prepared = prepare(keys, {"image": images})["image"]
        return made.apply(params, prepared, None)[1]["transformer_0"]["theta"]

    return look(image[None])[0]


@pytest.mark.parametrize(
    ("placement", "names", "count"), [("series", ["a"], 2), ("parallel", ["a_0", "a_1"], 1)]
)
def test_transformers_in_series_make_one_image_and_side_by_side_one_each(
    placement: str,
    names: list[str],
    count: int,
    tiny: list[str],
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
) -> None:
    (tmp_path / "one").mkdir()
    picture(30, 60).save(tmp_path / "one" / "a.png")
    settings = ("--placement", placement, "--transformers", 2, "--output-size", 6)
    run, out = untrained_run(tmp_path / "run", tiny, *settings), tmp_path / "out"
    assert straighten(run, tmp_path / "one", out) == 0
    assert {path.name for path in out.iterdir()} == {*(f"{n}.png" for n in names), "theta.jsonl"}
    for name in names:
        with Image.open(out / f"{name}.png") as straight:
            assert straight.size == (40, 20)  # 6 of 9 pixels, at the image's resolution
    lines = map(json.loads, (out / "theta.jsonl").read_text().splitlines())
    assert [len(record["theta"]) for record in lines] == [count] * len(names)


def test_signs_through_splines_between_blocks(
    tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    """Three channels, local contrast, splines of which only the first sees the image."""
    data = save_npz(tmp_path / "signs.npz", (32, 32, 3))
    settings = "--model st_compact --features 2 2 2 4 --batch-size 6 --control-points 2 3"
    settings += " --transform thin_plate_spline --placement between --transformers 2"
    settings += " --normalisation local --output-size 32 --regularisation 0.1 --align-corners"
    arguments = ["gtsrb", "--dataset", "npz", "--data-file", str(data), *settings.split()]
    run, out = untrained_run(tmp_path / "run", arguments, noise=0.05), tmp_path / "out"
    (tmp_path / "one").mkdir()
    image = picture(48, 72, "RGB")
    image.save(tmp_path / "one" / "a.png")
    assert straighten(run, tmp_path / "one", out) == 0
    record = json.loads((out / "theta.jsonl").read_text())
    theta = np.float32(record.pop("theta"))
    expected = predicted(run, image_files.resized(image, (32, 32, 3)))
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
        "seen_input_shape": [32, 32],
        "seen_output_shape": [32, 32],
    }
    with Image.open(out / "a.png") as straight:
        again = stn_jax.straighten(
            np.float32(image),
            theta,
            stn_jax.transforms.thin_plate_spline(record["control_points"], 0.1),
            record["seen_input_shape"],
            padding_mode=restored.restore(run)[0].config.model.padding_mode,
            align_corners=True,
        )
        np.testing.assert_allclose(np.float32(straight), again, atol=0.51)
        assert np.abs(np.float32(straight) - np.float32(image)).max() > 5


def test_a_run_that_kept_the_aspect_sees_squares(
    tiny: list[str], tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    run, out = untrained_run(tmp_path / "run", tiny, noise=0.1), tmp_path / "out"
    restore = restored.restore

    def kept(folder: pathlib.Path) -> tuple[setup.Experiment, Any]:
        experiment, params = restore(folder)
        changed = config.replace(experiment.config, {"keep_aspect": True})
        return dataclasses.replace(experiment, config=changed), params

    (tmp_path / "one").mkdir()
    image = picture(6, 9)  # the network's own size, once it is extended
    image.save(tmp_path / "one" / "a.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(restored, "restore", kept)
        assert straighten(run, tmp_path / "one", out) == 0
    record = json.loads((out / "theta.jsonl").read_text())
    assert record["input_shape"] == record["output_shape"] == [9, 9]
    assert record["margins"] == [1, 0]
    theta, seen = np.float32(record["theta"]), archives.resize(image, 9, keep_aspect=True)
    np.testing.assert_allclose(theta, predicted(run, seen[..., None]), atol=1e-4)
    squashed = predicted(run, image_files.resized(image, (9, 9, 1)))
    assert np.abs(theta - squashed).max() > 1e-3
    expected = stn_jax.spatial_transform(
        np.float32(seen[..., None]), theta, stn_jax.transforms.rotation
    )
    with Image.open(out / "a.png") as straight:
        np.testing.assert_allclose(np.float32(straight), expected[..., 0], atol=0.51)


def test_each_file_that_cannot_be_read_is_one_line(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    picture(9, 9).save(folder / "fine.png")
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "two\nlines.png").write_text("not an image")
    assert straighten(finished, folder, tmp_path / "out") == 1
    printed = capsys.readouterr()
    link, lines = printed.err.splitlines()
    assert link.startswith(f"error: {folder}/link.png: cannot be read as an image: ")
    assert lines.startswith(f"error: {folder}/two\\nlines.png: cannot be read as an image: ")
    assert printed.out.startswith("1 of 3 files")


def test_runs_that_cannot_be_applied(
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
    for folder, answer in {
        plain: "--model fcn has no transformer to apply",
        adding: "--task add is of pairs of images, not of single ones",
        floating: "was trained on float32 images, whose scale image files do not have",
    }.items():
        assert straighten(folder, ten, tmp_path / "out") == 1
        assert capsys.readouterr().err == f"error: {folder}: {answer}\n"
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_in_the_way(
    finished: pathlib.Path,
    unfinished: pathlib.Path,
    ten: pathlib.Path,
    tmp_path: pathlib.Path,
    straighten: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()

    def answer(run: pathlib.Path, images: pathlib.Path) -> str:
        before = {path: path.stat().st_mtime_ns for path in out.glob("*")}
        assert straighten(run, images, out) == 1
        assert {path: path.stat().st_mtime_ns for path in out.glob("*")} == before
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    nowhere = tmp_path / "nowhere"
    assert answer(nowhere, ten).startswith(f"{nowhere}/config.json: not found")
    assert answer(finished, nowhere) == f"{nowhere}: cannot be read: No such file or directory"
    assert answer(finished, tmp_path / "empty") == f"{tmp_path}/empty: holds no files"
    shutil.rmtree(unfinished / "checkpoints")
    assert answer(unfinished, ten) == f"{unfinished}: holds no checkpoint"
    picture(9, 9).save(ten / "same.jpg")
    assert "same.jpg and same.png would both become same.png; rename" in answer(finished, ten)
    (ten / "same.jpg").unlink()
    out.mkdir()
    (out / "large.png").write_text("precious")
    assert answer(finished, ten) == f"{out}/large.png: exists already; give another --out"
    assert os.listdir(out) == ["large.png"]
    for name in ("a\nb.png", "a\nb.jpg"):
        picture(9, 9).save(ten / name)
    assert r"a\nb.jpg and a\nb.png would both become a\nb.png" in answer(finished, ten)


def test_a_wrong_flag_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        apply.main(["--run", "a", "--images", "b"])
    assert end.value.code == 2
    assert "--out" in capsys.readouterr().err


# Files.


def test_what_libtiff_prints_is_kept_back(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture(40, 40).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read as an image: "):
        image_files.read(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_what_pillow_warns_of_is_read_without_a_word(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    picture(9, 9).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert image_files.read(tmp_path / "a.png").size == (9, 9)
    assert not recwarn


def test_what_is_transparent_is_black_and_photographs_stand_upright(tmp_path: pathlib.Path) -> None:
    picture = Image.new("RGBA", (4, 2), (200, 100, 50, 255))
    picture.putpixel((3, 0), (200, 100, 50, 0))
    picture.save(tmp_path / "a.png")
    values = image_files.pixels(image_files.read(tmp_path / "a.png"))
    np.testing.assert_array_equal(values[0], [[200, 100, 50]] * 3 + [[0, 0, 0]])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("L", (4, 2)).save(tmp_path / "b.jpg", exif=exif)
    assert image_files.read(tmp_path / "b.jpg").size == (2, 4)


def test_deep_grey_keeps_its_scale_and_what_has_none_is_refused(tmp_path: pathlib.Path) -> None:
    Image.fromarray(np.uint16([[0, 257 * 100, 65535]])).save(tmp_path / "a.png")
    values = image_files.pixels(image_files.read(tmp_path / "a.png"))
    np.testing.assert_array_equal(values[..., 0], [[0, 100, 255]])
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif: cannot be read as an image: pixels of 32 bits"):
        image_files.read(tmp_path / "b.tif")


def test_warped_points_are_those_of_the_file(
    finished: pathlib.Path, tmp_path: pathlib.Path, straighten: Callable[..., int]
) -> None:
    """The recorded theta and shapes say where a spot of the file is on the straightened image."""
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
