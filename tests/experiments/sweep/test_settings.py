"""The sweep's command line, its files of search spaces, and their error messages."""

import contextlib
import pathlib
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings import command_line
from experiments.settings.access import get_setting, replace_settings
from experiments.settings.command_line import to_arguments
from experiments.settings.config import Config
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from experiments.settings.relations import has_effect
from experiments.settings.validation import validate
from experiments.sweep.__main__ import main
from experiments.sweep.options import parse_sweep
from experiments.sweep.space import check_space, grid_points
from experiments.sweep.space_specs import (
    SEARCHABLE,
    read_space,
    space_from_specs,
    space_to_specs,
)
from tests.experiments.settings.fields import start_of
from tests.experiments.sweep.conftest import ROOT

SPACES = {
    "learning_rate=log:1e-4..1e-1": {"learning_rate": "log:0.0001..0.1"},
    "lr=1,1e-2": {"learning_rate": "1.0,0.01"},
    "--learning-rate=0..1..0.3": {"learning_rate": "0.0..0.9..0.3"},
    "batch_size=16..64": {"batch_size": "16..64"},
    "batch-size=16..64..20": {"batch_size": "16..56..20"},
    "batch_size=log:16..64": {"batch_size": "log:16..64"},
    "transform=affine, rotation": {"transform": "affine,rotation"},
    "transform=log:shear,a.b:c": {"transform": "log:shear,a.b:c"},
    "clip_norm=none,1": {"clip_norm": "none,1.0"},
    "clip_norm=0.5..2": {"clip_norm": "0.5..2.0"},
    "features=32x32,48x64": {"features": "32x32,48x64"},
    "localisation_features=none,8x8x16": {"localisation_features": "none,8x8x16"},
    "image_size=48,48x64": {"image_size": "48,48x64"},
    "image_size=32..64": {"image_size": "32..64"},
    "control_points=2x3": {"control_points": "2x3"},
    "align_corners=true,False": {"align_corners": "true,false"},
}


@pytest.mark.parametrize("given", SPACES)
def test_specs_are_canonical_and_round_trip(given: str) -> None:
    found = read_space([given], None)
    specs = space_to_specs(found)
    assert specs == SPACES[given]
    assert space_from_specs(specs) == found


@pytest.mark.parametrize("given", SPACES)
def test_draws_are_in_the_space(given: str) -> None:
    ((name, dimension),) = read_space([given], None).items()
    rng = random.Random(0)
    values = dimension.values()
    for _ in range(20):
        value = dimension.draw(rng)
        if values is None:
            assert dimension.low <= value <= dimension.high
        else:
            assert value in values
        assert type(value) in {type(each) for each in dimension.extremes()}
        assert get_setting(replace_settings(Config(), {name: value}), name) == value


def test_steps_are_exact() -> None:
    assert read_space(["dropout=0..0.5..0.1"], None)["dropout"].values() == [
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    ]


