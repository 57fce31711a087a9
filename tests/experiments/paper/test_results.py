"""Results: statistics, collapsed runs, merging, and files."""

import pathlib
import statistics

import pytest

from experiments.paper.cells import fingerprint
from experiments.paper.results import (
    CellResult,
    RunResult,
    TableRow,
    find_plain_cell,
    is_collapsed,
    make_rows,
    merge_results,
)
from experiments.paper.results_file import read_recorded_results, results_document
from experiments.runs.records import RunError, read_json, write_json
from tests.experiments.paper import run_folders


def result(*errors: float | None) -> CellResult:
    return CellResult(tuple(RunResult(seed, error) for seed, error in enumerate(errors)))


# Statistics.


@pytest.mark.parametrize("errors", [(0.7,), (1.0, 2.0), (3.0, 0.5, 0.61)])
def test_statistics_are_over_seeds(errors: tuple[float, ...]) -> None:
    found = result(*errors)
    assert found.error == pytest.approx(statistics.fmean(errors), abs=1e-4)
    assert found.worst == max(errors)
    if len(errors) == 1:
        assert found.std is None  # undefined for a single run
    else:
        assert found.std == pytest.approx(statistics.stdev(errors), abs=1e-4)


def test_diverged_runs_are_counted_but_have_no_error() -> None:
    some, none = result(1.0, None, 3.0), result(None)
    assert (some.error, some.worst, some.diverged) == (2.0, 3.0, [1])
    assert (none.error, none.std, none.worst, none.diverged) == (None, None, None, [0])


# Collapse.


@pytest.mark.parametrize(
    ("run", "plain_error", "collapsed"),
    [
        (RunResult(0), None, True),
        (RunResult(0), 50.0, True),
        (RunResult(0, 1.0, outside=0.51), None, True),
        (RunResult(0, 1.0, outside=0.5), None, False),
        (RunResult(0, 1.0, outside=0.1), 0.99, True),
        (RunResult(0, 1.0, outside=0.1), 1.0, False),
        (RunResult(0, 89.0, outside=0.0), None, False),  # the plain network's error is unknown
        (RunResult(0, 1.0), None, False),
    ],
)
def test_diverged_lost_and_worse_than_plain_runs_are_collapsed(
    run: RunResult, plain_error: float | None, collapsed: bool
) -> None:
    assert is_collapsed(run, plain_error) is collapsed


def test_every_network_with_a_transformer_has_a_plain_one() -> None:
    cells = run_folders.CELLS.values()
    for cell in cells:
        plain = find_plain_cell(cell, cells)
        if cell.transform is None or cell.model == "localiser":
            assert plain is None
            continue
        assert plain is not None
        assert plain.transform is None
        assert plain.model == cell.model.rpartition("st_")[2]
        assert plain.config.data == cell.config.data
        assert plain.config.optimisation.epochs == cell.config.optimisation.epochs


def test_each_seed_is_compared_with_the_mean_of_the_plain_network() -> None:
    found = {"r-st_cnn-affine": result(0.9, 1.1, None), "r-cnn": result(0.8, 1.2)}
    rows = make_rows(run_folders.CELLS.values(), found, run_folders.CELLS.values())
    counted = {row.cell.name: row.collapsed for row in rows if row.result}
    assert counted == {"r-st_cnn-affine": 2, "r-cnn": 0}
    assert len(rows) == len(run_folders.CELLS)


# Merging.


@pytest.mark.parametrize("found", [None, result(1.0), result(1.0, 2.0)])
@pytest.mark.parametrize("recorded", [None, result(3.0), result(3.0, None)])
def test_seeds_in_run_folders_override_recorded_ones(
    found: CellResult | None, recorded: CellResult | None
) -> None:
    merged = merge_results(found, recorded)
    if found is None or recorded is None:
        assert merged == (found or recorded)
    else:
        assert merged is not None
        assert merged.runs == (*found.runs, *recorded.runs[len(found.runs) :])


