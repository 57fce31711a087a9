"""`experiments.report`: from run folders to files, recorded results, figures and errors."""

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.paper import cell_figures
from experiments.paper.cells import Cell
from experiments.paper.registry import TABLES
from experiments.paper.results_file import results_document
from experiments.runs.records import read_config, read_json, write_json
from tests.experiments.conftest import keeping_compiled
from tests.experiments.paper import run_folders

Report = Callable[..., int]


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    """RUN_DIR/BUDGET."""
    folder = tmp_path / "runs" / "standard"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "some" / "results"


@pytest.fixture
def write(runs: pathlib.Path, out: pathlib.Path) -> Report:
    """`experiments.report.main` on these folders, which returns the exit code."""
    places = ["--run-dir", str(runs.parent), "--results", str(out)]
    return lambda *arguments: report.main([*arguments, *places])


def entries(path: pathlib.Path) -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in read_json(path)["cells"]}


def test_tables_with_results_are_written(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folders.write_finished(runs, "rts-st_fcn-affine-short", 0, 0.9)
    run_folders.write_finished(runs, "rts-st_fcn-affine-short", 1, 0.7)
    run_folders.write_finished(runs, "rts-fcn-short", 0, 0.8)
    assert write() == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"transforms.json", "transforms.md", "ablations.json", "ablations.md"}
    for table, count in (("transforms", 2), ("ablations", 1)):
        found = entries(out / f"{table}.json")
        assert len(found) == count
        # The network without a transformer is not in `ablations`.
        assert found["rts-st_fcn-affine-short"]["collapsed"] == 1
        assert found["rts-st_fcn-affine-short"]["test_error_mean"] == 0.8
        page = (out / f"{table}.md").read_text().replace("**", "")
        assert "0.80 ± 0.14, worst 0.90† (0.8)" in page
    assert capsys.readouterr().out.splitlines() == [
        f"transforms: 2 of 35 cells in {out}/transforms.md",
        f"ablations: 1 of 7 cells in {out}/ablations.md",
    ]


