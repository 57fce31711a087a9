"""Trials of a shared study: kills at every write, dead workers, and which trials count."""

import contextlib
import itertools
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.runs.records import RunError
from experiments.settings.config import Config
from experiments.settings.errors import ConfigError
from experiments.sweep import shared_study
from experiments.sweep.shared_study import (
    SearchPlan,
    SharedStudy,
    TrialOutcome,
    join_study,
    retry_history,
)
from experiments.sweep.storage import DATABASE, StudyLocation, load_study
from tests.experiments.sweep.laws import check_no_trial_is_lost_or_doubled

COMPLETE = TrialOutcome("complete", errors=[1.0])


class Killed(BaseException):
    """Simulates a kill: changes that are not committed are lost."""


def plan(
    num_trials: int | None = 4, fixed_params: tuple[Mapping[str, Any], ...] = ()
) -> SearchPlan:
    return SearchPlan(
        definition={},
        differences=lambda a, b: [],
        num_trials=num_trials,
        fixed_params=fixed_params,
        heartbeat=600,
        points=None,
        make_sampler=lambda number: optuna.samplers.RandomSampler(seed=number),
        pruner=optuna.pruners.NopPruner(),
    )


def draw(trial: optuna.Trial) -> Config:
    trial.suggest_float("learning_rate", 0, 1)
    trial.suggest_categorical("transform", ["affine", "rotation"])
    return Config()


@pytest.fixture
def location(tmp_path: pathlib.Path) -> StudyLocation:
    return StudyLocation(tmp_path)


def worker(
    location: StudyLocation, **options: Any
) -> contextlib.AbstractContextManager[SharedStudy]:
    return join_study(location, plan(**options))


def trials(location: StudyLocation) -> list[FrozenTrial]:
    with load_study(location) as study:
        return study.get_trials()


def age_heartbeats(location: StudyLocation) -> None:
    """Makes every heartbeat old, as if its worker had died."""
    engine = sqlalchemy.create_engine(f"sqlite:///{location.folder / DATABASE}")
    with engine.begin() as connection:
        old = sqlalchemy.text("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
        connection.execute(old)
    engine.dispose()


def kill_before_write(study: SharedStudy, count: int) -> None:
    """Kills the worker when it is about to commit a write after `count` others."""
    writes, written = itertools.count(), False

    def execute(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal written
        written = written or not statement.startswith("SELECT")

    def commit(connection: object) -> None:
        nonlocal written
        if written and next(writes) >= count:
            raise Killed
        written = False

    engine = study._storage.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", execute)
    sqlalchemy.event.listen(engine, "commit", commit)


def finish_all(study: SharedStudy) -> None:
    while taken := study.take(3, draw):
        for trial, _ in taken:
            assert study.finish(trial, COMPLETE)


def test_kill_at_any_write_loses_no_trial(tmp_path: pathlib.Path) -> None:
    before = StudyLocation(tmp_path / "before")
    before.folder.mkdir()
    with worker(before, num_trials=2) as dying:
        dying.take(1, draw)
    age_heartbeats(before)
    for count in itertools.count():
        location = StudyLocation(tmp_path / str(count))
        shutil.copytree(before.folder, location.folder)
        with contextlib.suppress(Killed), worker(location, num_trials=2) as killed:
            kill_before_write(killed, count)
            # It repeats the trial of the dead worker, takes another, finishes one, and leaves.
            (trial, _), _ = killed.take(2, draw)
            killed.finish(trial, COMPLETE)
            killed.give_back()
            break
        age_heartbeats(location)
        with worker(location, num_trials=2) as last:
            finish_all(last)
            assert last.is_done()
            check_no_trial_is_lost_or_doubled(last.trials(), 2)
    assert count > 12  # the number of kills


def test_kill_while_fixed_trials_are_added_loses_none(location: StudyLocation) -> None:
    given = tuple({"learning_rate": i / 8} for i in range(4))
    with worker(location, num_trials=None, fixed_params=given[:2]):
        pass  # killed after adding these two
    with worker(location, num_trials=None, fixed_params=given) as study:
        finish_all(study)
    assert [trial.params["learning_rate"] for trial in trials(location)] == [0, 1 / 8, 2 / 8, 3 / 8]


def test_workers_take_no_more_trials_than_wanted(location: StudyLocation) -> None:
    with worker(location) as one:
        taken = one.take(3, draw)
        assert len(one.take(3, draw)) == 1
        with worker(location) as other:
            assert other.take(3, draw) == []
            assert not other.is_done()
        assert one.finish(taken[0][0], COMPLETE)
        assert one.take(3, draw) == []


def test_trials_without_heartbeats_are_repeated_and_count_once(location: StudyLocation) -> None:
    with worker(location, num_trials=1) as silent, worker(location, num_trials=1) as other:
        ((before, _),) = silent.take(1, draw)
        assert other.take(1, draw) == []
        age_heartbeats(location)
        ((after, _),) = other.take(1, draw)
        assert after.params == before.params
        assert silent.report(before, 1.0, 1) is False
        assert silent.finish(before, COMPLETE) is False
        assert silent.give_back() == 0
        assert other.finish(after, COMPLETE)
        assert other.is_done()
        check_no_trial_is_lost_or_doubled(other.trials(), 1)


def test_trial_that_kills_every_worker_is_given_up_and_counts(location: StudyLocation) -> None:
    with worker(location, num_trials=1) as study:
        for _ in range(shared_study.MAX_RETRIES + 1):
            assert len(study.take(1, draw)) == 1
            assert study.give_back() == 1
        assert study.take(1, draw) == []
        assert study.is_done()
    assert retry_history(trials(location)[-1]) == list(range(shared_study.MAX_RETRIES))


def test_impossible_trials_do_not_count(location: StudyLocation) -> None:
    def draw_every_other(trial: optuna.Trial) -> Config:
        if trial.number % 2 == 0:
            raise ConfigError("--pool is even")
        return draw(trial)

    with worker(location) as study:
        taken = study.take(9, draw_every_other)
        assert [trial.number for trial, _ in taken] == [1, 3, 5, 7]
        assert not study.is_done()
    impossible = trials(location)[::2]
    assert {trial.state for trial in impossible} == {TrialState.PRUNED}
    assert impossible[0].user_attrs["outcome"]["reason"] == "--pool is even"


def test_worker_ends_if_every_draw_is_impossible(
    location: StudyLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(trial: optuna.Trial) -> Config:
        raise ConfigError("--pool is odd")

    monkeypatch.setattr(shared_study, "MAX_IMPOSSIBLE_DRAWN", 20)
    expected = r"20 configurations in a row were impossible: .*: --pool is odd"
    with worker(location) as study, pytest.raises(RunError, match=expected):
        study.take(9, impossible)


def test_workers_draw_different_configurations(location: StudyLocation) -> None:
    with worker(location, num_trials=8) as one, worker(location, num_trials=8) as other:
        drawn = [study.take(1, draw)[0][0] for study in (one, other) * 4]
        assert len({trial.params["learning_rate"] for trial in drawn}) == 8


def test_draws_are_reproducible(tmp_path: pathlib.Path) -> None:
    drawn = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with worker(StudyLocation(tmp_path / name)) as study:
            drawn.append([trial.params for trial, _ in study.take(4, draw)])
    assert drawn[0] == drawn[1]
