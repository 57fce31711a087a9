"""The official archives of traffic signs: small ones that stand for them."""

import functools
import http.server
import threading

import numpy as np
import pytest
from PIL import Image

from experiments.datasets import DatasetError, gtsrb
from experiments.datasets.gtsrb import archive_builder, archives, resized_arrays, signs
from tests.experiments.datasets.gtsrb.conftest import (
    FIRST_STAGE,
    NAMES,
    PIXELS,
    TEST,
    TRAIN,
    assert_signs_equal,
    members,
    ppm,
    table,
    zipped,
)


def test_archives_keep_their_order_and_are_only_read(data, capsys, caplog):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    for folder in (data, data, None):  # prepared, and then from the cache
        assert_signs_equal(gtsrb.read(folder, 6, keep_aspect=False), 6)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert capsys.readouterr().out == caplog.text == ""


def test_each_size_and_aspect_is_prepared_separately(data):
    for size, keep_aspect in ((6, False), (6, True), (7, True)):
        found = gtsrb.read(data, size, keep_aspect=keep_aspect)
        assert_signs_equal(found, size, keep_aspect=keep_aspect)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [False, True])
def test_damaged_archive_is_named(data, contents, name, cached, cache):
    if cached:
        gtsrb.read(data, 4, keep_aspect=False)
    path = data / "gtsrb" / name
    flipped = bytearray(contents[name])
    flipped[-5] ^= 1
    for damaged, message in ((contents[name][:-7], "bytes; the original"), (flipped, "MD5")):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=message) as raised:
            gtsrb.read(data, 4, keep_aspect=False)
        assert str(path) in str(raised.value)
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot be read|holds no training archive") as raised:
        gtsrb.read(data, 4, keep_aspect=False)
    assert str(path.parent) in str(raised.value)
    assert name in str(raised.value)
    assert (cache / archive_builder.ArchiveBuilder.name).exists() == cached


def test_final_training_archive_is_preferred_to_the_first_stage(data, contents):
    read = functools.partial(gtsrb.read, data, 6, keep_aspect=False)
    final, first_stage = data / "gtsrb" / NAMES[0], data / "gtsrb" / FIRST_STAGE
    first_stage.write_bytes(contents[FIRST_STAGE])
    assert_signs_equal(read(), 6)
    final.unlink()
    # Once prepared and once from the cache, which also has the final set.
    for _ in range(2):
        assert_signs_equal(read(), 6, name=signs.FIRST_STAGE)
    final.write_bytes(contents[NAMES[0]])
    assert_signs_equal(read(), 6)
    # A damaged final archive is not replaced by the other.
    final.write_bytes(contents[NAMES[0]][:-1])
    with pytest.raises(DatasetError, match=f"{NAMES[0]}: has .* bytes"):
        read()


def test_prepared_first_stage_does_not_replace_a_download(tmp_path, publish, contents, small):
    data = publish(tmp_path / "gtsrb", contents, names=[FIRST_STAGE, *NAMES[1:]])
    assert_signs_equal(gtsrb.read(data, 4, keep_aspect=False), 4, name=signs.FIRST_STAGE)
    with pytest.raises(DatasetError, match=f"{NAMES[0]} cannot be reached"):
        gtsrb.read(None, 4, keep_aspect=False)


def test_first_stage_archive_is_verified_and_counted(
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
        (0, TABLE, table("00000_00000.ppm", 8), "of class 8; exp"),
        (0, TABLE, table("00000.ppm", 7), "expected TRACK_FRAME"),
        (0, TABLE, table("00000_00000.ppm", "x"), "ClassId x; exp"),
        (2, "GT-final_test.csv", table("00000.ppm", 43), "ClassId 43"),
        (2, "GT-final_test.csv", b"\xff\x00", None),
        (2, "GT-final_test.csv", None, "cannot be read"),
        (1, f"{TEST}/00001.ppm", None, "cannot be read"),
    ],
)
def test_undecodable_archive_leaves_nothing_in_the_cache(
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


def test_file_that_is_not_an_archive_is_named(tmp_path, publish, contents, small):
    data = publish(tmp_path / "gtsrb", {**contents, NAMES[1]: b"no zip"})
    with pytest.raises(DatasetError, match=f"{NAMES[1]}: cannot be opened"):
        gtsrb.read(data, 4, keep_aspect=False)


def test_archive_with_too_few_images_is_rejected(data, monkeypatch):
    monkeypatch.setitem(signs.TRAIN_COUNTS, signs.FINAL, 173)
    with pytest.raises(DatasetError, match=r"\(172, 4, 4, 3\); expected uint8 \(173, 4, 4, 3\)"):
        gtsrb.read(data, 4, keep_aspect=False)


def test_missing_data_set_says_how_to_get_it(tmp_path, publish, contents):
    publish(tmp_path / "elsewhere", contents)
    for data_dir in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(DatasetError) as raised:
            gtsrb.read(data_dir, 32, keep_aspect=False)
        text = str(raised.value)
        for part in (
            "--data-dir DIR",
            "DIR/gtsrb/",
            *NAMES,
            FIRST_STAGE,
            *resized_arrays.FILES.values(),
        ):
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
            with pytest.raises(DatasetError, match="bytes; the original file has"):
                gtsrb.read(None, 4, keep_aspect=False)
            (folder / NAMES[1]).write_bytes(contents[NAMES[1]])
            assert_signs_equal(gtsrb.read(None, 4, keep_aspect=False), 4)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (9, 9)])
def test_uniform_image_stays_uniform(shape, keep_aspect):
    uniform = Image.new("RGB", shape, (10, 200, 30))
    found = archives.resize(uniform, 7, keep_aspect=keep_aspect)
    assert found.shape == (7, 7, 3)
    assert (found == (10, 200, 30)).all()


def test_image_of_the_requested_size_is_unchanged():
    for keep_aspect in (False, True):
        found = archives.resize(Image.fromarray(PIXELS[2]), 8, keep_aspect=keep_aspect)
        np.testing.assert_array_equal(found, PIXELS[2])


def test_aspect_is_kept_by_repeating_the_edge():
    pixels = PIXELS[0]  # 7 rows, 9 columns
    found = archives.resize(Image.fromarray(pixels), 9, keep_aspect=True)
    np.testing.assert_array_equal(found[1:8], pixels)
    np.testing.assert_array_equal(found[0], pixels[0])
    np.testing.assert_array_equal(found[8], pixels[-1])
    transposed = archives.resize(Image.fromarray(pixels.swapaxes(0, 1)), 9, keep_aspect=True)
    np.testing.assert_array_equal(transposed.swapaxes(0, 1), found)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = archives.resize(Image.fromarray(stripes), 16, keep_aspect=False)[:, 1:-1]
    assert abs(found.astype(int) - 127.5).max() < 10
