"""Small archives of traffic signs that stand for the official ones."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from experiments.datasets import gtsrb
from experiments.datasets.gtsrb import archives, signs

OFFICIAL = archives.OFFICIAL
T = TypeVar("T", bound=archives.Archive)
NAMES = [file.name for file in (OFFICIAL.final, OFFICIAL.test, OFFICIAL.test_labels)]
FIRST_STAGE = "GTSRB-Training_fixed.zip"
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"
TRAIN = "GTSRB/Final_Training/Images"
TEST = "GTSRB/Final_Test/Images"
# Each class has two tracks of two frames; the first stage has only the first track. The classes of
# the test images are not sorted.
LABELS = np.repeat(np.arange(43), 4)
TRACKS = np.tile([0, 0, 1, 1], 43)
MEMBERS = {signs.FINAL: np.arange(172), signs.FIRST_STAGE: np.flatnonzero(TRACKS == 0)}
TEST_LABELS = np.array([16, 1, 38])
SIZES = [(9, 7), (5, 12), (8, 8)]
RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(256, size=(*SIZES[i % 3][::-1], 3), dtype=np.uint8) for i in range(172 + 3)]


def ppm(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    return file.getvalue()


def table_row(name: str, pixels: np.ndarray, label: object) -> str:
    height, width = pixels.shape[:2]
    return f"{name};{width};{height};1;1;{width - 2};{height - 2};{label}\r\n"


def table(name: str, label: object) -> bytes:
    """Returns a table of one image."""
    return (HEADER + table_row(name, PIXELS[0], label)).encode()


def train_members(folder: str, name: str) -> dict[str, bytes]:
    """Returns the contents of a training archive."""
    train = {"GTSRB/Readme-Images.txt": b"read me"}
    tables = dict.fromkeys(range(43), HEADER)
    for i in MEMBERS[name]:
        file = f"{TRACKS[i]:05d}_{i % 2:05d}.ppm"
        train[f"{folder}/{LABELS[i]:05d}/{file}"] = ppm(PIXELS[i])
        tables[int(LABELS[i])] += table_row(file, PIXELS[i], LABELS[i])
    for label, text in tables.items():
        train[f"{folder}/{label:05d}/GT-{label:05d}.csv"] = text.encode()
    return train


def members() -> dict[str, dict[str, bytes]]:
    """Returns the contents of each archive."""
    names = ["00002.ppm", "00000.ppm", "00001.ppm"]  # not the order of the table
    test = {f"{TEST}/{name}": ppm(PIXELS[172 + i]) for i, name in enumerate(names)}
    test[f"{TEST}/GT-final_test.test.csv"] = b"no classes here"
    rows = [table_row(names[i], PIXELS[172 + i], TEST_LABELS[i]) for i in range(3)]
    labels = {"GT-final_test.csv": (HEADER + "".join(rows)).encode()}
    train = train_members(TRAIN, signs.FINAL)
    first_stage = train_members("GTSRB/Training", signs.FIRST_STAGE)
    return dict(zip((*NAMES, FIRST_STAGE), (train, test, labels, first_stage), strict=True))


def zipped(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def publish(monkeypatch):
    """Returns a function that makes `contents` the official archives, and writes some of them."""

    def write(
        folder: Path,
        contents: dict[str, bytes],
        url: str = "http://127.0.0.1:9/",
        names: Sequence[str] = NAMES,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(contents[name])

        def described(file: T) -> T:
            data = contents[file.name]
            digest = hashlib.md5(data).hexdigest()
            return dataclasses.replace(file, size=len(data), checksum=digest)

        official = archives.Archives(
            url,
            described(OFFICIAL.final),
            described(OFFICIAL.first_stage),
            described(OFFICIAL.test),
            described(OFFICIAL.test_labels),
        )
        monkeypatch.setattr(archives, "OFFICIAL", official)
        return folder.parent

    return write


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {name: zipped(content) for name, content in members().items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(signs, "TRAIN_COUNTS", {signs.FINAL: 172, signs.FIRST_STAGE: 86})
    monkeypatch.setattr(signs, "TEST_COUNT", 3)


@pytest.fixture
def data(tmp_path, publish, contents, small) -> Path:
    return publish(tmp_path / "data" / "gtsrb", contents)


def assert_signs_equal(
    found: gtsrb.Signs, size: int, *, keep_aspect: bool = False, name: str = signs.FINAL
) -> None:
    images = np.concatenate([found.train.images, found.test.images])
    expected = np.stack(
        [archives.resize(Image.fromarray(each), size, keep_aspect=keep_aspect) for each in PIXELS]
    )
    train = MEMBERS[name]
    assert found.name == name
    np.testing.assert_array_equal(images, expected[[*train, 172, 173, 174]])
    np.testing.assert_array_equal(found.train.labels, LABELS[train])
    np.testing.assert_array_equal(found.tracks, TRACKS[train])
    np.testing.assert_array_equal(found.test.labels, TEST_LABELS)
    assert found.train.images.dtype == np.uint8
