"""The study that workers share: what they take from it, give back, and record.

A trial waits, runs, or is finished: complete, pruned, or failed, which here means no more than that
its worker left it. Three rules keep any from being lost or done twice, whenever workers are killed:

- Whoever changes which trials there are, or whose, holds the study's mutex. A database alone is not
  enough: SQLite lets two workers take one waiting trial.
- A trial has a heartbeat before it runs. So one that runs and is nobody's falls silent, and shows.
- A failed trial is run again as a copy, which names it. One that none names is owed its copy, no
  matter who failed it and was killed before making one.
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

from experiments.config import C, ConfigError
from experiments.records import RunError
from experiments.sweeps.storages import (
    STORAGE_ERRORS,
    Mutex,
    Place,
    closing,
    connect,
    experimental,
    reaching,
)

RETRIES = 10  # of a trial whose workers die: it may be what kills them
# Configurations in a row that cannot be, before a worker ends: of those that are only drawn, and of
# those that take the data to find out.
IMPOSSIBLE_IN_A_ROW, UNFIT_IN_A_ROW = 100, 20

Kind = Literal["complete", "pruned", "diverged", "impossible"]


class Outcome(NamedTuple):
    """What became of a trial.

    Attributes:
        kind: whether it was trained whole, stopped as hopeless, diverged, or cannot be.
        errors: the validation error of each seed, in %, of a trial that was trained whole.
        epochs: how many were trained.
        seconds: how long its networks took, beside those of other trials.
        num_params: the number of its network's parameters.
        reason: why it is not complete.
    """

    kind: Kind
    errors: Sequence[float] = ()
    epochs: int = 0
    seconds: float = 0.0
    num_params: int | None = None
    reason: str | None = None


def outcome(trial: FrozenTrial) -> Outcome | None:
    """What became of a trial; None of one that is not finished, or that its worker left."""
    finished = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return Outcome(**trial.user_attrs["outcome"]) if finished else None


def history(trial: FrozenTrial) -> list[int]:
    """The trials that this one repeats, each of which its worker left."""
    return trial.system_attrs.get("retry_history", [])


def is_given_up(trial: FrozenTrial) -> bool:
    """Whether so many workers left a trial that it is not run again."""
    return trial.state == TrialState.FAIL and len(history(trial)) >= RETRIES


def owed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that must be run again: failed, and repeated by none yet."""
    repeated = {number for trial in trials for number in history(trial)}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return [trial for trial in failed if trial.number not in repeated and not is_given_up(trial)]


class Progress(NamedTuple):
    """How many trials are finished for good, running, and waiting."""

    finished: int
    running: int
    waiting: int


def progress(trials: Sequence[FrozenTrial]) -> Progress:
    """Counts trials: those that cannot be, and those that are run again, do not count."""
    states = [trial.state for trial in trials]
    outcomes = [outcome(trial) for trial in trials]
    return Progress(
        sum(each is not None and each.kind != "impossible" for each in outcomes)
        + sum(map(is_given_up, trials)),
        states.count(TrialState.RUNNING),
        states.count(TrialState.WAITING),
    )


class Beating:
    """Signs of life of the trials that are this worker's, from a thread of their own."""

    def __init__(self, storage: RDBStorage, interval: float) -> None:
        self._storage, self._interval = storage, interval
        self._ids: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Beating":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def start(self, trial_id: int) -> None:
        """Records the first sign of life, and goes on."""
        self._storage.record_heartbeat(trial_id)
        self._ids.add(trial_id)

    def stop(self, trial_id: int) -> None:
        """No more signs of this trial."""
        self._ids.discard(trial_id)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            for trial_id in tuple(self._ids):
                # What fails now may succeed the next time; trials that fall silent are run again.
                with contextlib.suppress(*STORAGE_ERRORS):
                    self._storage.record_heartbeat(trial_id)
        self._storage.remove_session()


class Terms(NamedTuple):
    """What a worker searches by.

    Attributes:
        definition: what all workers of a study have to agree on, as JSON.
        differences: what two definitions differ in.
        limit: how many trials are wanted; None of those that are given.
        given: the parameters of the trials, if these are not drawn.
        heartbeat: seconds between signs of life.
        sampler: from a trial's number to what draws it.
        pruner: what stops hopeless trials.
    """

    definition: Mapping[str, Any]
    differences: Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]
    limit: int | None
    given: Sequence[Mapping[str, Any]]
    heartbeat: int
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    pruner: optuna.pruners.BasePruner


