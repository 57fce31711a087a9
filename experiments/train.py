"""Trains one network: `python -m experiments.train [PRESET] [flags]`."""

import contextlib
import functools
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import config as configuration
from experiments import run_folder
from experiments.config import Config, ConfigError
from experiments.datasets import DatasetError
from experiments.records import Lines, RunError, provenance, read_epochs, write_json

STEPS_PER_DISPATCH = 100  # enough to hide the dispatch, few enough to keep the bar moving
EVALUATION_BATCH = 500


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains; says in one line what went wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        preset, config = configuration.parse(arguments, "python -m experiments.train")
        command = shlex.join(["python", "-m", "experiments.train", *arguments])
        run(config, preset, command)
    except ConfigError as error:
        return _fail(error, 2)
    except (RunError, DatasetError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt as interrupt:
        return _fail("; ".join(["interrupted", *interrupt.args]), 130)
    return 0


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def run(config: Config, preset: str, command: str) -> dict[str, Any]:
    """Trains in the configured run folder, or continues there; the summary.

    Raises:
        KeyboardInterrupt: with how to continue, where anything was recorded.
    """
    folder = run_folder.choose(config, preset)
    try:
        with run_folder.lock(folder):
            summary = run_folder.claim(folder, config)
            if summary is None:
                print(f"{preset}: run folder {folder}", flush=True)
                summary = train(config, folder, command)
            else:
                print(f"{folder}: finished already")
    except KeyboardInterrupt:
        if not (folder / "config.json").exists():
            raise KeyboardInterrupt("nothing was recorded yet") from None
        where = shlex.quote(str(folder))
        raise KeyboardInterrupt(f"--run-dir {where} --resume auto continues it") from None
    print(f"test error {summary['test_error']:.2f} %, {summary['num_params']:,} parameters")
    if config.run.figures and (folder / "figures").exists():
        print(f"pictures in {folder / 'figures'}")
    return summary


class Programs(NamedTuple):
    """The compiled parts of a training.

    Attributes:
        order: `(key, epoch) -> [steps, b]`, the examples of each batch.
        steps: `(state, data, order) -> (state, values of each step)`.
        evaluate: `(params, data, key) -> means`.
    """

    order: Callable[..., Any]
    steps: Callable[..., Any]
    evaluate: Callable[..., Any]


def train(config: Config, folder: pathlib.Path, command: str) -> dict[str, Any]:
    """Trains from the newest checkpoint in the folder, or from the start; the summary."""
    # Here, since they import JAX, which --help and a wrong flag should not wait for.
    from experiments import experiment as setup
    from experiments import gallery
    from experiments.checkpoints import Checkpoints

    experiment = setup.build(config)
    programs = compile_programs(experiment)
    state = setup.initial_state(experiment)
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
            print(f"continuing after step {int(state.step)}", flush=True)
        state = _train_epochs(experiment, programs, state, folder, checkpoints)
    summary = _summary(experiment, programs, state, folder)
    summary |= {"command": command, **provenance()}
    if config.run.figures:
        gallery.draw(folder, experiment, state.params)
    write_json(folder / "summary.json", summary)
    return summary


def compile_programs(experiment: Any) -> Programs:
    """The compiled parts of an experiment's training; compilation happens at first use."""
    import jax

    from stn_jax import training

    return Programs(
        order=jax.jit(
            functools.partial(
                training.epoch_order,
                num_examples=len(experiment.dataset.train.labels),
                batch_size=experiment.config.optimisation.batch_size,
            )
        ),
        steps=jax.jit(
            functools.partial(
                training.train_steps,
                experiment.train_objective,
                experiment.optimizer,
                experiment.prepare,
            )
        ),
        evaluate=jax.jit(
            functools.partial(
                training.evaluate,
                experiment.test_objective,
                experiment.prepare,
                batch_size=EVALUATION_BATCH,
            )
        ),
    )


def _train_epochs(
    experiment: Any, programs: Programs, state: Any, folder: pathlib.Path, checkpoints: Any
) -> Any:
    """The state after the last epoch; every epoch leaves its records, and some a checkpoint.

    Raises:
        RunError: if an epoch's loss is not finite, of which nothing is left.
    """
    import numpy as np
    from tensorboardX import SummaryWriter

    from experiments import experiment as setup
    from experiments import gallery, preparation, progress

    epochs, every = experiment.config.optimisation.epochs, experiment.config.run.checkpoint_every
    done = int(state.step) // experiment.steps_per_epoch
    train_data = preparation.as_batch(experiment.dataset.train)
    validation_data = preparation.as_batch(experiment.dataset.validation)
    validation_key = experiment.key(setup.VALIDATION)
    probe = gallery.Probe(experiment)
    read_epochs(folder / "metrics.jsonl", done)
    saved = checkpoints.latest
    with contextlib.ExitStack() as files:

        def opened(file: Any) -> Any:
            return files.enter_context(contextlib.closing(file))

        metrics = opened(Lines(folder / "metrics.jsonl", done))
        frames = opened(Lines(folder / "frames.jsonl", done))
        board = opened(SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1))
        bar = files.enter_context(
            progress.show(epochs * experiment.steps_per_epoch, int(state.step))
        )
        if done == 0:
            frames.append({"epoch": 0, "theta": probe.theta(state.params)})
        for epoch in range(done + 1, epochs + 1):
            state, record = _train_epoch(experiment, programs, state, train_data, bar)
            means = programs.evaluate(state.params, validation_data, validation_key)
            record |= {"validation_loss": means["loss"], "validation_error": 100 * means["error"]}
            record |= {"outside": means["outside"]} if "outside" in means else {}
            record = {name: np.asarray(value).item() for name, value in record.items()}
            record = {"epoch": epoch} | record
            for loss in (record["train_loss"], record["validation_loss"]):
                if not math.isfinite(loss):
                    raise RunError(_diverged(epoch, loss, saved, folder))
            metrics.append(record)
            frames.append({"epoch": epoch, "theta": probe.theta(state.params)})
            for name, value in record.items():
                board.add_scalar(name, value, epoch)
            bar.epoch_done(record)
            if epoch % every == 0 or epoch == epochs:
                checkpoints.save(state)
                saved = record["step"]
        for tag, images in probe.pictures(state.params).items():
            board.add_images(tag, images, epochs, dataformats="NHWC")
    return state


