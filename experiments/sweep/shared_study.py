"""The optuna study that workers share: they take trials from it and record outcomes in it.

A trial is waiting, running, or finished: complete, pruned, or failed. Failed means that its worker
abandoned it. Three rules ensure that no trial is lost or counted twice, even if workers are killed:

- A worker holds the study's mutex while it creates, takes, fails or finishes trials. The database
  alone is not enough: SQLite lets two workers take the same waiting trial.
- A trial gets a heartbeat before it runs, so a running trial without a worker is always detected.
- A failed trial is repeated by a copy that records the failed trial's number. Any failed trial
  without a copy gets one, even if the worker that failed it was killed before copying it.
"""

import contextlib
import copy
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from experiments.runs.records import RunError
from experiments.settings.config import ConfigT
from experiments.settings.errors import ConfigError
from experiments.sweep.distinct import DistinctSampler, UntriedPoints
from experiments.sweep.space import StoredValue
from experiments.sweep.storage import (
    STORAGE_ERRORS,
    Mutex,
    StudyLocation,
    closing_connections,
    connect,
    ignore_optuna_warnings,
    storage_errors_as_run_errors,
)

MAX_RETRIES = 10  # per trial, because the trial itself may kill its workers
# A worker ends after so many impossible configurations in a row: detected when drawn, which is
# cheap, or only when trained.
MAX_IMPOSSIBLE_DRAWN, MAX_IMPOSSIBLE_TRAINED = 100, 20


class TrialOutcome(NamedTuple):
    """The result of a trial.

    Attributes:
        kind: trained to the last epoch, stopped early, diverged, or an invalid configuration.
        errors: validation error of each seed in %, of a complete trial.
        epochs: number of epochs trained.
        seconds: training time, divided equally among networks that train together.
        num_params: number of parameters of its network.
        reason: why the trial is not complete.
    """

    kind: Literal["complete", "pruned", "diverged", "impossible"]
    errors: Sequence[float] = ()
    epochs: int = 0
    seconds: float = 0.0
    num_params: int | None = None
    reason: str | None = None


def trial_outcome(trial: FrozenTrial) -> TrialOutcome | None:
    """The outcome of a trial; None if it is not finished or was abandoned."""
    finished = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return TrialOutcome(**trial.user_attrs["outcome"]) if finished else None


def retry_history(trial: FrozenTrial) -> list[int]:
    """Numbers of the abandoned trials that this trial repeats, the latest last."""
    return trial.system_attrs.get("retry_history", [])


def is_given_up(trial: FrozenTrial) -> bool:
    """Whether a trial was abandoned so often that it is not repeated."""
    return trial.state == TrialState.FAIL and len(retry_history(trial)) >= MAX_RETRIES


