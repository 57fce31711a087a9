"""What runs came to is read from their folders as it was recorded."""

import pathlib
import re

import pytest

from experiments.records import RunError
from experiments.tables import folders
from experiments.tables.results import Result, Run, fingerprint
from tests.experiments.tables import made

NAME = "r-st_cnn-affine"
CELL = made.CELLS[NAME]


def test_a_result_is_of_all_runs_that_ended(tmp_path: pathlib.Path) -> None:
    for seed, error in ((10, 0.8), (0, 0.7000000216066837)):  # as float32 has it
        made.run(tmp_path, NAME, seed, error, num_params=7, git_commit=f"commit {seed}")
    made.diverged(tmp_path, NAME, 2)
    made.unfinished(tmp_path, NAME, 3)
    made.run(tmp_path, NAME, 4, 99.0)
    old = tmp_path / NAME / "seed-4"
    old.rename(old.with_name("seed-4-until-20260101-000000-000000"))
    found, remarks = folders.read_result(CELL, tmp_path)
    assert remarks == []
    assert found == Result(
        (Run(0, 0.7, 1.2, 0.1, 10.0), Run(2), Run(10, 0.8, 1.3, 0.1, 20.0)),
        *(7, 60, "cpu: cpu, 2 cores", made.COMMAND, made.VERSIONS, "commit 0; commit 10"),
        fingerprint(CELL),
    )


def test_of_runs_that_all_diverged_nothing_else_is_said(tmp_path: pathlib.Path) -> None:
    made.diverged(tmp_path, NAME)
    expected = Result((Run(0),), settings=fingerprint(CELL))
    assert folders.read_result(CELL, tmp_path) == (expected, [])


def test_a_cell_without_runs(tmp_path: pathlib.Path) -> None:
    made.unfinished(tmp_path, NAME)
    assert folders.read_result(CELL, tmp_path) == (None, [])
    assert folders.read_result(made.CELLS["r-cnn"], tmp_path) == (None, [])


def test_a_run_with_other_settings_does_not_count(tmp_path: pathlib.Path) -> None:
    made.run(tmp_path, NAME)
    path = tmp_path / NAME / "seed-0"
    settings = path / "config.json"
    settings.write_text(settings.read_text().replace('"epochs": 30', '"epochs": 3'))
    found, (remark,) = folders.read_result(CELL, tmp_path)
    assert found is None
    expected = "the cell has other settings: --epochs 3 against 30"
    assert remark == f"left out: {path}: {expected}"
    path.rename(path.with_name("seed-1"))  # a seed is one of them
    assert "--seed 0 against 1" in folders.read_result(CELL, tmp_path)[1][0]


def test_what_was_known_of_other_settings_is_left_out_and_named(tmp_path: pathlib.Path) -> None:
    for settings, kept in ((fingerprint(CELL), True), (None, True), ("of another width", False)):
        known = {NAME: Result((Run(0, 0.9),), settings=settings)}
        found, remarks = folders.collect([CELL], tmp_path, known)
        assert found == (known if kept else {})
        assert remarks == (
            [] if kept else [f"left out: {NAME}: what was known is of other settings"]
        )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"test_error": "low"}, "test_error"),
        ({"num_params": None}, "num_params"),
        ({"train_seconds": None}, "train_seconds"),
        ({"outside": "nowhere"}, "outside"),
        ({"device": None}, "device"),
        ({"versions": []}, "versions"),
        ({"command": 7}, "command"),
        ({"command": "python 'x"}, "command"),
        ({"versions": {"python": 3}}, "versions"),
        ({"per_digit": 5}, "per_digit"),
        ({"per_digit": [{}]}, "per_digit"),
    ],
)
def test_a_damaged_summary_is_named(
    tmp_path: pathlib.Path, values: dict[str, object], named: str
) -> None:
    made.run(tmp_path, NAME)
    path = tmp_path / NAME / "seed-0" / "summary.json"
    made.change(path, **values)
    with pytest.raises(RunError, match=f"^{re.escape(str(path))}: {named} must "):
        folders.read_result(CELL, tmp_path)
    path.write_text("{")
    with pytest.raises(RunError, match=f"^{re.escape(str(path))}: cannot be read as JSON"):
        folders.read_result(CELL, tmp_path)


def test_what_need_not_be_known(tmp_path: pathlib.Path) -> None:
    made.run(tmp_path, NAME, validation_error=None, git_commit=None, outside=None)
    found, _ = folders.read_result(CELL, tmp_path)
    assert found is not None
    assert found.runs == (Run(0, 1.0, None, None, 10.0),)
    assert found.git_commit is None


def test_what_folders_hold_is_joined_with_what_is_known(tmp_path: pathlib.Path) -> None:
    made.run(tmp_path, NAME, 0, 1.0)
    made.run(tmp_path, "r-cnn", 0, 2.0)
    two, one = Result((Run(0, 5.0), Run(1, 6.0))), Result((Run(0, 7.0),))
    known = {NAME: two, "r-cnn": one, "r-fcn": one}
    wanted = [made.CELLS[name] for name in (NAME, "r-cnn", "r-fcn", "p-cnn")]
    found, remarks = folders.collect(wanted, tmp_path, known)
    assert found[NAME].errors == [1.0, 6.0]
    assert found["r-cnn"].errors == [2.0]
    assert found["r-fcn"] == one
    assert "p-cnn" not in found
    assert remarks == [f"{NAME}: of seeds 1 is kept what was known"]


@pytest.mark.parametrize(
    "flags",
    ["--data-dir /a/b", "--data-dir=/a/b", "--run-dir '/a b/c'", "--data_dir x --run_dir=y", ""],
)
def test_commands_do_not_tell_where_files_lie(flags: str) -> None:
    given = f"python -m experiments.paper table1 {flags} --cells 'r-*' p-cnn"
    expected = "python -m experiments.paper table1 --cells 'r-*' p-cnn"
    assert folders.without_places(given) == expected
