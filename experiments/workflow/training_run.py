"""Trains runs in their folders: one network, or several members in one program."""

import contextlib
import pathlib
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from experiments.analysis import diagnostics, run_figures
from experiments.analysis.failed_runs import explain_failure
from experiments.analysis.probe import Probe
from experiments.analysis.summary import summarise
from experiments.runs.checkpoints import Checkpoints, Snapshot, at_start_of_epoch, restore_common
from experiments.runs.folder import claim_folder, hold_folders
from experiments.runs.records import provenance, read_config, read_epochs, read_lines, write_json
from experiments.runs.signals import Stop, listening
from experiments.runs.trackers import Tracker, open_trackers, test_results
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.settings.conversion import config_differences, config_to_dict
from experiments.settings.errors import print_warning
from experiments.settings.relations import has_user_defined_family
from experiments.training import loop, sharding
from experiments.training.experiment import Experiment, build_experiment
from experiments.training.image_description import describe_images
from experiments.training.loop import Callback, DivergedError, Loop, Trainer
from experiments.training.metrics import Tester, TestMetrics, make_tester
from experiments.training.models import make_transform
from experiments.training.population import PopulationTrainer
from experiments.training.single import SingleTrainer
from experiments.workflow.recording import CheckpointSaver, ProgressBar, RunRecorder
from stn_jax.training import Params, Variables

Summary = dict[str, Any]
# Called when a member diverges: a kill after it must not make the member diverge again.
OnDiverged = Callable[[int, DivergedError], None]


def check_family(config: Config) -> None:
    """Imports the user-defined family of a run, if it has one, before anything is written.

    Raises:
        ConfigError: if the family cannot be imported or does not fit the model.
        RunError: if the devices cannot be used.
    """
    if has_user_defined_family(config):
        sharding.start(config.run)  # first, because importing a module may start JAX
        make_transform(config.model)


def writes_records(config: Config) -> bool:
    """Whether this process is the first of its run. Joins the processes of a job."""
    return sharding.writes_records(config.run)


def train_run(config: Config, folder: pathlib.Path, name: str, command: str) -> Summary:
    """Trains one network in its folder, or continues there.

    Args:
        config: the settings.
        folder: the run folder.
        name: of the preset, for messages.
        command: for the summary.

    Returns:
        The summary of the run.

    Raises:
        RunError: if the folder cannot be used.
        DivergedError: if a number is not finite.
        Stopped: by a signal, after a checkpoint.
    """

    def hint() -> str:
        if not (folder / "config.json").exists():
            return "nothing was recorded yet"
        return f"--run-dir {shlex.quote(str(folder))} --resume auto continues it"

    summaries = train_runs([config], [folder], name, command, hint, _raise)
    assert summaries[0] is not None  # a divergence raises an error
    return summaries[0]


def train_runs(
    configs: Sequence[Config],
    folders: Sequence[pathlib.Path],
    name: str,
    command: str,
    hint: Callable[[], str],
    on_diverged: OnDiverged,
) -> list[Summary | None]:
    """Trains members of one program, each in a folder of its own, or continues there.

    Args:
        configs: of the members. Several differ only in the seed and in `run`.
        folders: of the members.
        name: of the preset or cell, for messages.
        command: for the summaries.
        hint: how to continue, for the message after a signal.
        on_diverged: called with the index and the error of each member that diverges.

    Returns:
        The summary of each member; None if it diverged.

    Raises:
        InUseError: if another process holds one of the folders.
        RunError: if one of them cannot be used.
        Stopped: by a signal, after a checkpoint.
    """
    with hold_folders(folders, hint) as stop:
        summaries = [
            _claim(config, folder) for config, folder in zip(configs, folders, strict=True)
        ]
        left = [i for i, summary in enumerate(summaries) if summary is None]
        if left:
            places = ", ".join(str(folders[i]) for i in left)
            print(f"{name}: run folder {places}", flush=True)
            trained = _train(
                [configs[i] for i in left],
                [folders[i] for i in left],
                command,
                stop,
                lambda index, error: on_diverged(left[index], error),
            )
            for i, summary in zip(left, trained, strict=True):
                summaries[i] = summary
        else:
            print(f"{', '.join(map(str, folders))}: finished already")
    return summaries


def follow(config: Config, command: str) -> None:
    """Trains as one of several processes, but not the first, which writes the records.

    All processes run the same programs in the same order. The files of this one are deleted.
    """
    config = replace_settings(config, {"tracker": "none"})
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(lambda number: shutil.rmtree(folder)) as stop,
    ):
        _train([config], [pathlib.Path(folder)], command, stop, _raise)


def _raise(_: int, error: DivergedError) -> None:
    raise error


def _claim(config: Config, folder: pathlib.Path) -> Summary | None:
    def differences(folder: pathlib.Path) -> list[str]:
        return config_differences(read_config(folder), config)

    return claim_folder(folder, config_to_dict(config), differences, config.run.resume)


