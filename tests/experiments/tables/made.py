"""Folders of runs as trainings leave them, made by hand."""

import dataclasses
import json
import pathlib
from typing import Any

from experiments import config as configuration
from experiments.colocalisation_settings import Settings
from experiments.records import write_json
from experiments.tables import cells as tables
from experiments.tables.cells import Cell

CELLS = {cell.name: cell for make in tables.TABLES.values() for cell in make("standard")}
VERSIONS = {"python": "3.13.0", "jax": "0.12.0.1"}
COMMAND = "python -m experiments.paper table1"


def run(folder: pathlib.Path, name: str, seed: int = 0, error: float = 1.0, **other: Any) -> None:
    """A finished run of a cell in a folder RUN_DIR/BUDGET."""
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
    write_json(_settings(folder, cell, seed) / "summary.json", summary | other)


def diverged(folder: pathlib.Path, name: str, seed: int = 0) -> None:
    """A run of a cell that diverged."""
    record = {"error": "its loss is nan", "seed": seed}
    write_json(_settings(folder, CELLS[name], seed) / "diverged.json", record)


def unfinished(folder: pathlib.Path, name: str, seed: int = 0) -> None:
    """A run of a cell that is going on."""
    _settings(folder, CELLS[name], seed)


def _settings(folder: pathlib.Path, cell: Cell, seed: int) -> pathlib.Path:
    path = folder / cell.name / f"seed-{seed}"
    path.mkdir(parents=True)
    places = {"seed": seed, "data_dir": "elsewhere"}
    if isinstance(cell.config, Settings):
        values = dataclasses.asdict(dataclasses.replace(cell.config, **places))
    else:
        values = configuration.to_dict(configuration.replace(cell.config, places))
    write_json(path / "config.json", values)
    return path


def change(path: pathlib.Path, **values: Any) -> None:
    """Changes values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
