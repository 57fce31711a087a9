"""MNIST and Fashion-MNIST as tensorflow-datasets builders that need no TensorFlow.

A data set comes from the first of these that there is:

1. `DIR/NAME/*.gz`, the original files, with `data_dir=DIR`;
2. `DIR/tfds/NAME/VERSION/`, prepared by tensorflow-datasets' own builder as array_record;
3. without `data_dir`, the cache, and else the network.

DIR is only read. What 1 and 3 prepare and download lies in the cache (see `cache`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from experiments.datasets import cache, idx
from experiments.datasets.dataset import DatasetError, Split


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
        return cache.Info(
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
    prepared = cache.prepare(
        name,
        builder_class,
        Path(builder_class.name, str(builder_class.VERSION)),
        originals=originals,
        url=files.base_url + files.train.labels.name,
        how_to_get=how_to_get(name, files),
    )
    return _read_folder(prepared, files)


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


def _read_folder(folder: Path, files: idx.IdxFiles) -> tuple[Split, Split]:
    found = cache.read(folder)
    train, test = (Split(found[name]["image"], found[name]["label"]) for name in ("train", "test"))
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
