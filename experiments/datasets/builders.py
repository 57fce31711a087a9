"""MNIST and Fashion-MNIST as tensorflow-datasets builders that need no TensorFlow.

A data set comes from the first of these that there is:

1. `DIR/NAME/*.gz`, the original files, with `data_dir=DIR`;
2. `DIR/tfds/NAME/VERSION/`, prepared by tensorflow-datasets' own builder as array_record;
3. without `data_dir`, the cache, and else the network.

DIR is only read. What 1 and 3 prepare and download lies in the cache: `TFDS_DATA_DIR`, else
`~/tensorflow_datasets`, as for every user of tensorflow-datasets.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.datasets import idx
from experiments.datasets.dataset import DatasetError, Split, one_line

# tensorflow-datasets retries for minutes, which without a network is no use.
_PROBE_TIMEOUT_S = 10


class _Info(tfds.core.DatasetInfo):
    """What tensorflow-datasets knows of a data set; nobody has put more about these anywhere."""

    def initialize_from_bucket(self) -> None:
        """Looks nowhere: the original makes a folder in /tmp for what it finds, and leaves it."""


class IdxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set of idx files, in their order."""

    VERSION = tfds.core.Version("1.0.0")
    FILES: ClassVar[idx.IdxFiles]

    @property
    def url_infos(self) -> dict[str, Any]:
        """Sizes and checksums by which tensorflow-datasets verifies what it downloads."""
        return {
            self.FILES.base_url + file.name: tfds.download.checksums.UrlInfo(
                size=tfds.core.utils.Size(file.size), checksum=file.sha256, filename=file.name
            )
            for file in self.FILES.files
        }

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    # features.Image would need TensorFlow's PNG encoder.
                    "image": tfds.features.Tensor(
                        shape=(*self.FILES.image_shape, 1),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    "label": tfds.features.ClassLabel(num_classes=self.FILES.num_classes),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = {
            file.name: Path(dl_manager.download(self.FILES.base_url + file.name))
            for file in self.FILES.files
        }
        # The manager takes a file that it once downloaded on trust.
        for file in self.FILES.files:
            idx.verify_file(paths[file.name], file)
        return {
            name: self._generate_examples(
                idx.read_split(
                    paths[split.images.name],
                    paths[split.labels.name],
                    self.FILES,
                    split.count,
                )
            )
            for name, split in (("train", self.FILES.train), ("test", self.FILES.test))
        }

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


class Mnist(IdxBuilder, skip_registration=True):
    """MNIST (LeCun and Cortes): handwritten digits."""

    name = "mnist_idx"
    FILES = idx.MNIST


class FashionMnist(IdxBuilder, skip_registration=True):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): pictures of clothes."""

    name = "fashion_mnist_idx"
    FILES = idx.FASHION_MNIST


BUILDERS: dict[str, type[IdxBuilder]] = {"mnist": Mnist, "fashion_mnist": FashionMnist}


def read(name: str, builder_class: type[IdxBuilder], data_dir: Path | None) -> tuple[Split, Split]:
    """Reads a data set, after preparing it in the cache where that has not been done.

    Args:
        name: the data set's folder in `data_dir`.
        builder_class: its builder.
        data_dir: where the user has it; None for the cache or the network.

    Returns:
        (train, test), uint8 `[n, h, w, 1]`. The order is that of the original files; from a folder
        that tensorflow-datasets' own builder prepared, it is that folder's.

    Raises:
        DatasetError: the data set is in none of the places, or is damaged.
    """
    files = builder_class.FILES
    originals = None
    if data_dir is not None:
        originals = data_dir / name
        if not any(os.path.exists(originals / file.name) for file in files.files):
            return _read_folder(_prepared_folder(name, files, data_dir), files)
        # Checked even where the cache would do: a damaged file must not go unnoticed.
        idx.verify(originals, files)
    return _read_folder(_prepare(name, builder_class, originals), files)


def cache_dir() -> Path:
    """Returns the folder for what this package prepares and downloads."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def how_to_get(name: str, files: idx.IdxFiles) -> str:
    """Returns the part of an error that says where the data set may lie."""
    originals = ", ".join(file.name for file in files.files)
    return (
        f"pass --data-dir DIR with the original files in DIR/{name}/ ({originals}) or with "
        f"DIR/tfds/{name}/VERSION/ prepared by tensorflow-datasets as array_record"
    )


def _prepared_folder(name: str, files: idx.IdxFiles, data_dir: Path) -> Path:
    """Finds the newest version that tensorflow-datasets prepared in `data_dir`."""
    parent = data_dir / "tfds" / name
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in parent.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if not versions:
        raise DatasetError(
            f"{name}: neither {data_dir / name / files.train.images.name} nor "
            f"{parent / 'VERSION' / 'dataset_info.json'} exists; {how_to_get(name, files)}, "
            "or leave --data-dir out to download them"
        )
    return versions[max(versions)]


def _prepare(name: str, builder_class: type[IdxBuilder], originals: Path | None) -> Path:
    """Prepares a data set in the cache unless it is there, and returns its folder.

    tensorflow-datasets writes into a folder of another name and renames it when all is done, so
    that the folder returned is whole.
    """
    cache = cache_dir()
    folder = cache / builder_class.name / str(builder_class.VERSION)
    if folder.exists():
        return folder
    try:
        if originals is None:
            _probe(name, builder_class.FILES)
        builder = builder_class(data_dir=cache, file_format="array_record")
        # Data sets that share file names must not share a folder for them.
        download_dir = cache / "downloads" / builder_class.name
        with _quiet(downloading=originals is None):
            builder.download_and_prepare(
                download_dir=download_dir,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=originals,
                    extract_dir=download_dir / "extracted",
                    force_checksums_validation=True,
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
                f"{how_to_get(name, builder_class.FILES)}"
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


def _probe(name: str, files: idx.IdxFiles) -> None:
    url = files.base_url + files.train.labels.name
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise DatasetError(
            f"{name}: not in {cache_dir()}, and {url} cannot be reached ({one_line(error)}); "
            f"{how_to_get(name, files)}"
        ) from error


def _read_folder(folder: Path, files: idx.IdxFiles) -> tuple[Split, Split]:
    try:
        builder = tfds.builder_from_directory(folder)
        train, test = (_read_records(builder, split) for split in ("train", "test"))
    # Damaged files surface as whatever JSON, protobuf, Pillow or array_record raise.
    except Exception as error:
        raise DatasetError(
            f"{folder}: cannot be read ({one_line(error)}); expected a data set prepared by "
            "tensorflow-datasets as array_record (delete the folder to have it prepared again)"
        ) from error
    for name, split, expected in (("train", train, files.train), ("test", test, files.test)):
        shape = (expected.count, *files.image_shape, 1)
        if split.images.shape != shape or split.images.dtype != np.uint8:
            raise DatasetError(
                f"{folder}: its {name} images are {split.images.dtype} {split.images.shape}; "
                f"expected uint8 {shape}"
            )
        if split.labels.min() < 0 or split.labels.max() >= files.num_classes:
            raise DatasetError(
                f"{folder}: its {name} labels run from {split.labels.min()} to "
                f"{split.labels.max()}; expected 0 to {files.num_classes - 1}"
            )
    return train, test


def _read_records(builder: tfds.core.DatasetBuilder, split: str) -> Split:
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
    labels = np.array([example["label"] for example in examples], dtype=np.int32)
    return Split(images.reshape(len(examples), *feature.shape), labels)
