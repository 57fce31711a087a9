"""Straightens image files: `python -m experiments.apply --run RUN_DIR --images DIR --out DIR`."""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.config import PROJECTING, Model
from experiments.exits import exit_code, fail
from experiments.image_files import ImageError, pixels, read, resized, write_png
from experiments.records import Lines, RunError, writing

if TYPE_CHECKING:
    import numpy as np

    from experiments.frames import Frame

RECORD = "theta.jsonl"


@dataclasses.dataclass(frozen=True)
class Apply:
    """Straighten image files by the transformer of a run.

    Each file of --images becomes NAME.png in --out, of the file's own resolution, and a line of
    theta.jsonl. The network sees it resized to the images that it was trained on, whose proportions
    it should have; of a run with --keep-aspect it is extended to a square first, and so is what is
    made of it. Transformers in series are applied as one; those side by side make NAME_0.png,
    NAME_1.png, ...; those on feature maps are left out. What is transparent becomes black. The exit
    code is 1 where the run cannot be used, or any of the files, each of which is named.
    """

    run: Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run of experiments.train."""
    images: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder of image files, in any format that Pillow reads. Hidden files and folders in it are
    left out."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Where the results go; made if there is none. No file in it is overwritten."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and straightens; says in one line each what went wrong."""

    def command() -> int:
        failed = apply(tyro.cli(Apply, prog="python -m experiments.apply", args=arguments))
        return 1 if failed else 0

    return exit_code(command)


def apply(settings: Apply) -> int:
    """Straightens every file that can be read; how many could not.

    Raises:
        RunError: before anything is written, if the run, the folders or what is in them do not
            serve; later, if a file cannot be written.
    """
    files = _files(settings.images)
    # Here, since --help and a wrong folder should not wait for JAX.
    import numpy as np

    from experiments import restored
    from experiments.datasets.gtsrb.archives import extended

    experiment, params = restored.restore(settings.run)
    model, stored = experiment.config.model, experiment.dataset.train.images.dtype
    if stored != np.uint8:
        raise RunError(
            f"{settings.run}: was trained on {stored} images, whose scale image files do not have"
        )
    if model.model in PROJECTING:
        raise RunError(f"{settings.run}: --model {model.model} is of volumes, not of images")
    if experiment.config.data.task == "add":
        raise RunError(f"{settings.run}: --task add is of pairs of images, not of single ones")
    viewer = restored.Viewer(experiment, params)
    count = len(viewer.frames(np.zeros(viewer.input_shape, np.uint8)))
    if count == 0:
        raise RunError(f"{settings.run}: --model {model.model} has no transformer to apply")
    names = _names(files, count)
    for name in (*(name for each in names.values() for name in each), RECORD):
        if (settings.out / name).exists():
            raise RunError(f"{settings.out / name}: exists already; give another --out")
    with writing(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    record, failed = Lines(settings.out / RECORD, 0), 0
    for file in files:
        try:
            image, margins = read(file), (0, 0)
        except ImageError as error:
            fail(error, 1)
            failed += 1
            continue
        if experiment.config.data.keep_aspect:
            image, margins = extended(image)
        found = viewer.frames(resized(image, viewer.input_shape))
        for name, frame in zip(names[file], found, strict=True):
            output = _straight(pixels(image), frame, model, viewer.input_shape[:2])
            write_png(settings.out / name, output)
            shapes = {"input_shape": (image.height, image.width), "output_shape": output.shape[:2]}
            where = {"file": file.name, "output": name, **shapes, "margins": margins}
            record.append({**where, **_warp(frame, model, viewer.input_shape[:2])})
    record.close()
    print(f"{len(files) - failed} of {len(files)} files straightened into {settings.out}")
    return failed


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that are not hidden, by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error
    # A link to nothing is a file that cannot be read; a pipe would never end.
    kept = [entry for entry in entries if entry.is_file() or not entry.exists()]
    files = [entry for entry in kept if not entry.name.startswith(".")]
    if not files:
        raise RunError(f"{folder}: holds no files")
    return files


def _names(files: list[pathlib.Path], count: int) -> dict[pathlib.Path, list[str]]:
    """What the results of each file are called, `count` of each.

    Raises:
        RunError: if those of two files have one name.
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


def _straight(
    image: "np.ndarray", frame: "Frame", model: Model, input_shape: tuple[int, int]
) -> "np.ndarray":
    """An image `[h, w, c]` of bytes as a frame sees it, at the image's own resolution."""
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


def _warp(frame: "Frame", model: Model, seen_shape: tuple[int, int]) -> dict[str, Any]:
    """What `stn_jax.warp_points` takes of a frame, and what its transformation is made with."""
    made_with = {}
    if model.transform == "thin_plate_spline":
        made_with = {
            "control_points": model.control_points,
            "regularisation": model.regularisation,
        }
    return {
        "transform": model.transform,
        "in_series": model.transformers if model.placement == "series" else 1,
        **made_with,
        "align_corners": model.align_corners,
        "seen_input_shape": seen_shape,
        "seen_output_shape": frame.output_shape,
        "theta": frame.theta[0].tolist(),
    }


if __name__ == "__main__":
    sys.exit(main())
