"""Command lines of `experiments.train`: what is accepted, and how errors are reported."""

import contextlib
import io
import os
import pathlib
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import train
from experiments.settings import command_line
from experiments.settings.access import settings_by_name
from experiments.settings.conversion import config_from_dict, config_to_dict
from experiments.settings.presets import PRESETS
from experiments.settings.validation import validate
from tests.experiments.settings.fields import (
    CHOICES,
    FIELDS,
    NEEDED,
    STARTS,
    choices,
    flag,
    parse,
    start_of,
)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes to a folder in which a run would create `runs/`."""
    monkeypatch.chdir(tmp_path)


# --- Presets and flags ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    config = start_of(name)
    validate(config)
    given = {"data_dir"} if name in NEEDED else set()
    assert command_line.parse(STARTS[name], "train") == (name, config, given, [])


def test_demo_is_the_default_preset() -> None:
    assert command_line.parse([], "train") == command_line.parse(["demo"], "train")
    assert command_line.parse(["--seed", "3"], "train").name == "demo"


@pytest.mark.parametrize(
    "arguments",
    [
        *("--dataset folder --data-dir d", "--dataset=folder --data-dir d", "--data-file=a.npz"),
        *("--seed 3 --data-file a.npz", "--dataset npz --data-file a.npz", "--data_file a.npz"),
    ],
)
def test_images_is_the_default_preset_for_own_data(arguments: str) -> None:
    found = command_line.parse(arguments.split(), "train")
    assert found.name == "images"
    assert found == command_line.parse(["images", *arguments.split()], "train")


def test_size_of_images_is_a_side_or_height_and_width() -> None:
    for text, size in [("48", 48), ("48 64", (48, 64))]:
        config = parse(*STARTS["images"], "--image-size", *text.split())
        assert config.data.image_size == size
        assert config_from_dict(config_to_dict(config)) == config


def test_tutorial_is_the_one_of_pytorch() -> None:
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
    found = settings_by_name(config)
    assert {name: found[name] for name in given} == {
        name: value for name, (_, value) in given.items()
    }


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted(name: str) -> None:
    needed = {
        "npz": ["--data-file", "a.npz"],
        "folder": ["--data-dir", "d"],
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
        assert settings_by_name(config)[name] == choice


def test_name_of_a_preset_can_be_a_value() -> None:
    config = parse("--model", "tutorial", "--transform", "rotation", "--run-dir", "demo")
    assert (config.model.model, config.model.transform) == ("tutorial", "rotation")
    assert config.run.run_dir == "demo"


def test_gtsrb_can_do_without_its_transformers() -> None:
    config = parse("gtsrb", "--model", "compact")
    assert config_from_dict(config_to_dict(config)) == config


def test_choices_match_the_packages() -> None:
    from experiments import datasets
    from experiments.training import models, preprocessing
    from stn_jax import transforms

    assert set(choices("dataset")) == set(datasets.NAMES)
    assert set(choices("distortion")) == {"none", "tc", *preprocessing.DISTORTIONS}
    assert all(hasattr(transforms, name) for name in choices("transform"))
    assert {"auto", *models.LOCALISATIONS} == set(choices("localisation"))


def test_settings_of_a_preset_may_have_no_effect() -> None:
    assert parse("rotation", "--distortion", "e").data.max_angle == 45
    assert parse("tutorial", "--optimizer", "adam").optimisation.momentum == 0.9


def test_user_defined_family_is_accepted_without_importing_it() -> None:
    assert parse("--transform", "no.such_module:shear").model.transform == "no.such_module:shear"


# --- Errors: one line with flag, value and what is allowed; exit code 2; nothing is written -------

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
REJECTED = {
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
    "--epochs 3 --warmup 3": ("--warmup", "3", "below --epochs, 3"),
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
    "--distortion p --max-scale 0.5": ("--max-scale", "0.5", "at least --min-scale, 0.75"),
    "--distortion p --min-scale 0.6 --max-scale 0.5": (
        *("--min-scale", "0.6", "at most --max-scale, 0.5"),
    ),
    "--dataset npz": ("--dataset npz", "given with --data-file"),
    "--dataset folder": ("--dataset folder", "given with --data-dir; got no --data-dir"),
    "images": ("--dataset folder", "given with --data-dir; got no --data-dir"),
    "gtsrb --image-size 32 48": ("--image-size", "32 48", "one number with --dataset gtsrb"),
    "images --data-dir d --image-size 48 0": ("--image-size", "0", "positive"),
    "images --data-dir d --image-size 48 5000": ("--image-size", "48 5000", "at most 4096"),
    "tutorial --keep-aspect": ("--keep-aspect", "gtsrb, folder"),
    "demo --task add --batch-size 1": ("--batch-size", "1", "at least 2 with --task add"),
    "demo --distortion tc --batch-size 1": ("--batch-size", "1", "at least 2 with --distortion tc"),
    "--dataset digits --data-file a.npz": ("--data-file", "a.npz", "--dataset npz"),
    "--transformers 2 --placement input": ("--placement", "input", "series, parallel or between"),
    "--placement between --model st_fcn": ("--placement between", "st_fcn", "st_cnn"),
    "--placement between --transformers 3": ("--transformers", "3", "at most"),
    **{
        f"{arguments} {name} {value}": (
            *(name, value, f"left out with {other}, because it has an effect only with {of}"),
        )
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
    "tutorial --features 8": ("--features", "(8,)", "left out with --model tutorial", "fcn, cnn"),
    "--distortion extruded --model st_cnn": (
        *("--model", "st_cnn", "projection_cnn, st_projection_cnn with"),
    ),
    "--distortion r --model projection_cnn": (
        *("--model", "projection_cnn", "none of", "--distortion r"),
    ),
    "gtsrb --model compact --transformers 3": ("--transformers", "3", "left out with --model"),
    "projection3d --normalisation local": ("--normalisation", "local", "channel with"),
    "projection3d --diagnostics": ("--diagnostics", "left out with", "extruded"),
    "projection3d --transform affine": ("--transform", "affine", "affine_3d, rigid_3d with"),
    **{
        f"--transform {value}": ("--transform", f"got {value}", f"one of {families}, or package")
        for value in ("shears", "shears:", ":shear", "shears:a.b", "a-b:c", "a.py/b:c")
        for families in [", ".join(choices("transform"))]
    },
    "--transform rotate": ("--transform", "got rotate; perhaps you meant rotation"),
    "--transform shears:shear --control-points 2 2": (
        *("--control-points", "left out with --transform shears:shear"),
    ),
    "--model cnn --transform shears:shear": ("--transform", "left out with --model cnn"),
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
@pytest.mark.parametrize("arguments", REJECTED)
def test_errors_are_one_line_and_write_nothing(
    arguments: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments.split()) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert not shown.out
    assert line.startswith(f"error: {REJECTED[arguments][0]} must be ")
    assert all(part in line for part in REJECTED[arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--epoch 3", "--epochs"),
        ("--modle cnn", "--model"),
        ("rotation --localization-lr 1", "--localisation-lr"),
        ("--model st_cn", "st_cnn"),
        ("--epochs 1.5", "--epochs"),
        ("--epochs", "--epochs"),
        ("--control-points 4", "Expected 2 values"),
        ("--seed 1 tutoril", "Unrecognized options: tutoril"),
    ],
)
def test_misspelt_words_are_named(
    arguments: str, answer: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(arguments.split())
    assert end.value.code == 2
    assert answer in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CHOICES)
def test_errors_list_every_choice(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = train.main([flag(name), "nonsense"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    shown = capsys.readouterr().err
    assert all(choice in shown for choice in choices(name))


# --- Any command line -----------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers().map(str), st.floats().map(str), st.sampled_from(["1", "2", "0.5", "8 8"])
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0/."), max_size=8)
# --data-dir and --data-file are not used here; --run-dir is a temporary folder.
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
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(preset=st.one_of(st.sampled_from(list(PRESETS)), TEXT), lines=LINES, flat=st.booleans())
def test_every_command_line_runs_or_fails_clearly(
    preset: str, lines: list[list[str]], flat: bool
) -> None:
    arguments = [preset, *(word for line in lines for word in line)]
    if flat:  # "8 8" becomes two words
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
