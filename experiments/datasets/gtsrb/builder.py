"""The signs as a tensorflow-datasets builder that needs no TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.datasets import cache
from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.gtsrb import archives, signs


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares the official archives in one size, in their order."""

    name = "gtsrb_archives"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        originals: Path | None,
        train: archives.TrainArchive,
        image_size: int,
        keep_aspect: bool,
        **settings: Any,
    ):
        self._originals = originals
        self._train = train
        self._image_size = image_size
        self._keep_aspect = keep_aspect
        self._config = tfds.core.BuilderConfig(
            name=_config(train, image_size, keep_aspect=keep_aspect)
        )
        super().__init__(config=self._config, **settings)

    def get_builder_config(self, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Its own: any size will do, where tensorflow-datasets warns of those it has no list of."""
        return self._config

    @property
    def url_infos(self) -> dict[str, Any]:
        """None: tensorflow-datasets verifies by SHA-256, which of one archive is not known."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return cache.Info(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    # features.Image would need TensorFlow's PNG encoder.
                    "image": tfds.features.Tensor(
                        shape=(self._image_size, self._image_size, 3),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    "label": tfds.features.ClassLabel(num_classes=signs.NUM_CLASSES),
                    "track": tfds.features.Scalar(dtype=np.int32),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        train, test, labels = (self._path(file, dl_manager) for file in _files(self._train))
        return {
            "train": self._generate_examples(archives.read_train(train, self._train.folder)),
            "test": self._generate_examples(archives.read_test(test, labels)),
        }

    def _path(self, file: archives.Archive, dl_manager: tfds.download.DownloadManager) -> Path:
        """Where an archive lies, after downloading it where the user has none."""
        if self._originals is not None:
            return self._originals / file.name  # `read` verified it
        path = Path(dl_manager.download(archives.OFFICIAL.base_url + file.name))
        try:
            archives.verify(path, file)
        except DatasetError:
            # Without its description the manager downloads it anew, and does not take it on trust.
            path.with_name(f"{path.name}.INFO").unlink()
            raise
        return path

    def _generate_examples(
        self, examples: Iterator[archives.Example]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label, track) in enumerate(examples):
            pixels = archives.resize(image, self._image_size, keep_aspect=self._keep_aspect)
            yield index, {"image": pixels, "label": label, "track": track}


def _files(train: archives.TrainArchive) -> tuple[archives.Archive, ...]:
    """The archives that are read."""
    return train, archives.OFFICIAL.test, archives.OFFICIAL.test_labels


def _config(train: archives.TrainArchive, image_size: int, *, keep_aspect: bool) -> str:
    """Names what is prepared, as a folder of the cache."""
    aspect = "padded" if keep_aspect else "squashed"
    return f"{train.training_set}_{image_size}px_{aspect}"


def read(
    originals: Path | None, image_size: int, *, keep_aspect: bool, how_to_get: str
) -> signs.Signs:
    """Reads the signs, after preparing them in the cache where that has not been done.

    Args:
        originals: the folder of the archives; None for the final training set, from the cache
            or the network.
        image_size: side of the images, in pixels.
        keep_aspect: as in `archives.resize`.
        how_to_get: the part of an error that says where the archives may lie.

    Raises:
        DatasetError: an archive is missing or damaged, or the cache cannot be used.
    """
    if originals is None:
        train_archive = archives.OFFICIAL.final
    else:
        train_archive = archives.OFFICIAL.train_in(originals)
        # Checked even where the cache would do: a damaged file must not go unnoticed.
        for file in _files(train_archive):
            archives.verify(originals / file.name, file)
    make = functools.partial(
        Builder,
        originals=originals,
        train=train_archive,
        image_size=image_size,
        keep_aspect=keep_aspect,
    )
    config = _config(train_archive, image_size, keep_aspect=keep_aspect)
    folder = cache.prepare(
        "gtsrb",
        make,
        Path(Builder.name, config, str(Builder.VERSION)),
        originals=originals,
        url=archives.OFFICIAL.base_url + train_archive.name,
        how_to_get=how_to_get,
    )
    found = cache.read(folder)
    train, test = (Split(found[name]["image"], found[name]["label"]) for name in ("train", "test"))
    name = train_archive.training_set
    signs.check(train, "train", signs.TRAIN_COUNTS[name], image_size, folder)
    signs.check(test, "test", signs.TEST_COUNT, image_size, folder)
    return signs.Signs(name, train, found["train"]["track"], test)
