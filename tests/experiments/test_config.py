"""What the command line understands, what it refuses, and how it says so."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import command_line, train
from experiments import config as configuration
from experiments.config import Config, ConfigError
from experiments.presets import PRESETS

GROUPS = {field.name: type(field.default) for field in dataclasses.fields(Config)}
FIELDS = {
    field.name: (kind, field) for kind in GROUPS.values() for field in dataclasses.fields(kind)
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def choices(name: str) -> tuple[str, ...]:
    kind, _ = FIELDS[name]
    hint = typing.get_type_hints(kind)[name]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


CHOICES = [name for name in FIELDS if choices(name)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `runs/` would be made."""
    monkeypatch.chdir(tmp_path)


def parse(*arguments: str) -> Config:
    return command_line.parse(list(arguments), "train")[1]


# What the presets and the flags mean.


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound_and_survive_json(name: str) -> None:
    config = PRESETS[name].config
    configuration.check(config)
    assert configuration.from_dict(json.loads(json.dumps(configuration.to_dict(config)))) == config
    assert parse(name) == config


def test_the_demo_is_the_default() -> None:
    assert command_line.parse([], "train") == ("demo", PRESETS["demo"].config)
    assert command_line.parse(["--seed", "3"], "train")[0] == "demo"


def test_the_tutorial_is_pytorchs() -> None:
    config = PRESETS["tutorial"].config
    assert (config.data.dataset, config.data.distortion) == ("mnist", "none")
    assert (config.model.model, config.model.transform) == ("tutorial", "affine")
    optimisation = config.optimisation
    assert (optimisation.optimizer, optimisation.learning_rate) == ("sgd", 0.01)
    assert (optimisation.batch_size, optimisation.epochs) == (64, 20)


def test_every_setting_is_a_flat_flag() -> None:
    given = {
        "dataset": ("mnist", "mnist"),
        "data_dir": ("d", "d"),
        "distortion": ("rts", "rts"),
        "max_angle": ("30", 30.0),
        "validation_size": ("7", 7),
        "canvas": ("50", 50),
        "transform": ("thin_plate_spline", "thin_plate_spline"),
        "control_points": ("3 5", (3, 5)),
        "features": ("16 8", (16, 8)),
        "localisation_features": ("8 8 16", (8, 8, 16)),
        "output_size": ("14", 14),
        "clip_norm": ("0.5", 0.5),
        "localisation_lr": ("1e-4", 1e-4),
        "warmup": ("2.5", 2.5),
        "run_dir": ("r", "r"),
    }
    config = parse(
        *(word for name, (text, _) in given.items() for word in [flag(name), *text.split()])
    )
    found = {
        name: value for group in GROUPS for name, value in vars(getattr(config, group)).items()
    }
    assert {name: found[name] for name in given} == {
        name: value for name, (_, value) in given.items()
    }


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_taken(name: str) -> None:
    needed = {
        "npz": ["--data-file", "a.npz"],
        "must": ["--run-dir", "r"],
        "auto": ["--run-dir", "r"],
    }
    needed |= {"series": ["--transformers", "2"], "between": ["--model", "st_cnn"]}
    solid = ["--distortion", "extruded"]
    learned = ["--model", "st_projection_cnn"]
    needed |= {"extruded": ["--model", "projection_cnn"], "projection_cnn": solid}
    needed |= {"st_projection_cnn": [*solid, "--transform", "rigid_3d"]}
    needed |= {each: [*solid, *learned] for each in ("affine_3d", "rigid_3d")}
    needed |= {"volume": [*solid, *learned, "--transform", "affine_3d"]}
    for choice in choices(name):
        extra = needed.get(choice, [])
        config = parse(flag(name), choice, *extra)
        assert any(vars(getattr(config, group)).get(name) == choice for group in GROUPS)


def test_a_presets_name_may_be_a_value() -> None:
    config = parse("--model", "tutorial", "--transform", "rotation", "--run-dir", "demo")
    assert (config.model.model, config.model.transform) == ("tutorial", "rotation")
    assert config.run.run_dir == "demo"


def test_a_preset_of_several_transformers_may_have_none() -> None:
    _, config = command_line.parse(["gtsrb", "--model", "compact"], "train")
    assert configuration.from_dict(configuration.to_dict(config)) == config


