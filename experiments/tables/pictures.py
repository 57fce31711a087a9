"""Pictures of what transformers learned, one file for each cell, from the files of finished runs.

A picture names the run that it is of. So pictures that were drawn where the runs are come together
with those of other machines, as results do, and one whose run is not reported any more is known.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from experiments import experiment as setup
from experiments import gallery
from experiments.checkpoints import SUFFIX
from experiments.config import Data, DatasetName
from experiments.datasets import Dataset, DatasetError
from experiments.records import RunError, read_config, write_atomically, writing
from experiments.tables import folders
from experiments.tables.cells import Cell, TableName
from experiments.tables.page import Picture
from experiments.tables.panels import Panel, as_png, draw_panel
from experiments.tables.results import Result, Row, Run

FOLDER = "pictures"  # among results
SHOWN = 4  # images of a panel
# Whose transformers a table shows.
NETWORKS: Mapping[TableName, tuple[str, ...]] = {
    "table1": ("st_cnn",),
    "addition": ("2x_st_fcn",),
    "transforms": ("st_fcn",),
    "ours": ("st_compact",),
    "gtsrb": ("1x_st_compact", "2x_st_compact", "3x_st_compact"),
    "projection3d": ("st_projection_cnn",),
}
# Cells whose runs draw what there is to show, and the figure.
DRAWN: Mapping[str, str] = {
    "colocalisation-tc": "windows.png",
    "projection3d-st_projection_cnn-affine_3d": "images.png",
    "projection3d-st_projection_cnn-rigid_3d": "images.png",
}
OF = "Run"  # the text in a picture's file that names the run


def draw(
    table: TableName,
    rows: Sequence[Row],
    results: pathlib.Path,
    runs: pathlib.Path,
    data_dir: str | None,
) -> list[str]:
    """Draws the pictures of a table's cells that are missing or outdated, of runs that are here.

    Args:
        table: the table.
        rows: its cells.
        results: the folder of results.
        runs: RUN_DIR/BUDGET.
        data_dir: where data lie; None: where each run had them.

    Returns:
        Why some could not be drawn: a record or a checkpoint is damaged, or data cannot be had.

    Raises:
        RunError: if a picture cannot be written.
    """
    undrawn = []
    for row in rows:
        path = _path(results, row.cell)
        if row.result is None or not _is_pictured(table, row.cell) or _is_current(path, row.result):
            continue
        try:
            drawn = _of_result(row.cell, row.result, runs, data_dir)
        except (RunError, DatasetError) as error:
            undrawn.append(str(error))
            continue
        if drawn is not None:
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, drawn)
    return undrawn


def existing(
    table: TableName, rows: Sequence[Row], results: pathlib.Path
) -> dict[str, Picture | None]:
    """The pictures of a table's cells that have a result, by the cell's name; None if missing."""
    found: dict[str, Picture | None] = {}
    for row in rows:
        if row.result is not None and _is_pictured(table, row.cell):
            path = _path(results, row.cell)
            picture = Picture(f"{FOLDER}/{path.name}", _is_current(path, row.result))
            found[row.cell.name] = picture if path.exists() else None
    return found


def _is_pictured(table: TableName, cell: Cell) -> bool:
    return cell.name in DRAWN or cell.model in NETWORKS.get(table, ())


def _path(results: pathlib.Path, cell: Cell) -> pathlib.Path:
    return results / FOLDER / f"{cell.name}.png"


def _name(result: Result, run: Run) -> str:
    """What a picture's file calls a run of a result."""
    return f"{result.settings}: seed {run.seed}, {run.test_error} % after {run.seconds} s"


def _is_current(path: pathlib.Path, result: Result) -> bool:
    """Whether there is a picture, whole, of one of a result's runs."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.info.get(OF) in [_name(result, run) for run in result.runs]
    except (OSError, SyntaxError, ValueError):  # all of which Pillow raises of damaged files
        return False


def _of_result(
    cell: Cell, result: Result, runs: pathlib.Path, data_dir: str | None
) -> bytes | None:
    """The picture of the first run of a result that is here and has what it takes, as a PNG."""
    for run in folders.ended(cell, runs)[0]:
        if run.summary is None:
            continue
        texts = {OF: _name(result, folders.measured(run))}
        figure = run.folder / "figures" / DRAWN.get(cell.name, "")
        if cell.name in DRAWN and figure.exists():
            return _copied(figure, texts)
        if cell.name not in DRAWN and any((run.folder / "checkpoints").glob(f"*{SUFFIX}")):
            return draw_panel(panel(run.folder, data_dir), texts)
    return None


def _copied(path: pathlib.Path, texts: Mapping[str, str]) -> bytes:
    """A picture that a run drew, with other texts."""
    try:
        with Image.open(path) as picture:
            return as_png(picture, texts)
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as a picture: {error}") from error


def panel(run: pathlib.Path, data_dir: str | None) -> Panel:
    """What the transformers of a finished run do with the first test images.

    Raises:
        RunError: if the run's checkpoints are damaged.
        DatasetError: if the data cannot be had.
    """
    config = read_config(run)
    data = config.data
    dataset = _load(data.dataset, data.data_dir if data_dir is None else data_dir, data.data_file)
    experiment = setup.assemble(config, dataset)
    params = gallery.trained_params(run, experiment)
    probe = gallery.Probe(experiment, SHOWN)
    looked = probe.intermediates(params)
    grids = gallery.frames(experiment, {name: each["theta"] for name, each in looked.items()})
    return Panel(
        gallery.visible(probe.images),
        [np.asarray(grid) for grid in grids.values()],
        [gallery.visible(looked[name]["output"]) for name in grids],
        config.model.align_corners,
    )


# Runs differ in distortions and tasks, and share a data set.
@functools.lru_cache(maxsize=1)
def _load(dataset: DatasetName, data_dir: str | None, data_file: str | None) -> Dataset:
    return setup.load(Data(dataset=dataset, data_dir=data_dir, data_file=data_file))
