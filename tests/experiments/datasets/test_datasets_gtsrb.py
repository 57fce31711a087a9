"""Traffic signs: small archives and arrays like the real ones, and the real ones where at hand."""

import dataclasses
import functools
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from experiments import datasets
from experiments.datasets import DatasetError, gtsrb
from experiments.datasets.gtsrb import archives, builder, compact, signs

OFFICIAL = archives.OFFICIAL
T = TypeVar("T", bound=archives.Archive)
NAMES = [file.name for file in (OFFICIAL.final, OFFICIAL.test, OFFICIAL.test_labels)]
FIRST_STAGE = "GTSRB-Training_fixed.zip"
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"
TRAIN = "GTSRB/Final_Training/Images"
TEST = "GTSRB/Final_Test/Images"
# Two tracks of two frames of each class, of which the first stage has the first; test images in no
# order of their classes.
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


def row(name: str, pixels: np.ndarray, label: object) -> str:
    height, width = pixels.shape[:2]
    return f"{name};{width};{height};1;1;{width - 2};{height - 2};{label}\r\n"


def train_members(folder: str, name: str) -> dict[str, bytes]:
    """What a training archive holds."""
    train = {"GTSRB/Readme-Images.txt": b"read me"}
    tables = dict.fromkeys(range(43), HEADER)
    for i in MEMBERS[name]:
        file = f"{TRACKS[i]:05d}_{i % 2:05d}.ppm"
        train[f"{folder}/{LABELS[i]:05d}/{file}"] = ppm(PIXELS[i])
        tables[int(LABELS[i])] += row(file, PIXELS[i], LABELS[i])
    for label, table in tables.items():
        train[f"{folder}/{label:05d}/GT-{label:05d}.csv"] = table.encode()
    return train


