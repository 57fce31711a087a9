"""Every placement of transformers has its figures, of a sample of the test set."""

import pathlib
from typing import Any

import numpy as np
import pytest

from experiments.analysis import run_figures
from experiments.analysis.frames import MESH_SHAPE
from experiments.analysis.probe import Probe, sample_test_images
from experiments.runs.records import JsonLines
from experiments.settings import command_line
from experiments.training.experiment import Experiment, build_experiment, initial_state


def make_experiment(tiny: list[str], settings: str = "") -> Experiment:
    return build_experiment(command_line.parse([*tiny, *settings.split()], "train").config)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each figure, by the name of its file. Nothing is drawn.

    Other tests check what is drawn; these check that each figure is drawn.
    """
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        run_figures.FigureFolder, "save", lambda _, figure, name: found.setdefault(name, figure)
    )
    monkeypatch.setattr(
        run_figures.FigureFolder, "write", lambda _, data, name: found.setdefault(name, data)
    )
    for name in ("draw_images", "draw_grids", "animate_frames", "draw_curves", "draw_angles"):
        monkeypatch.setattr(run_figures, name, lambda *given, **options: (given, options))
    return found


def record_frames(folder: pathlib.Path, **record: Any) -> None:
    frames = JsonLines(folder / "frames.jsonl", 0)
    for epoch in (0, 1):
        frames.append({"epoch": epoch, **record})
    frames.close()


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
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
) -> None:
    experiment = make_experiment(tiny, settings)
    params = initial_state(experiment).params
    probe = Probe(experiment)
    record_frames(tmp_path, examples=probe.examples.tolist(), theta=probe.theta(params))
    assert run_figures.draw(tmp_path, experiment, params) is None
    expected = {"curves.png", *(f"frames_{i}.gif" for i in names)}
    expected |= {f"{kind}_{i}.png" for i in names for kind in ("images", "frames")}
    assert drawn.keys() == (expected if names else {"curves.png", "images.png"})
    for i in names:
        (images, grids), _ = drawn[f"frames_{i}.png"]
        assert (images.shape, grids.shape) == ((8, 9, 9, 1), (8, *MESH_SHAPE, 2))
        (images, grids, epochs), _ = drawn[f"frames_{i}.gif"]
        assert (images.shape, grids.shape) == ((8, 9, 9, 1), (2, 8, *MESH_SHAPE, 2))
        assert epochs.tolist() == [0, 1]


def test_images_have_the_labels_and_predictions_of_a_balanced_sample(
    tiny: list[str],
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
) -> None:
    experiment = make_experiment(tiny)
    params = initial_state(experiment).params
    assert run_figures.draw(tmp_path, experiment, params) is None
    (images, outputs, _), options = drawn["images.png"]
    captions = [caption.text.split() for caption in options["captions"]]
    assert len(images) == len(outputs) == len(captions) == 20
    labels = [int(label) for label, *_ in captions]
    assert labels == sorted(labels)
    assert np.bincount(labels).tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7])
    test = experiment.dataset.test
    sample = sample_test_images(experiment, 20)
    assert sorted(test.labels[sample.examples]) == labels
    logits = np.asarray(experiment.apply(params, images, None)[0])
    for (label, _, prediction, _, _), row in zip(captions, logits, strict=True):
        assert int(prediction) == row.argmax()
        assert int(label) in (0, 1, 2)
    wrong = [caption.is_wrong for caption in options["captions"]]
    assert wrong == [label != row.argmax() for label, row in zip(labels, logits, strict=True)]


@pytest.mark.parametrize("examples", [None, [3, 1, 7]])
def test_recorded_frames_are_drawn_on_the_images_that_they_belong_to(
    examples: list[int] | None,
    tiny: list[str],
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
) -> None:
    """Older records have no `examples`: they are of the first images."""
    experiment = make_experiment(tiny)
    params = initial_state(experiment).params
    probe = Probe(experiment, examples=examples or range(8))
    recorded = {} if examples is None else {"examples": examples}
    record_frames(tmp_path, **recorded, theta=probe.theta(params))
    assert run_figures.draw(tmp_path, experiment, params) is None
    (images, grids, _), options = drawn["frames.gif"]
    np.testing.assert_array_equal(images, probe.images)
    assert grids.shape == (2, len(images), *MESH_SHAPE, 2)
    labels = [caption.text for caption in options["captions"]]
    assert labels == [str(label) for label in probe.labels]


def test_frames_of_other_images_are_left_out(
    tiny: list[str],
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
) -> None:
    """As in a run that was started by an older version."""
    experiment = make_experiment(tiny)
    params = initial_state(experiment).params
    probe = Probe(experiment)
    frames = JsonLines(tmp_path / "frames.jsonl", 0)
    old, new = {"theta": probe.theta(params)}, {"examples": probe.examples.tolist()}
    for epoch, record in enumerate([old, old | new, old | new]):
        frames.append({"epoch": epoch, **record})
    frames.close()
    assert run_figures.draw(tmp_path, experiment, params) is None
    assert drawn["frames.gif"][0][2].tolist() == [1, 2]


def test_class_names_are_in_the_figures(
    data_file: pathlib.Path,
    tiny: list[str],
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["circle", "square", "star"]
    path = tmp_path / "named.npz"
    with np.load(data_file) as arrays:
        np.savez(path, class_names=names, **arrays)
    monkeypatch.setattr(run_figures, "draw_confusions", lambda *given: given)
    (tmp_path / "confusions.json").write_text('{"label_by_prediction": [[1,0,0],[0,1,0],[0,0,1]]}')
    experiment = make_experiment(tiny, f"--data-file {path}")
    assert run_figures.draw(tmp_path, experiment, initial_state(experiment).params) is None
    assert drawn["confusions.png"][2] == tuple(names)
    shown = {caption.text.split()[0] for caption in drawn["images.png"][1]["captions"]}
    assert shown == set(names)


def test_figure_that_cannot_be_drawn_is_named_and_the_others_are_drawn(
    tiny: list[str],
    drawn: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("latex could not be found\nsee above")

    monkeypatch.setattr(run_figures, "draw_curves", fail)
    monkeypatch.setattr(run_figures, "compare_angles", fail)
    experiment = make_experiment(tiny)
    reason = run_figures.draw(tmp_path, experiment, initial_state(experiment).params)
    assert reason == (
        f"{tmp_path}/figures: not drawn: curves.png, angles.png "
        "(RuntimeError: latex could not be found see above)"
    )
    assert drawn.keys() == {"images.png", "frames.png"}