def _train(
    configs: Sequence[Config],
    folders: Sequence[pathlib.Path],
    command: str,
    stop: Stop,
    on_diverged: OnDiverged,
) -> list[Summary | None]:
    """Trains members from their newest common checkpoint, or from the start."""
    experiments, trainer, mesh = _trainer(configs)
    data = experiments[0].dataset
    sizes = f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,}"
    print(f"{data.name}: {sizes} test examples", *data.notes, sep=f"\n{data.name}: ")
    print(f"images: {describe_images(experiments[0])}", flush=True)
    checkpoints = [Checkpoints(folder / "checkpoints") for folder in folders]
    snapshots = _restore(trainer, checkpoints, folders)
    run = configs[0].run
    training = loop.start(trainer, configs[0].optimisation.epochs, snapshots)
    probe = Probe(experiments[0])  # test images are the same for all seeds
    saver = CheckpointSaver(checkpoints, run.checkpoint_every)
    with contextlib.ExitStack() as tracking:
        trackers = [
            tracking.enter_context(open_trackers(config, folder, training.whole_epochs))
            for config, folder in zip(configs, folders, strict=True)
        ]
        recorders = [RunRecorder(i, probe, folder, trackers[i]) for i, folder in enumerate(folders)]
        loop.run(training, [*recorders, ProgressBar(), saver, _Divergence(on_diverged)], stop)
        test = make_tester(experiments[0], mesh)
        return _finish_members(training, experiments, test, folders, trackers, command)


def _trainer(configs: Sequence[Config]) -> tuple[Sequence[Experiment], Trainer, Mesh | None]:
    """The experiments of the members, their trainer, and the mesh for the test set.

    Members are tested on one device, one after another.
    """
    if len(configs) > 1:
        population = PopulationTrainer(configs, None, sharding.member_mesh(len(configs)))
        return population.experiments, population, None
    mesh = sharding.start(configs[0].run)
    experiment = build_experiment(configs[0])
    return [experiment], SingleTrainer(experiment, mesh), mesh


def _finish_members(
    training: Loop,
    experiments: Sequence[Experiment],
    test: Tester,
    folders: Sequence[pathlib.Path],
    trackers: Sequence[Sequence[Tracker]],
    command: str,
) -> list[Summary | None]:
    """Tests the members that did not diverge, and writes their results."""
    summaries: list[Summary | None] = [None] * len(experiments)
    for i in training.members:
        params, variables = training.params(i), training.variables(i)
        tested = test(params, variables)
        if sharding.writes_records(experiments[i].config.run):
            arguments = (experiments[i], params, variables, tested, folders[i], command)
            summaries[i] = summary = finish_run(*arguments)
            for tracker in trackers[i]:
                tracker.add_results(test_results(summary), training.epochs)
    return summaries


class _Divergence(Callback):
    """Passes on the errors of members that diverge, with all details."""

    def __init__(self, on_diverged: OnDiverged) -> None:
        self._on_diverged = on_diverged

    def on_divergence(self, loop: Loop, index: int, error: DivergedError) -> None:
        self._on_diverged(index, error)


def _restore(
    trainer: Trainer, checkpoints: Sequence[Checkpoints], folders: Sequence[pathlib.Path]
) -> list[Snapshot]:
    """The snapshots to continue from. Those of a new training are at step 0."""
    steps, states = trainer.steps_per_epoch, trainer.initial_states()
    restored = restore_common(checkpoints, states)
    if restored is None:
        snapshots = [at_start_of_epoch(state, steps) for state in states]
    else:
        snapshots = restored
        step = int(snapshots[0].state.step)
        print(f"continuing after step {step}", flush=True)
        for folder in folders:
            read_epochs(folder / "metrics.jsonl", step // steps)
    return [sharding.snapshot_of_first(snapshot) for snapshot in snapshots]


def finish_run(
    experiment: Experiment,
    params: Params,
    variables: Variables | None,
    tested: TestMetrics,
    folder: pathlib.Path,
    command: str,
) -> Summary:
    """Writes the results of a run, and returns the summary.

    The summary is the last record. Figures come after it, because a failure to draw one must not
    cost the run.
    """
    config = experiment.config
    summary = summarise(experiment, params, variables, tested, folder)
    if config.run.diagnostics:
        summary["diagnostics"] = diagnostics.measure(experiment, params, variables)
    summary |= {"command": command, **provenance()}
    confusions = {"label_by_prediction": tested.confusions.tolist()}
    write_json(folder / "confusions.json", confusions, indent=None)
    write_json(folder / "summary.json", summary)
    if config.run.figures:
        undrawn = run_figures.draw(
            folder, experiment, params, summary.get("diagnostics"), variables
        )
        if undrawn is not None:
            print_warning(f"{undrawn}; python -m experiments.figures draws them again")
    labels = experiment.dataset.validation.labels
    for line in explain_failure(config, labels, read_lines(folder / "metrics.jsonl")):
        print_warning(f"{folder}: {line}")
    return summary