def test_seeds_of_several_machines_are_merged() -> None:
    def one_seed(seed: int, device: str, jax: str, commit: str | None) -> CellResult:
        origin = (7, 60, device, "a command", {"jax": jax}, commit, "settings")
        return CellResult((RunResult(seed, 1.0 + seed),), *origin)

    merged = None
    for seed, machine in ((2, "c"), (0, "a"), (1, "b")):
        merged = merge_results(one_seed(seed, machine, "1" if seed else "2", "same"), merged)
    assert merged == CellResult(
        (RunResult(0, 1.0), RunResult(1, 2.0), RunResult(2, 3.0)),
        *(7, 60, "c; a; b", "a command", {"jax": "1; 2"}, "same", "settings"),
    )
    again = merge_results(one_seed(1, "b", "1", "new"), merged)
    assert again is not None
    assert (again.git_commit, len(again.runs)) == ("same; new", 3)
    none = merge_results(CellResult((RunResult(3),)), one_seed(0, "a", "1", None))  # a diverged run
    assert none is not None
    assert (none.num_params, none.epochs, none.versions) == (7, 60, {"jax": "1"})


# Files.


def test_results_survive_writing_and_reading(tmp_path: pathlib.Path) -> None:
    whole = CellResult(
        (RunResult(0, 1.0, 1.5, 0.2, 9.0), RunResult(1), RunResult(2, 2.0, None, None, 8.0)),
        *(1000, 60, "cpu", "a command", run_folders.VERSIONS, None),
    )
    known = {"r-st_cnn-affine": whole, "r-cnn": result(None)}
    rows = make_rows(run_folders.CELLS.values(), known, run_folders.CELLS.values())
    path = tmp_path / "table1.json"
    write_json(path, results_document("table1", "standard", rows))
    assert read_recorded_results([path, tmp_path / "none.json"], "standard", []) == known
    (entry, _) = read_json(path)["cells"]
    described = {
        name: entry[name] for name in ("name", "model", "transform", "distortion", "published")
    }
    assert described == {
        "name": "r-st_cnn-affine",
        "model": "st_cnn",
        "transform": "affine",
        "distortion": "r",
        "published": 0.7,
    }
    assert entry["budget"] == "standard"
    assert (entry["seeds"], entry["diverged"], entry["collapsed"]) == ([0, 2], [1], 1)
    assert (entry["test_error_mean"], entry["test_error_worst"]) == (1.5, 2.0)
    assert (entry["validation_error_mean"], entry["outside"], entry["seconds"]) == (1.5, 0.2, 8.5)


def test_current_settings_and_then_more_runs_decide_between_two_files(
    tmp_path: pathlib.Path,
) -> None:
    cell = run_folders.CELLS["r-cnn"]
    now = fingerprint(cell)
    three, two, one = result(1.0, 2.0, 3.0), result(4.0, 5.0), result(6.0)
    for a, b, counts in (
        (two, one, two),
        (two._replace(settings=now), one._replace(settings=now), two._replace(settings=now)),
        (three._replace(settings="other"), one._replace(settings=now), one._replace(settings=now)),
    ):
        paths = [tmp_path / "a", tmp_path / "b"]
        for path, known in zip(paths, (a, b), strict=True):
            row = TableRow(cell, known, 0)
            write_json(path, results_document("table1", "standard", [row]))
        for order in (paths, paths[::-1]):
            assert read_recorded_results(order, "standard", [cell]) == {"r-cnn": counts}


def test_results_of_another_budget_are_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "table1.json"
    write_json(path, results_document("table1", "quick", []))
    with pytest.raises(RunError, match=r"table1.json: holds results of --budget quick; .*paper"):
        read_recorded_results([path], "paper", [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"budget": "standard"}',
        '{"budget": "standard", "cells": [{}]}',
        '{"budget": "standard", "cells": [{"name": "r-cnn", "runs": [{"sed": 0}]}]}',
        '{"budget": "standard", "cells": [{"name": "r-cnn", "runs": []}]}',
        '{"budget": "standard", "cells": [{"name": "r", "runs": [{"seed": 0, "seconds": "1"}]}]}',
        '{"budget": "standard", "cells": [{"name": "r", "runs": [{"seed": 0, "per_digit": 5}]}]}',
        '{"budget": "standard", "cells": [{"name": "r", "runs": [{"seed": 0}], "command": 5}]}',
        '{"budget": "standard", "cells": [{"name": "r", "runs": [{"seed": 0}], "versions": 5}]}',
    ],
)
def test_damaged_file_is_named(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "table1.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"table1.json: ") as caught:
        read_recorded_results([path], "standard", [])
    assert "\n" not in str(caught.value)
