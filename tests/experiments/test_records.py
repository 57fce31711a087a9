"""What a run leaves: files that are whole, say all that a table needs, and are readable."""

import json
import math
import os
import pathlib
import shlex
import struct
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

import stn_jax
from experiments import command_line, gallery, models, records, train
from experiments import config as configuration
from experiments import experiment as setup
from experiments.checkpoints import Checkpoints
from experiments.records import Lines, RunError, read_lines

EPOCHS, STEPS = 3, 6  # of the finished run
METRICS = {
    "epoch",
    "step",
    "train_loss",
    "train_error",
    "gradient_norm",
    "learning_rate",
    "seconds",
    "images_per_second",
    "validation_loss",
    "validation_error",
    "outside",
}


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Of a finished run.


def test_config_is_the_command(finished: pathlib.Path, tiny: list[str]) -> None:
    found = configuration.from_dict(json.loads((finished / "config.json").read_text()))
    _, expected = command_line.parse([*tiny, "--run-dir", str(finished)], "train")
    assert found == expected


def test_metrics_has_a_line_an_epoch(finished: pathlib.Path) -> None:
    found = lines(finished / "metrics.jsonl")
    assert [record["epoch"] for record in found] == [1, 2, 3]
    assert [record["step"] for record in found] == [6, 12, 18]
    for record in found:
        assert record.keys() == METRICS
        assert all(math.isfinite(value) for value in record.values())
        assert 0 <= record["train_error"] <= 100
        assert 0 <= record["validation_error"] <= 100
        assert 0 <= record["outside"] <= 1
        assert record["images_per_second"] == pytest.approx(36 / record["seconds"])


def test_metrics_are_in_percent(finished: pathlib.Path) -> None:
    # Of 36 and of 4 examples.
    for record in lines(finished / "metrics.jsonl"):
        assert record["train_error"] * 36 / 100 == pytest.approx(
            round(record["train_error"] * 0.36)
        )
        assert record["validation_error"] in (0, 25, 50, 75, 100)


