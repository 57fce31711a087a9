"""What the runs of each cell came to: read from their folders, joined with what is known. No JAX.

The files of results are made from folders of runs and from what they held before: trainings happen
on several machines, and their folders do not travel with the code.
"""

import pathlib
import re
import shlex
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import config as configuration
from experiments.records import RunError, read_config, read_json
from experiments.tables import runner
from experiments.tables.cells import Budget, Cell

LOST = 0.5  # a frame with more of its samples outside the image looks elsewhere
DIGITS = 4  # of errors in %: float32 has no more, and a test set of 10,000 needs two


class Run(NamedTuple):
    """A run that ended.

    Attributes:
        seed: its seed.
        test_error: in %; None if it diverged, as are the others then.
        validation_error: in %.
        outside: the share of test samples outside the frame; None without a transformer.
        seconds: that training took.
    """

    seed: int
    test_error: float | None = None
    validation_error: float | None = None
    outside: float | None = None
    seconds: float | None = None


class Result(NamedTuple):
    """What the runs of a cell came to; what tells of how they were made is None if all diverged.

    Attributes:
        runs: by seed.
        num_params: parameters of the network.
        epochs: passes over the training data.
        device: the device; all of them, where runs differ, as in what follows.
        command: as given, but for where files lie.
        versions: of packages.
        git_commit: of this code.
    """

    runs: tuple[Run, ...]
    num_params: int | None = None
    epochs: int | None = None
    device: str | None = None
    command: str | None = None
    versions: Mapping[str, str] | None = None
    git_commit: str | None = None

    @property
    def errors(self) -> list[float]:
        """The test errors of the runs that did not diverge, in %."""
        return [run.test_error for run in self.runs if run.test_error is not None]

    @property
    def error(self) -> float | None:
        """Their mean."""
        return mean(self.errors)

    @property
    def std(self) -> float | None:
        """Their sample standard deviation; unknown of a single one."""
        return round(statistics.stdev(self.errors), DIGITS) if len(self.errors) > 1 else None

    @property
    def worst(self) -> float | None:
        """The largest."""
        return max(self.errors, default=None)

    @property
    def diverged(self) -> list[int]:
        """The seeds of the runs that diverged."""
        return [run.seed for run in self.runs if run.test_error is None]

    def mean_of(self, name: str) -> float | None:
        """The mean of one of a run's numbers, over the runs that have it."""
        found = [getattr(run, name) for run in self.runs]
        return mean([value for value in found if value is not None])


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


class Row(NamedTuple):
    """A cell of a table with its result.

    Attributes:
        cell: the cell.
        result: what its runs came to; None if no run of it is known.
        collapsed: how many of the runs came to nothing.
    """

    cell: Cell
    result: Result | None
    collapsed: int


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return round(statistics.fmean(values), DIGITS) if values else None


# --- Folders of runs ------------------------------------------------------------------------------


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
    return Result(tuple(map(_run, found)), **_origin(summaries)), remarks


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
        wanted = configuration.replace(cell.config, {"seed": seed})
        other = configuration.differences(read_config(path), wanted)
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
    if summary.get("outside") is not None:
        kinds["outside"] = (int, float)
    for name, kind in kinds.items():
        value = summary.get(name)
        missing_is_fine = value is None and name in _OPTIONAL
        if not (missing_is_fine or isinstance(value, kind)):
            expected = " or ".join(each.__name__ for each in kind)
            raise RunError(f"{path}: {name} must be of type {expected}; got {value!r}")


def _run(ended: Ended) -> Run:
    summary = ended.summary
    if summary is None:
        return Run(ended.seed)
    numbers = [summary[name] for name in ("test_error", "validation_error")]
    numbers += [summary.get("outside"), summary["train_seconds"]]
    return Run(ended.seed, *(None if each is None else round(each, DIGITS) for each in numbers))


