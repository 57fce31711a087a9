"""A user's own images in folders: structure, files, sizes, splits and the cache."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from experiments import datasets
from experiments.datasets import Dataset, DatasetError, own_images
from experiments.datasets.image_files import (
    image_suffixes,
    pad_to_aspect,
    read_image,
    resize_to,
    to_array,
)
from experiments.settings.errors import UserError
from tests.experiments.datasets.image_folders import make_pixels, save_folder, save_image

ROOT = Path(datasets.__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six training and two test images of each of three classes."""
    return save_folder(tmp_path / "own images")


def load(root: Path, size: int | tuple[int, int] = (6, 8), **options: bool) -> Dataset:
    return datasets.load("folder", data_dir=root, image_size=size, **options)


def contents(data: Dataset) -> list[bytes]:
    splits = (data.train, data.validation, data.test)
    return [array.tobytes() for split in splits for array in (split.images, split.labels)]


def warnings_in(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


# --- Structure ------------------------------------------------------------------------------------


def test_images_keep_their_values_labels_and_class_names(root: Path) -> None:
    data = load(root)
    assert (data.name, data.class_names, data.num_classes) == ("folder", ("ant", "bee", "cat"), 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (17, 1, 6)
    assert data.test.images.dtype == np.uint8
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = [make_pixels(1000 + 100 * label + i) for label in range(3) for i in range(2)]
    np.testing.assert_array_equal(data.test.images, expected)


def remove(*parts: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root.joinpath(*parts))


def move(source: str, target: str) -> Callable[[Path], object]:
    return lambda root: (root / source).rename(root / target)


def make_folder(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).mkdir(parents=True)


def keep_files(folder: str, *names: str) -> Callable[[Path], object]:
    """Replaces the files of a folder by files that are no images."""

    def change(root: Path) -> None:
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).write_text("not an image")

    return change


def all_into_one_folder(root: Path) -> None:
    for path in list(root.glob("train/*/*")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for folder in root.glob("train/*/"):
        folder.rmdir()


def keep_few(root: Path) -> None:
    shutil.rmtree(root / "test")
    for path in root.glob("train/*/*"):
        if path.name != "0.png":
            path.unlink()


STRUCTURES = {
    "there is no folder": (remove(), "", "cannot be read (No such file or directory); expected"),
    "the folder is a file": (
        lambda root: (shutil.rmtree(root), root.write_text("")),
        "",
        "cannot be read (Not a directory); expected images in DIR/train/CLASS/*",
    ),
    "train has another name": (move("train", "training"), "", "holds no folder train (it holds te"),
    "train is missing": (
        lambda root: (remove("train")(root), remove("test")(root)),
        "",
        "holds no",
    ),
    "there are no classes": (all_into_one_folder, "train", "holds 18 files and no class folders"),
    "there is one class": (
        lambda root: [remove("train", name)(root) for name in ("bee", "cat")],
        "train",
        "holds one class folder, ant; expected at least two",
    ),
    "a class has subfolders": (make_folder("train/bee/drone"), "train/bee", "the folder drone"),
    "a class is empty": (make_folder("train/dog"), "train/dog", "holds no files; expected"),
    "a class has hidden files": (keep_files("train/bee", ".a"), "train/bee", "holds no files"),
    "a class has no images": (
        keep_files("train/bee", "a.txt", "b.png"),
        "train/bee",
        "none of its 2 files can be read as an image (a.txt: not an image); expected",
    ),
    "a test class is unreadable": (
        keep_files("test/bee", "a.png"),
        "test/bee",
        "none of its 1 files can be read as an image (a.png: its format is not known to Pillow)",
    ),
    "the test set lacks a class": (remove("test", "bee"), "test", "lacks bee; expected the class"),
    "the test set has other classes": (
        move("test/bee", "test/wasp"),
        "test",
        "lacks bee and has in addition wasp; expected the class folders of",
    ),
    "the test set has no classes": (keep_files("test"), "test", "holds 0 files and no class"),
    "a name cannot be shown": (move("train/bee", "train/b\nee"), "train", r"folder 'b\nee' has a"),
    "a test set cannot be cut": (keep_few, "train", "holds 3 images of 3 classes; expected at"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_invalid_structure_is_named_in_one_line(name: str, root: Path) -> None:
    change, place, message = STRUCTURES[name]
    change(root)
    with pytest.raises(DatasetError) as raised:
        load(root)
    text = str(raised.value)
    assert text.startswith(f"{root / place}: ")
    assert message in text
    assert "\n" not in text


def test_unknown_home_directory_is_named() -> None:
    with pytest.raises(UserError, match=r"~nobody at all/x: no home directory ~nobody at all is"):
        load(Path("~nobody at all/x"))


# --- Files ----------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


BROKEN = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("text"),
    "broken link": link_to_nothing,
    "32 bits": lambda path: Image.new("F", (3, 3)).save(path, format="TIFF"),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_named_and_left_out(
    kind: str, split: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load(root)
    path = root / split / "bee" / "1.png"
    BROKEN[kind](path)
    capsys.readouterr()
    for _ in range(2):  # the second time from the cache
        data = load(root)
        (warning,) = warnings_in(capsys)
        counted = f"{root}: 1 of 24 files cannot be read and are left out: "
        assert warning.startswith(f"{counted}{split}/bee/1.png (")
        assert len(data.train) + len(data.validation) == 18 - (split == "train")
        assert len(data.test) == len(whole.test) - (split == "test")


def test_many_broken_images_are_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        BROKEN["text"](root / "train" / "cat" / f"{i}.png")
    load(root)
    (warning,) = warnings_in(capsys)
    assert "5 of 24 files" in warning
    assert warning.endswith("train/cat/2.png (its format is not known to Pillow) and 2 more")


def test_other_files_are_skipped_and_counted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(load(root))
    for name in ("notes.txt", "train/.hidden.png", "train/stray.png", "train/bee/Thumbs.db"):
        (root / name).write_text("not an image")
    os.mkfifo(root / "train" / "cat" / "pipe.png")  # reading it would block
    (root / "train" / ".git").mkdir()
    (root / "valid").mkdir()
    for _ in range(2):
        data = load(root)
        assert contents(data) == before
        assert data.notes[1] == f"in {root}, only train and test are read, not valid"
        assert data.notes[2].startswith("4 files are hidden or no image, and skipped: ")
        assert data.notes[2].endswith(" and 1 more")
        assert warnings_in(capsys) == []


def test_file_names_in_messages_are_printable(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("line\nbreak.txt", os.fsdecode(b"\xff.txt"), "line\nbreak.png"):
        (root / "train" / "bee" / name).write_text("not an image")
    data = load(root)
    assert all(note.isprintable() for note in data.notes)
    (warning,) = warnings_in(capsys)
    assert r"line\nbreak.png" in warning


def test_unreadable_files_are_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the system may be gone in the next run, so it is not cached."""
    original = Path.open

    def failing(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "3.png":
            raise OSError(5, "Input/output error")
        return original(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", failing)
        load(root)
    assert "3 of 24 files" in warnings_in(capsys)[0]
    assert len(load(root).train) == 17
    assert warnings_in(capsys) == []


# --- Formats and sizes ----------------------------------------------------------------------------

SUFFIXES = ["png", "jpg", "JPEG", "bmp", "gif", "tif", "webp", "ppm", "tga", "sgi", "pcx"]
SUFFIXES += ["jp2"] if features.check("jpg_2000") else []
SUFFIXES += ["avif"] if features.check("avif") else []


def as_applied(path: Path, shape: tuple[int, ...], *, keep_aspect: bool = False) -> np.ndarray:
    """An image as a trained network receives it."""
    pixels = to_array(read_image(path))
    if keep_aspect:
        pixels, _ = pad_to_aspect(pixels, shape)
    return resize_to(pixels, shape)


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_are_those_that_a_trained_network_receives(
    suffix: str, keep_aspect: bool, root: Path
) -> None:
    assert f".{suffix.lower()}" in image_suffixes()
    for i, shape in enumerate([(9, 30, 3), (40, 11, 3)]):
        (root / f"test/bee/{i}.png").unlink()
        save_image(root / f"test/bee/{i}.{suffix}", i, shape)
    data = load(root, (12, 16), keep_aspect=keep_aspect)
    for i in range(2):
        path = root / f"test/bee/{i}.{suffix}"
        expected = as_applied(path, (12, 16, 3), keep_aspect=keep_aspect)
        np.testing.assert_array_equal(data.test.images[2 + i], expected)


def test_names_without_a_suffix_are_read(root: Path) -> None:
    before = contents(load(root))
    for path in root.glob("*/*/*.png"):
        path.rename(path.with_suffix(""))
    assert contents(load(root)) == before


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_of_pixels_is_read(mode: str, tmp_path: Path) -> None:
    root = save_folder(tmp_path / "own", shape=(6, 8))
    path, pixels = root / "test/bee/0.tif", make_pixels(7, (6, 8))
    (root / "test/bee/0.png").unlink()
    image = Image.fromarray(pixels)
    deep = mode == "I;16"
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if deep else image.convert(mode)
    image.save(path) if mode not in ("P", "LA") else image.save(path := path.with_suffix(".png"))
    data = load(root)
    assert data.test.images.shape == (6, 6, 8, 1)
    if mode not in ("1", "CMYK"):  # the others hold the same grey values
        np.testing.assert_allclose(data.test.images[2, ..., 0], pixels, atol=1)
    np.testing.assert_array_equal(data.test.images[2], as_applied(path, (6, 8, 1)))


def test_colour_of_a_training_image_decides_the_channels(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "own", shape=(6, 8))
    assert load(root).train.images.shape[-1] == 1
    save_image(root / "test/bee/0.png", 3, (6, 8, 3))
    grey = load(root)
    assert grey.train.images.shape[-1] == grey.test.images.shape[-1] == 1
    np.testing.assert_array_equal(
        grey.test.images[2], as_applied(root / "test/bee/0.png", (6, 8, 1))
    )
    save_image(root / "train/bee/0.png", 3, (6, 8, 3))
    colour = load(root)
    assert colour.train.images.shape[-1] == colour.test.images.shape[-1] == 3
    np.testing.assert_array_equal(colour.test.images[0], np.repeat(grey.test.images[0], 3, -1))


@pytest.mark.parametrize(
    ("size", "keep_aspect", "note"),
    [
        ((6, 8), False, "files of 6 x 8 pixels (height x width) keep their size"),
        ((3, 4), False, "files of 6 x 8 pixels (height x width) are resized to 3 x 4"),
        (5, False, "files of 6 x 8 pixels (height x width) are stretched to 5 x 5"),
        (5, True, "files of 6 x 8 pixels (height x width) are padded at their edges to the "),
    ],
)
def test_resizing_is_noted(
    size: int | tuple[int, int], keep_aspect: bool, note: str, root: Path
) -> None:
    data = load(root, size, keep_aspect=keep_aspect)
    assert data.train.images.shape[1:3] == ((size, size) if isinstance(size, int) else size)
    assert data.notes[0].startswith(note)


# --- Splits ---------------------------------------------------------------------------------------


def test_test_set_is_cut_by_class_and_the_same_in_every_run(tmp_path: Path, cache: Path) -> None:
    root = save_folder(tmp_path / "own", train=20, test=None)
    data = load(root)
    (note,) = [note for note in data.notes if "has no folder test" in note]
    assert "a stratified fifth of its training images is the test set" in note
    assert np.bincount(data.test.labels).tolist() == [4, 4, 4]
    images = [data.train.images, data.validation.images, data.test.images]
    assert len({image.tobytes() for image in np.concatenate(images)}) == 60
    shutil.rmtree(cache / "image_folders")
    assert contents(load(root)) == contents(data)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 7), min_size=2, max_size=4), with_test=st.booleans())
@example(counts=[3, *[1] * 7], with_test=False)  # a fifth would leave too few images
def test_every_class_keeps_a_training_image(
    counts: list[int], with_test: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("own")
    for label, count in enumerate(counts):
        for i in range(count):
            save_image(root / f"train/{label}/{i}.png", i)
        if with_test:
            save_image(root / f"test/{label}/0.png", 0)
    if sum(counts) < len(counts) + 1 + (not with_test):
        with pytest.raises(DatasetError, match=r"(one|at least one) is held out"):
            load(root)
        return
    data = load(root)
    assert np.unique(data.train.labels).tolist() == list(range(len(counts)))
    assert len(data.validation) > 0
    assert len(data.test) > 0
    total = sum(counts) + with_test * len(counts)
    assert len(data.train) + len(data.validation) + len(data.test) == total


# --- Cache ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_decoding() -> object:
    """Fails if images are decoded."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(own_images, "decode_folder", lambda *_, **__: pytest.fail("decoded"))
        yield


def test_unchanged_files_are_decoded_once(root: Path) -> None:
    first = load(root)
    with without_decoding():
        again = load(root)
        relative = load(Path(os.path.relpath(root)))
    assert contents(first) == contents(again) == contents(relative)
    assert first.notes == again.notes


def set_back_time(path: Path) -> None:
    """Replaces the contents, and keeps the size and the time of the last change."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(path: Path) -> None:
    other = path.with_name("2.png")
    other.rename(path.with_name("x.png"))
    path.rename(other)
    path.with_name("x.png").rename(path)


CHANGES = {
    "contents": lambda root: save_image(root / "train/bee/1.png", 99),
    "contents of the same size and time": lambda root: set_back_time(root / "train/bee/1.png"),
    "a new file": lambda root: save_image(root / "test/bee/new.png", 99),
    "a file is gone": lambda root: (root / "train/bee/1.png").unlink(),
    "two files are swapped": lambda root: swap(root / "train/bee/1.png"),
    "a class is renamed": lambda root: [
        (root / split / "bee").rename(root / split / "wasp") for split in ("train", "test")
    ],
    "the test folder is gone": lambda root: shutil.rmtree(root / "test"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_files_are_decoded_again(kind: str, root: Path, cache: Path) -> None:
    load(root)
    CHANGES[kind](root)
    changed = load(root)
    shutil.rmtree(cache / "image_folders")
    assert contents(changed) == contents(load(root))
    assert changed.class_names == load(root).class_names


def test_settings_have_caches_of_their_own(root: Path) -> None:
    options = [((6, 8), False), ((6, 8), True), (8, False), (8, True)]
    found = [contents(load(root, size, keep_aspect=keep)) for size, keep in options]
    assert found[2] != found[3]
    with without_decoding():
        assert [contents(load(root, size, keep_aspect=keep)) for size, keep in options] == found


def test_one_cache_remains_of_a_folder_that_changes(root: Path, cache: Path) -> None:
    for i in range(4):
        save_image(root / "train/bee/new.png", i)
        load(root)
    assert len(list((cache / "image_folders").iterdir())) == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), flip=st.integers(1, 255), keep=st.just(1.0) | st.floats(0, 1))
def test_damaged_cache_is_never_used(
    position: float, flip: int, keep: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever byte changes, the images are the right ones."""
    root = save_folder(tmp_path_factory.mktemp("own"), train=2, test=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
        expected = load(root)
        (path,) = Path(os.environ["TFDS_DATA_DIR"]).glob("image_folders/*")
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= flip
        path.write_bytes(data[: int(keep * len(data))])
        found = load(root)
    assert contents(found) == contents(expected)
    assert found.notes == expected.notes


def test_damaged_cache_is_written_again_with_a_warning(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(root)
    (path,) = (cache / "image_folders").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    load(root)
    (warning,) = warnings_in(capsys)
    assert warning.startswith(f"{path}: is not a readable .npz file")
    assert warning.endswith("the cache is damaged, and is written again")
    with without_decoding():
        load(root)
    assert warnings_in(capsys) == []


@pytest.mark.parametrize("place", ["file", "~nobody at all/cache"])
def test_runs_without_a_cache_only_warn(
    place: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = contents(load(root))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", place if place[0] == "~" else str(tmp_path / place))
    capsys.readouterr()
    assert contents(load(root)) == expected
    (warning,) = warnings_in(capsys)
    assert "TFDS_DATA_DIR" in warning
    assert "nothing is cached" in warning


def test_concurrent_runs_share_a_cache(root: Path) -> None:
    script = """
import pathlib, sys
from experiments import datasets
root = pathlib.Path(sys.argv[1])
for i in range(20):
    (root / "train/bee/1.png").touch()  # all decode and write again
    data = datasets.load("folder", data_dir=root, image_size=(6, 8))
    print(hash(data.train.images.tobytes() + data.test.images.tobytes()))
"""
    command = [sys.executable, "-c", script, str(root)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    results = [each.communicate() for each in runs]
    assert len({line for output, _ in results for line in output.splitlines()}) == 1
    assert all("warning" not in errors and "Error" not in errors for _, errors in results)
    assert [each.returncode for each in runs] == [0, 0]


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "a.dcm", "a.jxl"])
def test_images_of_unknown_formats_are_no_other_files(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train" / "bee" / name).write_bytes(b"....ftypheic")
    load(root)
    (warning,) = warnings_in(capsys)
    assert warning.endswith(f"left out: train/bee/{name} (its format is not known to Pillow)")
