"""Trains one network: `python -m experiments.train [PRESET] [flags]`."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import command_line, run_folder, stopping
from experiments import config as configuration
from experiments.config import Config, ConfigError
from experiments.exits import exit_code, fail
from experiments.records import Lines, RunError, provenance, read_epochs, write_json, writing
from experiments.stopping import Stop, Stopped

if TYPE_CHECKING:  # --help and a wrong flag should not wait for JAX
    from collections.abc import Mapping

    import jax
    import numpy as np

    from experiments.checkpoints import Checkpoints, Snapshot
    from experiments.experiment import Experiment
    from experiments.progress import Progress
    from stn_jax.training import Batch, Params, TrainState

STEPS_PER_DISPATCH = 100  # enough to hide the dispatch, few enough to keep the bar moving
EVALUATION_BATCH = 512  # in equal parts on any power of two of devices
REMEDY = "lower --learning-rate or set --clip-norm, in another --run-dir"


class DivergedError(RunError):
    """A training that came to a number that is not finite; it would again."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains; says in one line what went wrong."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        preset, config = command_line.parse(given, "python -m experiments.train")
        line = shlex.join(["python", "-m", "experiments.train", *given])
        if "member" in configuration.mesh_sizes(config.run):
            raise ConfigError(f"--mesh must spread batches, as batch=N does; got {config.run.mesh}")
        with _noticing_losses(config.run.coordinator):
            if config.run.process_id:
                _follow(config, line)
            else:
                run(config, preset, line)

    return exit_code(command)


@contextlib.contextmanager
def _noticing_losses(coordinator: str | None) -> Iterator[None]:
    """Ends with one line where another process is lost, of which JAX tells by `RuntimeError`."""
    try:
        yield
    except RuntimeError as error:
        if coordinator is None:
            raise
        reason = str(error).splitlines()[0]
        fail(f"--coordinator {coordinator}: a process was lost: {reason}", 1)
        os._exit(1)  # JAX would wait for the one that is lost, and then abort


def run(config: Config, preset: str, command: str) -> dict[str, Any]:
    """Trains in the configured run folder, or continues there; the summary.

    Raises:
        Stopped: by a signal, with how to continue.
    """
    folder = run_folder.choose(config, preset)

    def stopped(number: int) -> Stopped:
        if not (folder / "config.json").exists():
            return Stopped(number, "nothing was recorded yet")
        return Stopped(number, f"--run-dir {shlex.quote(str(folder))} --resume auto continues it")

    def abandon(number: int) -> None:
        remove_start()
        fail(stopped(number), 0)

    try:
        with run_folder.lock(folder) as remove_start, stopping.listening(abandon) as stop:
            summary = run_folder.claim(folder, config)
            if summary is None:
                print(f"{preset}: run folder {folder}", flush=True)
                summary = train(config, folder, command, stop)
            else:
                print(f"{folder}: finished already")
    except Stopped as signalled:
        raise stopped(signalled.number) from None
    print(f"test error {summary['test_error']:.2f} %, {summary['num_params']:,} parameters")
    if config.run.figures and (folder / "figures").exists():
        print(f"pictures in {folder / 'figures'}")
    return summary


