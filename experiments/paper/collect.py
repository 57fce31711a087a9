"""Reads the results of cells from run folders, `RUN_DIR/BUDGET/CELL/seed-K`. Imports no jax."""

import pathlib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper import runner
from experiments.paper.cells import Cell, fingerprint
from experiments.paper.results import (
    DECIMALS,
    CellResult,
    RunResult,
    join_distinct,
    join_versions,
    merge_results,
)
from experiments.runs.records import RunError


class EndedRun(NamedTuple):
    """The folder of a run that finished or diverged.

    Attributes:
        seed: the seed.
        folder: the run folder.
        summary: the contents of `summary.json`; None if the run diverged.
    """

    seed: int
    folder: pathlib.Path
    summary: Mapping[str, Any] | None


def collect_results(
    cells: Collection[Cell], folder: pathlib.Path, recorded: Mapping[str, CellResult]
) -> tuple[dict[str, CellResult], list[str]]:
    """Merges the results in run folders with recorded ones.

    Args:
        cells: the cells.
        folder: RUN_DIR/BUDGET.
        recorded: the results in files, by cell name.

    Returns:
        The results by cell name, and messages about results that were left out or kept.

    Raises:
        RunError: if a record is damaged.
    """
    results, messages = {}, []
    for cell in cells:
        found, left_out = read_cell_result(cell, folder)
        messages += left_out
        before = recorded.get(cell.name)
        if before is not None and before.settings not in (None, fingerprint(cell)):
            messages.append(f"left out: {cell.name}: the recorded result has other settings")
            before = None
        result = merge_results(found, before)
        if found is not None and result is not None and result is not found:
            here = {run.seed for run in found.runs}
            kept = ", ".join(str(run.seed) for run in result.runs if run.seed not in here)
            messages.append(f"{cell.name}: kept the recorded results of seeds {kept}")
        if result is not None:
            results[cell.name] = result
    return results, messages


def read_cell_result(cell: Cell, folder: pathlib.Path) -> tuple[CellResult | None, list[str]]:
    """The result of a cell's runs in a folder.

    Args:
        cell: the cell.
        folder: RUN_DIR/BUDGET.

    Returns:
        The result, None if no run ended; and messages about runs that were left out.

    Raises:
        RunError: if a record is damaged.
    """
    found, messages = find_ended_runs(cell, folder)
    if not found:
        return None, messages
    summaries = [run.summary for run in found if run.summary is not None]
    origin = _read_origin(summaries) | {"settings": fingerprint(cell)}
    return CellResult(tuple(map(to_run_result, found)), **origin), messages


def find_ended_runs(cell: Cell, folder: pathlib.Path) -> tuple[list[EndedRun], list[str]]:
    """The runs of a cell in a folder that finished or diverged.

    Args:
        cell: the cell.
        folder: RUN_DIR/BUDGET.

    Returns:
        The runs ordered by seed, and messages about runs with other settings, which are left out.

    Raises:
        RunError: if a record is damaged.
    """
    found, messages = [], []
    for seed, path in _seed_folders(folder / cell.name):
        summary = runner.outcome(path)
        if summary is None:
            continue
        other = runner.run_differences(runner.CellRun(cell, seed, path))
        if other:
            messages.append(f"left out: {path}: the cell has other settings: {', '.join(other)}")
        elif (path / runner.DIVERGED).exists():
            found.append(EndedRun(seed, path, None))
        else:
            _check_summary(path / "summary.json", summary)
            found.append(EndedRun(seed, path, summary))
    return found, messages


def _seed_folders(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """The seeds and folders of a cell's runs, without runs that were set aside."""
    found = [(re.fullmatch(r"seed-(\d+)", path.name), path) for path in folder.glob("seed-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


# --- Records --------------------------------------------------------------------------------------

_NUMBERS = ("test_error", "validation_error", "num_params", "epochs", "train_seconds")
_TEXTS = ("device", "command", "git_commit")
_MAY_BE_MISSING = ("validation_error", "git_commit")


def _check_summary(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    """Raises `RunError` unless a summary has the records that are needed, of the right types."""
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(_NUMBERS, (int, float))
    kinds |= dict.fromkeys(_TEXTS, (str,)) | {"versions": (dict,)}
    for name in ("outside", "untrained_error"):
        if summary.get(name) is not None:
            kinds[name] = (int, float)
    for name, kind in kinds.items():
        value = summary.get(name)
        may_be_missing = value is None and name in _MAY_BE_MISSING
        if not (may_be_missing or isinstance(value, kind)):
            expected = " or ".join(each.__name__ for each in kind)
            raise RunError(f"{path}: {name} must be of type {expected}; got {value!r}")
    for package, version in summary["versions"].items():
        if not isinstance(version, str):
            raise RunError(f"{path}: versions must be strings; got {version!r} for {package}")
    try:
        remove_locations(summary["command"])
    except ValueError as error:
        raise RunError(f"{path}: command must be a shell command: {error}") from error
    try:
        _per_digit_errors(summary)
    except (TypeError, KeyError) as error:
        found = summary["per_digit"]
        raise RunError(f"{path}: per_digit must list each success; got {found!r}") from error


def to_run_result(run: EndedRun) -> RunResult:
    """The numbers of a run that are reported."""
    summary = run.summary
    if summary is None:
        return RunResult(run.seed)
    names = ("test_error", "validation_error", "outside", "train_seconds", "untrained_error")
    values = [summary.get(name) for name in names]
    *measured, untrained = [None if each is None else round(each, DECIMALS) for each in values]
    per_digit = _per_digit_errors(summary)
    return RunResult(run.seed, *measured, per_digit=per_digit, untrained_error=untrained)


def _per_digit_errors(summary: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The error of each digit in %, for co-localisation; otherwise None."""
    found = summary.get("per_digit")
    return None if found is None else tuple(100 - each["success"] for each in found)


def _read_origin(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How runs were made, by the field names of `CellResult`."""
    if not summaries:
        return {}
    return {
        "num_params": summaries[0]["num_params"],
        "epochs": summaries[0]["epochs"],
        "device": join_distinct(summary["device"] for summary in summaries),
        "command": join_distinct(remove_locations(summary["command"]) for summary in summaries),
        "versions": join_versions([summary["versions"] for summary in summaries]),
        "git_commit": join_distinct(summary["git_commit"] for summary in summaries),
    }


def remove_locations(command: str) -> str:
    """A command without the flags for locations of files, which differ between machines."""
    kept, words = [], iter(shlex.split(command))
    for word in words:
        flag, equals, _ = word.replace("_", "-").partition("=")
        if flag not in ("--data-dir", "--run-dir"):
            kept.append(word)
        elif not equals:
            next(words, None)  # the flag's value
    return shlex.join(kept)
