"""Every table is trained and reported, as a smoke."""

import json
import pathlib

import pytest

from experiments import paper, report
from experiments.tables import cells
from tests.experiments.conftest import keeping_compiled


@pytest.mark.parametrize("table", cells.TABLES)
def test_a_table_is_trained_and_reported(
    table: cells.TableName, tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    folders = ["--budget", "quick", "--run-dir", str(tmp_path / "runs")]
    with keeping_compiled(compiled):
        assert paper.main([table, *folders]) == 0
        assert report.main([table, *folders, "--results", str(tmp_path / "results")]) == 0
    written = json.loads((tmp_path / "results" / f"{table}.json").read_text())
    found = {cell["name"]: cell for cell in written["cells"]}
    assert found.keys() == {cell.name for cell in cells.select(table, "quick", [])}
    for cell in found.values():
        assert 0 <= cell["test_error_mean"] <= 100
        assert cell["seeds"] == [0]
        assert cell["command"].startswith(f"python -m experiments.paper {table} --budget quick")
        assert cell["num_params"] > 0
        assert cell["seconds"] > 0
    assert (tmp_path / "results" / f"{table}.md").exists()
