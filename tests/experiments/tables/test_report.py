"""The command: from folders of runs to files, and what it says where that cannot be."""

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.records import read_config, read_json, write_json
from experiments.tables import cells as tables
from experiments.tables import pictures, results
from experiments.tables.cells import Cell
from tests.experiments.conftest import keeping_compiled
from tests.experiments.tables import made

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
    """`experiments.report.main` on these folders, which answers with the exit code."""
    places = ["--run-dir", str(runs.parent), "--results", str(out)]
    return lambda *arguments: report.main([*arguments, *places])


def entries(path: pathlib.Path) -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in read_json(path)["cells"]}


def test_tables_are_written_of_which_something_is_known(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run(runs, "rts-st_fcn-affine-short", 0, 0.9)
    made.run(runs, "rts-st_fcn-affine-short", 1, 0.7)
    made.run(runs, "rts-fcn-short", 0, 0.8)
    assert write() == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"transforms.json", "transforms.md", "ablations.json", "ablations.md"}
    for table, count in (("transforms", 2), ("ablations", 1)):
        found = entries(out / f"{table}.json")
        assert len(found) == count
        # The plain network of `ablations` is in the other table.
        assert found["rts-st_fcn-affine-short"]["collapsed"] == 1
        assert found["rts-st_fcn-affine-short"]["test_error_mean"] == 0.8
        page = (out / f"{table}.md").read_text().replace("**", "")
        assert "0.80 ± 0.14, worst 0.90† (0.8)" in page
    assert capsys.readouterr().out.splitlines() == [
        f"transforms: 2 of 35 cells in {out}/transforms.md",
        f"ablations: 1 of 7 cells in {out}/ablations.md",
    ]


