"""Pictures of what transformers learned, one file for each cell, from the files of finished runs.

A picture names the result that it is of. So pictures that were drawn where the runs are come
together with those of other machines, as results do, and an outdated one is known as such.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments import experiment as setup
from experiments import gallery
from experiments.checkpoints import SUFFIX
from experiments.config import Data, DatasetName
from experiments.datasets import Dataset
from experiments.records import RunError, read_config, write_atomically, writing
from experiments.tables import folders
from experiments.tables.cells import TableName
from experiments.tables.page import Picture
from experiments.tables.panels import Panel, as_png, draw_panel
from experiments.tables.results import Result, Row

FOLDER = "pictures"  # among results
SHOWN = 4  # images of a panel
# Whose transformers are shown.
NETWORKS: Mapping[TableName, tuple[str, ...]] = {
    "table1": ("st_cnn",),
    "addition": ("2x_st_fcn",),
    "transforms": ("st_fcn",),
    "ours": ("st_compact",),
    "gtsrb": ("1x_st_compact", "2x_st_compact", "3x_st_compact"),
}
# Cells whose runs draw what there is to show, and the figure.
DRAWN: Mapping[str, str] = {"colocalisation-tc": "windows.png"}
OF = "Result"  # the text in a picture's file that names the result


def draw(
    table: TableName,
    rows: Sequence[Row],
    results: pathlib.Path,
    runs: pathlib.Path,
    data_dir: str | None,
) -> None:
    """Draws the pictures of a table's cells that are missing or outdated, of runs that are here.

    Args:
        table: the table.
        rows: its cells.
        results: the folder of results.
        runs: RUN_DIR/BUDGET.
        data_dir: where data lie; None: where each run had them.

    Raises:
        RunError: if a record or a checkpoint is damaged, or a picture cannot be written.
        DatasetError: if the data cannot be had.
    """
    for row in rows:
        cell, path = row.cell, _path(results, row)
        pictured = cell.model in NETWORKS.get(table, ()) or cell.name in DRAWN
        if not pictured or row.result is None or _of(path) == _name(row.result):
            continue
        if folders.read_result(cell, runs)[0] != row.result:
            continue  # it is from elsewhere
        drawn = _drawn(row, runs, data_dir)
        if drawn is not None:
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, drawn)


def found(rows: Sequence[Row], results: pathlib.Path) -> dict[str, Picture]:
    """The pictures there are of cells that have a result, by the cell's name."""
    paths = {row.cell.name: (row.result, _path(results, row)) for row in rows}
    return {
        name: Picture(f"{FOLDER}/{path.name}", _of(path) == _name(result))
        for name, (result, path) in paths.items()
        if result is not None and path.exists()
    }


def _path(results: pathlib.Path, row: Row) -> pathlib.Path:
    return results / FOLDER / f"{row.cell.name}.png"


def _name(result: Result) -> str:
    """What a picture's file calls a result: the code and the settings that made it."""
    return f"{result.git_commit} {result.settings}"


def _of(path: pathlib.Path) -> str | None:
    """The result that a picture is of; None where there is no such picture."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(OF)
    except (FileNotFoundError, UnidentifiedImageError):
        return None


def _drawn(row: Row, runs: pathlib.Path, data_dir: str | None) -> bytes | None:
    """The picture of the first run of a cell that has what it takes, as a PNG."""
    assert row.result is not None
    texts = {OF: _name(row.result)}
    figure = DRAWN.get(row.cell.name)
    for run in folders.ended(row.cell, runs)[0]:
        if run.summary is None:
            continue
        if figure is not None and (path := run.folder / "figures" / figure).exists():
            return _copied(path, texts)
        if figure is None and any((run.folder / "checkpoints").glob(f"*{SUFFIX}")):
            return draw_panel(panel(run.folder, data_dir), texts)
    return None


def _copied(path: pathlib.Path, texts: Mapping[str, str]) -> bytes:
    """A picture that a run drew, with other texts."""
    try:
        with Image.open(path) as picture:
            return as_png(picture, texts)
    except UnidentifiedImageError as error:
        raise RunError(f"{path}: not a picture") from error


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
