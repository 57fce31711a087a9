"""The records of a run: settings, metrics and summary. Each file is written whole or not at all.

`config.json` is written first and `summary.json` last, so a folder with a summary is a finished
run. `metrics.jsonl` has a line for each epoch, and so has `frames.jsonl`, which holds theta for a
few examples. Infinite numbers and NaN are written as null.
"""

import contextlib
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from experiments.settings.config import Config
from experiments.settings.conversion import config_from_dict
from experiments.settings.errors import ConfigError, UserError

MAX_NAME_BYTES = 240  # of the name in that of a temporary file, which also has a process number


class RunError(UserError):
    """A run folder that cannot be used. The text is one line."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an operating-system error, such as a full disk, into one line that names the path.

    Raises:
        RunError: if the block raises `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whole. If that fails, the file keeps its old content.

    Raises:
        RunError: if it cannot be written.
    """
    temporary = path.with_name(f"{_unwritten_prefix(path)}{os.getpid()}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_unwritten(path: pathlib.Path) -> None:
    """Removes the temporary files of `write_atomically` calls that were killed.

    No process may be writing the file.

    Raises:
        RunError: if it cannot be removed.
    """
    with writing(path):
        prefix = _unwritten_prefix(path)
        for temporary in path.parent.iterdir():
            if temporary.name.startswith(prefix) and temporary.suffix[1:].isdecimal():
                temporary.unlink()


def _unwritten_prefix(path: pathlib.Path) -> str:
    """The start of the names of temporary files. Names have at most 255 bytes on most systems."""
    name = path.name
    while len(os.fsencode(name)) > MAX_NAME_BYTES:
        name = name[:-1]
    return f".{name}."


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON text. Infinite numbers and NaN become null, because JSON has neither."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def read_json(path: pathlib.Path) -> Any:
    """The contents of a JSON file.

    Raises:
        RunError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path}: not found, so {path.parent} holds no such run") from None
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: cannot be read as JSON: {error}") from error


def read_config(folder: pathlib.Path) -> Config:
    """The settings of a run.

    Raises:
        RunError: if the folder holds no valid settings.
    """
    path = folder / "config.json"
    try:
        return config_from_dict(read_json(path))
    except ConfigError as error:
        raise RunError(f"{path}: {error}") from error


def read_summary(folder: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a finished run; None if it is not finished.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"test_error", "num_params"} <= summary.keys():
        raise RunError(f"{path}: not the summary of a run; expected its test_error and num_params")
    return summary


def read_lines(path: pathlib.Path, epochs: float = float("inf")) -> list[dict[str, Any]]:
    """The records of a `.jsonl` file up to an epoch.

    Reading stops at a damaged line, because a kill may cut the last line short.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            if record["epoch"] > epochs:
                break
        except (ValueError, KeyError, TypeError):
            break
        records.append(record)
    return records


def read_epochs(path: pathlib.Path, epochs: int) -> list[dict[str, Any]]:
    """The records of the first epochs, one for each.

    Raises:
        RunError: if one is missing.
    """
    records = read_lines(path, epochs)
    if [record["epoch"] for record in records] != list(range(1, epochs + 1)):
        raise RunError(
            f"{path}: must hold a record of each of the {epochs} epochs that were trained; "
            f"got {len(records)}; start anew in another --run-dir"
        )
    return records


class JsonLines:
    """A `.jsonl` file to append to.

    Args:
        path: the file.
        epochs: records of later epochs are removed, because they will be written again. 0 removes
            all records.

    Raises:
        RunError: if it cannot be written.
    """

    def __init__(self, path: pathlib.Path, epochs: int) -> None:
        kept = read_lines(path, epochs) if epochs else []
        write_atomically(path, "".join(to_json(record) + "\n" for record in kept).encode())
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record. Other processes can read it immediately.

        Raises:
            RunError: if it cannot be written.
        """
        line = (to_json(record) + "\n").encode()
        with writing(self._path):
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())  # a checkpoint must not outlive the records before it

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def write_json(path: pathlib.Path, values: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes a JSON file whole or not at all."""
    write_atomically(path, (to_json(values, indent) + "\n").encode())


def provenance() -> dict[str, Any]:
    """The versions, the device and the commit that produced a result."""
    import jax

    import stn_jax

    # The package may run from a checkout that is not installed.
    versions = {"python": platform.python_version(), "stn-jax": stn_jax.__version__}
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions |= {name: metadata.version(name) for name in names}
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": f"{device.platform}: {device.device_kind}, {os.cpu_count()} cores",
        "git_commit": COMMIT,
    }


def git_commit() -> str | None:
    """The commit of this code, with `-dirty` if files differ from it; None outside a repository."""
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return described.stdout.strip() or None


# Read at import, because another commit may be checked out before a training ends.
COMMIT = git_commit()