def test_what_is_known_from_elsewhere_is_kept(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        made.run(runs, "r-cnn", seed, 2.0)
        made.run(runs, "p-cnn", seed, 3.0)
    assert write("table1") == 0
    before = entries(out / "table1.json")
    shutil.rmtree(runs)
    made.run(runs, "r-cnn", 0, 9.0)
    made.run(runs, "e-cnn", 0, 4.0)
    capsys.readouterr()
    assert write("table1") == 0
    after = entries(out / "table1.json")
    assert after["p-cnn"] == before["p-cnn"]
    assert after["r-cnn"]["test_error_mean"] == 5.5
    assert after["e-cnn"]["test_error_mean"] == 4.0
    assert capsys.readouterr().out.splitlines() == [
        "r-cnn: of seeds 1 is kept what was known",
        f"table1: 3 of 40 cells in {out}/table1.md",
    ]
    made.run(runs, "r-cnn", 1, 9.0)
    assert write("table1") == 0
    assert entries(out / "table1.json")["r-cnn"]["test_error_mean"] == 9.0


def test_writing_again_changes_nothing(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run(runs, "r-cnn", 0, 2.0)
    made.diverged(runs, "r-st_cnn-affine")
    assert write() == 0
    before = {path: path.read_text() for path in out.iterdir()}
    assert write() == 0
    shutil.rmtree(runs)
    made.unfinished(runs, "r-cnn")
    assert write() == 0
    shutil.rmtree(runs)  # as in a fresh clone
    capsys.readouterr()
    assert write() == 0
    assert f"{runs}: not found; written is what is known\n" in capsys.readouterr().out
    assert {path: path.read_text() for path in out.iterdir()} == before


def test_tables_that_share_a_cell_agree_on_it(
    write: Report, runs: pathlib.Path, out: pathlib.Path
) -> None:
    shared = "rts-st_fcn-affine-short"
    made.run(runs, shared, 0, 46.4)
    assert write() == 0
    made.change(runs / shared / "seed-0" / "summary.json", test_error=11.0)
    assert write("ablations") == 0
    for table in ("ablations", "transforms"):
        assert entries(out / f"{table}.json")[shared]["test_error_mean"] == 11.0
    assert not (out / "table1.json").exists()  # which shares none of which anything is known


def test_why_nothing_is_known_is_said(
    write: Report, runs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run(runs, "r-cnn")
    settings = runs / "r-cnn" / "seed-0" / "config.json"
    settings.write_text(settings.read_text().replace('"epochs": 30', '"epochs": 3'))
    assert write("table1") == 1
    said = capsys.readouterr()
    assert "the cell has other settings: --epochs 3 against 30" in said.out
    assert said.err == f"error: {runs}: holds no run that ended of table1\n"


def test_no_such_runs(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (
            ("--budget", "paper"),
            f"{runs.parent}/paper: not found, so there are no runs of --budget paper",
        ),
        (("addition",), f"{runs}: holds no run that ended of addition"),
        ((), f"{runs}: holds no run that ended of {', '.join(tables.TABLES)}"),
    ):
        assert write(*arguments) == 1
        assert capsys.readouterr().err == f"error: {said}\n"
    assert not out.exists()


def test_a_damaged_record_is_named_and_nothing_is_written(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run(runs, "r-cnn")
    path = runs / "r-cnn" / "seed-0" / "summary.json"
    path.write_text(path.read_text()[:100])
    assert write() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read as JSON")
    assert not out.exists()


def test_results_of_another_budget_are_not_written_over(
    write: Report, runs: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.run(runs, "r-cnn")
    out.mkdir(parents=True)
    write_json(out / "transforms.json", results.document("transforms", "paper", []))
    assert write("table1") == 1
    assert (
        f"error: {out}/transforms.json: holds results of --budget paper" in capsys.readouterr().err
    )
    assert [path.name for path in out.iterdir()] == ["transforms.json"]


def test_an_unknown_table(write: Report, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        write("table2")
    assert caught.value.code == 2
    assert "table2" in capsys.readouterr().err


# Pictures, of a real run.


@pytest.fixture
def pictured(
    runs: pathlib.Path, finished: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """The folder of a run of the only cell that has one."""
    config = read_config(finished)
    cells = [
        Cell(f"{distortion}-tiny", "st_cnn", "rotation", distortion, config)
        for distortion in ("r", "p")
    ]
    monkeypatch.setitem(tables.TABLES, "table1", lambda budget: cells)
    shutil.copytree(finished, runs / "r-tiny" / "seed-0")
    return runs / "r-tiny" / "seed-0"


def test_a_picture_is_drawn_once_and_kept(
    write: Report,
    runs: pathlib.Path,
    pictured: pathlib.Path,
    out: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    assert write("table1", "--no-figures") == 0
    assert "What the transformers do" not in (out / "table1.md").read_text()
    with keeping_compiled(compiled):
        assert write("table1") == 0
    page = (out / "table1.md").read_text()
    assert "\n![r-tiny](pictures/r-tiny.png)\n" in page
    (picture,) = (out / "pictures").iterdir()
    with Image.open(picture) as opened:
        assert opened.width > opened.height > 50
    drawn = picture.read_bytes()
    # It is not drawn again, for which it would take a checkpoint, nor lost with its run.
    shutil.rmtree(pictured / "checkpoints")
    assert write("table1") == 0
    shutil.rmtree(runs / "r-tiny")
    assert write("table1") == 0
    assert picture.read_bytes() == drawn
    assert (out / "table1.md").read_text() == page
    # Trained anew, with the same settings and code.
    (out / "table1.json").write_text(
        (out / "table1.json").read_text().replace('"seconds": ', '"seconds": 1')
    )
    assert write("table1") == 0
    assert "![r-tiny](pictures/r-tiny.png)‡" in (out / "table1.md").read_text()


def test_what_is_no_picture_of_the_result_is_told_apart_until_it_is_drawn_anew(
    write: Report, pictured: pathlib.Path, out: pathlib.Path, compiled: pathlib.Path
) -> None:
    with keeping_compiled(compiled):
        assert write("table1") == 0
    picture = out / "pictures" / "r-tiny.png"
    whole = picture.read_bytes()
    checkpoints = pictured / "checkpoints"
    checkpoints.rename(pictured / "elsewhere")
    Image.new("L", (9, 9)).save(picture)
    another = picture.read_bytes()
    for content in (another, b"no picture", b"", whole[: len(whole) // 2], whole[:-30]):
        picture.write_bytes(content)
        picture.with_name("p-tiny.png").write_bytes(content)  # which has no result
        assert write("table1") == 0
        assert picture.read_bytes() == content
        page = (out / "table1.md").read_text()
        assert "![r-tiny](pictures/r-tiny.png)‡" in page
        assert "p-tiny.png" not in page
    (pictured / "elsewhere").rename(checkpoints)
    with keeping_compiled(compiled):
        assert write("table1") == 0
    assert picture.read_bytes() == whole
    assert "‡" not in (out / "table1.md").read_text()


def test_one_of_several_runs_is_enough_for_a_picture(
    write: Report,
    runs: pathlib.Path,
    pictured: pathlib.Path,
    out: pathlib.Path,
    compiled: pathlib.Path,
) -> None:
    second = runs / "r-tiny" / "seed-1"
    shutil.copytree(pictured, second)
    settings = second / "config.json"
    settings.write_text(settings.read_text().replace('"seed": 0', '"seed": 1'))
    assert write("table1", "--no-figures") == 0
    shutil.rmtree(pictured)
    with keeping_compiled(compiled):
        assert write("table1") == 0
    with Image.open(out / "pictures" / "r-tiny.png") as picture:
        assert "seed 1" in picture.info[pictures.OF]
    assert "‡" not in (out / "table1.md").read_text()


def test_tables_that_share_a_cell_show_pictures_of_their_own_networks(
    write: Report, pictured: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tables.TABLES, "ablations", tables.TABLES["table1"])
    (out / "pictures").mkdir(parents=True)
    Image.new("L", (9, 9)).save(out / "pictures" / "r-tiny.png")
    assert write("table1", "ablations", "--no-figures") == 0
    assert "r-tiny.png" in (out / "table1.md").read_text()
    assert "r-tiny.png" not in (out / "ablations.md").read_text()


def test_a_panel_shows_what_the_transformer_does(
    pictured: pathlib.Path, compiled: pathlib.Path
) -> None:
    with keeping_compiled(compiled):
        found = pictures.panel(pictured, None)
    assert found.inputs.shape == (pictures.SHOWN, 9, 9, 1)
    (grid,), (output,) = found.grids, found.outputs
    assert grid.shape[::3] == (pictures.SHOWN, 2)
    assert output.shape == found.inputs.shape
    assert np.isfinite(output).all()
    assert not np.allclose(output, found.inputs)  # it has learned something


def test_data_for_pictures_that_are_gone(
    write: Report,
    pictured: pathlib.Path,
    out: pathlib.Path,
    data_file: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = pictured / "config.json"
    settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
    assert write("table1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gone.npz: ")
    assert line.endswith("; pictures missing: 1")
    assert entries(out / "table1.json").keys() == {"r-tiny"}
    assert "r-tiny" in (out / "table1.md").read_text()


def test_a_colocalisation_shows_what_its_run_drew_and_what_was_found_untrained(
    write: Report, runs: pathlib.Path, out: pathlib.Path
) -> None:
    found = [{"digit": digit, "success": 90 + digit} for digit in range(10)]
    made.run(runs, "colocalisation-tc", per_digit=found, error=5.5, untrained_error=18.25)
    figures = runs / "colocalisation-tc" / "seed-0" / "figures"
    figures.mkdir()
    Image.new("L", (9, 9)).save(figures / "windows.png")
    assert write("colocalisation") == 0
    picture = out / "pictures" / "colocalisation-tc.png"
    drawn = picture.read_bytes()
    with Image.open(picture) as opened:
        assert opened.size == (9, 9)
    page = (out / "colocalisation.md").read_text()
    assert "(pictures/colocalisation-tc.png)" in page
    assert "| 98 (89) | 99 (87) | 94.5 | 81.8 |" in page
    shutil.rmtree(runs / "colocalisation-tc")
    assert write("colocalisation") == 0
    assert picture.read_bytes() == drawn
    assert (out / "colocalisation.md").read_text() == page


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_picture_of_a_run_is_named(
    write: Report,
    runs: pathlib.Path,
    out: pathlib.Path,
    share: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made.run(runs, "colocalisation-tc")
    path = runs / "colocalisation-tc" / "seed-0" / "figures" / "windows.png"
    path.parent.mkdir()
    Image.effect_noise((99, 99), 50).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert write("colocalisation") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read as a picture: ")
    for ending in ("json", "md"):  # numbers are not lost with it
        assert (out / f"colocalisation.{ending}").exists()
