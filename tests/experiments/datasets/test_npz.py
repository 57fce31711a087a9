"""User-defined .npz files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import DatasetError, load

VALID = {
    "x_train": np.arange(20 * 4 * 5, dtype=np.uint8).reshape(20, 4, 5),
    "y_train": np.arange(20) % 4,
    "x_test": np.ones((3, 4, 5), np.uint8),
    "y_test": np.array([0, 1, 6], np.uint8),
}


def npz(compressed: bool = True, **changes: Any) -> bytes:
    """Returns an .npz file of `VALID` with `changes`; arrays that are None are left out."""
    arrays: dict[str, Any] = {
        key: value for key, value in {**VALID, **changes}.items() if value is not None
    }
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def test_grey_images_get_a_channel_axis(path):
    path.write_bytes(npz())
    data = load("npz", data_file=path)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 3)
    assert data.num_classes == 7
    assert data.train.images.shape[1:] == (4, 5, 1)
    np.testing.assert_array_equal(data.test.labels, [0, 1, 6])
    assert (data.train.images.dtype, data.test.labels.dtype) == (np.uint8, np.int32)
    whole = load("npz", data_file=str(path), validation_size=0).train
    np.testing.assert_array_equal(whole.images[..., 0], VALID["x_train"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_colour_floats_keep_their_values(path, dtype):
    images = np.linspace(-2, 3, 20 * 4 * 5 * 3).reshape(20, 4, 5, 3).astype(dtype)
    path.write_bytes(npz(x_train=images, x_test=images[:3]))
    data = load("npz", data_file=path, validation_size=0)
    assert data.train.images.dtype == np.float32
    np.testing.assert_array_equal(data.train.images, images.astype(np.float32))


NAN = np.full((3, 4, 5), np.nan)
INVALID = [
    ("x_test", None, "holds x_train, y_train, y_test"),
    ("x_train", np.array([{}], object), "cannot be read"),
    ("x_train", np.zeros((20, 4)), r"shape \(20, 4\)"),
    ("x_train", np.zeros((20, 4, 5, 2)), "1 or 3 channels"),
    ("x_train", np.zeros((0, 4, 5)), "at least one pixel"),
    ("x_train", np.zeros((20, 4, 0)), "at least one pixel"),
    ("x_train", np.zeros((20, 4, 5), np.int64), "type int64; expected uint8 or float"),
    ("x_train", np.zeros((20, 4, 5), bool), "type bool"),
    ("x_train", np.zeros((20, 4, 5), complex), "type complex128"),
    ("x_test", NAN, "NaN or infinite"),
    ("x_test", np.full((3, 4, 5), 1e300), "NaN or infinite"),
    ("x_test", np.ones((3, 5, 4), np.uint8), "have shape"),
    ("x_test", np.ones((3, 4, 5), np.float32), "have type"),
    ("x_train", np.zeros((19, 4, 5), np.uint8), "19 images but y_train has 20 labels"),
    ("y_train", np.zeros(20), "type float64; expected integers"),
    ("y_train", np.zeros((20, 1), int), r"shape \(20, 1\)"),
    ("y_train", np.zeros(0, int), "empty"),
    ("y_train", np.arange(20) - 1, "labels from -1 to 18"),
    ("y_test", np.array([0, 1, 2**31 - 1]), "labels from 0 to 2147483647"),
    ("y_train", np.arange(20) + 10**8, "labels from 100000000 to .* 0 to 65535"),
    ("y_test", np.array([0, 1, 2**16]), "labels from 0 to 65536; expected .* 0 to 65535"),
]


@pytest.mark.parametrize(("key", "value", "message"), INVALID)
def test_invalid_array_is_named(path, key, value, message):
    path.write_bytes(npz(**{key: value}))
    with pytest.raises(DatasetError, match=message) as raised:
        load("npz", data_file=path)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert key in text
    assert "\n" not in text


NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


@pytest.mark.parametrize("names", [NAMES, [*NAMES, "hen"], np.array(NAMES)])
def test_class_names_are_read(path, names, capsys):
    path.write_bytes(npz(class_names=names))
    data = load("npz", data_file=path)
    assert data.class_names == tuple(names)
    assert data.num_classes == len(names)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:6], "has 6 names, but the largest label is 6; expected at least 7 names"),
        (np.array(NAMES, "S"), r"type \|S3; expected texts"),
        (np.array(NAMES, object), "cannot be read .*not of pickled objects"),
        (np.arange(7), "type int64; expected texts"),
        ([NAMES], r"shape \(1, 7\)"),
        ([*NAMES[:6], "ant"], "has 'ant' at 6; expected names that differ"),
        ([*NAMES[:6], ""], "has '' at 6"),
        ([*NAMES[:6], "a\nb"], r"has 'a\\nb' at 6; expected names that differ, of printable"),
    ],
)
def test_invalid_class_names_are_named(path, names, message):
    path.write_bytes(npz(class_names=names))
    with pytest.raises(DatasetError, match=message) as raised:
        load("npz", data_file=path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "class_names" in str(raised.value)


def test_other_arrays_are_named(path, capsys):
    path.write_bytes(npz(x_val=np.zeros(3), classnames=NAMES))
    assert load("npz", data_file=path).class_names is None
    known = "x_train, y_train, x_test, y_test, class_names"
    expected = f"warning: {path}: ignores x_val, classnames; it reads {known}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (np.zeros((20, 1), int), "y.ravel()"),
        (np.eye(20), "y.argmax(axis=1)"),
        (np.zeros(20), "y.astype(int)"),
        (np.array(["ant", "bee"] * 10), "return_inverse=True"),
    ],
)
def test_error_of_labels_names_the_remedy(path, labels, remedy):
    path.write_bytes(npz(y_train=labels))
    with pytest.raises(DatasetError) as raised:
        load("npz", data_file=path)
    assert remedy in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "its 1 training example has the label 0; expected .* at least two classes"),
        ([5] * 20, "its 20 training examples have the label 5; expected .* at least two classes"),
        ([0, 1], "there are 2 training examples, one of each class; expected more"),
        ([3, 1, 2], "there are 3 training examples, one of each class; expected more"),
    ],
)
def test_too_few_examples_are_an_error(path, labels, message):
    count = len(labels)
    path.write_bytes(npz(x_train=VALID["x_train"][:count], y_train=np.array(labels)))
    with pytest.raises(DatasetError, match=message):
        load("npz", data_file=path)


def test_every_class_keeps_a_training_example(path):
    labels = np.array([0] * 18 + [1, 2])
    path.write_bytes(npz(y_train=labels))
    for size in (None, 1, 5, 17):
        data = load("npz", data_file=path, validation_size=size)
        assert np.unique(data.train.labels).tolist() == [0, 1, 2]
        assert len(data.validation) == (size or 2)


class TouchesFile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", list(VALID))
def test_pickled_object_is_not_loaded(path, tmp_path, key):
    path.write_bytes(npz(**{key: np.array([TouchesFile(tmp_path / "touched")], object)}))
    with pytest.raises(DatasetError, match=f"the array {key} cannot be read.*pickled"):
        load("npz", data_file=path)
    assert not (tmp_path / "touched").exists()


def test_file_that_is_not_npz_is_rejected(path, tmp_path):
    with pytest.raises(DatasetError, match=r"No such file.*x_train, y_train, x_test, y_test"):
        load("npz", data_file=path)
    with pytest.raises(DatasetError, match=r"is not a readable \.npz file"):
        load("npz", data_file=tmp_path)
    for content in (b"", b"text", npz()[:200], npz()[:-30]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"is not a readable \.npz file"):
            load("npz", data_file=path)
    np.save(tmp_path / "one.npy", VALID["x_train"])
    with pytest.raises(DatasetError, match=r"is a single \.npy array"):
        load("npz", data_file=tmp_path / "one.npy")


@given(
    compressed=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    keep=st.just(1.0) | st.floats(0, 1),
)
def test_damaged_file_loads_or_raises_dataset_error(tmp_path_factory, compressed, changes, keep):
    content = bytearray(npz(compressed))
    for position, value in changes:
        content[int(position * (len(content) - 1))] = value
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    path.write_bytes(content[: int(keep * len(content))])
    try:
        data = load("npz", data_file=path)
    except DatasetError as error:
        text = str(error)
    else:
        assert len(data.train) + len(data.validation) == 20
        return
    assert str(path) in text
    assert "\n" not in text