def members() -> dict[str, dict[str, bytes]]:
    """What each archive holds."""
    names = ["00002.ppm", "00000.ppm", "00001.ppm"]  # the order of the table counts
    test = {f"{TEST}/{name}": ppm(PIXELS[172 + i]) for i, name in enumerate(names)}
    test[f"{TEST}/GT-final_test.test.csv"] = b"no classes here"
    rows = [row(names[i], PIXELS[172 + i], TEST_LABELS[i]) for i in range(3)]
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
    """Takes archives for the official ones, and writes those of some names."""

    def write(
        folder: Path,
        contents: dict[str, bytes],
        url: str = "http://127.0.0.1:9/",
        names: Sequence[str] = NAMES,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(contents[name])

        def like(file: T) -> T:
            data = contents[file.name]
            digest = hashlib.md5(data).hexdigest()
            return dataclasses.replace(file, size=len(data), md5=digest)

        official = archives.Archives(
            url,
            like(OFFICIAL.final),
            like(OFFICIAL.first_stage),
            like(OFFICIAL.test),
            like(OFFICIAL.test_labels),
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


def assert_is_whole(
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


# Archives.


def test_archives_keep_their_order_and_are_only_read(data, capsys, caplog):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    for folder in (data, data, None):  # prepared, and then from the cache
        assert_is_whole(gtsrb.read(folder, 6, keep_aspect=False), 6)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert capsys.readouterr().out == caplog.text == ""


def test_each_size_and_aspect_is_prepared_for_itself(data):
    for size, keep_aspect in ((6, False), (6, True), (7, True)):
        found = gtsrb.read(data, size, keep_aspect=keep_aspect)
        assert_is_whole(found, size, keep_aspect=keep_aspect)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [False, True])
def test_damaged_archive_is_named(data, contents, name, cached, cache):
    if cached:
        gtsrb.read(data, 4, keep_aspect=False)
    path = data / "gtsrb" / name
    flipped = bytearray(contents[name])
    flipped[-5] ^= 1
    for damaged, message in ((contents[name][:-7], "bytes; the official"), (flipped, "MD5")):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=message) as raised:
            gtsrb.read(data, 4, keep_aspect=False)
        assert str(path) in str(raised.value)
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot be read|holds no training archive") as raised:
        gtsrb.read(data, 4, keep_aspect=False)
    assert str(path.parent) in str(raised.value)
    assert name in str(raised.value)
    assert (cache / builder.Builder.name).exists() == cached


def test_either_training_archive_is_read_and_the_final_one_where_both_are(data, contents):
    read = functools.partial(gtsrb.read, data, 6, keep_aspect=False)
    final, first_stage = data / "gtsrb" / NAMES[0], data / "gtsrb" / FIRST_STAGE
    first_stage.write_bytes(contents[FIRST_STAGE])
    assert_is_whole(read(), 6)
    final.unlink()
    # Prepared and then from the cache, which has the other too.
    for _ in range(2):
        assert_is_whole(read(), 6, name=signs.FIRST_STAGE)
    final.write_bytes(contents[NAMES[0]])
    assert_is_whole(read(), 6)
    # No other comes in for one that is damaged.
    final.write_bytes(contents[NAMES[0]][:-1])
    with pytest.raises(DatasetError, match=f"{NAMES[0]}: has .* bytes"):
        read()


def test_the_first_stage_is_never_taken_for_what_is_downloaded(tmp_path, publish, contents, small):
    data = publish(tmp_path / "gtsrb", contents, names=[FIRST_STAGE, *NAMES[1:]])
    assert_is_whole(gtsrb.read(data, 4, keep_aspect=False), 4, name=signs.FIRST_STAGE)
    with pytest.raises(DatasetError, match=f"{NAMES[0]} cannot be reached"):
        gtsrb.read(None, 4, keep_aspect=False)


def test_the_first_stages_archive_is_verified_and_counted(
    tmp_path, publish, contents, small, monkeypatch
):
    data = publish(tmp_path / "gtsrb", contents, names=[FIRST_STAGE, *NAMES[1:]])
    path = data / "gtsrb" / FIRST_STAGE
    path.write_bytes(b"x" * len(contents[FIRST_STAGE]))
    with pytest.raises(DatasetError, match=f"{FIRST_STAGE}: its MD5 is"):
        gtsrb.read(data, 4, keep_aspect=False)
    path.write_bytes(contents[FIRST_STAGE])
    monkeypatch.setitem(signs.TRAIN_COUNTS, signs.FIRST_STAGE, 87)
    with pytest.raises(
        DatasetError, match=r"first_stage_4px.*\(86, 4, 4, 3\); expected uint8 \(87"
    ):
        gtsrb.read(data, 4, keep_aspect=False)


TABLE = f"{TRAIN}/00007/GT-00007.csv"
IMAGE = f"{TRAIN}/00003/00001_00001.ppm"


@pytest.mark.parametrize(
    ("archive", "member", "content", "message"),
    [
        (0, TABLE, None, "cannot be read"),
        (0, IMAGE, None, "cannot be read"),
        (0, IMAGE, b"P6 no image", "cannot be decoded"),
        (0, IMAGE, ppm(PIXELS[0])[:-9], "cannot be decoded"),
        (0, TABLE, b"Filename,ClassId\n00000_00000.ppm,7\n", "Filename None and ClassId None"),
        (0, TABLE, (HEADER + row("00000_00000.ppm", PIXELS[0], 8)).encode(), "of class 8; exp"),
        (0, TABLE, (HEADER + row("00000.ppm", PIXELS[0], 7)).encode(), "expected TRACK_FRAME"),
        (0, TABLE, (HEADER + row("00000_00000.ppm", PIXELS[0], "x")).encode(), "ClassId x; exp"),
        (2, "GT-final_test.csv", (HEADER + row("00000.ppm", PIXELS[0], 43)).encode(), "ClassId 43"),
        (2, "GT-final_test.csv", b"\xff\x00", None),
        (2, "GT-final_test.csv", None, "cannot be read"),
        (1, f"{TEST}/00001.ppm", None, "cannot be read"),
    ],
)
def test_what_does_not_decode_leaves_nothing_behind(
    tmp_path, publish, small, cache, archive, member, content, message
):
    given = members()
    if content is None:
        del given[NAMES[archive]][member]
    else:
        given[NAMES[archive]][member] = content
    data = publish(tmp_path / "gtsrb", {name: zipped(each) for name, each in given.items()})
    with pytest.raises(DatasetError, match=message) as raised:
        gtsrb.read(data, 4, keep_aspect=False)
    text = str(raised.value)
    assert "\n" not in text
    if message is not None:
        assert NAMES[archive] in text
        assert member in text
    assert not list(cache.glob("gtsrb_archives/*/1.0.0"))


def test_what_is_no_archive_is_named(tmp_path, publish, contents, small):
    data = publish(tmp_path / "gtsrb", {**contents, NAMES[1]: b"no zip"})
    with pytest.raises(DatasetError, match=f"{NAMES[1]}: cannot be opened"):
        gtsrb.read(data, 4, keep_aspect=False)


def test_an_archive_with_too_few_images(data, monkeypatch):
    monkeypatch.setitem(signs.TRAIN_COUNTS, signs.FINAL, 173)
    with pytest.raises(DatasetError, match=r"\(172, 4, 4, 3\); expected uint8 \(173, 4, 4, 3\)"):
        gtsrb.read(data, 4, keep_aspect=False)


def test_missing_data_set_says_how_to_get_it(tmp_path, publish, contents):
    publish(tmp_path / "elsewhere", contents)
    for data_dir in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(DatasetError) as raised:
            gtsrb.read(data_dir, 32, keep_aspect=False)
        text = str(raised.value)
        for part in ("--data-dir DIR", "DIR/gtsrb/", *NAMES, FIRST_STAGE, *compact.FILES.values()):
            assert part in text
        assert "\n" not in text
    assert "cannot be reached" in text


def test_download_is_verified_and_repeated(tmp_path, publish, contents, small):
    folder = tmp_path / "served"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            publish(folder, contents, f"http://127.0.0.1:{server.server_port}/")
            (folder / NAMES[1]).write_bytes(contents[NAMES[1]][:-1])
            with pytest.raises(DatasetError, match="bytes; the official archive has"):
                gtsrb.read(None, 4, keep_aspect=False)
            (folder / NAMES[1]).write_bytes(contents[NAMES[1]])
            assert_is_whole(gtsrb.read(None, 4, keep_aspect=False), 4)
        finally:
            server.shutdown()
            thread.join()


# Resizing.


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (9, 9)])
def test_a_plain_image_stays_plain(shape, keep_aspect):
    plain = Image.new("RGB", shape, (10, 200, 30))
    found = archives.resize(plain, 7, keep_aspect=keep_aspect)
    assert found.shape == (7, 7, 3)
    assert (found == (10, 200, 30)).all()


