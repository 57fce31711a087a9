"""Pages of tables: all cells, marks, missing cells, figures and recommendations."""

import re
from collections.abc import Mapping

import pytest

from experiments.paper.cells import Budget
from experiments.paper.markdown import MISSING
from experiments.paper.registry import TABLES, TableName
from experiments.paper.results import CellResult, RunResult, TableRow, make_rows
from experiments.paper.results_page import CellFigure, format_page
from experiments.paper.tables.transforms import recommendation_section
from tests.experiments.paper import run_folders


def rows(
    table: TableName, found: Mapping[str, CellResult], budget: Budget = "standard"
) -> list[TableRow]:
    return make_rows(TABLES[table].make_cells(budget), found, run_folders.CELLS.values())


def result(*errors: float | None) -> CellResult:
    runs = tuple(RunResult(seed, error, error, 0.25, 9.6) for seed, error in enumerate(errors))
    return CellResult(runs, 1234, 60, "some device", "a command", run_folders.VERSIONS, "abc")


def page(table: TableName, found: Mapping[str, CellResult], budget: Budget = "standard") -> str:
    return format_page(TABLES[table], budget, rows(table, found, budget), {})


def matrix(text: str) -> dict[tuple[str, str], list[str]]:
    """The entries of the first table, by network and transformation; its columns first."""
    lines = [line for line in text.partition("## ")[0].splitlines() if line.startswith("|")]
    split = [[each.strip(" `") for each in line.strip("|").split("|")] for line in lines]
    assert len({len(each) for each in split}) == 1
    return {(line[0], line[1]): line[2:] for line in split}


@pytest.mark.parametrize("table", list(TABLES))
@pytest.mark.parametrize("every", [1, 2, 1000])
def test_every_cell_is_listed_or_named_as_missing(table: TableName, every: int) -> None:
    cells = TABLES[table].make_cells("standard")
    found = {cell.name: result(1.0) for cell in cells[1::every]}
    text = page(table, found)
    listed = re.findall(r"^\| `([^`]*)` \| [\d.]+ \|", text.partition("## Cells")[2], re.M)
    assert listed == list(found)
    (missing,) = re.findall(r"^– Not run, .*?: (.*)\.$", text, re.M)  # noqa: RUF001
    assert {*missing.replace("`", "").split(", ")} == {cell.name for cell in cells} - {*found}
    entries = matrix(text)
    assert sum(
        entry.startswith("1.00") or "**1.00" in entry for line in entries.values() for entry in line
    ) == len(found)


def test_complete_table_names_no_cell_as_missing() -> None:
    text = page(
        "addition", {cell.name: result(1.0) for cell in TABLES["addition"].make_cells("paper")}
    )
    assert "Not run" not in text
    assert "Collapsed" not in text


def test_matrix_has_the_rows_and_columns_of_the_paper() -> None:
    entries = matrix(page("table1", {}))
    assert entries["network", "transformation"] == ["R", "RTS", "P", "E", "TC"]
    assert [model for model, _ in entries][2:] == ["fcn", "cnn", *["st_fcn"] * 3, *["st_cnn"] * 3]
    assert entries["st_cnn", "affine"] == [f"– ({x})" for x in (0.7, 0.5, 0.8, 1.2, 1.7)]  # noqa: RUF001


def test_errors_at_or_below_the_papers_are_bold() -> None:
    names = [f"{distortion}-cnn" for distortion in ("r", "rts", "p", "e")]
    found = dict(zip(names, map(result, (1.2, 0.81, 0.2)), strict=False))
    entries = matrix(page("table1", found | {"e-cnn": result(1.2, 1.4, 1.9)}))["cnn", "none"]
    assert entries[:4] == [
        "**1.20** (1.2)",
        "0.81 (0.8)",
        "**0.20** (1.5)",
        "1.50 ± 0.36, worst 1.90 (1.4)",
    ]


def test_collapsed_cells_are_marked() -> None:
    found = {
        "r-cnn": result(1.0),
        "r-st_cnn-affine": result(0.5, None),
        "p-st_cnn-affine": result(None),
        "rts-st_cnn-affine": result(9.0),
    }
    text = page("table1", found)
    entries = matrix(text)["st_cnn", "affine"]
    assert entries[0] == "**0.50**† (0.7)"
    assert entries[1] == "9.00 (0.5)"  # no network without a transformer to compare with
    assert entries[2] == "diverged† (0.8)"
    assert ": `r-st_cnn-affine`, `p-st_cnn-affine`." in text
    assert "| 0, 1 | 1 of 2 |" in text


def test_cells_refer_to_their_origins() -> None:
    other = result(1.0)._replace(command="another")
    found = {"r-cnn": result(1.0), "p-cnn": other, "e-cnn": result(2.0), "r-fcn": result(None)}
    lines = page("table1", found).splitlines()
    (cell,) = [line for line in lines if line.startswith("| `r-cnn`")]
    values = ["1.00", "", "1.00", "0", "0 of 1", "1.00", "25.0", "1,234", "60", "10"]
    assert cell == f"| {' | '.join(['`r-cnn`', *values, 'some device', '1'])} |"
    numbers = {line.split("`")[1]: line[-5:] for line in lines if re.match(r"\| `\w-", line)}
    assert numbers == {
        "r-cnn": "| 1 |",
        "p-cnn": "| 2 |",
        "e-cnn": "| 1 |",
        "r-fcn": "| 1 |",
    }
    origins = [line for line in lines if re.match(r"\d\. ", line)]
    assert origins == [
        f"{i}. `{command}`, commit abc, python 3.13.0, jax 0.12.0.1"
        for i, command in ((1, "a command"), (2, "another"))
    ]


