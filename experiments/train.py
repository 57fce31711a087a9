"""Trains one network: `python -m experiments.train [PRESET] [flags]`."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator

from experiments.runs.folder import choose_folder
from experiments.settings import command_line
from experiments.settings.compilation_cache import use_compilation_cache
from experiments.settings.config import Config, Run
from experiments.settings.errors import ConfigError, backend_failure, print_error, run_command
from experiments.settings.validation import mesh_sizes

PROGRAM = "python -m experiments.train"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        preset, config, _, adapted = command_line.parse(given, PROGRAM)
        if "member" in mesh_sizes(config.run):
            raise ConfigError(f"--mesh must spread batches, as batch=N does; got {config.run.mesh}")
        if adapted:
            print(f"{preset}: adapted to the flags: {', '.join(adapted)}", flush=True)
        with _reporting_losses(config.run):
            run(config, preset, shlex.join([*PROGRAM.split(), *given]))

    return run_command(command)


@contextlib.contextmanager
def _reporting_losses(run: Run) -> Iterator[None]:
    """Ends the process with one line if another process is lost: JAX raises `RuntimeError`."""
    try:
        yield
    except RuntimeError as error:
        import jax

        if not jax.distributed.is_initialized() or backend_failure():
            raise
        reason = str(error).splitlines()[0]
        flag = "--distributed" if run.distributed else f"--coordinator {run.coordinator}"
        print_error(f"{flag}: a process was lost: {reason}", 1)
        os._exit(1)  # a normal exit would wait for the lost process, and then abort


def run(config: Config, preset: str, command: str) -> None:
    """Trains in the configured run folder, or continues there, and prints the result."""
    use_compilation_cache(config.run.compilation_cache)
    from experiments.runs.tensorboard import tensorboard_command  # imports NumPy
    from experiments.runs.trackers import check_tracker
    from experiments.workflow import training_run  # imports JAX; --help must stay fast

    check_tracker(config.run.tracker)
    training_run.check_family(config)
    if not training_run.writes_records(config):
        training_run.follow(config, command)
        return
    folder = choose_folder(config.run.run_dir, preset)
    summary = training_run.train_run(config, folder, preset, command)
    print(f"test error {summary['test_error']:.2f} %, {summary['num_params']:,} parameters")
    if config.run.figures and (folder / "figures").exists():
        print(f"figures in {folder / 'figures'}")
    if (folder / "tensorboard").exists():
        print(f"TensorBoard: {tensorboard_command(folder)}")


if __name__ == "__main__":
    sys.exit(main())
