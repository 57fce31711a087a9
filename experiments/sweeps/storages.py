"""Where a study is kept: a file in the run folder, or a PostgreSQL database; and its mutex."""

import contextlib
import fcntl
import functools
import pathlib
import sqlite3
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from experiments.config import ConfigError
from experiments.records import RunError, writing

DATABASE, LOCK = "sweep.db", "sweep.lock"
ONLY_STUDY = "sweep"  # the name of the study in a file of its own
SILENCE = 6  # heartbeats that a worker may miss before it is taken for dead
BUSY_SECONDS = 60.0  # to wait for another worker's write
ADVISORY_KEY = 0x57A9E5
# A server should notice within a minute that a machine is gone, which may hold the mutex.
POSTGRESQL_OPTIONS = (
    "-c timezone=utc "  # the time of a heartbeat is the session's
    "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
)
SESSION = {"options": POSTGRESQL_OPTIONS}
# What any of its calls may raise.
STORAGE_ERRORS = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)

Mutex = Callable[[], AbstractContextManager[None]]


class Place(NamedTuple):
    """Where a study is kept.

    Attributes:
        folder: the sweep's run folder, which holds the study unless there is a URL.
        url: a PostgreSQL database.
        name: the study's name.
    """

    folder: pathlib.Path
    url: str | None = None
    name: str = ONLY_STUDY

    @property
    def storage(self) -> str:
        """What the study is in, for people."""
        return str(self.folder / DATABASE) if self.url is None else "--storage"

    def __str__(self) -> str:
        return str(self.folder) if self.url is None else f"--study {self.name}"


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Uses what optuna calls experimental, and heartbeats without its own loop, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
        yield


@contextlib.contextmanager
def reaching(storage: object) -> Iterator[None]:
    """Says in one line what is wrong with a storage.

    Raises:
        RunError: if it cannot be reached, or is none.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise RunError(f"{storage}: cannot be used: {reason}") from error


def connect(place: Place, heartbeat: int, create: bool) -> tuple[RDBStorage, Mutex]:
    """The storage of a place, and the mutex that goes with it.

    Args:
        place: where.
        heartbeat: seconds between signs of life.
        create: whether to make the tables where there are none.

    Raises:
        ConfigError: if the URL is none.
        RunError: if another version of optuna made it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if place.url is None:
        mutex = setting_up = functools.partial(_file_lock, place.folder / LOCK)
        url = f"sqlite:///{DATABASE}"  # a name only: what opens it knows the path
        arguments: dict[str, Any] = {"creator": _opener(place.folder / DATABASE)}
    else:
        url = _postgresql_url(place.url)
        arguments = {"connect_args": SESSION, "pool_pre_ping": True}
        single = _single_connections(url)
        setting_up = functools.partial(_advisory_lock, single, ADVISORY_KEY)
        # A study's key is a pair, none of which is a database's.
        key = (ADVISORY_KEY, zlib.crc32(place.name.encode()) - 2**31)
        mutex = functools.partial(_advisory_lock, single, *key)
        url = url.replace("{", "{{").replace("}", "}}")  # to optuna it is a template
    if not create:  # a storage that turns out to be none leaves no connection open
        arguments["poolclass"] = sqlalchemy.pool.NullPool
    try:
        with setting_up() if create else contextlib.nullcontext(), experimental():
            storage = RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=heartbeat,
                grace_period=SILENCE * heartbeat,
                skip_table_creation=not create,
            )
    except RuntimeError as error:
        raise RunError(f"{place}: {' '.join(str(error).split())}") from error
    return storage, mutex


@contextlib.contextmanager
def _file_lock(path: pathlib.Path) -> Iterator[None]:
    """Holds a file; the system lets go of it when the process ends, however it ends."""
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, *key: int) -> Iterator[None]:
    """Holds a lock of the database; it lets go when the connection ends, however it ends."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(*key)))
        yield


def _single_connections(url: str) -> sqlalchemy.Engine:
    """A connection of its own for each turn: however it ends, its end ends the turn.

    It is in no transaction, which servers may end when it idles.
    """
    return sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.pool.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=SESSION,
    )


def reach(url: str) -> None:
    """Connects to a database, and leaves it.

    Raises:
        ConfigError: if the URL is none.
        RunError: if it cannot be reached.
    """
    with reaching("--storage"), _single_connections(_postgresql_url(url)).connect():
        pass


def _opener(path: pathlib.Path) -> Callable[[], sqlite3.Connection]:
    """What opens a file, whatever its name."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a write does not wait for the disk
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return connect


def _postgresql_url(text: str) -> str:
    try:
        url = sqlalchemy.make_url(text).set(drivername="postgresql+psycopg")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            "--storage must be postgresql://USER@HOST/DATABASE; what was given is no such address"
        ) from None
    return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    """Lets go of a storage's connections at the end."""
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def load(place: Place) -> Iterator[optuna.Study]:
    """A study that exists, to be looked at.

    Raises:
        RunError: if there is none.
    """
    if place.url is None and not (place.folder / DATABASE).exists():
        raise RunError(f"{place.folder}: holds no sweep; {DATABASE} not found")
    with reaching(place.storage), closing(connect(place, heartbeat=1, create=False)[0]) as storage:
        try:
            study = optuna.load_study(study_name=place.name, storage=storage)
        except KeyError:
            names = ", ".join(optuna.get_all_study_names(storage)) or "none"
            raise RunError(f"{place}: not in this storage, which has {names}") from None
        yield study
