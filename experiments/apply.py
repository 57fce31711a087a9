"""Straightens image files: `python -m experiments.apply --run RUN_DIR --images DIR --out DIR`."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.datasets.image_files import (
    ImageError,
    encode_png,
    pad_to_aspect,
    read_image,
    to_array,
)
from experiments.runs.records import (
    MAX_NAME_BYTES,
    JsonLines,
    RunError,
    write_atomically,
    writing,
)
from experiments.settings.compilation_cache import use_compilation_cache
from experiments.settings.config import PROJECTION_MODELS
from experiments.settings.errors import print_error, run_command

if TYPE_CHECKING:
    from experiments.analysis.loaded_model import LoadedModel

# Functions import what imports JAX: --help and a wrong folder must be answered fast.

RECORDS = "theta.jsonl"


@dataclasses.dataclass(frozen=True)
class Apply:
    """Straighten image files with the transformer of a trained run.

    Each file of --images becomes NAME.png in --out, in the same subfolder and at the resolution of
    the file, and a line of theta.jsonl: the predicted class, its probability, and theta. Very long
    names are shortened. The network receives the image resized to the size of its training images,
    so the proportions should be similar. If the run used --keep-aspect, the image is first padded
    to the proportions of --image-size, and the result has these proportions too. Transformers in
    series are applied as one. Parallel transformers write NAME_0.png, NAME_1.png, ... Transformers
    of feature maps are not applied. Transparent pixels become black. The exit code is 1 if the run
    or one of the files cannot be used; an error names each such file.
    """

    run: Annotated[pathlib.Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run of experiments.train."""
    images: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder of image files and of subfolders with such files, in any format that Pillow reads.
    Hidden files and folders are ignored."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; created if there is none. Existing files are not overwritten."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next command starts sooner."""


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
    files = _image_files(options.images, options.out)

    use_compilation_cache(options.compilation_cache)
    from experiments.analysis import restore
    from experiments.analysis.loaded_model import LoadedModel

    model = LoadedModel(restore.restore(options.run))
    _check_applicable(options.run, model)
    names = _output_names(options.images, files, len(model.transforms))
    _check_unused(options.out, [*(name for each in names.values() for name in each), RECORDS])
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    failed = _straighten_files(names, options, model)
    print(f"{len(files) - failed} of {len(files)} files straightened into {options.out}")
    return failed


def _image_files(folder: pathlib.Path, ignored: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files in a folder and its subfolders that are not hidden, by name.

    Args:
        folder: the folder.
        ignored: a folder that is left out, the one for the results.
    """
    files = list(_walk(folder, {ignored.resolve()}))
    if not files:
        raise RunError(f"{folder}: contains no files")
    return files


def _walk(folder: pathlib.Path, visited: set[pathlib.Path]) -> Iterator[pathlib.Path]:
    """The files of a folder whose real path is not in `visited`, which is updated."""
    try:
        if (real := folder.resolve()) in visited:  # a link may lead back to its parent
            return
        entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        # A broken link counts as a file that cannot be read. Reading a pipe could block forever.
        folders = {each for each in entries if each.is_dir()}
        files = {each for each in entries if each.is_file() or not each.exists()}
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error
    visited.add(real)
    for entry in entries:
        if entry in folders:
            yield from _walk(entry, visited)
        elif entry in files:
            yield entry


def _check_applicable(run: pathlib.Path, model: "LoadedModel") -> None:
    """Raises `RunError` unless the network warps single images that files can represent."""
    config = model.config
    if "uint8" not in model.image_dtypes:
        dtype = " or ".join(model.image_dtypes)
        raise RunError(f"{run}: trained on {dtype} images, whose scale image files do not have")
    if config.model.model in PROJECTION_MODELS:
        raise RunError(f"{run}: --model {config.model.model} takes volumes, not images")
    if config.data.task == "add":
        raise RunError(f"{run}: --task add takes pairs of images, not single images")
    if not model.transforms:
        raise RunError(f"{run}: --model {config.model.model} has no transformer of images")


def _output_names(
    folder: pathlib.Path, files: Sequence[pathlib.Path], count: int
) -> dict[pathlib.Path, list[str]]:
    """Names the `count` results of each file, relative to the folder for results.

    Raises:
        RunError: if the results of two files have the same name.
    """
    suffixes = [f"_{i}.png" for i in range(count)] if count > 1 else [".png"]
    names = {file: [_output_name(folder, file, each) for each in suffixes] for file in files}
    owners: dict[str, pathlib.Path] = {}
    for file, its_names in names.items():
        for name in its_names:
            other = owners.setdefault(name, file)
            if other != file:
                raise RunError(f"{other} and {file.name} would both become {name}; rename one")
    return names


def _output_name(folder: pathlib.Path, file: pathlib.Path, suffix: str) -> str:
    """The name of a file with another suffix. If it becomes too long, a hash replaces its end."""
    stem = file.stem
    if len(os.fsencode(stem + suffix)) > MAX_NAME_BYTES:
        suffix = f"-{hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]}{suffix}"
        while len(os.fsencode(stem + suffix)) > MAX_NAME_BYTES:
            stem = stem[:-1]
    return (file.relative_to(folder).parent / (stem + suffix)).as_posix()


def _check_unused(folder: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).exists():
            raise RunError(f"{folder / name}: exists already; give another --out")


def _straighten_files(
    names: Mapping[pathlib.Path, Sequence[str]], options: Apply, model: "LoadedModel"
) -> int:
    """Writes the results and records of files, and returns the number of unreadable files."""
    failed = 0
    with contextlib.closing(JsonLines(options.out / RECORDS, 0)) as records:
        for file, its_names in names.items():
            try:
                for record in _straighten_file(file, its_names, options.out, model):
                    name = file.relative_to(options.images).as_posix()
                    records.append({"file": name} | record)
            except ImageError as error:
                print_error(error, 1)
                failed += 1
    return failed


def _straighten_file(
    file: pathlib.Path, names: Sequence[str], out: pathlib.Path, model: "LoadedModel"
) -> Iterator[dict[str, Any]]:
    """Writes the results of a file, and yields the record of each.

    Raises:
        ImageError: if the file cannot be read.
        RunError: if a result cannot be written.
    """
    image, margins = to_array(read_image(file)), (0, 0)
    if model.config.data.keep_aspect:
        image, margins = pad_to_aspect(image, model.image_shape[:2])
    resized = model.resize(image[None])
    prediction, thetas = _describe_prediction(model, resized), model.theta(resized)
    outputs = model.straighten(image[None], thetas)
    if len(names) == 1:
        thetas, outputs = (thetas,), (outputs,)
    for name, (theta,), (output,), settings in zip(
        names, thetas, outputs, model.frame_settings, strict=True
    ):
        with writing(out / name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / name, encode_png(output))
        shapes = {"input_shape": image.shape[:2], "output_shape": output.shape[:2]}
        record = {"output": name, **prediction, **shapes, "margins": margins}
        yield record | settings | {"theta": theta.tolist()}


def _describe_prediction(model: "LoadedModel", images: Any) -> dict[str, Any]:
    """The most probable class of an image `[1, h, w, c]`, its name and its probability."""
    (probabilities,) = model.predict(images)
    label = int(probabilities.argmax())
    return {
        "prediction": label,
        "class_name": model.class_names[label],
        "confidence": float(probabilities[label]),
    }


if __name__ == "__main__":
    sys.exit(main())
