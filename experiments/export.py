"""Exports a trained network: `python -m experiments.export RUN_DIR --out DIR`."""

import dataclasses
import os
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.runs.records import write_atomically, writing
from experiments.settings.errors import ConfigError, run_command

# Functions import what imports JAX: --help and a wrong folder must be answered fast.


@dataclasses.dataclass(frozen=True)
class Export:
    """Export the network of a finished run to files that JAX reads without this project.

    --out receives the parameters (params.safetensors), the functions as artefacts of jax.export
    for cpu, cuda and tpu and any number of images, model.json with the class names, and README.md,
    which shows how to load them. predict_DTYPE.jax_export computes class probabilities, and
    warp_DTYPE.jax_export theta and the warped images. DTYPE is that of the images: uint8 or
    float32. Normalisation is included. Networks without a transformer of images have no warp.
    """

    run: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run of experiments.train."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the files; created if there is none. It must be empty."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, exports the network and returns the exit code."""

    def command() -> None:
        export(tyro.cli(Export, prog="python -m experiments.export", args=arguments))

    return run_command(command)


def export(options: Export) -> None:
    """Writes the files of a network.

    Raises:
        ConfigError: before anything is written, if `out` is not empty.
        RunError: before anything is written, if the run cannot be used; later, if a file cannot be
            written.
    """
    _check_empty(options.out)

    import experiments
    from experiments.analysis.exported_model import export_model

    files = export_model(experiments.load(options.run))
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(options.out / name, content)
        print(f"{options.out / name}: {len(content):,} bytes")


def _check_empty(folder: pathlib.Path) -> None:
    with writing(folder):
        held = sorted(os.listdir(folder)) if os.path.lexists(folder) else []
    if held:
        raise ConfigError(f"--out {folder} must be empty or new; it holds {held[0]}")


if __name__ == "__main__":
    sys.exit(main())