def test_file_equals_flags(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        'lr = "log:1e-4..1e-1"\ntransform = ["affine", "rotation"]\n'
        "align_corners = [true, false]\nepochs = 3\n"
    )
    flags = ["lr=log:1e-4..1e-1", "transform=affine,rotation", "align_corners=true,false"]
    assert read_space(["pool=1,2"], str(file)) == read_space([*flags, "epochs=3", "pool=1,2"], None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--space must name a setting to search"),
        ("--space lr", "--space must be NAME=SPEC; got lr"),
        ("--space learning-rat=1,2", "perhaps you meant learning_rate"),
        ("--space zzz=1,2", "no setting zzz to search; the settings are dataset, "),
        ("--space seed=1,2", "the seed cannot be searched; --seeds"),
        ("--space run_dir=a,b", "no setting run_dir to search"),
        ("--space lr=0.1,x", "--space learning_rate=0.1,x: must be a number; got x"),
        ("--space lr=0.1,", "must be a number; got nothing"),
        ("--space image_size=4x", "must be an integer or integers, as in 48x48; got 4x"),
        ("--space lr=nan,1", "must be a number; got nan"),
        ("--space lr=0.1,1e-1", "lists 0.1 twice"),
        ("--space lr=1..0.1", "its low end must be below its high end"),
        ("--space lr=log:0..1", "its low end must be positive"),
        ("--space lr=1..2..3..4", "must be low..high, log:low..high or low..high..step"),
        ("--space lr=log:1..2..1", "log: must be followed by low..high"),
        ("--space lr=log:1e-4,1e-2", "log: must be followed by low..high"),
        ("--space lr=0.1..0.2..1", "its step must be positive and at most the range"),
        ("--space lr=0..1..1e-6", "must have at most 1,000 steps"),
        ("--space lr=-1..1", "--space learning_rate=-1.0..1.0: --learning-rate must be positive"),
        ("--space batch_size=1.5,2", "must be an integer; got 1.5"),
        ("--space transform=afine", "perhaps you meant affine"),
        ("--space transform=affine,", "--transform must be one of translation, "),
        ("--space transform=affine,a:b:c", "or package.module:object; got a:b:c"),
        ("--space transform=1..2", "transform is not a number, so it has no range"),
        ("--space features=32,48x48", "--features must be 2 numbers"),
        ("--space control_points=4", "must be integers, as in 48x48; got 4"),
        ("--space align_corners=yes", "must be true or false; got yes"),
        ("--space lr=1,2 --space learning_rate=3,4", "learning_rate is searched twice"),
        ("--space dropout=0,0.5", "is meant for --model tutorial, tutorial_cnn"),
        ("--model cnn --space transform=affine,rotation", "is meant for --model st_fcn, st_cnn"),
        ("--model cnn --space control_points=2x2,3x3", "is meant for --transform thin_plate"),
        ("--space lr=1,2 --learning-rate 3", "--learning-rate must be left out, because --space"),
        ("--space lr=0.1..1 --sampler grid", "must have a step with --sampler grid"),
        ("--space batch_size=1..36 --space epochs=4..99 --sampler grid", "at most 1,000 points"),
        ("--space lr=1,2 --sampler grid --trials 3", "--trials must be left out with --sampler"),
        ("--space lr=1,2 --trials 0", "--trials must be positive; got 0"),
        ("--space lr=1,2 --population -1", "--population must be positive; got -1"),
        ("--space lr=1,2 --seed 4294967295 --seeds 2", "--seed with --seeds must stay in"),
        ("--space =1", "--space must be NAME=SPEC; got =1"),
        ("run --space lr=1,2", "the first argument must be report or a PRESET: demo, "),
        (
            "--space lr=1,2 --resume auto",
            "--resume must be left out: a sweep's --run-dir is always",
        ),
        ("--space lr=1,2 --coordinator a:1", "--coordinator must be left out: workers share"),
        (
            "--space batch_size=3,5 --mesh member=2,batch=2",
            "--space batch_size=3,5: --mesh must be batch=N with N a divisor of --batch-size, 3",
        ),
        ("--space lr=1,2 --storage postgresql://x --study ../s", "--study must consist of letters"),
        ("--space lr=1,2 --storage postgresql://x --study .s", "--study must consist of letters"),
        ("--space lr=1,2 --no-figures", "--no-figures must be left out"),
        ("--space lr=1,2 --diagnostics", "--diagnostics must be left out"),
        (
            "--space lr=1,2 --coordinator h:1 --num-processes 1 --process-id 0",
            "--coordinator must be left out: workers share the --storage",
        ),
        ("--space lr=1,2 --distributed", "--distributed must be left out: workers share"),
        ("--space lr=1,2 --tracker wandb", "--tracker must be left out: a sweep records"),
        ("--space lr=1,2 --mesh batch=2", "--mesh must have a member axis, as in member=4"),
        ("--space lr=1,2 --storage mysql://x --study s", "--storage must be postgresql://"),
        ("--space lr=1,2 --storage postgresql://x", "--storage and --study must be given together"),
        ("--space lr=1,2 --study s", "--storage and --study must be given together"),
        ("--space-file none.toml", "--space-file none.toml: No such file"),
        ("report", "report needs the sweep's RUN_DIR, or its --storage and --study"),
    ],
)
def test_invalid_settings_give_one_line(
    arguments: str,
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"lr = ", "cannot be read as TOML"),
        (b"\xff\xfe", "cannot be read as TOML"),
        (b"[lr]\nlow = 1", 'lr must be a "SPEC" or a list of values; got'),
        (b"lr = [[1], 2]", 'lr must be a "SPEC" or a list of values; got'),
        (b"lr = []", "must be a number; got nothing"),
    ],
)
def test_invalid_space_file_is_rejected(tmp_path: pathlib.Path, text: bytes, message: str) -> None:
    file = tmp_path / "space.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_space([], str(file))
    assert "\n" not in str(caught.value)


