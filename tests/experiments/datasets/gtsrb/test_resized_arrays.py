"""Traffic signs as .npz files, and loading them; the real ones if `--data-dir` has them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import datasets
from experiments.datasets import DatasetError, gtsrb
from experiments.datasets.gtsrb import archives, resized_arrays, signs
from tests.experiments.datasets.gtsrb.conftest import (
    FIRST_STAGE,
    LABELS,
    NAMES,
    PIXELS,
    RNG,
    TEST_LABELS,
    TRACKS,
    assert_signs_equal,
)


def arrays_of(name: str) -> dict[str, np.ndarray]:
    labels = LABELS if name == "train" else TEST_LABELS
    images = RNG.integers(256, size=(len(labels), 32, 32, 3), dtype=np.uint8)
    found = {"images": images, "labels": labels.astype(np.uint8)}
    return found | ({"track": TRACKS.astype(np.int16)} if name == "train" else {})


def save(data: Path, **changes: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Writes both files, with changes to the arrays of either."""
    (data / "gtsrb").mkdir(parents=True, exist_ok=True)
    written = {name: arrays_of(name) | changes.get(name, {}) for name in resized_arrays.FILES}
    for name, arrays in written.items():
        kept = {key: array for key, array in arrays.items() if array is not None}
        np.savez(data / "gtsrb" / resized_arrays.FILES[name], **kept)
    return written


def test_resized_arrays_are_read(tmp_path, small):
    written = save(tmp_path)
    found = gtsrb.read(tmp_path, 32, keep_aspect=False)
    np.testing.assert_array_equal(found.train.images, written["train"]["images"])
    np.testing.assert_array_equal(found.train.labels, LABELS)
    np.testing.assert_array_equal(found.tracks, TRACKS)
    np.testing.assert_array_equal(found.test.images, written["test"]["images"])
    np.testing.assert_array_equal(found.test.labels, TEST_LABELS)
    assert found.train.labels.dtype == found.tracks.dtype == np.int32
    assert found.name == signs.FINAL


def test_archives_are_preferred_to_resized_arrays(data):
    save(data)
    assert_signs_equal(gtsrb.read(data, 32, keep_aspect=False), 32)


@pytest.mark.parametrize(("size", "keep_aspect"), [(48, False), (32, True)])
def test_resized_arrays_have_one_size_and_aspect(tmp_path, small, size, keep_aspect):
    save(tmp_path)
    with pytest.raises(DatasetError, match="expected --image-size 32 --no-keep-aspect, or the off"):
        gtsrb.read(tmp_path, size, keep_aspect=keep_aspect)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"track": None}}, "has no array track"),
        ({"train": {"track": TRACKS[1:]}}, r"track has the shape \(171,\)"),
        ({"train": {"labels": LABELS.astype(float)}}, "type float64; expected integers"),
        ({"train": {"labels": LABELS + 1}}, "run from 1 to 43; expected 0 to 42"),
        ({"test": {"labels": TEST_LABELS - 2}}, "run from -1 to 36"),
        ({"test": {"images": np.zeros((3, 9, 9, 3), np.uint8)}}, r"test images are uint8 \(3, 9"),
        ({"test": {"images": np.zeros((3, 32, 32, 3))}}, "test images are float64"),
        ({"test": {"labels": np.array([{}, {}, {}])}}, "cannot be read"),
    ],
)
def test_invalid_array_is_named(tmp_path, small, changes, message):
    save(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as raised:
        gtsrb.read(tmp_path, 32, keep_aspect=False)
    assert str(tmp_path / "gtsrb" / resized_arrays.FILES[next(iter(changes))]) in str(raised.value)


@pytest.mark.parametrize("name", resized_arrays.FILES)
def test_missing_or_damaged_file_is_named(tmp_path, small, name):
    save(tmp_path)
    path = tmp_path / "gtsrb" / resized_arrays.FILES[name]
    path.write_bytes(path.read_bytes()[:-100])
    for _ in ("damaged", "missing"):
        with pytest.raises(DatasetError, match="is not a readable") as raised:
            gtsrb.read(tmp_path, 32, keep_aspect=False)
        assert str(path) in str(raised.value)
        path.unlink(missing_ok=True)


# Loading.


def test_no_physical_sign_is_in_both_splits(tmp_path, small):
    written = save(tmp_path)
    where = {image.tobytes(): i for i, image in enumerate(written["train"]["images"])}
    found = datasets.load("gtsrb", data_dir=tmp_path, validation_size=60)
    sides = [
        {(int(LABELS[i]), int(TRACKS[i])) for i in (where[image.tobytes()] for image in s.images)}
        for s in (found.train, found.validation)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 86
    assert len(found.validation) == 60
    assert set(found.train.labels) == set(range(43))
    assert (found.num_classes, len(found.test)) == (43, 3)


def test_load_passes_on_size_and_aspect(data):
    found = datasets.load("gtsrb", data_dir=data, image_size=9, keep_aspect=True)
    expected = archives.resize(Image.fromarray(PIXELS[172]), 9, keep_aspect=True)
    np.testing.assert_array_equal(found.test.images[0], expected)
    assert len(found.validation) == 16  # a tenth of 172, in tracks of two
    assert found.name == "gtsrb"


def test_name_tells_the_first_stage_apart(tmp_path, publish, contents, small):
    data = publish(tmp_path / "gtsrb", contents, names=[FIRST_STAGE, *NAMES[1:]])
    found = datasets.load("gtsrb", data_dir=data, validation_size=0)
    assert (found.name, len(found.train)) == ("gtsrb_first_stage", 86)


def test_real_signs(data_dir):
    found = datasets.load("gtsrb", data_dir=data_dir)
    assert len(found.train) + len(found.validation) == 39209
    assert abs(len(found.validation) - 3920) <= 30
    assert set(found.train.labels) == set(found.validation.labels) == set(range(43))
    assert found.train.images.shape[1:] == found.test.images.shape[1:] == (32, 32, 3)
    assert found.test.labels[:8].tolist() == [16, 1, 38, 33, 11, 38, 18, 12]
