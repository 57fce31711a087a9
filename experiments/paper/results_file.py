"""Reads and writes a table's results as JSON, `RESULTS/TABLE.json`. Imports no jax.

Cells are trained on several machines, and run folders are not part of the repository. So a file
keeps the result of a seed until a run folder provides a newer one.
"""

import pathlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.paper.cells import Budget, Cell, fingerprint
from experiments.paper.results import CellResult, RunResult, TableRow
from experiments.runs.records import RunError, read_json

# Fields of `CellResult` that a file holds under the same names.
_ORIGIN = ("num_params", "epochs", "device", "command", "versions", "git_commit", "settings")


def read_recorded_results(
    paths: Iterable[pathlib.Path], budget: Budget, cells: Iterable[Cell]
) -> dict[str, CellResult]:
    """The recorded results, by cell name.

    If several files hold a cell, the result with the cell's current settings is returned, and
    among such results the one with most runs. Files that do not exist are ignored.

    Raises:
        RunError: if a file is damaged or holds results of another budget.
    """
    settings = {cell.name: fingerprint(cell) for cell in cells}

    def rank(name: str, result: CellResult) -> tuple[bool, int]:
        return result.settings in (None, settings.get(name)), len(result.runs)

    recorded: dict[str, CellResult] = {}
    for path in paths:
        for name, result in _read_file(path, budget).items():
            if name not in recorded or rank(name, result) > rank(name, recorded[name]):
                recorded[name] = result
    return recorded


def _read_file(path: pathlib.Path, budget: Budget) -> dict[str, CellResult]:
    if not path.exists():
        return {}
    document = read_json(path)
    try:
        if document["budget"] != budget:
            raise RunError(
                f"{path}: holds results of --budget {document['budget']}; give another "
                f"--results for those of {budget}"
            )
        return {entry["name"]: _from_entry(entry) for entry in document["cells"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: not the results of a table: {error}") from error


def _from_entry(entry: Mapping[str, Any]) -> CellResult:
    """The result in an entry of a file.

    Raises:
        KeyError, TypeError, AttributeError: if the entry is malformed.
    """
    runs = tuple(RunResult(**run) for run in entry["runs"])
    result = CellResult(runs, **{name: entry.get(name) for name in _ORIGIN})
    if not runs:
        raise TypeError(f"{entry['name']} has no runs")
    numbers = [
        value for run in runs for value in (*run._replace(per_digit=None), *(run.per_digit or ()))
    ]
    _check_types(int | float, [*numbers, result.num_params, result.epochs])
    texts = (result.device, result.command, result.git_commit, result.settings)
    _check_types(str, [*texts, *(result.versions or {}).values()])
    return result


def _check_types(kind: type | types.UnionType, values: Iterable[object]) -> None:
    """Raises `TypeError` if a value is neither None nor an instance of a type or union."""
    for value in values:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"expected {kind}; got {value!r}")


def results_document(table: str, budget: Budget, rows: Iterable[TableRow]) -> dict[str, Any]:
    """The contents of a table's JSON file: an entry for each cell with a result."""
    entries = [_to_entry(row.cell, row.result, row.collapsed) for row in rows if row.result]
    return {"table": table, "budget": budget, "cells": [e | {"budget": budget} for e in entries]}


def _to_entry(cell: Cell, result: CellResult, collapsed: int) -> dict[str, Any]:
    return {
        "name": cell.name,
        "model": cell.model,
        "transform": cell.transform,
        **({} if cell.variant is None else {"variant": cell.variant}),
        "distortion": cell.distortion,
        "test_error_mean": result.error,
        "test_error_std": result.std,
        "test_error_worst": result.worst,
        "validation_error_mean": result.mean_of("validation_error"),
        "published": cell.published,
        "outside": result.mean_of("outside"),
        "seeds": [run.seed for run in result.runs if run.test_error is not None],
        "diverged": result.diverged,
        "collapsed": collapsed,
        "seconds": result.mean_of("seconds"),
        **{name: getattr(result, name) for name in _ORIGIN},
        **({} if result.per_digit is None else {"per_digit": result.per_digit}),
        "runs": [run._asdict() for run in result.runs],
    }
