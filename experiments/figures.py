"""Draws the figures of runs again: `python -m experiments.figures RUN_DIR [RUN_DIR ...]`."""

import pathlib
import sys

from experiments.settings.errors import run_command

USAGE = "usage: python -m experiments.figures RUN_DIR [RUN_DIR ...]"


def main(arguments: list[str] | None = None) -> int:
    """Draws the figures of the given run folders again, and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        if not arguments or arguments[0].startswith("-"):
            print(f"{USAGE}\n\nDraws the figures of runs again, from their newest checkpoints.")
            return 0 if arguments in (["-h"], ["--help"]) else 2
        from experiments.analysis import run_figures  # imports JAX, and --help must stay fast

        for argument in arguments:
            folder = pathlib.Path(argument)
            run_figures.redraw(folder)
            print(f"figures in {folder / 'figures'}")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
