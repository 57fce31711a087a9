"""A user's own images: `DIR/train/CLASS/*` and optionally `DIR/test/CLASS/*`.

They are decoded once, and then read from a cache as long as no file and no setting changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from experiments.datasets.array_cache import ArrayCache, digest
from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.folder_decoding import DecodedFolder, LeftOut, decode_folder
from experiments.datasets.folder_listing import Listing, list_images
from experiments.datasets.splits import stratified_mask
from experiments.settings.errors import print_warning, printable

# A constant, so that the test set is the same in every run.
_TEST_SEED = 0
_TEST_PART = 5  # one image in so many is a test image if there is no folder of test images
_FORMAT = 1  # of the cache; it increases if images are decoded differently
_MOST_NAMES = 3  # in messages
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "extent", "left_out")


class OwnImages(NamedTuple):
    """A user's own images.

    Attributes:
        train: training and validation images, uint8 `[n, h, w, c]` with one or three channels.
        test: test images.
        class_names: the names of the class folders, sorted as text.
        notes: what was done with the files, in one line each.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def read(root: Path, shape: tuple[int, int], *, keep_aspect: bool) -> OwnImages:
    """Reads the images of a folder, from the cache if nothing has changed.

    Without `DIR/test`, a fifth of the training images becomes the test set. It is stratified and
    the same in every run. Images that cannot be read are left out with a warning.

    Args:
        root: the folder DIR.
        shape: the height and width of the images.
        keep_aspect: whether images are padded to this aspect ratio before they are resized, by
            repeating their edge, so that nothing is cropped or stretched.

    Raises:
        DatasetError: the folder does not have the expected structure, it holds too few images, or
            no image of a class can be read.
    """
    listing = list_images(root)
    decoded = _read_or_decode(listing, shape, keep_aspect=keep_aspect)
    broken = [f"{name} ({reason})" for name, reason in decoded.left_out.broken.items()]
    if broken:
        total = len(listing.train) + len(listing.test or ())
        print_warning(
            f"{root}: {len(broken)} of {total} files cannot be read and are left out: "
            f"{_first(broken)}"
        )
    notes = [_describe_resizing(decoded, shape, keep_aspect=keep_aspect)]
    notes += _describe_skipped(listing, decoded.left_out)
    train, test = decoded.train, decoded.test
    if listing.test is None:
        train, test = _cut_test(train, root / "train")
        notes.append(
            f"{root} has no folder test, so a stratified fifth of its training images is the "
            "test set, the same in every run"
        )
    return OwnImages(train, test, listing.class_names, tuple(map(printable, notes)))


# --- The cache ------------------------------------------------------------------------------------


def _read_or_decode(
    listing: Listing, shape: tuple[int, int], *, keep_aspect: bool
) -> DecodedFolder:
    """Decodes the images, unless the cache holds those of the same files and settings."""
    files = [
        (split, file.path.relative_to(listing.root).as_posix(), file.label, *file.state)
        for split, part in (("train", listing.train), ("test", listing.test or ()))
        for file in part
    ]
    # A folder has one cache for each size, so that caches of former files do not accumulate.
    place = digest(_FORMAT, str(listing.root.resolve()), shape, keep_aspect)
    key = digest(PIL.__version__, files)
    cache = ArrayCache("image_folders", place, key, _ARRAYS)
    arrays = cache.read()
    if arrays is not None:
        return _from_arrays(arrays)
    decoded = decode_folder(listing, shape, keep_aspect=keep_aspect)
    if decoded.lasting:
        cache.write(_to_arrays(decoded))
    return decoded


def _to_arrays(decoded: DecodedFolder) -> dict[str, np.ndarray]:
    train, test = decoded.train, decoded.test
    left_out = np.frombuffer(json.dumps(decoded.left_out).encode(), np.uint8)
    arrays = train.images, train.labels, test.images, test.labels, decoded.extent, left_out
    return dict(zip(_ARRAYS, arrays, strict=True))


def _from_arrays(arrays: dict[str, np.ndarray]) -> DecodedFolder:
    *splits, extent, left_out = (arrays[name] for name in _ARRAYS)
    train, test = Split(*splits[:2]), Split(*splits[2:])
    return DecodedFolder(train, test, extent, LeftOut(*json.loads(left_out.tobytes())), True)


# --- What is said ---------------------------------------------------------------------------------


def _describe_resizing(decoded: DecodedFolder, shape: tuple[int, int], *, keep_aspect: bool) -> str:
    smallest, largest = (f"{height} x {width}" for height, width in decoded.extent)
    height, width = decoded.extent[0]
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    if (decoded.extent == shape).all():
        return f"files of {size} pixels (height x width) keep their size"
    same_proportions = smallest == largest and height * shape[1] == width * shape[0]
    how = "resized" if same_proportions else "stretched"
    if keep_aspect and not same_proportions:
        how = "padded at their edges to the proportions, and resized"
    return f"files of {size} pixels (height x width) are {how} to {shape[0]} x {shape[1]}"


def _describe_skipped(listing: Listing, left_out: LeftOut) -> list[str]:
    notes = []
    if listing.ignored:
        names = ", ".join(folder.name for folder in listing.ignored)
        notes.append(f"in {listing.root}, only train and test are read, not {names}")
    names = [path.relative_to(listing.root).as_posix() for path in listing.skipped]
    names += left_out.other
    if names:
        many = len(names) != 1
        files, are = ("files", "are") if many else ("file", "is")
        notes.append(f"{len(names)} {files} {are} hidden or no image, and skipped: {_first(names)}")
    return notes


def _first(texts: Sequence[str]) -> str:
    """The first of some texts, and how many more there are."""
    more = len(texts) - _MOST_NAMES
    return ", ".join(texts[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


# --- The test set ---------------------------------------------------------------------------------


def _cut_test(data: Split, source: Path) -> tuple[Split, Split]:
    """Cuts a stratified test set. Every class keeps at least one training image."""
    classes = len(np.unique(data.labels))
    most = len(data) - classes - 1  # one more is held out for the validation
    if most < 1:
        raise DatasetError(
            f"{source}: holds {len(data)} images of {classes} classes; expected at least "
            f"{classes + 2}, because one is held out for the validation and one for the test"
        )
    size = min(max(1, len(data) // _TEST_PART), most)
    mask = stratified_mask(data.labels, size, _TEST_SEED, keep_per_class=1)
    return data.take(~mask), data.take(mask)
