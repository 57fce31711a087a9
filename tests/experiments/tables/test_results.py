"""Results: their statistics, what counts as collapsed, and that files keep them."""

import pathlib
import statistics

import pytest

from experiments.records import RunError, read_json, write_json
from experiments.tables import results
from experiments.tables.results import Result, Row, Run
from tests.experiments.tables import made


def result(*errors: float | None) -> Result:
    return Result(tuple(Run(seed, error) for seed, error in enumerate(errors)))


# Statistics.


@pytest.mark.parametrize("errors", [(0.7,), (1.0, 2.0), (3.0, 0.5, 0.61)])
def test_statistics_are_over_seeds(errors: tuple[float, ...]) -> None:
    found = result(*errors)
    assert found.error == pytest.approx(statistics.fmean(errors), abs=1e-4)
    assert found.worst == max(errors)
    if len(errors) == 1:
        assert found.std is None  # which one run does not tell
    else:
        assert found.std == pytest.approx(statistics.stdev(errors), abs=1e-4)


def test_what_diverged_has_no_error_but_is_counted() -> None:
    some, none = result(1.0, None, 3.0), result(None)
    assert (some.error, some.worst, some.diverged) == (2.0, 3.0, [1])
    assert (none.error, none.std, none.worst, none.diverged) == (None, None, None, [0])


# Collapse.


@pytest.mark.parametrize(
    ("run", "plain_error", "collapsed"),
    [
        (Run(0), None, True),
        (Run(0), 50.0, True),
        (Run(0, 1.0, outside=0.51), None, True),
        (Run(0, 1.0, outside=0.5), None, False),
        (Run(0, 1.0, outside=0.1), 0.99, True),
        (Run(0, 1.0, outside=0.1), 1.0, False),
        (Run(0, 89.0, outside=0.0), None, False),  # nothing to compare with
        (Run(0, 1.0), None, False),
    ],
)
def test_collapsed(run: Run, plain_error: float | None, collapsed: bool) -> None:
    assert results.is_collapsed(run, plain_error) is collapsed


def test_every_network_with_a_transformer_has_its_plain_one() -> None:
    cells = made.CELLS.values()
    for cell in cells:
        plain = results.plain_cell(cell, cells)
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
    rows = results.rows(made.CELLS.values(), found, made.CELLS.values())
    counted = {row.cell.name: row.collapsed for row in rows if row.result}
    assert counted == {"r-st_cnn-affine": 2, "r-cnn": 0}
    assert len(rows) == len(made.CELLS)


# Joining.


@pytest.mark.parametrize("found", [None, result(1.0), result(1.0, 2.0)])
@pytest.mark.parametrize("known", [None, result(3.0), result(3.0, None)])
def test_the_seeds_of_a_folder_count(found: Result | None, known: Result | None) -> None:
    taken = results.joined(found, known)
    if found is None or known is None:
        assert taken == (found or known)
    else:
        assert taken is not None
        assert taken.runs == (*found.runs, *known.runs[len(found.runs) :])


def test_seeds_of_several_machines_come_together() -> None:
    def made(seed: int, device: str, jax: str, commit: str | None) -> Result:
        origin = (7, 60, device, "a command", {"jax": jax}, commit, "settings")
        return Result((Run(seed, 1.0 + seed),), *origin)

    taken = None
    for seed, machine in ((2, "c"), (0, "a"), (1, "b")):
        taken = results.joined(made(seed, machine, "1" if seed else "2", "same"), taken)
    assert taken == Result(
        (Run(0, 1.0), Run(1, 2.0), Run(2, 3.0)),
        *(7, 60, "c; a; b", "a command", {"jax": "1; 2"}, "same", "settings"),
    )
    again = results.joined(made(1, "b", "1", "new"), taken)
    assert again is not None
    assert (again.git_commit, len(again.runs)) == ("same; new", 3)
    none = results.joined(Result((Run(3),)), made(0, "a", "1", None))  # one that diverged
    assert none is not None
    assert (none.num_params, none.epochs, none.versions) == (7, 60, {"jax": "1"})


# Files.


def test_a_file_keeps_results_whole(tmp_path: pathlib.Path) -> None:
    whole = Result(
        (Run(0, 1.0, 1.5, 0.2, 9.0), Run(1), Run(2, 2.0, None, None, 8.0)),
        *(1000, 60, "cpu", "a command", made.VERSIONS, None),
    )
    known = {"r-st_cnn-affine": whole, "r-cnn": result(None)}
    rows = results.rows(made.CELLS.values(), known, made.CELLS.values())
    path = tmp_path / "table1.json"
    write_json(path, results.document("table1", "standard", rows))
    assert results.read_known([path, tmp_path / "none.json"], "standard", []) == known
    (entry, _) = read_json(path)["cells"]
    told = {name: entry[name] for name in ("name", "model", "transform", "distortion", "published")}
    assert told == {
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


def test_of_two_files_the_one_of_the_settings_and_then_of_more_runs_counts(
    tmp_path: pathlib.Path,
) -> None:
    cell = made.CELLS["r-cnn"]
    now = results.fingerprint(cell)
    three, two, one = result(1.0, 2.0, 3.0), result(4.0, 5.0), result(6.0)
    for a, b, counts in (
        (two, one, two),
        (two._replace(settings=now), one._replace(settings=now), two._replace(settings=now)),
        (three._replace(settings="other"), one._replace(settings=now), one._replace(settings=now)),
    ):
        paths = [tmp_path / "a", tmp_path / "b"]
        for path, known in zip(paths, (a, b), strict=True):
            row = Row(cell, known, 0)
            write_json(path, results.document("table1", "standard", [row]))
        for order in (paths, paths[::-1]):
            assert results.read_known(order, "standard", [cell]) == {"r-cnn": counts}


def test_budgets_are_not_mixed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "table1.json"
    write_json(path, results.document("table1", "quick", []))
    with pytest.raises(RunError, match=r"table1.json: holds results of --budget quick; .*paper"):
        results.read_known([path], "paper", [])


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
def test_a_damaged_file_is_named(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "table1.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"table1.json: ") as caught:
        results.read_known([path], "standard", [])
    assert "\n" not in str(caught.value)
