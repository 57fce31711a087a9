"""The official archives as a tensorflow-datasets builder that does not need TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.datasets import tfds_cache
from experiments.datasets.dataset import DatasetError, Split
from experiments.datasets.gtsrb import archives, signs
from experiments.datasets.published_files import verify_file

NumberedExamples = Iterator[tuple[int, dict[str, np.ndarray | int]]]


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares the official archives in one size and aspect, and keeps their order."""

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
            name=_config_name(train, image_size, keep_aspect=keep_aspect)
        )
        super().__init__(config=self._config, **settings)

    def get_builder_config(self, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Returns the own config; the inherited method warns because it is not in a list."""
        return self._config

    @property
    def url_infos(self) -> dict[str, tfds.download.checksums.UrlInfo]:
        """Empty, because tensorflow-datasets needs a SHA-256, and only the MD5 is known."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds_cache.LocalDatasetInfo(
            builder=self,
            features=tfds_cache.labelled_image_features(
                (self._image_size, self._image_size, 3),
                signs.NUM_CLASSES,
                track=tfds.features.Scalar(dtype=np.int32),
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, NumberedExamples]:
        train, test, labels = (self._path(file, dl_manager) for file in _files(self._train))
        return {
            "train": self._generate_examples(archives.read_train(train, self._train.folder)),
            "test": self._generate_examples(archives.read_test(test, labels)),
        }

    def _path(self, file: archives.Archive, dl_manager: tfds.download.DownloadManager) -> Path:
        """Returns the path of an archive, after downloading it if the user does not have it."""
        if self._originals is not None:
            return self._originals / file.name  # `read` has verified it
        path = Path(dl_manager.download(archives.OFFICIAL.base_url + file.name))
        try:
            verify_file(path, file)
        except DatasetError:
            # Without its .INFO file, the next run downloads the archive again.
            path.with_name(f"{path.name}.INFO").unlink()
            raise
        return path

    def _generate_examples(self, examples: Iterator[archives.Example]) -> NumberedExamples:
        for index, (image, label, track) in enumerate(examples):
            pixels = archives.resize(image, self._image_size, keep_aspect=self._keep_aspect)
            yield index, {"image": pixels, "label": label, "track": track}


def _files(train: archives.TrainArchive) -> tuple[archives.Archive, ...]:
    """Returns the archives that are read."""
    return train, archives.OFFICIAL.test, archives.OFFICIAL.test_labels


def _config_name(train: archives.TrainArchive, image_size: int, *, keep_aspect: bool) -> str:
    """Returns the name of a folder of the cache."""
    aspect = "padded" if keep_aspect else "squashed"
    return f"{train.training_set}_{image_size}px_{aspect}"


def read(
    originals: Path | None, image_size: int, *, keep_aspect: bool, how_to_get: str
) -> signs.Signs:
    """Reads the signs, after preparing them in the cache if needed.

    Args:
        originals: the folder of the archives; None for the final training set, from the cache or
            the network.
        image_size: the side of the images, in pixels.
        keep_aspect: as in `archives.resize`.
        how_to_get: the part of an error that names the supported places of the archives.

    Raises:
        DatasetError: an archive is missing or damaged, or the cache cannot be used.
    """
    archive = archives.OFFICIAL.final
    if originals is not None:
        archive = archives.OFFICIAL.train_archive_in(originals)
        # Verified even if the cache has the data set: a damaged file must not go unnoticed.
        for file in _files(archive):
            verify_file(originals / file.name, file)
    config = _config_name(archive, image_size, keep_aspect=keep_aspect)
    folder = tfds_cache.prepare(
        "gtsrb",
        functools.partial(
            ArchiveBuilder,
            originals=originals,
            train=archive,
            image_size=image_size,
            keep_aspect=keep_aspect,
        ),
        Path(ArchiveBuilder.name, config, str(ArchiveBuilder.VERSION)),
        originals=originals,
        url=archives.OFFICIAL.base_url + archive.name,
        how_to_get=how_to_get,
    )
    return _read_prepared(folder, archive.training_set, image_size)


def _read_prepared(folder: Path, name: signs.TrainingSet, image_size: int) -> signs.Signs:
    found = tfds_cache.read(folder)
    train, test = (Split(found[name]["image"], found[name]["label"]) for name in ("train", "test"))
    signs.check_signs(train, "train", signs.TRAIN_COUNTS[name], image_size, folder)
    signs.check_signs(test, "test", signs.TEST_COUNT, image_size, folder)
    return signs.Signs(name, train, found["train"]["track"], test)