def test_diverged_runs_have_no_origin() -> None:
    text = page("table1", {"r-cnn": CellResult((RunResult(0),))})
    assert "1. not recorded, because every run diverged" in text


def test_budget_quick_is_not_compared_with_the_paper() -> None:
    for table, model, published in (("table1", "st_cnn", "0.7"), ("transforms", "st_fcn", "1.2")):
        cells = {f"r-{model}-affine": result(0.1), f"r-{model}-projective": result(0.2)}
        assert f"({published})" in page(table, cells)
        text = page(table, cells, "quick")
        assert matrix(text)[model, "affine"][0] == "0.10"
        assert f"({published})" not in text
        assert "Which transformation" not in text


def test_networks_are_ordered_by_their_number_of_transformers() -> None:
    models = list(dict.fromkeys(model for model, _ in matrix(page("gtsrb", {}))))
    assert models == [
        "network",
        "---",
        "compact",
        "1x_st_compact",
        "2x_st_compact",
        "3x_st_compact",
    ]


def figure_lines(table: TableName, current: Mapping[str, bool]) -> list[str]:
    """The lines of the section on figures."""
    figures = {name: CellFigure(f"of/{name}.png", now) for name, now in current.items()}
    found = rows(table, {name: result(1.0) for name in current})
    text = format_page(TABLES[table], "standard", found, figures)
    return text.partition("## What the transformers do")[2].partition("## Cells")[0].splitlines()


def test_figures_are_arranged_like_errors() -> None:
    names = {"r-st_cnn-affine": True, "p-st_cnn-projective": False, "p-st_cnn-affine": True}
    assert figure_lines("table1", names)[-7:-1] == [
        "| network | transformation | R | P |",
        "|---|---|---|---|",
        "| `st_cnn` | `affine` | ![r-st_cnn-affine](of/r-st_cnn-affine.png) "
        "| ![p-st_cnn-affine](of/p-st_cnn-affine.png) |",
        "| `st_cnn` | `projective` |  | ![p-st_cnn-projective](of/p-st_cnn-projective.png)‡ |",
        "",
        "‡ Shows an earlier run, not the one whose error is above.",
    ]


def test_missing_figures_are_named() -> None:
    figure = CellFigure("of/r-st_cnn-affine.png", current=True)
    found = rows("table1", {"r-st_cnn-affine": result(1.0)})
    for figures, listed in (
        ({"r-st_cnn-affine": figure, "p-st_cnn-affine": None}, True),
        ({"r-st_cnn-affine": figure}, False),
        ({"p-st_cnn-affine": None}, False),
    ):
        text = format_page(TABLES["table1"], "standard", found, figures)
        assert ("There is no figure of `p-st_cnn-affine`." in text) is listed
        assert ("There is no figure" in text) is listed


def test_single_figure_needs_no_table() -> None:
    lines = figure_lines("colocalisation", {"colocalisation-tc": True})
    assert lines[-2] == "![colocalisation-tc](of/colocalisation-tc.png)"
    assert not any(line.startswith(("|", "‡")) for line in lines)


# Which transformation to use.


def test_best_of_each_column_is_bold() -> None:
    found = {"e-st_fcn-rotation": 0.8, "e-st_fcn-affine": 0.6, "e-st_fcn-projective": 0.6}
    found |= {"p-st_fcn-rotation-short": 5.0}
    entries = matrix(page("transforms", {name: result(error) for name, error in found.items()}))
    assert entries["st_fcn", "rotation"] == [MISSING, MISSING, "**5.00**", "0.80", MISSING]
    assert entries["st_fcn", "affine"][3] == "**0.60** (2.7)"
    assert entries["st_fcn", "projective"][3] == "**0.60** (2.6)"


@pytest.mark.parametrize(
    ("errors", "best", "smallest"),
    [
        # One standard error of 1 % is 0.0995 %.
        ({"rotation": 1.09, "affine": 1.0}, "`affine`, 1.00", "`rotation`, 1.09"),
        ({"rotation": 1.11, "affine": 1.0}, "`affine`, 1.00", "`affine`, 1.00"),
        (
            {"rotation": 1.11, "similarity": 1.09, "affine": 1.02, "thin_plate_spline": 1.0},
            "`thin_plate_spline`, 1.00",
            "`similarity`, 1.09",
        ),
        ({"affine": 1.0, "projective": 1.0}, "`affine`, 1.00", "`affine`, 1.00"),
    ],
)
def test_smallest_transformation_within_noise_is_recommended(
    errors: dict[str, float], best: str, smallest: str
) -> None:
    found = {f"e-st_fcn-{name}": result(error) for name, error in errors.items()}
    found["e-fcn"] = result(0.5)  # has no transformation
    lines = recommendation_section(rows("transforms", found))
    (line,) = [line for line in lines if line.startswith("| E |")]
    counted = r" % \(\d+ in theta\) \| "
    pattern = rf"\| E \| {best}{counted}{smallest}{counted}{len(errors)} of 6 \|"
    assert re.fullmatch(pattern, line), line
    assert "| TC | – | – | 0 of 6 |" in lines  # noqa: RUF001
    assert "## Which transformation to use" in page("transforms", found)
