"""The cache of tensorflow-datasets: data sets that are prepared once and then read from it."""

from __future__ import annotations

import contextlib
import io
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.datasets.cache_folder import cache_dir
from experiments.datasets.dataset import DatasetError, one_line

# Without a network, tensorflow-datasets would retry for minutes.
_CONNECTION_TIMEOUT_S = 10


class MakeBuilder(Protocol):
    """A builder class, or a function that makes a builder."""

    def __call__(self, *, data_dir: Path, file_format: str) -> tfds.core.DatasetBuilder:
        """Returns a builder that prepares its data set in `data_dir`."""
        ...


class LocalDatasetInfo(tfds.core.DatasetInfo):
    """A description of a data set that is not looked up online."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; the inherited method creates a folder in /tmp and leaves it there."""


def labelled_image_features(
    image_shape: tuple[int, int, int],
    num_classes: int,
    **others: tfds.features.FeatureConnector,
) -> tfds.features.FeaturesDict:
    """Returns the features of a data set of uint8 images with labels, and `others`."""
    # tfds.features.Image would need TensorFlow's PNG encoder.
    image = tfds.features.Tensor(
        shape=image_shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
    )
    label = tfds.features.ClassLabel(num_classes=num_classes)
    return tfds.features.FeaturesDict({"image": image, "label": label, **others})


def prepare(
    name: str,
    make_builder: MakeBuilder,
    relative_path: Path,
    *,
    originals: Path | None,
    url: str,
    how_to_get: str,
) -> Path:
    """Returns the folder of a data set in the cache, after preparing it if it is missing.

    tensorflow-datasets writes into a temporary folder and renames it at the end, so the returned
    folder is complete.

    Args:
        name: the name of the data set, for errors.
        make_builder: makes the builder.
        relative_path: the folder that the builder prepares, relative to the cache.
        originals: the folder of the original files; None downloads them.
        url: the address of one of the files, to test the connection.
        how_to_get: the part of an error that names the supported places of the data set.

    Raises:
        DatasetError: the data set is not in the cache and cannot be prepared.
    """
    folder = cache_dir() / relative_path
    if folder.exists():
        return folder
    try:
        if originals is None:
            _check_connection(name, url, how_to_get)
        _download_and_prepare(make_builder, originals)
    except DatasetError:
        raise
    except Exception as error:
        # If another process has finished first, its folder is as good.
        if not folder.exists():
            raise DatasetError(
                f"{name}: cannot be prepared in {folder} ({one_line(error)}); expected a writable "
                "folder (set another by TFDS_DATA_DIR) and the original files: "
                f"{how_to_get}"
            ) from error
    return folder


def _download_and_prepare(make_builder: MakeBuilder, originals: Path | None) -> None:
    cache = cache_dir()
    builder = make_builder(data_dir=cache, file_format="array_record")
    # A folder for each data set, because files of different data sets share names.
    download_dir = cache / "downloads" / builder.name
    with _redirected_output(downloading=originals is None):
        builder.download_and_prepare(
            download_dir=download_dir,
            download_config=tfds.download.DownloadConfig(
                manual_dir=originals,
                extract_dir=download_dir / "extracted",
                try_download_gcs=False,
            ),
        )


@contextlib.contextmanager
def _redirected_output(*, downloading: bool) -> Iterator[None]:
    """Keeps tensorflow-datasets off stdout, and silent unless it downloads."""
    with contextlib.ExitStack() as stack:
        if not downloading:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _check_connection(name: str, url: str, how_to_get: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_CONNECTION_TIMEOUT_S).close()
    except OSError as error:
        raise DatasetError(
            f"{name}: not in {cache_dir()}, and {url} cannot be reached ({one_line(error)}); "
            f"{how_to_get}"
        ) from error


def read(folder: Path) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Reads a prepared data set.

    Returns:
        For each of the splits `train` and `test`, an array for each feature.

    Raises:
        DatasetError: the data set cannot be read.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        return {split: _read_records(builder, split) for split in ("train", "test")}
    # For damaged files, JSON, protobuf, Pillow and array_record raise unrelated exception types.
    except Exception as error:
        raise DatasetError(
            f"{folder}: cannot be read ({one_line(error)}); expected a data set prepared by "
            "tensorflow-datasets as array_record (delete the folder to prepare it again)"
        ) from error


def _read_records(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, np.ndarray]:
    """Reads all records of a split at once, which is many times faster than one by one."""
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    examples = source.__getitems__(range(len(source)))
    encoded = [example["image"] for example in examples]
    feature = builder.info.features["image"]
    if isinstance(feature, tfds.features.Image):
        images = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    else:
        # A bytearray makes the array writable.
        images = np.frombuffer(bytearray().join(encoded), feature.np_dtype)
    numbers = {
        name: np.array([example[name] for example in examples], dtype=np.int32)
        for name in builder.info.features
        if name != "image"
    }
    return {"image": images.reshape(len(examples), *feature.shape), **numbers}
