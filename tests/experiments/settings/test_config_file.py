"""`--config FILE`, which repeats a run from its `config.json`."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from experiments import train
from experiments.colocalisation.options import ColocalisationSettings
from experiments.settings.command_line import parse
from experiments.settings.config import Config, Run
from experiments.settings.conversion import config_to_dict
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from experiments.sweep.options import parse_sweep
from tests.experiments.settings.fields import STARTS


@pytest.fixture
def written(tmp_path: pathlib.Path) -> Callable[..., str]:
    """Writes the `config.json` of a command line, and returns its path."""

    def write(*arguments: str) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config_to_dict(parse(arguments, "train").config)))
        return str(path)

    return write


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_come_from_the_file(preset: str, written: Callable[..., str]) -> None:
    arguments = [*STARTS[preset], "--seed", "7", "--checkpoint-every", "2", "--no-figures"]
    arguments += ["--mesh", "batch=2"]
    file = written(*arguments)
    parsed = parse(["--config", file], "train")
    assert (parsed.name, parsed.config) == ("config", parse(arguments, "train").config)
    assert not parsed.given
    assert not parsed.adapted
    assert parse([f"--config={file}"], "train") == parsed


def test_the_folder_and_the_processes_are_not_taken(written: Callable[..., str]) -> None:
    joined = "--coordinator host:1 --num-processes 2 --process-id 1"
    file = written("demo", "--run-dir", "here", "--resume", "must", *joined.split())
    assert parse(["--config", file], "train").config.run == Run()


def test_flags_override_the_file(written: Callable[..., str]) -> None:
    file = written("gtsrb", "--seed", "7")
    for arguments in (
        ["--config", file, "--epochs", "3", "--run-dir", "r"],
        ["--epochs", "3", "--config", file, "--run-dir=r"],
    ):
        parsed = parse(arguments, "train")
        expected = parse(
            ["gtsrb", *["--seed", "7", "--epochs", "3", "--run-dir", "r"]], "train"
        ).config
        assert (parsed.config, parsed.given) == (expected, {"epochs", "run_dir"})


@pytest.mark.parametrize(
    ("recorded", "flags", "adapted"),
    [
        ("gtsrb", "--epochs 1", ["--warmup 0.1 (was 1.0)"]),
        (
            "demo --localisation fcn --localisation-features 8",
            "--localisation cnn",
            ["--localisation-features not set (was 8)"],
        ),
        ("demo --mesh batch=2", "--batch-size 63", ["--mesh not set (was batch=2)"]),
        (
            "demo --dataset npz --data-file a.npz",
            "--dataset digits",
            ["--data-file not set (was a.npz)"],
        ),
        (
            "tutorial --validation-size 7",
            "--dataset digits",
            ["--validation-size not set (was 7)"],
        ),
        (
            "gtsrb --transformers 3",
            "--model st_cnn",
            ["--features not set (was 32 64 128 131)", "--transformers 2 (was 3)"],
        ),
        ("demo --placement series --transformers 3", "--placement input", ["--transformers 1"]),
        ("demo --transform shears:shear", "--model tutorial", []),
        (
            "demo --transform shears:shear",
            "--model st_projection_cnn",
            ["--distortion extruded (was r)", "--transform affine_3d (was shears:shear)"],
        ),
        ("distorted --min-scale 0.8", "--max-scale 0.75", ["--min-scale not set (was 0.8)"]),
        ("distorted --max-scale 0.9", "--min-scale 1", ["--max-scale not set (was 0.9)"]),
        (
            "demo --diagnostics --localisation cnn --distortion rts --canvas 50",
            "--model st_projection_cnn",
            ["--distortion", "--canvas", "--transform", "--localisation", "--diagnostics False"],
        ),
    ],
)
def test_settings_of_the_file_adapt_to_flags(
    recorded: str, flags: str, adapted: list[str], written: Callable[..., str]
) -> None:
    found = parse(["--config", written(*recorded.split()), *flags.split()], "train").adapted
    assert len(found) == len(adapted)
    assert all(line.startswith(start) for line, start in zip(found, adapted, strict=True))


SWEEP = {"preset": "demo", "base": config_to_dict(Config()), "space": {}, "options": {}}
FILES: dict[str, tuple[Any, str]] = {
    "damaged": ('{"data": {', "is not JSON"),
    "empty": ("", "is not JSON"),
    "binary": (b"\xff\xfe\x00", "is not JSON"),
    "sweep": (json.dumps(SWEEP), "not the settings of a run: the group data is missing"),
    "colocalisation": (
        json.dumps(dataclasses.asdict(ColocalisationSettings())),
        "not the settings of a run: the group data is missing",
    ),
    "list": ("[1]", "not the settings of a run"),
    "other option": (
        json.dumps(config_to_dict(Config()) | {"model": {"model": "resnet"}}),
        "--model has an invalid value: resnet",
    ),
}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("kind", FILES)
def test_other_files_give_one_clear_line(
    kind: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = FILES[kind]
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert train.main(["--config", "config.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --config config.json: ")
    assert message in line
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_read_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*missing.json: cannot be read: No such file"):
        parse(["--config", str(tmp_path / "missing.json")], "train")
    with pytest.raises(ConfigError, match=r"--config .*: cannot be read: Is a directory"):
        parse(["--config", str(tmp_path)], "train")


def test_a_preset_and_a_file_exclude_each_other(written: Callable[..., str]) -> None:
    file = written("demo")
    for arguments in (["tutorial", "--config", file], ["--config", file, "tutorial"]):
        with pytest.raises(ConfigError, match="--config must be left out with a PRESET; got"):
            parse(arguments, "train")


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "--epochs", "3"]])
def test_a_missing_file_name_is_an_error(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="--config must be followed by a FILE; got none"):
        parse(arguments, "train")


def test_a_sweep_has_no_config_file(
    written: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_sweep(["--config", written("demo"), "--space", "seed=1,2"])
    assert end.value.code == 2
    assert "--config" in capsys.readouterr().err


def test_a_repeated_run_is_named_config(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[..., int],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished / "config.json", "recorded.json")
    assert run("--config", "recorded.json", "--no-figures") == 0
    (folder,) = pathlib.Path("runs").iterdir()
    assert folder.name.startswith("config-")
    assert f"config: run folder {folder}" in capsys.readouterr().out
    repeated, first = (json.loads((f / "summary.json").read_text()) for f in (folder, finished))
    assert repeated["params_sha256"] == first["params_sha256"]
