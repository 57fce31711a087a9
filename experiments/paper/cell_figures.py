"""The figures on a table's page: one file per cell, drawn from a finished run.

A figure's file names the run that it shows. So figures from several machines can be combined, as
results can, and a figure whose run is no longer reported is recognised.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from experiments.analysis.frames import frame_grids
from experiments.analysis.probe import Probe, displayable
from experiments.analysis.restore import restore
from experiments.datasets import Dataset, DatasetError
from experiments.paper.cells import Cell
from experiments.paper.collect import find_ended_runs, to_run_result
from experiments.paper.registry import matches_any
from experiments.paper.results import CellResult, RunResult, TableRow
from experiments.paper.results_page import CellFigure
from experiments.paper.table import Table
from experiments.paper.transformer_panel import TransformerPanel, draw_panel, to_small_png
from experiments.runs.checkpoints import SUFFIX
from experiments.runs.records import RunError, write_atomically, writing
from experiments.settings.config import Data, DatasetName
from experiments.training.experiment import load_dataset

FOLDER = "pictures"  # in the folder of results
NUM_IMAGES = 4  # in a panel
RUN_KEYWORD = "Run"  # of the text in a PNG file that names the run


def draw_missing(
    table: Table,
    rows: Sequence[TableRow],
    results: pathlib.Path,
    runs: pathlib.Path,
    data_dir: str | None,
) -> list[str]:
    """Draws the figures of a table that are missing or outdated and whose runs are available.

    Args:
        table: the table.
        rows: its cells.
        results: the folder of results.
        runs: RUN_DIR/BUDGET.
        data_dir: the folder with the data; None for the folder that each run used.

    Returns:
        Reasons why figures could not be drawn: damaged records or checkpoints, or missing data.

    Raises:
        RunError: if a figure cannot be written.
    """
    undrawn = []
    for row in rows:
        path = _figure_path(results, row.cell)
        if row.result is None or not _is_illustrated(table, row.cell):
            continue
        if _is_current(path, row.result):
            continue
        try:
            drawn = _draw_cell(table, row.cell, row.result, runs, data_dir)
        except (RunError, DatasetError) as error:
            undrawn.append(str(error))
            continue
        if drawn is not None:
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, drawn)
    return undrawn


def find_figures(
    table: Table, rows: Sequence[TableRow], results: pathlib.Path
) -> dict[str, CellFigure | None]:
    """The figures of the illustrated cells that have a result; None if a figure is missing.

    Args:
        table: the table.
        rows: its cells.
        results: the folder of results.

    Returns:
        The figures by cell name.
    """
    found: dict[str, CellFigure | None] = {}
    for row in rows:
        if row.result is not None and _is_illustrated(table, row.cell):
            path = _figure_path(results, row.cell)
            figure = CellFigure(f"{FOLDER}/{path.name}", _is_current(path, row.result))
            found[row.cell.name] = figure if path.exists() else None
    return found


def _is_illustrated(table: Table, cell: Cell) -> bool:
    return matches_any(cell.name, table.illustrated_cells)


def _figure_path(results: pathlib.Path, cell: Cell) -> pathlib.Path:
    return results / FOLDER / f"{cell.name}.png"


def _describe_run(result: CellResult, run: RunResult) -> str:
    """The text that identifies a run in a figure's file."""
    return f"{result.settings}: seed {run.seed}, {run.test_error} % after {run.seconds} s"


def _is_current(path: pathlib.Path, result: CellResult) -> bool:
    """Whether a file is an intact figure of one of a result's runs."""
    try:
        with Image.open(path) as image:
            image.load()
            described = [_describe_run(result, run) for run in result.runs]
            return image.info.get(RUN_KEYWORD) in described
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        return False


def _draw_cell(
    table: Table, cell: Cell, result: CellResult, runs: pathlib.Path, data_dir: str | None
) -> bytes | None:
    """The figure of the first run with the necessary files, as a PNG; None without such a run."""
    for run in find_ended_runs(cell, runs)[0]:
        if run.summary is None:
            continue
        texts = {RUN_KEYWORD: _describe_run(result, to_run_result(run))}
        if table.run_figure is not None:
            path = run.folder / "figures" / table.run_figure
            if path.exists():
                return _copy_figure(path, texts)
        elif any((run.folder / "checkpoints").glob(f"*{SUFFIX}")):
            return draw_panel(make_panel(run.folder, data_dir), texts)
    return None


def _copy_figure(path: pathlib.Path, texts: Mapping[str, str]) -> bytes:
    """A figure that a run drew, with other texts, as a PNG."""
    try:
        with Image.open(path) as image:
            return to_small_png(image, texts)
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as an image: {error}") from error


def make_panel(run: pathlib.Path, data_dir: str | None) -> TransformerPanel:
    """A few test images, and the frames and outputs of a finished run's transformers.

    Args:
        run: the run folder.
        data_dir: the folder with the data; None for the folder that the run used.

    Raises:
        RunError: if the run's checkpoints are damaged.
        DatasetError: if the data cannot be loaded.
    """

    def load(data: Data) -> Dataset:
        folder = data.data_dir if data_dir is None else data_dir
        return _load_dataset(data.dataset, folder, data.data_file)

    trained = restore(run, load)
    settings = trained.experiment.config.model
    probe = Probe(trained.experiment, NUM_IMAGES)
    found = probe.intermediates(trained.params, trained.variables)
    grids = frame_grids(settings, {name: each["theta"] for name, each in found.items()})
    return TransformerPanel(
        displayable(probe.images),
        [np.asarray(grid) for grid in grids.values()],
        [displayable(found[name]["output"]) for name in grids],
        settings.align_corners,
    )


# Runs with different distortions and tasks use the same data set.
@functools.lru_cache(maxsize=1)
def _load_dataset(dataset: DatasetName, data_dir: str | None, data_file: str | None) -> Dataset:
    return load_dataset(Data(dataset=dataset, data_dir=data_dir, data_file=data_file))
