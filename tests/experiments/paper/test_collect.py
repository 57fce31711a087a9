"""Results are read from run folders and merged with recorded ones."""

import pathlib
import re

import pytest

from experiments.paper import collect
from experiments.paper.cells import fingerprint
from experiments.paper.results import CellResult, RunResult
from experiments.runs.records import RunError
from tests.experiments.paper import run_folders

NAME = "r-st_cnn-affine"
CELL = run_folders.CELLS[NAME]


def test_result_contains_all_runs_that_ended(tmp_path: pathlib.Path) -> None:
    for seed, error in ((10, 0.8), (0, 0.7000000216066837)):  # rounding of float32
        run_folders.write_finished(
            tmp_path, NAME, seed, error, num_params=7, git_commit=f"commit {seed}"
        )
    run_folders.write_diverged(tmp_path, NAME, 2)
    run_folders.write_unfinished(tmp_path, NAME, 3)
    run_folders.write_finished(tmp_path, NAME, 4, 99.0)
    old = tmp_path / NAME / "seed-4"
    old.rename(old.with_name("seed-4-until-20260101-000000-000000"))
    found, messages = collect.read_cell_result(CELL, tmp_path)
    assert messages == []
    assert found == CellResult(
        (RunResult(0, 0.7, 1.2, 0.1, 10.0), RunResult(2), RunResult(10, 0.8, 1.3, 0.1, 20.0)),
        *(
            7,
            60,
            "cpu: cpu, 2 cores",
            run_folders.COMMAND,
            run_folders.VERSIONS,
            "commit 0; commit 10",
        ),
        fingerprint(CELL),
    )


def test_result_of_diverged_runs_has_no_origin(tmp_path: pathlib.Path) -> None:
    run_folders.write_diverged(tmp_path, NAME)
    expected = CellResult((RunResult(0),), settings=fingerprint(CELL))
    assert collect.read_cell_result(CELL, tmp_path) == (expected, [])


def test_cell_without_ended_runs_has_no_result(tmp_path: pathlib.Path) -> None:
    run_folders.write_unfinished(tmp_path, NAME)
    assert collect.read_cell_result(CELL, tmp_path) == (None, [])
    assert collect.read_cell_result(run_folders.CELLS["r-cnn"], tmp_path) == (None, [])


def test_run_with_other_settings_is_left_out(tmp_path: pathlib.Path) -> None:
    run_folders.write_finished(tmp_path, NAME)
    path = tmp_path / NAME / "seed-0"
    settings = path / "config.json"
    settings.write_text(settings.read_text().replace('"epochs": 30', '"epochs": 3'))
    found, (message,) = collect.read_cell_result(CELL, tmp_path)
    assert found is None
    expected = "the cell has other settings: --epochs 3 (requested: 30)"
    assert message == f"left out: {path}: {expected}"
    path.rename(path.with_name("seed-1"))  # the seed is a setting too
    assert "--seed 0 (requested: 1)" in collect.read_cell_result(CELL, tmp_path)[1][0]


def test_recorded_result_with_other_settings_is_left_out(tmp_path: pathlib.Path) -> None:
    for settings, kept in ((fingerprint(CELL), True), (None, True), ("another fingerprint", False)):
        known = {NAME: CellResult((RunResult(0, 0.9),), settings=settings)}
        found, messages = collect.collect_results([CELL], tmp_path, known)
        assert found == (known if kept else {})
        assert messages == (
            [] if kept else [f"left out: {NAME}: the recorded result has other settings"]
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
def test_damaged_summary_is_named(
    tmp_path: pathlib.Path, values: dict[str, object], named: str
) -> None:
    run_folders.write_finished(tmp_path, NAME)
    path = tmp_path / NAME / "seed-0" / "summary.json"
    run_folders.update_json(path, **values)
    with pytest.raises(RunError, match=f"^{re.escape(str(path))}: {named} must "):
        collect.read_cell_result(CELL, tmp_path)
    path.write_text("{")
    with pytest.raises(RunError, match=f"^{re.escape(str(path))}: cannot be read as JSON"):
        collect.read_cell_result(CELL, tmp_path)


def test_optional_records_may_be_missing(tmp_path: pathlib.Path) -> None:
    run_folders.write_finished(tmp_path, NAME, validation_error=None, git_commit=None, outside=None)
    found, _ = collect.read_cell_result(CELL, tmp_path)
    assert found is not None
    assert found.runs == (RunResult(0, 1.0, None, None, 10.0),)
    assert found.git_commit is None


def test_run_folders_override_recorded_results_seed_by_seed(tmp_path: pathlib.Path) -> None:
    run_folders.write_finished(tmp_path, NAME, 0, 1.0)
    run_folders.write_finished(tmp_path, "r-cnn", 0, 2.0)
    two, one = CellResult((RunResult(0, 5.0), RunResult(1, 6.0))), CellResult((RunResult(0, 7.0),))
    known = {NAME: two, "r-cnn": one, "r-fcn": one}
    wanted = [run_folders.CELLS[name] for name in (NAME, "r-cnn", "r-fcn", "p-cnn")]
    found, messages = collect.collect_results(wanted, tmp_path, known)
    assert found[NAME].errors == [1.0, 6.0]
    assert found["r-cnn"].errors == [2.0]
    assert found["r-fcn"] == one
    assert "p-cnn" not in found
    assert messages == [f"{NAME}: kept the recorded results of seeds 1"]


@pytest.mark.parametrize(
    "flags",
    ["--data-dir /a/b", "--data-dir=/a/b", "--run-dir '/a b/c'", "--data_dir x --run_dir=y", ""],
)
def test_locations_are_removed_from_commands(flags: str) -> None:
    given = f"python -m experiments.paper table1 {flags} --cells 'r-*' p-cnn"
    expected = "python -m experiments.paper table1 --cells 'r-*' p-cnn"
    assert collect.remove_locations(given) == expected