def test_at_its_own_size_an_image_is_itself():
    for keep_aspect in (False, True):
        found = archives.resize(Image.fromarray(PIXELS[2]), 8, keep_aspect=keep_aspect)
        np.testing.assert_array_equal(found, PIXELS[2])


def test_the_aspect_is_kept_by_repeating_the_edge():
    pixels = PIXELS[0]  # 7 rows, 9 columns
    found = archives.resize(Image.fromarray(pixels), 9, keep_aspect=True)
    np.testing.assert_array_equal(found[1:8], pixels)
    np.testing.assert_array_equal(found[0], pixels[0])
    np.testing.assert_array_equal(found[8], pixels[-1])
    turned = archives.resize(Image.fromarray(pixels.swapaxes(0, 1)), 9, keep_aspect=True)
    np.testing.assert_array_equal(turned.swapaxes(0, 1), found)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = archives.resize(Image.fromarray(stripes), 16, keep_aspect=False)[:, 1:-1]
    assert abs(found.astype(int) - 127.5).max() < 10


# Compact arrays.


def arrays_of(name: str) -> dict[str, np.ndarray]:
    labels = LABELS if name == "train" else TEST_LABELS
    images = RNG.integers(256, size=(len(labels), 32, 32, 3), dtype=np.uint8)
    found = {"images": images, "labels": labels.astype(np.uint8)}
    return found | ({"track": TRACKS.astype(np.int16)} if name == "train" else {})


def save(data: Path, **changes: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Writes both files, with changes to the arrays of one."""
    (data / "gtsrb").mkdir(parents=True, exist_ok=True)
    written = {name: arrays_of(name) | changes.get(name, {}) for name in compact.FILES}
    for name, arrays in written.items():
        kept = {key: array for key, array in arrays.items() if array is not None}
        np.savez(data / "gtsrb" / compact.FILES[name], **kept)
    return written


def test_compact_arrays(tmp_path, small):
    written = save(tmp_path)
    found = gtsrb.read(tmp_path, 32, keep_aspect=False)
    np.testing.assert_array_equal(found.train.images, written["train"]["images"])
    np.testing.assert_array_equal(found.train.labels, LABELS)
    np.testing.assert_array_equal(found.tracks, TRACKS)
    np.testing.assert_array_equal(found.test.images, written["test"]["images"])
    np.testing.assert_array_equal(found.test.labels, TEST_LABELS)
    assert found.train.labels.dtype == found.tracks.dtype == np.int32
    assert found.name == signs.FINAL


def test_archives_come_before_compact_arrays(data):
    save(data)
    assert_is_whole(gtsrb.read(data, 32, keep_aspect=False), 32)


@pytest.mark.parametrize(("size", "keep_aspect"), [(48, False), (32, True)])
def test_compact_arrays_are_to_be_had_in_one_way(tmp_path, small, size, keep_aspect):
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
def test_wrong_arrays_are_named(tmp_path, small, changes, message):
    save(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as raised:
        gtsrb.read(tmp_path, 32, keep_aspect=False)
    assert str(tmp_path / "gtsrb" / compact.FILES[next(iter(changes))]) in str(raised.value)


@pytest.mark.parametrize("name", compact.FILES)
def test_a_missing_or_damaged_file_is_named(tmp_path, small, name):
    save(tmp_path)
    path = tmp_path / "gtsrb" / compact.FILES[name]
    path.write_bytes(path.read_bytes()[:-100])
    for _ in ("damaged", "missing"):
        with pytest.raises(DatasetError, match="is not a readable") as raised:
            gtsrb.read(tmp_path, 32, keep_aspect=False)
        assert str(path) in str(raised.value)
        path.unlink(missing_ok=True)


# Loading.


def test_no_sign_is_on_both_sides(tmp_path, small):
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


def test_size_and_aspect_reach_the_reader(data):
    found = datasets.load("gtsrb", data_dir=data, image_size=9, keep_aspect=True)
    expected = archives.resize(Image.fromarray(PIXELS[172]), 9, keep_aspect=True)
    np.testing.assert_array_equal(found.test.images[0], expected)
    assert len(found.validation) == 16  # a tenth of 172, in tracks of two
    assert found.name == "gtsrb"


def test_the_data_sets_name_says_that_it_is_the_first_stages(tmp_path, publish, contents, small):
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
