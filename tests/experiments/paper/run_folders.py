"""Writes run folders of cells without training, for tests of reports."""

import dataclasses
import json
import pathlib
from typing import Any

from experiments.colocalisation.options import ColocalisationSettings
from experiments.paper.cells import Cell
from experiments.paper.registry import all_cells
from experiments.runs.records import write_json
from experiments.settings.access import replace_settings
from experiments.settings.conversion import config_to_dict

CELLS = {cell.name: cell for cell in all_cells("standard")}
VERSIONS = {"python": "3.13.0", "jax": "0.12.0.1"}
COMMAND = "python -m experiments.paper table1"


def write_finished(
    folder: pathlib.Path, name: str, seed: int = 0, error: float = 1.0, **other: Any
) -> None:
    """Writes a finished run of a cell.

    Args:
        folder: RUN_DIR/BUDGET.
        name: of the cell.
        seed: of the run.
        error: the test error in %.
        **other: further entries of the summary.
    """
    cell = CELLS[name]
    summary: dict[str, Any] = {
        "test_error": error,
        "validation_error": error + 0.5,
        "num_params": 1000,
        "epochs": 60,
        "train_seconds": 10.0 + seed,
        "device": "cpu: cpu, 2 cores",
        "command": COMMAND,
        "versions": VERSIONS,
        "git_commit": "abc",
    }
    if cell.transform is not None:
        summary["outside"] = 0.1
    write_json(_write_config(folder, cell, seed) / "summary.json", summary | other)


def write_diverged(folder: pathlib.Path, name: str, seed: int = 0) -> None:
    """Writes a run of a cell that diverged."""
    record = {"error": "its loss is nan", "seed": seed}
    write_json(_write_config(folder, CELLS[name], seed) / "diverged.json", record)


def write_unfinished(folder: pathlib.Path, name: str, seed: int = 0) -> None:
    """Writes a run of a cell that has no result yet."""
    _write_config(folder, CELLS[name], seed)


def _write_config(folder: pathlib.Path, cell: Cell, seed: int) -> pathlib.Path:
    path = folder / cell.name / f"seed-{seed}"
    path.mkdir(parents=True)
    settings = {"seed": seed, "data_dir": "elsewhere"}
    if isinstance(cell.config, ColocalisationSettings):
        values = dataclasses.asdict(dataclasses.replace(cell.config, **settings))
    else:
        values = config_to_dict(replace_settings(cell.config, settings))
    write_json(path / "config.json", values)
    return path


def update_json(path: pathlib.Path, **values: Any) -> None:
    """Replaces values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
