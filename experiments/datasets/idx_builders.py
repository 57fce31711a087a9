"""MNIST and Fashion-MNIST as tensorflow-datasets builders that do not need TensorFlow.

A data set is read from the first of these places that has it:

1. `DIR/NAME/*.gz`, the original files, with `data_dir=DIR`;
2. `DIR/tfds/NAME/VERSION/`, prepared as array_record by the builder of tensorflow-datasets;
3. without `data_dir`, the cache, or else the network.

DIR is only read. Everything that 1 and 3 prepare and download is in the cache (see `tfds_cache`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from experiments.datasets import idx, tfds_cache
from experiments.datasets.dataset import DatasetError, Split, check_split
from experiments.datasets.published_files import verify_file

NumberedExamples = Iterator[tuple[int, dict[str, np.ndarray | int]]]


class IdxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set of idx files and keeps their order."""

    VERSION = tfds.core.Version("1.0.0")
    DATASET: ClassVar[idx.IdxDataset]

    @property
    def url_infos(self) -> dict[str, tfds.download.checksums.UrlInfo]:
        """Sizes and checksums with which tensorflow-datasets verifies downloads."""
        return {
            self.DATASET.base_url + file.name: tfds.download.checksums.UrlInfo(
                size=tfds.core.utils.Size(file.size), checksum=file.checksum, filename=file.name
            )
            for file in self.DATASET.files
        }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds_cache.LocalDatasetInfo(
            builder=self,
            features=tfds_cache.labelled_image_features(
                (*self.DATASET.image_shape, 1), self.DATASET.num_classes
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, NumberedExamples]:
        paths = {
            file.name: Path(dl_manager.download(self.DATASET.base_url + file.name))
            for file in self.DATASET.files
        }
        # The manager does not verify files that it downloaded earlier.
        for file in self.DATASET.files:
            verify_file(paths[file.name], file)

        def generate(split: idx.IdxSplit) -> NumberedExamples:
            images, labels = paths[split.images.name], paths[split.labels.name]
            return self._generate_examples(
                idx.read_split(images, labels, self.DATASET, split.count)
            )

        return {"train": generate(self.DATASET.train), "test": generate(self.DATASET.test)}

    def _generate_examples(self, split: Split) -> NumberedExamples:
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


class Mnist(IdxBuilder, skip_registration=True):
    """MNIST (LeCun and Cortes): handwritten digits."""

    name = "mnist_idx"
    DATASET = idx.MNIST


class FashionMnist(IdxBuilder, skip_registration=True):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): images of clothes."""

    name = "fashion_mnist_idx"
    DATASET = idx.FASHION_MNIST


BUILDERS: dict[str, type[IdxBuilder]] = {"mnist": Mnist, "fashion_mnist": FashionMnist}


def read(name: str, builder_class: type[IdxBuilder], data_dir: Path | None) -> tuple[Split, Split]:
    """Reads a data set, after preparing it in the cache if needed.

    Args:
        name: the folder of the data set in `data_dir`.
        builder_class: the builder of the data set.
        data_dir: the folder of the user's data sets; None for the cache or the network.

    Returns:
        (train, test), uint8 `[n, h, w, 1]`, in the order of the original files. A folder that was
        prepared by the builder of tensorflow-datasets has its own order.

    Raises:
        DatasetError: the data set is in none of the places, or is damaged.
    """
    dataset = builder_class.DATASET
    originals = None
    if data_dir is not None:
        originals = data_dir / name
        if not any(os.path.exists(originals / file.name) for file in dataset.files):
            return _read_prepared(_prepared_folder(name, dataset, data_dir), dataset)
        # Verified even if the cache has the data set: a damaged file must not go unnoticed.
        for file in dataset.files:
            verify_file(originals / file.name, file)
    prepared = tfds_cache.prepare(
        name,
        builder_class,
        Path(builder_class.name, str(builder_class.VERSION)),
        originals=originals,
        url=dataset.base_url + dataset.train.labels.name,
        how_to_get=_how_to_get(name, dataset),
    )
    return _read_prepared(prepared, dataset)


def _how_to_get(name: str, dataset: idx.IdxDataset) -> str:
    """The part of an error that names the supported places of the data set."""
    originals = ", ".join(file.name for file in dataset.files)
    return (
        f"pass --data-dir DIR with the original files in DIR/{name}/ ({originals}) or with "
        f"DIR/tfds/{name}/VERSION/ prepared by tensorflow-datasets as array_record"
    )


def _prepared_folder(name: str, dataset: idx.IdxDataset, data_dir: Path) -> Path:
    """Returns the newest version that tensorflow-datasets prepared in `data_dir`."""
    parent = data_dir / "tfds" / name
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in parent.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if not versions:
        raise DatasetError(
            f"{name}: neither {data_dir / name / dataset.train.images.name} nor "
            f"{parent / 'VERSION' / 'dataset_info.json'} exists; {_how_to_get(name, dataset)}, "
            "or omit --data-dir to download them"
        )
    return versions[max(versions)]


def _read_prepared(folder: Path, dataset: idx.IdxDataset) -> tuple[Split, Split]:
    found = tfds_cache.read(folder)
    train, test = (Split(found[name]["image"], found[name]["label"]) for name in ("train", "test"))
    for name, split, files in (("train", train, dataset.train), ("test", test, dataset.test)):
        shape = (files.count, *dataset.image_shape, 1)
        check_split(split, name, shape, dataset.num_classes, folder)
    return train, test
