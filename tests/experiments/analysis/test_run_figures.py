"""Every placement of transformers has its figures."""

import pathlib
from typing import Any

import pytest

from experiments.analysis import run_figures
from experiments.analysis.frames import MESH_SHAPE
from experiments.analysis.probe import Probe
from experiments.runs.records import JsonLines
from experiments.settings import command_line
from experiments.training.experiment import build_experiment, initial_state


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ("--placement series --transformers 2", "01"),
        ("--placement parallel --transformers 2 --output-size 6 --align-corners", "01"),
        ("--model fcn", ""),
    ],
)
def test_each_transformer_on_the_input_has_its_figures(
    settings: str,
    names: str,
    tiny: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests check what is drawn; this one checks that each figure is drawn.
    drawn: dict[str, tuple[Any, ...]] = {}
    for name in ("draw_images", "draw_frames", "animate_frames", "draw_curves", "draw_angles"):
        monkeypatch.setattr(
            run_figures, name, lambda path, *values, **_: drawn.setdefault(path.name, values)
        )
    experiment = build_experiment(command_line.parse([*tiny, *settings.split()], "train").config)
    params = initial_state(experiment).params
    thetas = Probe(experiment).theta(params)
    frames = JsonLines(tmp_path / "frames.jsonl", 0)
    for epoch in (0, 1):
        frames.append({"epoch": epoch, "theta": thetas})
    frames.close()
    run_figures.draw(tmp_path, experiment, params)
    figures = {f"{kind}_{i}" for i in names for kind in ("images", "frames")}
    expected = {"curves.png", *(f"{name}.png" for name in figures)}
    assert drawn.keys() == expected | {f"frames_{i}.gif" for i in names}
    for i in names:
        images, grids = drawn[f"frames_{i}.png"]
        assert (images.shape, grids.shape) == ((8, 9, 9, 1), (8, *MESH_SHAPE, 2))
        assert drawn[f"frames_{i}.gif"][1].shape == (2, 8, *MESH_SHAPE, 2)