def _origin(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How runs were made, by the names of a result's fields."""
    if not summaries:
        return {}
    packages = dict.fromkeys(name for summary in summaries for name in summary["versions"])
    return {
        "num_params": summaries[0]["num_params"],
        "epochs": summaries[0]["epochs"],
        "device": _joined(summary["device"] for summary in summaries),
        "command": _joined(without_places(summary["command"]) for summary in summaries),
        "versions": {
            name: _joined(summary["versions"].get(name) for summary in summaries)
            for name in packages
        },
        "git_commit": _joined(summary["git_commit"] for summary in summaries),
    }


def _joined(texts: Iterable[str | None]) -> str | None:
    """The different ones of some texts, in one."""
    return "; ".join(dict.fromkeys(text for text in texts if text is not None)) or None


def without_places(command: str) -> str:
    """A command without the flags that say where files lie on one machine."""
    kept, skip = [], False
    for word in shlex.split(command):
        flag, _, value = word.replace("_", "-").partition("=")
        if skip or flag in ("--data-dir", "--run-dir"):
            skip = not skip and not value
        else:
            kept.append(word)
    return shlex.join(kept)


# --- Files of results -----------------------------------------------------------------------------


def read_known(paths: Iterable[pathlib.Path], budget: Budget) -> dict[str, Result]:
    """The results in files, by the cell's name; of the most runs, where two files have a cell.

    Raises:
        RunError: if a file is damaged or of another budget.
    """
    known: dict[str, Result] = {}
    for path in paths:
        if not path.exists():
            continue
        document = read_json(path)
        try:
            if document["budget"] != budget:
                raise RunError(
                    f"{path}: holds results of --budget {document['budget']}; give another "
                    f"--results for those of {budget}"
                )
            found = {entry["name"]: _from_entry(entry) for entry in document["cells"]}
        except (KeyError, TypeError) as error:
            raise RunError(f"{path}: not the results of a table: {error}") from error
        for name, result in found.items():
            if name not in known or len(result.runs) > len(known[name].runs):
                known[name] = result
    return known


_ORIGIN = ("num_params", "epochs", "device", "command", "versions", "git_commit")


def _from_entry(entry: Mapping[str, Any]) -> Result:
    runs = tuple(Run(**run) for run in entry["runs"])
    return Result(runs, **{name: entry[name] for name in _ORIGIN})


def document(table: str, budget: Budget, rows: Iterable[Row]) -> dict[str, Any]:
    """What the JSON file of a table holds: an entry for each cell of which a run is known."""
    entries = [_entry(row.cell, row.result, row.collapsed) for row in rows if row.result]
    return {"table": table, "budget": budget, "cells": [e | {"budget": budget} for e in entries]}


def _entry(cell: Cell, result: Result, collapsed: int) -> dict[str, Any]:
    return {
        "name": cell.name,
        "model": cell.model,
        "transform": cell.transform,
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
        "runs": [run._asdict() for run in result.runs],
    }


# --- Laws -----------------------------------------------------------------------------------------


def joined(found: Result | None, known: Result | None) -> Result | None:
    """The result to report, of what a folder holds and what was known: that of more runs.

    Of as many, it is the folder's.
    """
    if found is None or known is None:
        return found or known
    return found if len(found.runs) >= len(known.runs) else known


def plain_cell(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """The network of the same kind on the same data, without a transformer; None of such a one."""
    if cell.transform is None:
        return None
    model = cell.model.rpartition("st_")[2]
    for other in cells:
        alike = (other.model, other.transform) == (model, None)
        if alike and other.config.data == cell.config.data:
            return other
    return None


def is_collapsed(run: Run, plain_error: float | None) -> bool:
    """Whether a run came to nothing.

    It diverged, its transformer left the image, or it is worse than the plain network.

    Args:
        run: the run.
        plain_error: the plain network's test error in %, where it is known.
    """
    if run.test_error is None:
        return True
    if run.outside is not None and run.outside > LOST:
        return True
    return plain_error is not None and run.test_error > plain_error


def rows(cells: Iterable[Cell], results: Mapping[str, Result], others: Iterable[Cell]) -> list[Row]:
    """The rows of a table.

    Args:
        cells: the table's.
        results: by the cell's name.
        others: cells among which the plain networks are.
    """
    others = list(others)

    def row(cell: Cell) -> Row:
        result = results.get(cell.name)
        if result is None:
            return Row(cell, None, 0)
        plain = plain_cell(cell, others)
        plain_result = None if plain is None else results.get(plain.name)
        plain_error = None if plain_result is None else plain_result.error
        collapsed = sum(is_collapsed(run, plain_error) for run in result.runs)
        return Row(cell, result, collapsed)

    return [row(cell) for cell in cells]


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
        result = joined(found, before)
        if found is not None and result is not found and before is not None:
            remarks.append(
                f"{cell.name}: the {len(before.runs)} runs that were known are kept; "
                f"{folder / cell.name} holds {len(found.runs)}"
            )
        if result is not None:
            results[cell.name] = result
    return results, remarks
