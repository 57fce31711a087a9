"""What the runs of each cell came to, as values and in files. No JAX.

A table's file keeps what is known of a cell's seeds until a folder holds these: trainings happen on
several machines, and their folders do not travel with the code.
"""

import hashlib
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.colocalisation_settings import Settings
from experiments.config import LOCATIONS, Config, Data
from experiments.records import RunError, read_json
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
        per_digit: the error of each digit in %, of a co-localisation.
        untrained_error: that of all before training, in %, of a co-localisation.
    """

    seed: int
    test_error: float | None = None
    validation_error: float | None = None
    outside: float | None = None
    seconds: float | None = None
    per_digit: tuple[float, ...] | None = None
    untrained_error: float | None = None


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
        settings: the fingerprint of the cell's settings; None where it was not recorded.
    """

    runs: tuple[Run, ...]
    num_params: int | None = None
    epochs: int | None = None
    device: str | None = None
    command: str | None = None
    versions: Mapping[str, str] | None = None
    git_commit: str | None = None
    settings: str | None = None

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
    def per_digit(self) -> list[float] | None:
        """The mean error of each digit in %, of co-localisations; None elsewhere."""
        found = [run.per_digit for run in self.runs if run.per_digit is not None]
        return [statistics.fmean(errors) for errors in zip(*found, strict=True)] or None

    @property
    def diverged(self) -> list[int]:
        """The seeds of the runs that diverged."""
        return [run.seed for run in self.runs if run.test_error is None]

    def mean_of(self, name: str) -> float | None:
        """The mean of one of a run's numbers, over the runs that have it."""
        found = [getattr(run, name) for run in self.runs]
        return mean([value for value in found if value is not None])


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


def known_errors(rows: Iterable[Row]) -> dict[str, float]:
    """The mean errors that are known, by the cell's name."""
    known = {row.cell.name: row.result.error for row in rows if row.result}
    return {name: error for name, error in known.items() if error is not None}


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return round(statistics.fmean(values), DIGITS) if values else None


# --- Files of results -----------------------------------------------------------------------------


def read_known(
    paths: Iterable[pathlib.Path], budget: Budget, cells: Iterable[Cell]
) -> dict[str, Result]:
    """The results in files, by the cell's name.

    Where several files have a cell, that of its settings counts, and of these that of most runs.

    Raises:
        RunError: if a file is damaged or of another budget.
    """
    settings = {cell.name: fingerprint(cell) for cell in cells}

    def rank(name: str, result: Result) -> tuple[bool, int]:
        return result.settings in (None, settings.get(name)), len(result.runs)

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
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: not the results of a table: {error}") from error
        for name, result in found.items():
            if name not in known or rank(name, result) > rank(name, known[name]):
                known[name] = result
    return known


_ORIGIN = ("num_params", "epochs", "device", "command", "versions", "git_commit", "settings")


def _from_entry(entry: Mapping[str, Any]) -> Result:
    """The result that a file holds.

    Raises:
        KeyError, TypeError, AttributeError: if it holds something else.
    """
    runs = tuple(Run(**run) for run in entry["runs"])
    result = Result(runs, **{name: entry.get(name) for name in _ORIGIN})
    if not runs:
        raise TypeError(f"{entry['name']} has no runs")
    numbers = [value for run in runs for value in (*run._replace(per_digit=None), *_digits(run))]
    _expect(int | float, [*numbers, result.num_params, result.epochs])
    texts = (result.device, result.command, result.git_commit, result.settings)
    _expect(str, [*texts, *(result.versions or {}).values()])
    return result


def _digits(run: Run) -> Sequence[float]:
    return () if run.per_digit is None else run.per_digit


def _expect(kind: Any, values: Iterable[Any]) -> None:
    """Raises `TypeError` if a value is neither None nor of a type."""
    for value in values:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"expected {kind}; got {value!r}")


def document(table: str, budget: Budget, rows: Iterable[Row]) -> dict[str, Any]:
    """What the JSON file of a table holds: an entry for each cell of which a run is known."""
    entries = [_entry(row.cell, row.result, row.collapsed) for row in rows if row.result]
    return {"table": table, "budget": budget, "cells": [e | {"budget": budget} for e in entries]}


def _entry(cell: Cell, result: Result, collapsed: int) -> dict[str, Any]:
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


# --- Laws -----------------------------------------------------------------------------------------


def joined(found: Result | None, known: Result | None) -> Result | None:
    """The result to report, of what a folder holds and what was known: the folder's seeds count."""
    if found is None or known is None:
        return found or known
    runs = {run.seed: run for run in (*known.runs, *found.runs)}
    if len(runs) == len(found.runs):
        return found
    origin = {
        name: in_one(getattr(each, name) for each in (known, found))
        for name in ("device", "command", "git_commit")
    }
    versions = [each.versions for each in (known, found) if each.versions is not None]
    return found._replace(
        runs=tuple(runs[seed] for seed in sorted(runs)),
        num_params=found.num_params or known.num_params,
        epochs=found.epochs or known.epochs,
        versions=versions_in_one(versions) or None,
        **origin,
    )


_BETWEEN = "; "


def in_one(texts: Iterable[str | None]) -> str | None:
    """The different ones of some texts, each of which may be several, in one."""
    parts = [part for text in texts if text is not None for part in text.split(_BETWEEN)]
    return _BETWEEN.join(dict.fromkeys(parts)) or None


def versions_in_one(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The different versions of each package, in one text."""
    packages = dict.fromkeys(name for each in versions for name in each)
    return {name: in_one(each.get(name) for each in versions) or "" for name in packages}


def fingerprint(cell: Cell) -> str:
    """Of what is set about a cell's runs: results of other settings are another cell's.

    What is at its default does not count, so that a setting that is new changes nothing.
    """
    config = cell.config
    if isinstance(config, Settings):
        groups = [(config, Settings())]
    else:
        defaults = Config()
        groups = [
            (config.data, defaults.data),
            (config.model, defaults.model),
            (config.optimisation, defaults.optimisation),
        ]
    changed = {
        name: value
        for group, default in groups
        for name, value in vars(group).items()
        if value != getattr(default, name) and name not in (*LOCATIONS, "seed")
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]


def plain_cell(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """The network of the same kind, trained as long on the same data, without a transformer.

    None of such a one.
    """
    if cell.transform is None:
        return None
    model = cell.model.rpartition("st_")[2]
    for other in cells:
        alike = (other.model, other.transform) == (model, None)
        if alike and _learns(other) == _learns(cell):
            return other
    return None


def _learns(cell: Cell) -> tuple[Data, int] | None:
    """What a run of a cell learns from, and for how many epochs; None of a co-localisation."""
    if isinstance(cell.config, Settings):
        return None
    return cell.config.data, cell.config.optimisation.epochs


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
