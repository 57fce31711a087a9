"""Workers are killed, stopped and frozen: no trial is lost, and none counts twice."""

import contextlib
import pathlib
import signal
import sqlite3
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.sweeps.storages import DATABASE, Place, load
from tests.experiments.sweeps.conftest import BASE
from tests.experiments.sweeps.laws import check_nothing_is_lost_or_doubled


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, folder: pathlib.Path) -> Place:
    """Where a study is kept, in either kind of storage."""
    if request.param == "sqlite":
        return Place(folder)
    return Place(folder, request.getfixturevalue("postgresql"), f"study-{uuid.uuid4()}")


def arguments(place: Place) -> list[str]:
    """What makes a worker of this place."""
    stored = [] if place.url is None else ["--storage", place.url, "--study", place.name]
    return ["--run-dir", str(place.folder), *stored]


def trials(place: Place) -> list[FrozenTrial]:
    with load(place) as study:
        return study.get_trials()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def count(place: Place, state: str) -> int:
    """How many trials are in a state; none while there is no study yet."""
    engine = sqlalchemy.create_engine(
        place.url or "sqlite://",
        poolclass=sqlalchemy.pool.NullPool,
        **({} if place.url else {"creator": lambda: sqlite3.connect(place.folder / DATABASE)}),
    )
    query = (
        "select count(*) from trials join studies using (study_id) "
        "where state = :state and study_name = :name"
    )
    with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), engine.connect() as connection:
        return connection.execute(
            sqlalchemy.text(query), {"name": place.name, "state": state}
        ).scalar_one()
    return 0


def test_four_workers_of_which_two_are_killed(
    place: Place, start: Callable[..., subprocess.Popen[str]]
) -> None:
    wanted = 24
    given = [*BASE, *arguments(place), "--population", 2, "--trials", wanted, "--pruner", "none"]
    # The slow one is killed within its trials, the other wherever it happens to be.
    slow = start(*given, epoch_seconds=60)
    wait_for(lambda: count(place, "RUNNING") == 2)
    doomed = [slow, start(*given, epoch_seconds=0.1)]
    others = [start(*given, epoch_seconds=0.05) for _ in range(2)]
    wait_for(lambda: count(place, "COMPLETE") > 2)
    for worker in doomed:
        worker.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    for worker in others:
        output, error = worker.communicate(timeout=60)
        assert worker.returncode == 0, error
        assert "best: trial" in output
    found = trials(place)
    assert any(trial.state == TrialState.FAIL for trial in found), "the kills hit no trial"
    check_nothing_is_lost_or_doubled(found, wanted)


def test_workers_that_are_asked_to_leave_give_their_trials_back(
    place: Place, start: Callable[..., subprocess.Popen[str]]
) -> None:
    given = [*BASE, *arguments(place), "--trials", 6, "--population", 2, "--heartbeat", 600]
    workers = {
        number: start(*given, epoch_seconds=60) for number in (signal.SIGTERM, signal.SIGINT)
    }
    wait_for(lambda: count(place, "RUNNING") == 4)
    for number, worker in workers.items():
        worker.send_signal(number)
        output, error = worker.communicate(timeout=20)
        assert worker.returncode == 128 + number
        word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
        assert error == f"error: {word}; --run-dir {place.folder} joins it again\n"
        assert "given back, to be run again: 2 trials" in output
    states = Counter(trial.state for trial in trials(place))
    assert states == {TrialState.FAIL: 4, TrialState.WAITING: 4}
    # Nobody has to wait until the workers would be taken for dead.
    after = start(*given)
    _, error = after.communicate(timeout=30)
    assert after.returncode == 0, error
    check_nothing_is_lost_or_doubled(trials(place), 6)
