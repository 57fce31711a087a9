"""Draws the figures of runs again: `python -m experiments.figures RUN_DIR [RUN_DIR ...]`."""

import pathlib
import sys

from experiments.settings.compilation_cache import FLAG, use_compilation_cache
from experiments.settings.errors import print_error, run_command

USAGE = f"usage: python -m experiments.figures RUN_DIR [RUN_DIR ...] [{FLAG}]"
UNDRAWN = 2  # the exit code if a figure could not be drawn


def main(arguments: list[str] | None = None) -> int:
    """Draws the figures of the given run folders again, and returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [each for each in given if each != FLAG]

    def command() -> int:
        if not arguments or arguments[0].startswith("-"):
            print(f"{USAGE}\n\nDraws the figures of runs again, from their newest checkpoints.")
            print(f"The exit code is {UNDRAWN} if a figure could not be drawn.")
            print(f"{FLAG} does not keep compiled programs in the user's cache folder.")
            return 0 if arguments in (["-h"], ["--help"]) else 2
        use_compilation_cache(FLAG not in given)
        from experiments.analysis import run_figures  # imports JAX, and --help must stay fast

        code = 0
        for argument in arguments:
            folder = pathlib.Path(argument)
            undrawn = run_figures.redraw(folder)
            if undrawn is None:
                print(f"figures in {folder / 'figures'}")
            else:
                code = print_error(undrawn, UNDRAWN)
        return code

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