def _diverged(epoch: int, loss: float, saved: int | None, folder: pathlib.Path) -> str:
    good = "there is no checkpoint yet"
    if saved is not None:
        good = f"the last good checkpoint is {folder / 'checkpoints' / str(saved)}"
    return (
        f"training diverged: the loss of epoch {epoch} is {loss}; lower --learning-rate or set "
        f"--clip-norm; {good}"
    )


def _train_epoch(
    experiment: Any, programs: Programs, state: Any, data: Any, bar: Any
) -> tuple[Any, dict[str, Any]]:
    """The state after an epoch, and what to record of it."""
    import numpy as np

    started = time.perf_counter()
    steps = experiment.steps_per_epoch
    order = programs.order(state.key, int(state.step) // steps)
    parts: list[dict[str, Any]] = []
    for start in range(0, steps, STEPS_PER_DISPATCH):
        state, values = programs.steps(state, data, order[start : start + STEPS_PER_DISPATCH])
        if parts:  # shown while the device is at the next part: it never waits for the bar
            bar.advance(parts[-1])
        parts.append(values)
    bar.advance(parts[-1])
    means = {name: np.mean(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    seconds = time.perf_counter() - started
    return state, {
        "step": int(state.step),
        "train_loss": means["loss"],
        "train_error": 100 * means["error"],
        "gradient_norm": means["gradient_norm"],
        "learning_rate": experiment.schedule(int(state.step) - 1),
        "seconds": seconds,
        "images_per_second": steps * experiment.config.optimisation.batch_size / seconds,
    }


def _summary(
    experiment: Any, programs: Programs, state: Any, folder: pathlib.Path
) -> dict[str, Any]:
    """What a run comes to; the only place that looks at the test set.

    Raises:
        RunError: if the records of an epoch are missing.
    """
    import jax

    from experiments import experiment as setup
    from experiments import gallery, preparation

    optimisation = experiment.config.optimisation
    history = read_epochs(folder / "metrics.jsonl", optimisation.epochs)
    test_data = preparation.as_batch(experiment.dataset.test)
    means = programs.evaluate(state.params, test_data, jax.random.key(setup.TEST_KEY))
    seconds = sum(record["seconds"] for record in history)
    return {
        "test_error": 100 * float(means["error"]),
        "test_loss": float(means["loss"]),
        "validation_error": history[-1]["validation_error"],
        **({"outside": float(means["outside"])} if "outside" in means else {}),
        **gallery.angle_summary(experiment, state.params),
        "num_params": setup.num_params(state.params),
        "params_sha256": setup.params_sha256(state.params),
        "epochs": optimisation.epochs,
        "steps": int(state.step),
        "train_seconds": seconds,
        "images_per_second": int(state.step) * optimisation.batch_size / seconds,
        "seed": optimisation.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
