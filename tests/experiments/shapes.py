"""A folder of colour images of drawn shapes, in four classes."""

import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "cross", "square", "triangle")
SIZE = (64, 48)  # width and height


def draw_shape(name: str, rng: np.random.Generator) -> Image.Image:
    """A bright shape, at a random place and of random size and colour, on a dark background."""
    angle, radius = rng.uniform(-45, 45), rng.uniform(8, 15)
    x, y = rng.uniform(18, 46), rng.uniform(16, 32)
    background, colour = (tuple(rng.integers(*ends, 3).tolist()) for ends in ((0, 90), (150, 256)))
    image = Image.new("RGB", SIZE, background)
    draw = ImageDraw.Draw(image)
    if name == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    elif name == "cross":
        for turned in (angle, angle + 90):
            dx, dy = (
                radius * math.cos(math.radians(turned)),
                radius * math.sin(math.radians(turned)),
            )
            draw.line((x - dx, y - dy, x + dx, y + dy), colour, round(radius / 2))
    else:
        draw.regular_polygon((x, y, radius), 4 if name == "square" else 3, angle, colour)
    return image


def save_shapes(root: pathlib.Path, train: int, test: int, seed: int = 0) -> pathlib.Path:
    """Saves so many images of each class in `train` and, if any, in `test`."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for name in CLASSES if count else ():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                draw_shape(name, rng).save(folder / f"{i}.png")
    return root