def test_the_learning_rate_is_that_of_the_last_step(finished: pathlib.Path) -> None:
    for record in lines(finished / "metrics.jsonl"):
        progress = (record["step"] - 1) / (EPOCHS * STEPS)
        expected = 2e-3 * (1 + math.cos(math.pi * progress)) / 2
        assert record["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_frames_start_before_training(finished: pathlib.Path) -> None:
    found = lines(finished / "frames.jsonl")
    assert [record["epoch"] for record in found] == [0, 1, 2, 3]
    thetas = np.asarray([record["theta"]["transformer_0"] for record in found])
    assert thetas.shape == (4, 8, 1)
    assert not thetas[0].any()  # the identity
    assert (thetas[1:] != thetas[:-1]).any(axis=(1, 2)).all()


def test_summary_has_what_a_table_needs(finished: pathlib.Path, tiny: list[str]) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    history = lines(finished / "metrics.jsonl")
    assert summary["test_error"] * 25 / 100 == pytest.approx(round(summary["test_error"] / 4))
    assert summary["validation_error"] == history[-1]["validation_error"]
    assert summary["train_seconds"] == pytest.approx(sum(each["seconds"] for each in history))
    assert summary["images_per_second"] == pytest.approx(3 * 36 / summary["train_seconds"])
    assert (summary["epochs"], summary["steps"], summary["seed"]) == (EPOCHS, EPOCHS * STEPS, 0)
    assert (summary["dataset"], summary["train_examples"]) == ("npz", 36)
    assert 0 < summary["angle_std_before_deg"] < 90
    assert 0 < summary["angle_std_after_deg"] < 180
    command = ["python", "-m", "experiments.train", *tiny, "--run-dir", str(finished)]
    assert shlex.split(summary["command"]) == command
    assert summary["versions"]["jax"] == metadata.version("jax")
    assert summary["versions"]["stn-jax"] == stn_jax.__version__
    assert {"python", "jaxlib", "flax", "optax", "numpy"} < summary["versions"].keys()
    assert summary["device"].startswith(jax.devices()[0].platform)
    assert "git_commit" in summary


def test_summary_is_of_the_last_checkpoint(finished: pathlib.Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    experiment = setup.build(records.read_config(finished))
    checkpoints = Checkpoints(finished / "checkpoints")
    assert checkpoints.steps[-1] == EPOCHS * STEPS
    start = setup.initial_state(experiment)
    state = checkpoints.restore(start).state
    assert int(state.step) == EPOCHS * STEPS
    assert setup.params_sha256(state.params) == summary["params_sha256"]
    assert setup.params_sha256(start.params) != summary["params_sha256"]
    # Dense: localisation 81-32-32-32-1, classifier 81-8-3.
    layers = [(81, 32), (32, 32), (32, 32), (32, 1), (81, 8), (8, 3)]
    assert summary["num_params"] == sum((i + 1) * o for i, o in layers)


def test_the_newest_two_checkpoints_are_kept(finished: pathlib.Path) -> None:
    found = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert found == ["12.msgpack", "18.msgpack"]


def test_pictures_are_readable(finished: pathlib.Path) -> None:
    found = sorted(path.name for path in (finished / "figures").iterdir())
    assert found == [
        "angles.png",
        "confusions.png",
        "curves.png",
        "frames.gif",
        "frames.png",
        "images.png",
    ]
    for name in found:
        with Image.open(finished / "figures" / name) as picture:
            picture.load()
            assert min(picture.size) > 50
            assert getattr(picture, "n_frames", 1) == (1 + EPOCHS if name == "frames.gif" else 1)


def events(folder: pathlib.Path) -> list[Event]:
    """The events of TensorBoard's files: a length, its checksum, the event, its checksum."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return found


def test_tensorboard_shows_the_metrics_and_images(finished: pathlib.Path) -> None:
    values = [
        (each.step, v) for each in events(finished / "tensorboard") for v in each.summary.value
    ]
    scalars = {(step, v.tag): v.simple_value for step, v in values if v.HasField("simple_value")}
    for record in lines(finished / "metrics.jsonl"):
        for name in METRICS:
            shown = scalars[record["epoch"], name]
            assert shown == pytest.approx(record[name], rel=1e-6)
    images = {v.tag.split("/")[0] for _, v in values if v.HasField("image")}
    assert images == {"images", "transformer_0"}


def test_nothing_temporary_is_left(finished: pathlib.Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "confusions.json",
        "figures",
        "frames.jsonl",
        "lock",
        "metrics.jsonl",
        "summary.json",
        "tensorboard",
    ]


def test_the_test_set_is_looked_at_once(
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated = []
    compile_programs = train.compile_programs

    def watched(experiment: Any, mesh: Any) -> train.Programs:
        programs = compile_programs(experiment, mesh)

        def evaluate(params: Any, data: dict[str, Any], key: jax.Array) -> Any:
            evaluated.append(len(data["label"]))
            return programs.evaluate(params, data, key)

        def test(params: Any, data: dict[str, Any], key: jax.Array) -> Any:
            evaluated.append(len(data["label"]))
            return programs.test(params, data, key)

        return programs._replace(evaluate=evaluate, test=test)

    monkeypatch.setattr(train, "compile_programs", watched)
    assert run(*tiny, "--run-dir", tmp_path / "run", "--no-figures") == 0
    assert evaluated == [4, 4, 4, 25]
    assert not (tmp_path / "run" / "figures").exists()


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says what went wrong."""
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error")]
    return line.removeprefix("error: ")


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Multiplies the update of a step, counted from 1, by a factor."""
    make_optimizer = models.make_optimizer

    def patch(step: int, factor: float) -> None:
        def spoiling(*arguments: Any) -> optax.GradientTransformation:
            spoiled = optax.scale_by_schedule(lambda n: jnp.where(n == step - 1, factor, 1.0))
            return optax.chain(make_optimizer(*arguments), spoiled)

        monkeypatch.setattr(models, "make_optimizer", spoiling)

    return patch


def test_a_run_that_diverges_at_once_leaves_nothing(
    spoil: Callable[[int, float], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(1, math.inf)
    folder = tmp_path / "run"
    for again in ([], ["--resume", "auto"]):
        assert run(*tiny, "--run-dir", folder, "--no-figures", *again) == 1
        assert failure(capsys) == (
            "training diverged at step 1, in epoch 1: its parameters are not finite; lower "
            "--learning-rate or set --clip-norm, in another --run-dir; no step was good"
        )
        assert not folder.exists()


@pytest.mark.parametrize(
    ("spoiled", "factor", "bad", "epoch", "reason"),
    [
        (15, math.inf, 15, 3, "its parameters are not finite"),
        (9, 1e30, 10, 2, "its loss is nan"),
    ],
)
def test_a_run_that_diverges_later_keeps_what_was_good(
    spoiled: int,
    factor: float,
    bad: int,
    epoch: int,
    reason: str,
    spoil: Callable[[int, float], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(spoiled, factor)
    folder = tmp_path / "run"
    for again in ([], ["--resume", "must"]):
        assert run(*tiny, "--run-dir", folder, "--no-figures", *again) == 1
        assert failure(capsys) == (
            f"training diverged at step {bad}, in epoch {epoch}: {reason}; lower --learning-rate "
            "or set --clip-norm, in another --run-dir; the last good state is "
            f"{folder}/checkpoints/{bad - 1}.msgpack"
        )
        assert (folder / "checkpoints" / f"{bad - 1}.msgpack").exists()
        assert not (folder / "summary.json").exists()
        found = lines(folder / "metrics.jsonl")
        assert [record["epoch"] for record in found] == list(range(1, epoch))
        assert [type(record["step"]) for record in found] == [int] * len(found)


def test_an_epoch_whose_validation_is_not_finite_is_not_recorded(
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compile_programs, evaluated = train.compile_programs, []

    def spoilt(experiment: Any, mesh: Any) -> train.Programs:
        programs = compile_programs(experiment, mesh)

        def evaluate(*arguments: Any) -> Any:
            evaluated.append(arguments)
            means = programs.evaluate(*arguments)
            return means | ({"loss": jnp.inf} if len(evaluated) == 2 else {})

        return programs._replace(evaluate=evaluate)

    monkeypatch.setattr(train, "compile_programs", spoilt)
    folder = tmp_path / "run"
    assert run(*tiny, "--run-dir", folder, "--no-figures") == 1
    assert failure(capsys) == (
        "training diverged in epoch 2: the validation loss is inf; lower --learning-rate or set "
        "--clip-norm, in another --run-dir; the last good checkpoint is "
        f"{folder}/checkpoints/6.msgpack"
    )
    assert [record["epoch"] for record in lines(folder / "metrics.jsonl")] == [1]


def test_records_that_were_lost_are_named(
    unfinished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (unfinished / "metrics.jsonl").unlink()
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto") == 1
    assert failure(capsys) == (
        f"{unfinished}/metrics.jsonl: must hold a record of each of the 3 epochs that were "
        "trained; got 0; start anew in another --run-dir"
    )


def test_images_without_contrast_are_shown(tmp_path: pathlib.Path, tiny: list[str]) -> None:
    path = tmp_path / "grey.npz"
    labels = np.arange(20) % 2
    grey = np.full((20, 9, 9), 7, np.uint8)
    np.savez(path, x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    _, config = command_line.parse([*tiny, "--data-file", str(path), "--distortion", "e"], "train")
    experiment = setup.build(config)
    probe = gallery.Probe(experiment)
    probe.images = jnp.zeros_like(probe.images)
    shown = probe.pictures(setup.initial_state(experiment).params)
    assert all(np.isfinite(each).all() for each in shown.values())


def test_thetas_that_are_null_have_frames(finished: pathlib.Path) -> None:
    experiment = setup.build(records.read_config(finished))
    (grid,) = gallery.frames(experiment, {"transformer_0": [[0.0], [None]]}).values()
    assert np.isfinite(grid[0]).all()
    assert not np.isfinite(grid[1]).any()


# The files themselves.


def test_written_whole_or_not_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"a": object()})

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"a\.json: cannot be written: Input/output error"):
        records.write_json(path, {"a": 2})
    assert records.read_json(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("ending", ["", '{"ep', "\n", '{"epoch": 3}', "null\n", b"\xff\xff", "7\n"])
def test_lines_are_healed_and_continued(tmp_path: pathlib.Path, ending: str | bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": None}]
    text = "".join(json.dumps(record) + "\n" for record in whole).encode()
    path.write_bytes(text + (ending if isinstance(ending, bytes) else ending.encode()))
    assert read_lines(path, 2) == whole
    file = Lines(path, 2)
    file.append({"epoch": 3, "a": 1.0})
    assert lines(path) == [*whole, {"epoch": 3, "a": 1.0}]  # at once, before it is closed
    file.close()


def test_what_is_not_finite_is_null(tmp_path: pathlib.Path) -> None:
    values = {"epoch": 1, "a": [math.nan, (np.float64(math.inf), 1.5)], "b": {"c": -math.inf}}
    expected = {"epoch": 1, "a": [None, [None, 1.5]], "b": {"c": None}}
    records.write_json(tmp_path / "a.json", values)
    assert records.read_json(tmp_path / "a.json") == expected
    file = Lines(tmp_path / "a.jsonl", 0)
    file.append(values)
    file.close()
    assert lines(tmp_path / "a.jsonl") == [expected]


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"epoch": {i}}}\n' for i in range(5)))
    Lines(path, 2).close()
    assert [record["epoch"] for record in lines(path)] == [0, 1, 2]


def test_no_lines_yet(tmp_path: pathlib.Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_what_is_missing_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match=r"config\.json: not found"):
        records.read_config(tmp_path)
    assert records.read_summary(tmp_path) is None


def test_there_is_no_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert records.git_commit() is None


def test_a_result_names_the_commit_that_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "git_commit", lambda: "of later")
    assert records.provenance()["git_commit"] == records.COMMIT != "of later"