def _follow(config: Config, command: str) -> None:
    """Trains as another process than the first, whose records are the run's.

    All processes run the same programs in the same order; this one's records go.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        stopping.listening(lambda number: shutil.rmtree(folder)) as stop,
    ):
        train(config, pathlib.Path(folder), command, stop)


class Tested(NamedTuple):
    """What the test set says.

    Attributes:
        means: over its examples, by name.
        confusions: how many examples of each label, a row each, have each prediction.
    """

    means: dict[str, float]
    confusions: np.ndarray


class Programs(NamedTuple):
    """The compiled parts of a training.

    Attributes:
        order: `(key, epoch) -> [steps, b]`, the examples of each batch.
        steps: `(state, data, order) -> (state, values of each step)`.
        evaluate: `(params, data, key) -> means`.
        test: `(params, data, key) -> values of each example`.
        place: puts arrays where these take them from.
    """

    order: Callable[..., Any]
    steps: Callable[..., Any]
    evaluate: Callable[..., Any]
    test: Callable[..., Any]
    place: Callable[[Any], Any]


def train(config: Config, folder: pathlib.Path, command: str, stop: Stop) -> dict[str, Any]:
    """Trains from the newest checkpoint in the folder, or from the start; the first's summary.

    Raises:
        Stopped: by a signal; while training, after a checkpoint of where it came.
    """
    import jax

    from experiments import checkpoints as saving
    from experiments import devices
    from experiments import experiment as setup

    mesh = devices.start(config.run)
    experiment = setup.build(config)
    data = experiment.dataset
    sizes = f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,}"
    print(f"{data.name}: {sizes} test examples", flush=True)
    programs = compile_programs(experiment, mesh)
    state = setup.initial_state(experiment)
    snapshot = saving.at_start_of_epoch(state, experiment.steps_per_epoch)
    checkpoints = saving.Checkpoints(folder / "checkpoints")
    if checkpoints.steps:
        snapshot = checkpoints.restore(state)
        step = int(snapshot.state.step)
        print(f"continuing after step {step}", flush=True)
        read_epochs(folder / "metrics.jsonl", step // experiment.steps_per_epoch)
        checkpoints.drop_after(step)
    snapshot = saving.from_first(snapshot)
    state = _train_epochs(experiment, programs, snapshot, folder, checkpoints, stop)
    tested = test(experiment, programs, state.params)
    if config.run.process_id:
        return {}
    return write_end(experiment, jax.device_get(state.params), tested, folder, command)


def compile_programs(experiment: Experiment, mesh: jax.sharding.Mesh | None = None) -> Programs:
    """The compiled parts of an experiment's training; compilation happens at first use."""
    import jax

    from experiments import devices
    from stn_jax import training

    prepare = devices.shard_batches(experiment.prepare, mesh)
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
                devices.shard_batches(experiment.train_prepare, mesh),
            )
        ),
        evaluate=jax.jit(
            functools.partial(
                training.evaluate,
                experiment.test_objective,
                prepare,
                batch_size=EVALUATION_BATCH,
            )
        ),
        test=jax.jit(
            functools.partial(
                training.each_example,
                experiment.each_objective,
                prepare,
                batch_size=EVALUATION_BATCH,
            ),
            out_shardings=devices.everywhere(mesh),
        ),
        place=functools.partial(devices.replicate, mesh=mesh),
    )


def _train_epochs(
    experiment: Experiment,
    programs: Programs,
    snapshot: Snapshot,
    folder: pathlib.Path,
    checkpoints: Checkpoints,
    stop: Stop,
) -> TrainState:
    """The state after the last epoch; every epoch leaves its records, and some a checkpoint.

    Raises:
        DivergedError: if a number is not finite.
        Stopped: by a signal.
    """
    import jax

    from experiments import experiment as setup
    from experiments import gallery, preparation, progress
    from experiments.board import Board
    from experiments.checkpoints import at_start_of_epoch

    epochs, every = experiment.config.optimisation.epochs, experiment.config.run.checkpoint_every
    steps = experiment.steps_per_epoch
    done = int(snapshot.state.step) // steps
    snapshot = snapshot._replace(state=programs.place(snapshot.state))
    train_data, validation_data, validation_key = programs.place(
        (
            preparation.as_batch(experiment.dataset.train),
            preparation.as_batch(experiment.dataset.validation),
            experiment.key(setup.VALIDATION),
        )
    )
    probe = gallery.Probe(experiment)
    with contextlib.ExitStack() as files:

        def opened(file: Any) -> Any:
            return files.enter_context(contextlib.closing(file))

        metrics = opened(Lines(folder / "metrics.jsonl", done))
        frames = opened(Lines(folder / "frames.jsonl", done))
        board = opened(Board(folder / "tensorboard", done))
        bar = files.enter_context(progress.show(epochs * steps, int(snapshot.state.step)))
        if done == 0:
            frames.append({"epoch": 0, "theta": probe.theta(jax.device_get(snapshot.state.params))})
        for epoch in range(done + 1, epochs + 1):
            snapshot = _train_epoch(experiment, programs, snapshot, train_data, bar, stop)
            state = snapshot.state
            if state.diverged:
                raise DivergedError(_diverged(snapshot, steps, checkpoints))
            if int(state.step) < epoch * steps:
                checkpoints.save(snapshot)
                stop.check()
            means = programs.evaluate(state.params, validation_data, validation_key)
            record = {"epoch": epoch} | epoch_record(experiment, snapshot, means)
            if not math.isfinite(record["validation_loss"]):
                raise DivergedError(_unfit(record, checkpoints))
            metrics.append(record)
            frames.append({"epoch": epoch, "theta": probe.theta(jax.device_get(state.params))})
            board.add_scalars(record, epoch)
            bar.epoch_done(record)
            snapshot = at_start_of_epoch(state, steps)
            due = epoch % every == 0 and checkpoints.due
            stops = _agreed(stop, state)
            if due or epoch == epochs or stops:
                checkpoints.save(snapshot)
            if stops:
                stop.check()
        stop.patient = False
        board.add_images(probe.pictures(jax.device_get(snapshot.state.params)), epochs)
    return snapshot.state


