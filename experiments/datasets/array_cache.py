"""Arrays that take long to compute, kept in a file for later runs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import npz
from experiments.datasets.cache_folder import cache_dir
from experiments.datasets.dataset import DatasetError
from experiments.runs.records import RunError, write_atomically, writing
from experiments.settings.errors import print_warning

_KEY = "key"


def digest(*values: object) -> str:
    """Returns a hash of values that JSON can represent."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


class ArrayCache:
    """A file of arrays in the folder that all runs of a user share.

    The file is replaced as a whole, so several runs may read and write it at the same time. A
    cache that cannot be used gives a warning and no error.

    Args:
        kind: the folder in the cache.
        place: the name of the file: a hash of what the arrays are computed from.
        key: a hash of everything that the arrays depend on. Arrays with another key are outdated.
        names: the names of the arrays.
    """

    def __init__(self, kind: str, place: str, key: str, names: Sequence[str]) -> None:
        self._key, self._names = key, tuple(names)
        self._path: Path | None = None
        try:
            self._path = cache_dir() / kind / f"{place}.npz"
        except DatasetError as error:
            print_warning(f"{error}; nothing is cached")

    def read(self) -> dict[str, np.ndarray] | None:
        """Reads the arrays.

        Returns:
            None if there are none with this key, or if the file is damaged.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            # All at once, because another run may replace the file at any time.
            arrays = npz.read_arrays(self._path, (_KEY, *self._names))
        except DatasetError as error:
            print_warning(f"{error}; the cache is damaged, and is written again")
            return None
        return arrays if arrays.pop(_KEY).tobytes() == self._key.encode() else None

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the arrays."""
        if self._path is None:
            return
        file, key = io.BytesIO(), np.frombuffer(self._key.encode(), np.uint8)
        content: dict[str, Any] = {_KEY: key, **arrays}
        np.savez(file, **content)
        try:
            with writing(self._path.parent):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, file.getvalue())
        except RunError as error:
            print_warning(f"{error}; nothing is cached (another folder is set by TFDS_DATA_DIR)")