class SharedStudy:
    """A study, as one of its workers sees it; `join` makes it."""

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        mutex: Mutex,
        beating: Beating,
        terms: Terms,
    ) -> None:
        self._study, self._storage, self._mutex = study, storage, mutex
        self._beating, self._terms = beating, terms
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._mine: set[int] = set()  # the numbers of trials that this worker may hold

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other worker takes or finishes trials meanwhile."""
        with self._mutex(), experimental():
            yield

    def trials(self) -> list[FrozenTrial]:
        """All trials as they are, to be read only."""
        return self._study.get_trials(deepcopy=False)

    def take(self, count: int, draw: Callable[[optuna.Trial], C]) -> list[tuple[optuna.Trial, C]]:
        """Takes up to `count` trials to run; fewer or none where no more are wanted.

        Args:
            count: how many.
            draw: from a trial to its configuration.

        Raises:
            RunError: if nothing that is drawn can be.
        """
        taken: list[tuple[optuna.Trial, C]] = []
        with self.exclusive():
            self._recover()
            wanted = min(count, self._room())
            while len(taken) < wanted and (trial := self._next()) is not None:
                try:
                    taken.append((trial, draw(trial)))
                except ConfigError as error:
                    self._finish(
                        trial, Outcome("impossible", reason=str(error)), IMPOSSIBLE_IN_A_ROW
                    )
        return taken

    def _recover(self) -> None:
        """Fails what silent workers had, and makes the copies that are owed."""
        fail_stale_trials(self._study)
        repeat = RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
        for trial in owed(self.trials()):
            repeat(self._study, copy.deepcopy(trial))  # it writes into what it is given

    def _room(self) -> int:
        """How many more trials may run."""
        counts = progress(self.trials())
        if self._terms.limit is None:
            return counts.waiting
        return max(0, self._terms.limit - counts.finished - counts.running)

    def _next(self) -> optuna.Trial | None:
        """The trial that waited longest, or a new one; None if all are given."""
        waiting = self._waiting()
        if not waiting and self._terms.limit is not None:
            self._study.add_trial(optuna.create_trial(state=TrialState.WAITING))
            waiting = self._waiting()
        if not waiting:
            return None
        number = waiting[0].number
        self._mine.add(number)
        self._beating.start(self._id(number))
        self._study.sampler = self._terms.sampler(number)
        return self._study.ask()

    def _waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials() if trial.state == TrialState.WAITING]

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def report(self, trial: optuna.Trial, error: float, epoch: int) -> bool:
        """Records a trial's validation error after an epoch; whether it should go on."""
        try:
            trial.report(error, epoch)
            return not trial.should_prune()
        except UpdateFinishedTrialError:  # this worker was silent, and another has it
            return False

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> bool:
        """Records what became of a trial; False, and nothing is, if it is another worker's now.

        Raises:
            RunError: if nothing that is drawn can be.
        """
        with self.exclusive():
            return self._finish(trial, outcome, UNFIT_IN_A_ROW)

    def _finish(self, trial: optuna.Trial, outcome: Outcome, most_impossible: int) -> bool:
        is_mine = self._let_go(trial.number)
        if is_mine:
            trial.set_user_attr("outcome", outcome._asdict())
            if outcome.kind == "complete":
                self._study.tell(trial, statistics.fmean(outcome.errors))
            else:
                self._study.tell(trial, state=TrialState.PRUNED)
        if outcome.kind == "impossible":
            self._check_possible(outcome.reason, most_impossible)
        return is_mine

    def _let_go(self, number: int) -> bool:
        """Ends the signs of life of a trial; whether it still runs, and so is this worker's."""
        trial_id = self._id(number)
        self._beating.stop(trial_id)
        self._mine.discard(number)
        return self._storage.get_trial(trial_id).state == TrialState.RUNNING

    def _check_possible(self, reason: str | None, most: int) -> None:
        ended = filter(None, map(outcome, self.trials()))
        last = [each.kind for each in ended][-most:]
        if last == ["impossible"] * most and self._terms.limit is not None:
            raise RunError(
                f"{most} configurations in a row were drawn that cannot be: narrow "
                f"--space; of the last, {reason}"
            )

    def give_back(self) -> int:
        """Lets others run what this worker holds, at once; how many trials that are."""
        with self.exclusive():
            running = [number for number in tuple(self._mine) if self._let_go(number)]
            for number in running:
                self._study.tell(number, state=TrialState.FAIL)
            self._recover()
        return len(running)

    def is_done(self) -> bool:
        """Whether all that was wanted is finished."""
        counts = progress(self.trials())
        if self._terms.limit is None:
            return counts.running + counts.waiting == 0
        return counts.finished >= self._terms.limit


@contextlib.contextmanager
def join(place: Place, terms: Terms) -> Iterator[SharedStudy]:
    """Joins the study of a place as one more worker, or starts it.

    Raises:
        RunError: if the storage cannot be used, or the study is another sweep's.
    """
    with reaching(place.storage), contextlib.ExitStack() as stack:
        storage, mutex = connect(place, terms.heartbeat, create=True)
        stack.enter_context(closing(storage))
        with mutex(), experimental():
            study = optuna.create_study(
                study_name=place.name, storage=storage, pruner=terms.pruner, load_if_exists=True
            )
            stored = study.user_attrs.get("definition")
            if stored is None:
                study.set_user_attr("definition", terms.definition)
            elif different := terms.differences(stored, terms.definition):
                what = ", ".join(different)
                raise RunError(f"{place}: holds a sweep with other settings: {what}")
            _add_given(study, terms.given)
        beating = stack.enter_context(Beating(storage, terms.heartbeat))
        yield SharedStudy(study, storage, mutex, beating, terms)


def _add_given(study: optuna.Study, given: Sequence[Mapping[str, Any]]) -> None:
    """Adds the trials that are not there yet: a worker may have been killed while adding them."""
    present = {trial.user_attrs.get("point") for trial in study.get_trials(deepcopy=False)}
    for point, params in enumerate(given):
        if point not in present:
            study.enqueue_trial(dict(params), user_attrs={"point": point})
