"""The files of a user's own images: `DIR/train/CLASS/*` and optionally `DIR/test/CLASS/*`."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.datasets.dataset import DatasetError

State = tuple[int, int, int]
EXPECTED = "expected images in DIR/train/CLASS/* and optionally in DIR/test/CLASS/*"


class ListedFile(NamedTuple):
    """A file in the folder of a class.

    Attributes:
        path: the file.
        label: the index of its class.
        state: its size in bytes, and the times of its last changes in ns; zeros for a broken link.
    """

    path: Path
    label: int
    state: State


class Listing(NamedTuple):
    """The files of all classes, by class and then by name.

    Attributes:
        root: the folder DIR.
        class_names: the names of the class folders, sorted as text.
        train: the files in `DIR/train`.
        test: the files in `DIR/test`; None if there is no such folder.
        skipped: files that are hidden or not in the folder of a class.
        ignored: folders next to `train` and `test`.
    """

    root: Path
    class_names: tuple[str, ...]
    train: tuple[ListedFile, ...]
    test: tuple[ListedFile, ...] | None
    skipped: tuple[Path, ...]
    ignored: tuple[Path, ...]


class _Entries(NamedTuple):
    """What a folder holds, by name. Hidden folders and special files are left out.

    Attributes:
        folders: its folders.
        files: the state of each file that is not hidden.
        hidden: its hidden files.
    """

    folders: list[Path]
    files: dict[Path, State]
    hidden: list[Path]


def list_images(root: Path) -> Listing:
    """Lists the files of a folder of images. No file is opened.

    Raises:
        DatasetError: a folder cannot be read, or does not have the expected structure.
    """
    top = _entries(root)
    folders = {folder.name: folder for folder in top.folders}
    if "train" not in folders:
        held = ", ".join(folders) or "no folders"
        raise DatasetError(f"{root}: holds no folder train (it holds {held}); {EXPECTED}")
    ignored = [folder for name, folder in folders.items() if name not in ("train", "test")]
    skipped = [*top.hidden, *top.files]
    class_names, train = _list_split(folders["train"], skipped)
    if len(class_names) < 2:
        raise DatasetError(
            f"{folders['train']}: holds one class folder, {class_names[0]}; expected at least two"
        )
    test = None
    if "test" in folders:
        test_names, test = _list_split(folders["test"], skipped)
        _check_same_classes(folders["test"], test_names, folders["train"], class_names)
    return Listing(root, class_names, train, test, tuple(skipped), tuple(ignored))


def _entries(folder: Path) -> _Entries:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}); {EXPECTED}") from error
    found = _Entries([], {}, [])
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # a broken link counts as a file that cannot be read
            mode, state = stat.S_IFREG, (0, 0, 0)
        else:
            mode, state = status.st_mode, (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        hidden = path.name.startswith(".")
        if stat.S_ISDIR(mode) and not hidden:
            found.folders.append(path)
        elif stat.S_ISREG(mode) and hidden:
            found.hidden.append(path)
        elif stat.S_ISREG(mode):  # reading a pipe could block forever
            found.files[path] = state
    return found


def _list_split(split: Path, skipped: list[Path]) -> tuple[tuple[str, ...], tuple[ListedFile, ...]]:
    """Lists the classes and files of a split, and adds to the files that are skipped."""
    held = _entries(split)
    if not held.folders:
        raise DatasetError(
            f"{split}: holds {len(held.files)} files and no class folders; {EXPECTED}"
        )
    skipped += [*held.hidden, *held.files]
    files = [
        file
        for label, folder in enumerate(held.folders)
        for file in _list_class(folder, label, skipped)
    ]
    return tuple(folder.name for folder in held.folders), tuple(files)


def _list_class(folder: Path, label: int, skipped: list[Path]) -> Iterator[ListedFile]:
    if not folder.name.isprintable():
        raise DatasetError(
            f"{folder.parent}: the class folder {folder.name!r} has a name that cannot be shown; "
            "expected printable characters"
        )
    held = _entries(folder)
    if held.folders:
        raise DatasetError(
            f"{folder}: holds the folder {held.folders[0].name}; expected only image files, "
            "because classes have no subfolders"
        )
    if not held.files:
        raise DatasetError(f"{folder}: holds no files; expected at least one image of this class")
    skipped += held.hidden
    for path, state in held.files.items():
        yield ListedFile(path, label, state)


def _check_same_classes(
    test: Path, in_test: tuple[str, ...], train: Path, in_train: tuple[str, ...]
) -> None:
    lacking = [name for name in in_train if name not in in_test]
    additional = [name for name in in_test if name not in in_train]
    if lacking or additional:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("lacks", lacking), ("has in addition", additional))
            if names
        ]
        raise DatasetError(f"{test}: {' and '.join(parts)}; expected the class folders of {train}")
