"""Panels of images with frames: layout, colours and size of the file."""

import io

import numpy as np
from PIL import Image

from experiments.paper.transformer_panel import TransformerPanel, draw_panel

ORANGE, GREEN, BACKGROUND = (255, 127, 14), (154, 205, 50), (208, 208, 208)


def panel(transformers: int = 1, scale: float = 0.5, count: int = 3) -> TransformerPanel:
    line = np.linspace(-scale, scale, 5)
    grid = np.tile(np.stack(np.meshgrid(line, line), -1), (count, 1, 1, 1))
    grids = [np.roll(grid, i, 0) * (1 - 0.3 * i) for i in range(transformers)]
    inputs = np.zeros((count, 20, 20, 1), np.float32)
    inputs[:, 8:12, 8:12] = 1
    outputs = [np.ones((count, 10, 10, 1), np.float32)] * transformers
    return TransformerPanel(inputs, grids, outputs, False)


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(-1) < 16


def draw(shown: TransformerPanel) -> np.ndarray:
    return read(draw_panel(shown, {}))


def test_framed_inputs_are_above_outputs() -> None:
    pixels = draw(panel(count=3))
    height, width, _ = pixels.shape
    assert 1.2 < width / height < 1.8  # two rows of three images
    for i in range(3):
        above = pixels[: height // 2 - 3, i * width // 3 :][:, : width // 3 - 6]
        assert close_to(above, ORANGE).any()
        assert (above[2, 10] == BACKGROUND).all()
    assert not close_to(pixels[height // 2 + 3 :], ORANGE).any()


def test_each_transformer_has_its_own_colour() -> None:
    one, two = (draw(panel(count)) for count in (1, 2))
    assert not close_to(one, GREEN).any()
    assert two.shape[0] > one.shape[0]  # another row of outputs
    below = two[-one.shape[0] // 4 :]
    assert close_to(two, ORANGE).any()
    assert close_to(below, GREEN).any()
    assert not close_to(below, ORANGE).any()


def test_frames_outside_their_image_do_not_cover_other_images() -> None:
    far = panel(scale=2.5)
    pixels = draw(far)
    assert not close_to(pixels, ORANGE).any()
    assert close_to(pixels, BACKGROUND).any()
    not_finite = far._replace(grids=[np.full((3, 5, 5, 2), np.nan)])
    assert not close_to(draw(not_finite), ORANGE).any()


def test_file_is_small_and_keeps_colours_and_texts() -> None:
    colours = np.random.default_rng(0).random((4, 28, 28, 3), np.float32)
    full = panel(count=4)._replace(inputs=colours, outputs=[colours])
    data = draw_panel(full, {"Result": "a b"})
    assert len(data) < 40_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["Result"] == "a b"
        assert image.width <= 400
    pixels = read(data)
    assert (pixels[2, 2] == BACKGROUND).all()
    assert (pixels == ORANGE).all(-1).any()
