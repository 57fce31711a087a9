"""The picture of a table: what the transformers learned, from the files of finished runs."""

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
from experiments.records import read_config, write_atomically
from experiments.tables import folders
from experiments.tables.cells import Cell, TableName
from experiments.tables.markdown import heading
from experiments.tables.panels import Panel, draw_panels

SHOWN = 4  # images of a panel
# Whose transformers are shown, one row of panels for each distortion, or for each network.
NETWORKS: Mapping[TableName, tuple[str, ...]] = {
    "table1": ("st_cnn",),
    "addition": ("2x_st_fcn",),
    "transforms": ("st_fcn",),
    "ours": ("st_compact",),
    "gtsrb": ("1x_st_compact", "2x_st_compact", "3x_st_compact"),
}
# Tables whose runs draw what a picture of the table has to show: the cell and its figure.
DRAWN: Mapping[TableName, tuple[str, str]] = {
    "colocalisation": ("colocalisation-tc", "windows.png"),
}
CELLS = "Cells"  # the text in a picture's file that names the cells it shows


def draw(
    path: pathlib.Path,
    table: TableName,
    cells: Sequence[Cell],
    folder: pathlib.Path,
    data_dir: str | None,
) -> str | None:
    """Draws the picture of a table, unless the one that is there shows more cells; says so then.

    Of tables whose runs draw it themselves, the newest takes the place of what is there.

    Args:
        path: of the picture.
        table: the table.
        cells: those of its cells that have a result.
        folder: RUN_DIR/BUDGET.
        data_dir: where data lie; None: where each run had them.

    Raises:
        RunError: if a record or a checkpoint is damaged, or the picture cannot be written.
        DatasetError: if the data cannot be had.
    """
    if table in DRAWN:
        _copy(path, *DRAWN[table], cells, folder)
        return None
    models = NETWORKS.get(table, ())
    pictured = [cell for cell in cells if cell.model in models]
    found = {cell.name: _drawable(cell, folder) for cell in pictured}
    runs = {name: run for name, run in found.items() if run is not None}
    if not runs:
        return None
    lost = [name for name in found if name in _shown(path) and name not in runs]
    if lost:
        return f"{path}: kept, since it shows {', '.join(lost)} too, not to be had from {folder}"
    drawn = [cell for cell in pictured if cell.name in runs]

    def place(cell: Cell) -> tuple[str, str]:
        row = heading(cell.distortion) if len(models) == 1 else cell.model
        return row, cell.transform or ""

    panels = {place(cell): panel(runs[cell.name], data_dir) for cell in drawn}
    rows, columns = (
        [name for name in dict.fromkeys(names) if name in {each[axis] for each in panels}]
        for axis, names in enumerate(zip(*map(place, pictured), strict=True))
    )
    write_atomically(path, draw_panels(rows, columns, panels, {CELLS: " ".join(runs)}))
    return None


def _copy(
    path: pathlib.Path, name: str, figure: str, cells: Sequence[Cell], folder: pathlib.Path
) -> None:
    """Takes the picture that a finished run of a cell drew, if there is one."""
    runs = [run for cell in cells if cell.name == name for run in folders.ended(cell, folder)[0]]
    for run in runs:
        drawn = run.folder / "figures" / figure
        if run.summary is not None and drawn.exists():
            write_atomically(path, drawn.read_bytes())
            return


def _drawable(cell: Cell, folder: pathlib.Path) -> pathlib.Path | None:
    """The first finished run of a cell that has a checkpoint."""
    for run in folders.ended(cell, folder)[0]:
        if run.summary is not None and any((run.folder / "checkpoints").glob(f"*{SUFFIX}")):
            return run.folder
    return None


def _shown(path: pathlib.Path) -> list[str]:
    """The names of the cells that a picture shows; none where there is no such picture."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(CELLS, "").split()
    except (FileNotFoundError, UnidentifiedImageError):
        return []


@functools.cache
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
    found = probe.intermediates(params)
    grids = gallery.frames(experiment, {name: each["theta"] for name, each in found.items()})
    return Panel(
        gallery.visible(probe.images),
        [np.asarray(grid) for grid in grids.values()],
        [gallery.visible(found[name]["output"]) for name in grids],
        config.model.align_corners,
    )


# Runs differ in distortions and tasks, and share a data set.
@functools.lru_cache(maxsize=1)
def _load(dataset: DatasetName, data_dir: str | None, data_file: str | None) -> Dataset:
    return setup.load(Data(dataset=dataset, data_dir=data_dir, data_file=data_file))
