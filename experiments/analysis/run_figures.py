"""Draws the figures of a run into its folder."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.analysis.angles import angle_residuals, compare_angles
from experiments.analysis.frames import Intermediates, frame_grids, input_chains
from experiments.analysis.probe import PROBE_SIZE, Probe, displayable
from experiments.analysis.restore import open_run
from experiments.plots.angle_plot import draw_angles
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.diagnostic_plot import draw_diagnostics
from experiments.plots.frame_plot import animate_frames, draw_frames
from experiments.plots.image_grid import draw_images
from experiments.plots.learning_curves import draw_curves
from experiments.runs.records import read_json, read_lines
from experiments.settings.config import Model
from experiments.training.experiment import Experiment, load_dataset
from experiments.training.metrics import class_errors
from stn_jax.training import Params, Variables

NUM_IMAGES = 32  # in each panel of a figure of images


def draw(
    folder: pathlib.Path,
    experiment: Experiment,
    params: Params,
    diagnostics: Mapping[str, Any] | None = None,
    variables: Variables | None = None,
) -> None:
    """Draws all figures of a run from its records and its network.

    Args:
        folder: the folder of the run.
        experiment: its experiment.
        params: its parameters.
        diagnostics: the result of `diagnostics.measure`; None to omit its figure.
        variables: the network's other arrays.

    Raises:
        RunError: if a figure cannot be written.
    """
    figures, settings = folder / "figures", experiment.config.model
    draw_curves(figures / "curves.png", read_lines(folder / "metrics.jsonl"))
    probe = Probe(experiment, NUM_IMAGES)
    intermediates = probe.intermediates(params, variables)
    history = read_lines(folder / "frames.jsonl")
    _draw_input_warps(figures, settings, probe.images, intermediates)
    _draw_frames(figures, settings, probe.images, intermediates, history)
    _draw_feature_map_warps(figures, settings, probe.images, intermediates)
    if (folder / "confusions.json").exists():
        confusions = np.asarray(read_json(folder / "confusions.json")["label_by_prediction"])
        draw_confusions(figures / "confusions.png", confusions, class_errors(confusions))
    angles = compare_angles(experiment, params, variables)
    if angles is not None:
        draw_angles(figures / "angles.png", angles.applied_deg, *angle_residuals(*angles))
    if diagnostics is not None:
        draw_diagnostics(figures / "diagnostics.png", diagnostics)


def redraw(folder: pathlib.Path) -> None:
    """Draws the figures of a run again, from its newest checkpoint.

    Raises:
        RunError: if the folder contains no run with a checkpoint, another process holds its lock,
            or a figure cannot be written.
        DatasetError: if the data cannot be loaded.
    """
    with open_run(folder, load_dataset) as run:
        measured = (run.summary or {}).get("diagnostics")
        draw(folder, run.experiment, run.params, measured, run.variables)


def _suffixes(names: Sequence[str]) -> dict[str, str]:
    """The file name suffix of each transformer on the input; empty if there is only one."""
    return {name: name.removeprefix("transformer") if len(names) > 1 else "" for name in names}


def _draw_input_warps(
    figures: pathlib.Path, settings: Model, images: jax.Array, intermediates: Intermediates
) -> None:
    """Draws inputs and outputs of the transformers on the input, and the side views of volumes."""
    titles = None
    if images.ndim == 5:
        titles = "Fixed view", "Learned view"
        views = displayable(images, axis=1), displayable(images, axis=2)
        draw_images(figures / "sides.png", *views, ("From above", "From the side"))
    inputs = displayable(images)
    for name, suffix in _suffixes(list(input_chains(settings, intermediates))).items():
        output = displayable(intermediates[name]["output"])
        draw_images(figures / f"images{suffix}.png", inputs, output, titles)


def _draw_frames(
    figures: pathlib.Path,
    settings: Model,
    images: jax.Array,
    intermediates: Intermediates,
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the frames on the first images and, if there is a `history`, how they moved."""
    inputs = displayable(images[:PROBE_SIZE])
    grids = frame_grids(settings, {name: each["theta"] for name, each in intermediates.items()})
    past_grids = [frame_grids(settings, record["theta"]) for record in history]
    epochs = np.asarray([record["epoch"] for record in history])
    for name, suffix in _suffixes(list(grids)).items():
        final = np.asarray(grids[name][: len(inputs)])
        corners = {"align_corners": settings.align_corners}
        draw_frames(figures / f"frames{suffix}.png", inputs, final, **corners)
        if history:
            path, past = (
                figures / f"frames{suffix}.gif",
                np.stack([each[name] for each in past_grids]),
            )
            animate_frames(path, inputs[: past.shape[1]], past, epochs, **corners)


def _draw_feature_map_warps(
    figures: pathlib.Path, settings: Model, images: jax.Array, intermediates: Intermediates
) -> None:
    """For each transformer of feature maps, draws the inputs and the mean of its output maps."""
    for name in sorted(intermediates.keys() - input_chains(settings, intermediates).keys()):
        maps = np.asarray(intermediates[name]["output"], np.float32).mean(axis=-1, keepdims=True)
        path = figures / f"images{name.removeprefix('transformer')}.png"
        titles = "Input", f"Output of {name} (mean of its feature maps)"
        draw_images(path, displayable(images), maps, titles, shared_scale=False)
