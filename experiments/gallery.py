"""The pictures of a run; `python -m experiments.gallery RUN_DIR` redraws a finished one's."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import experiment as setup
from experiments import preparation, run_folder
from experiments.checkpoints import Checkpoints
from experiments.exits import exit_code
from experiments.experiment import Experiment
from experiments.figures.angles import angle_residuals, draw_angles
from experiments.figures.confusions import draw_confusions
from experiments.figures.curves import draw_curves
from experiments.figures.diagnostics import draw_diagnostics
from experiments.figures.frames import animate_frames, draw_frames
from experiments.figures.images import draw_images
from experiments.models import make_transform
from experiments.records import (
    RunError,
    read_config,
    read_json,
    read_lines,
    read_summary,
    writing,
)
from stn_jax import warping

SHOWN = 32  # images in the two grids
FRAMED = 8  # images with frames, followed through training
ANGLES = 1000  # test images whose angle is compared
MESH = (13, 13)  # points of a frame that are drawn
ALONE = ("input", "between")  # placements with a single transformer at the input


class Probe:
    """A few test images, distorted as ever, through which training is watched.

    Args:
        experiment: the experiment they are of.
        count: how many.
    """

    def __init__(self, experiment: Experiment, count: int = FRAMED) -> None:
        self._experiment = experiment
        self.images = test_images(experiment, count)
        self._apply = jax.jit(lambda params: experiment.apply(params, self.images, None)[1])

    def intermediates(self, params: Any) -> dict[str, Any]:
        """What each transformer does with the images."""
        return self._apply(params)

    def theta(self, params: Any) -> dict[str, list[list[float]]]:
        """Theta of each transformer for each image, as JSON holds it."""
        found = self.intermediates(params)
        return {name: np.asarray(each["theta"]).tolist() for name, each in found.items()}

    def pictures(self, params: Any) -> dict[str, np.ndarray]:
        """The images and each transformer's output, in [0, 1]."""
        found = self.intermediates(params)
        named = {"images": self.images} | {name: each["output"] for name, each in found.items()}
        views = {name: visible(images) for name, images in named.items()}
        low, high = float(views["images"].min()), float(views["images"].max())
        contrast = high - low or 1.0
        return {
            name: np.clip((images - low) / contrast, 0, 1)
            for name, images in views.items()
            if images.shape[-1] <= 3
        }


def visible(images: Any, axis: int = 0) -> np.ndarray:
    """Images `[n, h, w, c]` as they are drawn.

    Of two channels, one is magenta and one cyan; volumes `[n, d, h, w, c]` are summed along an
    axis, from the front first.
    """
    images = np.asarray(images, np.float32)
    if images.ndim == 5:
        images = images.sum(axis=1 + axis)
    if images.shape[-1] != 2:
        return images
    return np.concatenate([images, images.max(axis=-1, keepdims=True)], axis=-1)


def _test_keys(count: int) -> jax.Array:
    key = jax.random.key(setup.TEST_KEY)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def test_images(experiment: Experiment, count: int) -> jax.Array:
    """The first test images as the network gets them in the evaluation.

    Where they take clutter or a second digit from others of their batch, these are others here.
    """
    split = experiment.dataset.test
    count = min(count, len(split.labels))
    batch = jax.tree.map(lambda array: array[:count], preparation.as_batch(split))
    return jax.jit(experiment.prepare)(_test_keys(count), batch)["image"]


def _at_input(experiment: Experiment, names: Sequence[str]) -> list[str]:
    """Of the transformers, those that look at the input itself."""
    several = experiment.config.model.placement in ("series", "parallel")
    return list(names) if several else list(names)[:1]


