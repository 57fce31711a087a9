"""The builders of idx files: a small data set, and MNIST if `--data-dir` has it."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import DatasetError, idx, idx_builders
from experiments.datasets.published_files import PublishedFile

RNG = np.random.default_rng(0)
TRAIN = (RNG.integers(256, size=(30, 5, 4), dtype=np.uint8), np.arange(30) % 3)
TEST = (RNG.integers(256, size=(12, 5, 4), dtype=np.uint8), np.arange(12) % 3)
NAMES = [file.name for file in idx.MNIST.files]


def gz_idx(array: np.ndarray) -> bytes:
    """Returns an array of unsigned bytes as a compressed idx file."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


CONTENTS = dict(zip(NAMES, map(gz_idx, (*TRAIN, *TEST)), strict=True))


def describe(contents: dict[str, bytes]) -> idx.IdxDataset:
    """Returns a data set whose original files are `contents`."""
    originals = [
        PublishedFile(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    ]
    return idx.IdxDataset(
        base_url="http://127.0.0.1:9/",  # the discard port, where nothing listens
        train=idx.IdxSplit(originals[0], originals[1], count=30),
        test=idx.IdxSplit(originals[2], originals[3], count=12),
        image_shape=(5, 4),
        num_classes=3,
    )


class Tiny(idx_builders.IdxBuilder, skip_registration=True):
    """Thirty training and twelve test images of 5x4 pixels."""

    name = "tiny_idx"
    DATASET = describe(CONTENTS)


def subclass(**attributes) -> type[idx_builders.IdxBuilder]:
    """Returns a builder like `Tiny` with other attributes."""
    return type("Other", (Tiny,), {"name": "tiny_idx", **attributes}, skip_registration=True)


def write_files(folder: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    """Writes each of `contents` into a file of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def prepared_folder(cache: Path) -> Path:
    """The folder in which `Tiny` is prepared."""
    return cache / "tiny_idx" / "1.0.0"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path) -> Path:
    write_files(tmp_path / "data" / "tiny")
    return tmp_path / "data"


def assert_is_tiny(splits) -> None:
    for split, (images, labels) in zip(splits, (TRAIN, TEST), strict=True):
        np.testing.assert_array_equal(split.images, images[..., None])
        np.testing.assert_array_equal(split.labels, labels)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_original_files_keep_their_order_and_are_read_only(
    cache, data, capsys, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert_is_tiny(idx_builders.read("tiny", Tiny, data))
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert capsys.readouterr().out == ""
    assert_is_tiny(idx_builders.read("tiny", Tiny, data))
    assert_is_tiny(idx_builders.read("tiny", Tiny, None))
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [False, True])
def test_damaged_original_is_named(cache, data, name, cached):
    if cached:
        idx_builders.read("tiny", Tiny, data)
    path = data / "tiny" / name
    flipped = bytearray(CONTENTS[name])
    flipped[-5] ^= 1
    for damaged, message in ((CONTENTS[name][:-7], "bytes; the original"), (flipped, "SHA-256")):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=message) as raised:
            idx_builders.read("tiny", Tiny, data)
        assert str(path) in str(raised.value)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read") as raised:
        idx_builders.read("tiny", Tiny, data)
    assert str(path) in str(raised.value)
    assert prepared_folder(cache).exists() == cached


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (NAMES[0], b"no gzip", "cannot be decompressed"),
        (NAMES[1], gz_idx(TRAIN[1][:-1]), "declares the shape"),
        (NAMES[2], gz_idx(TEST[1]), "magic number"),
        (NAMES[3], gz_idx(TEST[1] + 1), "holds the label 3"),
    ],
)
def test_undecodable_file_leaves_nothing_in_the_cache(cache, tmp_path, name, content, message):
    contents = {**CONTENTS, name: content}
    write_files(tmp_path / "data" / "tiny", contents)
    with pytest.raises(DatasetError, match=message) as raised:
        idx_builders.read("tiny", subclass(DATASET=describe(contents)), tmp_path / "data")
    assert name in str(raised.value)
    assert not prepared_folder(cache).exists()


def test_missing_data_set_says_how_to_get_it(cache, tmp_path):
    for data_dir in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(DatasetError) as raised:
            idx_builders.read("tiny", Tiny, data_dir)
        text = str(raised.value)
        for part in ("--data-dir DIR", "DIR/tiny/", *NAMES):
            assert part in text
        assert "\n" not in text


def test_missing_network_is_reported_without_retries(cache):
    with pytest.raises(DatasetError, match=r"127\.0\.0\.1.* cannot be reached"):
        idx_builders.read("tiny", Tiny, None)


def test_killed_preparation_is_repeated(cache, data):
    script = f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
        from pathlib import Path
        import test_idx_builders as tests

        class Killed(tests.Tiny, skip_registration=True):
            name = "tiny_idx"

            def _generate_examples(self, split):
                for number, example in enumerate(super()._generate_examples(split)):
                    if number == 5 and len(split) == 12:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield example

        tests.idx_builders.read("tiny", Killed, Path({str(data)!r}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert list(cache.rglob("*incomplete*"))
    assert not prepared_folder(cache).exists()
    assert_is_tiny(idx_builders.read("tiny", Tiny, data))


def test_another_process_may_finish_the_preparation_first(cache, data):
    def overtaken(self, split):
        idx_builders.read("tiny", Tiny, data)
        yield from Tiny._generate_examples(self, split)

    assert_is_tiny(idx_builders.read("tiny", subclass(_generate_examples=overtaken), data))


def test_unwritable_cache_is_named(tmp_path, data, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="TFDS_DATA_DIR"):
        idx_builders.read("tiny", Tiny, data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    "name", ["dataset_info.json", "features.json", "tiny_idx-train.array_record-00000-of-00001"]
)
def test_damaged_prepared_folder_is_named(cache, data, name, damage):
    idx_builders.read("tiny", Tiny, data)
    damage(prepared_folder(cache) / name)
    with pytest.raises(DatasetError, match="delete the folder") as raised:
        idx_builders.read("tiny", Tiny, data)
    assert str(prepared_folder(cache)) in str(raised.value)


def test_flipped_bit_of_a_record_is_detected(cache, data):
    idx_builders.read("tiny", Tiny, data)
    path = prepared_folder(cache) / "tiny_idx-test.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[content.index(TEST[0][0].tobytes()[:4]) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="hash mismatch"):
        idx_builders.read("tiny", Tiny, data)


def test_folder_prepared_by_tensorflow_datasets_is_read_and_checked(cache, data, tmp_path):
    idx_builders.read("tiny", Tiny, data)
    other = tmp_path / "other"
    for version in ("1.0.0", "incomplete.ABC_9.0.0"):
        (other / "tfds" / "tiny").mkdir(parents=True, exist_ok=True)
        (other / "tfds" / "tiny" / version).symlink_to(prepared_folder(cache))
    assert_is_tiny(idx_builders.read("tiny", Tiny, other))
    train = dataclasses.replace(Tiny.DATASET.train, count=31)
    wrong = subclass(DATASET=dataclasses.replace(Tiny.DATASET, train=train))
    with pytest.raises(DatasetError, match=r"train images are uint8 \(30, 5, 4, 1\); expected"):
        idx_builders.read("tiny", wrong, other)
    wrong = subclass(DATASET=dataclasses.replace(Tiny.DATASET, num_classes=2))
    with pytest.raises(DatasetError, match="labels run from 0 to 2; expected 0 to 1"):
        idx_builders.read("tiny", wrong, other)


@pytest.fixture
def served(tmp_path):
    """Serves a folder over HTTP; yields the folder and its address."""
    folder = write_files(tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_data_set_is_downloaded(cache, served):
    _, url = served
    builder_class = subclass(DATASET=dataclasses.replace(Tiny.DATASET, base_url=url))
    assert_is_tiny(idx_builders.read("tiny", builder_class, None))


def test_damaged_download_is_rejected_and_repeated(cache, served):
    folder, url = served
    builder_class = subclass(DATASET=dataclasses.replace(Tiny.DATASET, base_url=url))
    (folder / NAMES[2]).write_bytes(CONTENTS[NAMES[2]][:-1])
    with pytest.raises(DatasetError, match=f"{NAMES[2]}.*checksum"):
        idx_builders.read("tiny", builder_class, None)
    (folder / NAMES[2]).unlink()
    with pytest.raises(DatasetError, match=NAMES[2]):
        idx_builders.read("tiny", builder_class, None)
    assert not prepared_folder(cache).exists()
    write_files(folder)
    assert_is_tiny(idx_builders.read("tiny", builder_class, None))


def test_damaged_earlier_download_is_rejected(cache, served):
    folder, url = served
    builder_class = subclass(DATASET=dataclasses.replace(Tiny.DATASET, base_url=url))
    (folder / NAMES[2]).unlink()
    with pytest.raises(DatasetError):
        idx_builders.read("tiny", builder_class, None)
    write_files(folder)
    earlier = next(
        path for path in cache.rglob("*train-images*.gz") if path.read_bytes() == CONTENTS[NAMES[0]]
    )
    flip(earlier)
    with pytest.raises(DatasetError, match="SHA-256") as raised:
        idx_builders.read("tiny", builder_class, None)
    assert str(earlier) in str(raised.value)


def test_builders_have_distinct_names_and_checksums():
    names = {builder_class.name for builder_class in idx_builders.BUILDERS.values()}
    assert len(names) == len(idx_builders.BUILDERS)
    checksums = [file.checksum for files in (idx.MNIST, idx.FASHION_MNIST) for file in files.files]
    assert len(set(checksums)) == 8


def test_real_mnist(cache, data_dir):
    originals = datasets.load("mnist", data_dir=data_dir)
    assert originals.train.images.shape == (55000, 28, 28, 1)
    assert originals.validation.images.shape == (5000, 28, 28, 1)
    assert originals.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert originals.num_classes == 10


def test_real_mnist_prepared_by_tfds_holds_the_same_examples(cache, data_dir, tmp_path):
    (tmp_path / "tfds").symlink_to(Path(data_dir) / "tfds")
    tfds_order = datasets.load("mnist", data_dir=tmp_path, validation_size=0)
    originals = datasets.load("mnist", data_dir=data_dir, validation_size=0)
    for ours, theirs in ((originals.train, tfds_order.train), (originals.test, tfds_order.test)):
        assert sorted_examples(ours) == sorted_examples(theirs)


def sorted_examples(split: datasets.Split) -> list[bytes]:
    pairs = zip(split.images, split.labels, strict=True)
    return sorted(image.tobytes() + label.tobytes() for image, label in pairs)
