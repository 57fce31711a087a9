"""Smoke test: every table is trained and reported with the budget quick."""

import json
import pathlib

import pytest

from experiments import report
from experiments.paper.__main__ import main as train_table
from experiments.paper.registry import TABLES, TableName, select_cells
from tests.experiments.conftest import keeping_compiled


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_table_is_trained_and_reported(
    table: TableName, tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    folders = ["--budget", "quick", "--run-dir", str(tmp_path / "runs")]
    with keeping_compiled(compiled):
        assert train_table([table, *folders]) == 0
        assert report.main([table, *folders, "--results", str(tmp_path / "results")]) == 0
    written = json.loads((tmp_path / "results" / f"{table}.json").read_text())
    found = {cell["name"]: cell for cell in written["cells"]}
    assert found.keys() == {cell.name for cell in select_cells(table, "quick", [])}
    for cell in found.values():
        assert 0 <= cell["test_error_mean"] <= 100
        assert cell["seeds"] == [0]
        assert cell["command"].startswith(f"python -m experiments.paper {table} --budget quick")
        assert cell["num_params"] > 0
        assert cell["seconds"] > 0
    assert (tmp_path / "results" / f"{table}.md").exists()
