"""Panels of images with frames: small files, and each thing at its place."""

import io

import numpy as np
from PIL import Image

from experiments.tables.panels import Panel, draw_panel

ORANGE, GREEN, GROUND = (255, 127, 14), (154, 205, 50), (208, 208, 208)


def panel(transformers: int = 1, scale: float = 0.5, count: int = 3) -> Panel:
    line = np.linspace(-scale, scale, 5)
    grid = np.tile(np.stack(np.meshgrid(line, line), -1), (count, 1, 1, 1))
    grids = [np.roll(grid, i, 0) * (1 - 0.3 * i) for i in range(transformers)]
    inputs = np.zeros((count, 20, 20, 1), np.float32)
    inputs[:, 8:12, 8:12] = 1
    outputs = [np.ones((count, 10, 10, 1), np.float32)] * transformers
    return Panel(inputs, grids, outputs, False)


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(-1) < 16


def drawn(shown: Panel) -> np.ndarray:
    return read(draw_panel(shown, {}))


def test_inputs_are_framed_and_stand_above_outputs() -> None:
    pixels = drawn(panel(count=3))
    height, width, _ = pixels.shape
    assert 1.2 < width / height < 1.8  # three beside each other, two below each other
    for i in range(3):
        above = pixels[: height // 2 - 3, i * width // 3 :][:, : width // 3 - 6]
        assert close_to(above, ORANGE).any()
        assert (above[2, 10] == GROUND).all()
    assert not close_to(pixels[height // 2 + 3 :], ORANGE).any()


def test_outputs_of_two_transformers_have_the_colours_of_their_frames() -> None:
    one, two = (drawn(panel(count)) for count in (1, 2))
    assert not close_to(one, GREEN).any()
    assert two.shape[0] > one.shape[0]  # another row of outputs
    below = two[-one.shape[0] // 4 :]
    assert close_to(two, ORANGE).any()
    assert close_to(below, GREEN).any()
    assert not close_to(below, ORANGE).any()


def test_a_frame_that_left_its_image_does_not_reach_into_others() -> None:
    far = panel(scale=2.5)
    pixels = drawn(far)
    assert not close_to(pixels, ORANGE).any()
    assert close_to(pixels, GROUND).any()
    lost = far._replace(grids=[np.full((3, 5, 5, 2), np.nan)])
    assert not close_to(drawn(lost), ORANGE).any()


def test_the_file_is_small_and_keeps_its_colours_and_texts() -> None:
    colours = np.random.default_rng(0).random((4, 28, 28, 3), np.float32)
    full = panel(count=4)._replace(inputs=colours, outputs=[colours])
    data = draw_panel(full, {"Result": "a b"})
    assert len(data) < 40_000
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["Result"] == "a b"
        assert picture.width <= 400
    pixels = read(data)
    assert (pixels[2, 2] == GROUND).all()
    assert (pixels == ORANGE).all(-1).any()
