"""The results of a cell's runs: statistics, collapsed runs, merging. Imports no jax."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments.analysis.failed_runs import MAX_OUTSIDE
from experiments.colocalisation.options import ColocalisationSettings
from experiments.paper.cells import Cell
from experiments.settings.config import Data

# Decimals of errors in %. float32 is precise to four, and a test set of 10,000 needs only two.
DECIMALS = 4


class RunResult(NamedTuple):
    """The result of one finished run. All numbers are None if the run diverged.

    Attributes:
        seed: the seed.
        test_error: in %.
        validation_error: in %.
        outside: the share of test samples outside the image, 0 to 1; None without a transformer.
        seconds: the training time.
        per_digit: the error of each digit in %; only for co-localisation.
        untrained_error: the error before training in %; only for co-localisation.
    """

    seed: int
    test_error: float | None = None
    validation_error: float | None = None
    outside: float | None = None
    seconds: float | None = None
    per_digit: tuple[float, ...] | None = None
    untrained_error: float | None = None


class CellResult(NamedTuple):
    """The results of a cell's runs, and how the runs were made.

    If a text differs between runs, the different values are joined with "; ". Everything except
    `runs` and `settings` is None if all runs diverged.

    Attributes:
        runs: ordered by seed.
        num_params: the number of parameters of the network.
        epochs: passes over the training data.
        device: the device.
        command: the command line, without the locations of files.
        versions: of packages, by name.
        git_commit: the commit of this repository.
        settings: the fingerprint of the cell's settings; None if it was not recorded.
    """

    runs: tuple[RunResult, ...]
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
        """The mean test error in %."""
        return _rounded_mean(self.errors)

    @property
    def std(self) -> float | None:
        """The sample standard deviation of the test errors in %; None for a single run."""
        return round(statistics.stdev(self.errors), DECIMALS) if len(self.errors) > 1 else None

    @property
    def worst(self) -> float | None:
        """The largest test error in %."""
        return max(self.errors, default=None)

    @property
    def per_digit(self) -> list[float] | None:
        """The mean error of each digit in %, for co-localisation; otherwise None."""
        found = [run.per_digit for run in self.runs if run.per_digit is not None]
        return [statistics.fmean(errors) for errors in zip(*found, strict=True)] or None

    @property
    def diverged(self) -> list[int]:
        """The seeds of the runs that diverged."""
        return [run.seed for run in self.runs if run.test_error is None]

    def mean_of(self, name: str) -> float | None:
        """The mean of a field of `RunResult` over the runs that have it."""
        found = [getattr(run, name) for run in self.runs]
        return _rounded_mean([value for value in found if value is not None])


class TableRow(NamedTuple):
    """A cell of a table with its result.

    Attributes:
        cell: the cell.
        result: the result of its runs; None if no run is known.
        collapsed: the number of runs that collapsed.
    """

    cell: Cell
    result: CellResult | None
    collapsed: int


def known_errors(rows: Iterable[TableRow]) -> dict[str, float]:
    """The mean test errors in % that are known, by cell name."""
    known = {row.cell.name: row.result.error for row in rows if row.result}
    return {name: error for name, error in known.items() if error is not None}


def _rounded_mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), DECIMALS) if values else None


# --- Merging results of several machines ----------------------------------------------------------


def merge_results(found: CellResult | None, recorded: CellResult | None) -> CellResult | None:
    """Merges the result in run folders with the recorded one, which is used for missing seeds."""
    if found is None or recorded is None:
        return found or recorded
    runs = {run.seed: run for run in (*recorded.runs, *found.runs)}
    if len(runs) == len(found.runs):
        return found
    origin = {
        name: join_distinct(getattr(each, name) for each in (recorded, found))
        for name in ("device", "command", "git_commit")
    }
    versions = [each.versions for each in (recorded, found) if each.versions is not None]
    return found._replace(
        runs=tuple(runs[seed] for seed in sorted(runs)),
        num_params=found.num_params or recorded.num_params,
        epochs=found.epochs or recorded.epochs,
        versions=join_versions(versions) or None,
        **origin,
    )


_SEPARATOR = "; "


def join_distinct(texts: Iterable[str | None]) -> str | None:
    """Joins the distinct texts. A text that is itself a join is split first."""
    parts = [part for text in texts if text is not None for part in text.split(_SEPARATOR)]
    return _SEPARATOR.join(dict.fromkeys(parts)) or None


def join_versions(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Joins the distinct versions of each package."""
    packages = dict.fromkeys(name for each in versions for name in each)
    return {name: join_distinct(each.get(name) for each in versions) or "" for name in packages}


# --- Collapsed runs and rows ----------------------------------------------------------------------


def find_plain_cell(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """Finds the same kind of network without a transformer, trained as long on the same data.

    Returns:
        One of `cells`; None if there is no such cell, or if `cell` has no transformer itself.
    """
    if cell.transform is None:
        return None
    model = cell.model.rpartition("st_")[2]
    for other in cells:
        is_plain = (other.model, other.transform) == (model, None)
        if is_plain and _training_task(other) == _training_task(cell):
            return other
    return None


def _training_task(cell: Cell) -> tuple[Data, int] | None:
    """The data and the number of epochs; None for co-localisation."""
    if isinstance(cell.config, ColocalisationSettings):
        return None
    return cell.config.data, cell.config.optimisation.epochs


def is_collapsed(run: RunResult, plain_error: float | None) -> bool:
    """Whether a run diverged, its transformer left the image, or the plain network is better.

    Args:
        run: the run.
        plain_error: the test error in % of the network without a transformer, if it is known.
    """
    if run.test_error is None:
        return True
    if run.outside is not None and run.outside > MAX_OUTSIDE:
        return True
    return plain_error is not None and run.test_error > plain_error


def make_rows(
    cells: Iterable[Cell], results: Mapping[str, CellResult], all_cells: Iterable[Cell]
) -> list[TableRow]:
    """Pairs the cells of a table with their results, and counts the collapsed runs.

    Args:
        cells: the cells of the table.
        results: by cell name.
        all_cells: the cells of all tables, which include the networks without a transformer.
    """
    all_cells = list(all_cells)

    def make_row(cell: Cell) -> TableRow:
        result = results.get(cell.name)
        if result is None:
            return TableRow(cell, None, 0)
        plain = find_plain_cell(cell, all_cells)
        plain_result = None if plain is None else results.get(plain.name)
        plain_error = None if plain_result is None else plain_result.error
        collapsed = sum(is_collapsed(run, plain_error) for run in result.runs)
        return TableRow(cell, result, collapsed)

    return [make_row(cell) for cell in cells]