def test_recorded_results_of_other_machines_are_kept(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        run_folders.write_finished(runs, "r-cnn", seed, 2.0)
        run_folders.write_finished(runs, "p-cnn", seed, 3.0)
    assert write("table1") == 0
    before = entries(out / "table1.json")
    shutil.rmtree(runs)
    run_folders.write_finished(runs, "r-cnn", 0, 9.0)
    run_folders.write_finished(runs, "e-cnn", 0, 4.0)
    capsys.readouterr()
    assert write("table1") == 0
    after = entries(out / "table1.json")
    assert after["p-cnn"] == before["p-cnn"]
    assert after["r-cnn"]["test_error_mean"] == 5.5
    assert after["e-cnn"]["test_error_mean"] == 4.0
    assert capsys.readouterr().out.splitlines() == [
        "r-cnn: kept the recorded results of seeds 1",
        f"table1: 3 of 40 cells in {out}/table1.md",
    ]
    run_folders.write_finished(runs, "r-cnn", 1, 9.0)
    assert write("table1") == 0
    assert entries(out / "table1.json")["r-cnn"]["test_error_mean"] == 9.0


def test_writing_again_changes_nothing(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folders.write_finished(runs, "r-cnn", 0, 2.0)
    run_folders.write_diverged(runs, "r-st_cnn-affine")
    assert write() == 0
    before = {path: path.read_text() for path in out.iterdir()}
    assert write() == 0
    shutil.rmtree(runs)
    run_folders.write_unfinished(runs, "r-cnn")
    assert write() == 0
    shutil.rmtree(runs)  # as in a fresh clone
    capsys.readouterr()
    assert write() == 0
    assert f"{runs}: not found; writing recorded results only\n" in capsys.readouterr().out
    assert {path: path.read_text() for path in out.iterdir()} == before


def test_tables_that_share_a_cell_are_written_together(
    write: Report, runs: pathlib.Path, out: pathlib.Path
) -> None:
    shared = "rts-st_fcn-affine-short"
    run_folders.write_finished(runs, shared, 0, 46.4)
    assert write() == 0
    run_folders.update_json(runs / shared / "seed-0" / "summary.json", test_error=11.0)
    assert write("ablations") == 0
    for table in ("ablations", "transforms"):
        assert entries(out / f"{table}.json")[shared]["test_error_mean"] == 11.0
    assert not (out / "table1.json").exists()  # shares no cell with a result


def test_reason_for_missing_results_is_printed(
    write: Report, runs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folders.write_finished(runs, "r-cnn")
    settings = runs / "r-cnn" / "seed-0" / "config.json"
    settings.write_text(settings.read_text().replace('"epochs": 30', '"epochs": 3'))
    assert write("table1") == 1
    printed = capsys.readouterr()
    assert "the cell has other settings: --epochs 3 (requested: 30)" in printed.out
    assert printed.err == f"error: {runs}: holds no finished run of table1\n"


def test_missing_runs_are_an_error(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (
            ("--budget", "paper"),
            f"{runs.parent}/paper: not found, so there are no runs of --budget paper",
        ),
        (("addition",), f"{runs}: holds no finished run of addition"),
        ((), f"{runs}: holds no finished run of {', '.join(TABLES)}"),
    ):
        assert write(*arguments) == 1
        assert capsys.readouterr().err == f"error: {said}\n"
    assert not out.exists()


def test_damaged_record_is_named_and_nothing_is_written(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folders.write_finished(runs, "r-cnn")
    path = runs / "r-cnn" / "seed-0" / "summary.json"
    path.write_text(path.read_text()[:100])
    assert write() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read as JSON")
    assert not out.exists()


def test_results_of_another_budget_are_not_overwritten(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folders.write_finished(runs, "r-cnn")
    out.mkdir(parents=True)
    write_json(out / "transforms.json", results_document("transforms", "paper", []))
    assert write("table1") == 1
    assert (
        f"error: {out}/transforms.json: holds results of --budget paper" in capsys.readouterr().err
    )
    assert [path.name for path in out.iterdir()] == ["transforms.json"]


def test_unknown_table_is_a_usage_error(write: Report, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        write("table2")
    assert caught.value.code == 2
    assert "table2" in capsys.readouterr().err


# Figures of a real run.


@pytest.fixture
def illustrated_run(
    runs: pathlib.Path, finished: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """The run folder of the only cell with a run, in a table of two cells."""
    config = read_config(finished)
    cells = [
        Cell(f"{distortion}-tiny", "st_cnn", "rotation", distortion, config)
        for distortion in ("r", "p")
    ]
    table = TABLES["table1"]._replace(
        make_cells=lambda budget: cells, illustrated_cells=("*-tiny",)
    )
    monkeypatch.setitem(TABLES, "table1", table)
    shutil.copytree(finished, runs / "r-tiny" / "seed-0")
    return runs / "r-tiny" / "seed-0"


def test_figure_is_drawn_once_and_kept(
    write: Report,
    runs: pathlib.Path,
    illustrated_run: pathlib.Path,
    out: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    assert write("table1", "--no-figures") == 0
    assert "What the transformers do" not in (out / "table1.md").read_text()
    with keeping_compiled(compiled):
        assert write("table1") == 0
    page = (out / "table1.md").read_text()
    assert "\n![r-tiny](pictures/r-tiny.png)\n" in page
    (figure,) = (out / "pictures").iterdir()
    with Image.open(figure) as opened:
        assert opened.width > opened.height > 50
    drawn = figure.read_bytes()
    # It is not drawn again, which would need a checkpoint, and it outlives its run.
    shutil.rmtree(illustrated_run / "checkpoints")
    assert write("table1") == 0
    shutil.rmtree(runs / "r-tiny")
    assert write("table1") == 0
    assert figure.read_bytes() == drawn
    assert (out / "table1.md").read_text() == page
    # After another training with the same settings, the figure is outdated.
    (out / "table1.json").write_text(
        (out / "table1.json").read_text().replace('"seconds": ', '"seconds": 1')
    )
    assert write("table1") == 0
    assert "![r-tiny](pictures/r-tiny.png)‡" in (out / "table1.md").read_text()


def test_outdated_and_damaged_figures_are_marked_until_drawn_again(
    write: Report, illustrated_run: pathlib.Path, out: pathlib.Path, compiled: pathlib.Path
) -> None:
    with keeping_compiled(compiled):
        assert write("table1") == 0
    figure = out / "pictures" / "r-tiny.png"
    whole = figure.read_bytes()
    checkpoints = illustrated_run / "checkpoints"
    checkpoints.rename(illustrated_run / "elsewhere")
    Image.new("L", (9, 9)).save(figure)
    another = figure.read_bytes()
    for content in (another, b"no image", b"", whole[: len(whole) // 2], whole[:-30]):
        figure.write_bytes(content)
        figure.with_name("p-tiny.png").write_bytes(content)  # its cell has no result
        assert write("table1") == 0
        assert figure.read_bytes() == content
        page = (out / "table1.md").read_text()
        assert "![r-tiny](pictures/r-tiny.png)‡" in page
        assert "p-tiny.png" not in page
    (illustrated_run / "elsewhere").rename(checkpoints)
    with keeping_compiled(compiled):
        assert write("table1") == 0
    assert figure.read_bytes() == whole
    assert "‡" not in (out / "table1.md").read_text()


def test_figure_needs_one_of_several_runs(
    write: Report,
    runs: pathlib.Path,
    illustrated_run: pathlib.Path,
    out: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    second = runs / "r-tiny" / "seed-1"
    shutil.copytree(illustrated_run, second)
    settings = second / "config.json"
    settings.write_text(settings.read_text().replace('"seed": 0', '"seed": 1'))
    assert write("table1", "--no-figures") == 0
    shutil.rmtree(illustrated_run)
    with keeping_compiled(compiled):
        assert write("table1") == 0
    with Image.open(out / "pictures" / "r-tiny.png") as figure:
        assert "seed 1" in figure.info[cell_figures.RUN_KEYWORD]
    assert "‡" not in (out / "table1.md").read_text()


def test_figure_of_a_shared_cell_is_shown_only_by_tables_that_illustrate_it(
    write: Report, illustrated_run: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablations = TABLES["ablations"]._replace(make_cells=TABLES["table1"].make_cells)
    monkeypatch.setitem(TABLES, "ablations", ablations)
    (out / "pictures").mkdir(parents=True)
    Image.new("L", (9, 9)).save(out / "pictures" / "r-tiny.png")
    assert write("table1", "ablations", "--no-figures") == 0
    assert "r-tiny.png" in (out / "table1.md").read_text()
    assert "r-tiny.png" not in (out / "ablations.md").read_text()


def test_panel_shows_the_outputs_of_the_transformer(
    illustrated_run: pathlib.Path, compiled: pathlib.Path
) -> None:
    with keeping_compiled(compiled):
        found = cell_figures.make_panel(illustrated_run, None)
    assert found.inputs.shape == (cell_figures.NUM_IMAGES, 9, 9, 1)
    (grid,), (output,) = found.grids, found.outputs
    assert grid.shape[::3] == (cell_figures.NUM_IMAGES, 2)
    assert output.shape == found.inputs.shape
    assert np.isfinite(output).all()
    assert not np.allclose(output, found.inputs)  # the transformer is not the identity


def test_missing_data_for_figures_is_an_error_after_writing(
    write: Report,
    illustrated_run: pathlib.Path,
    out: pathlib.Path,
    data_file: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = illustrated_run / "config.json"
    settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
    assert write("table1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gone.npz: ")
    assert line.endswith("; figures missing: 1")
    assert entries(out / "table1.json").keys() == {"r-tiny"}
    assert "r-tiny" in (out / "table1.md").read_text()


def test_colocalisation_shows_the_figure_of_its_run_and_success_before_training(
    write: Report, runs: pathlib.Path, out: pathlib.Path
) -> None:
    found = [{"digit": digit, "success": 90 + digit} for digit in range(10)]
    run_folders.write_finished(
        runs, "colocalisation-tc", per_digit=found, error=5.5, untrained_error=18.25
    )
    figures = runs / "colocalisation-tc" / "seed-0" / "figures"
    figures.mkdir()
    Image.new("L", (9, 9)).save(figures / "windows.png")
    assert write("colocalisation") == 0
    figure = out / "pictures" / "colocalisation-tc.png"
    drawn = figure.read_bytes()
    with Image.open(figure) as opened:
        assert opened.size == (9, 9)
    page = (out / "colocalisation.md").read_text()
    assert "(pictures/colocalisation-tc.png)" in page
    assert "| 98 (89) | 99 (87) | 94.5 | 81.8 |" in page
    shutil.rmtree(runs / "colocalisation-tc")
    assert write("colocalisation") == 0
    assert figure.read_bytes() == drawn
    assert (out / "colocalisation.md").read_text() == page


def test_projection3d_shows_the_figures_of_its_runs(
    write: Report, runs: pathlib.Path, out: pathlib.Path
) -> None:
    for transform in ("affine_3d", "rigid_3d"):
        name = f"extruded-st_projection_cnn-{transform}"
        run_folders.write_finished(runs, name)
        figures = runs / name / "seed-0" / "figures"
        figures.mkdir()
        Image.new("L", (9, 9)).save(figures / "images.png")
    assert write("projection3d") == 0
    assert len(list((out / "pictures").iterdir())) == 2
    assert (out / "projection3d.md").read_text().count("(pictures/extruded-") == 2


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_figure_of_a_run_is_named(
    write: Report,
    runs: pathlib.Path,
    out: pathlib.Path,
    share: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_folders.write_finished(runs, "colocalisation-tc")
    path = runs / "colocalisation-tc" / "seed-0" / "figures" / "windows.png"
    path.parent.mkdir()
    Image.effect_noise((99, 99), 50).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert write("colocalisation") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read as an image: ")
    for ending in ("json", "md"):  # the numbers are written
        assert (out / f"colocalisation.{ending}").exists()
