"""The paper's co-localisation: a digit found in 100 unlabelled images, for each of the ten digits.

What the paper leaves open, or we do not know of it:

- *Images* come from the test split, of which the encoder has seen nothing; settings were chosen on
  the validation split (`split="validation"`). The clutter is cropped from training images.
- *Features* are the activations of both convolution blocks and the logits, each scaled to unit
  length. At their own lengths most of the distance is how much ink there is, and crops flee to
  where there is none.
- *Windows* have a side within a factor of 1.25 of 28 pixels, the size at which the encoder knows
  digits: the loss hardly tells a digit from the same one, smaller, in a larger window.
- *The networks start as ones that look for ink*, not at random (`colocaliser.INK`). How far that
  alone goes is `untrained_error` in the summary, and belongs beside any `test_error`: the paper's
  networks had no such start.
- *A localisation is correct* where window and the placed image's 28 x 28 box have an IoU above 0.5.
  The truth is only reported: no setting and no stopping depends on it.

Source: Jaderberg et al. (2015), appendix A.2.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets, devices
from experiments.colocalisation_settings import Settings, differences
from experiments.colocaliser import (
    CANVAS_PX,
    Embed,
    Localiser,
    add_patches,
    locate,
    make_objective,
    pretrain,
)
from experiments.experiment import num_params
from experiments.figures.images import draw_boxes
from experiments.records import Lines, RunError, provenance, read_json, write_json, writing
from experiments.train import DivergedError
from stn_jax import colocalisation as core
from stn_jax import distortions, population, training, transforms
from stn_jax.training import Params

CLUTTER = 16
CORRECT_IOU = 0.5
DIGITS = tuple(range(10))
SHOWN = 8  # the digit whose training is drawn, as in the paper
RECORDS = 20  # lines of metrics.jsonl, at most one an epoch

# What a run's seed is folded with, for each of its uses.
ENCODER, IMAGES, PARAMETERS, TRAINING = range(4)


class Sets(NamedTuple):
    """A set of images of each digit.

    Attributes:
        images: `[digits, n, 84, 84, 1]`.
        boxes: where the digits are, normalised, `[digits, n, 4]`; for the report only.
    """

    images: jax.Array
    boxes: np.ndarray


class Result(NamedTuple):
    """What the localisation networks came to.

    Attributes:
        states: of the ten networks.
        stages: their windows at each record, the first before training: `{epoch: [digits, n, 4]}`.
    """

    states: training.TrainState
    stages: dict[int, np.ndarray]


def run(settings: Settings, folder: pathlib.Path, command: str) -> dict[str, Any]:
    """Trains an encoder and the localisation networks, and leaves records and pictures.

    Unfinished, a run is begun anew: it takes minutes.

    Args:
        settings: what to do.
        folder: where to, held by the caller.
        command: what the user called, for the record.

    Returns:
        The summary.

    Raises:
        DatasetError: if the data cannot be had.
        DivergedError: if the training of a digit diverges.
        RunError: if the folder holds another run or cannot be written.
    """
    _claim(settings, folder)
    dataset = datasets.load(settings.dataset, data_dir=settings.data_dir)
    sets = make_sets(settings, dataset)
    started = time.perf_counter()
    embed, encoder_error = pretrain(
        _key(settings, ENCODER),
        dataset,
        epochs=settings.encoder_epochs,
        learning_rate=settings.encoder_learning_rate,
    )
    with contextlib.closing(Lines(folder / "metrics.jsonl", 0)) as lines:
        result = train(settings, embed, sets, lines)
    seconds = time.perf_counter() - started
    draw(folder, sets, result.stages)
    found = overlaps(result.stages[settings.epochs], sets.boxes)
    success, mean_iou = _success(found), np.mean(found, axis=1)
    summary = {
        "per_digit": [
            {"digit": digit, "success": float(success[digit]), "mean_iou": float(mean_iou[digit])}
            for digit in DIGITS
        ],
        "test_error": 100 - float(np.mean(success)),
        "untrained_error": 100 - float(np.mean(_success(overlaps(result.stages[0], sets.boxes)))),
        "encoder_error": encoder_error,
        "num_params": num_params(result.states.params) // len(DIGITS),
        "epochs": settings.epochs,
        "train_seconds": seconds,
        "seed": settings.seed,
        "command": command,
        **provenance(),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _claim(settings: Settings, folder: pathlib.Path) -> None:
    """Makes a folder this run's.

    Raises:
        RunError: if it holds another.
    """
    path = folder / "config.json"
    if path.exists() and (other := differences(read_json(path), settings)):
        raise RunError(f"{folder}: holds a run with other settings: {', '.join(other)}")
    write_json(path, dataclasses.asdict(settings))


def _key(settings: Settings, use: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(settings.seed), use)


def make_sets(settings: Settings, dataset: datasets.Dataset) -> Sets:
    """Images of each digit at random places, and where they are.

    Raises:
        RunError: if there are fewer images of a digit.
    """
    split = dataset.test if settings.split == "test" else dataset.validation
    rng = np.random.default_rng(settings.seed)

    @jax.jit
    @jax.vmap
    def placed(key: jax.Array, image: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
        if settings.distortion == "tc":
            place_key = distortions.image_key(key)
            output = distortions.tc(key, image, others, canvas=(CANVAS_PX, CANVAS_PX))
        else:
            place_key, output = key, distortions.t(key, image, canvas=(CANVAS_PX, CANVAS_PX))
        to_image = distortions.draw_t(place_key, image.shape[:2], canvas=(CANVAS_PX, CANVAS_PX))
        assert transforms.affine.inverse is not None
        box = core.frame_box(transforms.affine.inverse(to_image), transforms.affine)
        return output, box

    sets = []
    for digit in DIGITS:
        those = np.flatnonzero(split.labels == digit)
        if len(those) < settings.images:
            raise RunError(
                f"images must be at most the {settings.split} split's of the digit {digit}, "
                f"{len(those)}; got {settings.images}"
            )
        chosen = rng.choice(those, settings.images, replace=False)
        others = rng.integers(len(dataset.train), size=(settings.images, CLUTTER))
        keys = jax.random.fold_in(_key(settings, IMAGES), digit)
        keys = jax.random.split(keys, settings.images)
        clutter = dataset.train.images[others]
        sets.append(placed(keys, _floats(split.images[chosen]), _floats(clutter)))
    images, boxes = zip(*sets, strict=True)
    return Sets(jnp.stack(images), np.stack(boxes))


def _floats(images: np.ndarray) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 255


def train(settings: Settings, embed: Embed, sets: Sets, lines: Lines) -> Result:
    """Trains a localisation network on each digit's images, all ten in one program.

    Raises:
        DivergedError: if one diverges.
    """
    steps = settings.epochs * (settings.images // settings.batch_size)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    objective = make_objective(embed)

    def init(keys: jax.Array) -> training.TrainState:
        params = Localiser().init(keys[0], sets.images[0, :1])["params"]
        return training.init_state(keys[1], params, optimizer)

    def fit(state: training.TrainState, images: jax.Array, epochs: int) -> Any:
        sizes = {"num_epochs": epochs, "batch_size": settings.batch_size}
        data = {"image": images}
        return training.fit(objective, optimizer, add_patches, state, data, **sizes)

    @functools.partial(jax.jit, static_argnames="epochs")
    def part(states: training.TrainState, images: jax.Array, epochs: int) -> Any:
        lifted = population.over_members(functools.partial(fit, epochs=epochs), mesh=_mesh())
        return lifted(states, images)

    keys = [jax.random.split(_key(settings, use), len(DIGITS)) for use in (PARAMETERS, TRAINING)]
    states = jax.jit(jax.vmap(init))(jnp.stack(keys, axis=1))
    stages = {0: find(states.params, sets.images)}
    while (epoch := max(stages)) < settings.epochs:
        epochs = min(math.ceil(settings.epochs / RECORDS), settings.epochs - epoch)
        started = time.perf_counter()
        states, history = part(states, sets.images, epochs=epochs)
        diverged = np.flatnonzero(states.diverged)
        if len(diverged):
            raise DivergedError(
                f"training diverged for the digit {diverged[0]}: lower learning_rate"
            )
        epoch += epochs
        stages[epoch] = find(states.params, sets.images)
        lines.append(
            {
                "epoch": epoch,
                "loss": np.mean(history["loss"][:, -1], axis=1).tolist(),
                "success": _success(overlaps(stages[epoch], sets.boxes)).tolist(),
                "seconds": time.perf_counter() - started,
            }
        )
    return Result(states, stages)


def _mesh() -> Any:
    """All devices, where the digits can be spread over them equally."""
    return devices.member_mesh() if len(DIGITS) % jax.device_count() == 0 else None


@jax.jit
def _windows(params: Params, images: jax.Array) -> jax.Array:
    def boxes(params: Params, images: jax.Array) -> jax.Array:
        return jax.vmap(core.frame_box)(locate(params, images))

    return jax.vmap(boxes)(params, images)


def find(params: Params, images: jax.Array) -> np.ndarray:
    """The windows of each digit's images, as boxes `[digits, n, 4]`."""
    return np.asarray(_windows(params, images))