def _diverged(snapshot: Snapshot, steps: int, checkpoints: Checkpoints) -> str:
    """What to say of the step that was not taken, after a checkpoint of the state before it."""
    step = int(snapshot.state.step)
    good = "no step was good"
    if step > 0:
        checkpoints.save(snapshot)
        good = f"the last good state is {checkpoints.path(step)}"
    found = {name: snapshot.values[name][step % steps] for name in ("loss", "gradient_norm")}
    bad = [f"{name.replace('_', ' ')} is {x}" for name, x in found.items() if not math.isfinite(x)]
    reason = f"its {bad[0]}" if bad else "its parameters are not finite"
    return (
        f"training diverged at step {step + 1}, in epoch {step // steps + 1}: {reason}; "
        f"{REMEDY}; {good}"
    )


def _unfit(record: dict[str, Any], checkpoints: Checkpoints) -> str:
    """What to say of an epoch after which the validation loss is not finite."""
    good = "there is no checkpoint yet"
    if checkpoints.steps:
        good = f"the last good checkpoint is {checkpoints.path(checkpoints.steps[-1])}"
    return (
        f"training diverged in epoch {record['epoch']}: the validation loss is "
        f"{record['validation_loss']}; {REMEDY}; {good}"
    )


def _train_epoch(
    experiment: Experiment,
    programs: Programs,
    snapshot: Snapshot,
    data: Batch,
    bar: Progress,
    stop: Stop,
) -> Snapshot:
    """The snapshot at the end of the epoch, or after the part in which a signal came."""
    started = time.perf_counter()
    state, steps = snapshot.state, experiment.steps_per_epoch
    values = {name: each.copy() for name, each in snapshot.values.items()}
    order = programs.order(state.key, int(state.step) // steps)

    def collect(part: slice, means: Mapping[str, jax.Array]) -> None:
        for name, each in values.items():
            each[part] = means[name]
        bar.advance(means)

    pending = []
    for part in _parts(int(state.step) % steps, steps):
        state, means = programs.steps(state, data, order[part])
        stop.patient = True
        pending.append((part, means))
        if len(pending) > 1:  # collected while the device is at this part: it never waits for that
            collect(*pending.pop(0))
        if _agreed(stop, state):
            break
    collect(*pending.pop())
    return snapshot._replace(
        state=state, values=values, seconds=snapshot.seconds + time.perf_counter() - started
    )


def _agreed(stop: Stop, state: TrainState) -> bool:
    """Whether a signal came to any of the processes, which stop together in a state."""
    import jax

    from experiments import devices

    if jax.process_count() > 1:  # two programs at once would get each other's messages
        jax.block_until_ready(state)
    number = devices.largest(stop.number or 0)
    if number:  # not where there is none: a signal may have come meanwhile
        stop.number = number
    return bool(number)


def _parts(first: int, steps: int) -> Iterator[slice]:
    """An epoch's steps from `first` on, in the parts that are one program."""
    while first < steps:
        last = min(steps, (first // STEPS_PER_DISPATCH + 1) * STEPS_PER_DISPATCH)
        yield slice(first, last)
        first = last


def epoch_record(
    experiment: Experiment, snapshot: Snapshot, validation: dict[str, Any]
) -> dict[str, Any]:
    """What to record of an epoch, given the means of its validation."""
    import numpy as np

    step, seconds = int(snapshot.state.step), snapshot.seconds
    means = {name: np.mean(each) for name, each in snapshot.values.items()}
    record = {
        "step": step,
        "train_loss": means["loss"],
        "train_error": 100 * means["error"],
        "gradient_norm": means["gradient_norm"],
        "learning_rate": experiment.schedule(step - 1),
        "seconds": seconds,
        "images_per_second": len(snapshot.values["loss"])
        * experiment.config.optimisation.batch_size
        / seconds,
        "validation_loss": validation["loss"],
        "validation_error": 100 * validation["error"],
    }
    record |= {"outside": validation["outside"]} if "outside" in validation else {}
    return {name: np.asarray(value).item() for name, value in record.items()}


def test(experiment: Experiment, programs: Programs, params: Params) -> Tested:
    """What the test set says of parameters; the only place that looks at it."""
    import jax
    import numpy as np

    from experiments import experiment as setup
    from experiments import preparation

    data, key = programs.place(
        (preparation.as_batch(experiment.dataset.test), jax.random.key(setup.TEST_KEY))
    )
    values = jax.device_get(programs.test(params, data, key))
    label, prediction = values.pop("label"), values.pop("prediction")
    count = preparation.num_classes(experiment.config.data, experiment.dataset.num_classes)
    confusions = np.zeros((count, count), int)
    np.add.at(confusions, (label, prediction), 1)
    means = {name: float(np.mean(each, dtype=np.float64)) for name, each in values.items()}
    return Tested(means, confusions)


def write_end(
    experiment: Experiment, params: Params, tested: Tested, folder: pathlib.Path, command: str
) -> dict[str, Any]:
    """Writes what a run ends with, the summary last; that again."""
    from experiments import diagnostics, gallery
    from experiments.figures.diagnostics import draw_diagnostics

    config = experiment.config
    summary = summarise(experiment, params, tested, folder)
    if config.run.diagnostics:
        summary["diagnostics"] = diagnostics.measure(experiment, params)
    summary |= {"command": command, **provenance()}
    confusions = {"label_by_prediction": tested.confusions.tolist()}
    write_json(folder / "confusions.json", confusions, indent=None)
    if config.run.figures:
        with writing(folder / "figures"):
            gallery.draw(folder, experiment, params)
            if config.run.diagnostics:
                path = folder / "figures" / "diagnostics.png"
                draw_diagnostics(path, summary["diagnostics"])
    write_json(folder / "summary.json", summary)
    return summary


def summarise(
    experiment: Experiment, params: Params, tested: Tested, folder: pathlib.Path
) -> dict[str, Any]:
    """What a run comes to.

    Raises:
        RunError: if the records of an epoch are missing.
    """
    from experiments import experiment as setup
    from experiments import gallery, restored
    from experiments.figures.confusions import class_errors

    optimisation, means = experiment.config.optimisation, tested.means
    steps = optimisation.epochs * experiment.steps_per_epoch
    history = read_epochs(folder / "metrics.jsonl", optimisation.epochs)
    seconds = sum(record["seconds"] for record in history)
    return {
        "test_error": 100 * means["error"],
        "test_loss": means["loss"],
        "validation_error": history[-1]["validation_error"],
        **({"outside": means["outside"]} if "outside" in means else {}),
        **gallery.angle_summary(experiment, params),
        "per_class_error": class_errors(tested.confusions).tolist(),
        "num_params": setup.num_params(params),
        "params_sha256": setup.params_sha256(params),
        "epochs": optimisation.epochs,
        "steps": steps,
        "train_seconds": seconds,
        "images_per_second": steps * optimisation.batch_size / seconds,
        "seed": optimisation.seed,
        "data": restored.description(experiment),
        "dataset": experiment.dataset.name,
        "train_examples": len(experiment.dataset.train),
    }


if __name__ == "__main__":
    sys.exit(main())