def test_the_choices_are_what_the_package_has() -> None:
    from experiments import datasets, models
    from stn_jax import distortions, transforms

    assert set(choices("dataset")) == set(datasets.NAMES)
    assert all(hasattr(distortions, name) for name in choices("distortion") if name != "none")
    assert all(hasattr(transforms, name) for name in choices("transform"))
    assert {"auto", *models.LOCALISATIONS} == set(choices("localisation"))


def test_differences_name_flags_and_both_values() -> None:
    a = parse("--seed", "1", "--run-dir", "x", "--no-figures")
    b = parse("--seed", "2", "--run-dir", "y", "--transform", "affine")
    assert configuration.differences(a, b) == [
        "--transform rotation against affine",
        "--seed 1 against 2",
    ]
    assert configuration.differences(a, a) == []


def test_where_the_data_lie_is_no_difference() -> None:
    there, moved = (parse("tutorial", "--data-dir", folder) for folder in ("a", "b"))
    assert configuration.differences(there, moved) == []
    there, moved = (parse("--dataset", "npz", "--data-file", file) for file in ("a.npz", "b.npz"))
    assert configuration.differences(there, moved) == []


def test_what_a_preset_sets_may_be_idle() -> None:
    assert parse("rotation", "--distortion", "e").data.max_angle == 45
    assert parse("tutorial", "--optimizer", "adam").optimisation.momentum == 0.9


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"data": {}},
        {"data": {"datum": 1}, "model": {}, "optimisation": {}, "run": {}},
        {"data": [], "model": {}, "optimisation": {}, "run": {}},
        {"data": {}, "model": {}, "optimisation": {"epochs": "many"}, "run": {}},
        {"data": {}, "model": {}, "optimisation": {"epochs": -1}, "run": {}},
    ],
)
def test_what_is_no_configuration(values: typing.Any) -> None:
    with pytest.raises(ConfigError):
        configuration.from_dict(values)


# Help.


def test_help_shows_presets_groups_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.summary}." in shown
    for group in GROUPS:
        assert f"{group} options" in shown
    for name, (kind, _) in FIELDS.items():
        assert f"{flag(name)} " in shown or f"{flag(name)}," in shown
        assert kind.__doc__ in shown
    assert "default: None" not in shown
    assert "{None}" not in shown
    assert "--max-angle FLOAT Largest rotation of r and rts, in degrees. Default: 90" in shown
    assert "(default: st_cnn)" in shown
    assert "(default: rotation)" in shown


