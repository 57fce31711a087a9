"""A folder of a user's own colour images is trained on, restored and applied to new files."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from experiments import apply
from experiments.analysis import restore
from experiments.analysis.loaded_model import load_model
from tests.experiments.conftest import read_records, read_summary
from tests.experiments.shapes import CLASSES, draw_shape, save_shapes

SMALL = "--image-size 36 48 --features 8 8 8 16 --batch-size 16 --epochs 2"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_folder_of_images_is_trained_restored_and_applied(
    run: Callable[..., int], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_shapes(tmp_path / "shapes", train=16, test=5)
    (tmp_path / "shapes" / "train" / "cross" / "broken.png").write_text("text")
    (tmp_path / "shapes" / "train" / "cross" / "notes.txt").write_text("text")
    assert run("--dataset", "folder", "--data-dir", "shapes", *SMALL.split(), "--run-dir", "r") == 0
    shown = capsys.readouterr()
    for line in (
        "folder: 58 training, 6 validation, 20 test examples",
        "folder: files of 48 x 64 pixels (height x width) are resized to 36 x 48",
        "folder: 1 file is hidden or no image, and skipped: train/cross/notes.txt",
        "images: 36 x 48 pixels, 3 channels; normalised by the mean and standard deviation of each "
        "channel; not distorted; augmented in training: rotation up to 10 degrees, scale up to "
        "1.15, shift up to 3 px; 6 of 64 training images, stratified, for validation",
    ):
        assert f"{line}\n" in shown.out
    assert "warning: shapes: 1 of 86 files cannot be read and are left out: " in shown.err
    folder = tmp_path / "r"
    assert read_summary(folder)["data"]["class_names"] == list(CLASSES)
    assert read_summary(folder)["data"]["shape"] == [36, 48, 3]
    confusions = json.loads((folder / "confusions.json").read_text())["label_by_prediction"]
    assert np.sum(confusions, axis=1).tolist() == [5, 5, 5, 5]
    assert (folder / "figures" / "frames.png").exists()
    (tmp_path / "shapes").rename(tmp_path / "elsewhere")  # the data are not needed any more
    assert restore.restore("r").experiment.dataset.class_names == CLASSES
    assert load_model("r").class_names == CLASSES
    new = tmp_path / "new"
    new.mkdir()
    for name in CLASSES:
        image = draw_shape(name, np.random.default_rng(9)).resize((192, 144))
        image.save(new / f"{name}.jpg")
    assert apply.main(["--run", "r", "--images", "new", "--out", "out"]) == 0
    assert len(read_records(tmp_path / "out" / "theta.jsonl")) == 4
    with Image.open(tmp_path / "out" / "cross.png") as straight:
        assert (straight.size, straight.mode) == ((192, 144), "RGB")


@pytest.mark.slow
def test_images_are_learned(run: Callable[..., int], tmp_path: pathlib.Path) -> None:
    """Without a folder of test images, and with images padded to squares."""
    save_shapes(tmp_path / "shapes", train=60, test=0)
    settings = "--image-size 36 --keep-aspect --features 16 32 32 32 --dropout 0 --batch-size 16"
    settings += " --epochs 30 --no-figures"
    assert run("images", "--data-dir", "shapes", *settings.split(), "--run-dir", "r") == 0
    assert read_summary(tmp_path / "r")["test_error"] < 30
