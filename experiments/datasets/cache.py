"""What tensorflow-datasets prepares once and keeps in its cache.

The cache is `TFDS_DATA_DIR`, else `~/tensorflow_datasets`, as for every user of
tensorflow-datasets.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.datasets.dataset import DatasetError, one_line

# tensorflow-datasets retries for minutes, which without a network is no use.
_PROBE_TIMEOUT_S = 10


class Info(tfds.core.DatasetInfo):
    """What tensorflow-datasets knows of a data set; nobody has put more about these anywhere."""

    def initialize_from_bucket(self) -> None:
        """Looks nowhere: the original makes a folder in /tmp for what it finds, and leaves it."""


def cache_dir() -> Path:
    """Returns the folder for what this package prepares and downloads."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepare(
    name: str,
    make: Callable[..., tfds.core.DatasetBuilder],
    version: Path,
    *,
    originals: Path | None,
    url: str,
    how_to_get: str,
) -> Path:
    """Prepares a data set in the cache unless it is there, and returns its folder.

    tensorflow-datasets writes into a folder of another name and renames it when all is done, so
    that the folder returned is whole.

    Args:
        name: the data set's.
        make: its builder's class, which gets `data_dir` and `file_format`.
        version: where the builder prepares, below the cache.
        originals: the folder of the original files; None downloads them.
        url: one of the files, to see whether there is a network.
        how_to_get: the part of an error that says where the data set may lie.

    Raises:
        DatasetError: it is not there and cannot be prepared.
    """
    cache = cache_dir()
    folder = cache / version
    if folder.exists():
        return folder
    try:
        if originals is None:
            _probe(name, url, how_to_get)
        builder = make(data_dir=cache, file_format="array_record")
        # Data sets that share file names must not share a folder for them.
        download_dir = cache / "downloads" / builder.name
        with _quiet(downloading=originals is None):
            builder.download_and_prepare(
                download_dir=download_dir,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=originals,
                    extract_dir=download_dir / "extracted",
                    try_download_gcs=False,
                ),
            )
    except DatasetError:
        raise
    except Exception as error:
        # Another process may have finished first; its folder is as good.
        if not folder.exists():
            raise DatasetError(
                f"{name}: cannot be prepared in {folder} ({one_line(error)}); expected a folder "
                "that can be written (TFDS_DATA_DIR sets another) and the original files: "
                f"{how_to_get}"
            ) from error
    return folder


@contextlib.contextmanager
def _quiet(*, downloading: bool) -> Iterator[None]:
    """Keeps tensorflow-datasets off stdout, and silent where there is nothing to wait for."""
    with contextlib.ExitStack() as stack:
        if not downloading:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _probe(name: str, url: str, how_to_get: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise DatasetError(
            f"{name}: not in {cache_dir()}, and {url} cannot be reached ({one_line(error)}); "
            f"{how_to_get}"
        ) from error


def read(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads what tensorflow-datasets prepared: of the splits train and test, every feature.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        return {split: _read_records(builder, split) for split in ("train", "test")}
    # Damaged files surface as whatever JSON, protobuf, Pillow or array_record raise.
    except Exception as error:
        raise DatasetError(
            f"{folder}: cannot be read ({one_line(error)}); expected a data set prepared by "
            "tensorflow-datasets as array_record (delete the folder to have it prepared again)"
        ) from error


def _read_records(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, np.ndarray]:
    """Reads a split at once; record by record it would take many times longer."""
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    examples = source.__getitems__(range(len(source)))
    encoded = [example["image"] for example in examples]
    feature = builder.info.features["image"]
    if isinstance(feature, tfds.features.Image):
        images = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    else:
        # bytearray, so that the array can be written to like any other.
        images = np.frombuffer(bytearray().join(encoded), feature.np_dtype)
    numbers = {
        name: np.array([example[name] for example in examples], dtype=np.int32)
        for name in builder.info.features
        if name != "image"
    }
    return {"image": images.reshape(len(examples), *feature.shape), **numbers}
