"""The idx parser: any file that is not exactly the expected one raises a DatasetError."""

import gzip
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import DatasetError, idx
from experiments.datasets.published_files import PublishedFile, verify_file

SHAPE = (3, 2, 2)


def encode(array: np.ndarray) -> bytes:
    """Returns an array of unsigned bytes as an idx file."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


VALUES = np.arange(12, dtype=np.uint8).reshape(SHAPE)
DATA = encode(VALUES)


def test_parse_inverts_encode():
    np.testing.assert_array_equal(idx.parse(DATA, SHAPE, "file"), VALUES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "magic number 0x00000803"),
        (b"PK\3\4" + DATA[4:], "begins with 0x504b0304"),
        (DATA[:2] + b"\x0d" + DATA[3:], "begins with 0x00000d03"),
        (encode(VALUES[0]), "begins with 0x00000802"),
        (DATA[:10], "header ends after 10 of 16 bytes"),
        (encode(VALUES[:2]), r"declares the shape \(2, 2, 2\); expected \(3, 2, 2\)"),
        (DATA[:4] + b"\xff" * 12 + DATA[16:], r"declares the shape \(4294967295"),
        (DATA[:-1], "has 27 bytes; its shape .* needs 28"),
        (DATA + b"\0", "has 29 bytes"),
    ],
)
def test_unexpected_bytes_are_rejected(data, message):
    with pytest.raises(DatasetError, match=f"^file: .*{message}"):
        idx.parse(data, SHAPE, "file")


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: DATA[:16] + tail))
def test_any_bytes_parse_or_raise_dataset_error(data):
    try:
        array = idx.parse(data, SHAPE, "file")
    except DatasetError as error:
        text = str(error)
    else:
        assert encode(array) == data
        return
    assert "\n" not in text


def test_damaged_copies_are_rejected(tmp_path):
    path = tmp_path / "images.gz"
    content = gzip.compress(DATA, mtime=0)
    expected = PublishedFile("images.gz", len(content), hashlib.sha256(content).hexdigest())

    path.write_bytes(content)
    verify_file(path, expected)

    for damaged, message in (
        (content[:-3], f"has {len(content) - 3} bytes; the original file has {len(content)}"),
        (content[:-1] + bytes((content[-1] ^ 1,)), "SHA-256"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=message) as raised:
            verify_file(path, expected)
        assert str(path) in str(raised.value)

    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        verify_file(path, expected)


@given(data=st.data())
def test_damaged_gzip_is_rejected(tmp_path_factory, data):
    content = bytearray(gzip.compress(DATA, mtime=0))
    end = data.draw(st.integers(0, len(content)))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("gzip")
    (folder / "images").write_bytes(content[:end])
    (folder / "labels").write_bytes(gzip.compress(encode(np.arange(3))))
    dataset = tiny_dataset(num_classes=3)
    try:
        split = idx.read_split(folder / "images", folder / "labels", dataset, 3)
    except DatasetError as error:
        text = str(error)
    else:  # some bits of a gzip header have no effect
        np.testing.assert_array_equal(split.images[..., 0], VALUES)
        return
    assert str(folder / "images") in text


def test_label_out_of_range_is_rejected(tmp_path):
    (tmp_path / "images").write_bytes(gzip.compress(DATA))
    (tmp_path / "labels").write_bytes(gzip.compress(encode(np.array([0, 3, 1]))))
    with pytest.raises(DatasetError, match="labels: holds the label 3; expected 0 to 2"):
        idx.read_split(tmp_path / "images", tmp_path / "labels", tiny_dataset(num_classes=3), 3)


def tiny_dataset(num_classes: int) -> idx.IdxDataset:
    file = PublishedFile("", 0, "")
    split = idx.IdxSplit(file, file, 3)
    return idx.IdxDataset("", split, split, image_shape=(2, 2), num_classes=num_classes)