def frames(experiment: Experiment, thetas: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The grids of the transformers that look at the input itself, in its coordinates.

    Args:
        experiment: the experiment whose network the transformers belong to.
        thetas: `[n, num_params]` of each transformer.

    Returns:
        Grids `[n, h, w, 2]` of a moderate size: of the first transformer, of all that stand side by
        side, or of each in a series, seen through those before it. None of those in space.
    """
    settings = experiment.config.model
    names = _at_input(experiment, list(thetas))
    transform = make_transform(settings)
    if transform.ndim == 3:
        return {}
    targets = warping.transform_grid(transform.identity, transform, MESH)
    found = {}
    for i, name in enumerate(names):
        seen_through = names[: i + 1] if settings.placement == "series" else [name]
        points = jnp.broadcast_to(targets, (len(thetas[name]), *targets.shape))
        for each in reversed(seen_through):
            theta = np.asarray(thetas[each], np.float32)  # what a file has as null becomes NaN
            points = jax.vmap(transform.warp)(jnp.asarray(theta), points)
        found[name] = points
    return found


def angles(experiment: Experiment, params: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Applied and predicted angles of test images, in degrees.

    None where the distortion does not rotate, or no single transformer with a matrix stands at the
    input. An angle is that of the rotation nearest to a matrix; the transformer straightens an
    image where its own undoes the distortion's, up to a constant.
    """
    settings, draw_theta = experiment.config.model, preparation.draw_theta(experiment.config.data)
    transform = make_transform(settings)
    if draw_theta is None or transform.matrix is None or settings.placement not in ALONE:
        return None
    images = test_images(experiment, ANGLES)
    found = jax.jit(lambda params: experiment.apply(params, images, None)[1])(params)
    if not found:
        return None
    shape = experiment.dataset.test.images.shape[1:3]
    drawn = jax.vmap(lambda key: draw_theta(key, shape))(_test_keys(len(images)))
    applied = jax.vmap(lambda theta: theta.reshape(2, 3))(drawn)
    predicted = jax.vmap(transform.matrix)(found["transformer_0"]["theta"])
    canvas, output = images.shape[1:3], found["transformer_0"]["output"].shape[1:3]
    return _angle_deg(applied, shape, canvas), _angle_deg(predicted, canvas, output)


def _angle_deg(
    matrices: jax.Array, source_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> np.ndarray:
    """The angle of the rotation nearest to each matrix `[n, 2 or 3, 3]`, in degrees and pixels.

    Angles in normalised coordinates would be others where an image is not square.
    """
    (height, width), (out_height, out_width) = source_shape, target_shape
    m = np.asarray(matrices)[:, :2, :2] * [[width], [height]] / [out_width, out_height]
    return np.degrees(np.arctan2(m[:, 1, 0] - m[:, 0, 1], m[:, 0, 0] + m[:, 1, 1]))


def _any_finite(compared: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether there is anything to compare: a training that diverged predicts no angle."""
    return bool(np.isfinite(compared).all(axis=0).any())


def angle_summary(experiment: Experiment, params: Any) -> dict[str, float]:
    """Standard deviations of the angle before and after the transformer, in degrees."""
    found = angles(experiment, params)
    if found is None or not _any_finite(found):
        return {}
    before, after = angle_residuals(*found)
    return {"angle_std_before_deg": float(before.std()), "angle_std_after_deg": float(after.std())}


def draw(folder: pathlib.Path, experiment: Experiment, params: Any) -> None:
    """Draws all pictures of a run into its folder."""
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    draw_curves(target / "curves.png", read_lines(folder / "metrics.jsonl"))
    probe = Probe(experiment, SHOWN)
    found = probe.intermediates(params)
    inputs = visible(probe.images)
    grids = frames(experiment, {name: each["theta"] for name, each in found.items()})
    history = read_lines(folder / "frames.jsonl")
    titles = None
    if probe.images.ndim == 5:
        titles = "Fixed view", "Learned view"
        above, side = visible(probe.images, axis=1), visible(probe.images, axis=2)
        draw_images(target / "sides.png", above, side, ("From above", "From the side"))
    names = _at_input(experiment, list(found))
    for name in names:
        suffix = name.removeprefix("transformer") if len(names) > 1 else ""
        output = visible(found[name]["output"])
        draw_images(target / f"images{suffix}.png", inputs, output, titles)
        if name not in grids:
            continue
        corners = {"align_corners": experiment.config.model.align_corners}
        framed = inputs[:FRAMED], np.asarray(grids[name][:FRAMED])
        draw_frames(target / f"frames{suffix}.png", *framed, **corners)
        if not history:
            continue
        moved = np.stack([frames(experiment, record["theta"])[name] for record in history])
        epochs = np.asarray([record["epoch"] for record in history])
        path = target / f"frames{suffix}.gif"
        animate_frames(path, framed[0][: moved.shape[1]], moved, epochs, **corners)
    for name in sorted(found.keys() - set(names)):  # those that look at feature maps
        seen = np.asarray(found[name]["output"], np.float32).mean(axis=-1, keepdims=True)
        titles = "Input", f"What {name} makes of feature maps (their mean)"
        suffix = name.removeprefix("transformer")
        draw_images(target / f"images{suffix}.png", inputs, seen, titles, alike=False)
    if (folder / "confusions.json").exists():
        found = read_json(folder / "confusions.json")["label_by_prediction"]
        draw_confusions(target / "confusions.png", np.asarray(found))
    compared = angles(experiment, params)
    if compared is not None and _any_finite(compared):
        draw_angles(target / "angles.png", *compared)


def main(arguments: list[str] | None = None) -> int:
    """Redraws the pictures of the run folders that are named."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        if not arguments or arguments[0].startswith("-"):
            print(f"usage: python -m experiments.gallery RUN_DIR [RUN_DIR ...]\n\n{__doc__}")
            return 0 if arguments in (["-h"], ["--help"]) else 2
        for argument in arguments:
            redraw(pathlib.Path(argument))
        return 0

    return exit_code(command)


def redraw(folder: pathlib.Path) -> None:
    """Draws the pictures of a run from its newest checkpoint.

    Raises:
        RunError: if the folder holds no run with a checkpoint, or the run is going on.
    """
    config = read_config(folder)
    if not (folder / "checkpoints").exists():
        raise RunError(f"{folder}: holds no checkpoint")
    with run_folder.lock(folder):  # opening checkpoints removes what is being written
        experiment = setup.build(config)
        params = trained_params(folder, experiment)
        measured = (read_summary(folder) or {}).get("diagnostics")
        with writing(folder / "figures"):
            draw(folder, experiment, params)
            if measured is not None:
                draw_diagnostics(folder / "figures" / "diagnostics.png", measured)
    print(f"pictures in {folder / 'figures'}")


def trained_params(folder: pathlib.Path, experiment: Experiment) -> Any:
    """The parameters in the newest checkpoint of a run that is finished, or locked.

    Raises:
        RunError: if there is none, or it is of another network.
    """
    # Shapes are all that is needed: to draw initial parameters is slow to compile.
    shapes = jax.eval_shape(lambda: setup.initial_state(experiment))
    like = shapes._replace(key=experiment.key(setup.TRAINING))
    return Checkpoints(folder / "checkpoints").restore(like).state.params


if __name__ == "__main__":
    sys.exit(main())
