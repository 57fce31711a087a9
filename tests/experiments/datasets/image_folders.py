"""Folders of images for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_pixels(seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> np.ndarray:
    """A random image that is smooth, so that lossy formats keep it approximately."""
    small = np.random.default_rng(seed).integers(0, 256, (2, 2, *shape[2:]), np.uint8)
    resized = Image.fromarray(small).resize(shape[1::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def save_image(path: Path, seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> Path:
    """Saves a random image, of the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_pixels(seed, shape)).save(path)
    return path


def save_folder(
    root: Path,
    train: int = 6,
    test: int | None = 2,
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    shape: tuple[int, ...] = (6, 8, 3),
) -> Path:
    """Saves a folder with so many images of each class in `train` and in `test`."""
    for split, count in (("train", train), ("test", test or 0)):
        for label, name in enumerate(classes):
            for i in range(count):
                seed = 1000 * (split == "test") + 100 * label + i
                save_image(root / split / name / f"{i}.png", seed, shape)
    return root
