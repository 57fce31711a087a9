"""Reads what runs came to from their folders, `RUN_DIR/BUDGET/CELL/seed-K`. No JAX."""

import pathlib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.records import RunError
from experiments.tables import runner
from experiments.tables.cells import Cell
from experiments.tables.results import (
    DIGITS,
    Result,
    Run,
    fingerprint,
    in_one,
    joined,
    versions_in_one,
)


class Ended(NamedTuple):
    """The folder of a run that ended.

    Attributes:
        seed: its seed.
        folder: where it is.
        summary: what is recorded of it; None if it diverged.
    """

    seed: int
    folder: pathlib.Path
    summary: Mapping[str, Any] | None


def collect(
    cells: Collection[Cell], folder: pathlib.Path, known: Mapping[str, Result]
) -> tuple[dict[str, Result], list[str]]:
    """The results of cells by their name, and what to say of what was left out.

    Args:
        cells: the cells.
        folder: RUN_DIR/BUDGET.
        known: what files hold, by the cell's name.

    Raises:
        RunError: if a record is damaged.
    """
    results, remarks = {}, []
    for cell in cells:
        found, left_out = read_result(cell, folder)
        remarks += left_out
        before = known.get(cell.name)
        if before is not None and before.settings not in (None, fingerprint(cell)):
            remarks.append(f"left out: {cell.name}: what was known is of other settings")
            before = None
        result = joined(found, before)
        if found is not None and result is not None and result is not found:
            here = {run.seed for run in found.runs}
            kept = ", ".join(str(run.seed) for run in result.runs if run.seed not in here)
            remarks.append(f"{cell.name}: of seeds {kept} is kept what was known")
        if result is not None:
            results[cell.name] = result
    return results, remarks


def read_result(cell: Cell, folder: pathlib.Path) -> tuple[Result | None, list[str]]:
    """What the runs of a cell in a folder came to, and what to say of those that do not count.

    Args:
        cell: the cell.
        folder: RUN_DIR/BUDGET.

    Raises:
        RunError: if a record is damaged.
    """
    found, remarks = ended(cell, folder)
    if not found:
        return None, remarks
    summaries = [run.summary for run in found if run.summary is not None]
    origin = _origin(summaries) | {"settings": fingerprint(cell)}
    return Result(tuple(map(measured, found)), **origin), remarks


def ended(cell: Cell, folder: pathlib.Path) -> tuple[list[Ended], list[str]]:
    """The runs of a cell in a folder that ended, and what to say of those of other settings.

    Args:
        cell: the cell.
        folder: RUN_DIR/BUDGET.

    Raises:
        RunError: if a record is damaged.
    """
    found, remarks = [], []
    for seed, path in _seeds(folder / cell.name):
        summary = runner.outcome(path)
        if summary is None:
            continue
        other = runner.differences(runner.Run(cell, seed, path))
        if other:
            remarks.append(f"left out: {path}: the cell has other settings: {', '.join(other)}")
        elif (path / runner.DIVERGED).exists():
            found.append(Ended(seed, path, None))
        else:
            _check(path / "summary.json", summary)
            found.append(Ended(seed, path, summary))
    return found, remarks


def _seeds(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """The folders of a cell's runs by seed, but for those that were set aside."""
    found = [(re.fullmatch(r"seed-(\d+)", path.name), path) for path in folder.glob("seed-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


# The records of a summary that are needed here.
_NUMBERS = ("test_error", "validation_error", "num_params", "epochs", "train_seconds")
_TEXTS = ("device", "command", "git_commit")
_OPTIONAL = ("validation_error", "git_commit")


def _check(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    """Raises `RunError` unless a summary has what is needed."""
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(_NUMBERS, (int, float))
    kinds |= dict.fromkeys(_TEXTS, (str,)) | {"versions": (dict,)}
    for name in ("outside", "untrained_error"):
        if summary.get(name) is not None:
            kinds[name] = (int, float)
    for name, kind in kinds.items():
        value = summary.get(name)
        missing_is_fine = value is None and name in _OPTIONAL
        if not (missing_is_fine or isinstance(value, kind)):
            expected = " or ".join(each.__name__ for each in kind)
            raise RunError(f"{path}: {name} must be of type {expected}; got {value!r}")
    for package, version in summary["versions"].items():
        if not isinstance(version, str):
            raise RunError(f"{path}: versions must be texts; got {version!r} of {package}")
    try:
        without_places(summary["command"])
    except ValueError as error:
        raise RunError(f"{path}: command must be one of a shell: {error}") from error
    try:
        _per_digit(summary)
    except (TypeError, KeyError) as error:
        found = summary["per_digit"]
        raise RunError(f"{path}: per_digit must list each success; got {found!r}") from error


def measured(run: Ended) -> Run:
    """What is reported of a run."""
    summary = run.summary
    if summary is None:
        return Run(run.seed)
    names = ("test_error", "validation_error", "outside", "train_seconds", "untrained_error")
    numbers = [summary.get(name) for name in names]
    *measured, untrained = [None if each is None else round(each, DIGITS) for each in numbers]
    return Run(run.seed, *measured, per_digit=_per_digit(summary), untrained_error=untrained)


def _per_digit(summary: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The error of each digit in %, of a co-localisation."""
    found = summary.get("per_digit")
    return None if found is None else tuple(100 - each["success"] for each in found)


def _origin(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How runs were made, by the names of a result's fields."""
    if not summaries:
        return {}
    return {
        "num_params": summaries[0]["num_params"],
        "epochs": summaries[0]["epochs"],
        "device": in_one(summary["device"] for summary in summaries),
        "command": in_one(without_places(summary["command"]) for summary in summaries),
        "versions": versions_in_one([summary["versions"] for summary in summaries]),
        "git_commit": in_one(summary["git_commit"] for summary in summaries),
    }


def without_places(command: str) -> str:
    """A command without the flags that say where files lie on one machine."""
    kept, words = [], iter(shlex.split(command))
    for word in words:
        flag, equals, _ = word.replace("_", "-").partition("=")
        if flag not in ("--data-dir", "--run-dir"):
            kept.append(word)
        elif not equals:
            next(words, None)  # its value
    return shlex.join(kept)
