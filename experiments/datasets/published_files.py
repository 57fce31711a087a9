"""Files as the authors of a data set publish them, verified by size and checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from experiments.datasets.dataset import DatasetError


@dataclass(frozen=True)
class PublishedFile:
    """One published file.

    Attributes:
        name: the file name.
        size: the size in bytes.
        checksum: the SHA-256, or the checksum that `algorithm` names.
    """

    algorithm: ClassVar[Literal["SHA-256", "MD5"]] = "SHA-256"

    name: str
    size: int
    checksum: str


def verify_file(path: Path, expected: PublishedFile) -> None:
    """Checks that a file is the published one, by size and checksum.

    Raises:
        DatasetError: the file is missing or unreadable, or its size or checksum differs.
    """
    algorithm = expected.algorithm
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: _new_hash(algorithm)).hexdigest()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); expected the original file "
            f"{expected.name} of {expected.size} bytes"
        ) from error
    if size != expected.size:
        raise DatasetError(
            f"{path}: has {size} bytes; the original file has {expected.size} "
            "(was a copy or a download cut short?)"
        )
    if found != expected.checksum:
        raise DatasetError(
            f"{path}: its {algorithm} is {found}; the original file has {expected.checksum} "
            "(the file is damaged or belongs to another data set)"
        )


def _new_hash(algorithm: str) -> hashlib._Hash:
    return hashlib.new(algorithm.replace("-", ""), usedforsecurity=False)
