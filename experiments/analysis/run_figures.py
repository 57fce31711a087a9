"""Draws the figures of a run into its folder."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.angles import angle_residuals, compare_angles
from experiments.analysis.frames import Intermediates, frame_grids, input_chains
from experiments.analysis.probe import PROBE_SIZE, Probe, displayable, sample_test_images
from experiments.analysis.restore import open_run
from experiments.plots.angle_plot import draw_angles
from experiments.plots.class_labels import Caption, class_captions, short_names
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.diagnostic_plot import draw_diagnostics
from experiments.plots.figure_folder import FigureFolder
from experiments.plots.frame_plot import animate_frames, draw_grids
from experiments.plots.image_grid import draw_images
from experiments.plots.learning_curves import draw_curves
from experiments.runs.records import read_json, read_lines
from experiments.settings.config import Model
from experiments.settings.relations import has_effect
from experiments.training import preprocessing
from experiments.training.experiment import Experiment, load_dataset
from experiments.training.metrics import class_errors
from stn_jax.training import Params, Variables

NUM_IMAGES = 20  # in a figure of images
NAME_WIDTH = 13  # characters of the name of a class below an image


class _ShownImages(NamedTuple):
    """The test images in figures, and what the network computes for them.

    Attributes:
        probe: the images, `n` of them.
        intermediates: of each transformer.
        captions: label, prediction and confidence of each image.
        labels: the name of the label of each image.
    """

    probe: Probe
    intermediates: Intermediates
    captions: Sequence[Caption]
    labels: Sequence[Caption]


def draw(
    folder: pathlib.Path,
    experiment: Experiment,
    params: Params,
    diagnostics: Mapping[str, Any] | None = None,
    variables: Variables | None = None,
) -> str | None:
    """Draws all figures of a run from its records and its network.

    A figure that cannot be drawn does not stop the others.

    Args:
        folder: the folder of the run.
        experiment: its experiment.
        params: its parameters.
        diagnostics: the result of `diagnostics.measure`; None to omit its figure.
        variables: the network's other arrays.

    Returns:
        One line that names the figures that could not be drawn, and why; None if all were drawn.
    """
    figures, title = FigureFolder(folder / "figures"), _describe(experiment)
    _draw_records(figures, folder, experiment, title)
    with figures.drawing("images and frames"):
        shown = _show_images(experiment, params, variables)
        _draw_images(figures, experiment.config.model, shown, title)
        with figures.drawing("frames"):
            _draw_frames(figures, experiment, shown, read_lines(folder / "frames.jsonl"))
    with figures.drawing("angles.png"):
        angles = compare_angles(experiment, params, variables)
        if angles is not None:
            residuals = angle_residuals(*angles)
            figures.save(draw_angles(angles.applied_deg, *residuals, title), "angles.png")
    if diagnostics is not None:
        with figures.drawing("diagnostics.png"):
            figures.save(draw_diagnostics(diagnostics, title), "diagnostics.png")
    return figures.explain()


def redraw(folder: pathlib.Path) -> str | None:
    """Draws the figures of a run again, from its newest checkpoint.

    Returns:
        As `draw`.

    Raises:
        RunError: if the folder contains no run with a checkpoint, or another process holds its
            lock.
        DatasetError: if the data cannot be loaded.
    """
    with open_run(folder, load_dataset) as run:
        measured = (run.summary or {}).get("diagnostics")
        return draw(folder, run.experiment, run.params, measured, run.variables)


def _describe(experiment: Experiment) -> str:
    """The title of the figures: the data and the network."""
    data, model = experiment.config.data, experiment.config.model
    distortion = f", distortion {data.distortion}" if data.distortion != "none" else ""
    transform = f", {model.transform}" if has_effect(experiment.config, "transform") else ""
    task = ", sum of two" if data.task == "add" else ""
    return f"{experiment.dataset.name}{task}{distortion}: {model.model}{transform}"


def _class_names(experiment: Experiment) -> tuple[str, ...]:
    return preprocessing.class_names(experiment.config.data, experiment.dataset)


def _draw_records(
    figures: FigureFolder, folder: pathlib.Path, experiment: Experiment, title: str
) -> None:
    """Draws the figures that need no network."""
    with figures.drawing("curves.png"):
        figures.save(draw_curves(read_lines(folder / "metrics.jsonl"), title), "curves.png")
    path = folder / "confusions.json"
    if path.exists():
        with figures.drawing("confusions.png"):
            counts = np.asarray(read_json(path)["label_by_prediction"])
            names = _class_names(experiment)
            figure = draw_confusions(counts, class_errors(counts), names, title)
            figures.save(figure, "confusions.png")


def _show_images(
    experiment: Experiment, params: Params, variables: Variables | None
) -> _ShownImages:
    probe = Probe(experiment, NUM_IMAGES)
    predicted, names = probe.predict(params, variables), _class_names(experiment)
    captions = class_captions(names, probe.labels, *predicted, width=NAME_WIDTH)
    labels = _label_captions(names, probe.labels)
    return _ShownImages(probe, probe.intermediates(params, variables), captions, labels)


def _label_captions(names: Sequence[str], labels: np.ndarray) -> list[Caption]:
    shown = short_names(names, NAME_WIDTH)
    return [Caption(shown[label]) for label in labels]


def _suffixes(names: Sequence[str]) -> dict[str, str]:
    """The file name suffix of each transformer on the input; empty if there is only one."""
    return {name: name.removeprefix("transformer") if len(names) > 1 else "" for name in names}


# --- Images ---------------------------------------------------------------------------------------


class _Pairs(NamedTuple):
    """A figure of images and what became of them.

    Attributes:
        file: the name of its file.
        first: the upper image of each pair.
        second: the lower image of each pair; None for single images.
        names: of the two.
        remark: for the title.
    """

    file: str
    first: np.ndarray
    second: np.ndarray | None
    names: tuple[str, str] = ("Input", "Output")
    remark: str = ""


def _draw_images(figures: FigureFolder, settings: Model, shown: _ShownImages, title: str) -> None:
    """Draws the images, the outputs of all transformers, and the side views of volumes."""
    # Sorted, so that images of one class are side by side.
    order = np.argsort(shown.probe.labels, kind="stable")
    captions = [shown.captions[i] for i in order]
    for pairs in _image_pairs(settings, shown):
        with figures.drawing(pairs.file):
            second = None if pairs.second is None else pairs.second[order]
            figure = draw_images(
                pairs.first[order],
                second,
                pairs.names,
                title=f"{title}\n{pairs.remark}label → prediction (confidence), errors in red",
                captions=captions,
                shared_scale=not pairs.remark,
            )
            figures.save(figure, pairs.file)


def _image_pairs(settings: Model, shown: _ShownImages) -> Iterator[_Pairs]:
    images, intermediates = shown.probe.images, shown.intermediates
    inputs, names = displayable(images), ("Input", "Output")
    if images.ndim == 5:
        names = "Fixed view", "Learned view"
        views = displayable(images, axis=1), displayable(images, axis=2)
        yield _Pairs("sides.png", *views, ("From above", "From the side"))
    on_input = input_chains(settings, intermediates)
    for name, suffix in _suffixes(list(on_input)).items():
        output = displayable(intermediates[name]["output"])
        yield _Pairs(f"images{suffix}.png", inputs, output, names)
    for name in sorted(intermediates.keys() - on_input.keys()):
        maps = np.asarray(intermediates[name]["output"], np.float32).mean(axis=-1, keepdims=True)
        remark = f"Output of {name}: mean of its feature maps; "
        yield _Pairs(f"images{name.removeprefix('transformer')}.png", inputs, maps, remark=remark)
    if not intermediates:
        yield _Pairs("images.png", inputs, None, names)


# --- Frames ---------------------------------------------------------------------------------------


def _draw_frames(
    figures: FigureFolder,
    experiment: Experiment,
    shown: _ShownImages,
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the frames on the first images and, if there is a `history`, how they moved."""
    settings, title = experiment.config.model, _describe(experiment)
    heading = f"{title}\nSampled part of each image (dot: upper left corner of the output)"
    thetas = {name: each["theta"] for name, each in shown.intermediates.items()}
    grids = frame_grids(settings, thetas)
    inputs = displayable(shown.probe.images[:PROBE_SIZE])
    corners = {"align_corners": settings.align_corners}
    for name, suffix in _suffixes(list(grids)).items():
        with figures.drawing(f"frames{suffix}.png"):
            frames = np.asarray(grids[name][: len(inputs)])
            figure = draw_grids(inputs, frames, title=heading, captions=shown.captions, **corners)
            figures.save(figure, f"frames{suffix}.png")
    if not grids or not history:
        return
    with figures.drawing("animations of frames"):
        examples = _recorded_examples(history[-1])
        sample = sample_test_images(experiment, len(examples), examples)
        inputs, labels = displayable(sample.images), _class_names(experiment)
        records = [each for each in history if _recorded_examples(each) == examples]
        past = [frame_grids(settings, record["theta"]) for record in records]
        epochs = np.asarray([record["epoch"] for record in records])
        for name, suffix in _suffixes(list(grids)).items():
            frames = np.stack([each[name] for each in past])
            captions = _label_captions(labels, sample.labels)
            data = animate_frames(inputs, frames, epochs, captions=captions, **corners)
            figures.write(data, f"frames{suffix}.gif")


def _recorded_examples(record: Mapping[str, Any]) -> list[int]:
    """The places in the test set of the images whose theta was recorded.

    Older records have no `examples`: they are of the first images.
    """
    count = max((len(each) for each in record["theta"].values()), default=0)
    return list(record.get("examples", range(count)))
