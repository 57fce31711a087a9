"""Who has which trial: kills at every write, silent workers, and what counts."""

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

from experiments.config import Config, ConfigError
from experiments.records import RunError
from experiments.sweeps import shared_study
from experiments.sweeps.shared_study import Outcome, SharedStudy, Terms, history
from experiments.sweeps.storages import DATABASE, Place, load
from tests.experiments.sweeps.laws import check_nothing_is_lost_or_doubled

COMPLETE = Outcome("complete", errors=[1.0])


class Killed(BaseException):
    """The worker is gone: what it had not committed never was."""


def terms(limit: int | None = 4, given: tuple[Mapping[str, Any], ...] = ()) -> Terms:
    return Terms(
        definition={},
        differences=lambda a, b: [],
        limit=limit,
        given=given,
        heartbeat=600,
        sampler=lambda number: optuna.samplers.RandomSampler(seed=number),
        pruner=optuna.pruners.NopPruner(),
    )


def draw(trial: optuna.Trial) -> Config:
    trial.suggest_float("learning_rate", 0, 1)
    trial.suggest_categorical("transform", ["affine", "rotation"])
    return Config()


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place(tmp_path)


def worker(place: Place, **options: Any) -> contextlib.AbstractContextManager[SharedStudy]:
    return shared_study.join(place, terms(**options))


def trials(place: Place) -> list[FrozenTrial]:
    with load(place) as study:
        return study.get_trials()


def silence(place: Place) -> None:
    """Makes every sign of life an old one."""
    engine = sqlalchemy.create_engine(f"sqlite:///{place.folder / DATABASE}")
    with engine.begin() as connection:
        old = sqlalchemy.text("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
        connection.execute(old)
    engine.dispose()


def kill_before_write(study: SharedStudy, count: int) -> None:
    """The worker will be killed when it has written `count` times and is about to again."""
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


def run_to_the_end(study: SharedStudy) -> None:
    while taken := study.take(3, draw):
        for trial, _ in taken:
            assert study.finish(trial, COMPLETE)


def test_a_kill_at_any_write_loses_and_doubles_nothing(tmp_path: pathlib.Path) -> None:
    before = Place(tmp_path / "before")
    before.folder.mkdir()
    with worker(before, limit=2) as dying:
        dying.take(1, draw)
    silence(before)
    for count in itertools.count():
        place = Place(tmp_path / str(count))
        shutil.copytree(before.folder, place.folder)
        with contextlib.suppress(Killed), worker(place, limit=2) as killed:
            kill_before_write(killed, count)
            # It finds the trial of the first, takes one more, finishes one, and is asked to leave.
            (trial, _), _ = killed.take(2, draw)
            killed.finish(trial, COMPLETE)
            killed.give_back()
            break
        silence(place)
        with worker(place, limit=2) as last:
            run_to_the_end(last)
            assert last.is_done()
        check_nothing_is_lost_or_doubled(trials(place), 2)
    assert count > 12  # that many kills


def test_a_kill_while_trials_are_given_loses_and_doubles_none(place: Place) -> None:
    given = tuple({"learning_rate": i / 8} for i in range(4))
    with worker(place, limit=None, given=given[:2]):
        pass  # as far as that one came
    with worker(place, limit=None, given=given) as study:
        run_to_the_end(study)
    assert [trial.params["learning_rate"] for trial in trials(place)] == [0, 1 / 8, 2 / 8, 3 / 8]


def test_no_more_are_taken_than_are_wanted(place: Place) -> None:
    with worker(place) as one:
        taken = one.take(3, draw)
        assert len(one.take(3, draw)) == 1
        with worker(place) as other:
            assert other.take(3, draw) == []
            assert not other.is_done()
        assert one.finish(taken[0][0], COMPLETE)
        assert one.take(3, draw) == []


def test_a_silent_worker_loses_its_trials_and_they_count_once(place: Place) -> None:
    with worker(place, limit=1) as silent, worker(place, limit=1) as other:
        ((before, _),) = silent.take(1, draw)
        assert other.take(1, draw) == []
        silence(place)
        ((after, _),) = other.take(1, draw)
        assert after.params == before.params
        assert silent.report(before, 1.0, 1) is False
        assert silent.finish(before, COMPLETE) is False
        assert silent.give_back() == 0
        assert other.finish(after, COMPLETE)
        assert other.is_done()
    check_nothing_is_lost_or_doubled(trials(place), 1)


def test_a_trial_that_kills_every_worker_is_given_up_and_counts(place: Place) -> None:
    with worker(place, limit=1) as study:
        for _ in range(shared_study.RETRIES + 1):
            assert len(study.take(1, draw)) == 1
            assert study.give_back() == 1
        assert study.take(1, draw) == []
        assert study.is_done()
    assert history(trials(place)[-1]) == list(range(shared_study.RETRIES))


def test_what_cannot_be_does_not_count(place: Place) -> None:
    def draw_every_other(trial: optuna.Trial) -> Config:
        if trial.number % 2 == 0:
            raise ConfigError("--pool is even")
        return draw(trial)

    with worker(place) as study:
        taken = study.take(9, draw_every_other)
        assert [trial.number for trial, _ in taken] == [1, 3, 5, 7]
        assert not study.is_done()
    impossible = trials(place)[::2]
    assert {trial.state for trial in impossible} == {TrialState.PRUNED}
    assert impossible[0].user_attrs["outcome"]["reason"] == "--pool is even"


def test_where_nothing_can_be_it_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(trial: optuna.Trial) -> Config:
        raise ConfigError("--pool is odd")

    monkeypatch.setattr(shared_study, "IMPOSSIBLE_IN_A_ROW", 20)
    expected = r"20 configurations in a row .* --pool is odd"
    with worker(place) as study, pytest.raises(RunError, match=expected):
        study.take(9, impossible)


def test_workers_that_draw_in_turn_never_draw_alike(place: Place) -> None:
    with worker(place, limit=8) as one, worker(place, limit=8) as other:
        drawn = [study.take(1, draw)[0][0] for study in (one, other) * 4]
        assert len({trial.params["learning_rate"] for trial in drawn}) == 8


def test_a_sweep_is_the_same_every_time(tmp_path: pathlib.Path) -> None:
    drawn = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with worker(Place(tmp_path / name)) as study:
            drawn.append([trial.params for trial, _ in study.take(4, draw)])
    assert drawn[0] == drawn[1]
