"""Straightens image files: `python -m experiments.apply --run RUN_DIR --images DIR --out DIR`."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.datasets.image_files import (
    ImageError,
    encode_png,
    pad_to_square,
    read_image,
    resize_to,
    to_array,
)
from experiments.runs.records import JsonLines, RunError, write_atomically, writing
from experiments.settings.config import PROJECTION_MODELS, Config, Model
from experiments.settings.errors import print_error, run_command

if TYPE_CHECKING:
    import numpy as np

    from experiments.analysis.frames import Frame, FramePredictor

# Functions import what imports JAX: --help and a wrong folder must be answered fast.

RECORDS = "theta.jsonl"


@dataclasses.dataclass(frozen=True)
class Apply:
    """Straighten image files with the transformer of a trained run.

    Each file of --images becomes NAME.png in --out, at the resolution of the file, and a line of
    theta.jsonl. The network receives the image resized to the size of its training images, so the
    proportions should be similar. If the run used --keep-aspect, the image is padded to a square
    first, and the result is a square too. Transformers in series are applied as one. Parallel
    transformers write NAME_0.png, NAME_1.png, ... Transformers of feature maps are not applied.
    Transparent pixels become black. The exit code is 1 if the run or one of the files cannot be
    used; an error names each such file.
    """

    run: Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run of experiments.train."""
    images: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder of image files, in any format that Pillow reads. Hidden files and subfolders are
    ignored."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; created if there is none. Existing files are not overwritten."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, straightens the images and returns the exit code."""

    def command() -> int:
        options = tyro.cli(Apply, prog="python -m experiments.apply", args=arguments)
        return 1 if apply(options) else 0

    return run_command(command)


def apply(options: Apply) -> int:
    """Straightens every readable file, and returns the number of files that cannot be read.

    Raises:
        RunError: before anything is written, if the run, a folder or a file name cannot be used;
            later, if a file cannot be written.
    """
    files = _image_files(options.images)

    import numpy as np

    from experiments.analysis import restore
    from experiments.analysis.frames import FramePredictor

    experiment, params, _ = restore.restore(options.run)
    config = experiment.config
    _check_applicable(options.run, config, experiment.dataset.train.images.dtype)
    predict = FramePredictor(experiment, params)
    count = len(predict(np.zeros(predict.input_shape, np.uint8)))
    if count == 0:
        raise RunError(f"{options.run}: --model {config.model.model} has no transformer of images")
    names = _output_names(files, count)
    _check_unused(options.out, [*(name for each in names.values() for name in each), RECORDS])
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    failed = _straighten_files(names, options.out, config, predict)
    print(f"{len(files) - failed} of {len(files)} files straightened into {options.out}")
    return failed


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files of a folder that are not hidden, by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error
    # A broken link counts as a file that cannot be read. Reading a pipe could block forever.
    kept = [entry for entry in entries if entry.is_file() or not entry.exists()]
    files = [entry for entry in kept if not entry.name.startswith(".")]
    if not files:
        raise RunError(f"{folder}: contains no files")
    return files


def _check_applicable(run: pathlib.Path, config: Config, dtype: "np.dtype") -> None:
    """Raises `RunError` unless the network takes single images that files can represent."""
    if dtype != "uint8":
        raise RunError(f"{run}: trained on {dtype} images, whose scale image files do not have")
    if config.model.model in PROJECTION_MODELS:
        raise RunError(f"{run}: --model {config.model.model} takes volumes, not images")
    if config.data.task == "add":
        raise RunError(f"{run}: --task add takes pairs of images, not single images")


def _output_names(files: Sequence[pathlib.Path], count: int) -> dict[pathlib.Path, list[str]]:
    """Names the `count` results of each file.

    Raises:
        RunError: if the results of two files have the same name.
    """
    suffixes = [f"_{i}" for i in range(count)] if count > 1 else [""]
    names = {file: [f"{file.stem}{suffix}.png" for suffix in suffixes] for file in files}
    owners: dict[str, pathlib.Path] = {}
    for file, its_names in names.items():
        for name in its_names:
            other = owners.setdefault(name, file)
            if other != file:
                raise RunError(f"{other} and {file.name} would both become {name}; rename one")
    return names


def _check_unused(folder: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).exists():
            raise RunError(f"{folder / name}: exists already; give another --out")


def _straighten_files(
    names: Mapping[pathlib.Path, Sequence[str]],
    out: pathlib.Path,
    config: Config,
    predict: "FramePredictor",
) -> int:
    """Writes the results and records of files, and returns the number of unreadable files."""
    failed = 0
    with contextlib.closing(JsonLines(out / RECORDS, 0)) as records:
        for file, its_names in names.items():
            try:
                for record in _straighten_file(file, its_names, out, config, predict):
                    records.append(record)
            except ImageError as error:
                print_error(error, 1)
                failed += 1
    return failed


def _straighten_file(
    file: pathlib.Path,
    names: Sequence[str],
    out: pathlib.Path,
    config: Config,
    predict: "FramePredictor",
) -> Iterator[dict[str, Any]]:
    """Writes the results of a file, and yields the record of each.

    Raises:
        ImageError: if the file cannot be read.
        RunError: if a result cannot be written.
    """
    image, margins = read_image(file), (0, 0)
    if config.data.keep_aspect:
        image, margins = pad_to_square(image)
    model, input_shape = config.model, predict.input_shape
    for name, frame in zip(names, predict(resize_to(image, input_shape)), strict=True):
        output = _straighten(to_array(image), frame, model, input_shape[:2])
        write_atomically(out / name, encode_png(output))
        shapes = {"input_shape": (image.height, image.width), "output_shape": output.shape[:2]}
        record = {"file": file.name, "output": name, **shapes, "margins": margins}
        yield record | _warp_arguments(frame, model, input_shape[:2])


def _straighten(
    image: "np.ndarray", frame: "Frame", model: Model, input_shape: tuple[int, int]
) -> "np.ndarray":
    """Warps an image `[h, w, c]` of bytes by a frame, at the resolution of the image."""
    import jax
    import numpy as np

    import stn_jax

    static = ("output_shape", "mode", "padding_mode", "align_corners")
    straighten = jax.jit(stn_jax.straighten, static_argnums=(2, 3), static_argnames=static)
    output = straighten(
        image.astype(np.float32),
        frame.theta[0],
        frame.transform,
        input_shape,
        output_shape=frame.output_shape,
        mode=model.mode,
        padding_mode=model.padding_mode,
        align_corners=model.align_corners,
    )
    return np.asarray(output)


def _warp_arguments(frame: "Frame", model: Model, input_shape: tuple[int, int]) -> dict[str, Any]:
    """The settings of the transform, and the arguments for `stn_jax.warp_points`, of a frame."""
    spline = {}
    if model.transform == "thin_plate_spline":
        spline = {"control_points": model.control_points, "regularisation": model.regularisation}
    return {
        "transform": model.transform,
        "in_series": model.transformers if model.placement == "series" else 1,
        **spline,
        "align_corners": model.align_corners,
        "seen_input_shape": input_shape,
        "seen_output_shape": frame.output_shape,
        "theta": frame.theta[0].tolist(),
    }


if __name__ == "__main__":
    sys.exit(main())