def overlaps(found: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The IoU of each window with the true box, `[digits, n]`."""
    return np.asarray(core.iou(jnp.asarray(found), jnp.asarray(boxes)))


def _success(overlaps: np.ndarray) -> np.ndarray:
    """How many of each digit's images are correctly localised, in %."""
    return 100 * np.mean(overlaps > CORRECT_IOU, axis=1)


def draw(folder: pathlib.Path, sets: Sets, stages: dict[int, np.ndarray]) -> None:
    """Draws windows of the first images of each digit, and of a digit over the training.

    Raises:
        RunError: if they cannot be written.
    """
    last, count = max(stages), min(8, sets.images.shape[1])
    with writing(folder / "figures"):
        (folder / "figures").mkdir(exist_ok=True)
        draw_boxes(
            folder / "figures" / "windows.png",
            *(_rows(each[:, :count]) for each in (sets.images, stages[last], sets.boxes)),
            columns=count,
            title="The first images of each digit",
        )
        epochs = _spread(sorted(stages), 8)
        rows = min(4, count)

        def over_time(first: Any) -> np.ndarray:
            return _rows(np.stack([np.asarray(first)] * len(epochs), axis=1))

        shown = np.stack([stages[epoch][SHOWN, :rows] for epoch in epochs], axis=1)
        draw_boxes(
            folder / "figures" / "training.png",
            over_time(sets.images[SHOWN, :rows]),
            _rows(shown),
            over_time(sets.boxes[SHOWN, :rows]),
            columns=len(epochs),
            title=f"Images of the digit {DIGITS[SHOWN]} over the training",
            labels=[f"epoch {epoch}" for epoch in epochs],
        )


def _rows(arrays: Any) -> np.ndarray:
    """The first two axes as one."""
    return np.reshape(arrays, (-1, *np.shape(arrays)[2:]))


def _spread(epochs: list[int], most: int) -> list[int]:
    """At most `most` of the epochs, closer together at the start, where windows move."""
    places = np.linspace(0, 1, most) ** 2 * (len(epochs) - 1)
    return [epochs[i] for i in np.unique(np.round(places).astype(int))]
