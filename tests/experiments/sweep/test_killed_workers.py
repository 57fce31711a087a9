"""Workers in other processes are killed or stopped: no trial is lost or counted twice."""

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

from experiments.sweep.storage import DATABASE, StudyLocation, load_study
from tests.experiments.sweep.conftest import BASE
from tests.experiments.sweep.laws import check_no_trial_is_lost_or_doubled


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def location(request: pytest.FixtureRequest, folder: pathlib.Path) -> StudyLocation:
    """A study in each kind of storage."""
    if request.param == "sqlite":
        return StudyLocation(folder)
    return StudyLocation(folder, request.getfixturevalue("postgresql"), f"study-{uuid.uuid4()}")


def arguments(location: StudyLocation) -> list[str]:
    """The flags that make a worker join this study."""
    stored = [] if location.url is None else ["--storage", location.url, "--study", location.name]
    return ["--run-dir", str(location.folder), *stored]


def trials(location: StudyLocation) -> list[FrozenTrial]:
    with load_study(location) as study:
        return study.get_trials()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def count(location: StudyLocation, state: str) -> int:
    """The number of trials in a state; 0 if there is no study yet."""
    engine = sqlalchemy.create_engine(
        location.url or "sqlite://",
        poolclass=sqlalchemy.pool.NullPool,
        **(
            {} if location.url else {"creator": lambda: sqlite3.connect(location.folder / DATABASE)}
        ),
    )
    query = (
        "select count(*) from trials join studies using (study_id) "
        "where state = :state and study_name = :name"
    )
    with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), engine.connect() as connection:
        return connection.execute(
            sqlalchemy.text(query), {"name": location.name, "state": state}
        ).scalar_one()
    return 0


@pytest.mark.slow
def test_killed_workers_lose_no_trial(
    location: StudyLocation, start: Callable[..., subprocess.Popen[str]]
) -> None:
    wanted = 16
    given = [*BASE, *arguments(location), "--population", 2, "--trials", wanted, "--pruner", "none"]
    # The slow worker is killed during its trials, the other one at any point.
    slow = start(*given, epoch_seconds=60)
    wait_for(lambda: count(location, "RUNNING") == 2)
    doomed = [slow, start(*given, epoch_seconds=0.1)]
    others = [start(*given, epoch_seconds=0.05) for _ in range(2)]
    wait_for(lambda: count(location, "COMPLETE") > 2)
    for worker in doomed:
        worker.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    for worker in others:
        output, error = worker.communicate(timeout=60)
        assert worker.returncode == 0, error
        assert "best: trial" in output
    found = trials(location)
    assert any(trial.state == TrialState.FAIL for trial in found), "the kills hit no trial"
    check_no_trial_is_lost_or_doubled(found, wanted)


def test_signals_make_workers_give_their_trials_back(
    location: StudyLocation, start: Callable[..., subprocess.Popen[str]]
) -> None:
    given = [*BASE, *arguments(location), "--trials", 6, "--population", 2, "--heartbeat", 600]
    workers = {
        number: start(*given, epoch_seconds=60) for number in (signal.SIGTERM, signal.SIGINT)
    }
    wait_for(lambda: count(location, "RUNNING") == 4)
    for number, worker in workers.items():
        worker.send_signal(number)
        output, error = worker.communicate(timeout=20)
        assert worker.returncode == 128 + number
        word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
        assert error == f"error: {word}; --run-dir {location.folder} joins it again\n"
        assert "given back, to be run again: 2 trials" in output
    states = Counter(trial.state for trial in trials(location))
    assert states == {TrialState.FAIL: 4, TrialState.WAITING: 4}
    # The trials can be run at once, without waiting for missed heartbeats.
    after = start(*given)
    _, error = after.communicate(timeout=30)
    assert after.returncode == 0, error
    check_no_trial_is_lost_or_doubled(trials(location), 6)