@given(
    st.sampled_from([*SEARCHABLE, "lr", "nothing"]),
    st.text(st.sampled_from("0123456789.,-exlog:naf ∞"), max_size=14),
)
def test_any_spec_round_trips_or_is_rejected(name: str, spec: str) -> None:
    base = PRESETS["demo"].config
    with contextlib.suppress(ConfigError):
        found = read_space([f"{name}={spec}"], None)
        assert space_from_specs(space_to_specs(found)) == found
        check_space(found, base)


def test_grid_leaves_out_settings_without_effect() -> None:
    names = ["control_points=2x2,3x3", "transform=rotation,thin_plate_spline", "model=cnn,st_cnn"]
    found = grid_points(read_space(names, None), PRESETS["demo"].config)
    spline = {"model": "st_cnn", "transform": "thin_plate_spline"}
    assert found == [
        {"model": "cnn"},
        {"model": "st_cnn", "transform": "rotation"},
        spline | {"control_points": (2, 2)},
        spline | {"control_points": (3, 3)},
    ]


def test_misspelt_flags_get_suggestions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for misspelt, meant in [("--trails", "--trials"), ("--batch-sice", "--batch-size")]:
        with pytest.raises(SystemExit) as caught:
            parse_sweep(["demo", misspelt, "3"])
        assert caught.value.code == 2
        assert meant in capsys.readouterr().err


@given(st.sampled_from(list(PRESETS)), st.data())
def test_configuration_round_trips_through_command_line(preset: str, data: st.DataObject) -> None:
    """For any valid combination of settings that have an effect."""
    config = start_of(preset)
    for name in data.draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True)):
        changed = replace_settings(config, {name: data.draw(st.sampled_from(VALUES[name]))})
        try:
            validate(changed)
        except ConfigError:
            continue
        config = changed
    parsed = command_line.parse(to_arguments(preset, config), "train")
    idle = {
        name: get_setting(start_of(preset), name) for name in VALUES if not has_effect(config, name)
    }
    assert parsed[:2] == (preset, replace_settings(config, idle))


VALUES = {
    "learning_rate": [1e-05, 0.30000000000000004],
    "localisation_lr": [None, 0.5],
    "seed": [7],
    "features": [None, (3, 4)],
    "localisation_features": [None, (3, 4, 5)],
    "control_points": [(2, 5)],
    "transform": ["rotation", "thin_plate_spline"],
    "align_corners": [True, False],
    "optimizer": ["sgd", "adamw"],
    "momentum": [0.0],
    "weight_decay": [0.1],
    "model": ["tutorial", "st_cnn", "fcn"],
    "dropout": [0.0, 0.25],
    "distortion": ["none", "r", "rts", "e"],
    "min_scale": [None, 0.5],
    "data_dir": ["a 'folder'"],
}


@given(st.sampled_from(list(PRESETS)), st.data())
def test_listed_settings_get_a_flag(preset: str, data: st.DataObject) -> None:
    """Even if they have the value of the preset."""
    config = start_of(preset)
    listed = data.draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))
    arguments = to_arguments(preset, config, listed)
    for name in listed:
        flags = {f"--{name}".replace("_", "-"), f"--no-{name}".replace("_", "-")}
        assert bool(flags & set(arguments)) == has_effect(config, name)
    assert command_line.parse(arguments, "train").config == config


def test_help_and_flag_errors_do_not_import_jax_or_optuna() -> None:
    code = (
        "import sys\nfrom experiments.sweep.__main__ import main\n"
        "for arguments in (['--help'], ['report', '--help'], ['--space', 'a=b']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "print('jax' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip().endswith("False True")
