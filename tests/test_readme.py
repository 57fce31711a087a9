"""What the README shows runs, as it stands, from top to bottom."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from experiments import train
from experiments.settings import command_line
from experiments.training.user_families import load_family
from stn_jax import spatial_transform

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_python_snippets_run_in_order(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(["demo", "--epochs", "1", "--no-figures", "--run-dir", "runs/demo"])
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 5
    namespace: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (8, 10)
    assert abs(namespace["corner"] - 1).max() < 1e-6
    assert namespace["history"]["loss"].shape == (2, 1, 2)
    shapes = {"probabilities": (2, 10), "theta": (2, 1), "straight": (2, 56, 56, 1)}
    assert {name: namespace[name].shape for name in shapes} == shapes


def test_user_defined_family_is_a_module(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the README shows can be given to the command that the README shows."""
    (source,) = re.findall(r"```python\n([^`]* = Transform\(.*?)```", README, re.DOTALL)
    ((module, name),) = re.findall(r"--transform (\w+):(\w+)", README)
    assert f"`{module}.py`" in README
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    family = load_family(f"{module}:{name}")
    image = np.random.default_rng(0).random((5, 5, 1), np.float32)
    np.testing.assert_array_equal(spatial_transform(image, family.identity, family), image)


COMMANDS = re.findall(r"^python -m experiments\.train(.*?)(?: #.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    arguments = shlex.split(command)
    if "--help" not in arguments:
        command_line.parse(arguments, "python -m experiments.train")


def test_files_it_names_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


TRANSFORMS = {
    "none": None,
    "no transformer": None,
    "translation and scale": "translation_scale",
    "thin plate spline": "thin_plate_spline",
} | {name: name for name in ("rotation", "similarity", "affine", "projective")}
MODELS = {"FCN": "fcn", "CNN": "cnn", "CNN, 30 epochs": "cnn", "ST-FCN": "st_fcn"}
MODELS |= {"ST-CNN": "st_cnn", "2x ST-FCN, side by side": "2x_st_fcn"}
OURS = {"ours": ("st_compact", "affine"), "the same without its transformer": ("compact", None)}


def shown(table: str) -> dict[tuple[str, str | None, str], str]:
    """The entries of README's table, by network, transformation and distortion."""
    first = {"addition": "| network | no transformer |", "table1": "| network | R |"}
    first |= {"transforms": "| transformation | R |", "ours": "| | R |"}
    lines = README[README.index(f"\n{first[table]}") :].strip().split("\n\n")[0].splitlines()
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
def test_its_tables_are_the_recorded_results(table: str) -> None:
    recorded = json.loads((ROOT / "experiments" / "results" / f"{table}.json").read_text())
    entries = shown(table)
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
            # What our network without a transformer is compared with is not in README.
            bold = error <= paper and key[0] != "compact"
        expected = f"**{error:.2f}**" if bold else f"{error:.2f}"
        if paper is not None and table != "ours":
            expected += f" ({paper})"
        assert entry == expected, key
