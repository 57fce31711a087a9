"""The paper's co-localisation: finds a digit in 100 unlabelled images, for each of the ten digits.

The paper leaves these points open. We chose:

- *Images* come from the test split, which the encoder is not trained on. Settings were chosen on
  the validation split (`split="validation"`). Clutter is cropped from training images.
- *Features* are the activations of both convolution blocks and the logits, each scaled to unit
  length. Without scaling, most of the distance is the amount of ink, and windows move to where
  there is none.
- *Windows* have a side within a factor of 1.25 of 28 pixels, the size of the digits that the
  encoder was trained on. The loss hardly distinguishes a digit from the same, smaller digit in a
  larger window.
- *The networks start as detectors of ink*, not at random (`model.INK`). The summary has the error
  at the start as `untrained_error`; report it with every `test_error`, because the networks of the
  paper had no such start.
- *A localisation is correct* if the window and the 28 x 28 box of the placed image have an IoU
  above 0.5. The true boxes are only reported: no setting and no stopping depends on them.

Source: Jaderberg et al. (2015), appendix A.2.
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.colocalisation.digit_images import DIGITS, ENCODER, Sets, key_for, make_sets
from experiments.colocalisation.model import Embed, locate, pretrain
from experiments.colocalisation.options import ColocalisationSettings, colocalisation_differences
from experiments.colocalisation.trainer import DigitsTrainer
from experiments.colocalisation.window_figures import draw
from experiments.plots.figure_folder import FigureFolder
from experiments.runs.checkpoints import at_start_of_epoch
from experiments.runs.folder import claim_folder, hold_folders
from experiments.runs.records import JsonLines, provenance, read_json, write_json
from experiments.runs.tensorboard import TensorBoardWriter
from experiments.settings.errors import print_warning
from experiments.training import loop
from experiments.training.experiment import count_params
from experiments.training.loop import Callback, DivergedError, Loop
from experiments.training.metrics import Record
from stn_jax import colocalisation
from stn_jax.training import Params, TrainState

CORRECT_IOU = 0.5
RECORDS = 20  # lines of metrics.jsonl; at most one per epoch


class LocalisationResult(NamedTuple):
    """The trained localisation networks.

    Attributes:
        states: of the ten networks, with a leading axis of digits.
        stages: their windows at each record, the first before training: `{epoch: [digits, n, 4]}`.
    """

    states: TrainState
    stages: dict[int, np.ndarray]


def run(
    settings: ColocalisationSettings, folder: pathlib.Path, command: str, hint: Callable[[], str]
) -> dict[str, Any]:
    """Trains an encoder and the localisation networks, and writes records and figures.

    A run that was interrupted starts again: it takes minutes.

    Args:
        settings: the settings.
        folder: the run folder.
        command: for the summary.
        hint: how to continue, for the message after a signal.

    Returns:
        The summary.

    Raises:
        DatasetError: if the data cannot be loaded.
        DivergedError: if the training of a digit diverges.
        RunError: if the folder holds another run or cannot be written.
        Stopped: by a signal.
    """

    def changed(folder: pathlib.Path) -> list[str]:
        return colocalisation_differences(read_json(folder / "config.json"), settings)

    with hold_folders([folder], hint):
        finished = claim_folder(folder, dataclasses.asdict(settings), changed, "auto")
        return _train_and_record(settings, folder, command) if finished is None else finished


def _train_and_record(
    settings: ColocalisationSettings, folder: pathlib.Path, command: str
) -> dict[str, Any]:
    dataset = datasets.load(settings.dataset, data_dir=settings.data_dir)
    sets = make_sets(settings, dataset)
    started = time.perf_counter()
    embed, encoder_error = pretrain(
        key_for(settings, ENCODER),
        dataset,
        epochs=settings.encoder_epochs,
        learning_rate=settings.encoder_learning_rate,
    )
    result = train(settings, embed, sets, folder)
    seconds = time.perf_counter() - started
    first, last = (overlaps(result.stages[epoch], sets.boxes) for epoch in (0, settings.epochs))
    success, mean_iou = success_rates(last), np.mean(last, axis=1)
    summary = {
        "per_digit": [
            {"digit": digit, "success": float(success[digit]), "mean_iou": float(mean_iou[digit])}
            for digit in DIGITS
        ],
        "test_error": 100 - float(np.mean(success)),
        "untrained_error": 100 - float(np.mean(success_rates(first))),
        "encoder_error": encoder_error,
        "num_params": count_params(result.states.params) // len(DIGITS),
        "epochs": settings.epochs,
        "train_seconds": seconds,
        "seed": settings.seed,
        "command": command,
        **provenance(),
    }
    write_json(folder / "summary.json", summary)
    # After the last record, because a failure to draw must not cost the run.
    figures = FigureFolder(folder / "figures")
    draw(figures, sets, result.stages)
    if undrawn := figures.explain():
        print_warning(undrawn)
    return summary


class WindowRecorder(Callback):
    """Writes the loss and the success of each digit, and keeps the windows for the figures.

    Args:
        sets: the images and their true boxes.
        folder: of the run.

    Attributes:
        stages: the windows at each record, the first before training: `{epoch: [digits, n, 4]}`.
    """

    def __init__(self, sets: Sets, folder: pathlib.Path) -> None:
        self._sets, self._folder = sets, folder
        self._open = contextlib.ExitStack()
        self.stages: dict[int, np.ndarray] = {}

    def on_start(self, loop: Loop) -> None:
        """Opens the files."""
        lines = JsonLines(self._folder / "metrics.jsonl", 0)
        writer = TensorBoardWriter(self._folder / "tensorboard", 0)
        self._lines = self._open.enter_context(contextlib.closing(lines))
        self._tensorboard = self._open.enter_context(contextlib.closing(writer))
        self.stages[0] = find(loop.states.params, self._sets.images)
        self._started = time.perf_counter()

    def on_epoch(self, loop: Loop, records: Sequence[Record | None]) -> None:
        """Writes at most `RECORDS` records over the training."""
        if loop.epoch % math.ceil(loop.epochs / RECORDS) and not loop.is_done:
            return
        self.stages[loop.epoch] = find(loop.states.params, self._sets.images)
        losses = [record["loss"] for record in records if record is not None]
        success = success_rates(overlaps(self.stages[loop.epoch], self._sets.boxes))
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        self._lines.append(
            {"epoch": loop.epoch, "loss": losses, "success": success.tolist(), "seconds": seconds}
        )
        means = {"loss": float(np.mean(losses)), "success": float(np.mean(success))}
        self._tensorboard.add_scalars(means, loop.epoch)

    def on_divergence(self, loop: Loop, index: int, error: DivergedError) -> None:
        """Ends the training."""
        raise DivergedError(f"training diverged for the digit {index}: lower learning_rate")

    def close(self) -> None:
        """Closes the files."""
        self._open.close()


def train(
    settings: ColocalisationSettings, embed: Embed, sets: Sets, folder: pathlib.Path
) -> LocalisationResult:
    """Trains a localisation network on the images of each digit.

    Raises:
        DivergedError: if one diverges.
    """
    trainer = DigitsTrainer(settings, embed, sets.images)
    snapshots = [
        at_start_of_epoch(state, trainer.steps_per_epoch, ("loss", "gradient_norm"))
        for state in trainer.initial_states()
    ]
    training_loop = loop.start(trainer, settings.epochs, snapshots)
    recorder = WindowRecorder(sets, folder)
    loop.run(training_loop, [recorder])
    return LocalisationResult(training_loop.states, recorder.stages)


@jax.jit
def _windows(params: Params, images: jax.Array) -> jax.Array:
    def boxes(params: Params, images: jax.Array) -> jax.Array:
        return jax.vmap(colocalisation.frame_box)(locate(params, images))

    return jax.vmap(boxes)(params, images)


def find(params: Params, images: jax.Array) -> np.ndarray:
    """The windows of each digit's images, as boxes `[digits, n, 4]`."""
    return np.asarray(_windows(params, images))


def overlaps(found: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The IoU of each window with the true box, `[digits, n]`."""
    return np.asarray(colocalisation.iou(jnp.asarray(found), jnp.asarray(boxes)))


def success_rates(overlaps: np.ndarray) -> np.ndarray:
    """The share of each digit's images that are localised correctly, in %."""
    return 100 * np.mean(overlaps > CORRECT_IOU, axis=1)
