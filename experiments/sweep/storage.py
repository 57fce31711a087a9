"""Storage of a study and its mutex: an SQLite file in the run folder, or a PostgreSQL database."""

import contextlib
import functools
import pathlib
import shlex
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
from sqlalchemy.pool import NullPool

from experiments.runs.locks import lock_file
from experiments.runs.records import RunError, writing
from experiments.settings.errors import ConfigError

DATABASE, LOCK = "sweep.db", "sweep.lock"
ONLY_STUDY = "sweep"  # the name of the study in an SQLite file, which holds no other
MISSED_HEARTBEATS = 6  # after so many, a worker counts as dead
BUSY_SECONDS = 60.0  # how long SQLite waits for another worker's write
ADVISORY_KEY = 0x57A9E5
POSTGRESQL_ARGUMENTS = {
    "options": (
        "-c timezone=utc "  # heartbeats are stored in the session's time zone
        # The server drops the connection of a lost machine, and its locks, within a minute.
        "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
    )
}
STORAGE_ERRORS = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)

Mutex = Callable[[], AbstractContextManager[None]]


class StudyLocation(NamedTuple):
    """The location of a study.

    Attributes:
        folder: the sweep's run folder. It holds the study if `url` is None.
        url: address of a PostgreSQL database.
        name: the study's name.
    """

    folder: pathlib.Path
    url: str | None = None
    name: str = ONLY_STUDY

    @property
    def storage(self) -> str:
        """The storage's name in error messages."""
        return str(self.folder / DATABASE) if self.url is None else "--storage"

    def __str__(self) -> str:
        return str(self.folder) if self.url is None else f"--study {self.name}"


@contextlib.contextmanager
def ignore_optuna_warnings() -> Iterator[None]:
    """Ignores warnings about experimental features, and about heartbeats without `optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
        yield


@contextlib.contextmanager
def storage_errors_as_run_errors(storage: str) -> Iterator[None]:
    """Turns an error of the storage into a one-line `RunError`.

    Args:
        storage: the storage's name in the error message.

    Raises:
        RunError: if the storage cannot be reached or is not a database.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise RunError(f"{storage}: cannot be used: {reason}") from error


def connect(location: StudyLocation, heartbeat: int, create: bool) -> tuple[RDBStorage, Mutex]:
    """Connects to the storage of a study.

    Args:
        location: location of the study.
        heartbeat: seconds between heartbeats.
        create: whether to create missing tables.

    Returns:
        The storage, and the mutex of the study.

    Raises:
        ConfigError: if the URL is malformed.
        RunError: if an incompatible version of optuna created the storage.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if location.url is None:
        mutex = creation_mutex = functools.partial(_file_lock, location.folder / LOCK)
        url = f"sqlite:///{DATABASE}"  # only a name; `creator` opens the file
        arguments: dict[str, Any] = {"creator": _sqlite_opener(location.folder / DATABASE)}
    else:
        url = _postgresql_url(location.url)
        arguments = {"connect_args": POSTGRESQL_ARGUMENTS, "pool_pre_ping": True}
        mutex, creation_mutex = _postgresql_mutexes(url, location.name)
        url = url.replace("{", "{{").replace("}", "}}")  # optuna calls str.format on it
    if not create:  # leaves no connection open if this is not optuna's storage
        arguments["poolclass"] = NullPool
    try:
        with creation_mutex() if create else contextlib.nullcontext(), ignore_optuna_warnings():
            storage = RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=heartbeat,
                grace_period=MISSED_HEARTBEATS * heartbeat,
                skip_table_creation=not create,
            )
    except RuntimeError as error:
        raise RunError(f"{location}: {' '.join(str(error).split())}") from error
    return storage, mutex


@contextlib.contextmanager
def _file_lock(path: pathlib.Path) -> Iterator[None]:
    """Locks a file; the operating system releases it when the process ends for any reason."""
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(path.open("a"))
        lock_file(file, path, wait=True)
        yield


@contextlib.contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, *key: int) -> Iterator[None]:
    """Locks a key of the database; the server releases it when the connection ends."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(*key)))
        yield


def _postgresql_mutexes(url: str, study: str) -> tuple[Mutex, Mutex]:
    """The mutex of a study, and the one for creating the tables."""
    engine = _unpooled_engine(url)
    # PostgreSQL keeps keys of one and of two integers apart.
    key = (ADVISORY_KEY, zlib.crc32(study.encode()) - 2**31)
    creation = functools.partial(_advisory_lock, engine, ADVISORY_KEY)
    return functools.partial(_advisory_lock, engine, *key), creation


def _unpooled_engine(url: str) -> sqlalchemy.Engine:
    """An engine whose connections are closed after use, which releases their locks.

    Autocommit avoids idle transactions, which servers may terminate.
    """
    return sqlalchemy.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=POSTGRESQL_ARGUMENTS,
    )


def check_connection(url: str) -> None:
    """Checks that a PostgreSQL database can be reached.

    Raises:
        ConfigError: if the URL is malformed.
        RunError: if the database cannot be reached.
    """
    engine = _unpooled_engine(_postgresql_url(url))
    with storage_errors_as_run_errors("--storage"), engine.connect():
        pass


def _sqlite_opener(path: pathlib.Path) -> Callable[[], sqlite3.Connection]:
    """A function that opens a file; unlike a URL, it accepts any file name."""

    def open_database() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # writes do not wait for the disk
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return open_database


def _postgresql_url(text: str) -> str:
    try:
        url = sqlalchemy.make_url(text).set(drivername="postgresql+psycopg")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The text is not repeated: it may contain a password.
        raise ConfigError(
            "--storage must be postgresql://USER@HOST/DATABASE; the given address is malformed"
        ) from None
    return url.render_as_string(hide_password=False)


def dashboard_command(location: StudyLocation) -> str | None:
    """The command that opens a study in optuna-dashboard; None if no URL can name its file."""
    if location.url is not None:
        url = str(sqlalchemy.make_url(_postgresql_url(location.url))._replace(password=None))
    else:
        path = str(location.folder / DATABASE)
        url = f"sqlite:///{path}"
        # optuna formats the text, and SQLAlchemy parses it.
        if {"{", "}"} & set(url) or sqlalchemy.make_url(url).database != path:
            return None
    return shlex.join(["optuna-dashboard", url])


@contextlib.contextmanager
def closing_connections(storage: RDBStorage) -> Iterator[RDBStorage]:
    """Closes the connections of a storage at the end of the block."""
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def load_study(location: StudyLocation) -> Iterator[optuna.Study]:
    """Loads an existing study for reading.

    Raises:
        RunError: if there is no such study.
    """
    if location.url is None and not (location.folder / DATABASE).exists():
        raise RunError(f"{location.folder}: holds no sweep; {DATABASE} not found")
    with storage_errors_as_run_errors(location.storage):
        storage, _ = connect(location, heartbeat=1, create=False)
        with closing_connections(storage):
            try:
                study = optuna.load_study(study_name=location.name, storage=storage)
            except KeyError:
                names = ", ".join(optuna.get_all_study_names(storage)) or "none"
                raise RunError(f"{location}: not found; the storage holds {names}") from None
            yield study