def trials_to_repeat(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The abandoned trials that have no copy yet."""
    repeated = {number for trial in trials for number in retry_history(trial)}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return [trial for trial in failed if trial.number not in repeated and not is_given_up(trial)]


class TrialCounts(NamedTuple):
    """Numbers of finished, running and waiting trials."""

    finished: int
    running: int
    waiting: int


def count_trials(trials: Sequence[FrozenTrial]) -> TrialCounts:
    """Counts trials, without impossible ones and those that are repeated."""
    states = [trial.state for trial in trials]
    outcomes = [trial_outcome(trial) for trial in trials]
    return TrialCounts(
        sum(each is not None and each.kind != "impossible" for each in outcomes)
        + sum(map(is_given_up, trials)),
        states.count(TrialState.RUNNING),
        states.count(TrialState.WAITING),
    )


class Heartbeats:
    """A thread that records heartbeats of this worker's trials."""

    def __init__(self, storage: RDBStorage, interval: float) -> None:
        self._storage, self._interval = storage, interval
        self._ids: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeats":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def start(self, trial_id: int) -> None:
        """Records the first heartbeat of a trial, and keeps recording."""
        self._storage.record_heartbeat(trial_id)
        self._ids.add(trial_id)

    def stop(self, trial_id: int) -> None:
        """Stops recording heartbeats of a trial."""
        self._ids.discard(trial_id)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            for trial_id in tuple(self._ids):
                # The error may be temporary; if it is not, other workers repeat the trial.
                with contextlib.suppress(*STORAGE_ERRORS):
                    self._storage.record_heartbeat(trial_id)
        self._storage.remove_session()


class SearchPlan(NamedTuple):
    """The part of a sweep's settings that the study uses.

    Attributes:
        definition: the sweep's definition in JSON values, on which all workers agree.
        differences: a function that lists the differences of two definitions.
        num_trials: number of trials to run; None to run `fixed_params` only.
        fixed_params: parameters of each trial that is not drawn.
        heartbeat: seconds between heartbeats.
        points: the configurations that no trial has; None for fixed trials, which are distinct.
        make_sampler: a function from a trial's number to its sampler.
        pruner: optuna's pruner.
    """

    definition: Mapping[str, Any]
    differences: Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
    num_trials: int | None
    fixed_params: Sequence[Mapping[str, StoredValue]]
    heartbeat: int
    points: UntriedPoints | None
    make_sampler: Callable[[int], optuna.samplers.BaseSampler]
    pruner: optuna.pruners.BasePruner


class SharedStudy:
    """One worker's access to the shared study. Use `join_study` to create it."""

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        mutex: Mutex,
        heartbeats: Heartbeats,
        plan: SearchPlan,
    ) -> None:
        self._study, self._storage, self._mutex = study, storage, mutex
        self._heartbeats, self._plan = heartbeats, plan
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._held: set[int] = set()  # numbers of the trials that this worker may hold

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps other workers from taking or finishing trials during the block."""
        with self._mutex(), ignore_optuna_warnings():
            yield

    def trials(self) -> list[FrozenTrial]:
        """All trials, which must not be modified."""
        return self._study.get_trials(deepcopy=False)

    def take(
        self, count: int, draw: Callable[[optuna.Trial], ConfigT]
    ) -> list[tuple[optuna.Trial, ConfigT]]:
        """Takes trials to run.

        Args:
            count: maximum number of trials.
            draw: a function from a trial to its configuration. It raises `ConfigError` if the
                configuration is impossible.

        Returns:
            Trials and their configurations; fewer than `count` if no more are wanted.

        Raises:
            RunError: if `draw` returns only impossible configurations.
        """
        taken: list[tuple[optuna.Trial, ConfigT]] = []
        with self.exclusive():
            self._recover()
            wanted = min(count, self._count_wanted())
            while len(taken) < wanted and (trial := self._next()) is not None:
                try:
                    taken.append((trial, draw(trial)))
                except ConfigError as error:
                    impossible = TrialOutcome("impossible", reason=str(error))
                    self._finish(trial, impossible, MAX_IMPOSSIBLE_DRAWN)
        return taken

    def _recover(self) -> None:
        """Fails the trials of dead workers, and adds copies of failed trials."""
        fail_stale_trials(self._study)
        add_copy = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
        for trial in trials_to_repeat(self.trials()):
            add_copy(self._study, copy.deepcopy(trial))  # it modifies its argument

    def _count_wanted(self) -> int:
        """How many more trials may start."""
        counts = count_trials(self.trials())
        if self._plan.num_trials is None:
            return counts.waiting
        return max(0, self._plan.num_trials - counts.finished - counts.running)

    def _next(self) -> optuna.Trial | None:
        """Starts the oldest waiting trial, or a new one; None if no other is possible."""
        waiting = self._waiting()
        if not waiting and self._plan.num_trials is not None and not self.is_exhausted():
            self._study.add_trial(optuna.create_trial(state=TrialState.WAITING))
            waiting = self._waiting()
        if not waiting:
            return None
        number = waiting[0].number
        self._held.add(number)
        self._heartbeats.start(self._id(number))
        self._study.sampler = self._sampler(number)
        return self._study.ask()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        sampler, points = self._plan.make_sampler(number), self._plan.points
        return sampler if points is None else DistinctSampler(sampler, points, self.trials)

    def is_exhausted(self) -> bool:
        """Whether every valid configuration of the search space has a trial."""
        points = self._plan.points
        return points is not None and points.exhausted(self.trials())

    def _waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials() if trial.state == TrialState.WAITING]

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def report(self, trial: optuna.Trial, error: float, epoch: int) -> bool:
        """Records the validation error of a trial after an epoch.

        Returns:
            Whether to continue: False if the trial is pruned, or repeated by another worker.
        """
        try:
            trial.report(error, epoch)
            return not trial.should_prune()
        except UpdateFinishedTrialError:  # this worker missed its heartbeats
            return False

    def finish(self, trial: optuna.Trial, outcome: TrialOutcome) -> bool:
        """Records the outcome of a trial.

        Returns:
            Whether it was recorded: False if another worker repeats the trial.

        Raises:
            RunError: if this and many trials before it are impossible.
        """
        with self.exclusive():
            return self._finish(trial, outcome, MAX_IMPOSSIBLE_TRAINED)

    def _finish(self, trial: optuna.Trial, outcome: TrialOutcome, max_impossible: int) -> bool:
        is_held = self._release(trial.number)
        if is_held:
            trial.set_user_attr("outcome", outcome._asdict())
            if outcome.kind == "complete":
                self._study.tell(trial, statistics.fmean(outcome.errors))
            else:
                self._study.tell(trial, state=TrialState.PRUNED)
        if outcome.kind == "impossible":
            self._check_possible(outcome.reason, max_impossible)
        return is_held

    def _release(self, number: int) -> bool:
        """Stops the heartbeats of a trial; returns whether this worker still held it."""
        trial_id = self._id(number)
        self._heartbeats.stop(trial_id)
        self._held.discard(number)
        return self._storage.get_trial(trial_id).state == TrialState.RUNNING

    def _check_possible(self, reason: str | None, max_impossible: int) -> None:
        outcomes = filter(None, map(trial_outcome, self.trials()))
        last = [outcome.kind for outcome in outcomes][-max_impossible:]
        if last == ["impossible"] * max_impossible and self._plan.num_trials is not None:
            raise RunError(
                f"{max_impossible} configurations in a row were impossible: narrow --space; "
                f"the reason of the last one: {reason}"
            )

    def give_back(self) -> int:
        """Lets other workers run the trials that this worker holds.

        Returns:
            The number of these trials.
        """
        with self.exclusive():
            running = [number for number in tuple(self._held) if self._release(number)]
            for number in running:
                self._study.tell(number, state=TrialState.FAIL)
            self._recover()
        return len(running)

    def is_done(self) -> bool:
        """Whether all wanted trials are finished."""
        counts = count_trials(self.trials())
        if self._plan.num_trials is not None and counts.finished >= self._plan.num_trials:
            return True
        ended = self._plan.num_trials is None or self.is_exhausted()
        return ended and counts.running + counts.waiting == 0


@contextlib.contextmanager
def join_study(location: StudyLocation, plan: SearchPlan) -> Iterator[SharedStudy]:
    """Joins a study as a worker. The first worker creates it.

    Raises:
        RunError: if the storage cannot be used, or holds a sweep with another definition.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_errors_as_run_errors(location.storage))
        storage, mutex = connect(location, plan.heartbeat, create=True)
        stack.enter_context(closing_connections(storage))
        with mutex(), ignore_optuna_warnings():
            study = optuna.create_study(
                study_name=location.name, storage=storage, pruner=plan.pruner, load_if_exists=True
            )
            stored = study.user_attrs.get("definition")
            if stored is None:
                study.set_user_attr("definition", plan.definition)
            elif differences := plan.differences(stored, plan.definition):
                listed = ", ".join(differences)
                raise RunError(f"{location}: holds a sweep with other settings: {listed}")
            _add_fixed_trials(study, plan.fixed_params)
        heartbeats = stack.enter_context(Heartbeats(storage, plan.heartbeat))
        yield SharedStudy(study, storage, mutex, heartbeats, plan)


def _add_fixed_trials(study: optuna.Study, params: Sequence[Mapping[str, StoredValue]]) -> None:
    """Adds the missing trials: an earlier worker may have been killed while it added them."""
    present = {trial.user_attrs.get("point") for trial in study.get_trials(deepcopy=False)}
    for point, values in enumerate(params):
        if point not in present:
            study.enqueue_trial(dict(values), user_attrs={"point": point})