def test_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    lines = [line.strip("│ ").strip() for line in capsys.readouterr().out.splitlines()]
    for name in FIELDS:
        (at,) = (
            i for i, line in enumerate(lines) if line.split(",")[0].split(" ")[0] == flag(name)
        )
        beside = re.split(" {2,}", lines[at], maxsplit=1)[1:]  # where there is room for it
        assert (beside or lines[at + 1 :])[0][:1].isalnum(), name


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["tutorial", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The defaults below are those of tutorial." in shown
    assert "(default: sgd)" in shown
    assert "(default: mnist)" in shown


def test_help_and_errors_do_not_wait_for_jax() -> None:
    program = (
        "import sys; from experiments import train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert train.main(['--epochs', '0']) == 2\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    root = pathlib.Path(train.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert not {"jax", "flax", "matplotlib"} & set(done.stderr.split())


# Refusals: one line that names flag, value and what is allowed; exit code 2; nothing written.

POSITIVE = [
    "--max-angle",
    "--min-scale",
    "--max-scale",
    "--learning-rate",
    "--clip-norm",
    "--validation-size",
    "--image-size",
    "--canvas",
    "--clutter",
    "--crop-size",
    "--transformers",
    "--output-size",
    "--pool",
    "--epochs",
    "--batch-size",
    "--checkpoint-every",
    "--features",
    "--localisation-features",
]
FROM_ZERO = ["--sigma", "--regularisation", "--localisation-lr", "--momentum", "--weight-decay"]
FROM_ZERO += ["--augment-angle", "--augment-shift", "--augment-sigma"]
REFUSED = {
    "tutoril": ("PRESET", "tutoril", "demo, tutorial, rotation, distorted"),
    **{f"{name} {value}": (name, value, "positive") for name in POSITIVE for value in ("0", "-1")},
    "--learning-rate nan": ("--learning-rate", "nan", "positive"),
    "--clip-norm inf": ("--clip-norm", "inf", "positive"),
    "--max-angle 181": ("--max-angle", "181", "180"),
    **{
        f"{name} {value}": (name, value, "at least 0")
        for name in FROM_ZERO
        for value in ("-0.1", "nan", "inf")
    },
    "--augment-scale 0.9": ("--augment-scale", "0.9", "at least 1"),
    "--dropout 1": ("--dropout", "1", "below 1"),
    "--momentum 1": ("--momentum", "1", "below 1"),
    "--epochs 3 --warmup 3": ("--warmup", "3", "below 3"),
    "--seed -1": ("--seed", "-1", "0 .. 2^32 - 1"),
    "--seed 4294967296": ("--seed", "4294967296", "0 .. 2^32 - 1"),
    "--control-points 1 4": ("--control-points", "(1, 4)", "at least 2"),
    "--features 8 0": ("--features", "0", "positive"),
    "--features": ("--features", "none", "at least one"),
    "--model cnn --features 8": ("--features", "(8,)", "2 numbers"),
    "--features 8 8 8 --placement between": ("--features", "(8, 8, 8)", "2 numbers"),
    "--localisation-features": ("--localisation-features", "none", "at least one"),
    "--localisation-features 8": ("--localisation-features", "(8,)", "3 numbers", "cnn"),
    "--model st_fcn --localisation cnn --localisation-features 8 8": (
        *("--localisation-features", "(8, 8)", "3 numbers"),
    ),
    "tutorial --localisation-features 8": ("--localisation-features", "(8,)", "left out"),
    "--model cnn --localisation-features 8 8 8": ("--localisation-features", "left out with"),
    "--distortion rts --min-scale 1.5": ("--min-scale", "1.5", "at most --max-scale, 1.2"),
    "--distortion p --max-scale 0.5": ("--min-scale", "0.75", "at most --max-scale, 0.5"),
    "--dataset npz": ("--data-file", "None", "--dataset npz"),
    "--data-file a.npz": ("--data-file", "a.npz", "--dataset npz"),
    "--transformers 2": ("--placement", "input", "series, parallel or between"),
    "--placement between --model st_fcn": ("--placement between", "st_fcn", "st_cnn"),
    "--placement between --transformers 3": ("--transformers", "3", "at most"),
    **{
        f"{arguments} {name} {value}": (name, value, f"left out with {other}, being meant for {of}")
        for arguments, name, value, other, of in [
            ("tutorial", "--image-size", "48", "--dataset mnist", "gtsrb"),
            ("rotation --distortion e", "--max-angle", "30.0", "--distortion e", "r, rts"),
            ("distorted --distortion r", "--min-scale", "0.5", "--distortion r", "rts, p, e"),
            ("distorted --distortion t", "--max-scale", "1.5", "--distortion t", "rts, p, e"),
            ("demo", "--sigma", "2.0", "--distortion r", "p, e"),
            ("demo", "--canvas", "50", "--distortion r", "rts, tc, t, extruded"),
            ("demo", "--clutter", "4", "--distortion r", "tc"),
            ("demo", "--crop-size", "4", "--distortion r", "tc"),
            ("demo", "--regularisation", "0.1", "--transform rotation", "thin_plate_spline"),
            ("demo --model cnn", "--transform", "affine", "--model cnn", "st_fcn, st_cnn"),
            ("tutorial --model fcn", "--localisation", "cnn", "--model fcn", "st_fcn"),
            ("demo --model compact", "--localisation-lr", "0.1", "--model compact", "st_fcn"),
            ("demo --model cnn", "--output-size", "14", "--model cnn", "st_fcn, st_cnn"),
            ("demo --model cnn", "--mode", "bicubic", "--model cnn", "st_fcn, st_cnn"),
            ("demo --model cnn", "--padding-mode", "border", "--model cnn", "st_fcn, st_cnn"),
            ("demo", "--dropout", "0.1", "--model st_cnn", "tutorial, tutorial_cnn, compact"),
            ("demo", "--momentum", "0.5", "--optimizer adamw", "sgd"),
            ("tutorial", "--weight-decay", "0.5", "--optimizer sgd", "adamw"),
        ]
    },
    "--distortion extruded": ("--model", "st_cnn", "projection_cnn, st_projection_cnn with"),
    "--model projection_cnn": ("--model", "projection_cnn", "none of", "--distortion r"),
    "projection3d --distortion rts": ("--model", "st_projection_cnn", "none of"),
    "projection3d --model st_fcn": ("--model", "st_fcn", "projection_cnn, st_projection_cnn"),
    "gtsrb --model compact --transformers 3": ("--transformers", "3", "left out with --model"),
    "projection3d --normalisation local": ("--normalisation", "local", "channel with"),
    "projection3d --diagnostics": ("--diagnostics", "left out with", "extruded"),
    "projection3d --transform affine": ("--transform", "affine", "affine_3d, rigid_3d with"),
    "--transform rigid_3d": ("--transform", "rigid_3d", "none of affine_3d, rigid_3d"),
    "projection3d --localisation cnn": ("--localisation", "cnn", "auto, fcn, volume"),
    "--localisation volume": ("--localisation", "volume", "auto, fcn, cnn, tutorial"),
    "projection3d --features 8": ("--features", "(8,)", "2 numbers"),
    "projection3d --placement between": ("--placement between", "st_projection_cnn", "st_cnn"),
    "--epochs 3 tutorial": ("PRESET", "tutorial after 3", "the first argument"),
    "--keep-aspect rotation": ("PRESET", "rotation after --keep-aspect", "the first argument"),
    "--no-figures rotation": ("PRESET", "rotation after --no-figures", "the first argument"),
    "--diagnostics rotation": ("PRESET", "rotation after --diagnostics", "the first argument"),
    "demo rotation": ("PRESET", "rotation after demo", "the first argument"),
    "--resume must": ("--resume", "must", "--run-dir"),
    "--resume auto": ("--resume", "auto", "--run-dir"),
}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("arguments", REFUSED)
def test_refused_in_one_line(
    arguments: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments.split()) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert not shown.out
    assert line.startswith(f"error: {REFUSED[arguments][0]} must be ")
    assert all(part in line for part in REFUSED[arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--epoch 3", "--epochs"),
        ("--modle cnn", "--model"),
        ("rotation --localization-lr 1", "--localisation-lr"),
        ("--model st_cn", "st_cnn"),
        ("--transform rotate", "rotation"),
        ("--epochs 1.5", "--epochs"),
        ("--epochs", "--epochs"),
        ("--control-points 4", "Expected 2 values"),
        ("--seed 1 tutoril", "Unrecognized options: tutoril"),
    ],
)
def test_misspelt(
    arguments: str, answer: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(arguments.split())
    assert end.value.code == 2
    assert answer in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_listed_where_another_is_given(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.main([flag(name), "nonsense"])
    shown = capsys.readouterr().err
    assert all(choice in shown for choice in choices(name))


# Any command line at all.

NUMBERS = st.one_of(
    st.integers().map(str), st.floats().map(str), st.sampled_from(["1", "2", "0.5", "8 8"])
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0/."), max_size=8)
# --data-dir and --data-file are only handed on; --run-dir is the one folder that is given.
FLAGS = st.sampled_from(
    [*(flag(name) for name in FIELDS if name != "run_dir"), "--no-figures", "--align-corners", "-h"]
)
WORDS = st.sampled_from(
    [*PRESETS, *(choice for name in CHOICES for choice in choices(name)), "None"]
)
LINES = st.lists(
    st.tuples(FLAGS, st.one_of(NUMBERS, WORDS, TEXT)).map(lambda pair: list(pair)), max_size=4
)


@pytest.mark.usefixtures("untrained")
@settings(
    max_examples=settings().max_examples * 3 // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(preset=st.one_of(st.sampled_from(list(PRESETS)), TEXT), lines=LINES, flat=st.booleans())
def test_any_command_line_is_answered(preset: str, lines: list[list[str]], flat: bool) -> None:
    arguments = [preset, *(word for line in lines for word in line)]
    if flat:  # "8 8" as two words
        arguments = [word for argument in arguments for word in argument.split(" ")]
    with tempfile.TemporaryDirectory() as folder:
        before = os.listdir()
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                code = train.main([*arguments, "--run-dir", f"{folder}/run"])
            except SystemExit as end:
                code = end.code
        assert code in (0, 1, 2)
        assert code == 0 or errors.getvalue() or output.getvalue()
        assert os.listdir() == before
        assert set(os.listdir(folder)) <= {"run"}
        assert code != 2 or not os.listdir(folder)
