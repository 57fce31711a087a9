"""The tables of the page of results, and the one of the README, show the recorded results."""

import json
import math
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results" / "index.md").read_text()

TRANSFORMS = {
    "none": None,
    "no transformer": None,
    "translation and scale": "translation_scale",
    "thin plate spline": "thin_plate_spline",
} | {name: name for name in ("rotation", "similarity", "affine", "projective")}
MODELS = {"FCN": "fcn", "CNN": "cnn", "CNN, 30 epochs": "cnn", "ST-FCN": "st_fcn"}
MODELS |= {"ST-CNN": "st_cnn", "2x ST-FCN, side by side": "2x_st_fcn"}
OURS = {"ours": ("st_compact", "affine"), "the same without its transformer": ("compact", None)}


def shown(table: str, page: str) -> dict[tuple[str, str | None, str], str]:
    """The entries of a table of a page, by network, transformation and distortion."""
    first = {"addition": "| network | no transformer |", "table1": "| network | R |"}
    first |= {"transforms": "| transformation | R |", "ours": "| | R |"}
    lines = page[page.index(f"\n{first[table]}") :].strip().split("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {}
    for name, *entries in rows:
        for column, entry in zip(head[1:], entries, strict=True):
            if table == "addition":
                key = MODELS[name], TRANSFORMS[column], "rts"
            elif table == "ours":
                if name not in OURS:
                    continue
                key = *OURS[name], column.lower()
            elif table == "transforms":
                key = "fcn" if name == "none" else "st_fcn", TRANSFORMS[name], column.lower()
            else:
                model, _, transform = name.partition(", ")
                key = MODELS[model], TRANSFORMS[transform or "none"], column.lower()
            found[key] = entry
    return {key: entry for key, entry in found.items() if entry}


@pytest.mark.parametrize("table", ["table1", "transforms", "ours", "addition"])
def test_tables_are_the_recorded_results(table: str) -> None:
    recorded = json.loads((ROOT / "experiments" / "results" / f"{table}.json").read_text())
    entries = shown(table, RESULTS)
    cells = {
        (each["model"], each["transform"], each["distortion"]): each for each in recorded["cells"]
    }
    assert entries.keys() == cells.keys()
    for key, entry in entries.items():
        cell = cells[key]
        error, paper = cell["test_error_mean"], cell["published"]
        if table == "transforms":
            column = [each for each in cells.values() if each["distortion"] == key[2]]
            bold, paper = error == min(each["test_error_mean"] for each in column), None
        else:
            # What our network without a transformer is compared with is not on the page.
            bold = error <= paper and key[0] != "compact"
        expected = f"**{error:.2f}**" if bold else f"{error:.2f}"
        if paper is not None and table != "ours":
            expected += f" ({paper})"
        assert entry == expected, key


def test_table_of_the_readme_is_a_part_of_table1() -> None:
    full = shown("table1", RESULTS)
    for key, entry in shown("table1", README).items():
        assert full[key] == entry


def test_chart_of_speed_reads_the_table() -> None:
    """The geometric mean that the page states is that of the ratios of its table."""
    page = (ROOT / "docs" / "speed.md").read_text()
    rows = re.findall(r"^\| \d+, .*\|$", page, re.MULTILINE)
    cells = [found for row in rows for found in re.findall(r"([\d.]+) / ([\d.]+) = ([\d.]+)", row)]
    assert len(cells) == 3 * len(rows) > 0
    for ours, theirs, ratio in cells:
        assert float(ours) / float(theirs) == pytest.approx(float(ratio), abs=0.006)
    mean = math.prod(float(ratio) for _, _, ratio in cells) ** (1 / len(cells))
    (stated,) = re.findall(r"The geometric mean of\s+the \d+ ratios is ([\d.]+)", page)
    assert mean == pytest.approx(float(stated), abs=0.006)
